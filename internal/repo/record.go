package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// Record writes one event and answers what became of it once it is committed.
// A Foreign event is none of the store's business. The store owns the event
// from now on.
//
// Events that wait while a commit is under way form the next batch; each is
// answered after its own commit. The deadline of
// ctx is kept also if ctx itself never ends.
//
// It fails with [events.ErrQueueFull] at once when too many wait, with
// [events.ErrLocked] when somebody else holds the session for too long, with
// [context.DeadlineExceeded] when ctx ends before that, with [events.ErrDraining]
// after Close, and otherwise when the database is not at hand. Then nothing is
// recorded, or, if the connection broke during COMMIT or ctx ended meanwhile,
// the next delivery of the event is a duplicate.
func (s *Store) Record(ctx context.Context, e *events.Event) (events.Outcome, error) {
	o := s.orders.Get().(*order)
	o.event = e
	deadline, limited := ctx.Deadline()
	o.deadline = deadline
	if err := s.queue.put(o); err != nil {
		return "", fmt.Errorf("record event %s: %w", e.ID, err)
	}
	var late <-chan time.Time
	if limited {
		o.timer.Reset(time.Until(deadline))
		late = o.timer.C
	}
	select {
	case err := <-o.done:
		outcome := o.outcome
		if o.event != e {
			e.Fault = o.event.Fault // PostgreSQL refused it
		}
		o.timer.Stop()
		*o = order{done: o.done, timer: o.timer} // who answered has let go of it
		s.orders.Put(o)
		if err != nil {
			return "", fmt.Errorf("record event %s: %w", e.ID, err)
		}
		return outcome, nil
	case <-late:
		err := context.DeadlineExceeded
		if o.held.Load() {
			err = events.ErrLocked
		}
		return "", fmt.Errorf("record event %s: %w", e.ID, err)
	case <-ctx.Done():
		return "", fmt.Errorf("record event %s: %w", e.ID, ctx.Err())
	}
}

// Redact erases sessions for good, also such as were never seen: what is left
// is a tombstone that no later event brings back to life.
func (s *Store) Redact(ctx context.Context, sessionIDs ...string) error {
	for _, id := range sessionIDs {
		if err := plain("write", s.tryPatiently(ctx, &order{about: id})); err != nil {
			return fmt.Errorf("redact session %s: %w", id, err)
		}
	}
	return nil
}

// Tell writes what Stripe's API answered about a session. An answer of a
// redacted session leaves nothing personal.
func (s *Store) Tell(ctx context.Context, a *events.Answer) error {
	o := &order{about: a.Session.ID, answer: a}
	if err := plain("write", s.putAnswer(ctx, o)); err != nil {
		return fmt.Errorf("tell of session %s: %w", a.Session.ID, err)
	}
	return nil
}

// putAnswer writes an answer of the API, one at a time: each may wait for its session
// with a connection that deliveries need.
func (s *Store) putAnswer(ctx context.Context, o *order) error {
	select {
	case s.answering <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.answering }()
	return s.tryPatiently(ctx, o)
}

func (s *Store) tryPatiently(ctx context.Context, o *order) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	return s.try(ctx, []*order{o}, s.opt.LockTimeout)
}

// order is one thing to write: an event, an answer, or an operator's redaction.
type order struct {
	event  *events.Event
	about  string         // the session, without an event
	answer *events.Answer // nil: a redaction
	wish   *Wish          // that the answer serves; nil: reconcile's

	deadline time.Time // when nobody waits for it any more; zero for never
	timer    *time.Timer
	done     chan error  // buffered: whoever waited may have gone
	held     atomic.Bool // it waits in the lane, or did: its session was held
	apart    bool        // its session's row refuses it too: it goes into quarantine alone

	outcome  events.Outcome
	redacted bool // of an answer: the session holds nothing personal
}

// session is the one whose row is locked for it; empty for none.
func (o *order) session() string {
	switch {
	case o.event == nil:
		return o.about
	case o.apart:
		return ""
	}
	return o.event.SessionID
}

// Close commits what was taken and ends all connections.
func (s *Store) Close() {
	s.queue.close()
	s.committers.Wait()
	s.lane.wait()
	s.closePools()
}

// commitLoop is one committer.
func (s *Store) commitLoop() {
	c, batch := s.queue.join(), make([]*order, 0, s.opt.BatchMax)
	for {
		batch = s.queue.take(c, batch[:0], s.opt.BatchMax)
		if len(batch) == 0 {
			return
		}
		s.commit(batch)
	}
}

