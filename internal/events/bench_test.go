package events_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"webhookd/internal/events"
)

// BenchmarkParse decodes the usual event, one of 2.7 KB, and one with a report
// that Stripe never expands by webhook.
func BenchmarkParse(b *testing.B) {
	usual := fixture(b, "crafted/verified.unexpanded")
	var metadata strings.Builder
	for i := range 20 {
		fmt.Fprintf(&metadata, `"key_%02d": "what a shop keeps there, in some eighty characters: 0123456789 abcdef",`, i)
	}
	large := bytes.Replace(usual, []byte(`"tenant"`), []byte(metadata.String()+`"tenant"`), 1)
	for name, body := range map[string][]byte{
		"usual":    usual,
		"large":    large,
		"expanded": fixture(b, "crafted/verified.expanded_report"),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := events.Parse(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
