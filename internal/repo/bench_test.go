package repo_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
)

// BenchmarkRecord has 64 deliveries at a time waiting for their commits, three
// events a session.
func BenchmarkRecord(b *testing.B) {
	url := pgtest.Database(b)
	s := open(b, url)
	src := scenario.New(1)
	session := src.Session(scenario.SessionOptions{})
	now := time.Now()
	var bodies [][]byte
	for _, e := range []scenario.Event{session.Created(now.Add(-2 * time.Minute)), session.Processing(now.Add(-time.Minute)), session.Verified(now)} {
		bodies = append(bodies, e.Body)
	}
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			e, err := events.Parse(bodies[i%3])
			if err != nil {
				b.Error(err)
				return
			}
			e.ID, e.SessionID = fmt.Sprintf("evt_%012d", i), fmt.Sprintf("vs_%012d", i/3)
			e.Session.ID, e.ReceivedAt = e.SessionID, now
			if _, err := s.Record(b.Context(), e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
