package repo_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
)

const day = 24 * time.Hour

// ago is a time so long before now, in whole seconds as Stripe's are.
func ago(d time.Duration) time.Time { return time.Now().Add(-d).Truncate(time.Second).UTC() }

// age makes all that we noted ourselves so much older; Stripe's times stay.
func age(tb testing.TB, url string, by time.Duration) {
	tb.Helper()
	for _, column := range []string{
		"events.received_at", "status_transitions.recorded_at", "quarantined_events.received_at", "verified_outputs.fetched_at", "provided_details.told_at",
	} {
		table, name, _ := strings.Cut(column, ".")
		execute(tb, url, fmt.Sprintf(`UPDATE stripe_identity.%s SET %s = %s - $1::interval`, table, name, name), by)
	}
}

func prune(tb testing.TB, s *repo.Store, r repo.Retention) repo.Pruned {
	tb.Helper()
	would, err := s.Prunable(tb.Context(), r)
	if err != nil {
		tb.Fatalf("count: %v", err)
	}
	done, err := s.Prune(tb.Context(), r, nil)
	if err != nil {
		tb.Fatalf("prune: %v", err)
	}
	if diff := cmp.Diff(would, done); diff != "" {
		tb.Errorf("what was pruned is not what was foreseen (-foreseen +pruned):\n%s", diff)
	}
	return done
}

// left are the ids in a column of a table, sorted.
func left(tb testing.TB, url, column, table, where string) []string {
	tb.Helper()
	return one(tb, url, `SELECT `+column+`::text FROM stripe_identity.`+table+` WHERE `+where+` ORDER BY 1`)
}

