// Package receiver is the HTTP edge: one delivery in; one outcome, one status,
// one metric, one log line out.
//
// A delivery goes one straight way: its headers are judged, its body is read
// within a size and a time, its signature is proven, then it is decoded and
// recorded. 200 is answered only for what the [Store] has committed or what is
// none of ours; everything else is a problem (RFC 9457) with a code.
//
// States: a Receiver is open; after [Receiver.Drain] it still records, and asks
// every client to close its connection; after [Receiver.Close] it answers 503.
//
// Failures: strangers cost bounded memory and time, and nothing that they send
// becomes a label or more than ten log lines a second. What Stripe signed is
// never answered with a 5xx for its content. Every 503 is a reason of ours, has
// a Retry-After, and leads to another attempt of Stripe's for up to three days.
package receiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"webhookd/internal/events"
	"webhookd/internal/signature"
)

// Store keeps events.
type Store interface {
	// Record keeps one event, which it then owns, and answers once that is
	// committed, or at the deadline of ctx, which does not end by itself. Of its
	// errors [events.ErrQueueFull], [events.ErrLocked], [events.ErrDraining] and
	// [context.DeadlineExceeded] have a reason of their own; any other one means
	// the database. Its text is logged as it is.
	Record(ctx context.Context, e *events.Event) (events.Outcome, error)
}

// Options is what a Receiver needs. Now and Log may be left out.
type Options struct {
	Store Store
	// Verifier is the present one: secrets roll while we serve.
	Verifier func() *signature.Verifier
	// Path is the only one that is answered, e.g. /webhooks/stripe.
	Path string
	// Livemode is the mode whose events are taken; ModeUnknown takes both.
	Livemode events.Mode
	// MaxBodyBytes is the longest body that is read.
	MaxBodyBytes int64
	// DeliveryTimeout counts from the request's headers to the commit. [NewServer]
	// gives the body half of it to arrive.
	DeliveryTimeout time.Duration
	Now             func() time.Time
	Log             *zap.Logger
	Registry        prometheus.Registerer
}

func (o *Options) check() error {
	var faults []error
	if o.Store == nil || o.Verifier == nil || o.Registry == nil {
		faults = append(faults, errors.New("a store, a verifier and a registry are needed"))
	}
	if !strings.HasPrefix(o.Path, "/") {
		faults = append(faults, fmt.Errorf("path %q does not begin with a slash", o.Path))
	}
	if o.MaxBodyBytes <= 0 {
		faults = append(faults, fmt.Errorf("body limit %d is not positive", o.MaxBodyBytes))
	}
	if o.DeliveryTimeout <= 0 {
		faults = append(faults, fmt.Errorf("delivery timeout %v is not positive", o.DeliveryTimeout))
	}
	return errors.Join(faults...)
}

// Receiver answers deliveries. It is an [http.Handler] for the public address.
type Receiver struct {
	store    Store
	verifier func() *signature.Verifier
	path     string
	livemode events.Mode
	maxBody  int64
	maxHeld  int64 // of all bodies that are longer than usualBody and still being read
	timeout  time.Duration
	now      func() time.Time // the wall clock; durations and deadlines need the monotonic one

	refusals map[string]*refusal
	metrics  *metrics
	log      *journal
	buffers  sync.Pool    // of *[]byte: a body, then its answer
	held     atomic.Int64 // bytes of long bodies that are being read
	phase    atomic.Int32
}

// The phases of a Receiver.
const (
	open int32 = iota
	draining
	closed
)

// New registers the metrics, all known values at zero. The error tells every
// fault of o at once.
func New(o Options) (*Receiver, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Receiver{
		store: o.Store, verifier: o.Verifier, path: o.Path, livemode: o.Livemode,
		maxBody: o.MaxBodyBytes, timeout: o.DeliveryTimeout, now: o.Now,
		refusals: refusals(), metrics: newMetrics(o.Registry),
	}
	r.log = newJournal(cmp.Or(o.Log, zap.NewNop()), r.refusals)
	r.maxHeld = max(minHeld, 2*o.MaxBodyBytes) // a buffer grows beyond its body: one of the longest must always fit
	r.buffers.New = func() any { b := make([]byte, 0, usualBody); return &b }
	return r, nil
}

// ExpectSecrets makes the series of secrets that are configured, at zero, and ends
// those of others. Call it at the start and after each change of the secrets, not
// twice at a time.
func (r *Receiver) ExpectSecrets(names ...string) {
	for _, name := range r.metrics.secrets {
		if !slices.Contains(names, name) {
			r.metrics.matches.DeleteLabelValues(name)
		}
	}
	for _, name := range names {
		r.metrics.matches.WithLabelValues(name)
	}
	r.metrics.secrets = names
}

// Count adds an event that the store has recorded to the metrics that tell of
// events: failures, transitions, redactions, decisions and lag. Deliveries are
// counted already; this is for what came another way, such as the snapshot that
// a job fetched for a thin event. What reconcile brings is not counted.
func (r *Receiver) Count(e *events.Event, o events.Outcome) {
	r.metrics.recorded(e, o, r.now())
}

