package repo

import (
	"context"
	"sync"
	"time"

	"webhookd/internal/events"
)

// laneWorkers is how many held sessions are waited for at a time, where there are
// connections enough; each takes one.
const laneWorkers = 4

// lane is where events wait whose session somebody else holds, so that nobody
// waits with them. A session is in the lane from the first such event until
// its events are answered, and what comes for it meanwhile joins them.
type lane struct {
	store   *Store
	mu      sync.Mutex
	waiting map[string][]*order // by session; present while it is in the lane
	places  chan struct{}
	working sync.WaitGroup
}

// newLane makes a lane that may have so many connections, and takes one at the least.
func newLane(s *Store, connections int) *lane {
	return &lane{store: s, waiting: map[string][]*order{}, places: make(chan struct{}, min(max(connections, 1), laneWorkers))}
}

// take takes an order if its session is in the lane already.
func (l *lane) take(o *order) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, here := l.waiting[o.session()]
	if here {
		l.add(o)
	}
	return here
}

// put takes an order, and its session into the lane.
func (l *lane) put(o *order) {
	l.mu.Lock()
	defer l.mu.Unlock()
	session := o.session()
	if _, here := l.waiting[session]; !here {
		l.working.Go(func() { l.work(session) })
	}
	l.add(o)
}

func (l *lane) add(o *order) {
	o.held.Store(true)
	l.store.queue.aside.Add(1)
	l.waiting[o.session()] = append(l.waiting[o.session()], o)
}

func (l *lane) wait() { l.working.Wait() }

// work answers what waits for one session, until nothing does.
func (l *lane) work(session string) {
	l.places <- struct{}{}
	defer func() { <-l.places }()
	for {
		orders := l.next(session)
		if orders == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), l.store.opt.CommitTimeout)
		l.settle(ctx, orders)
		cancel()
		l.store.queue.aside.Add(-int64(len(orders)))
	}
}

func (l *lane) next(session string) []*order {
	l.mu.Lock()
	defer l.mu.Unlock()
	orders := l.waiting[session]
	if len(orders) == 0 {
		delete(l.waiting, session)
		return nil
	}
	l.waiting[session] = []*order{}
	return orders
}

// settle waits for the session as long as an event may, and not longer than
// somebody waits for the answer.
func (l *lane) settle(ctx context.Context, orders []*order) {
	var live []*order
	for _, o := range orders {
		if !o.deadline.IsZero() && time.Now().After(o.deadline) {
			o.done <- events.ErrLocked
			continue
		}
		live = append(live, o)
	}
	if len(live) == 0 {
		return
	}
	err := l.store.try(ctx, live, l.store.opt.LockTimeout)
	if blame, _ := blameFor(err); blame == theEvents {
		l.store.settle(ctx, live)
		return
	}
	answer(live, plain("commit", err))
}