func TestEverythingIsKeptForItsRetentionAndNotLonger(t *testing.T) {
	t.Parallel()
	// Two sessions with something of each kind: one is an hour too old, the other
	// has an hour left.
	for name, tt := range map[string]struct {
		retention repo.Retention
		limit     time.Duration // after which it goes
		column    string
		table     string
		where     string
		pruned    repo.Pruned
	}{
		"payloads of events": {
			repo.Retention{Payloads: 30 * day}, 30 * day, "DISTINCT session_id", "events", "payload IS NOT NULL", repo.Pruned{Payloads: 3},
		},
		"events in quarantine": {
			repo.Retention{Quarantine: 90 * day}, 90 * day, "session_id", "quarantined_events", "true", repo.Pruned{Quarantined: 1},
		},
		"payloads in quarantine, for less time than Stripe may repeat": {
			repo.Retention{Quarantine: 7 * day}, 7 * day, "session_id", "quarantined_events", "payload IS NOT NULL", repo.Pruned{QuarantinePayloads: 1},
		},
		"ids in quarantine": {
			repo.Retention{Quarantine: 7 * day}, 31 * day, "session_id", "quarantined_events", "true", repo.Pruned{Quarantined: 1, QuarantinePayloads: 1},
		},
		"verified outputs": {
			repo.Retention{Outputs: 10 * day}, 10 * day, "session_id", "verified_outputs", "true", repo.Pruned{Outputs: 1, Details: 1},
		},
		"provided details": {
			repo.Retention{Outputs: 10 * day}, 10 * day, "session_id", "provided_details", "true", repo.Pruned{Outputs: 1, Details: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url)
			_, old := fullLife(t, 1, "vs_old")
			tell(t, store, old...)
			age(t, url, 2*time.Hour)
			_, young := fullLife(t, 2, "vs_young")
			tell(t, store, young...)
			execute(t, url, `UPDATE stripe_identity.provided_details d SET told_at = o.fetched_at
				FROM stripe_identity.verified_outputs o WHERE o.session_id = d.session_id`)
			age(t, url, tt.limit-time.Hour)
			sessions := left(t, url, "s", "verification_sessions s", "true")

			if diff := cmp.Diff(tt.pruned, prune(t, store, tt.retention)); diff != "" {
				t.Errorf("pruned (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"vs_young"}, left(t, url, tt.column, tt.table, tt.where)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(repo.Pruned{}, prune(t, store, tt.retention)); diff != "" {
				t.Errorf("pruned again (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(sessions, left(t, url, "s", "verification_sessions s", "true")); diff != "" {
				t.Errorf("the present state changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestHistoryIsKeptFromWhenItWasReceived(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, s := open(t, url), newSession(1, "vs_1")
	tell(t, store, s.Created(ago(3*time.Hour)).Body, s.Processing(ago(2*time.Hour)).Body, s.Verified(ago(time.Hour)).Body)
	age(t, url, 40*day-time.Hour)
	if diff := cmp.Diff(repo.Pruned{}, prune(t, store, repo.Retention{History: 40 * day})); diff != "" {
		t.Errorf("before its time (-want +got):\n%s", diff)
	}
	age(t, url, 2*time.Hour)
	if diff := cmp.Diff(repo.Pruned{Transitions: 2, Events: 2}, prune(t, store, repo.Retention{History: 40 * day})); diff != "" {
		t.Errorf("after it (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"verified"}, left(t, url, "status", "status_transitions", "true")); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestForeverIsForEver(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	age(t, url, 50*365*day)
	before := everything(t, url)
	if diff := cmp.Diff(repo.Pruned{}, prune(t, store, repo.Retention{})); diff != "" {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, everything(t, url)); diff != "" {
		t.Errorf("rows (-before +after):\n%s", diff)
	}
}

// long is a session that failed twice before it was verified, days ago.
func long(tb testing.TB, id string, began time.Duration) (s *scenario.Session, all []scenario.Event) {
	tb.Helper()
	seed := fnv.New64()
	_, _ = seed.Write([]byte(id))
	s = scenario.New(seed.Sum64()).Session(scenario.SessionOptions{ID: id, Livemode: true, CreatedAt: ago(began)})
	at := func(minute int) time.Time { return ago(began).Add(time.Duration(minute) * time.Minute) }
	return s, []scenario.Event{
		s.Created(at(0)), s.Processing(at(1)), s.RequiresInput(at(2), "document_expired"),
		s.Processing(at(3)), s.RequiresInput(at(4), "selfie_face_mismatch"), s.Processing(at(5)), s.Verified(at(6)),
	}
}

func bodiesOf(all []scenario.Event) (bodies [][]byte) {
	for _, e := range all {
		bodies = append(bodies, e.Body)
	}
	return bodies
}

func TestOfAnOldHistoryStaysWhatThePresentFollowsFrom(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, old := long(t, "vs_old", 50*day)
	_, young := long(t, "vs_young", 45*day)
	tell(t, store, bodiesOf(old)...)
	age(t, url, 5*day)
	tell(t, store, bodiesOf(young)...)
	age(t, url, 40*day-time.Hour)
	got := prune(t, store, repo.Retention{History: 40 * day})
	got.Reasons = 0 // of the row that stays; whether it has any is for the writer to say
	if diff := cmp.Diff(repo.Pruned{Transitions: 6, Events: 6}, got); diff != "" {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
	verified := old[6].ID
	if diff := cmp.Diff([]string{verified}, left(t, url, "event_id", "status_transitions", "session_id = 'vs_old'")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{verified}, left(t, url, "event_id", "events", "session_id = 'vs_old'")); diff != "" {
		t.Errorf("event ids (-want +got):\n%s", diff)
	}
	if n := len(left(t, url, "id", "status_transitions", "session_id = 'vs_young'")); n != 7 {
		t.Errorf("%d steps of the younger session are left, want 7", n)
	}
	if got := one(t, url, `SELECT previous_status FROM stripe_identity.verification_timeline WHERE session_id = 'vs_old'`); got[0] != "processing" {
		t.Errorf("the status before is %q", got[0])
	}
}

func TestNothingPersonalIsLeftOfAnOldHistory(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	execute(t, url, `UPDATE stripe_identity.status_transitions SET metadata = '{"a": "PIIMARK"}'`)
	age(t, url, 3*day) // less than Stripe may repeat
	prune(t, store, repo.Retention{History: 2 * day})
	if got := one(t, url, `SELECT t::text FROM stripe_identity.status_transitions t WHERE t::text LIKE '%PIIMARK%'`); len(got) > 0 {
		t.Errorf("personal data stand in the history:\n%s", strings.Join(got, "\n"))
	}
	if got := left(t, url, "event_id", "status_transitions", "true"); len(got) != 3 {
		t.Errorf("left are %q, want all 3", got)
	}
}

func TestALateDuplicateOrTwinIsNotCountedAfterPruning(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s, all := long(t, "vs_1", 30*day)
	tell(t, store, bodiesOf(all)...)
	age(t, url, 30*day)
	prune(t, store, repo.Retention{Payloads: time.Hour, History: time.Hour})
	before := left(t, url, "id", "status_transitions", "true")
	for _, e := range all {
		twin := s.Twin(e)
		if diff := cmp.Diff([]events.Outcome{events.Duplicate, events.Twin, events.Duplicate}, tell(t, store, e.Body, twin.Body, twin.Body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.Type, diff)
		}
	}
	if diff := cmp.Diff(before, left(t, url, "id", "status_transitions", "true")); diff != "" {
		t.Errorf("history (-before +after):\n%s", diff)
	}
}

func TestASessionInQuarantineKeepsItsHistory(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s, all := long(t, "vs_1", 80*day)
	// A twin that is not understood today may be tomorrow.
	broken := edit(t, s.Twin(all[2]).Body, map[string]any{"data.object.related_customer": 5})
	tell(t, store, append(bodiesOf(all), broken)...)
	age(t, url, 80*day)
	execute(t, url, `UPDATE stripe_identity.quarantined_events SET payload = jsonb_set(payload, '{data,object,related_customer}', '"cus_1"')`)

	r := repo.Retention{Quarantine: 90 * day, History: 40 * day}
	if got := prune(t, store, r); got.Transitions != 0 {
		t.Errorf("pruned %+v", got)
	}
	ids, err := store.QuarantinedIDs(t.Context())
	if err != nil || len(ids) != 1 {
		t.Fatalf("in quarantine: %q, %v", ids, err)
	}
	replayed, err := store.Replay(t.Context(), ids...)
	if err != nil || replayed[0].Outcome != events.Twin {
		t.Errorf("replayed: %+v, %v; want a twin", replayed, err)
	}
	if got := prune(t, store, r); got.Transitions != 6 {
		t.Errorf("pruned %+v, want 6 transitions", got)
	}
}

// answered is what Stripe's API tells of a session that is verified.
func answered(tb testing.TB, s *scenario.Session, at time.Time) *events.Answer {
	tb.Helper()
	e := read(tb, s.Expanded(s.Verified(at)).Body)
	return &events.Answer{From: at, Until: at, Session: e.Session, Outputs: true}
}

func TestOutputsThatWerePrunedAreNotWantedAgain(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s, all := long(t, "vs_1", 100*day)
	tell(t, store, bodiesOf(all)...)
	if err := store.Tell(t.Context(), answered(t, s, ago(99*day))); err != nil {
		t.Fatalf("tell: %v", err)
	}
	// Newer than the answer that had the outputs: an event and an answer.
	tell(t, store, s.Verified(ago(98*day)).Body)
	state := &events.Answer{From: ago(97 * day), Until: ago(97 * day), Session: answered(t, s, ago(98*day)).Session}
	state.Session.Outputs, state.Session.Details = nil, nil
	if err := store.Tell(t.Context(), state); err != nil {
		t.Fatalf("tell: %v", err)
	}
	age(t, url, 99*day)
	got := prune(t, store, repo.Retention{Outputs: 90 * day, History: 40 * day})
	if got.Outputs != 1 || got.Details != 1 || got.Transitions == 0 {
		t.Errorf("pruned %+v", got)
	}
	// Every write settles anew what is wanted.
	state.From, state.Until = ago(day), ago(day)
	if err := store.Tell(t.Context(), state); err != nil {
		t.Fatalf("tell: %v", err)
	}
	tell(t, store, s.Twin(all[6]).Body)
	if wanted := left(t, url, "id", "verification_sessions", "outputs_wanted_since IS NOT NULL"); len(wanted) > 0 {
		t.Errorf("outputs are wanted of %q", wanted)
	}
	if n := len(left(t, url, "id", "status_transitions", "event_type LIKE '%verified'")); n != 2 {
		t.Errorf("verified %d times, want 2", n)
	}
}

func TestPruningKeepsWhenStripeWasAsked(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s, all := long(t, "vs_1", 100*day)
	tell(t, store, bodiesOf(all)...)
	if err := store.Tell(t.Context(), answered(t, s, ago(99*day))); err != nil {
		t.Fatalf("tell: %v", err)
	}
	tell(t, store, s.Processing(ago(98*day)).Body, s.RequiresInput(ago(97*day), "document_expired").Body)
	age(t, url, 97*day)
	asked := func() string {
		return one(t, url, `SELECT concat_ws(' ', fetched_from, fetched_until) FROM stripe_identity.verification_sessions`)[0]
	}
	before := asked()
	if got := prune(t, store, repo.Retention{History: 40 * day}); got.Transitions != 6 {
		t.Errorf("pruned %+v, want 6 transitions", got)
	}
	tell(t, store, s.Processing(ago(day)).Body) // every write settles it anew
	if after := asked(); after != before || before == "" {
		t.Errorf("asked at %q, and before pruning at %q", after, before)
	}
}

func TestACancellationIsFinalAfterPruningToo(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	tell(t, store, s.Created(ago(101*day)).Body, s.Canceled(ago(100*day)).Body,
		edit(t, s.Redacted(ago(99*day)).Body, map[string]any{"data.object.status": "verified"})) // the newest word on the status
	age(t, url, 99*day)
	if got := prune(t, store, repo.Retention{History: 40 * day}); got.Transitions != 1 {
		t.Errorf("pruned %+v, want the birth", got)
	}
	late := edit(t, s.RequiresInput(ago(day), "abandoned").Body, map[string]any{"data.object.redaction": nil})
	if got := tell(t, store, late); got[0] != events.Stale {
		t.Errorf("what came after the cancellation is %s", got[0])
	}
}

func TestATombstoneOutlivesItsHistory(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s, all := long(t, "vs_1", 100*day)
	tell(t, store, append(bodiesOf(all), s.Redacted(ago(99*day)).Body)...)
	if err := store.Redact(t.Context(), "vs_unseen"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	age(t, url, 100*day)
	everyDay := repo.Retention{Payloads: day, Quarantine: day, Outputs: day, History: day}
	prune(t, store, everyDay)
	unseen := scenario.New(8).Session(scenario.SessionOptions{ID: "vs_unseen", Livemode: true})
	for _, late := range []*scenario.Session{s, unseen} {
		tell(t, store, withPerson(t, late, late.Verified(ago(time.Hour))))
	}
	if got := everything(t, url); strings.Contains(got, scenario.Marker) {
		t.Errorf("personal data came back:\n%s", got)
	}
	if diff := cmp.Diff([]string{"vs_1", "vs_unseen"}, left(t, url, "id", "verification_sessions", "redacted AND redaction_status = 'redacted'")); diff != "" {
		t.Errorf("tombstones (-want +got):\n%s", diff)
	}
}

func TestARedactionErasesWhatPruningLeft(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	age(t, url, 40*day)
	prune(t, store, repo.Retention{Payloads: 30 * day, History: 35 * day})
	if err := store.Redact(t.Context(), "vs_1"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	if got := everything(t, url); strings.Contains(got, scenario.Marker) {
		t.Errorf("personal data stand:\n%s", got)
	}
}

func TestAThinEventStaysUntilTheRestIsTold(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	e := s.Created(ago(100 * day))
	thin := s.Thin(e)
	tell(t, store, thin.Body)
	age(t, url, 100*day)
	r := repo.Retention{Payloads: day, History: day}
	if diff := cmp.Diff(repo.Pruned{Payloads: 1}, prune(t, store, r)); diff != "" {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
	tell(t, store, e.Body)
	if diff := cmp.Diff(repo.Pruned{Events: 1}, prune(t, store, r)); diff != "" {
		t.Errorf("pruned once it was told (-want +got):\n%s", diff)
	}
}

func TestPruneWaitsForNobody(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	for i, id := range []string{"vs_1", "vs_2", "vs_3"} {
		_, bodies := fullLife(t, uint64(i), id)
		tell(t, store, bodies...)
	}
	age(t, url, 40*day)
	conn := connect(t, url)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	hold := func(sql string) pgx.Tx {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatalf("begin: %v", err)
		}
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatalf("hold: %v", err)
		}
		return tx
	}
	r := repo.Retention{Payloads: 30 * day}
	for _, tt := range []struct {
		held string
		want repo.Pruned
	}{
		{`SELECT FROM stripe_identity.verification_sessions WHERE id = 'vs_2' FOR UPDATE`, repo.Pruned{Payloads: 6, Held: 1}},
		{`SELECT FROM stripe_identity.events WHERE session_id = 'vs_2' FOR UPDATE`, repo.Pruned{Held: 1}}, // by hand
	} {
		tx := hold(tt.held)
		got, err := store.Prune(t.Context(), r, nil)
		if err != nil {
			t.Errorf("prune: %v", err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("pruned while somebody did %s (-want +got):\n%s", tt.held, diff)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatalf("let go: %v", err)
		}
	}
	if diff := cmp.Diff(repo.Pruned{Payloads: 3}, prune(t, store, r)); diff != "" {
		t.Errorf("pruned after it was let go (-want +got):\n%s", diff)
	}
}

func TestPruneGoesInBatchesOfAThousand(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	execute(t, url, `
INSERT INTO stripe_identity.events (event_id, type, session_id, created_at, received_at, source, payload)
SELECT 'evt_' || n, 'v1.identity.verification_session.created', 'vs_' || n / 3, now() - interval '40 days', now() - interval '40 days', 'webhook', '{}'
FROM generate_series(1, 2500) n`)
	var told []int64
	got, err := open(t, url).Prune(t.Context(), repo.Retention{Payloads: 30 * day}, func(p repo.Pruned) { told = append(told, p.Payloads) })
	if err != nil || got.Payloads != 2500 {
		t.Errorf("pruned %+v, %v", got, err)
	}
	if diff := cmp.Diff([]int64{1000, 2000, 2500}, told); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

// TestPruningIsNotSeenInThePresent delivers a history up to some moment, lets it
// grow old, prunes, and delivers the rest: the sessions are those of the whole
// set, and the history has nothing that the set does not tell.
func TestPruningIsNotSeenInThePresent(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*repo.Store{open(t, url), open(t, url)}
	r := repo.Retention{Payloads: 40 * day, History: 40 * day}
	rapid.Check(t, func(rt *rapid.T) {
		truncate(t, url)
		h := drawHistory(rt, "")
		split := int64(start + rapid.IntRange(1, 5).Draw(rt, "split"))
		first, second, all := history{answers: map[string][]events.Answer{}}, history{answers: map[string][]events.Answer{}}, history{answers: map[string][]events.Answer{}}
		second.erased, all.erased = h.erased, h.erased
		for _, e := range h.events {
			all.events = append(all.events, e)
			if e.Created.Unix() < split {
				first.events = append(first.events, e)
			} else {
				second.events = append(second.events, e)
			}
		}
		for id, answers := range h.answers {
			for _, a := range answers {
				switch {
				case a.Until.Unix() < split:
					first.answers[id] = append(first.answers[id], a)
				case a.From.Unix() >= split:
					second.answers[id] = append(second.answers[id], a)
				default:
					continue
				}
				all.answers[id] = append(all.answers[id], a)
			}
		}
		order := rapid.Uint64().Draw(rt, "order")
		deliver(t, stores, first, order)
		age(t, url, 60*day)
		present := repotest.Rows(t, url).Sessions
		would, err := stores[0].Prunable(t.Context(), r)
		if err != nil {
			rt.Fatalf("count: %v", err)
		}
		for _, want := range []repo.Pruned{would, {}} { // another time finds nothing
			got, err := stores[0].Prune(t.Context(), r, nil)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				rt.Fatalf("pruned: %v (-foreseen +pruned):\n%s", err, diff)
			}
		}
		if diff := cmp.Diff(present, repotest.Rows(t, url).Sessions); diff != "" {
			rt.Fatalf("pruning changed the present (-before +after):\n%s", diff)
		}
		deliver(t, stores, second, order)

		want, got := repotest.Canonical(t, all.rows()), repotest.Rows(t, url)
		for id, row := range want.Sessions {
			// What they hold of options, metadata and reasons goes with the history and
			// the payloads; see TestRowsEqualTheModelInAnyOrder for the answers' own.
			want.Sessions[id], got.Sessions[id] = withoutContent(row), withoutContent(got.Sessions[id])
		}
		if diff := cmp.Diff(want.Sessions, got.Sessions); diff != "" {
			rt.Fatalf("sessions differ from the model (-model +rows):\n%s", diff)
		}
		for id, row := range got.Transitions {
			model, told := want.Transitions[id]
			if row.ErrorReason == "" {
				model.ErrorReason = ""
			}
			if diff := cmp.Diff(model, row); diff != "" || !told {
				rt.Errorf("transition %s is not of the model (-model +row):\n%s", id, diff)
			}
		}
		for id, model := range want.Transitions {
			if _, there := got.Transitions[id]; !there && model.OccurredAt.Unix() >= split {
				rt.Errorf("transition %s is missing: %+v", id, model)
			}
		}
	})
}

func TestPruneRacesDeliveriesRedactionsAndItself(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*repo.Store{open(t, url), open(t, url)}
	var old, late [][]byte
	var erased []string
	for i := range 60 {
		s, all := long(t, fmt.Sprintf("vs_%02d", i), 60*day)
		old = append(old, bodiesOf(all)...)
		late = append(late, s.RequiresInput(ago(2*time.Hour), "document_expired").Body, s.Verified(ago(time.Hour)).Body)
		if i%10 == 0 {
			erased = append(erased, s.ID)
		}
	}
	tellAtOnce(t, stores[0], old...)
	age(t, url, 60*day)

	ctx, stop := context.WithCancel(t.Context())
	var pruners sync.WaitGroup
	for _, s := range stores {
		pruners.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Prune(ctx, repo.Retention{Payloads: 30 * day, Quarantine: day, Outputs: day, History: 40 * day}, nil); err != nil && ctx.Err() == nil {
					t.Errorf("prune: %v", err)
				}
			}
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() { tellAtOnce(t, stores[1], late...) })
	wg.Go(func() {
		if err := stores[0].Redact(t.Context(), erased...); err != nil {
			t.Errorf("redact: %v", err)
		}
	})
	wg.Wait()
	stop()
	pruners.Wait()
	if _, err := stores[0].Prune(t.Context(), repo.Retention{Payloads: 30 * day, History: 40 * day}, nil); err != nil {
		t.Errorf("prune: %v", err)
	}

	var set []*events.Event
	for _, body := range append(old, late...) {
		set = append(set, read(t, body))
	}
	want, got := repotest.Canonical(t, events.Model(set, erased...)), repotest.Rows(t, url)
	if diff := cmp.Diff(want.Sessions, got.Sessions); diff != "" {
		t.Errorf("sessions differ from the model (-model +rows):\n%s", diff)
	}
	for id := range got.Transitions {
		if _, told := want.Transitions[id]; !told {
			t.Errorf("transition %s is not of the model", id)
		}
	}
}
