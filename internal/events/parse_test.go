package events_test

import (
	"os"
	"path/filepath"
	"testing"

	"webhookd/internal/events"
)

func TestFixturesParse(t *testing.T) {
	files, _ := filepath.Glob("testdata/fixtures/crafted/*.json")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		e, err := events.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		t.Logf("%s kind=%d fault=%q %+v", filepath.Base(f), e.Kind, e.Fault, e.Session.State())
	}
	b, _ := os.ReadFile("testdata/fixtures/crafted/verified.expanded_report.json")
	e, _ := events.Parse(b)
	t.Logf("%s", e.Payload)
	b, _ = os.ReadFile("testdata/fixtures/crafted/verified.expanded.json")
	e, _ = events.Parse(b)
	t.Logf("%s %+v %s %s", e.Payload, e.Session.Outputs, e.Session.Options, e.Session.Metadata)
	var deep = []byte(`{"id":"evt_1","type":"identity.verification_session.verified","created":1,"data":{"object":{"id":"vs_x","x":` + string(make([]byte, 0)))
	for range 20000 {
		deep = append(deep, '[')
	}
	for range 20000 {
		deep = append(deep, ']')
	}
	deep = append(deep, "}}}"...)
	e, err := events.Parse(deep)
	t.Logf("%+v %v", e, err)
}

func BenchmarkParse(b *testing.B) {
	body, err := os.ReadFile("testdata/fixtures/crafted/verified.unexpanded.json")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
