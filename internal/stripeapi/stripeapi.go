// Package stripeapi reads from Stripe what webhooks do not tell: sessions with
// their outputs, events that never arrived, and how the endpoint is set up.
//
// It stands on stripe-go's client with that client's retries turned off. All
// requests of a [Client] go one by one through one limiter, which a 429 with
// Retry-After closes for all of them; what may be tried again comes back as a
// [*RetryError], and the caller decides.
//
// A key that may not read one of the outputs is refused the whole call, and
// Stripe does not say which field it was. Then one caller finds out, field by
// field, while the others with that key wait; the answer holds for an hour.
//
// Errors are in webhookd's own words: Stripe's message may quote data, and
// nothing here ever tells a key. The report of a verification (documents,
// faces) is never asked for.
package stripeapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v85"

	"webhookd/internal/events"
)

const (
	// patience is how long one answer, also a page of a list, may take.
	patience = 30 * time.Second
	// maxAnswer is far over a page of 100 events of the largest size, in bytes.
	maxAnswer = 32 << 20
	// defaultRate is for Options.Rate, in reads per second.
	defaultRate = 5
)

// Options say where to read, with what and how fast.
type Options struct {
	Base      string                                // URL without a path; empty for Stripe's own
	Key       func(live bool) (key string, ok bool) // the present key of a mode: keys roll
	Rate      float64                               // reads per second, without bursts; 5 if zero
	Wants     func(field string) bool               // OUTPUT_FIELDS; nil wants all
	Now       func() time.Time                      // time.Now if nil
	Transport http.RoundTripper                     // under the limiter; nil for one of its own
}

// Client reads from Stripe. It is safe for concurrent use.
type Client struct {
	api    stripe.RawRequestBackend
	base   http.RoundTripper
	key    func(live bool) (string, bool)
	wants  func(field string) bool
	now    func() time.Time
	rights rights
}

// New makes a client; it does not read anything yet.
func New(o Options) *Client {
	c := &Client{key: o.Key, wants: o.Wants, now: o.Now, base: o.Transport}
	if c.now == nil {
		c.now = time.Now
	}
	if c.wants == nil {
		c.wants = func(string) bool { return true }
	}
	if c.base == nil {
		c.base = newTransport(quiet)
	}
	config := &stripe.BackendConfig{
		EnableTelemetry:   new(false),
		MaxNetworkRetries: stripe.Int64(0),                                // they would not wait for Retry-After
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull}, // it logs Stripe's messages
		HTTPClient: &http.Client{
			Transport:     &transport{base: c.base, gate: newGate(cmp.Or(o.Rate, defaultRate)), now: c.now},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if o.Base != "" {
		config.URL = &o.Base
	}
	c.api = stripe.GetBackendWithConfig(stripe.APIBackend, config).(stripe.RawRequestBackend)
	return c
}

// quiet is after how long a connection that tells nothing is asked whether it is
// there, and after how long without an answer it is left: together no longer than
// a read may take.
const quiet = 15 * time.Second

// newTransport is the usual one, but for HTTP/2 connections whose path vanished
// without a word: each read would be sent into the same one, for a quarter of an hour.
func newTransport(quiet time.Duration) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: quiet, PingTimeout: quiet}
	return t
}

// Close closes the connections that are not in use.
func (c *Client) Close() {
	(&http.Client{Transport: c.base}).CloseIdleConnections()
}

// Place is whose data is read, and with the key of which mode.
type Place struct {
	Live    bool
	Account string // acct_… of a connected account, sent as Stripe-Account
	Context string // of an organization's event, sent as Stripe-Context, which supersedes the account
}

// reply is a successful answer.
type reply struct {
	body        []byte
	from, until time.Time // see Answer
}

// get reads one page with the key of the place's mode.
func (c *Client) get(ctx context.Context, p Place, path string, query url.Values) (reply, error) {
	key, err := c.keyOf(p)
	if err != nil {
		return reply{}, err
	}
	return c.getWith(ctx, key, p, path, query)
}

func (c *Client) getWith(ctx context.Context, key string, p Place, path string, query url.Values) (reply, error) {
	x, body, err := c.ask(ctx, key, p, path, query)
	if err != nil {
		return reply{}, err
	}
	from, until := x.span()
	return reply{body, from, until}, nil
}

// ask makes one request. An answer that is an error is told by the exchange too.
func (c *Client) ask(ctx context.Context, key string, p Place, path string, query url.Values) (exchange, []byte, error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var x exchange
	params := &stripe.RawParams{Params: stripe.Params{Context: context.WithValue(ctx, exchangeKey{}, &x)}}
	switch {
	case p.Context != "":
		params.StripeContext = p.Context
	case p.Account != "":
		params.StripeAccount = &p.Account
	}
	res, err := c.api.RawRequest(http.MethodGet, path, key, "", params)
	if err != nil || res.StatusCode != http.StatusOK {
		return x, nil, explain(ctx, x, err)
	}
	return x, res.RawJSON, nil
}

func (c *Client) keyOf(p Place) (string, error) {
	for _, r := range p.Account + p.Context {
		if r != '/' && !isIDRune(r) {
			return "", fmt.Errorf("account or context that cannot be Stripe's: %w", ErrNotFound)
		}
	}
	if c.key == nil {
		return "", ErrNoKey
	}
	key, ok := c.key(p.Live)
	if !ok || key == "" {
		return "", ErrNoKey
	}
	return key, nil
}

// pathOf is the path of one object. An id that Stripe cannot have made, and
// an empty one, which would list, are answered without asking.
func pathOf(collection, id string) (string, error) {
	if id == "" || len(id) > events.MaxID || strings.ContainsFunc(id, func(r rune) bool { return !isIDRune(r) }) {
		return "", fmt.Errorf("id that cannot be Stripe's: %w", ErrNotFound)
	}
	return collection + "/" + id, nil
}

func isIDRune(r rune) bool {
	return r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
}

// Event is one event of the last 30 days, as JSON.
func (c *Client) Event(ctx context.Context, p Place, id string) (raw []byte, err error) {
	path, err := pathOf("/v1/events", id)
	if err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	r, err := c.get(ctx, p, path, nil)
	if err == nil {
		err = sameID(r.body, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read event %s: %w", id, err)
	}
	return r.body, nil
}

// sameID guards against a proxy that answers something else.
func sameID(raw []byte, id string) error {
	var object struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(raw, &object); err != nil || object.ID != id {
		return &RetryError{Reason: "the answer is not what was asked for"}
	}
	return nil
}

// Clock is Stripe's clock, in whole seconds, by the Date of a cheap answer. A
// refusal has a Date too; an error says that there was none.
func (c *Client) Clock(ctx context.Context, live bool) (time.Time, error) {
	key, err := c.keyOf(Place{Live: live})
	if err != nil {
		return time.Time{}, fmt.Errorf("read Stripe's clock: %w", err)
	}
	x, _, err := c.ask(ctx, key, Place{Live: live}, sessionsPath, url.Values{"limit": {"1"}})
	switch {
	case !x.date.IsZero():
		return x.date, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read Stripe's clock: %w", err)
	default:
		return time.Time{}, errors.New("read Stripe's clock: the answer has no Date")
	}
}
