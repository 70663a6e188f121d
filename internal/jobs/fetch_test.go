package jobs_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap/zapcore"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

const outputs = `SELECT concat_ws(' ', source, dob::text, array_to_string(unreadable_fields, ',')) FROM stripe_identity.verified_outputs`

func TestOutputsAreFetchedOnceSomebodyIsVerified(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]scenario.SessionOptions{
		"of the live mode":           {Livemode: true},
		"of the test mode":           {},
		"of a connected account":     {Livemode: true, Account: "acct_1Connected"},
		"of an organization context": {Livemode: true, Context: "org_1/acct_2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full).start(t)
			s, told := w.verified(o)
			w.deliver(t, told...)
			w.served(t)
			w.wants(t, `SELECT count(*)::text FROM stripe_identity.verified_outputs o JOIN stripe_identity.provided_details d USING (session_id)
WHERE session_id = $1 AND o.source = 'api' AND unreadable_fields IS NULL AND first_name LIKE '%'||$2||'%' AND id_number LIKE '%'||$2||'%' AND d.email LIKE '%'||$2||'%'`,
				"1", s.ID, scenario.Marker)
			w.wants(t, `SELECT outputs_wanted_since::text FROM stripe_identity.verification_sessions`, "")
			w.wants(t, `SELECT count(*)::text FROM stripe_identity.status_transitions`, "3") // a confirmation adds none
			if n := w.fetched(t, "stored"); n != 1 {
				t.Errorf("stored %v times, want once", n)
			}
		})
	}
}

func TestWithoutAKeyNothingIsAskedAndWithOneItIsCaughtUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	key, _ := w.key(true)
	w.setKey(true, "")
	w.start(t)
	s, told := w.verified(scenario.SessionOptions{Livemode: true})
	w.deliver(t, told...)
	thin, thinTold := w.verified(scenario.SessionOptions{Livemode: true})
	w.deliver(t, thin.Thin(thinTold[2]))
	time.Sleep(time.Second) // some sweeps
	if calls := w.Calls(); len(calls) > 0 {
		t.Errorf("Stripe was asked: %+v", calls)
	}
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.verification_sessions WHERE outputs_wanted_since IS NOT NULL`, "1")

	w.setKey(true, key)
	eventually(t, "the outputs of both are stored", func() bool {
		return w.value(t, `SELECT count(*)::text FROM stripe_identity.verified_outputs WHERE session_id IN ($1, $2)`, s.ID, thin.ID) == "2"
	})
}

func TestAThinEventIsResolved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		snapshot, known bool
		fault           []stripefake.Fault
		transitions     string
		source          string
	}{
		"by its snapshot, which takes the normal path":    {true, true, nil, "1", "webhook"},
		"by the session, if there is no snapshot":         {false, true, nil, "1", "api"},
		"by the session, if Stripe has lost the event":    {true, false, nil, "1", "api"},
		"by the session, if Stripe's answer is of no use": {true, true, []stripefake.Fault{{Status: 400}}, "1", "api"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full).start(t)
			s := w.src.Session(scenario.SessionOptions{Livemode: true})
			failed := s.RequiresInput(time.Now().Add(-time.Minute), "document_expired")
			w.Tell(s, failed)
			for _, f := range c.fault {
				w.Next(f)
			}
			thin := s.Thin(failed)
			switch {
			case !c.snapshot:
				thin.Body = []byte(strings.Replace(string(thin.Body), `"snapshot_event"`, `"x"`, 1))
			case !c.known:
				thin.Body = []byte(strings.Replace(string(thin.Body), failed.ID, failed.ID+"x", 1))
			}
			w.deliver(t, thin)
			w.served(t)
			w.wants(t, `SELECT count(*)::text FROM stripe_identity.events WHERE type LIKE 'v1.%' AND resolved_at IS NULL`, "0")
			w.wants(t, `SELECT count(*)::text FROM stripe_identity.status_transitions WHERE error_code = 'document_expired'`, c.transitions)
			w.wants(t, `SELECT source FROM stripe_identity.status_transitions`, c.source)
			w.wants(t, `SELECT last_error_code FROM stripe_identity.verification_sessions`, "document_expired")
			if c.source != "webhook" {
				return
			}
			if outcome := <-w.recorded; outcome != events.Applied {
				t.Errorf("counted as %s, want applied", outcome)
			}
		})
	}
}

// Asked in an account's name, Stripe tells the event as the account's own.
func TestASnapshotIsWhoseThinEventAskedForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full, func(o *stripeapi.Options, _ *repo.Options, _ *jobs.Options) {
		fake := o.Transport
		o.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			res, err := fake.RoundTrip(r)
			if err == nil && strings.Contains(r.URL.Path, "/v1/events/") {
				body, _ := io.ReadAll(res.Body)
				res.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), `"context"`, `"not_told"`, 1)))
			}
			return res, err
		})
	}).start(t)
	s, told := w.verified(scenario.SessionOptions{Livemode: true, Context: "org_1/acct_2"})
	w.deliver(t, s.Thin(told[2]))
	eventually(t, "the outputs are stored", func() bool { return w.value(t, outputs) != "" })
	w.wants(t, `SELECT context FROM stripe_identity.verification_sessions`, "org_1/acct_2")
}

func TestASessionWhoseEventsAreTiedIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full).start(t)
	s := w.src.Session(scenario.SessionOptions{Livemode: true})
	at := time.Now().Add(-time.Hour)
	processing, failed := s.Processing(at), s.RequiresInput(at, "selfie_face_mismatch")
	w.Tell(s, processing)
	w.Tell(s, failed)
	w.deliver(t, failed, processing)
	w.served(t)
	w.wants(t, `SELECT concat(needs_refresh, ' ', status) FROM stripe_identity.verification_sessions`, "f requires_input")
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.status_transitions WHERE source = 'api'`, "0")
}