// commit answers every order of a batch.
func (s *Store) commit(batch []*order) {
	now := time.Now()
	ready := make([]*order, 0, len(batch))
	for _, o := range batch {
		switch {
		case !o.deadline.IsZero() && now.After(o.deadline):
			o.done <- context.DeadlineExceeded
		case s.lane.take(o): // its session is held by somebody: it waits there
		default:
			ready = append(ready, o)
		}
	}
	if len(ready) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.opt.CommitTimeout)
	defer cancel()
	s.settle(ctx, ready)
}

// settle commits orders together if it can, and otherwise in ever smaller
// parts, until only the culprit suffers.
func (s *Store) settle(ctx context.Context, orders []*order) {
	err := s.try(ctx, orders, s.batchLock)
	if err == nil {
		answer(orders, nil)
		return
	}
	blame, code := blameFor(err)
	if blame == chance && (code == uniqueViolation || code == divisionByZero && len(orders) > 1) {
		blame = theEvents // it was tried again, and is no chance
	}
	switch {
	case blame == theEvents && len(orders) > 1:
		s.metrics.rejected.Inc()
		s.settle(ctx, orders[:len(orders)/2])
		s.settle(ctx, orders[len(orders)/2:])
	case blame == theEvents && refusable(orders[0].event):
		orders[0].event = refused(orders[0].event, code, err)
		s.settle(ctx, orders)
	case blame == theEvents && orders[0].event != nil && !orders[0].apart:
		orders[0].apart = true
		s.settle(ctx, orders)
	case blame == someones:
		s.setAside(ctx, orders, err)
	default:
		answer(orders, plain("commit", err))
	}
}

// setAside sends the orders whose sessions somebody holds into the slow lane,
// and settles the others.
func (s *Store) setAside(ctx context.Context, orders []*order, cause error) {
	sessions, _, _ := concerned(orders)
	if len(sessions) == 0 { // a table is locked
		answer(orders, plain("commit", cause))
		return
	}
	held, err := s.held(ctx, sessions)
	switch {
	case err != nil:
		answer(orders, plain("look for locks", err))
		return
	case len(held) == 0 && len(sessions) > 1:
		// Let go meanwhile, or a row that is only being made: look at fewer.
		middle := sessions[len(sessions)/2]
		lower, upper := partition(orders, func(o *order) bool { return o.session() < middle })
		s.settle(ctx, lower)
		s.settle(ctx, upper)
		return
	case len(held) == 0:
		held = sessions
	}
	slow, free := partition(orders, func(o *order) bool { return slices.Contains(held, o.session()) })
	for _, o := range slow {
		s.lane.put(o)
	}
	if len(free) > 0 {
		s.settle(ctx, free)
	}
}

func partition(orders []*order, in func(*order) bool) (yes, no []*order) {
	for _, o := range orders {
		if in(o) {
			yes = append(yes, o)
		} else {
			no = append(no, o)
		}
	}
	return yes, no
}

func answer(orders []*order, err error) {
	for _, o := range orders {
		o.done <- err
	}
}

