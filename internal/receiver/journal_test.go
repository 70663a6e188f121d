package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"webhookd/internal/events"
	"webhookd/internal/receiver"
)

func TestOneLinePerDelivery(t *testing.T) {
	t.Parallel()
	failed, foreign := fixture(t, "requires_input", `"id": null`, `"id": "req_1"`), fixture(t, "foreign")
	all := []string{"duration", "error_code", "event_id", "outcome", "request_id", "session_id", "status", "type"}
	for name, c := range map[string]struct {
		store  receiver.Store
		body   []byte
		secret string
		level  zapcore.Level
		fields []string
	}{
		"applied":     {answers(events.Applied), failed, liveSecret, zapcore.DebugLevel, all},
		"duplicate":   {answers(events.Duplicate), failed, liveSecret, zapcore.DebugLevel, all},
		"ignored":     {nopStore, foreign, liveSecret, zapcore.DebugLevel, []string{"duration", "event_id", "outcome", "type"}},
		"stale":       {answers(events.Stale), failed, liveSecret, zapcore.InfoLevel, all},
		"twin":        {answers(events.Twin), failed, liveSecret, zapcore.InfoLevel, all},
		"queued":      {answers(events.Queued), fixture(t, "thin"), liveSecret, zapcore.InfoLevel, []string{"duration", "event_id", "outcome", "session_id", "type"}},
		"quarantined": {answers(events.Quarantined), fixture(t, "verified", ".verified", ".expired"), liveSecret, zapcore.WarnLevel, []string{"duration", "event_id", "fault", "outcome", "session_id", "type"}},
		"refused":     {nopStore, failed, "whsec_other", zapcore.WarnLevel, []string{"duration", "outcome", "reason"}},
		"unavailable": {fails(errors.New("record event: SQLSTATE 57P01")), failed, liveSecret, zapcore.WarnLevel, append([]string{"error", "reason"}, all...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := newService(t, c.store)
			svc.post(t, c.body, signedBy(c.body, c.secret))
			lines := svc.logs.All()
			if len(lines) != 1 || lines[0].Level != c.level || lines[0].ContextMap()["outcome"] != name {
				t.Fatalf("lines %+v, want one at %v", lines, c.level)
			}
			got := slices.Sorted(maps.Keys(lines[0].ContextMap()))
			slices.Sort(c.fields)
			if diff := cmp.Diff(c.fields, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLogsContainNothingThatIsNotTheirs(t *testing.T) {
	t.Parallel()
	const private = "PRIVATE"
	body := fixture(t, "requires_input",
		`"client_secret": null`, `"client_secret": "`+private+`"`, `"url": null`, `"url": "`+private+`"`,
		"The selfie did not match the document.", private, `"acme"`, `"`+private+`"`, "user-7f3a", private)
	panics := store(func(_ context.Context, e *events.Event) (events.Outcome, error) { panic(string(e.Payload)) })

	for name, s := range map[string]receiver.Store{
		"applied": nopStore, "quarantined": answers(events.Quarantined), "unavailable": fails(events.ErrLocked), "panic": panics,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := newService(t, s)
			header := signed(body)
			header.Set("Authorization", private)
			svc.post(t, body, header)
			svc.post(t, slices.Concat(body, []byte(" ")), header)                 // no match
			svc.post(t, []byte(private), signed([]byte(private)))                 // not an event
			svc.post(t, body, http.Header{"Stripe-Signature": {"v1=" + private}}) // malformed
			lines := svc.logs.All()
			if len(lines) < 4 {
				t.Errorf("%d lines, want one for each delivery", len(lines))
			}
			for _, line := range lines {
				text := fmt.Sprint(line.Entry, line.ContextMap())
				for _, bad := range []string{private, liveSecret, testSecret, header.Get("Stripe-Signature")} {
					if strings.Contains(text, bad) {
						t.Errorf("%s contains %s", text, bad)
					}
				}
			}
		})
	}
}

func TestValuesFromOutsideAreBoundedInLogs(t *testing.T) {
	t.Parallel()
	svc := newService(t, fails(errors.New("a\nb\x1b[31m"+strings.Repeat("é", 5000))))
	body := fixture(t, "requires_input",
		"selfie_face_mismatch", `\u001b[2J\n`+strings.Repeat("é", 500), "evt_", `evt_\u202e\r`)
	svc.post(t, body, signed(body))
	fields := svc.logs.All()[0].ContextMap()
	for key, most := range map[string]int{"error_code": 265, "event_id": 265, "error": 1100} {
		v, ok := fields[key].(string)
		if !ok || len(v) > most || strings.ContainsAny(v, "\x1b\n\r\u202e") {
			t.Errorf("%s is %q", key, v)
		}
	}
}

func TestLinesOfOneReasonAreLimitedAndNothingIsLostSilently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		svc := newService(t, nopStore)
		body := fixture(t, "verified")
		count := func() (lines int, leftOut int64) {
			for _, l := range svc.logs.All() {
				if n, ok := l.ContextMap()["left_out"]; ok {
					leftOut += n.(int64)
				} else if l.ContextMap()["reason"] == "no_match" {
					lines++
				}
			}
			return lines, leftOut
		}
		expect := func(what string, lines int, leftOut int64) {
			t.Helper()
			if l, n := count(); l != lines || n != leftOut {
				t.Errorf("%s: %d lines, %d left out; want %d and %d", what, l, n, lines, leftOut)
			}
		}
		burst := func(n int) {
			for range n {
				svc.post(t, body, signedBy(body, "whsec_other"))
			}
		}

		burst(5)
		time.Sleep(900 * time.Millisecond)
		burst(100)
		expect("within a second", 10, 0)
		svc.post(t, body, signedBy([]byte("x"), ""))
		svc.post(t, body, nil)
		if n := svc.logs.FilterField(zap.String("reason", "missing_header")).Len(); n != 1 {
			t.Errorf("%d lines of another reason, want 1", n)
		}

		time.Sleep(200 * time.Millisecond) // the first five are older than a second now
		burst(10)
		expect("a sliding second", 15, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		expect("a second later", 15, 101)

		burst(11)
		svc.Close()
		expect("closed", 25, 102)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect("long after", 25, 102)
	})
}

func TestQuarantineIsLimitedToo(t *testing.T) {
	t.Parallel()
	svc := newService(t, answers(events.Quarantined))
	body := fixture(t, "verified")
	for range 50 {
		svc.post(t, body, signed(body))
	}
	if n := svc.logs.FilterMessage("delivery").Len(); n != 10 {
		t.Errorf("%d lines, want 10", n)
	}
}
