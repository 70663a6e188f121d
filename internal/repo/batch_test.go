package repo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"webhookd/internal/events"
	"webhookd/internal/pgdev"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

// verified is a snapshot of a session of its own.
func verified(tb testing.TB, event, session string) *events.Event {
	tb.Helper()
	return parse(tb, map[string]any{
		"id": event, "type": events.TypeVerified, "created": start, "livemode": true,
		"data": map[string]any{"object": map[string]any{"id": session, "status": "verified", "livemode": true, "type": "document"}},
	})
}

// hold locks a session's row until the answered function is called.
func hold(tb testing.TB, url, session string) (release func()) {
	tb.Helper()
	conn := connect(tb, url)
	for _, sql := range []string{"BEGIN", fmt.Sprintf("SELECT 1 FROM stripe_identity.verification_sessions WHERE id = '%s' FOR UPDATE", session)} {
		if _, err := conn.Exec(tb.Context(), sql); err != nil {
			tb.Fatalf("%s: %v", sql, err)
		}
	}
	var once sync.Once
	release = func() {
		once.Do(func() {
			if err := conn.Close(context.Background()); err != nil {
				tb.Errorf("release: %v", err)
			}
		})
	}
	tb.Cleanup(release)
	return release
}

// busy keeps a committer busy until the answered function is called: what comes
// meanwhile waits, and is one batch.
func busy(tb testing.TB, url string, s *repo.Store) (release func()) {
	tb.Helper()
	execute(tb, url, `
CREATE TABLE public.released ();
CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM public.released) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER wait BEFORE INSERT ON stripe_identity.events FOR EACH ROW WHEN (NEW.event_id = 'evt_busy') EXECUTE FUNCTION public.wait()`)
	answered := make(chan error, 1)
	e := verified(tb, "evt_busy", "vs_busy")
	go func() { _, err := s.Record(tb.Context(), e); answered <- err }()
	eventually(tb, "the committer is busy", func() bool {
		return len(one(tb, url, `SELECT wait_event FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`)) > 0
	})
	return func() {
		tb.Helper()
		execute(tb, url, `INSERT INTO public.released DEFAULT VALUES`)
		if err := <-answered; err != nil {
			tb.Errorf("what the committer was busy with: %v", err)
		}
	}
}

// waiting waits until so many events wait for a committer.
func waiting(tb testing.TB, reg *prometheus.Registry, n int) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%d events wait", n), func() bool { return metric(tb, reg, "webhookd_queue_length").GetGauge().GetValue() == float64(n) })
}

func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within 30 s: %s", what)
		}
	}
}

// result is what one of many concurrent calls of Record came to.
type result struct {
	outcome events.Outcome
	err     error
	took    time.Duration
}

// recordAll records events at once and waits for every answer.
func recordAll(tb testing.TB, s *repo.Store, timeout time.Duration, all ...*events.Event) []result {
	tb.Helper()
	results := make([]result, len(all))
	var wg sync.WaitGroup
	for i, e := range all {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(tb.Context(), timeout)
			defer cancel()
			begun := time.Now()
			o, err := s.Record(ctx, e)
			results[i] = result{o, err, time.Since(begun)}
		})
	}
	wg.Wait()
	return results
}

func TestEventsThatWaitFormOneBatch(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	reg := prometheus.NewRegistry()
	s := open(t, url, func(o *repo.Options) { o.Committers, o.Registry = 1, reg })
	var all []*events.Event
	for i := range 200 {
		all = append(all, verified(t, fmt.Sprintf("evt_%d", i), fmt.Sprintf("vs_%d", i%50)))
	}
	for i, r := range recordAll(t, s, 10*time.Second, all...) {
		if r.err != nil {
			t.Errorf("event %d: %v", i, r.err)
		}
	}
	if n, commits := sum(t, reg, "webhookd_commit_events"), count(t, reg, "webhookd_commit_events"); n != 200 || commits >= 100 {
		t.Errorf("%v events in %v commits, want 200 in far fewer", n, commits)
	}
}

// sum is the value of a counter, or the sum of a histogram.
func sum(tb testing.TB, reg *prometheus.Registry, name string) float64 {
	tb.Helper()
	m := metric(tb, reg, name)
	return m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
}

func count(tb testing.TB, reg *prometheus.Registry, name string) uint64 {
	tb.Helper()
	return metric(tb, reg, name).GetHistogram().GetSampleCount()
}

