package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"webhookd/migrations"
)

// Health is what the last look at the database found.
type Health struct {
	Up     bool
	Schema int64 // version that was read last; zero while none was
	// Ready says that a sufficient schema was seen since the start. A database
	// that goes away later does not take it back: every replica would lose its
	// traffic at once, and Stripe's retries are the better queue.
	Ready bool
	Err   error // in our own words; nil while up and sufficient
	Stale error // why the gauges could not be counted the last time; likewise
}

// Watch looks at the database every 2 seconds, and every 15 seconds counts
// what its gauges show, until ctx ends. health keeps the last result; changed
// is told the first one, and each that differs in Up or in whether there is an Err or a Stale.
func (s *Store) Watch(ctx context.Context, health *atomic.Pointer[Health], changed func(Health)) {
	const every, gauges = 2 * time.Second, 15 * time.Second
	s.metrics.required.Set(float64(migrations.Version()))
	tick := time.NewTicker(every)
	defer tick.Stop()
	var counted time.Time
	ready := false
	for {
		h, read := s.check(ctx)
		if ctx.Err() != nil {
			return // the check was broken off, and says nothing
		}
		h.Ready = ready || h.Ready
		ready = h.Ready
		last := health.Load()
		if last != nil && !read {
			h.Schema = last.Schema
		}
		if last != nil {
			h.Stale = last.Stale
		}
		if last != nil && h.Up && !last.Up {
			s.pool.Reset() // a connection keeps the defaults of its time, such as read-only
		}
		health.Store(&h)
		if last == nil || last.Up != h.Up || (last.Err == nil) != (h.Err == nil) {
			changed(h)
		}
		if h.Up && h.Err == nil && time.Since(counted) >= gauges {
			now := h
			now.Stale, counted = s.count(ctx), time.Now()
			health.Store(&now)
			if (now.Stale == nil) != (h.Stale == nil) && ctx.Err() == nil {
				changed(now)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var errReadOnly = errors.New("the database is read-only: is this not the primary?")

// check looks once. read reports whether the schema's version was read: that it
// could not be is no old schema.
func (s *Store) check(ctx context.Context) (h Health, read bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	pool, readOnly := cmp.Or(s.watch, s.pool), false
	err := pool.QueryRow(ctx, `
SELECT coalesce(max(version_id), 0), pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean
FROM stripe_identity.schema_migrations WHERE is_applied`).Scan(&h.Schema, &readOnly)
	_, code := blameFor(err)
	read = err == nil || code == "42P01" || code == "3F000" // there is none
	h.Up = (err == nil || answered(err, code)) && !readOnly
	required := migrations.Version()
	h.Ready = err == nil && h.Schema >= required // at present
	switch {
	case read && h.Schema < required:
		h.Err = fmt.Errorf("schema is at version %d, this build needs %d: run webhookd migrate up", h.Schema, required)
	case err != nil:
		h.Err = plain("check database", err)
	case readOnly:
		h.Err = errReadOnly
		pool.Reset() // a connection keeps the default that it was made with
	}
	up := 0.0
	if h.Up {
		up = 1
	}
	s.metrics.up.Set(up)
	if read {
		s.metrics.schema.Set(float64(h.Schema))
	}
	return h, read
}

// answered reports whether an error is the answer of a database that lets us
// in. By their classes, because a pooler passes them on later: it has no
// connection (08), refuses the user (28), has no such database (3D), is full
// (53), starts or stops (57).
func answered(err error, code string) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || code == "" {
		return false
	}
	return !slices.ContainsFunc([]string{"08", "28", "3D", "53", "57"}, func(class string) bool { return strings.HasPrefix(code, class) })
}

// count refreshes the gauges that are the same from every replica.
func (s *Store) count(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var quarantined, refresh, thin, outputs, reconciled int64
	var oldest, complete float64
	err := s.pool.QueryRow(ctx, `
SELECT (SELECT count(*) FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL),
       (SELECT count(*) FROM stripe_identity.verification_sessions WHERE needs_refresh),
       (SELECT count(*) FROM stripe_identity.events WHERE type LIKE 'v1.%' AND resolved_at IS NULL),
       (SELECT count(*) FROM stripe_identity.events WHERE source = 'reconcile' AND received_at > now() - interval '24 hours'),
       (SELECT coalesce(date_part('epoch', max(finished_at)), 0) FROM stripe_identity.reconcile_runs WHERE result = 'ok'),
       outputs.pending, outputs.oldest
FROM (
    SELECT count(*) AS pending,
           coalesce(date_part('epoch', now() - min(outputs_wanted_since) FILTER (WHERE livemode = ANY ($1) OR $1 = '{}')), 0) AS oldest
    FROM stripe_identity.verification_sessions s
    WHERE outputs_wanted_since IS NOT NULL
      AND NOT EXISTS (SELECT FROM stripe_identity.wishes WHERE session_id = s.id AND due_at = 'infinity') -- given up
) outputs`, s.asked()).
		Scan(&quarantined, &refresh, &thin, &reconciled, &complete, &outputs, &oldest)
	if err != nil {
		return plain("count for the gauges", err)
	}
	s.metrics.quarantined.Set(float64(quarantined))
	s.metrics.needRefresh.Set(float64(refresh))
	s.metrics.thinPending.Set(float64(thin))
	s.metrics.outputsPending.Set(float64(outputs))
	s.metrics.outputsOldest.Set(max(oldest, 0))
	s.metrics.lastComplete.Set(complete)
	s.metrics.reconciled.Set(float64(reconciled))
	return nil
}
