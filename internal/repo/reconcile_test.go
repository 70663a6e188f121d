package repo_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

func TestALeaseHasOneHolder(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	// One of them as behind a pooler in transaction mode.
	replicas := []*repo.Store{open(t, url), open(t, url+"&default_query_exec_mode=cache_describe")}
	var holders atomic.Int64
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			held, err := replicas[n%2].Lease(t.Context(), "x", strconv.Itoa(n), time.Hour)
			if err != nil {
				t.Errorf("lease: %v", err)
			}
			if held {
				holders.Add(1)
			}
		})
	}
	wg.Wait()
	if n := holders.Load(); n != 1 {
		t.Fatalf("%d holders, want 1", n)
	}
	holder := one(t, url, `SELECT holder FROM stripe_identity.leases`)[0]
	take := func(who string, d time.Duration, want bool) {
		t.Helper()
		if held, err := replicas[0].Lease(t.Context(), "x", who, d); err != nil || held != want {
			t.Errorf("%s holds the lease: %v, %v; want %v", who, held, err, want)
		}
	}
	take(holder, time.Hour, true) // it prolongs
	take("other", time.Hour, false)
	if err := replicas[1].Release(t.Context(), "x", "other"); err != nil {
		t.Errorf("release: %v", err)
	}
	take("other", time.Hour, false) // it was not theirs
	if err := replicas[1].Release(t.Context(), "x", holder); err != nil {
		t.Errorf("release: %v", err)
	}
	take("other", 0, true) // and is over at once
	take("third", time.Hour, true)
	take("other", time.Hour, false)
	if held, err := replicas[0].Lease(t.Context(), "y", "other", time.Hour); err != nil || !held {
		t.Errorf("a lease of another name: %v, %v", held, err)
	}
}

func TestGaugesTellOfReconcile(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url)
	bring := func(source, id string, received time.Time) {
		e := read(t, newSession(1, id).Created(at(0)).Body)
		e.ID, e.Source, e.ReceivedAt = "evt_"+id, source, received
		if _, err := s.Record(t.Context(), e); err != nil {
			t.Fatalf("record: %v", err)
		}
	}
	bring(events.SourceReconcile, "vs_1", time.Now().Add(-time.Hour))
	bring(events.SourceReconcile, "vs_2", time.Now().Add(-23*time.Hour))
	bring(events.SourceReconcile, "vs_3", time.Now().Add(-25*time.Hour))
	bring(events.SourceWebhook, "vs_4", time.Now().Add(-time.Hour))
	for _, r := range []repo.ReconcileRun{
		{StartedAt: at(0), FinishedAt: at(100), Result: "ok"}, {StartedAt: at(200), FinishedAt: at(300), Result: "partial"}, {StartedAt: at(400)},
	} {
		id, err := s.BeginRun(t.Context(), r)
		if err == nil && r.Result != "" {
			err = s.EndRun(t.Context(), id, r)
		}
		if err != nil {
			t.Fatalf("note a run: %v", err)
		}
	}
	watch(t, url).expect(t, map[string]float64{
		"webhookd_reconcile_last_complete_timestamp_seconds": float64(at(100).Unix()), "webhookd_reconciled_events": 2,
	})
}

func TestWhatReconcileAsksForIsReachedByKey(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	gone, broken := newSession(1, "vs_gone"), newSession(2, "vs_broken")
	first := gone.Created(at(0))
	twice := broken.Created(at(0))
	tell(t, s, first.Body, newSession(3, "vs_3").Thin(newSession(3, "vs_3").Created(at(0))).Body,
		edit(t, twice.Body, map[string]any{"id": "evt_released", "data.object.status": 5}),
		edit(t, twice.Body, map[string]any{"id": "evt_released"}),
		edit(t, twice.Body, map[string]any{"id": "evt_broken", "data.object.status": 5, "account": "acct_2"}))
	if err := s.Redact(t.Context(), "vs_gone", "vs_never"); err != nil {
		t.Fatalf("redact: %v", err)
	}

	known, err := s.Known(t.Context(), []string{first.ID, "evt_released", "evt_broken", "evt_other"})
	if diff := cmp.Diff(map[string]repo.Knowledge{
		first.ID: repo.Recorded, "evt_released": repo.Recorded, "evt_broken": repo.InQuarantine,
	}, known); err != nil || diff != "" {
		t.Errorf("known: %v (-want +got):\n%s", err, diff)
	}
	states, err := s.States(t.Context(), []string{"vs_gone", "vs_never", "vs_broken", "vs_3", "vs_other"})
	if diff := cmp.Diff(map[string]repo.SessionState{
		"vs_gone":   {Known: true, State: events.State{Status: "requires_input", Redaction: "redacted"}, LastEvent: at(0)},
		"vs_never":  {Known: true, State: events.State{Redaction: "redacted"}},
		"vs_broken": {Known: true, State: events.State{Status: "requires_input"}, LastEvent: at(0), NeedsRefresh: true},
	}, states); err != nil || diff != "" {
		t.Errorf("states: %v (-want +got):\n%s", err, diff)
	}
	owners, err := s.Owners(t.Context())
	if diff := cmp.Diff([]repo.Owner{{Live: true}, {Live: true, Account: "acct_2"}}, owners); err != nil || diff != "" {
		t.Errorf("owners: %v (-want +got):\n%s", err, diff)
	}
}