func TestATransitionThatOnlyTheAPITellsIsCountedOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []string
	w := newWorld(t, full, func(_ *stripeapi.Options, o *repo.Options, _ *jobs.Options) {
		o.Told = func(s *events.Step) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, s.Type+" "+s.State.ErrorCode)
		}
	}).start(t)
	s, at := w.src.Session(scenario.SessionOptions{Livemode: true}), time.Now().Add(-time.Hour)
	created, processing := s.Created(at), s.Processing(at)
	failed := s.RequiresInput(at.Add(time.Minute), "document_expired") // Stripe knows it, we are not told
	w.Tell(s, failed)
	w.deliver(t, processing, created) // a tie: the session is asked for
	w.served(t)
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.status_transitions WHERE source = 'api' AND error_code = 'document_expired'`, "1")
	e, err := events.Parse(failed.Body)
	if err != nil {
		t.Fatal(err)
	}
	e.Source, e.ReceivedAt = events.SourceWebhook, time.Now()
	if _, err := w.store.Record(t.Context(), e); err != nil || !e.Filled {
		t.Errorf("the late event: %v; it fills the row: %t", err, e.Filled)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]string{"identity.verification_session.requires_input document_expired"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestWhatTheKeyMayNotReadIsNamedAndTheRestIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{}).start(t) // nothing sensitive
	for range 3 {
		_, told := w.verified(scenario.SessionOptions{Livemode: true})
		w.deliver(t, told...)
	}
	w.served(t)
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.verified_outputs
WHERE unreadable_fields = ARRAY['dob', 'id_number', 'sex', 'unparsed_place_of_birth', 'unparsed_sex'] AND first_name IS NOT NULL`, "3")
	if n := w.fetched(t, "partial"); n != 3 {
		t.Errorf("partial %v times, want 3", n)
	}
}

func TestAKeyThatMayReadNoOutputsLeavesThemWanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{Refuses: []string{"verified_outputs"}}).start(t)
	_, told := w.verified(scenario.SessionOptions{Livemode: true})
	w.deliver(t, told...)
	eventually(t, "it was forbidden", func() bool { return w.fetched(t, "forbidden") > 0 })
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.verification_sessions WHERE outputs_wanted_since IS NOT NULL`, "1")
	w.wants(t, outputs, "")

	// With a key of more rights it is made up for.
	w.setKey(true, w.Key(true, full))
	w.served(t)
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.verified_outputs WHERE id_number IS NOT NULL`, "1")
}

