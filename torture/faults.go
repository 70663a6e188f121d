package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/signature"
)

// kind is a kind of fault. inject begins it and returns how to end it, nil if
// it ends by itself; it is held between least and most.
type kind struct {
	name        string
	least, most time.Duration
	beside      bool // goes on beside others, and notes its recovery itself
	inject      func(ctx context.Context, r *rig, s slot) (end func() error, err error)
}

const (
	short = 200 * time.Millisecond
	some  = 700 * time.Millisecond
	long  = 1500 * time.Millisecond
	more  = patience + some // than anybody waits
)

func kinds() []kind {
	return []kind{
		{"replica killed", 0, short, false, func(ctx context.Context, r *rig, s slot) (func() error, error) {
			one := r.replicas[s.target]
			return one.start, r.inherit(ctx, func() error { return one.kill(ctx) })
		}},
		{"all replicas killed", 0, short, false, func(ctx context.Context, r *rig, _ slot) (func() error, error) {
			return r.startAll, r.inherit(ctx, func() error {
				for _, one := range r.replicas {
					if err := one.kill(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{"replica ended in order", 0, short, false, func(ctx context.Context, r *rig, s slot) (func() error, error) {
			one := r.replicas[s.target]
			return one.start, one.term(ctx)
		}},
		{"replica frozen", patience, more, false, func(_ context.Context, r *rig, s slot) (func() error, error) {
			one := r.replicas[s.target]
			return func() error { return one.signal(syscall.SIGCONT) }, one.signal(syscall.SIGSTOP)
		}},
		{"version upgraded", 0, 0, false, upgrade},
		{"secrets rolled", 0, 0, true, rollSecrets},
		{"clock stepped", some, some, false, func(_ context.Context, r *rig, s slot) (func() error, error) {
			step := 6*60 + int64(s.seed%3000) // beyond the tolerance
			if s.seed&1 == 0 {
				step = -step
			}
			r.stripe.skew.Store(step)
			return func() error { r.stripe.skew.Store(0); return nil }, nil
		}},
		{"PostgreSQL killed", short, some, false, func(ctx context.Context, r *rig, _ slot) (func() error, error) {
			return func() error { return r.db.start(ctx) }, r.db.kill()
		}},
		{"PostgreSQL stopped at once", short, some, false, func(ctx context.Context, r *rig, _ slot) (func() error, error) {
			return func() error { return r.db.start(ctx) }, r.db.now().Kill()
		}},
		{"PostgreSQL restarted in order", 0, short, false, func(ctx context.Context, r *rig, _ slot) (func() error, error) {
			return func() error { return r.db.start(ctx) }, r.db.stop(ctx)
		}},
		{"PostgreSQL read-only", short, some, false, readOnly},
		{"disk full", some, some, false, func(ctx context.Context, r *rig, _ slot) (func() error, error) {
			if err := r.disk.fill(r.db); err != nil {
				return nil, err
			}
			return func() error { return errors.Join(r.disk.free(r.db), r.db.revive(ctx)) }, nil
		}},
		{"COMMIT without an answer", some, some, false, func(_ context.Context, r *rig, _ slot) (func() error, error) {
			for _, p := range r.proxies {
				p.deaf.Store(true)
			}
			return func() error {
				for _, p := range r.proxies {
					p.deaf.Store(false)
				}
				return nil
			}, nil
		}},
		{"connections cut", short, some, false, cut(false)},
		{"connections reset", short, some, false, cut(true)},
		{"connections terminated", 0, short, false, func(ctx context.Context, r *rig, _ slot) (func() error, error) {
			return nil, r.db.terminate(ctx)
		}},
		{"network swallows", patience, more, false, func(_ context.Context, r *rig, s slot) (func() error, error) {
			stop := r.proxies[s.target].swallow()
			return func() error { stop(); return nil }, nil
		}},
		{"network swallows, then resets", some, long, false, func(_ context.Context, r *rig, s slot) (func() error, error) {
			p := r.proxies[s.target]
			stop := p.swallow()
			return func() error { p.cut(true); stop(); return nil }, nil
		}},
		{"network slow", some, long, false, func(_ context.Context, r *rig, s slot) (func() error, error) {
			delay := int64(10*time.Millisecond) + int64(s.seed%uint64(70*time.Millisecond))
			for _, p := range r.proxies {
				p.delay.Store(delay)
			}
			return func() error {
				for _, p := range r.proxies {
					p.delay.Store(0)
				}
				return nil
			}, nil
		}},
		// The sessions of which most is still to come.
		{"rows locked", patience, more, false, locked(`SELECT id FROM stripe_identity.verification_sessions ORDER BY id DESC LIMIT 200 FOR UPDATE`)},
		{"table locked", short, some, false, locked(`LOCK TABLE stripe_identity.status_transitions IN ACCESS EXCLUSIVE MODE`)},
		{"transaction left open", some, long, false, locked(`SELECT count(*) FROM stripe_identity.events`)},
		{"connections used up", some, some, false, useUp},
		{apiAway, some, long, false, func(_ context.Context, r *rig, s slot) (func() error, error) { return r.stripe.api.outage(s), nil }},
	}
}

// apiAway needs an API.
const apiAway = "Stripe's API away"

func (r *rig) startAll() error {
	for _, one := range r.replicas {
		if err := one.start(); err != nil {
			return err
		}
	}
	return nil
}

func cut(hard bool) func(context.Context, *rig, slot) (func() error, error) {
	return func(_ context.Context, r *rig, s slot) (func() error, error) {
		tear := func() {
			for i, p := range r.proxies {
				if s.seed>>i&1 == 0 || i == s.target {
					p.cut(hard)
				}
			}
		}
		tear()
		return func() error { tear(); return nil }, nil
	}
}

// locked holds what one statement takes, in a transaction of somebody else's.
func locked(sql string) func(context.Context, *rig, slot) (func() error, error) {
	return func(ctx context.Context, r *rig, _ slot) (func() error, error) {
		conn, err := r.db.connect(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ`); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
		for { // rows that change meanwhile cannot be had in this isolation
			_, err := conn.Exec(ctx, `SAVEPOINT s; `+sql)
			if err == nil {
				return func() error { return conn.Close(ctx) }, nil
			}
			if ctx.Err() != nil {
				return nil, errors.Join(err, conn.Close(ctx))
			}
			if _, err := conn.Exec(ctx, `ROLLBACK; BEGIN`); err != nil {
				return nil, errors.Join(err, conn.Close(ctx))
			}
		}
	}
}

// upgrade replaces the program of one replica after the other, as a deployment
// does: the schema first.
func upgrade(ctx context.Context, r *rig, _ slot) (func() error, error) {
	r.programs[0], r.programs[1] = r.programs[1], r.programs[0]
	if err := r.command(ctx, r.db.address(), "migrate", "up"); err != nil {
		return nil, err
	}
	for i, one := range r.replicas {
		if err := one.term(ctx); err != nil {
			return nil, err
		}
		one.mu.Lock()
		one.program = r.programs[0]
		one.mu.Unlock()
		if err := one.start(); err != nil {
			return nil, err
		}
		if err := r.probe(ctx, i, time.Now().Add(within)); err != nil {
			r.stripe.objectf("after an upgrade: %v", err)
		}
	}
	return nil, nil //nolint:nilnil // it is over
}

// rollSecrets gives the endpoint a new secret beside the old one, signs with
// both until every replica takes what only the new one signs, and ends the old.
func rollSecrets(ctx context.Context, r *rig, s slot) (func() error, error) {
	r.wait.Wait() // one at a time
	old := *r.stripe.secrets.Load()
	next := "whsec_" + strconv.FormatUint(s.seed, 36)
	if err := r.keep(next, old[0]); err != nil {
		return nil, err
	}
	r.stripe.secrets.Store(&[]string{old[0], next})
	begun := time.Now()
	r.wait.Go(func() {
		for i := range r.replicas { // beside it others are broken
			if err := r.probe(ctx, i, begun.Add(2*within), next); err != nil {
				r.stripe.objectf("a new secret is not taken: %v", err)
			}
		}
		r.recovered("secrets rolled", time.Since(begun))
		r.stripe.secrets.Store(&[]string{next})
		if err := r.keep(next); err != nil {
			r.stripe.objectf("write secrets: %v", err)
		}
	})
	return nil, nil //nolint:nilnil // it goes on beside others
}

func signed(body []byte, secrets []string) string {
	return signature.SignAll(body, time.Now(), secrets...)
}

// other is a connection to a database that no fault is about.
func (d *database) other(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return pgx.Connect(ctx, d.now().URL("postgres"))
}

// terminate ends the connections of all replicas, from inside.
func (d *database) terminate(ctx context.Context) error {
	conn, err := d.other(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'webhookd%'`)
	return err
}

// readOnly is what a failover to the wrong side looks like.
func readOnly(ctx context.Context, r *rig, _ slot) (func() error, error) {
	set := func(sql string) error {
		conn, err := r.db.other(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }() // has done its work
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
		return r.db.terminate(ctx)
	}
	return func() error { return set(`ALTER DATABASE ` + r.db.name + ` RESET default_transaction_read_only`) },
		set(`ALTER DATABASE ` + r.db.name + ` SET default_transaction_read_only = on`)
}

// useUp takes every connection there is, and ends those of the replicas, so
// that they need new ones.
func useUp(ctx context.Context, r *rig, _ slot) (func() error, error) {
	ctx, stop := context.WithCancel(ctx)
	var all []*pgx.Conn
	done := make(chan struct{})
	take := func() {
		for ctx.Err() == nil && len(all) < connectionsMax {
			conn, err := r.db.other(ctx)
			if err != nil {
				return // there is no other
			}
			all = append(all, conn)
		}
	}
	take()
	if len(all) == 0 {
		stop()
		return nil, errors.New("not one connection is free")
	}
	if _, err := all[0].Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'webhookd%'`); err != nil {
		stop()
		return nil, fmt.Errorf("terminate: %w", err)
	}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			take()
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return func() error {
		stop()
		<-done
		for _, conn := range all {
			_ = conn.Close(context.WithoutCancel(ctx)) // frees it either way
		}
		return nil
	}, nil
}
