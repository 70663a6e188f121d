package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

// FuzzParse: whatever is signed, Parse answers an event that PostgreSQL takes
// and that holds nothing it must not, or ErrNotAnEvent exactly for what another
// decoder finds to be no object with the strings id and type.
func FuzzParse(f *testing.F) {
	for _, body := range seeds(f) {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		own := bytes.Clone(body) // the fuzzer's must not change
		e, err := events.Parse(own)
		if !bytes.Equal(own, body) {
			t.Fatal("Parse wrote to the body")
		}
		if err != nil {
			if !errors.Is(err, events.ErrNotAnEvent) || e != nil {
				t.Fatalf("got %+v, %v", e, err)
			}
			if isEvent(body) {
				t.Fatal("an event was refused")
			}
			return
		}
		if !isEvent(body) && depth(body) <= 10_000 {
			t.Fatal("what is no event was understood")
		}
		for i := range own {
			own[i] = '#'
		}
		again, err := events.Parse(body)
		if diff := cmp.Diff(again, e); err != nil || diff != "" {
			t.Fatalf("the event shares memory with the body: %v\n%s", err, diff)
		}
		checkEvent(t, e)
	})
}

func checkEvent(t *testing.T, e *events.Event) {
	texts(reflect.ValueOf(e), func(s string) {
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			t.Errorf("PostgreSQL refuses %q", s)
		}
	})
	if (e.Kind == events.Broken) != (e.Fault != "") || e.Hides && e.Kind != events.Broken {
		t.Errorf("kind %d, fault %q, hides %t", e.Kind, e.Fault, e.Hides)
	}
	if e.Kind == events.Foreign {
		if e.Payload != nil || e.SessionID != "" {
			t.Errorf("a foreign event keeps %s %s", e.SessionID, e.Payload)
		}
		return
	}
	checkPayload(t, e.Payload)
	if e.Kind != events.Snapshot {
		if !reflect.ValueOf(e.Session).IsZero() {
			t.Errorf("a session in an event of kind %d: %+v", e.Kind, e.Session)
		}
	}
	for _, id := range []string{e.ID, e.SessionID, e.Account.Value, e.Context.Value, e.RequestID.Value, e.SnapshotEvent.Value} {
		if len(id) > events.MaxID {
			t.Errorf("id of %d bytes", len(id))
		}
	}
	if e.Kind == events.Broken {
		return
	}
	if e.ID == "" || e.SessionID == "" || e.Created.IsZero() && e.Created.Unix() != -62135596800 {
		t.Errorf("no id, session or time: %+v", e)
	}
	again, err := events.Parse(e.Payload)
	if err != nil {
		t.Fatalf("parse the payload: %v", err)
	}
	// A payload lacks what a report, outputs, details, metadata and options held.
	for _, x := range []*events.Event{e, again} {
		x.Payload, x.Session.Outputs, x.Session.Details, x.Session.Metadata, x.Session.Options = nil, nil, nil, nil, nil
		x.Session.MetadataApart = false
		if !x.Session.ReportID.Has() {
			x.Session.ReportID = absent
		}
	}
	if diff := cmp.Diff(e, again); diff != "" {
		t.Errorf("the payload tells another event (-body +payload):\n%s", diff)
	}
}

// isEvent asks encoding/json, which goes 10,000 deep, what a body is.
func isEvent(body []byte) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return false
	}
	for _, name := range []string{"id", "type"} {
		var s *string
		if raw, ok := members[name]; !ok || json.Unmarshal(raw, &s) != nil || s == nil {
			return false
		}
	}
	return true
}

// depth is an upper bound of how deep a body nests.
func depth(body []byte) int { return bytes.Count(body, []byte("{")) + bytes.Count(body, []byte("[")) }

// seeds are all fixtures, those that are sessions in an envelope, and the
// spellings that the tests in this package are about.
func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	var all [][]byte
	err := filepath.WalkDir("testdata/fixtures", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all = append(all, b)
		if strings.Contains(path, "session") {
			all = append(all, []byte(snapshot("verified", string(b))))
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	for _, body := range []string{
		"", "{}", `{"id":"evt_1","type":"x"}`, deep(64), deep(65),
		snapshot("verified", `{"id":"vs_\u0000\ud800","status":"a","status":"b","n":1e400000,"client\u005fsecret":"vs_1_secret_x"}`),
		snapshot("verified", "{\"id\":\"vs_\xff\",\"x\xff\":[{\"object\":\"identity.verification_report\"}]}"),
		snapshot("redacted", `{"id":"vs_1","verified_outputs":{"x":1,"x":null,"dob":{"day":1,"month":1,"year":1},"address":{},"address":"[redacted]"}}`),
		snapshot("verified", `{"id":"vs_1","last_verification_report":{"id":"[redacted]"},"metadata":{"dob":1},"options":{"url":{}}}`),
		snapshot("paused", `[{"redaction":"x","y":"vs_1"}]`),
		envelope(`"type":"v1.identity.verification_session.redacted","created":"2026-01-01T00:00:00.123Z","related_object":{"id":"vs_1","url":"x"}`),
		envelope(`"request":"req_1","type":"identity.verification_session.canceled","data":{"object":{"id":"vs_1"}}`),
	} {
		all = append(all, []byte(body))
	}
	return all
}
