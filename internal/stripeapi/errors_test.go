package stripeapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

func TestEachRefusalIsTheErrorOnWhichTheCallerActs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rights stripefake.Rights
		do     func(w *world) (id string)
		is     error
	}{
		"no key":                           {full, func(w *world) string { delete(w.keys, false); return w.verified().ID }, stripeapi.ErrNoKey},
		"an empty key":                     {full, func(w *world) string { w.keys[false] = ""; return w.verified().ID }, stripeapi.ErrNoKey},
		"a key that is not accepted":       {full, func(w *world) string { w.Expire(w.keys[false]); return w.verified().ID }, stripeapi.ErrUnauthorized},
		"a key that may not read sessions": {stripefake.Rights{NoSessions: true}, func(w *world) string { return w.verified().ID }, stripeapi.ErrForbidden},
		"a session that is not there":      {full, func(*world) string { return "vs_none" }, stripeapi.ErrNotFound},
		"a key of the other mode":          {full, func(w *world) string { w.keys[false] = w.keys[true]; return w.verified().ID }, stripeapi.ErrNotFound},
		"no id":                            {full, func(*world) string { return "" }, stripeapi.ErrNotFound},
		"an id that leads elsewhere":       {full, func(*world) string { return "../events" }, stripeapi.ErrNotFound},
		"an id with a query":               {full, func(*world) string { return "vs_1?expand[]=x" }, stripeapi.ErrNotFound},
		"an id that is a fingerprint":      {full, func(*world) string { return "sha256:0123" }, stripeapi.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.rights)
			id := tc.do(w)
			a, err := w.Session(t.Context(), stripeapi.Place{}, id, true, true)
			if !errors.Is(err, tc.is) || a.Session.ID != "" {
				t.Errorf("answer %+v, error %v, want %v", a, err, tc.is)
			}
			if _, ok := errors.AsType[*stripeapi.RetryError](err); ok {
				t.Errorf("%v says that it may be tried again", err)
			}
		})
	}
}

func TestAKeyThatMayNotReadSessionsCostsThreeCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{NoSessions: true})
	_, err := w.Session(t.Context(), stripeapi.Place{}, w.verified().ID, true, true)
	if !errors.Is(err, stripeapi.ErrForbidden) || len(w.Calls()) != 3 {
		t.Errorf("error %v after %d calls", err, len(w.Calls()))
	}
}

func TestAnAccountThatIsNotConnectedIsForbiddenAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	_, err := w.Session(t.Context(), stripeapi.Place{Account: "acct_stranger"}, "vs_1", true, true)
	if !errors.Is(err, stripeapi.ErrForbidden) || len(w.Calls()) != 1 {
		t.Errorf("error %v after %d calls", err, len(w.Calls()))
	}
}

func TestWhatPassesMayBeTriedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault  stripefake.Fault
		after  time.Duration
		reason string
	}{
		"500":                          {stripefake.Fault{Status: 500}, 0, "stripe answered with status 500"},
		"502 that is no JSON":          {stripefake.Fault{Status: 502, Body: "<html>", RetryAfter: "7"}, 7 * time.Second, "stripe answered with status 502, again in 7s"},
		"503 with Retry-After":         {stripefake.Fault{Status: 503, RetryAfter: "30"}, 30 * time.Second, "stripe answered with status 503, again in 30s"},
		"409":                          {stripefake.Fault{Status: 409}, 0, "stripe answered with status 409"},
		"429 without Retry-After":      {stripefake.Fault{Status: 429}, 0, "stripe answered with status 429"},
		"429 with Retry-After":         {stripefake.Fault{Status: 429, RetryAfter: "2"}, 2 * time.Second, "stripe answered with status 429, again in 2s"},
		"Retry-After as a date":        {stripefake.Fault{Status: 429, RetryAfter: "Sat, 01 Jan 2000 00:00:20 GMT"}, 20 * time.Second, "stripe answered with status 429, again in 20s"},
		"Retry-After beyond all sense": {stripefake.Fault{Status: 503, RetryAfter: "99999999999"}, time.Hour, "stripe answered with status 503, again in 1h0m0s"},
		"Retry-After in the past":      {stripefake.Fault{Status: 503, RetryAfter: "-5"}, 0, "stripe answered with status 503"},
		"a broken connection":          {stripefake.Fault{Reset: true}, 0, "no answer from stripe: the connection failed"},
		"an answer slower than 30 s":   {stripefake.Fault{Delay: 31 * time.Second}, 0, "no answer from stripe in time"},
		"200 that is another object":   {stripefake.Fault{Status: 200, Body: `{"id":"vs_2","object":"identity.verification_session"}`}, 0, "the answer is not what was asked for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, full)
				s := w.verified()
				w.Next(tc.fault)
				_, err := w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true)
				var again *stripeapi.RetryError
				if !errors.As(err, &again) {
					t.Fatalf("error %v", err)
				}
				if again.After != tc.after || again.Error() != tc.reason {
					t.Errorf("after %v: %q, want %v: %q", again.After, again, tc.after, tc.reason)
				}
				if n := len(w.Calls()); n != 1 {
					t.Errorf("%d calls: nothing may be tried again past the caller", n)
				}
				must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true))
			})
		})
	}
}

func TestAnswersThatNeverComeRightAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"a redirect, which is not followed": func(r *http.Request) (*http.Response, error) {
			return respond(r, http.StatusFound, http.Header{"Location": {"http://127.0.0.1:1/"}}, strings.NewReader("")), nil
		},
		"more than 32 MiB": func(r *http.Request) (*http.Response, error) {
			return respond(r, http.StatusOK, nil, io.LimitReader(spaces{}, 33<<20)), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			w := newWorld(t, full, over(func(r *http.Request) (*http.Response, error) { n++; return answer(r) }))
			_, err := w.Session(t.Context(), stripeapi.Place{}, "vs_1", true, true)
			var again *stripeapi.RetryError
			if err == nil || errors.As(err, &again) || n != 1 {
				t.Errorf("error %v after %d requests", err, n)
			}
		})
	}
}

func respond(r *http.Request, status int, h http.Header, body io.Reader) *http.Response {
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body), Request: r, ProtoMajor: 1, ProtoMinor: 1}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte(" "), len(p)))
	return len(p), nil
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full)
		s := w.verified()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		w.Next(stripefake.Fault{Delay: 20 * time.Second})
		began := time.Now()
		_, err := w.Session(ctx, stripeapi.Place{}, s.ID, true, true)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
	})
}

func TestWhoWaitsForAnotherToFindOutEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full)
		s := w.verified()
		w.Next(stripefake.Fault{Delay: 20 * time.Second})
		go func() { _, _ = w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Session(ctx, stripeapi.Place{}, s.ID, true, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		time.Sleep(time.Minute)
	})
}

func TestNoErrorTellsAKeyOrWhatStripeSaid(t *testing.T) {
	t.Parallel()
	faults := map[string]stripefake.Fault{"the true answer": {}}
	for name, f := range map[string]stripefake.Fault{
		"400": {Status: 400}, "401": {Status: 401}, "402": {Status: 402}, "403": {Status: 403}, "404": {Status: 404}, "418": {Status: 418}, "429": {Status: 429}, "500": {Status: 500},
	} {
		faults[name] = f
		f.Body = `{"error":{"type":"invalid_request_error","code":"KEY SECRET","param":"SECRET","message":"KEY SECRET"}}`
		faults[name+" that quotes"] = f
		f.Body = "KEY SECRET"
		faults[name+" without JSON"] = f
	}
	faults["200 that quotes"] = stripefake.Fault{Status: 200, Body: `{"id":"SECRET","status":7,"type":"KEY"}`}
	faults["200 without JSON"] = stripefake.Fault{Status: 200, Body: "KEY SECRET"}
	faults["a broken connection"] = stripefake.Fault{Reset: true}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, stripefake.Rights{NoSessions: true, NoEvents: true, NoEndpoints: true})
			key := w.keys[false]
			fault.Body = strings.ReplaceAll(fault.Body, "KEY", key)
			p, ctx := stripeapi.Place{}, t.Context()
			for what, call := range map[string]func() error{
				"Session":   func() error { _, err := w.Session(ctx, p, "vs_1", true, true); return err },
				"Event":     func() error { _, err := w.Event(ctx, p, "evt_1"); return err },
				"Events":    func() error { return w.Events(ctx, p, stripeapi.EventQuery{}, func([]byte) error { return nil }) },
				"Sessions":  func() error { return w.Sessions(ctx, p, time.Now(), func(stripeapi.Answer) error { return nil }) },
				"Endpoints": func() error { _, err := w.Endpoints(ctx, false); return err },
				"Rights":    func() error { _, err := w.Rights(ctx, p); return err },
			} {
				for range 4 {
					w.Next(fault)
				}
				err := call()
				if err == nil && what != "Rights" && fault.Status != 200 {
					t.Errorf("%s: no error", what)
				}
				for _, secret := range []string{key, key[:12], "SECRET", "stripe.com"} {
					if strings.Contains(dump(err), secret) {
						t.Errorf("%s tells %q: %v", what, secret, err)
					}
				}
			}
		})
	}
}

func TestAPrintedClientTellsNoKey(t *testing.T) {
	t.Parallel()
	var key string
	var w *world
	w = newWorld(t, full, over(func(r *http.Request) (*http.Response, error) { return w.RoundTrip(r) }))
	key = w.keys[false]
	must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, w.verified().ID, true, true))
	if strings.Contains(dump(w.Client), key) {
		t.Error("it does")
	}
}