// held lists the sessions that somebody else has locked.
func (s *Store) held(ctx context.Context, sessions []string) ([]string, error) {
	rows, err := s.writers.Query(ctx, `
SELECT id FROM stripe_identity.verification_sessions WHERE id = ANY ($1)
EXCEPT
SELECT id FROM (
    SELECT id FROM stripe_identity.verification_sessions WHERE id = ANY ($1) FOR UPDATE SKIP LOCKED
) free`, sessions)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

const (
	// tries bounds how often one transaction is begun anew after it met another.
	tries = 10
	// batchLockTimeout is how long a batch waits for a session before it goes on
	// without it, and at most: longer than another batch takes to commit on a slow disk.
	batchLockTimeout = 250 * time.Millisecond
)

// try writes orders in one transaction, again if that met another one or what it
// took for granted was not so.
func (s *Store) try(ctx context.Context, orders []*order, lockTimeout time.Duration) error {
	all := slices.ContainsFunc(orders, func(o *order) bool { return o.event == nil || o.event.Kind != events.Snapshot }) || s.caution.takesNothing()
	notify := s.opt.Notify && time.Now().Unix() >= s.silent.Load()
	for n := 1; ; n++ {
		err := s.transact(ctx, orders, lockTimeout, all, notify)
		blame, code := blameFor(err)
		if notify && strings.HasPrefix(code, "54") {
			// That limit may be the one of NOTIFY's queue, which COMMIT meets, and
			// no event is to blame for. A wake-up can be done without.
			notify = false
			if err = s.transact(ctx, orders, lockTimeout, all, notify); err == nil {
				s.silence()
			}
			blame, code = blameFor(err)
		}
		if !all {
			s.caution.learn(code != uniqueViolation && code != divisionByZero)
		}
		if blame != chance || n == tries || ctx.Err() != nil {
			return err
		}
		all = true
	}
}

// silence does without NOTIFY for a minute.
func (s *Store) silence() {
	s.silent.Store(time.Now().Add(time.Minute).Unix())
	if s.opt.NotifyFull != nil {
		s.opt.NotifyFull()
	}
}

// caution says whether writes take for granted what is almost always so. After
// one that did so wrongly the next ones do not; how many doubles with each, and
// goes back as it turns out to be right again: where such things are common, few
// writes are begun anew.
type caution struct {
	mu     sync.Mutex
	left   int // writes that take nothing for granted
	length int // how many those are the next time
}

const (
	leastCaution = 16
	mostCaution  = 4096
)

func (c *caution) takesNothing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = max(c.left-1, -1)
	return c.left >= 0
}

func (c *caution) learn(right bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if right {
		c.length = max(c.length-1, leastCaution)
		return
	}
	c.left, c.length = c.length, min(2*c.length, mostCaution)
}

// refusable reports whether something can be left out of an event that
// PostgreSQL refuses: its content first, then all but what names it.
func refusable(e *events.Event) bool {
	return e.Kind != events.Broken || e.Payload != nil || !e.Created.IsZero()
}

// refused is the event as it goes into quarantine after PostgreSQL refused it.
func refused(e *events.Event, code string, cause error) *events.Event {
	if e.Kind == events.Broken {
		return &events.Event{
			ID: e.ID, Type: e.Type, SessionID: e.SessionID, Kind: events.Broken, Fault: e.Fault, Hides: e.Hides,
			Source: e.Source, SecretName: e.SecretName, ReceivedAt: e.ReceivedAt,
		}
	}
	q := *e
	q.Kind, q.Fault, q.Session = events.Broken, "refused by PostgreSQL, SQLSTATE "+code, events.Session{}
	if own := new(panicError); errors.As(cause, &own) {
		q.Fault = own.Error()
	}
	q.Hides = e.Session.Redaction.Has() || e.Type == events.TypeRedacted || e.Type == events.ThinType(events.TypeRedacted)
	return &q
}

// transact is the road of every write: lock, look, decide, write, commit.
func (s *Store) transact(ctx context.Context, orders []*order, lockTimeout time.Duration, all, notify bool) (err error) {
	conn, err := s.writers.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	begun := time.Now()
	var told []*events.Step
	defer func() {
		if p := recover(); p != nil {
			// A fault of ours that one event brings out must not end the process
			// at each of its deliveries. The value may quote the event.
			err = &panicError{fmt.Sprintf("%T at %s", p, panickedAt())}
		}
		if err != nil {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			// Either way the server rolls back. An error that is no event's may be the
			// connection's own, down to a default that it took over when it was made.
			if blame, _ := blameFor(err); blame == ours {
				_ = conn.Conn().Close(end)
			} else if _, failed := conn.Exec(end, "ROLLBACK"); failed != nil {
				_ = conn.Conn().Close(end)
			}
			return
		}
		for _, step := range told {
			s.opt.Told(step)
		}
		s.metrics.commitDuration.Observe(time.Since(begun).Seconds())
		s.metrics.commitEvents.Observe(float64(len(orders)))
	}()
	p := s.pipelines.Get().(*pipeline)
	defer s.pipelines.Put(p)
	p.reset() // a panic may have left something
	v, err := s.look(ctx, conn.Conn(), p, orders, lockTimeout, all)
	if err != nil {
		return err
	}
	w := s.decide(orders, v)
	if s.opt.Told != nil {
		told = w.told
	}
	if err := s.wake(ctx, conn.Conn(), w); err != nil {
		return err
	}
	w.notifies = notify && w.advanced
	return s.write(ctx, conn.Conn(), p, w)
}
