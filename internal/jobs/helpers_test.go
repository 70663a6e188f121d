package jobs_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// full is a key with every right, restricted to an IP.
var full = stripefake.Rights{Sensitive: true, AnyAge: true}

// world is a database, a fake of Stripe, and a worker between them.
type world struct {
	*stripefake.Fake
	url      string
	store    *repo.Store
	api      *stripeapi.Client
	worker   *jobs.Worker
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
	src      *scenario.Source
	recorded chan events.Outcome

	mu   sync.Mutex
	keys map[bool]string
}

// setting changes how a world is made.
type setting func(*stripeapi.Options, *repo.Options, *jobs.Options)

// newWorld makes a world whose worker does not work yet: see start.
func newWorld(tb testing.TB, r stripefake.Rights, settings ...setting) *world {
	tb.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	w := &world{
		Fake: stripefake.InMemory(), url: pgtest.Database(tb), src: scenario.New(1), keys: map[bool]string{},
		registry: prometheus.NewPedanticRegistry(), logs: logs, recorded: make(chan events.Outcome, 100),
	}
	w.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	for _, live := range []bool{true, false} {
		w.setKey(live, w.Key(live, r))
	}
	wake, err := jobs.Waker()
	if err != nil {
		tb.Fatalf("waker: %v", err)
	}
	keyed := func(live bool) bool { _, ok := w.key(live); return ok }
	so := stripeapi.Options{Rate: 1e6, Transport: w.Fake, Key: w.key}
	ro := repo.Options{URL: w.url, Asks: keyed, Wake: wake}
	jo := jobs.Options{
		Keyed: keyed, Window: 48 * time.Hour, Registry: w.registry, Log: zap.New(core), SweepEvery: 300 * time.Millisecond,
		Recorded: func(_ *events.Event, o events.Outcome) { w.recorded <- o },
	}
	for _, set := range settings {
		set(&so, &ro, &jo)
	}
	w.api = stripeapi.New(so)
	tb.Cleanup(w.api.Close)
	if w.store, err = repo.Open(tb.Context(), ro); err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(w.store.Close)
	pool, err := repo.OpenPool(tb.Context(), ro, "jobs test", jobs.Connections)
	if err != nil {
		tb.Fatalf("open pool: %v", err)
	}
	tb.Cleanup(pool.Close)
	jo.Store, jo.Pool, jo.API = w.store, pool, w.api
	if w.worker, err = jobs.New(jo); err != nil {
		tb.Fatalf("new worker: %v", err)
	}
	return w
}

// start lets the worker work until the test ends.
func (w *world) start(tb testing.TB) *world {
	tb.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- w.worker.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			tb.Errorf("run: %v", err)
		}
	})
	return w
}

func (w *world) key(live bool) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key, ok := w.keys[live]
	return key, ok
}

// setKey sets the key of a mode; an empty one takes it away.
func (w *world) setKey(live bool, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys[live] = key; key == "" {
		delete(w.keys, live)
	}
}

// verified is a session that Stripe knows to be verified, and its events.
func (w *world) verified(o scenario.SessionOptions) (*scenario.Session, []scenario.Event) {
	return w.verifiedAt(o, time.Now())
}

func (w *world) verifiedAt(o scenario.SessionOptions, at time.Time) (*scenario.Session, []scenario.Event) {
	s := w.src.Session(o)
	told := []scenario.Event{s.Created(at.Add(-4 * time.Minute)), s.Processing(at.Add(-time.Minute)), s.Verified(at)}
	for _, e := range told {
		w.Tell(s, e)
	}
	return s, told
}

// deliver records events as deliveries of Stripe's.
func (w *world) deliver(tb testing.TB, told ...scenario.Event) {
	tb.Helper()
	for _, t := range told {
		e, err := events.Parse(t.Body)
		if err != nil {
			tb.Fatalf("parse: %v", err)
		}
		e.Source, e.SecretName, e.ReceivedAt = events.SourceWebhook, "main", time.Now()
		if _, err := w.store.Record(tb.Context(), e); err != nil {
			tb.Fatalf("record: %v", err)
		}
	}
}

// value is what a query of one value answers, as text; "" for null and for no row.
func (w *world) value(tb testing.TB, sql string, args ...any) string {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), w.url)
	if err != nil {
		tb.Fatalf("connect: %v", err)
	}
	defer func() { _ = conn.Close(tb.Context()) }()
	rows, err := conn.Query(tb.Context(), sql, args...)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[*string])
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	if len(values) == 0 || values[0] == nil {
		return ""
	}
	return *values[0]
}

func (w *world) wants(tb testing.TB, sql, want string, args ...any) {
	tb.Helper()
	if got := w.value(tb, sql, args...); got != want {
		tb.Errorf("%s: got %q, want %q", sql, got, want)
	}
}

// served waits until nobody is to be asked about any more, and who was asking
// has also counted and logged it, which comes after its commit. A redaction
// ends a wish whose fetch is still under way.
func (w *world) served(tb testing.TB) {
	tb.Helper()
	eventually(tb, "no wish is left, and nobody asks", func() bool {
		return w.value(tb, `SELECT (NOT EXISTS (SELECT FROM stripe_identity.wishes)
    AND NOT EXISTS (SELECT FROM webhookd_jobs.river_job WHERE state = 'running'))::text`) == "true"
	})
}

func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for end := time.Now().Add(45 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("after 45 s not: %s", what)
		}
	}
}

// fetched is a counter of webhookd_outputs_fetches_total.
func (w *world) fetched(tb testing.TB, result string) float64 {
	tb.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		tb.Fatalf("gather: %v", err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "webhookd_outputs_fetches_total" && m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	tb.Fatalf("no series for %s", result)
	return 0
}

// marked counts the rows that have something personal in them.
func (w *world) marked(tb testing.TB) string {
	tb.Helper()
	return w.value(tb, `
SELECT coalesce(string_agg(place, ', '), '')
FROM (
    SELECT 'verified_outputs' AS place, o::text AS row FROM stripe_identity.verified_outputs o
    UNION ALL SELECT 'provided_details', d::text FROM stripe_identity.provided_details d
    UNION ALL SELECT 'events', e::text FROM stripe_identity.events e
    UNION ALL SELECT 'quarantined_events', q::text FROM stripe_identity.quarantined_events q
    UNION ALL SELECT 'answers', a::text FROM stripe_identity.answers a
    UNION ALL SELECT 'jobs', j::text FROM webhookd_jobs.river_job j
) everything
WHERE position($1 IN row) > 0`, scenario.Marker)
}

// roundTrip is a transport that does something around each request.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func isSession(path string) bool { return strings.Contains(path, "/verification_sessions/vs_") }
