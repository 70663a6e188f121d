package stripeapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// addEvents adds n events, some seconds apart as spread says, and answers
// their ids, oldest first.
func addEvents(w *world, n int, spread func(i int) int) []string {
	start, after := time.Now().Add(-24*time.Hour).Unix(), 0
	ids := make([]string, n)
	for i := range n {
		after += spread(i)
		ids[i] = fmt.Sprintf("evt_%06d", i)
		w.AddEvent(fmt.Appendf(nil, `{"id":%q,"object":"event","type":"identity.verification_session.verified","created":%d,"livemode":false,"data":{"object":{"id":"vs_1"}}}`,
			ids[i], start+int64(after)))
	}
	return ids
}

func listEvents(t *testing.T, w *world, q stripeapi.EventQuery) []string {
	t.Helper()
	var got []string
	err := w.Events(t.Context(), stripeapi.Place{}, q, func(raw []byte) error {
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		got = append(got, e.ID)
		return nil
	})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return got
}

func TestEventsAreListedOldestFirstEachOnce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	for name, tc := range map[string]struct {
		n      int
		spread func(i int) int
		most   int // calls
	}{
		"none":                         {0, nil, 1},
		"one":                          {1, func(int) int { return 1 }, 1},
		"a page":                       {100, func(int) int { return 1 }, 1},
		"a page and one":               {101, func(int) int { return 1 }, 20},
		"many":                         {1050, func(int) int { return rng.IntN(80) }, 30},
		"all in one second":            {350, func(int) int { return 0 }, 30},
		"a second that holds many":     {600, func(i int) int { return min(max(i-20, 0)*max(520-i, 0), 1) ^ 1 }, 40},
		"few, then many in one second": {400, func(i int) int { return max(50-i, 0) }, 30},
		"a burst after a long silence": {260, func(i int) int { return map[int]int{1: 80000}[i] }, 35},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, full)
				want := addEvents(w, tc.n, tc.spread)
				got := listEvents(t, w, stripeapi.EventQuery{Since: time.Now().Add(-25 * time.Hour)})
				if diff := cmp.Diff(want, append([]string{}, got...)); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if n := len(w.Calls()); n > tc.most {
					t.Errorf("%d calls, want at most %d", n, tc.most)
				}
			})
		})
	}
}

func TestEventsAreThoseOfTheQuery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.verified()
	w.Tell(s, s.Canceled(time.Now()))
	types := []string{events.TypeCreated, events.TypeCanceled}
	var got []string
	err := w.Events(t.Context(), stripeapi.Place{}, stripeapi.EventQuery{Since: time.Time{}, Types: types}, func(raw []byte) error {
		e, err := events.Parse(raw)
		got = append(got, e.Type)
		return err
	})
	if diff := cmp.Diff(types, got); err != nil || diff != "" {
		t.Errorf("error %v, types (-want +got):\n%s", err, diff)
	}
	if got := listEvents(t, w, stripeapi.EventQuery{Since: time.Now().Add(-2 * time.Minute)}); len(got) != 3 {
		t.Errorf("since two minutes: %v", got)
	}
}

func TestEventsThatAreMadeMeanwhileAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	want := append(addEvents(w, 250, func(int) int { return 60 }), "evt_late")
	late := fmt.Appendf(nil, `{"id":"evt_late","type":"x","created":%d,"data":{"object":{"id":"vs_1"}}}`, time.Now().Unix())
	told := 0
	var got []string
	err := w.Events(t.Context(), stripeapi.Place{}, stripeapi.EventQuery{}, func(raw []byte) error {
		if told++; told == 120 {
			w.AddEvent(late)
		}
		var e struct{ ID string }
		err := json.Unmarshal(raw, &e)
		got = append(got, e.ID)
		return err
	})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v, events (-want +got):\n%s", err, diff)
	}
}

func TestAListThatBreaksTellsWhatCameBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	addEvents(w, 250, func(int) int { return 60 })
	told := 0
	err := w.Events(t.Context(), stripeapi.Place{}, stripeapi.EventQuery{}, func([]byte) error {
		if told++; told == 1 {
			w.Next(stripefake.Fault{Status: 500})
		}
		return nil
	})
	var again *stripeapi.RetryError
	if !errors.As(err, &again) || told == 0 || told > 100 {
		t.Errorf("error %v after %d events", err, told)
	}

	for range 150 {
		w.verified()
	}
	told = 0
	err = w.Sessions(t.Context(), stripeapi.Place{}, time.Time{}, func(stripeapi.Answer) error {
		if told++; told == 1 {
			w.Next(stripefake.Fault{Reset: true})
		}
		return nil
	})
	if !errors.As(err, &again) || told != 100 {
		t.Errorf("error %v after %d sessions", err, told)
	}

	stop := errors.New("stop")
	if err := w.Events(t.Context(), stripeapi.Place{}, stripeapi.EventQuery{}, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's own error: %v", err)
	}
	if err := w.Sessions(t.Context(), stripeapi.Place{}, time.Time{}, func(stripeapi.Answer) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's own error: %v", err)
	}
}

