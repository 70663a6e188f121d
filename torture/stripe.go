package main

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/signature"
)

const (
	clients    = 48
	patience   = 3 * time.Second // with an answer; Stripe's is longer
	backlogMax = 4000            // deliveries that wait for another try; then nothing new is sent
)

// stripe delivers as Stripe does: in no order, more than once, and again with
// growing pauses whatever is not answered 2xx. It holds only the sessions that
// it is telling.
type stripe struct {
	*author
	api      *api // nil without one
	reach    int
	patience time.Duration
	road     http.RoundTripper
	targets  []string // of a balancer that knows nothing of health

	secrets atomic.Pointer[[]string] // signed with all of them
	skew    atomic.Int64             // of the clock, in seconds

	work     chan *delivery
	again    chan *delivery
	released chan int
	begun    atomic.Int64 // tales
	unsent   atomic.Int64 // deliveries that were released and not drawn
	open     atomic.Int64 // deliveries that were drawn and are not acknowledged
	told     atomic.Bool  // all tales that have begun are drawn

	mu      sync.Mutex
	failing map[*delivery]time.Time // since when
	counts  counts
	wrong   []string // what must not be, in words
	wrongs  int
}

// counts are what came of the deliveries.
type counts struct {
	Acked, Duplicates, Unavailable, Broken, Skewed, Forged int
	Events                                                 int
}

// delivery is one of an event's. Stripe tries until it is acknowledged.
type delivery struct {
	*telling
	event int
	tries int
	due   time.Time
}

// telling is a tale under way.
type telling struct {
	*tale
	left atomic.Int64
	news []atomic.Int32 // answers that call an event new
}

func newStripe(a *author, targets []string, secret string) *stripe {
	s := &stripe{
		author: a, reach: 600, patience: patience, targets: targets, failing: map[*delivery]time.Time{},
		work: make(chan *delivery), again: make(chan *delivery, clients), released: make(chan int),
		road: &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true},
	}
	s.secrets.Store(&[]string{secret})
	return s
}

// run delivers what is released until ctx ends.
func (s *stripe) run(ctx context.Context) {
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(s.seed, uint64(i)))
			for {
				select {
				case d := <-s.work:
					s.try(ctx, d, rng)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	s.dispatch(ctx)
	group.Wait()
}

// release lets so many more deliveries out.
func (s *stripe) release(ctx context.Context, n int) {
	s.unsent.Add(int64(n))
	select {
	case s.released <- n:
	case <-ctx.Done():
	}
}

// rest tells the tales that have begun to their end, and begins no other.
func (s *stripe) rest(ctx context.Context) { s.release(ctx, 0) }

// dispatch hands out what is due, first what failed before.
func (s *stripe) dispatch(ctx context.Context) {
	var (
		waiting backlog
		next    *delivery
		allowed int
		resting bool
		deck    = deck{author: s.author, api: s.api, reach: s.reach, begun: &s.begun, rng: rand.New(rand.NewPCG(s.seed, 1<<32))}
	)
	for {
		timer := time.NewTimer(time.Hour)
		deck.last = resting && allowed == 0
		if next == nil && len(waiting) > 0 {
			if pause := time.Until(waiting[0].due); pause <= 0 {
				next = heap.Pop(&waiting).(*delivery)
			} else {
				timer.Reset(pause)
			}
		}
		if next == nil && len(waiting) < backlogMax && (allowed > 0 || deck.last && len(deck.cards) > 0) {
			next = deck.draw()
			s.open.Add(1)
			if allowed > 0 {
				allowed--
				s.unsent.Add(-1)
			}
		}
		if deck.last && len(deck.cards) == 0 {
			s.told.Store(true)
		}
		var out chan<- *delivery
		if next != nil {
			out = s.work
		}
		select {
		case out <- next:
			next = nil
		case d := <-s.again:
			heap.Push(&waiting, d)
		case n := <-s.released:
			allowed, resting = allowed+n, n == 0
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Stop()
	}
}

// deck is what may be delivered next, in any order.
type deck struct {
	*author
	api   *api
	begun *atomic.Int64
	rng   *rand.Rand
	reach int // how far shuffling carries a delivery
	cards []*delivery
	last  bool // no other tale begins
}

func (d *deck) draw() *delivery {
	for len(d.cards) < d.reach && !d.last {
		t := &telling{tale: d.tale(int(d.begun.Add(1) - 1))}
		if t.live && d.api != nil {
			d.api.know(t.tale)
		}
		t.news = make([]atomic.Int32, len(t.events))
		t.left.Store(int64(len(t.deliveries)))
		for _, event := range t.deliveries {
			d.cards = append(d.cards, &delivery{telling: t, event: event})
		}
	}
	i, last := d.rng.IntN(len(d.cards)), len(d.cards)-1
	card := d.cards[i]
	d.cards[i] = d.cards[last]
	d.cards = d.cards[:last]
	return card
}

// backlog is what failed, by when it is due.
type backlog []*delivery

func (b backlog) Len() int           { return len(b) }
func (b backlog) Less(i, j int) bool { return b[i].due.Before(b[j].due) }
func (b backlog) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *backlog) Push(d any)        { *b = append(*b, d.(*delivery)) }
func (b *backlog) Pop() any {
	last := len(*b) - 1
	d := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	return d
}

// answer is what a replica said.
type answer struct {
	status        int
	retryAfter    string
	Outcome, Code string
	Event         string
}

func (s *stripe) post(ctx context.Context, url string, body []byte, header string) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body)) //nolint:gosec // of a replica
	if err != nil {
		return a, err
	}
	req.Header.Set("Stripe-Signature", header)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := s.road.RoundTrip(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }() // what counts is read
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return a, err
	}
	a.status, a.retryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
	if err := json.Unmarshal(text, &a); err != nil {
		s.objectf("status %d with a body that is no JSON: %.80q", a.status, text)
	}
	return a, nil
}