func TestStripeIsAskedAgainAfterAFault(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripefake.Fault{
		"429 with Retry-After": {Status: 429, RetryAfter: "1"},
		"500":                  {Status: 500},
		"a broken connection":  {Reset: true},
		"no JSON":              {Status: 200, Body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full)
			w.Next(fault)
			w.start(t)
			_, told := w.verified(scenario.SessionOptions{Livemode: true})
			w.deliver(t, told...)
			w.served(t)
			w.wants(t, `SELECT count(*)::text FROM stripe_identity.verified_outputs`, "1")
			if retried, stored := w.fetched(t, "retried"), w.fetched(t, "stored"); retried != 1 || stored != 1 {
				t.Errorf("retried %v times and stored %v times, want 1 and 1", retried, stored)
			}
		})
	}
}

func TestSensitiveFieldsAreGivenUpAfterTheWindowAndTheRestIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	// The first attempt, however late, asks for all of them.
	w.Next(stripefake.Fault{Status: 500})
	w.start(t)
	_, told := w.verifiedAt(scenario.SessionOptions{Livemode: true}, time.Now().Add(-49*time.Hour))
	w.deliver(t, told...)
	w.served(t)
	asked := 0
	for _, call := range w.Calls() {
		if strings.Contains(strings.Join(call.Query["expand[]"], " "), "dob") {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("sensitive fields were asked for %d times, want once", asked)
	}
	w.wants(t, `SELECT concat_ws(' ', first_name IS NOT NULL, dob_year, unreadable_fields[1]) FROM stripe_identity.verified_outputs`, "t dob")
	if w.logs.FilterMessageSnippet("sensitive outputs are lost").Len() != 1 {
		t.Errorf("it was not told: %v", w.logs.All())
	}
}

// The first attempt, however late, asks for all of them: a key that is restricted
// to an IP may read them, and of another one the loss is told.
func TestALateFirstAttemptTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	const lost, partly = "sensitive outputs are lost", "outputs are stored in part"
	for name, c := range map[string]struct {
		rights stripefake.Rights
		age    time.Duration
		told   string
		rest   string
	}{
		"nothing, if the key reads any age":    {full, 49 * time.Hour, "", "1904"},
		"the sensitive ones, if it does not":   {stripefake.Rights{Sensitive: true}, 49 * time.Hour, lost, "dob,id_number,sex,unparsed_place_of_birth,unparsed_sex"},
		"no sensitive one, if these were read": {stripefake.Rights{Sensitive: true, AnyAge: true, Refuses: []string{"provided_details"}}, 49 * time.Hour, partly, "1904 provided_details"},
		"none, if it is not late":              {stripefake.Rights{}, 0, partly, "dob,id_number,sex,unparsed_place_of_birth,unparsed_sex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.rights)
			s, told := w.verifiedAt(scenario.SessionOptions{Livemode: true}, time.Now().Add(-c.age))
			w.Age(stripeapi.Place{Live: true}, s.ID, c.age)
			w.start(t)
			w.deliver(t, told...)
			w.served(t)
			w.wants(t, `SELECT concat_ws(' ', dob_year, array_to_string(unreadable_fields, ',')) FROM stripe_identity.verified_outputs`, c.rest)
			for message, level := range map[string]zapcore.Level{lost: zapcore.ErrorLevel, partly: zapcore.WarnLevel} {
				want := 0
				if message == c.told {
					want = 1
				}
				if n := w.logs.FilterMessageSnippet(message).FilterLevelExact(level).Len(); n != want {
					t.Errorf("%q was told %d times, want %d", message, n, want)
				}
			}
		})
	}
}

