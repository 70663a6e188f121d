package stripeapi_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

var sensitive = []string{"dob", "id_number", "sex", "unparsed_place_of_birth", "unparsed_sex"}

// ignorePresence compares texts by what they say.
var ignorePresence = cmp.Comparer(func(a, b events.Text) bool { return a.Value == b.Value })

const allPaths = "verified_outputs,verified_outputs.dob,verified_outputs.id_number,verified_outputs.sex," +
	"verified_outputs.unparsed_place_of_birth,verified_outputs.unparsed_sex,provided_details"

func TestASessionIsReadWithItsOutputsInOneCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.verified()
	a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true))

	if !a.Expanded || a.Unreadable != nil || a.Session.ID != s.ID || a.Session.Status.Value != events.StatusVerified {
		t.Errorf("answer %+v", a)
	}
	o := a.Session.Outputs
	if o == nil || o.Dob() == nil || !strings.Contains(o.IDNumber.Value, scenario.Marker) || !strings.Contains(o.FirstName.Value, scenario.Marker) ||
		!o.Sex.Has() || !o.UnparsedSex.Has() || !o.UnparsedPlaceOfBirth.Has() {
		t.Errorf("outputs %+v", o)
	}
	if a.Session.Details == nil || !a.Session.Details.Email.Has() {
		t.Errorf("details %+v", a.Session.Details)
	}
	if diff := cmp.Diff([]string{allPaths}, w.expansions(0)); diff != "" {
		t.Errorf("expansions (-want +got):\n%s", diff)
	}
}

func TestAStateIsReadWithoutOutputs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.verified()
	a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, false, true))
	if a.Expanded || a.Unreadable != nil || a.Session.Outputs != nil || a.Session.Details != nil || a.Session.Status.Value != events.StatusVerified {
		t.Errorf("answer %+v", a)
	}
	if diff := cmp.Diff([]string{""}, w.expansions(0)); diff != "" {
		t.Errorf("expansions (-want +got):\n%s", diff)
	}
}

func TestOnlyWhatIsWantedIsAskedForAndTold(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		wants    []string
		paths    string
		expanded bool
	}{
		"nothing":               {nil, "", false},
		"a plain field":         {[]string{"first_name"}, "verified_outputs", true},
		"a sensitive field":     {[]string{"dob"}, "verified_outputs,verified_outputs.dob", true},
		"what was typed in too": {[]string{"email", "sex"}, "verified_outputs,verified_outputs.sex,provided_details", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full, wants(tc.wants...))
			s := w.verified()
			a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true))
			if diff := cmp.Diff([]string{tc.paths}, w.expansions(0)); diff != "" {
				t.Errorf("expansions (-want +got):\n%s", diff)
			}
			if a.Expanded != tc.expanded || a.Unreadable != nil {
				t.Errorf("expanded %v, unreadable %v", a.Expanded, a.Unreadable)
			}
			o := events.Outputs{}
			if a.Session.Outputs != nil {
				o = *a.Session.Outputs
			}
			got := map[string]bool{
				"first_name": o.FirstName.Has(), "dob": o.DobDay != nil, "sex": o.Sex.Has(), "email": o.Email.Has(),
				"last_name": o.LastName.Has(), "id_number": o.IDNumber.Has(), "address": o.City.Has(),
			}
			for field, has := range got {
				if has != slices.Contains(tc.wants, field) {
					t.Errorf("%s is told: %v", field, has)
				}
			}
			if d := a.Session.Details; d != nil && d.Phone.Has() {
				t.Error("the phone number that was typed in is told")
			}
		})
	}
}

