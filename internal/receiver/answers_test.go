package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/receiver"
	"webhookd/internal/signature"
)

// request is a delivery, by default a signed POST of testdata/verified.json.
type request struct {
	method, path string
	body         []byte
	chunked      bool
	header       func(body []byte) http.Header
}

func headers(secret string, at time.Time) func([]byte) http.Header {
	return func(body []byte) http.Header {
		return http.Header{"Stripe-Signature": {signature.Sign(body, secret, at)}}
	}
}

func with(name, value string) func([]byte) http.Header {
	return func(body []byte) http.Header {
		h := signed(body)
		h.Set(name, value)
		return h
	}
}

// The table of answers of the contract, row by row.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const verified, thin = events.TypeVerified, "v1.identity.verification_session.verified"
	only := func(m events.Mode) func(*receiver.Options) {
		return func(o *receiver.Options) { o.Livemode = m }
	}
	foreign := fixture(t, "foreign")
	liveBody := fixture(t, "verified", `"livemode": false`, `"livemode": true`)
	large := make([]byte, maxBody+1)

	for name, c := range map[string]struct {
		request request
		store   receiver.Store // nil: must not be called
		options func(*receiver.Options)

		status    int
		outcome   events.Outcome
		eventType string
		code      string
		retry     string
		closes    bool
	}{
		"new event, session advanced":                 {store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified},
		"new event, session already newer":            {store: answers(events.Stale), status: 200, outcome: events.Stale, eventType: verified},
		"another event id for a change":               {store: answers(events.Twin), status: 200, outcome: events.Twin, eventType: verified},
		"event id seen before":                        {store: answers(events.Duplicate), status: 200, outcome: events.Duplicate, eventType: verified},
		"one of the six types that is not understood": {store: answers(events.Quarantined), status: 200, outcome: events.Quarantined, eventType: verified},
		"a thin twin":                                 {request: request{body: fixture(t, "thin")}, store: answers(events.Queued), status: 200, outcome: events.Queued, eventType: thin},
		"another type of the same name": {
			request: request{body: fixture(t, "verified", ".verified", ".expired")}, store: answers(events.Quarantined),
			status: 200, outcome: events.Quarantined, eventType: "other",
		},
		"signed, but none of these":      {request: request{body: foreign}, status: 200, outcome: events.Ignored, eventType: "other"},
		"a test event where live wanted": {options: only(events.ModeLive), status: 200, outcome: events.Ignored, eventType: verified},
		"a live event where test wanted": {request: request{body: liveBody}, options: only(events.ModeTest), status: 200, outcome: events.Ignored, eventType: verified},
		"a live event where live wanted": {request: request{body: liveBody}, options: only(events.ModeLive), store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified},
		"an event that does not tell its mode, where live wanted": {
			request: request{body: fixture(t, "verified", `"livemode": false`, `"livemode": null`)},
			options: only(events.ModeLive), store: answers(events.Quarantined),
			status: 200, outcome: events.Quarantined, eventType: verified,
		},
		"a test event under a test secret": {request: request{header: headers(testSecret, now)}, store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified},

		"signature missing":         {request: request{header: func([]byte) http.Header { return nil }}, status: 400, outcome: "refused", eventType: "unknown", code: "missing_header"},
		"signature blank":           {request: request{header: with("Stripe-Signature", "")}, status: 400, outcome: "refused", eventType: "unknown", code: "missing_header"},
		"signature malformed":       {request: request{header: with("Stripe-Signature", "t=1,,")}, status: 400, outcome: "refused", eventType: "unknown", code: "malformed_header"},
		"signature without v1":      {request: request{header: with("Stripe-Signature", "t=1,v0=00")}, status: 400, outcome: "refused", eventType: "unknown", code: "no_v1_signature"},
		"signature too old":         {request: request{header: headers(liveSecret, now.Add(-time.Hour))}, status: 400, outcome: "refused", eventType: "unknown", code: "too_old"},
		"signature too new":         {request: request{header: headers(liveSecret, now.Add(time.Hour))}, status: 400, outcome: "refused", eventType: "unknown", code: "too_new"},
		"signature without a match": {request: request{header: headers("whsec_other", now)}, status: 400, outcome: "refused", eventType: "unknown", code: "no_match"},
		"a live event under a test secret": {
			request: request{body: liveBody, header: headers(testSecret, now)},
			status:  400, outcome: "refused", eventType: "unknown", code: "wrong_mode",
		},
		"a foreign live event under a test secret": {
			request: request{body: []byte(`{"id":"evt_1","type":"a.b","livemode":true}`), header: headers(testSecret, now)},
			status:  400, outcome: "refused", eventType: "unknown", code: "wrong_mode",
		},
		"signed, but no JSON object with the strings id and type": {
			request: request{body: []byte(`{"id":"evt_1"}`)},
			status:  400, outcome: "refused", eventType: "unknown", code: "not_an_event",
		},
		"signed, but empty": {
			request: request{body: []byte{}, header: headers(liveSecret, now)},
			status:  400, outcome: "refused", eventType: "unknown", code: "not_an_event",
		},

		"body over the limit":         {request: request{body: large}, status: 413, outcome: "refused", eventType: "unknown", code: "body_too_large", closes: true},
		"chunked body over the limit": {request: request{body: large, chunked: true}, status: 413, outcome: "refused", eventType: "unknown", code: "body_too_large", closes: true},
		"signed body at the limit":    {request: request{body: large[1:]}, status: 400, outcome: "refused", eventType: "unknown", code: "not_an_event"},
		"chunked body":                {request: request{chunked: true}, store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified, closes: true},
		"Content-Encoding":            {request: request{header: with("Content-Encoding", "gzip")}, status: 415, outcome: "refused", eventType: "unknown", code: "content_encoding", closes: true},
		"Content-Encoding identity":   {request: request{header: with("Content-Encoding", "Identity")}, store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified},
		"Stripe-Signature over 8 KiB": {request: request{header: with("Stripe-Signature", strings.Repeat("x", 8<<10+1))}, status: 431, outcome: "refused", eventType: "unknown", code: "header_too_large", closes: true},
		"Stripe-Signature of 8 KiB":   {request: request{header: with("Stripe-Signature", strings.Repeat("x", 8<<10))}, status: 400, outcome: "refused", eventType: "unknown", code: "malformed_header"},
		"Stripe-Signature lines over 8 KiB": {
			request: request{header: func([]byte) http.Header {
				return http.Header{"Stripe-Signature": {strings.Repeat("x", 4<<10), strings.Repeat("x", 4<<10)}}
			}},
			status: 431, outcome: "refused", eventType: "unknown", code: "header_too_large", closes: true,
		},
		"headers over 16 KiB":  {request: request{header: with("X-Padding", strings.Repeat("x", 16<<10))}, status: 431, outcome: "refused", eventType: "unknown", code: "header_too_large", closes: true},
		"headers under 16 KiB": {request: request{header: with("X-Padding", strings.Repeat("x", 15<<10))}, store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified},
		"a signature in two lines": {
			request: request{header: func(body []byte) http.Header {
				at, v1, _ := strings.Cut(signature.Sign(body, liveSecret, now), ",")
				return http.Header{"Stripe-Signature": {at, v1}}
			}},
			store: answers(events.Applied), status: 200, outcome: events.Applied, eventType: verified,
		},

		"other method":            {request: request{method: http.MethodGet}, status: 405, code: "method_not_allowed"},
		"other path":              {request: request{path: "/"}, status: 404, code: "not_found"},
		"path with a slash added": {request: request{path: path + "/"}, status: 404, code: "not_found"},

		"database away":   {store: fails(errors.New("connect: refused")), status: 503, outcome: "unavailable", eventType: verified, code: "database", retry: "15"},
		"queue full":      {store: fails(fmt.Errorf("record: %w", events.ErrQueueFull)), status: 503, outcome: "unavailable", eventType: verified, code: "queue_full", retry: "1"},
		"deadline passed": {store: fails(fmt.Errorf("record: %w", context.DeadlineExceeded)), status: 503, outcome: "unavailable", eventType: verified, code: "deadline", retry: "10"},
		"session locked":  {store: fails(fmt.Errorf("record: %w", events.ErrLocked)), status: 503, outcome: "unavailable", eventType: verified, code: "locked", retry: "5"},
		"past the drain":  {store: fails(fmt.Errorf("record: %w", events.ErrDraining)), status: 503, outcome: "unavailable", eventType: verified, code: "draining", retry: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := c.store
			if s == nil {
				s = store(func(context.Context, *events.Event) (events.Outcome, error) {
					t.Error("the store was called")
					return events.Applied, nil
				})
			}
			var options []func(*receiver.Options)
			if c.options != nil {
				options = append(options, c.options)
			}
			svc := newService(t, s, options...)

			got := c.request.send(t, svc.listen(t))
			if got.Status != c.status || got.Code != c.code || got.Retry != c.retry || got.Closes != c.closes {
				t.Errorf("got %+v, want %d %q, Retry-After %q, closes %v", got, c.status, c.code, c.retry, c.closes)
			}
			if c.status == 200 {
				want := fmt.Sprintf(`{"outcome":%q,"event":%q}`, c.outcome, c.request.id(t))
				if diff := cmp.Diff([]string{"application/json", want}, []string{got.Type, got.Body}); diff != "" {
					t.Error(diff)
				}
			} else if got.Type != "application/problem+json" || got.Title != http.StatusText(c.status) || got.Detail == "" || got.StatusInProblem != c.status {
				t.Errorf("not a whole problem: %+v", got)
			}
			if allow := map[int]string{405: "POST"}[c.status]; got.Allow != allow {
				t.Errorf("Allow is %q, want %q", got.Allow, allow)
			}

			counted := svc.counted(t)
			want := map[string]float64{}
			if c.outcome != "" {
				want[fmt.Sprintf("webhookd_deliveries_total{event_type=%q,outcome=%q}", c.eventType, c.outcome)] = 1
				want[fmt.Sprintf("webhookd_delivery_duration_seconds_count{outcome=%q}", c.outcome)] = 1
			}
			switch {
			case c.status == 503:
				want[fmt.Sprintf("webhookd_unavailable_total{reason=%q}", c.code)] = 1
			case c.status == 400 && c.code != "not_an_event":
				want[fmt.Sprintf("webhookd_signature_failures_total{reason=%q}", c.code)] = 1
			}
			for series := range counted {
				if !strings.HasPrefix(series, "webhookd_deliver") && !strings.HasPrefix(series, "webhookd_signature_failures") &&
					!strings.HasPrefix(series, "webhookd_unavailable") {
					delete(counted, series)
				}
			}
			if diff := cmp.Diff(want, counted); diff != "" {
				t.Errorf("metrics (-want +got):\n%s", diff)
			}
			lines := svc.logs.FilterMessage("delivery").All()
			if len(lines) != map[bool]int{true: 1}[c.outcome != ""] {
				t.Errorf("log lines: %v", lines)
			}
		})
	}
}

