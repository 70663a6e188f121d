package stripefake_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sessions, allEvents = "/v1/identity/verification_sessions", "/v1/events"

type object = map[string]any

// get asks the fake and answers status, header and body.
func get(tb testing.TB, f *stripefake.Fake, key, path string, query url.Values) (int, http.Header, object) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://stripe.test"+path+"?"+query.Encode(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := f.RoundTrip(req)
	if err != nil {
		return 0, nil, nil
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(body, &o); err != nil {
		tb.Fatalf("%s: %v", body, err)
	}
	return res.StatusCode, res.Header, o
}

func unlimited() *stripefake.Fake {
	f := stripefake.InMemory()
	f.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	return f
}

func verified(f *stripefake.Fake) *scenario.Session {
	s := scenario.New(1).Session(scenario.SessionOptions{})
	f.Tell(s, s.Created(time.Now().Add(-time.Minute)))
	f.Tell(s, s.Verified(time.Now()))
	return s
}

func TestExpandableFieldsAreAbsentUnlessExpanded(t *testing.T) {
	t.Parallel()
	f := unlimited()
	key := f.Key(false, stripefake.Rights{Sensitive: true})
	s := verified(f)
	for name, tc := range map[string]struct {
		expand          []string
		top, outputs, w []string // present, present among the outputs, absent anywhere
	}{
		"nothing":         {nil, nil, nil, []string{"verified_outputs", "provided_details"}},
		"outputs":         {[]string{"verified_outputs"}, []string{"verified_outputs"}, []string{"first_name", "address"}, []string{"dob", "id_number", "sex", "provided_details"}},
		"a field of them": {[]string{"verified_outputs", "verified_outputs.dob"}, []string{"verified_outputs"}, []string{"first_name", "dob"}, []string{"id_number", "unparsed_sex"}},
		"typed words":     {[]string{"provided_details"}, []string{"provided_details"}, nil, []string{"verified_outputs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, _, o := get(t, f, key, sessions+"/"+s.ID, url.Values{"expand[]": tc.expand})
			if status != 200 {
				t.Fatalf("status %d", status)
			}
			outputs, _ := o["verified_outputs"].(object)
			for _, field := range tc.top {
				if o[field] == nil {
					t.Errorf("%s is absent", field)
				}
			}
			for _, field := range tc.outputs {
				if outputs[field] == nil {
					t.Errorf("verified_outputs.%s is absent", field)
				}
			}
			for _, field := range tc.w {
				if _, ok := o[field]; ok || outputs[field] != nil {
					t.Errorf("%s is present", field)
				}
			}
		})
	}
}

func TestAnExpansionThatAKeyMayNotReadRefusesTheWholeCall(t *testing.T) {
	t.Parallel()
	f := unlimited()
	s := verified(f)
	old := verified(f) // the same source: the same id
	if s.ID != old.ID {
		t.Fatal("two sources differ")
	}
	for name, tc := range map[string]struct {
		rights stripefake.Rights
		live   bool
		age    time.Duration
		expand string
		status int
	}{
		"with the right":                   {stripefake.Rights{Sensitive: true}, false, 47 * time.Hour, "verified_outputs.dob", 200},
		"without the right":                {stripefake.Rights{}, false, 0, "verified_outputs.dob", 403},
		"outputs without the right":        {stripefake.Rights{}, false, 0, "verified_outputs", 200},
		"with a secret key":                {stripefake.Rights{Secret: true, Sensitive: true}, false, 0, "verified_outputs.sex", 403},
		"after 48 hours":                   {stripefake.Rights{Sensitive: true}, false, 49 * time.Hour, "verified_outputs.dob", 403},
		"after 48 hours from one's own IP": {stripefake.Rights{Sensitive: true, AnyAge: true}, false, 49 * time.Hour, "verified_outputs.dob", 200},
		"outputs after 48 hours":           {stripefake.Rights{}, false, 49 * time.Hour, "verified_outputs", 200},
		"what is refused besides":          {stripefake.Rights{Refuses: []string{"provided_details"}}, false, 0, "provided_details", 403},
		"what cannot be expanded":          {stripefake.Rights{Sensitive: true}, false, 0, "verified_outputs.first_name", 400},
		"a key of the other mode":          {stripefake.Rights{Sensitive: true}, true, 0, "verified_outputs", 404},
		"no right at all":                  {stripefake.Rights{NoSessions: true}, false, 0, "verified_outputs", 403},
	} {
		f.Age(stripeapi.Place{}, s.ID, tc.age)
		key := f.Key(tc.live, tc.rights)
		status, _, o := get(t, f, key, sessions+"/"+s.ID, url.Values{"expand[]": {tc.expand}})
		if status != tc.status || strings.Contains(fmt.Sprint(o), key) {
			t.Errorf("%s: status %d, want %d: %v", name, status, tc.status, o)
		}
	}
	if status, _, _ := get(t, f, "rk_test_unknown", sessions, nil); status != 401 {
		t.Errorf("an unknown key: %d", status)
	}
}