// CountTold adds a transition that Stripe's API told before any event did. The
// event that tells it later is not counted again.
func (r *Receiver) CountTold(t *events.Step) { r.metrics.told(t) }

// Drain makes every answer from now on carry Connection: close. Deliveries are
// still recorded.
func (r *Receiver) Drain() { r.phase.CompareAndSwap(open, draining) }

// Close makes every delivery from now on answer 503, and logs how many lines
// were left out so far. It may be called again, when the server has stopped.
func (r *Receiver) Close() {
	r.phase.Store(closed)
	r.log.flush()
}

// verdict is what became of a delivery.
type verdict struct {
	outcome events.Outcome
	code    string        // of the refusal; empty for a 200
	event   *events.Event // nil if not verified or not parsed
	err     error         // of the store
	took    time.Duration
}

// ServeHTTP answers one delivery.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	begun := time.Now()
	if r.phase.Load() != open || len(q.TransferEncoding) > 0 {
		// RFC 9112, 6.1: chunks beside a Content-Length may hide a second request.
		// net/http does not tell whether there was one.
		w.Header()["Connection"] = closeConnection
	}
	switch {
	case q.URL.Path != r.path:
		r.refusals[notFound].write(w)
		return
	case q.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		r.refusals[methodNotAllowed].write(w)
		return
	}

	buf := r.buffers.Get().(*[]byte)
	v := r.deliver(q, begun, buf)
	v.took = time.Since(begun)
	r.metrics.delivery(&v)
	r.log.delivery(&v)
	if v.code != "" {
		r.refusals[v.code].write(w)
	} else {
		*buf = appendAccepted((*buf)[:0], v.outcome, v.event.ID)
		w.Header()["Content-Type"] = contentJSON
		_, _ = w.Write(*buf) // a client that has gone is told at its next attempt
	}
	if cap(*buf) <= usualBody {
		r.buffers.Put(buf)
	}
}

// deliver judges one delivery. It reads the body into buf.
func (r *Receiver) deliver(q *http.Request, begun time.Time, buf *[]byte) (v verdict) {
	defer func() {
		// The value of a panic may quote the event: its type and where it happened must do.
		if p := recover(); p != nil {
			r.log.panicked(p)
			v = r.refuse(database, v.event, nil)
		}
	}()

	if r.phase.Load() == closed {
		return r.refuse(drained, nil, nil)
	}
	header, code := r.admit(q)
	if code != "" {
		return r.refuse(code, nil, nil)
	}
	body, code := r.read(q.Body, (*buf)[:0])
	*buf = body
	if code != "" {
		return r.refuse(code, nil, nil)
	}

	now := r.now()
	secret, err := r.verifier().Verify(body, header, now)
	if err != nil {
		return r.refuse(signature.Reason(err), nil, nil)
	}
	e, err := events.Parse(body)
	if err == nil && secret.Test() && e.Livemode == events.ModeLive {
		return r.refuse(signature.Reason(signature.ErrWrongMode), e, nil)
	}
	r.metrics.matches.WithLabelValues(secret.Name()).Inc()
	if err != nil {
		return r.refuse(notAnEvent, nil, nil)
	}
	v.event = e
	switch {
	case e.Kind == events.Foreign || r.otherMode(e):
		return verdict{outcome: events.Ignored, event: e}
	}

	e.Source, e.SecretName, e.ReceivedAt = events.SourceWebhook, secret.Name(), now
	outcome, code, err := r.record(e, begun)
	if code != "" {
		return r.refuse(code, e, err)
	}
	r.Count(e, outcome)
	return verdict{outcome: outcome, event: e}
}

// otherMode reports whether an event is certainly not of the mode that is taken.
func (r *Receiver) otherMode(e *events.Event) bool {
	return r.livemode != events.ModeUnknown && e.Livemode != events.ModeUnknown && e.Livemode != r.livemode
}

// record hands an event to the store and names the reason if that fails.
func (r *Receiver) record(e *events.Event, begun time.Time) (events.Outcome, string, error) {
	// Not of the request's context: a client that hangs up must not abort the
	// commit. Stripe would count a failure and send again what may stand already.
	end := begun.Add(r.timeout)
	outcome, err := r.store.Record(until(end), e)
	switch {
	case err == nil:
		return outcome, "", nil
	case errors.Is(err, events.ErrQueueFull):
		return "", queueFull, err
	case errors.Is(err, events.ErrLocked):
		return "", locked, err
	case errors.Is(err, events.ErrDraining):
		return "", drained, err
	case errors.Is(err, context.DeadlineExceeded) || time.Now().After(end):
		return "", deadline, err
	default:
		return "", database, err
	}
}

// until is a context that has a deadline and never ends: the store keeps it. One
// that ends would be a third of a delivery's allocations that are ours.
type until time.Time

func (u until) Deadline() (deadline time.Time, limited bool) { return time.Time(u), true }
func (until) Done() <-chan struct{}                          { return nil }
func (until) Err() error                                     { return nil }
func (until) Value(any) any                                  { return nil }

func (r *Receiver) refuse(code string, e *events.Event, err error) verdict {
	return verdict{outcome: r.refusals[code].outcome(), code: code, event: e, err: err}
}
