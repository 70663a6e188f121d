package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

// FuzzParseSession: whatever the API answers, ParseSession understands of it
// exactly what Parse understands of the same object in an event, PostgreSQL
// takes all of it, and an error quotes nothing.
func FuzzParseSession(f *testing.F) {
	for _, body := range seeds(f) {
		f.Add(body)
		var e struct {
			Data struct{ Object json.RawMessage }
		}
		if json.Unmarshal(body, &e) == nil && e.Data.Object != nil {
			f.Add([]byte(e.Data.Object))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		own := bytes.Clone(body) // the fuzzer's must not change
		s, err := events.ParseSession(own)
		if !bytes.Equal(own, body) {
			t.Fatal("ParseSession wrote to the body")
		}
		for i := range own {
			own[i] = '#'
		}
		again, _ := events.ParseSession(body)
		if diff := cmp.Diff(again, s); diff != "" {
			t.Fatalf("the session shares memory with the body:\n%s", diff)
		}
		texts(reflect.ValueOf(&s), func(text string) {
			if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
				t.Errorf("PostgreSQL refuses %q", text)
			}
		})
		if err != nil {
			if !errors.Is(err, events.ErrNotASession) || !reflect.ValueOf(s).IsZero() {
				t.Fatalf("got %+v, %v", s, err)
			}
			for _, word := range bytes.FieldsFunc(body, func(r rune) bool { return strings.ContainsRune(`"{}[]:,`, r) }) {
				if len(word) > 20 && strings.Contains(err.Error(), string(word)) {
					t.Errorf("the error quotes %q: %v", word, err)
				}
			}
		}
		if !json.Valid(body) || depth(body) > 50 { // an event adds to the depth
			return
		}
		e, failed := events.Parse([]byte(snapshot("verified", string(body))))
		if failed != nil {
			t.Fatalf("an event with it is none: %v", failed)
		}
		if (e.Kind == events.Snapshot) != (err == nil) {
			t.Fatalf("the API's answer: %v; in an event: kind %d, %s", err, e.Kind, e.Fault)
		}
		if err != nil {
			return
		}
		s.Livemode = e.Session.Livemode // an event's own says it
		if diff := cmp.Diff(e.Session, s); diff != "" {
			t.Errorf("an answer is understood otherwise than an event (-event +answer):\n%s", diff)
		}
	})
}

// FuzzThin: what Parse takes for a thin event says what another decoder reads
// in it, and holds no content.
func FuzzThin(f *testing.F) {
	f.Add("v1.identity.verification_session.verified", "2026-11-01T10:00:00.123Z", "vs_1", "evt_1", "acct_1", `null`)
	f.Add("v1.identity.verification_session.redacted", "2026-11-01T10:00:00+02:00", "vs_1", "", "", `{"a":[1],"url":"x"}`)
	f.Add("v1.identity.verification_session.created", "1700000000", "", "evt_\x00", "\xff", `{"data":{"object":{"id":"vs_2","status":"verified"}}}`)
	f.Add("v1.identity.verification_session.", "2026-11-01T10:00:00Z", "vs_1", "", "", `null`)
	f.Add("v1.identity.verification_session.tomorrow", "", "vs_\xed\xa0\x80", "[redacted]", "a", `[1e400000]`)
	f.Fuzz(func(t *testing.T, eventType, created, session, snapshotEvent, about, changes string) {
		fields := map[string]any{
			"id": "evt_thin", "object": "v2.core.event", "type": eventType, "created": created, "context": about,
			"related_object": map[string]string{"id": session, "type": "identity.verification_session", "url": "/v1/x"},
			"snapshot_event": snapshotEvent,
		}
		if json.Valid([]byte(changes)) {
			fields["changes"] = json.RawMessage(changes)
		}
		body, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		e, err := events.Parse(body)
		if err != nil {
			t.Fatalf("an object with id and type is no event: %v", err)
		}
		known := strings.HasPrefix(eventType, "v1.identity.verification_session.")
		if e.Kind == events.Thin != (known && e.Fault == "") {
			t.Errorf("%q is of kind %d, fault %q", eventType, e.Kind, e.Fault)
		}
		checkEvent(t, e)
		if e.Kind != events.Thin {
			return
		}
		at, err := time.Parse(time.RFC3339Nano, created)
		if err != nil || !e.Created.Equal(at.Truncate(time.Microsecond)) && !e.Created.Equal(at) {
			t.Errorf("created %q is understood as %v: %v", created, e.Created, err)
		}
		for name, pair := range map[string][2]string{
			"session": {session, e.SessionID}, "snapshot_event": {snapshotEvent, e.SnapshotEvent.Value}, "context": {about, e.Context.Value},
		} {
			var said string // as JSON carries it
			if b, err := json.Marshal(pair[0]); err != nil || json.Unmarshal(b, &said) != nil {
				t.Fatal(err)
			}
			said = strings.ReplaceAll(said, "\x00", "\ufffd")
			if len(said) <= events.MaxID && pair[1] != said && said != "[redacted]" {
				t.Errorf("%s: %q is understood as %q", name, pair[0], pair[1])
			}
		}
	})
}
