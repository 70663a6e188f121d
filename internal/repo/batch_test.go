package repo_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"webhookd/internal/events"
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
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "webhookd_commit_events" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if h.GetSampleSum() != 200 || h.GetSampleCount() >= 100 {
			t.Errorf("%v events in %d commits, want 200 in far fewer", h.GetSampleSum(), h.GetSampleCount())
		}
	}
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
	wg.Go(func() { recordAll(t, s, 10*time.Second, verified(t, "evt_held_2", "vs_held")) })
	time.Sleep(500 * time.Millisecond)
	wg.Go(func() { recordAll(t, s, 10*time.Second, verified(t, "evt_held_3", "vs_held")) })
	if r := recordAll(t, s, 10*time.Second, verified(t, "evt_free_x", "vs_free_x"))[0]; r.err != nil || r.took > 200*time.Millisecond {
		t.Errorf("a neighbour of a session that is known to be held: %v after %v", r.err, r.took)
	}
	wg.Wait()
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
	for i, r := range recordAll(t, s, 10*time.Second, all...) {
		want := events.Applied
		if i == 0 {
			want = events.Quarantined
		}
		if r.err != nil || r.outcome != want {
			t.Errorf("event %d: %q, %v, want %q", i, r.outcome, r.err, want)
		}
	}
	if n := testutil.CollectAndCount(reg, "webhookd_rejected_batches_total"); n != 1 {
		t.Errorf("webhookd_rejected_batches_total has %d series", n)
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
	for _, r := range recordAll(t, s, time.Second, all...) {
		if errors.Is(r.err, events.ErrQueueFull) {
			full++
			if r.took > 200*time.Millisecond {
				t.Errorf("told that the queue is full after %v", r.took)
			}
		}
	}
	if full < 10 {
		t.Errorf("%d of 20 were told that the queue is full", full)
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

// A plan made while the tables were empty must not read all of them later.
func TestWritesReachTheirRowsByKey(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
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
	var inserted, read int64
	for range 50 {
		err := conn.QueryRow(t.Context(), `
SELECT coalesce(sum(n_tup_ins), 0), coalesce(sum(seq_tup_read), 0)
FROM pg_stat_user_tables
WHERE schemaname = 'stripe_identity' AND relname <> 'schema_migrations'`).Scan(&inserted, &read)
		if err != nil {
			t.Fatal(err)
		}
		if inserted >= 1800 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if inserted < 1800 || read > 100 {
		t.Errorf("%d rows written, %d read in sequential scans, want 1800 and next to none", inserted, read)
	}
}
