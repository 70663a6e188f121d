package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// grows is what must stay flat, and how much more the last third of a soak may
// show than the second: a share, and a constant for what is small. The first
// third fills pools, caches and tables.
func grows() map[string]struct{ share, more float64 } {
	return map[string]struct{ share, more float64 }{
		"memory MB":              {0.15, 8},
		"goroutines":             {0.10, 10},
		"file descriptors":       {0.10, 10},
		"database connections":   {0, 4},
		"deliveries that waited": {0, 500},
		"bytes per live row":     {0.10, 0},
		"dead rows per live row": {0, 0.25}, // autovacuum begins at 0.2
	}
}

// sample is one look, by the names in grows.
type sample map[string]float64

// soakFor delivers at a steady rate and breaks nothing, and fails if anything
// grows.
func (r *rig) soakFor(ctx context.Context, stdout io.Writer) error {
	steady, stop := context.WithCancel(ctx)
	defer stop()
	var delivering sync.WaitGroup
	delivering.Go(func() { r.stripe.run(steady) })
	conn, err := r.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work

	var samples []sample
	begun := time.Now()
	every := max(r.soak/60, time.Second)
	next := begun.Add(every)
	for released := 0; time.Since(begun) < r.soak; {
		if due := int(time.Since(begun).Seconds() * float64(r.rate)); due > released {
			r.stripe.release(ctx, due-released)
			released = due
		}
		if time.Now().After(next) {
			s, err := r.sample(ctx, conn)
			if err != nil {
				return err
			}
			samples, next = append(samples, s), next.Add(every)
			r.sayf("%6s  %4.0f MB  %3.0f goroutines  %3.0f descriptors  %2.0f connections  %5.0f bytes a row  %.2f dead",
				time.Since(begun).Round(time.Second), s["memory MB"], s["goroutines"], s["file descriptors"], s["database connections"],
				s["bytes per live row"], s["dead rows per live row"])
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.stripe.rest(ctx)
	if err := r.settle(ctx); err != nil {
		return err
	}
	stop()
	delivering.Wait()
	c := r.stripe.counts
	fmt.Fprintf(stdout, "%v at %d deliveries a second to %d replicas: %d acknowledged, %d answered 503, %d not at all\n\n",
		r.soak, r.rate, len(r.replicas), c.Acked, c.Unavailable, c.Broken)
	return errors.Join(flat(samples, stdout), r.still())
}

// still is what else must hold after a soak.
func (r *rig) still() error {
	if c := r.stripe.counts; c.Unavailable+c.Broken+r.stripe.wrongs > 0 {
		return fmt.Errorf("%d deliveries were answered 503, %d not at all; %v", c.Unavailable, c.Broken, r.stripe.wrong)
	}
	return nil
}

// sample looks at the worst replica, and at the tables.
func (r *rig) sample(ctx context.Context, conn *pgx.Conn) (sample, error) {
	s := sample{}
	for _, one := range r.replicas {
		pid := one.pid()
		s["memory MB"] = max(s["memory MB"], resident(pid)/(1<<20))
		seen := one.look(ctx)
		s["goroutines"] = max(s["goroutines"], seen["go_goroutines"])
		files, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
		if err != nil {
			return nil, fmt.Errorf("count file descriptors: %w", err)
		}
		s["file descriptors"] = max(s["file descriptors"], float64(len(files)))
		s["deliveries that waited"] = max(s["deliveries that waited"], seen["webhookd_queue_length"])
	}
	var connections int
	var dead, size float64
	err := conn.QueryRow(ctx, `
SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'webhookd%'),
       coalesce(sum(n_dead_tup)::float8 / nullif(sum(n_live_tup), 0), 0),
       coalesce(sum(pg_total_relation_size(relid))::float8 / nullif(sum(n_live_tup), 0), 0)
FROM pg_stat_user_tables WHERE schemaname = 'stripe_identity'`).Scan(&connections, &dead, &size)
	s["database connections"], s["dead rows per live row"], s["bytes per live row"] = float64(connections), dead, size
	return s, err
}

// flat compares the second third of a soak with the last.
func flat(samples []sample, stdout io.Writer) error {
	if len(samples) < 9 {
		return fmt.Errorf("%d samples are too few: soak longer", len(samples))
	}
	third := len(samples) / 3
	var errs []error
	fmt.Fprintf(stdout, "| what | first third | second | last | most |\n|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(grows())) {
		of := func(part []sample) float64 {
			var all []float64
			for _, s := range part {
				all = append(all, s[name])
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		first, second, last := of(samples[:third]), of(samples[third:2*third]), of(samples[2*third:])
		limit := grows()[name]
		most := second*(1+limit.share) + limit.more
		fmt.Fprintf(stdout, "| %s | %.2f | %.2f | %.2f | %.2f |\n", name, first, second, last, most)
		if last > most {
			errs = append(errs, fmt.Errorf("%s grows: %.2f after %.2f", name, last, second))
		}
	}
	return errors.Join(errs...)
}