// Test data can be deleted at Stripe, live sessions cannot: their key is wrong,
// and may be mended.
func TestAWishThatStripeDoesNotKnowEndsAfterADayOrLiveAfterAMonth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		live          bool
		tried, hardly string
	}{"test": {false, "25 hours", "23 hours"}, "live": {true, "31 days", "29 days"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full).start(t)
			s := w.src.Session(scenario.SessionOptions{Livemode: c.live}) // Stripe is told nothing
			at := time.Now().Add(-time.Minute)
			w.deliver(t, s.Verified(at))
			for n, age := range []string{"0", c.hardly} {
				w.value(t, `UPDATE stripe_identity.wishes SET tried_at = now() - $1::interval, due_at = now() RETURNING 'done'`, age)
				eventually(t, "it was not found", func() bool { return w.fetched(t, "not_found") > float64(n) })
				eventually(t, "it is due again", func() bool {
					return w.value(t, `SELECT count(*)::text FROM stripe_identity.wishes WHERE leased_until IS NULL AND due_at > now() AND due_at < 'infinity'`) == "1"
				})
			}
			w.value(t, `UPDATE stripe_identity.wishes SET tried_at = now() - $1::interval, due_at = now() RETURNING 'done'`, c.tried)
			eventually(t, "it is given up", func() bool {
				return w.value(t, `SELECT count(*)::text FROM stripe_identity.wishes WHERE due_at = 'infinity'`) == "1"
			})

			// What is new is asked for again.
			lost, again := s.RequiresInput(at.Add(10*time.Second), "abandoned"), s.Verified(at.Add(20*time.Second))
			w.Tell(s, again)
			w.deliver(t, lost, again)
			eventually(t, "the outputs are stored", func() bool { return w.value(t, outputs) != "" })
		})
	}
}

// That is an answer, also to a key that may not read all: nothing is refused.
func TestASessionThatHasNoOutputsIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{}).start(t)
	s := w.src.Session(scenario.SessionOptions{Livemode: true})
	verified := s.Verified(time.Now().Add(-time.Minute))
	var body struct {
		Data struct{ Object json.RawMessage }
	}
	if err := json.Unmarshal(verified.Body, &body); err != nil {
		t.Fatal(err)
	}
	w.AddSession(stripeapi.Place{Live: true}, body.Data.Object) // which events tell without
	w.deliver(t, verified)
	w.served(t)
	if n := w.fetched(t, "forbidden"); n != 0 {
		t.Errorf("%v times the key was blamed", n)
	}
}

func TestAWishToWhichStripeGivesNoUsefulAnswerEndsAfterAMonth(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripefake.Fault{
		"400": {Status: 400}, "402": {Status: 402}, "too large": {Status: 200, Body: strings.Repeat(" ", 33<<20) + "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full)
			const tries = 12 // of the expansions of two attempts
			for range tries {
				w.Next(fault)
			}
			w.start(t)
			_, told := w.verified(scenario.SessionOptions{Livemode: true})
			w.deliver(t, told...)
			eventually(t, "it was asked for in vain", func() bool { return w.fetched(t, "retried") > 0 })
			w.value(t, `UPDATE stripe_identity.wishes SET tried_at = now() - interval '31 days', due_at = now(), leased_until = NULL RETURNING 'done'`)
			eventually(t, "it is given up", func() bool { return w.fetched(t, "expired") == 1 })
			w.wants(t, `SELECT count(*)::text FROM stripe_identity.wishes WHERE due_at = 'infinity'`, "1")
		})
	}
}

func TestWhatAKilledReplicaHadTakenIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s, told := w.verified(scenario.SessionOptions{Livemode: true})
	w.deliver(t, told...)
	// It claimed the wish, and the wake-up, and died.
	wish, err := w.store.Claim(t.Context(), s.ID, time.Second)
	if err != nil || wish == nil {
		t.Fatalf("claim: %v, %v", wish, err)
	}
	w.value(t, `DELETE FROM webhookd_jobs.river_job RETURNING 'gone'`)
	if again, err := w.store.Claim(t.Context(), s.ID, time.Second); err != nil || again != nil {
		t.Fatalf("a leased wish was claimed again: %v, %v", again, err)
	}
	w.start(t)
	w.served(t)
	w.wants(t, `SELECT count(*)::text FROM stripe_identity.verified_outputs`, "1")
}

