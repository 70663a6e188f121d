package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/pgdev"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// storm is Stripe in a bad hour: clients that deliver without a pause, again
// whatever is not answered 200, while a test breaks things.
type storm struct {
	testing.TB
	url     string
	client  *http.Client
	over    chan struct{}
	clients sync.WaitGroup

	acked       atomic.Int64
	failed      atomic.Int64 // connections
	unavailable atomic.Int64 // 503 with reason database

	mu      sync.Mutex
	bodies  [][]byte
	answers map[string][]string // outcomes by event id, one for each answer of 200
}

const clients = 12

func rage(tb testing.TB, url string) *storm {
	tb.Helper()
	s := &storm{TB: tb, url: url, client: newClient(tb), over: make(chan struct{}), answers: map[string][]string{}}
	for i := range clients {
		s.clients.Go(func() { s.tell(uint64(i)) })
	}
	return s
}

// tell makes stories of its own, and shuffles, doubles and delivers their events.
func (s *storm) tell(seed uint64) {
	source, rng := scenario.New(seed), rand.New(rand.NewPCG(seed, 1))
	for {
		var all []scenario.Event
		for range 3 {
			name := scenario.Stories()[rng.IntN(len(scenario.Stories()))]
			told, err := source.Story(name, time.Now().Add(-5*24*time.Hour), scenario.SessionOptions{})
			if err != nil {
				s.Error(err)
				return
			}
			session := source.Session(scenario.SessionOptions{ID: told[0].SessionID})
			all = append(all, told...)
			all = append(all, told[rng.IntN(len(told))], session.Twin(told[rng.IntN(len(told))]), session.Thin(told[rng.IntN(len(told))]))
		}
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, e := range all {
			select {
			case <-s.over: // what has begun is told to its end
				return
			default:
			}
			s.deliver(e)
		}
	}
}

// deliver tries until the event is acknowledged.
func (s *storm) deliver(e scenario.Event) {
	deadline := time.Now().Add(time.Minute)
	for {
		a, err := exchange(s.client, http.MethodPost, s.url, signature.Sign(e.Body, whsec, time.Now()), e.Body)
		switch {
		case err != nil:
			s.failed.Add(1)
		case a.Status == http.StatusOK:
			s.acked.Add(1)
			s.mu.Lock()
			s.bodies = append(s.bodies, e.Body)
			s.answers[e.ID] = append(s.answers[e.ID], a.Outcome)
			s.mu.Unlock()
			return
		case a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "":
			s.Errorf("%s: %d %s, Retry-After %q", e.Type, a.Status, a.Body, a.Header.Get("Retry-After"))
			return
		case a.Code == "database":
			s.unavailable.Add(1)
		}
		if time.Now().After(deadline) {
			s.Errorf("%s is not acknowledged within a minute: %d %s %v", e.ID, a.Status, a.Body, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// blow lets the storm go on until so many more deliveries are acknowledged.
func (s *storm) blow(more int64) {
	s.Helper()
	until := s.acked.Load() + more
	eventually(s, fmt.Sprintf("see %d more deliveries acknowledged", more), func() bool { return s.acked.Load() >= until })
}

// settle ends the storm, and looks whether what was acknowledged stands.
func (s *storm) settle(databaseURL string) {
	s.Helper()
	close(s.over)
	s.clients.Wait()
	stand := repotest.Rows(s, databaseURL).Events
	for id, outcomes := range s.answers {
		if _, ok := stand[id]; !ok {
			s.Errorf("%s was acknowledged (%v) and is lost", id, outcomes)
		}
		fresh := slices.DeleteFunc(slices.Clone(outcomes), func(o string) bool { return o == string(events.Duplicate) })
		if len(fresh) > 1 {
			s.Errorf("%s was new more than once: %v", id, outcomes)
		}
	}
	expectModel(s, databaseURL, s.bodies)
	s.Logf("%d deliveries of %d events acknowledged, %d connections broken, %d times no database",
		s.acked.Load(), len(s.answers), s.failed.Load(), s.unavailable.Load())
}

// durable starts a PostgreSQL that syncs its log, and migrates it. Started
// again by restart, it has the same data and port.
func durable(tb testing.TB) (server *pgdev.Server, restart func() *pgdev.Server) {
	tb.Helper()
	// The operator's default must not weaken what a 200 promises.
	careless := map[string]string{"synchronous_commit": "off"}
	first, err := pgdev.Start(tb.Context(), pgdev.Options{Settings: careless})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = first.Stop(context.Background()) }) // it owns the folder
	if _, err := repo.Migrate(tb.Context(), first.URL("webhookd")); err != nil {
		tb.Fatal(err)
	}
	return first, func() *pgdev.Server {
		tb.Helper()
		again, err := pgdev.Start(tb.Context(), pgdev.Options{Dir: first.Dir(), Port: first.Port(), Settings: careless})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = again.Kill() })
		return again
	}
}

// loopbackPort is a free one below those that outgoing connections get: one of
// them, retrying while the service is down, could take it.
func loopbackPort(tb testing.TB) string {
	tb.Helper()
	for range 50 {
		address := "127.0.0.1:" + strconv.Itoa(20000+rand.IntN(12000))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	tb.Fatal("no free port")
	return ""
}

func crashing(database *pgdev.Server, listen string) env {
	return env{
		"WEBHOOKD_DATABASE_URL": database.URL("webhookd"), "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": whsec, "WEBHOOKD_DRAIN_DELAY": "0s",
		"WEBHOOKD_LISTEN_ADDR": listen, "WEBHOOKD_ADMIN_ADDR": "127.0.0.1:0",
	}
}

func TestNothingAcknowledgedIsLostWhenTheServiceIsKilled(t *testing.T) {
	t.Parallel()
	database, _ := durable(t)
	listen := loopbackPort(t)
	vars := crashing(database, listen)
	service := launch(t, t.TempDir(), vars, "serve").serves()
	storm := rage(t, "http://"+listen+"/webhooks/stripe")
	for range 22 {
		storm.blow(20 + rand.Int64N(60))
		service.signal(syscall.SIGKILL)
		service.exits(-1)
		service = launch(t, t.TempDir(), vars, "serve")
	}
	storm.blow(50)
	storm.settle(database.URL("webhookd"))
	if storm.failed.Load() == 0 {
		t.Error("no connection broke: was anything killed under load?")
	}

	// The last one is asked to end, with nobody hurt.
	service.signal(syscall.SIGTERM)
	service.exits(exitDone)
}

func TestNothingAcknowledgedIsLostWhenPostgreSQLStopsAtOnce(t *testing.T) {
	t.Parallel()
	database, restart := durable(t)
	listen := loopbackPort(t)
	service := launch(t, t.TempDir(), crashing(database, listen), "serve").serves()
	storm := rage(t, "http://"+listen+"/webhooks/stripe")
	server := database
	for range 5 {
		storm.blow(100 + rand.Int64N(200))
		before := storm.unavailable.Load()
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "be told that the database is away", func() bool { return storm.unavailable.Load() >= before+clients })
		server = restart()
	}
	storm.blow(100)
	storm.settle(server.URL("webhookd"))
	if storm.failed.Load() > 0 {
		t.Errorf("%d connections broke, though the service was not touched", storm.failed.Load())
	}
	service.signal(syscall.SIGTERM)
	service.exits(exitDone)
	if n := strings.Count(service.log.String(), `"reason":"database"`); n == 0 || n > 12*60 {
		t.Errorf("%d lines of the log tell that the database was away", n)
	}
}