func metric(tb testing.TB, reg *prometheus.Registry, name string) *dto.Metric {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0]
		}
	}
	tb.Fatalf("there is no metric %s", name)
	return nil
}

func TestAHeldSessionHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url, func(o *repo.Options) { o.Committers, o.LockTimeout = 1, 2*time.Second })
	recordAll(t, s, 10*time.Second, verified(t, "evt_first", "vs_held"))
	hold(t, url, "vs_held")

	all := []*events.Event{verified(t, "evt_held_1", "vs_held")}
	for i := range 20 {
		all = append(all, verified(t, fmt.Sprintf("evt_free_%d", i), fmt.Sprintf("vs_free_%d", i)))
	}
	for i, r := range recordAll(t, s, 10*time.Second, all...) {
		switch {
		case i == 0 && !errors.Is(r.err, events.ErrLocked):
			t.Errorf("the held session's event: %v, want ErrLocked", r.err)
		case i > 0 && (r.err != nil || r.took > time.Second):
			t.Errorf("its neighbour %d: %v after %v", i, r.err, r.took)
		}
	}
	// Once a session is known to be held, its events delay a batch no more.
	var wg sync.WaitGroup
	wg.Go(func() { recordAll(t, s, 10*time.Second, verified(t, "evt_held_again", "vs_held")) })
	time.Sleep(500 * time.Millisecond)
	fastest := time.Minute
	for i := range 5 {
		wg.Go(func() { recordAll(t, s, 10*time.Second, verified(t, fmt.Sprintf("evt_held_again_%d", i), "vs_held")) })
		time.Sleep(20 * time.Millisecond) // the committer has it
		id := fmt.Sprintf("free_again_%d", i)
		r := recordAll(t, s, 10*time.Second, verified(t, "evt_"+id, "vs_"+id))[0]
		if r.err != nil {
			t.Errorf("a neighbour of a session that is known to be held: %v", r.err)
		}
		fastest = min(fastest, r.took)
	}
	if fastest > 150*time.Millisecond {
		t.Errorf("the neighbours of a session that is known to be held: each after %v and more", fastest)
	}
	wg.Wait()
}

// Also where a delivery has less time than a batch usually waits for a session.
func TestAHeldSessionHoldsUpNoOtherIfTimeIsShort(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	recordAll(t, open(t, url), 10*time.Second, verified(t, "evt_first", "vs_held"))
	s := open(t, url, func(o *repo.Options) { o.Committers, o.CommitTimeout = 1, 200*time.Millisecond })
	hold(t, url, "vs_held")
	var held, free result
	for i := range 20 { // 200 ms are short for a busy machine too
		got := recordAll(t, s, 10*time.Second,
			verified(t, fmt.Sprintf("evt_held_%d", i), "vs_held"), verified(t, fmt.Sprintf("evt_free_%d", i), fmt.Sprintf("vs_free_%d", i)))
		if held, free = got[0], got[1]; errors.Is(held.err, events.ErrLocked) && free.err == nil {
			return
		}
	}
	t.Errorf("the held session's event: %v, want ErrLocked; its neighbour: %v", held.err, free.err)
}

func TestAnswersThatWaitForHeldSessionsHoldUpNoDelivery(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url)
	var asking sync.WaitGroup
	for i := range 8 {
		id := fmt.Sprintf("vs_held_%d", i)
		recordAll(t, s, 10*time.Second, verified(t, "evt_"+id, id))
		hold(t, url, id)
		answer := &events.Answer{From: at(0), Until: at(1), Session: read(t, newSession(1, id).Created(at(0)).Body).Session}
		asking.Go(func() { // each of them in vain
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, _ = s.Serve(ctx, &repo.Wish{Session: id}, answer)
		})
	}
	time.Sleep(200 * time.Millisecond)
	for i := range 5 {
		if r := recordAll(t, s, 10*time.Second, verified(t, fmt.Sprintf("evt_%d", i), fmt.Sprintf("vs_free_%d", i)))[0]; r.err != nil || r.took > time.Second {
			t.Errorf("a delivery beside them: %v after %v", r.err, r.took)
		}
	}
	asking.Wait()
}