func TestAListThatNeverEndsIsLeft(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"the same page again": `{"has_more":true,"data":[{"id":"vs_1","created":1}]}`,
		"without ids":         `{"has_more":true,"data":[{"created":1}]}`,
		"empty pages":         `{"has_more":true,"data":[]}`,
		"no list":             `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			w := newWorld(t, full, over(func(r *http.Request) (*http.Response, error) {
				n++
				return respond(r, http.StatusOK, nil, strings.NewReader(body)), nil
			}))
			_ = w.Events(t.Context(), stripeapi.Place{}, stripeapi.EventQuery{}, func([]byte) error { return nil })
			_ = w.Sessions(t.Context(), stripeapi.Place{}, time.Time{}, func(stripeapi.Answer) error { return nil })
			_, _ = w.Endpoints(t.Context(), false)
			if n > 20 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestSessionsAreListedWithoutOutputsAllPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full)
		want := map[string]bool{}
		for range 230 {
			want[w.verified().ID] = true
		}
		time.Sleep(time.Hour)
		since := time.Now()
		got := map[string]bool{}
		for range 2 {
			err := w.Sessions(t.Context(), stripeapi.Place{}, since.Add(-2*time.Hour), func(a stripeapi.Answer) error {
				if a.Expanded || a.Session.Outputs != nil || a.Unreadable != nil || a.Until.IsZero() || a.From.After(a.Until) {
					t.Errorf("answer %+v", a)
				}
				got[a.Session.ID] = true
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sessions (-want +got):\n%s", diff)
		}
		if n := len(w.Calls()); n != 6 {
			t.Errorf("%d calls for two lists, want 6", n)
		}
		err := w.Sessions(t.Context(), stripeapi.Place{}, since, func(a stripeapi.Answer) error {
			t.Errorf("%s was created before", a.Session.ID)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestASessionThatIsNotUnderstoodDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	good := w.verified()
	w.AddSession(stripeapi.Place{}, fmt.Appendf(nil, `{"id":"vs_odd","object":"identity.verification_session","created":%d,"status":7}`, time.Now().Unix()))
	var got []string
	err := w.Sessions(t.Context(), stripeapi.Place{}, time.Time{}, func(a stripeapi.Answer) error {
		got = append(got, a.Session.ID)
		return nil
	})
	if diff := cmp.Diff([]string{good.ID}, got); !errors.Is(err, events.ErrNotASession) || !strings.Contains(err.Error(), "vs_odd") || diff != "" {
		t.Errorf("error %v, sessions (-want +got):\n%s", err, diff)
	}
}

func TestAnEventIsReadAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.src.Session(scenarioOf("acct_1"))
	e := s.Verified(time.Now())
	w.Tell(s, e)
	raw := must[[]byte](t)(w.Event(t.Context(), stripeapi.Place{Account: "acct_1"}, e.ID))
	got, want := must[*events.Event](t)(events.Parse(raw)), must[*events.Event](t)(events.Parse(e.Body))
	if got.ID != want.ID || got.SessionID != s.ID || got.Kind != events.Snapshot || got.Session.Status != want.Session.Status {
		t.Errorf("event %+v", got)
	}
	if _, err := w.Event(t.Context(), stripeapi.Place{Account: "acct_1"}, "evt_none"); !errors.Is(err, stripeapi.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if _, err := w.Event(t.Context(), stripeapi.Place{Account: "acct_1"}, ""); !errors.Is(err, stripeapi.ErrNotFound) {
		t.Errorf("error without an id %v", err)
	}
}

func TestEndpointsAreThoseOfBothVersionsOfTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	w.AddEndpoint(false, `{"id":"we_1","object":"webhook_endpoint","url":"https://a.example/webhooks/stripe","status":"disabled","enabled_events":["*"],"api_version":null,"livemode":false}`)
	w.AddEndpoint(false, `{"id":"we_2","object":"webhook_endpoint","url":"https://b.example/","status":"enabled","enabled_events":["identity.verification_session.redacted"],"api_version":"2026-10-28.endive","livemode":false}`)
	w.AddDestination(false, `{"id":"we_2","object":"v2.core.event_destination","status":"enabled","enabled_events":["identity.verification_session.redacted"],"event_payload":"snapshot","events_from":["@self"],"livemode":false,"snapshot_api_version":"2026-10-28.endive","type":"webhook_endpoint","webhook_endpoint":{"url":"https://b.example/"}}`)
	for i := range 150 {
		w.AddDestination(false, fmt.Sprintf(`{"id":"ed_%d","object":"v2.core.event_destination","status":"enabled","enabled_events":["v1.identity.verification_session.verified"],"event_payload":"thin","events_from":["@accounts"],"livemode":false,"type":"webhook_endpoint","webhook_endpoint":{"url":"https://c.example/%d"}}`, i, i))
	}
	w.AddDestination(true, `{"id":"ed_live","livemode":true,"event_payload":"thin"}`)
	want := []stripeapi.Endpoint{
		{ID: "we_1", URL: "https://a.example/webhooks/stripe", Status: "disabled", EnabledEvents: []string{"*"}, Payload: "snapshot"},
		{ID: "we_2", URL: "https://b.example/", Status: "enabled", EnabledEvents: []string{"identity.verification_session.redacted"}, APIVersion: "2026-10-28.endive", Payload: "snapshot", From: []string{"@self"}},
	}
	for i := range 150 {
		want = append(want, stripeapi.Endpoint{ID: fmt.Sprintf("ed_%d", i), URL: fmt.Sprintf("https://c.example/%d", i), Status: "enabled",
			EnabledEvents: []string{"v1.identity.verification_session.verified"}, Payload: "thin", From: []string{"@accounts"}})
	}
	got := must[[]stripeapi.Endpoint](t)(w.Endpoints(t.Context(), false))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}

	w.Next(stripefake.Fault{}, stripefake.Fault{Status: 403})
	got, err := w.Endpoints(t.Context(), false)
	if !errors.Is(err, stripeapi.ErrForbidden) || len(got) != 2 {
		t.Errorf("without event destinations: %d endpoints, error %v", len(got), err)
	}
	w.Grant(w.keys[false], stripefake.Rights{NoEndpoints: true})
	if got, err := w.Endpoints(t.Context(), false); !errors.Is(err, stripeapi.ErrForbidden) || got != nil {
		t.Errorf("without any: %v, error %v", got, err)
	}
}