func TestARedactionLeavesPlaceholdersAlsoInEarlierEvents(t *testing.T) {
	t.Parallel()
	f := unlimited()
	key := f.Key(false, stripefake.Rights{Sensitive: true})
	s := scenario.New(1).Session(scenario.SessionOptions{ClientReferenceID: "user-PIIMARK", Metadata: map[string]string{"name": scenario.Marker}})
	failed := s.RequiresInput(time.Now(), "document_expired")
	f.Tell(s, failed)
	f.Tell(s, s.Verified(time.Now()))
	f.Tell(s, s.Redacted(time.Now()))
	_, _, session := get(t, f, key, sessions+"/"+s.ID, url.Values{"expand[]": {"verified_outputs", "verified_outputs.dob", "provided_details"}})
	_, _, list := get(t, f, key, allEvents, nil)
	if text := fmt.Sprint(session, list); strings.Contains(text, scenario.Marker) || strings.Contains(text, "1904") || strings.Contains(text, "expired.") {
		t.Errorf("something personal is left: %s", text)
	}
	if session["verified_outputs"].(object)["first_name"] != stripefake.Placeholder {
		t.Errorf("session %v", session)
	}
	_, _, event := get(t, f, key, allEvents+"/"+failed.ID, nil)
	lastError := event["data"].(object)["object"].(object)["last_error"].(object)
	if diff := cmp.Diff(object{"code": "document_expired", "reason": stripefake.Placeholder}, lastError); diff != "" {
		t.Errorf("last_error (-want +got):\n%s", diff)
	}
}

func TestListsArePagedAsStripeDoes(t *testing.T) {
	t.Parallel()
	f := unlimited()
	key := f.Key(false, stripefake.Rights{})
	now := time.Now().Unix()
	for i := range 7 { // e6 is the newest; e3 and e4 share a second
		created := now - 100 + int64(i)
		if i == 4 {
			created--
		}
		f.AddEvent(fmt.Appendf(nil, `{"id":"e%d","type":"t%d","created":%d}`, i, i%2, created))
	}
	f.AddEvent(fmt.Appendf(nil, `{"id":"gone","type":"t0","created":%d}`, now-31*24*3600))
	at := func(i int) string { return fmt.Sprint(now - 100 + int64(i)) }
	for name, tc := range map[string]struct {
		query  string
		status int
		ids    string
		more   bool
	}{
		"all":                {"limit=100", 200, "e6 e5 e4 e3 e2 e1 e0", false},
		"a page":             {"limit=3", 200, "e6 e5 e4", true},
		"the next":           {"limit=3&starting_after=e4", 200, "e3 e2 e1", true},
		"the last":           {"limit=3&starting_after=e1", 200, "e0", false},
		"the page before":    {"limit=2&ending_before=e2", 200, "e4 e3", true},
		"the newest before":  {"limit=9&ending_before=e4", 200, "e6 e5", false},
		"since":              {"limit=9&created[gte]=" + at(3), 200, "e6 e5 e4 e3", false},
		"after":              {"limit=9&created[gt]=" + at(3), 200, "e6 e5", false},
		"until":              {"limit=9&created[lte]=" + at(1), 200, "e1 e0", false},
		"before":             {"limit=9&created[lt]=" + at(1), 200, "e0", false},
		"of a type":          {"limit=9&types[]=t1", 200, "e5 e3 e1", false},
		"of types, paged":    {"limit=2&types[]=t1&starting_after=e6", 200, "e5 e3", true},
		"both cursors":       {"starting_after=e1&ending_before=e2", 400, "", false},
		"an unknown cursor":  {"starting_after=x", 400, "", false},
		"too large a page":   {"limit=101", 400, "", false},
		"no time":            {"created[gte]=-1", 400, "", false},
		"more types than 20": {strings.Repeat("types[]=t&", 21), 400, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query, err := url.ParseQuery(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			status, _, o := get(t, f, key, allEvents, query)
			var ids []string
			data, _ := o["data"].([]any)
			for _, e := range data {
				ids = append(ids, e.(object)["id"].(string))
			}
			more, _ := o["has_more"].(bool)
			if status != tc.status || strings.Join(ids, " ") != tc.ids || more != tc.more {
				t.Errorf("status %d, %v, more %v", status, ids, more)
			}
		})
	}
}

