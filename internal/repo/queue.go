package repo

import (
	"sync"
	"sync/atomic"
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
// commit that ends next, or before it if a commit takes unusually long.
type queue struct {
	most  int          // that may wait, here and in the lane
	aside atomic.Int64 // that wait in the lane

	mu         sync.Mutex
	due        sync.Cond   // somebody may take
	late       *time.Timer // looks again at what waits for an unusually long commit
	committers []*committer
	waiting    []*order
	closed     bool
}

// committer takes batches: what it took last.
type committer struct {
	carried int       // orders; 0 while it is free
	begun   time.Time // when it took them
}

func newQueue(most int) *queue {
	q := &queue{most: most}
	q.due.L = &q.mu
	q.late = time.AfterFunc(0, q.signal)
	return q
}

// join adds one more committer.
func (q *queue) join() *committer {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := new(committer)
	q.committers = append(q.committers, c)
	return c
}

// put takes an order in, unless it is full or closed.
func (q *queue) put(o *order) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return events.ErrDraining
	case len(q.waiting)+int(q.aside.Load()) >= q.most:
		return events.ErrQueueFull
	}
	q.waiting = append(q.waiting, o)
	q.rouse(len(q.waiting) == 1)
	return nil
}

// rouse lets a committer take if something is due; else, for the first that is
// not, it looks again when the longest commit is unusually long.
func (q *queue) rouse(first bool) {
	due, in := q.isDue()
	switch {
	case due:
		q.due.Signal()
	case first && len(q.waiting) > 0:
		q.late.Reset(in)
	}
}

func (q *queue) signal() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rouse(true)
}

// isDue reports whether a committer that is free should begin, or else in what
// time it should at the latest.
func (q *queue) isDue() (due bool, in time.Duration) {
	var carried int
	var oldest time.Time
	for _, c := range q.committers {
		if carried += c.carried; c.carried > 0 && (oldest.IsZero() || c.begun.Before(oldest)) {
			oldest = c.begun
		}
	}
	switch n := len(q.waiting); {
	case n == 0:
		return false, 0
	case carried == 0, q.closed, n >= min(carried, worthwhile):
		return true, 0
	}
	in = usualCommit - time.Since(oldest)
	return in <= 0, in
}

// take waits for a batch of at most so many orders, and appends it to batch. At
// the end there is none.
func (q *queue) take(c *committer, batch []*order, most int) []*order {
	q.mu.Lock()
	defer q.mu.Unlock()
	c.carried = 0 // what it had is answered
	for {
		due, in := q.isDue()
		if due {
			break
		}
		if q.closed {
			return batch
		}
		if len(q.waiting) > 0 { // while all were busy, nobody heard of it
			q.late.Reset(in)
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
	c.carried, c.begun = n, time.Now()
	q.rouse(true)
	return batch
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) + int(q.aside.Load())
}

// close takes nothing more in; what waits is still taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.late.Stop()
	q.due.Broadcast()
}
