// Package migrations keeps the schema's history: one forward step in each
// file, applied in the order of its number and never changed afterwards.
package migrations

import (
	"embed"
	"strconv"
	"strings"
)

// Files holds every step, NNNN_verb_noun.sql.
//
//go:embed *.sql
var Files embed.FS

// Version is the number of the newest step: the schema that this build needs.
func Version() int64 {
	entries, _ := Files.ReadDir(".") // embedded: it is there
	var newest int64
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			newest = max(newest, n)
		}
	}
	return newest
}
