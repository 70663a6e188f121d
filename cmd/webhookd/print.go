package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"time"
	"unicode"
)

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// cell is a text of somebody else's for a terminal: one line, of so many
// characters, that cannot steer it.
func cell(s string, width int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > width {
			return b.String() + "…"
		}
		if !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// trimLines takes away the blanks that a table leaves at the ends of its lines.
func trimLines(table []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(table) {
		b.Write(bytes.TrimRight(line, " \n"))
		b.WriteByte('\n')
	}
	return b.Bytes()
}
