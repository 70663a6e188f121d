package repo_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

// A connection of ours keeps the settings of writes. Behind a pooler it may be
// somebody else's tomorrow.
func TestSettingsOfWritesStayWithinOurConnections(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	pooled := parsed(t, url)
	pooled.Host = pooler(t, pooled.Host)
	for name, c := range map[string]struct{ url, lockTimeout string }{
		"a connection of ours":                {url, "250ms"},
		"behind a pooler":                     {pooled.String(), "0"},
		"behind a pooler, as is said in docs": {pooled.String() + "&default_query_exec_mode=cache_describe", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, c.url)
			tell(t, s, newSession(1, "vs_"+name).Created(at(0)).Body)
			if got, err := s.Setting(t.Context(), "lock_timeout"); got != c.lockTimeout || err != nil {
				t.Errorf("lock_timeout %q, error %v, want %q", got, err, c.lockTimeout)
			}
		})
	}
}

// Who answers the login and nothing more does not use up the connections.
func TestAServerThatFallsSilentAfterTheLoginIsLeft(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var silent atomic.Bool
	silent.Store(true)
	through := falling(t, url, &silent)
	s := open(t, through+"&pool_max_conns=2", func(o *repo.Options) { o.Committers = 1 })

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Record(ctx, read(t, newSession(1, "vs_1").Created(at(0)).Body)); err == nil {
		t.Fatal("recorded by a server that is silent")
	}
	silent.Store(false)
	tell(t, s, newSession(2, "vs_2").Created(at(0)).Body) // waits until the silent one is left
}

// Nothing tells PostgreSQL that a host has vanished.
func TestAReplicaThatVanishesWithinACommitHoldsItsSessionNotForLong(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var vanished atomic.Bool
	through := falling(t, url, &vanished)
	gone := open(t, through, func(o *repo.Options) {
		o.Asks = func(bool) bool { return true }
		o.Wake = func(context.Context, pgx.Tx, []string) error { vanished.Store(true); return nil } // it holds the row
	})
	stays, session := open(t, url), newSession(1, "vs_1")
	tell(t, stays, session.Created(at(0)).Body)
	first, answered := read(t, session.Verified(at(10)).Body), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, err := gone.Record(ctx, first); answered <- err }()
	eventually(t, "it vanishes within its commit", vanished.Load)
	cancel()
	if err := <-answered; err == nil {
		t.Fatal("it recorded all the same")
	}
	second := read(t, session.Verified(at(10)).Body)
	if _, err := stays.Record(t.Context(), second); !errors.Is(err, events.ErrLocked) {
		t.Fatalf("its session is not held: %v", err)
	}
	eventually(t, "its session is let go", func() bool {
		_, err := stays.Record(t.Context(), second)
		return err == nil
	})
}

func TestJobsAreNotKeptByADatabaseThatVanishes(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var vanished atomic.Bool
	through := falling(t, url, &vanished)
	s, session := open(t, through), newSession(1, "vs_1")
	tell(t, s, session.Created(at(0)).Body)
	wish, answer := &repo.Wish{Session: "vs_1"}, &events.Answer{From: at(0), Until: at(1), Session: read(t, session.Created(at(0)).Body).Session}
	work := map[string]func(context.Context) error{
		"claim":   func(ctx context.Context) error { _, err := s.Claim(ctx, "vs_1", time.Minute); return err },
		"renew":   func(ctx context.Context) error { return s.Renew(ctx, wish, time.Minute) },
		"settle":  func(ctx context.Context) error { return s.Settle(ctx, wish) },
		"give up": func(ctx context.Context) error { return s.GiveUp(ctx, wish) },
		"sweep":   func(ctx context.Context) error { _, err := s.Due(ctx, []bool{true}, 1); return err },
		"lease":   func(ctx context.Context) error { _, err := s.Lease(ctx, "a", "b", time.Minute); return err },
		"release": func(ctx context.Context) error { return s.Release(ctx, "a", "b") },
		"answer":  func(ctx context.Context) error { return s.Tell(ctx, answer) },
		"redact":  func(ctx context.Context) error { return s.Redact(ctx, "vs_1") },
	}
	for name, do := range work {
		if err := do(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	vanished.Store(true)
	var wg sync.WaitGroup
	for name, do := range work {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			if err := do(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("%s: %v after 40 s", name, err)
			}
		})
	}
	wg.Wait()
}

// falling is a way to a database that passes a login on, and then nothing more to
// the server while it is silent, who does not learn of it either.
func falling(tb testing.TB, url string, silent *atomic.Bool) (through string) {
	tb.Helper()
	way := parsed(tb, url)
	server := way.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	pass := func(client net.Conn) {
		defer func() { _ = client.Close() }()
		upstream, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer func() { _ = upstream.Close() }()
		var in atomic.Bool
		go func() {
			for from := bufio.NewReader(upstream); ; {
				m, err := message(from, 1)
				if err != nil {
					return
				}
				in.Store(in.Load() || m[0] == 'Z')
				if _, err := client.Write(m); err != nil {
					return
				}
			}
		}()
		for b := make([]byte, 4096); ; {
			n, err := client.Read(b)
			if err != nil {
				return
			}
			if in.Load() && silent.Load() {
				_, _ = io.Copy(io.Discard, client)
				<-tb.Context().Done()
				return
			}
			if _, err := upstream.Write(b[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go pass(client)
		}
	}()
	way.Host = l.Addr().String()
	return way.String()
}