func TestASessionThatIsLetGoIsRecorded(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url, func(o *repo.Options) { o.LockTimeout = 5 * time.Second })
	recordAll(t, s, 10*time.Second, verified(t, "evt_first", "vs_held"))
	release := hold(t, url, "vs_held")
	time.AfterFunc(700*time.Millisecond, release)
	if r := recordAll(t, s, 10*time.Second, verified(t, "evt_second", "vs_held"))[0]; r.err != nil || r.outcome != events.Twin {
		t.Errorf("answered %q, %v after %v", r.outcome, r.err, r.took)
	}
}

func TestOneBadEventOfABatchIsQuarantinedAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	reg := prometheus.NewRegistry()
	s := open(t, url, func(o *repo.Options) { o.Committers, o.Registry = 1, reg })
	bad := verified(t, "evt_bad", "vs_bad")
	bad.Payload = []byte(`{"no":"json`)
	all := []*events.Event{bad}
	for i := range 40 {
		all = append(all, verified(t, fmt.Sprintf("evt_%d", i), fmt.Sprintf("vs_%d", i)))
	}
	release := busy(t, url, s)
	done := make(chan []result, 1)
	go func() { done <- recordAll(t, s, 10*time.Second, all...) }()
	waiting(t, reg, len(all))
	release()
	for i, r := range <-done {
		want := events.Applied
		if i == 0 {
			want = events.Quarantined
		}
		if r.err != nil || r.outcome != want {
			t.Errorf("event %d: %q, %v, want %q", i, r.outcome, r.err, want)
		}
	}
	if n := sum(t, reg, "webhookd_rejected_batches_total"); n == 0 {
		t.Error("webhookd_rejected_batches_total is zero")
	}
}

// Two endpoints of other API versions deliver one event, and of one version it
// cannot be understood.
func TestAnEventThatComesBrokenAndWholeInOneBatchLeavesQuarantine(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	reg := prometheus.NewRegistry()
	s := open(t, url, func(o *repo.Options) { o.Committers, o.Registry = 1, reg })
	release := busy(t, url, s)
	whole := verified(t, "evt_both", "vs_1")
	broken := &events.Event{
		ID: whole.ID, Type: whole.Type, SessionID: whole.SessionID, Kind: events.Broken, Fault: "of the test",
		Created: whole.Created, Source: whole.Source, ReceivedAt: whole.ReceivedAt,
	}
	var wg sync.WaitGroup
	for i, e := range []*events.Event{broken, whole} {
		wg.Go(func() {
			if r := recordAll(t, s, 10*time.Second, e)[0]; r.err != nil {
				t.Errorf("%s: %v", e.ID, r.err)
			}
		})
		waiting(t, reg, i+1)
	}
	release()
	wg.Wait()
	if n := sum(t, reg, "webhookd_rejected_batches_total"); n != 0 {
		t.Errorf("%v batches were split, want none", n)
	}
	got := query(t, url, `
SELECT count(*) FILTER (WHERE resolved_at IS NOT NULL), count(*),
       (SELECT count(*) FROM stripe_identity.status_transitions WHERE event_id = 'evt_both')
FROM stripe_identity.quarantined_events`)[0]
	if diff := cmp.Diff([]any{int64(1), int64(1), int64(1)}, got); diff != "" {
		t.Errorf("resolved, quarantined, applied (-want +got):\n%s", diff)
	}
}

func TestAFullQueueAnswersAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url, func(o *repo.Options) { o.Committers, o.QueueLength, o.BatchMax = 1, 2, 1 })
	// An ACCESS EXCLUSIVE lock stops every commit.
	conn := connect(t, url)
	for _, sql := range []string{"BEGIN", "LOCK TABLE stripe_identity.verification_sessions"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	var all []*events.Event
	for i := range 20 {
		all = append(all, verified(t, fmt.Sprintf("evt_%d", i), fmt.Sprintf("vs_%d", i)))
	}
	full := 0
	for _, r := range recordAll(t, s, 3*time.Second, all...) {
		if errors.Is(r.err, events.ErrQueueFull) {
			full++
			if r.took > time.Second {
				t.Errorf("told that the queue is full after %v", r.took)
			}
		}
	}
	if full < 10 {
		t.Errorf("%d of 20 were told that the queue is full", full)
	}
}

