package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
)

// TestReplicasAgree brings the same and different events of some sessions to
// two replicas at the same time, each event at least once to both.
func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	replicas := []*service{begin(t, database), begin(t, database)}
	rng := rand.New(rand.NewPCG(1, 2))
	source := scenario.New(3)
	var told []scenario.Event
	codes := events.Codes()
	for i := range 6 {
		session := source.Session(scenario.SessionOptions{Livemode: i%2 == 0, Type: events.SessionTypes()[i%3]})
		at := time.Now().Add(-time.Hour)
		tell := func(e scenario.Event) {
			told = append(told, e, session.Twin(e), session.Thin(e))
			at = at.Add(time.Duration(rng.IntN(3)) * time.Second) // ties too
		}
		tell(session.Created(at))
		for range 3 {
			tell(session.Processing(at))
			tell(session.RequiresInput(at, codes[rng.IntN(len(codes))]))
		}
		tell(session.RequiresInput(at, ""))
		tell(session.Verified(at))
		if i == 5 {
			tell(session.Redacted(at))
		}
	}

	work := make(chan func())
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for do := range work {
				do()
			}
		})
	}
	for _, i := range append(rng.Perm(len(told)), rng.Perm(len(told))...) {
		for _, s := range replicas {
			work <- func() {
				if a := s.deliver(told[i].Body); a.Status != 200 {
					t.Errorf("%s: %d %s", told[i].Type, a.Status, a.Body)
				}
			}
		}
	}
	close(work)
	clients.Wait()

	var bodies [][]byte
	for _, e := range told {
		bodies = append(bodies, e.Body)
	}
	expectModel(t, database, bodies)

	counted := map[string]float64{}
	outcomes := map[string]float64{}
	for _, s := range replicas {
		for series, n := range s.metrics() {
			labels, failures := strings.CutPrefix(series, "webhookd_verification_failures_total")
			if failures && n > 0 {
				counted[labels] += n
			}
			if _, outcome, ok := strings.Cut(series, `outcome="`); ok && strings.HasPrefix(series, "webhookd_deliveries_total") {
				outcomes[strings.TrimSuffix(outcome, `"}`)] += n
			}
		}
	}
	stand := map[string]float64{}
	rows, err := connect(t, database).Query(t.Context(),
		`SELECT error_code, livemode, type, sum(failures)::float8 FROM stripe_identity.failure_reasons_hourly GROUP BY 1, 2, 3`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var (
			code, sessionType string
			live              bool
			n                 float64
		)
		if err := rows.Scan(&code, &live, &sessionType, &n); err != nil {
			t.Fatal(err)
		}
		stand[fmt.Sprintf("{code=%q,livemode=%q,type=%q}", code, fmt.Sprint(live), sessionType)] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stand, counted); diff != "" || len(stand) < 6 {
		t.Errorf("failures (-failure_reasons_hourly +sum of the replicas):\n%s", diff)
	}

	// Each event id is new once, whoever took it.
	total := 0.0
	for n := range maps.Values(outcomes) {
		total += n
	}
	if total != float64(4*len(told)) || outcomes["duplicate"] != float64(3*len(told)) {
		t.Errorf("of %d deliveries of %d events: %v", 4*len(told), len(told), outcomes)
	}
}
