package repo

import (
	"sync"
	"time"

	"webhookd/internal/events"
)

const (
	// batchBytes is after how many bytes of payloads a batch takes no more events.
	batchBytes = 16 << 20
	// worthwhile is how many events are always worth a commit of their own.
	worthwhile = 32
	// usualCommit is how long a commit may take until nobody counts on its end.
	usualCommit = 20 * time.Millisecond
)

// queue is what waits for a committer. One that is free takes all of it; but
// while others are under way, only if at least as many wait as those carry: two
// that share few events pay for two commits. What waits meanwhile goes with the
// commit that ends next, or goes before if that one takes unusually long.
type queue struct {
	most int // that may wait

	mu      sync.Mutex
	due     sync.Cond   // somebody may take
	late    *time.Timer // looks again at what waits for an unusually long commit
	waiting []*order
	closed  bool
	busy    int       // committers under way
	carried int       // orders that they have
	begun   time.Time // when the last of them took its own
}

func newQueue(most int) *queue {
	q := &queue{most: most}
	q.due.L = &q.mu
	q.late = time.AfterFunc(0, q.look)
	return q
}

// look lets somebody take if something is due.
func (q *queue) look() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.isDue() {
		q.due.Signal()
	}
}

// put takes an order in, unless it is full or closed.
func (q *queue) put(o *order) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return events.ErrDraining
	case len(q.waiting) >= q.most:
		return events.ErrQueueFull
	}
	q.waiting = append(q.waiting, o)
	switch {
	case q.isDue():
		q.due.Signal()
	case len(q.waiting) == 1:
		q.late.Reset(usualCommit - time.Since(q.begun))
	}
	return nil
}

func (q *queue) isDue() bool {
	switch n := len(q.waiting); {
	case n == 0:
		return false
	case q.busy == 0, q.closed, n >= min(q.carried, worthwhile):
		return true
	}
	return time.Since(q.begun) >= usualCommit
}

// take waits for a batch of at most so many orders, and appends it to batch. At
// the end there is none.
func (q *queue) take(batch []*order, most int) []*order {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.isDue() {
		if q.closed && len(q.waiting) == 0 {
			return batch
		}
		q.due.Wait()
	}
	n := 0
	for size := 0; n < min(len(q.waiting), most) && size < batchBytes; n++ {
		size += len(q.waiting[n].event.Payload)
	}
	batch = append(batch, q.waiting[:n]...)
	left := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[left:])
	q.waiting = q.waiting[:left]
	q.busy++
	q.carried += n
	q.begun = time.Now()
	if q.isDue() {
		q.due.Signal()
	}
	return batch
}

// done tells that a batch of n orders has been committed, or refused.
func (q *queue) done(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	q.carried -= n
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// close takes nothing more in; what waits is still taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.late.Stop()
	q.due.Broadcast()
}
