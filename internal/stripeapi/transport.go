package stripeapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// longestPause bounds what a Retry-After can do.
const longestPause = time.Hour

// exchange is what stripe-go does not tell its caller of a request: when it
// left, and how it was answered if that was no JSON. It travels in the
// request's context, as net/http/httptrace does.
type exchange struct {
	sent    time.Time     // by our clock, once the limiter let it through; zero if it did not
	elapsed time.Duration // until the answer was read
	status  int           // zero without a whole answer
	date    time.Time     // Stripe's clock; zero if not told
	after   time.Duration // Retry-After
}

type exchangeKey struct{}

// span is the time in which the answer was true, in whole seconds of Stripe's
// clock: ours counts for its begin only as far as the answer's Date allows.
func (x *exchange) span() (from, until time.Time) {
	from = x.sent.UTC().Truncate(time.Second)
	if x.date.IsZero() {
		return from, x.sent.Add(x.elapsed).UTC().Truncate(time.Second)
	}
	if latest := x.date.Add(-x.elapsed.Truncate(time.Second)); from.After(latest) {
		from = latest
	}
	return from, x.date
}

// transport lets one request after another through the gate and reads each
// answer whole: stripe-go does not close the bodies that it has read.
type transport struct {
	base http.RoundTripper
	gate *gate
	now  func() time.Time
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := req.Context().Value(exchangeKey{}).(*exchange)
	if err := t.gate.pass(req.Context()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(req.Context(), patience)
	defer cancel()
	out := req.Clone(ctx)
	out.GetBody = nil // else net/http repeats a request that a closed connection swallowed, past the gate

	began := time.Now()
	x.sent = t.now()
	res, err := t.base.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // it is read whole below
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errTooLarge
	}
	x.elapsed, x.status = time.Since(began), res.StatusCode
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		x.date = date.UTC()
	}
	if x.after = retryAfter(res.Header.Get("Retry-After"), x.date); res.StatusCode == http.StatusTooManyRequests {
		t.gate.shut(x.after)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// retryAfter reads seconds or a date; zero for anything else.
func retryAfter(header string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.Atoi(header); err == nil {
		d = time.Duration(min(seconds, int(longestPause/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil && !now.IsZero() {
		d = at.Sub(now)
	}
	return min(max(d, 0), longestPause)
}

// gate is the limiter of a client, with a door that Stripe can shut.
type gate struct {
	limiter *rate.Limiter

	mu    sync.Mutex
	until time.Time // shut until then
}

func newGate(perSecond float64) *gate {
	return &gate{limiter: rate.NewLimiter(rate.Limit(perSecond), 1)}
}

func (g *gate) shut(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(d); until.After(g.until) {
		g.until = until
	}
}

func (g *gate) closedFor() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.until)
}

// pass waits for its turn. Behind a door that stays shut for longer than an
// answer may take nobody waits: a worker has better things to do.
func (g *gate) pass(ctx context.Context) error {
	for {
		if err := g.limiter.Wait(ctx); err != nil {
			return err // also when the deadline is nearer than the turn
		}
		d := g.closedFor()
		switch {
		case d <= 0:
			return nil
		case d > patience:
			return &RetryError{After: d, Reason: "stripe has asked to wait"}
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}