// try makes one attempt, at any replica.
func (s *stripe) try(ctx context.Context, d *delivery, rng *rand.Rand) {
	f, url := &d.events[d.event], s.targets[rng.IntN(len(s.targets))]
	if rng.IntN(100) == 0 {
		s.forge(ctx, url, f.body)
	}
	skew := time.Duration(s.skew.Load()) * time.Second
	a, err := s.post(ctx, url, f.body, signature.SignAll(f.body, time.Now().Add(skew), *s.secrets.Load()...))
	if ctx.Err() != nil {
		return
	}
	d.tries++
	if s.judge(d, f, skew, a, err) {
		return
	}
	pause := min(30*time.Millisecond<<min(d.tries, 6), 1200*time.Millisecond)
	d.due = time.Now().Add(pause/2 + rand.N(pause))
	select {
	case s.again <- d:
	case <-ctx.Done():
	}
}

// judge notes what became of an attempt, and reports whether it was the last.
func (s *stripe) judge(d *delivery, f *fact, skew time.Duration, a answer, err error) (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.counts.Broken++
	case a.status == http.StatusOK:
		s.acknowledge(d, f, a)
		delete(s.failing, d)
		s.open.Add(-1)
		return true
	case a.status == http.StatusServiceUnavailable:
		s.counts.Unavailable++
		if a.retryAfter == "" {
			s.complainf("503 %s without Retry-After", a.Code)
		}
	case a.status == http.StatusBadRequest && skew != 0 && (a.Code == "too_old" || a.Code == "too_new"):
		s.counts.Skewed++
	default:
		s.complainf("%s (%s) is answered %d %s", f.id, f.kind, a.status, a.Code)
	}
	if _, ok := s.failing[d]; !ok {
		s.failing[d] = time.Now()
	}
	return false
}

func (s *stripe) acknowledge(d *delivery, f *fact, a answer) {
	s.counts.Acked++
	switch outcome := events.Outcome(a.Outcome); {
	case f.foreign:
		if outcome != events.Ignored {
			s.complainf("%s is none of Identity's, and %s", f.id, outcome)
		}
	case outcome == events.Duplicate:
		s.counts.Duplicates++
	case !slices.Contains([]events.Outcome{events.Applied, events.Stale, events.Twin, events.Queued, events.Quarantined}, outcome):
		s.complainf("%s (%s) is %q", f.id, f.kind, a.Outcome)
	case d.news[d.event].Add(1) > 1:
		s.complainf("%s was new twice", f.id)
	default:
		s.counts.Events++
	}
	if a.Event != f.id {
		s.complainf("%s is answered as %q", f.id, a.Event)
	}
}

// forge tries a signature of somebody who does not have the secret.
func (s *stripe) forge(ctx context.Context, url string, body []byte) {
	a, err := s.post(ctx, url, body, signature.Sign(body, "whsec_forged", time.Now()))
	if err != nil {
		return // the replica is away
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Forged++
	if a.status != http.StatusBadRequest || a.Code != "no_match" {
		s.complainf("a forged signature is answered %d %s", a.status, a.Code)
	}
}

// objectf notes what must not be.
func (s *stripe) objectf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complainf(format, args...)
}

// complainf is objectf while s.mu is held.
func (s *stripe) complainf(format string, args ...any) {
	if s.wrongs++; len(s.wrong) < 20 {
		s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
	}
}

// failed counts the attempts that were in vain.
func (s *stripe) failed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts.Unavailable + s.counts.Broken + s.counts.Skewed
}

// failingSince counts the deliveries that failed before a moment and are not
// acknowledged yet.
func (s *stripe) failingSince(moment time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, since := range s.failing {
		if since.Before(moment) {
			n++
		}
	}
	return n
}