// What waits for a session that somebody holds counts with what waits for a
// committer, and is told at its deadline what it waited for.
func TestTheQueueBoundsWhatWaitsForHeldSessionsToo(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url, func(o *repo.Options) { o.QueueLength, o.LockTimeout = 4, 5*time.Second })
	recordAll(t, s, 10*time.Second, verified(t, "evt_first", "vs_held"))
	hold(t, url, "vs_held")

	answers := make([]error, 20)
	var wg sync.WaitGroup
	for i := range answers {
		e := verified(t, fmt.Sprintf("evt_held_%d", i), "vs_held")
		wg.Go(func() { answers[i] = recordAll(t, s, 2*time.Second, e)[0].err })
		time.Sleep(50 * time.Millisecond) // the committer takes it and goes on
	}
	wg.Wait()
	full := 0
	for i, err := range answers {
		switch {
		case errors.Is(err, events.ErrQueueFull):
			full++
		case !errors.Is(err, events.ErrLocked):
			t.Errorf("event %d: %v, want ErrLocked", i, err)
		}
	}
	// Those that a committer has in hand are not counted with what waits.
	if waited := len(answers) - full; waited < 2 || waited > 10 {
		t.Errorf("%d of %d events of a held session were taken in by a queue of 4", waited, len(answers))
	}
}

func TestCloseCommitsWhatWasTaken(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, err := repo.Open(t.Context(), repo.Options{URL: url, Committers: 1})
	if err != nil {
		t.Fatal(err)
	}
	var all []*events.Event
	for i := range 100 {
		all = append(all, verified(t, fmt.Sprintf("evt_%d", i), fmt.Sprintf("vs_%d", i)))
	}
	done := make(chan []result)
	go func() { done <- recordAll(t, s, 10*time.Second, all...) }()
	time.Sleep(5 * time.Millisecond)
	s.Close()
	for i, r := range <-done {
		if r.err != nil && !errors.Is(r.err, events.ErrDraining) {
			t.Errorf("event %d: %v", i, r.err)
		}
	}
	if _, err := s.Record(t.Context(), verified(t, "evt_late", "vs_late")); !errors.Is(err, events.ErrDraining) {
		t.Errorf("after Close: %v, want ErrDraining", err)
	}
}