func TestOnlyTheNewestAreKeptIfSoSet(t *testing.T) {
	t.Parallel()
	f := unlimited()
	f.Set(func(s *stripefake.Settings) { s.Keep = 3 })
	key, source := f.Key(false, stripefake.Rights{}), scenario.New(1)
	var told []string
	for range 5 {
		s := source.Session(scenario.SessionOptions{})
		f.Tell(s, s.Created(time.Now()))
		told = append([]string{s.ID}, told...)
	}
	for path, id := range map[string]func(o object) string{
		sessions:  func(o object) string { return o["id"].(string) },
		allEvents: func(o object) string { return o["data"].(object)["object"].(object)["id"].(string) },
	} {
		var kept []string
		_, _, o := get(t, f, key, path, nil)
		for _, of := range o["data"].([]any) {
			kept = append(kept, id(of.(object)))
		}
		if diff := cmp.Diff(told[:3], kept); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	for _, id := range told[3:] {
		if status, _, _ := get(t, f, key, sessions+"/"+id, nil); status != 404 {
			t.Errorf("a session that is not kept: %d", status)
		}
	}
	if calls := f.Calls(); len(calls) != 3 || calls[2].Path != sessions+"/"+told[4] {
		t.Errorf("calls %+v", calls)
	}
}

func TestWhomNobodyToldOfIsMadeUpIfSoSet(t *testing.T) {
	t.Parallel()
	f := unlimited()
	f.Set(func(set *stripefake.Settings) {
		set.Unknown = func(at stripeapi.Place, id string) []byte {
			s := scenario.New(0).Session(scenario.SessionOptions{ID: id, Livemode: at.Live})
			return s.Expanded(s.Verified(time.Now())).Body
		}
	})
	key := "rk_live_of_ones_own"
	f.Grant(key, stripefake.Rights{})
	for expand, want := range map[string]int{"": 404, "verified_outputs": 200, "verified_outputs.dob": 403} {
		query := url.Values{}
		if expand != "" {
			query.Set("expand[]", expand)
		}
		status, _, o := get(t, f, key, sessions+"/vs_1", query)
		if status != want || status == 200 && (o["id"] != "vs_1" || o["livemode"] != true || o["verified_outputs"] == nil) {
			t.Errorf("expanding %q: %d, want %d: %v", expand, status, want, o)
		}
	}
	if _, _, o := get(t, f, key, sessions, nil); len(o["data"].([]any)) > 0 {
		t.Errorf("what is made up is listed: %v", o)
	}
}

func TestFaultsRatesAndClocksAreThoseThatWereSet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := stripefake.InMemory()
		key := f.Key(false, stripefake.Rights{})
		ask := func() (int, http.Header) {
			status, h, _ := get(t, f, key, sessions, nil)
			return status, h
		}
		for i := range 25 {
			if status, _ := ask(); status != 200 {
				t.Fatalf("request %d: %d", i, status)
			}
		}
		if status, h := ask(); status != 429 || h.Get("Retry-After") != "1" || f.PeakRate() != 26 {
			t.Errorf("the 26th in a second: %d, rate %d", status, f.PeakRate())
		}
		time.Sleep(time.Second)
		f.Next(stripefake.Fault{Status: 500}, stripefake.Fault{Reset: true}, stripefake.Fault{Delay: time.Minute})
		began := time.Now()
		var got []int
		for range 4 {
			status, _ := ask()
			got = append(got, status)
		}
		if !slices.Equal(got, []int{500, 0, 200, 200}) || time.Since(began) != time.Minute {
			t.Errorf("statuses %v after %v", got, time.Since(began))
		}
		f.Set(func(s *stripefake.Settings) { s.Skew = -time.Hour })
		if _, h := ask(); h.Get("Date") != time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat) {
			t.Errorf("Date %s", h.Get("Date"))
		}
		f.Set(func(s *stripefake.Settings) { s.Date = "-" })
		if _, h := ask(); h.Get("Date") != "" {
			t.Errorf("Date %s", h.Get("Date"))
		}
		if calls := f.Calls(); calls[26].Status != 500 || calls[27].Status != 0 || calls[26].Path != sessions {
			t.Errorf("calls %+v", calls[26:28])
		}
	})
}

func TestHooksStandBeforeTheStateIsReadAndBeforeItIsTold(t *testing.T) {
	t.Parallel()
	f := stripefake.New(t)
	key := f.Key(false, stripefake.Rights{})
	s := scenario.New(1).Session(scenario.SessionOptions{})
	f.Tell(s, s.Created(time.Now()))
	var steps []string
	f.Set(func(set *stripefake.Settings) {
		set.Arrived = func(id string) { steps = append(steps, "arrived "+id); f.Tell(s, s.Processing(time.Now())) }
		set.Answering = func(id string) { steps = append(steps, "answering "+id); f.Tell(s, s.Verified(time.Now())) }
	})
	_, _, o := get(t, f, key, sessions+"/"+s.ID, nil)
	if o["status"] != "processing" {
		t.Errorf("status %v", o["status"])
	}
	if diff := cmp.Diff([]string{"arrived " + s.ID, "answering " + s.ID}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}
