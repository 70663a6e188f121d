package main

import (
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// processors gives the Go scheduler one processor while deliveries come one at a
// time, and all that it may have while several do. A second one that has nothing
// to do is woken for each step of a delivery and looks for work: without it one
// takes up to a quarter less time and a third less CPU (docs/performance.md).
type processors struct {
	next  http.Handler
	limit func(n int) // 0 for as many as the process may have

	inFlight atomic.Int32
	came     atomic.Uint32
	lapped   atomic.Int64 // when the last lap ended, unix ns
	crowded  atomic.Bool  // since the last look

	mu  sync.Mutex
	all bool
}

const (
	// What is refused at once is never in flight together with others: so many
	// within the time of a lap count as well. One processor refuses more than that.
	lap, lapTime = 4096, time.Second / 4
	// calm is how long there are no more until the others rest.
	calm = time.Second
)

// useFewProcessors serves h with as many processors as it needs, unless the
// operator has decided.
func useFewProcessors(h http.Handler) http.Handler {
	if _, set := os.LookupEnv("GOMAXPROCS"); set || runtime.GOMAXPROCS(0) == 1 {
		return h
	}
	return newProcessors(h, func(n int) {
		if n == 0 {
			runtime.SetDefaultGOMAXPROCS() // and it follows the container's limit again
			return
		}
		runtime.GOMAXPROCS(n)
	})
}

func newProcessors(next http.Handler, limit func(n int)) *processors {
	limit(1)
	return &processors{next: next, limit: limit}
}

func (p *processors) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	together := p.inFlight.Add(1) > 1
	defer p.inFlight.Add(-1)
	if p.came.Add(1)%lap == 0 {
		now := time.Now().UnixNano()
		together = together || now-p.lapped.Swap(now) < int64(lapTime)
	}
	if together && !p.crowded.Load() {
		p.crowd()
	}
	p.next.ServeHTTP(w, q)
}

func (p *processors) crowd() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowded.Store(true)
	if !p.all {
		p.all = true
		p.limit(0)
		time.AfterFunc(calm, p.look)
	}
}

// look gives up the other processors if nobody needs them, or has since it looked.
func (p *processors) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.crowded.Swap(false) || p.inFlight.Load() > 1 {
		time.AfterFunc(calm, p.look)
		return
	}
	p.all = false
	p.limit(1)
}