// A plan made while the tables were known to be empty must not read all of them
// later, nor all of an index.
func TestWritesReachTheirRowsByKey(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	const quarantined = 3000
	execute(t, url, fmt.Sprintf(`
INSERT INTO stripe_identity.quarantined_events (event_id, type, session_id, received_at, reason, source)
SELECT 'evt_q' || i, 'identity.verification_session.frozen', 'vs_q' || i, now(), 'of the test', 'webhook'
FROM generate_series(1, %d) i`, quarantined))
	execute(t, url, `ANALYZE`)
	s, err := repo.Open(t.Context(), repo.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		var all []*events.Event
		for i := range 30 {
			all = append(all, verified(t, fmt.Sprintf("evt_%d_%d", round, i), fmt.Sprintf("vs_%d_%d", round, i)))
		}
		recordAll(t, s, 10*time.Second, all...)
	}
	s.Close() // its sessions report their statistics as they end
	conn := connect(t, url)
	defer func() { _ = conn.Close(context.Background()) }()
	var inserted, read, byIndex int64
	for range 50 {
		err := conn.QueryRow(t.Context(), `
SELECT coalesce(sum(n_tup_ins), 0), coalesce(sum(seq_tup_read), 0),
       (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'stripe_identity')
FROM pg_stat_user_tables
WHERE schemaname = 'stripe_identity' AND relname <> 'schema_migrations'`).Scan(&inserted, &read, &byIndex)
		if err != nil {
			t.Fatal(err)
		}
		if inserted -= quarantined; inserted >= 1800 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if inserted < 1800 || read > 100 {
		t.Errorf("%d rows written, %d read in sequential scans, want 1800 and next to none", inserted, read)
	}
	if byIndex > 4*inserted {
		t.Errorf("%d rows written, %d read in indexes, want a few for each", inserted, byIndex)
	}
}

// NOTIFY takes one lock for the whole server at COMMIT: waiting for it is not
// waiting for a session.
func TestASlowCommitThatNotifiesLocksNoSession(t *testing.T) {
	t.Parallel()
	server, err := pgdev.Start(t.Context(), pgdev.Options{Ephemeral: true, Settings: map[string]string{
		"wal_level": "replica", "max_wal_senders": "2", "synchronous_standby_names": "nobody",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	url := server.URL("webhookd") + "&options=-c%20synchronous_commit%3Dlocal"
	if _, err := repo.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	slow := connect(t, server.URL("webhookd")) // its COMMIT waits for a standby that never comes
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = slow.Exec(context.Background(), "BEGIN; CREATE TABLE x (); NOTIFY elsewhere; COMMIT")
	}()
	time.Sleep(500 * time.Millisecond)
	s := open(t, url, func(o *repo.Options) { o.LockTimeout = 300 * time.Millisecond })
	canceled := make(chan struct{})
	time.AfterFunc(1500*time.Millisecond, func() {
		defer close(canceled)
		execute(t, url, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	})
	if r := recordAll(t, s, 10*time.Second, verified(t, "evt_1", "vs_1"))[0]; r.err != nil || r.outcome != events.Applied {
		t.Errorf("answered %q, %v after %v", r.outcome, r.err, r.took)
	}
	<-canceled
	<-ended
}

func TestAnEventWithoutASessionThatHasToWaitIsAnsweredInTime(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url)
	conn := connect(t, url)
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range []string{"BEGIN", `
INSERT INTO stripe_identity.quarantined_events (event_id, type, received_at, reason, source)
VALUES ('evt_1', 'x', now(), 'x', 'webhook')`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	e, err := events.Parse([]byte(`{"id":"evt_1","type":"identity.verification_session.x"}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := recordAll(t, s, 8*time.Second, e)[0]; !errors.Is(r.err, events.ErrLocked) || r.took > 2*time.Second {
		t.Errorf("answered %q, %v after %v", r.outcome, r.err, r.took)
	}
}

func TestAFaultOfOursEndsInQuarantineAndNotTheProcess(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url, func(o *repo.Options) { o.Committers = 1 })
	poison := verified(t, "evt_poison", "vs_1")
	poison.SessionID = "" // Parse makes no such snapshot
	results := recordAll(t, s, 10*time.Second, poison, verified(t, "evt_1", "vs_1"), verified(t, "evt_2", "vs_2"))
	for i, want := range []events.Outcome{events.Quarantined, events.Applied, events.Applied} {
		if results[i].err != nil || results[i].outcome != want {
			t.Errorf("event %d: %q, %v, want %q", i, results[i].outcome, results[i].err, want)
		}
	}
	if !strings.Contains(poison.Fault, "webhookd's own") {
		t.Errorf("whoever delivered it is told of the fault %q", poison.Fault)
	}
	reason := one(t, url, `SELECT reason FROM stripe_identity.quarantined_events WHERE event_id = 'evt_poison'`)
	if len(reason) != 1 || !strings.Contains(reason[0], "webhookd's own") || !strings.Contains(reason[0], ".go:") {
		t.Errorf("the reason %q does not say where the fault is", reason)
	}
}

// Of three changes in one second the twin that comes last makes another one
// the newest, whose content then comes from history.
func TestContentComesBackWhole(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]string{"the twin last": {"c", "d", "a"}, "the twin first": {"a", "d", "c"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			s := open(t, url)
			for _, id := range order {
				report := map[string]any{"c": "vr_2", "d": "vr_1", "a": "vr_2"}[id]
				e := parse(t, map[string]any{
					"id": "evt_" + id, "type": events.TypeVerified, "created": start,
					"data": map[string]any{"object": map[string]any{
						"id": "vs_1", "status": "verified", "last_verification_report": report,
						"metadata": map[string]any{"url": "https://crm.example/1", "of": report},
					}},
				})
				if _, err := s.Record(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
			got := one(t, url, `SELECT last_event_id || ' ' || metadata::text FROM stripe_identity.verification_sessions`)
			if want := `evt_d {"of": "vr_1", "url": "https://crm.example/1"}`; got[0] != want {
				t.Errorf("the session has %s, want %s", got, want)
			}
		})
	}
}

// A connection keeps the defaults that it had when it was made.
func TestADatabaseThatWasReadOnlyIsWrittenAgainAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	set := func(to string) {
		execute(t, url, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = `+to+`', current_database()); END $$`)
	}
	set("on")
	s := open(t, url)
	for i := range 4 {
		if _, err := s.Record(t.Context(), verified(t, fmt.Sprintf("evt_%d", i), "vs_1")); err == nil {
			t.Fatal("recorded in a database that is read-only")
		}
	}
	conn, err := pgx.Connect(t.Context(), url+"&default_transaction_read_only=off")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o, err := s.Record(t.Context(), verified(t, "evt_9", "vs_1")); err != nil || o != events.Applied {
		t.Errorf("afterwards: %q, %v", o, err)
	}
}