func (q request) bytes(tb testing.TB) []byte {
	tb.Helper()
	if q.body != nil {
		return q.body
	}
	return fixture(tb, "verified")
}

func (q request) id(tb testing.TB) string {
	tb.Helper()
	e, err := events.Parse(q.bytes(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return e.ID
}

func (q request) send(tb testing.TB, addr string) answer {
	tb.Helper()
	body := q.bytes(tb)
	header := signed
	if q.header != nil {
		header = q.header
	}
	var r io.Reader = strings.NewReader(string(body))
	if q.chunked {
		r = struct{ io.Reader }{r}
	}
	if q.method == "" {
		q.method = http.MethodPost
	}
	if q.path == "" {
		q.path = path
	}
	return send(tb, addr, q.method, q.path, r, header(body))
}

func TestAnswersNeverContainInternals(t *testing.T) {
	t.Parallel()
	secrets := []string{"postgres://u:hunter2@10.1.2.3/db", "INSERT INTO", "whsec_live", "Jenny"}
	for name, s := range map[string]receiver.Store{
		"an error": fails(errors.New(strings.Join(secrets, " "))),
		"a panic": store(func(context.Context, *events.Event) (events.Outcome, error) {
			panic(strings.Join(secrets, " "))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := newService(t, s).send(t)
			if got.Status != 503 || got.Code != "database" {
				t.Errorf("got %+v, want 503 database", got)
			}
			for _, secret := range secrets {
				if strings.Contains(got.Body, secret) {
					t.Errorf("%s contains %s", got.Body, secret)
				}
			}
		})
	}
}

// send delivers testdata/verified.json.
func (s *service) send(tb testing.TB) answer {
	tb.Helper()
	return request{}.send(tb, s.listen(tb))
}

func TestEventIDIsEscapedInTheAnswer(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]string{
		`evt_\"\\\u0001<é`:                "evt_\"\\\x01<é",
		`evt_\ud800\u0000`:                "evt_\uFFFD\uFFFD",
		"evt_" + strings.Repeat("x", 300): "sha256:",
	} {
		got := newService(t, nopStore).deliverID(t, sent)
		if got.Status != 200 || !strings.HasPrefix(got.Event, want) {
			t.Errorf("%s: got %d %q, want %q", sent, got.Status, got.Event, want)
		}
	}
}

var nopStore = answers(events.Applied)

func (s *service) deliverID(tb testing.TB, id string) answer {
	tb.Helper()
	return deliver(tb, s.listen(tb), fixture(tb, "foreign", `"evt_1CRAFTED0000000000000049"`, `"`+id+`"`))
}

func TestEventCarriesHowItReachedUs(t *testing.T) {
	t.Parallel()
	var got events.Event
	svc := newService(t, store(func(_ context.Context, e *events.Event) (events.Outcome, error) {
		got = *e
		return events.Applied, nil
	}))
	svc.send(t)
	if got.Source != events.SourceWebhook || got.SecretName != "live" || !got.ReceivedAt.Equal(now) {
		t.Errorf("source %q, secret %q, received %v", got.Source, got.SecretName, got.ReceivedAt)
	}
}

func TestOptionsFaultsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := receiver.New(receiver.Options{Path: "x"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"store", "path", "body limit", "delivery timeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name the %s", err, want)
		}
	}
}