func TestWhatTheKeyMayNotReadIsDroppedAndRememberedForAnHour(t *testing.T) {
	t.Parallel()
	everything := []string{"first_name", "last_name", "dob", "address", "id_number", "id_number_type", "email", "phone", "sex", "unparsed_place_of_birth", "unparsed_sex"}
	forms := map[string]stripefake.Refusal{
		"by 403":                 {},
		"by 403 that names it":   {Named: true},
		"by 400":                 {Status: http.StatusBadRequest},
		"by a 400 that names it": {Status: http.StatusBadRequest, Named: true},
	}
	for name, tc := range map[string]struct {
		rights     stripefake.Rights
		unreadable []string
		probes     int // most, after the refusal
	}{
		"the sensitive fields":             {stripefake.Rights{}, sensitive, 6},
		"the sensitive fields to sk_":      {stripefake.Rights{Secret: true}, sensitive, 6},
		"one sensitive field":              {stripefake.Rights{Sensitive: true, Refuses: []string{"verified_outputs.sex"}}, []string{"sex"}, 6},
		"what was typed in":                {stripefake.Rights{Sensitive: true, Refuses: []string{"provided_details"}}, []string{"provided_details"}, 9},
		"all outputs":                      {stripefake.Rights{Sensitive: true, Refuses: []string{"verified_outputs"}}, everything, 6},
		"all outputs and what was typed":   {stripefake.Rights{Refuses: []string{"verified_outputs", "provided_details"}}, append(slices.Clone(everything), "provided_details"), 7},
		"sensitive fields and typed words": {stripefake.Rights{Refuses: []string{"provided_details"}}, append(slices.Clone(sensitive), "provided_details"), 9},
	} {
		for form, refusal := range forms {
			t.Run(name+" "+form, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, tc.rights)
					w.Set(func(s *stripefake.Settings) { s.Refusal = refusal })
					first, second := w.verified(), w.verified()
					read := func(id string) (calls int) {
						before := len(w.Calls())
						a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, id, true, true))
						if diff := cmp.Diff(tc.unreadable, a.Unreadable); diff != "" || !a.Expanded {
							t.Errorf("unreadable (-want +got):\n%s", diff)
						}
						told := []string(nil)
						if a.Session.Outputs != nil {
							o := a.Session.Outputs
							for field, has := range map[string]bool{
								"first_name": o.FirstName.Has(), "last_name": o.LastName.Has(), "dob": o.DobDay != nil, "address": o.City.Has(), "id_number": o.IDNumber.Has(),
								"id_number_type": o.IDNumberType.Has(), "email": o.Email.Has(), "phone": o.Phone.Has(), "sex": o.Sex.Has(),
								"unparsed_place_of_birth": o.UnparsedPlaceOfBirth.Has(), "unparsed_sex": o.UnparsedSex.Has(),
							} {
								if has {
									told = append(told, field)
								}
							}
						}
						want := slices.DeleteFunc(slices.Clone(everything), func(f string) bool { return slices.Contains(tc.unreadable, f) })
						if diff := cmp.Diff(want, told, cmpopts.SortSlices(strings.Compare), cmpopts.EquateEmpty()); diff != "" {
							t.Errorf("the rest is told (-want +got):\n%s", diff)
						}
						if (a.Session.Details != nil) == slices.Contains(tc.unreadable, "provided_details") {
							t.Errorf("details %+v", a.Session.Details)
						}
						return len(w.Calls()) - before
					}
					if n := read(first.ID); n < 2 || n > 1+tc.probes {
						t.Errorf("%d calls find out, want at most %d", n, 1+tc.probes)
					}
					if n := read(second.ID); n != 1 {
						t.Errorf("%d calls for the second session, want 1", n)
					}
					time.Sleep(59 * time.Minute)
					if n := read(first.ID); n != 1 {
						t.Errorf("%d calls within the hour, want 1", n)
					}
					time.Sleep(time.Minute + time.Second)
					if n := read(second.ID); n < 2 {
						t.Errorf("%d calls after the hour: nothing was asked again", n)
					}
				})
			})
		}
	}
}

func TestManyAtOnceFindOutOnlyOncePerKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, stripefake.Rights{}, rate(20))
		w.Set(func(s *stripefake.Settings) { s.Delay, s.Limit = 300*time.Millisecond, 25 })
		const sessions = 20
		var wait sync.WaitGroup
		for range sessions {
			s := w.verified()
			wait.Go(func() {
				a, err := w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true)
				if err != nil || !slices.Equal(a.Unreadable, sensitive) || a.Session.Outputs == nil {
					t.Errorf("answer %+v, error %v", a, err)
				}
			})
		}
		wait.Wait()
		if got, most := len(w.Calls()), sessions+6; got > most {
			t.Errorf("%d calls for %d sessions, want at most %d", got, sessions, most)
		}
	})
}

func TestARolledKeyHasRightsOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{})
	s := w.verified()
	read := func() []string {
		return must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true)).Unreadable
	}
	if got := read(); !slices.Equal(got, sensitive) {
		t.Fatalf("unreadable %v", got)
	}
	w.keys[false] = w.Key(false, full)
	if got := read(); got != nil {
		t.Errorf("with the new key unreadable: %v", got)
	}
}

