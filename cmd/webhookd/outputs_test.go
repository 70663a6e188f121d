package main

import (
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
	"webhookd/internal/stripeapi/stripefake"
)

// The long form: go test ./cmd/webhookd -run TestOutputsThroughFaultsAndAKill -sessions 1000
var outputSessions = flag.Int("sessions", 30, "how many people are verified in TestOutputsThroughFaultsAndAKill")

// Every output is stored once, never over the rate, and never after a
// redaction: through faults of the API, and a replica that is killed while it
// fetches.
func TestOutputsThroughFaultsAndAKill(t *testing.T) {
	t.Parallel()
	const rate = 10 // of each of two replicas; Stripe takes 25
	fake := stripefake.New(t)
	key := fake.Key(true, stripefake.Rights{Sensitive: true, AnyAge: true})
	for i := range *outputSessions / 5 {
		fake.Next(
			stripefake.Fault{}, stripefake.Fault{Status: 500}, stripefake.Fault{}, stripefake.Fault{Reset: true},
			stripefake.Fault{Status: 429, RetryAfter: "1"}, stripefake.Fault{},
			stripefake.Fault{Delay: time.Duration(i%7) * 50 * time.Millisecond},
		)
	}
	database := pgtest.Database(t)
	vars := env{
		"WEBHOOKD_DATABASE_URL": database, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "main=" + whsec,
		"WEBHOOKD_LISTEN_ADDR": "127.0.0.1:0", "WEBHOOKD_ADMIN_ADDR": "127.0.0.1:0", "WEBHOOKD_DRAIN_DELAY": "0s",
		"WEBHOOKD_STRIPE_API_KEYS": key, "WEBHOOKD_STRIPE_API_BASE": fake.URL, "WEBHOOKD_API_RATE": fmt.Sprint(rate),
		"WEBHOOKD_RECONCILE_EVERY": "0", // it would be told, now, what the events of a minute ago change
	}
	survivor := launch(t, t.TempDir(), vars, "serve").serves()
	victim := launch(t, t.TempDir(), vars, "serve").serves()

	source := scenario.New(7)
	deliver := func(p *process, told ...scenario.Event) {
		t.Helper()
		client := newClient(t)
		for _, e := range told {
			a, err := exchange(client, http.MethodPost, p.endpoint(), signature.Sign(e.Body, whsec, time.Now()), e.Body)
			if err != nil || a.Status != http.StatusOK {
				t.Fatalf("%s: %v, %d %s", e.Type, err, a.Status, a.Body)
			}
		}
	}
	var redacted, kept []*scenario.Session
	for i := range *outputSessions {
		s, at := source.Session(scenario.SessionOptions{Livemode: true}), time.Now().Add(-time.Minute)
		for _, e := range []scenario.Event{s.Created(at), s.Processing(at.Add(time.Second)), s.Verified(at.Add(2 * time.Second))} {
			fake.Tell(s, e)
			p := survivor
			if i%2 == 0 && i < *outputSessions/2 {
				p = victim
			}
			deliver(p, e)
		}
		if i == *outputSessions/2 {
			victim.signal(syscall.SIGKILL)
		}
		if kept = append(kept, s); i%4 == 3 {
			// Somewhere in the queue, in the air or stored.
			gone := kept[len(kept)-2]
			kept = append(kept[:len(kept)-2], s)
			redacted = append(redacted, gone)
			deliver(survivor, gone.Redacted(time.Now())) // Stripe's API does not show it yet
		}
	}

	conn := connect(t, database)
	stored := func() int {
		return valueOf[int](t, conn, `SELECT count(*)::int FROM stripe_identity.verified_outputs WHERE id_number IS NOT NULL`)
	}
	end := time.Now().Add(2*time.Minute + time.Duration(*outputSessions)*time.Second) // each 429 shuts the gate for a second
	for stored() < len(kept) || valueOf[int](t, conn, `SELECT count(*)::int FROM stripe_identity.wishes`) > 0 {
		if time.Now().After(end) {
			t.Fatalf("%d of %d outputs are stored\n%s", stored(), len(kept), survivor.log)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, s := range redacted {
		for _, place := range []string{"verified_outputs", "provided_details"} {
			if n := valueOf[int](t, conn, `SELECT count(*)::int FROM stripe_identity.`+place+` WHERE session_id = $1`, s.ID); n != 0 {
				t.Errorf("%s of the redacted session %s came back", place, s.ID)
			}
		}
	}
	if n := stored(); n != len(kept) {
		t.Errorf("%d outputs are stored, want %d", n, len(kept))
	}
	if peak := fake.PeakRate(); peak > 2*(rate+1) {
		t.Errorf("Stripe was asked %d times in a second, want at most %d", peak, 2*rate)
	}
	told := 0 // by events
	for id, row := range repotest.Rows(t, database).Transitions {
		switch {
		case !strings.Contains(id, "@"):
			told++
		case !slices.ContainsFunc(redacted, func(s *scenario.Session) bool { return s.ID == row.SessionID }):
			// An answer that was on its way when the redaction came does not know of it.
			t.Errorf("%s: an answer that confirms what events told is a transition", id)
		}
	}
	if want := 3**outputSessions + len(redacted); told != want {
		t.Errorf("%d transitions, want %d", told, want)
	}
	for _, p := range []*process{survivor, victim} {
		if strings.Contains(p.log.String(), scenario.Marker) || strings.Contains(p.log.String(), key) {
			t.Error("the log has something personal, or the key")
		}
	}
}

// endpoint is where a process takes deliveries, from its log.
func (p *process) endpoint() string {
	p.Helper()
	_, rest, _ := strings.Cut(p.log.String(), `"listen":"`)
	address, _, _ := strings.Cut(rest, `"`)
	return "http://" + address + "/webhooks/stripe"
}