func TestWhatComesWhileStripeIsAskedIsNotTakenForServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, full)
	s, told := w.verified(scenario.SessionOptions{Livemode: true})
	// In the air, and after the answer's time: the outcome is taken back, and given again.
	lost, again := s.RequiresInput(time.Now().Add(2*time.Second), "document_expired"), s.Verified(time.Now().Add(3*time.Second))
	first := true
	w.Set(func(set *stripefake.Settings) {
		set.Answering = func(id string) {
			if id == s.ID && first {
				first = false
				w.Tell(s, lost)
				w.Tell(s, again)
				w.deliver(t, lost, again)
			}
		}
	})
	w.start(t)
	w.deliver(t, told...)
	w.served(t)
	if n := w.fetched(t, "stored"); n < 2 {
		t.Errorf("stored %v times, want the second verification's too", n)
	}
	w.wants(t, `SELECT (told_at >= $1)::text FROM stripe_identity.verified_outputs`, "true", lost.Created)
}

// A redaction at every step of a fetch, by a schedule and not by luck.
func TestARedactionWinsAtEveryStepOfAFetch(t *testing.T) {
	t.Parallel()
	for name, schedule := range map[string]func(s *stripefake.Settings, redact func()){
		"before the wish is claimed": nil,
		"when the request arrives":   func(s *stripefake.Settings, redact func()) { s.Arrived = func(string) { redact() } },
		"when the answer is settled": func(s *stripefake.Settings, redact func()) { s.Answering = func(string) { redact() } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, full)
			s, told := w.verified(scenario.SessionOptions{Livemode: true})
			w.deliver(t, told...)
			done := false
			redact := func() {
				if !done {
					done = true
					w.deliver(t, s.Redacted(time.Now())) // Stripe's API does not show it yet
				}
			}
			if schedule == nil {
				redact()
			} else {
				w.Set(func(s *stripefake.Settings) { schedule(s, redact) })
			}
			w.start(t)
			w.served(t)
			if places := w.marked(t); places != "" {
				t.Errorf("personal data in %s", places)
			}
			if schedule != nil && w.fetched(t, "redacted") != 1 {
				t.Errorf("the fetch was not counted as redacted")
			}
		})
	}
}

func TestARedactionWinsOverAnAnswerThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	var w *world
	redacting := make(chan struct{})
	w = newWorld(t, full, func(o *stripeapi.Options, _ *repo.Options, _ *jobs.Options) {
		fake := o.Transport
		o.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			res, err := fake.RoundTrip(r)
			if isSession(r.URL.Path) {
				<-redacting // the row is held by a redaction before the answer gets to it
			}
			return res, err
		})
	})
	s, told := w.verified(scenario.SessionOptions{Livemode: true})
	w.deliver(t, told...)
	w.start(t)
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM stripe_identity.verification_sessions WHERE id = $1 FOR UPDATE`, s.ID); err != nil {
		t.Fatal(err)
	}
	redacted := make(chan error, 1)
	go func() { redacted <- w.store.Redact(t.Context(), s.ID) }()
	eventually(t, "the redaction waits for the row", func() bool { return w.waiting(t) == "1" })
	close(redacting)
	eventually(t, "the answer waits behind it", func() bool { return w.waiting(t) == "2" })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-redacted; err != nil {
		t.Fatalf("redact: %v", err)
	}
	w.served(t)
	if places := w.marked(t); places != "" {
		t.Errorf("personal data in %s", places)
	}
}

// waiting is how many wait for a lock in the world's database.
func (w *world) waiting(tb testing.TB) string {
	tb.Helper()
	return w.value(tb, `SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
}

func TestBackoffBeginsAtASecondAndStaysUnderThirtyInTheFirstTenMinutes(t *testing.T) {
	t.Parallel()
	for attempt := 1; attempt < 40; attempt++ {
		d := jobs.Backoff(&repo.Wish{Attempt: attempt, TriedAt: time.Now()})
		if d > 20*time.Second+10*time.Second-8*time.Second || attempt == 1 && d > 1100*time.Millisecond {
			t.Errorf("attempt %d: %v", attempt, d)
		}
	}
	var got []bool
	for _, age := range []time.Duration{20 * time.Minute, 10 * time.Hour, 100 * time.Hour} {
		d := jobs.Backoff(&repo.Wish{Attempt: 100, TriedAt: time.Now().Add(-age)})
		got = append(got, d > age/12 && d < age/8, d < 7*time.Hour)
	}
	if diff := cmp.Diff([]bool{true, true, true, true, false, true}, got); diff != "" {
		t.Errorf("later pauses (-want +got):\n%s", diff)
	}
}