func TestASessionTooOldForTheKeyDoesNotSpoilTheYoung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, stripefake.Rights{Sensitive: true})
		old := w.verified()
		time.Sleep(49 * time.Hour)
		for range 2 {
			young := w.verified()
			a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, young.ID, true, true))
			if a.Unreadable != nil {
				t.Fatalf("of the young one unreadable: %v", a.Unreadable)
			}
			a = must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, old.ID, true, true))
			if !slices.Equal(a.Unreadable, sensitive) || a.Session.Outputs == nil {
				t.Fatalf("of the old one unreadable: %v, outputs %+v", a.Unreadable, a.Session.Outputs)
			}
		}
	})
}

func TestRightsThatAreWithdrawnAreNoticedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.verified()
	must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true))
	w.Grant(w.keys[false], stripefake.Rights{})
	for i, most := range []int{8, 1} {
		before := len(w.Calls())
		a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true))
		if n := len(w.Calls()) - before; n > most || !slices.Equal(a.Unreadable, sensitive) {
			t.Errorf("read %d: %d calls, unreadable %v", i, n, a.Unreadable)
		}
	}
}

func TestAfterTheWindowSensitiveFieldsAreNotAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{Sensitive: true})
	s := w.verified()
	w.Age(stripeapi.Place{}, s.ID, 72*time.Hour)
	a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, false))
	if !slices.Equal(a.Unreadable, sensitive) || a.Session.Outputs == nil || a.Session.Outputs.DobDay != nil {
		t.Errorf("answer %+v", a)
	}
	if diff := cmp.Diff([]string{"verified_outputs,provided_details"}, w.expansions(0)); diff != "" {
		t.Errorf("expansions (-want +got):\n%s", diff)
	}
}

func TestOfARedactedSessionNoPlaceholderIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.verified()
	w.Tell(s, s.Redacted(time.Now()))
	a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, true, true))
	if o := a.Session.Outputs; o == nil || !cmp.Equal(*o, events.Outputs{Country: o.Country}, ignorePresence) || a.Session.Details != nil || a.Session.Redaction.Value != events.RedactionRedacted || a.Unreadable != nil {
		t.Errorf("answer %+v", a)
	}
}

func TestDocumentedAnswersAreUnderstood(t *testing.T) {
	t.Parallel()
	type told struct {
		Status, Code, FirstName, IDNumber, Redaction, Report string
		Dob, Outputs                                         bool
	}
	for file, want := range map[string]told{
		"session.verified.restricted_key.expand_all.json":          {Status: "verified", FirstName: "Jenny", IDNumber: "1234", Report: "vr_1CRAFTED0000000000000001", Dob: true, Outputs: true},
		"session.verified.secret_key.expand_verified_outputs.json": {Status: "verified", FirstName: "Jenny", Report: "vr_1CRAFTED0000000000000001", Outputs: true},
		"session.redacted.expand_all.json":                         {Status: "verified", Report: "vr_1CRAFTED0000000000000001", Redaction: "redacted", Outputs: true},
		"session.requires_input.json":                              {Status: "requires_input", Code: "document_expired", Report: "vr_1CRAFTEDERR00000000000005"},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full)
			body := fixture(t, file)
			w.AddSession(stripeapi.Place{}, body)
			id := "vs_1CRAFTED0000000000000001"
			if want.Code != "" {
				id = "vs_1CRAFTEDERR00000000000005"
			}
			a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, id, true, true))
			s := a.Session
			got := told{Status: s.Status.Value, Code: s.ErrorCode.Value, Report: s.ReportID.Value, Redaction: s.Redaction.Value, Outputs: s.Outputs != nil}
			if s.Outputs != nil {
				got.FirstName, got.IDNumber, got.Dob = s.Outputs.FirstName.Value, s.Outputs.IDNumber.Value, s.Outputs.Dob() != nil
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("session (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheSpanIsFromTheRequestToTheDate(t *testing.T) {
	t.Parallel()
	at := func(s float64) time.Time {
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(s * float64(time.Second)))
	}
	for name, tc := range map[string]struct {
		start, delay, skew float64 // seconds after at(0), for the answer, of Stripe's clock
		noDate             bool
		from, until        float64
	}{
		"a fast answer":                              {start: 10.2, delay: 0.1, from: 10, until: 10},
		"an answer across a second":                  {start: 10.9, delay: 0.2, from: 10, until: 11},
		"a slow answer":                              {start: 10.5, delay: 5, from: 10, until: 15},
		"our clock behind Stripe's":                  {start: 10, delay: 0.1, skew: 60, from: 10, until: 70},
		"our clock ahead of Stripe's":                {start: 100, delay: 0.1, skew: -60, from: 40, until: 40},
		"our clock ahead, slowly":                    {start: 100, delay: 5, skew: -60, from: 40, until: 45},
		"an answer without Date: our clock":          {start: 10.5, delay: 2, noDate: true, from: 10, until: 12},
		"the wait for the limiter is not part of it": {start: 0, delay: 0.1, from: 1, until: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, full, rate(1))
				s := w.verified()
				if tc.start == 0 {
					must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false))
				}
				time.Sleep(time.Until(at(tc.start)))
				w.Set(func(s *stripefake.Settings) {
					s.Delay, s.Skew = time.Duration(tc.delay*float64(time.Second)), time.Duration(tc.skew*float64(time.Second))
					if tc.noDate {
						s.Date = "-"
					}
				})
				a := must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false))
				if !a.From.Equal(at(tc.from)) || !a.Until.Equal(at(tc.until)) {
					t.Errorf("from %v until %v, want %v and %v", a.From, a.Until, at(tc.from), at(tc.until))
				}
			})
		})
	}
}

func TestEachPlaceHasItsOwnSessionsAndKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	places := map[string]stripeapi.Place{
		"test": {}, "live": {Live: true}, "account": {Live: true, Account: "acct_1"}, "other account": {Live: true, Account: "acct_2"},
		"organization": {Live: true, Context: "acct_9/acct_1"},
	}
	ids := map[string]string{}
	for name, p := range places {
		s := w.src.Session(scenario.SessionOptions{Livemode: p.Live, Account: p.Account, Context: p.Context})
		w.Tell(s, s.Verified(time.Now()))
		ids[name] = s.ID
	}
	for name, p := range places {
		for owner, id := range ids {
			a, err := w.Session(t.Context(), p, id, true, true)
			switch {
			case owner == name && (err != nil || a.Session.ID != id):
				t.Errorf("%s: %v", name, err)
			case owner != name && !errors.Is(err, stripeapi.ErrNotFound):
				t.Errorf("%s reads the session of %s: %v", name, owner, err)
			}
		}
	}
	for _, c := range w.Calls() {
		if c.Live != (c.Account+c.Context != "" || c.Live) {
			t.Errorf("call %+v", c)
		}
	}
	for name, p := range map[string]stripeapi.Place{
		"an account that is none": {Account: "acct_1\r\nX: y"}, "a context that is none": {Context: "acct 1"},
	} {
		if _, err := w.Session(t.Context(), p, ids["test"], true, true); !errors.Is(err, stripeapi.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhenTheContextIsToldTheAccountIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s := w.src.Session(scenario.SessionOptions{Account: "acct_1", Context: "acct_9/acct_1"})
	w.Tell(s, s.Verified(time.Now()))
	must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{Account: "acct_1", Context: "acct_9/acct_1"}, s.ID, false, false))
	if c := w.Calls()[0]; c.Account != "" || c.Context != "acct_9/acct_1" {
		t.Errorf("call %+v", c)
	}
}

func TestRightsAreToldFieldByField(t *testing.T) {
	t.Parallel()
	all := func(may bool) map[string]bool {
		m := map[string]bool{}
		for _, f := range []string{"first_name", "last_name", "dob", "address", "id_number", "id_number_type", "email", "phone", "sex",
			"unparsed_place_of_birth", "unparsed_sex", "verified_outputs", "provided_details"} {
			m[f] = may
		}
		return m
	}
	but := func(m map[string]bool, may bool, fields ...string) map[string]bool {
		for _, f := range fields {
			m[f] = may
		}
		return m
	}
	for name, tc := range map[string]struct {
		rights stripefake.Rights
		want   map[string]bool
	}{
		"all":                 {full, all(true)},
		"not the sensitive":   {stripefake.Rights{}, but(all(true), false, sensitive...)},
		"one field not":       {stripefake.Rights{Sensitive: true, Refuses: []string{"verified_outputs.dob"}}, but(all(true), false, "dob")},
		"only what was typed": {stripefake.Rights{Refuses: []string{"verified_outputs"}}, but(all(false), true, "provided_details")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.rights)
			if got, err := w.Rights(t.Context(), stripeapi.Place{}); got != nil || err != nil {
				t.Errorf("with nobody verified: %v, %v", got, err)
			}
			w.verified()
			got := must[map[string]bool](t)(w.Rights(t.Context(), stripeapi.Place{}))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("rights (-want +got):\n%s", diff)
			}
		})
	}
}
