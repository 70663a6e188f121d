// Package stripefake is Stripe's API as far as webhookd reads it, for tests and
// for `dev --demo`: sessions, events, webhook endpoints and event destinations,
// each seen only with the mode, Stripe-Account or Stripe-Context that they
// belong to.
//
// A fake keeps state: what a [scenario.Session] does is told to it by
// [Fake.Tell], and later reads see it. It refuses what Stripe refuses (rights
// of keys, the 48 hours of sensitive fields, more than 25 reads a second),
// fails on request ([Fake.Next]), and remembers every request. What Stripe
// documents nowhere, such as the text of a refusal, can be set ([Settings]).
package stripefake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
)

// Placeholder is what a redaction leaves of a text.
const Placeholder = "[redacted]"

// Window is how long sensitive fields can be read with a key without an IP
// restriction (docs.stripe.com/identity/access-verification-results).
const Window = 48 * time.Hour

// Settings are how the fake behaves until they are changed.
type Settings struct {
	Now   func() time.Time // time.Now at first
	Skew  time.Duration    // of the Date that answers have
	Date  string           // instead of it; "-" for none
	Limit int              // requests in any second before a 429; 25 at first, 0 for no limit
	Delay time.Duration    // of every answer
	// Keep is how many requests, and sessions and events of a place, are
	// remembered, the newest; 0 for all. Limit counts what is remembered.
	Keep int
	// Unknown makes up, for who expands something of a session that nobody told
	// of, its last event, expanded; nil for a 404. It may not call the fake.
	Unknown func(at stripeapi.Place, id string) []byte
	// Refusal is how an expansion that a key may not read is refused.
	Refusal Refusal
	// Arrived is called with the last part of the path (an id, or the name of
	// a list) before anything is looked at; Answering when the answer is
	// settled and not yet sent. They may call the fake's methods.
	Arrived, Answering func(id string)
}

// Refusal is the form of a refused expansion. Stripe documents none; seen was
// a 403 that names nothing, as the zero Refusal is.
type Refusal struct {
	Status int  // 403 if zero
	Named  bool // the message names the expansion
}

// Rights are what a key may read: its zero value is a restricted key for
// everything but the sensitive fields.
type Rights struct {
	Secret    bool // sk_… instead of rk_…: never the sensitive fields
	Sensitive bool // "Access recent sensitive verification results"
	AnyAge    bool // IP-restricted: sensitive fields of any age

	NoSessions, NoEvents, NoEndpoints bool
	Refuses                           []string // further expansions, as provided_details
}

// Fault is what becomes of one request instead of an answer.
type Fault struct {
	Delay      time.Duration // before anything else
	Reset      bool          // the connection breaks without an answer
	Status     int           // an error with this status; 0 for the true answer
	RetryAfter string        // its Retry-After
	Body       string        // instead of an error of Stripe's
}

// Call is one request as it arrived.
type Call struct {
	At               time.Time
	Path             string
	Query            url.Values
	Live             bool // the key's mode
	Account, Context string
	Status           int // 0 for a broken connection
}

// Fake is a Stripe. It is safe for concurrent use.
type Fake struct {
	URL string // of its server; empty without one

	mu           sync.Mutex
	set          Settings
	faults       []Fault
	keys         map[string]access
	places       map[stripeapi.Place]*place
	endpoints    map[bool][]json.RawMessage
	destinations map[bool][]json.RawMessage
	calls        []*Call
	seq          int
}

type access struct {
	live   bool
	rights Rights
}

// place is the data of one mode and account or context.
type place struct {
	sessions, events []*item
}

// item is an object of a list.
type item struct {
	id      string
	created int64
	seq     int
	changed time.Time // when a session last changed
	doc     object
}

type object = map[string]json.RawMessage

// New starts a fake for a test, with which it closes.
func New(tb interface {
	Context() context.Context
	Cleanup(end func())
	Fatal(args ...any)
}) *Fake {
	f := InMemory()
	server, err := f.Serve(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = server.Close() }) // nothing is written there
	return f
}

// Serve starts to answer at a loopback address, URL from now on, until the
// server is closed.
func (f *Fake) Serve(ctx context.Context) (*http.Server, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve as Stripe: %w", err)
	}
	f.URL = "http://" + l.Addr().String()
	server := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // Close ends it
	return server, nil
}

// InMemory is a fake without a server, to be used as an [http.RoundTripper],
// also in a bubble of testing/synctest.
func InMemory() *Fake {
	return &Fake{
		set:       Settings{Now: time.Now, Limit: 25},
		keys:      map[string]access{},
		places:    map[stripeapi.Place]*place{},
		endpoints: map[bool][]json.RawMessage{}, destinations: map[bool][]json.RawMessage{},
	}
}

// Set changes the settings.
func (f *Fake) Set(change func(*Settings)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.set)
}

// Next lines up what becomes of the next requests, one each.
func (f *Fake) Next(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, faults...)
}

// Key makes a key of a mode. No two are the same.
func (f *Fake) Key(live bool, r Rights) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind, mode := "rk", "test"
	if r.Secret {
		kind = "sk"
	}
	if live {
		mode = "live"
	}
	f.seq++
	key := fmt.Sprintf("%s_%s_51FAKE%018d", kind, mode, f.seq)
	f.keys[key] = access{live, r}
	return key
}

// Grant changes what a key may read. One that is not known is made, of the mode
// that it names.
func (f *Fake) Grant(key string, r Rights) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[key] = access{strings.Contains(key, "_live_"), r}
}

// Expire makes a key unknown.
func (f *Fake) Expire(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, key)
}

// Tell takes in what happened to a session: the event can be read from now on,
// and the session, with its outputs where the key may, is as the event says.
// A redaction erases the session's earlier events too, as Stripe does.
func (f *Fake) Tell(s *scenario.Session, e scenario.Event) {
	f.AddSession(f.AddEvent(e.Body), objectOf(s.Expanded(e).Body))
}

// objectOf is the session that an event tells of.
func objectOf(event []byte) json.RawMessage {
	var told struct {
		Data struct {
			Object json.RawMessage `json:"object"`
		} `json:"data"`
	}
	mustDecode(event, &told)
	return told.Data.Object
}

// AddEvent adds a snapshot event, at the place that it names.
func (f *Fake) AddEvent(body []byte) stripeapi.Place {
	var e struct {
		ID       string `json:"id"`
		Created  int64  `json:"created"`
		Livemode bool   `json:"livemode"`
		Account  string `json:"account"`
		Context  string `json:"context"`
	}
	doc := object{}
	mustDecode(body, &e)
	mustDecode(body, &doc)
	at := stripeapi.Place{Live: e.Livemode, Account: e.Account, Context: e.Context}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	p := f.at(at)
	p.events = newest(append(p.events, &item{id: e.ID, created: e.Created, seq: f.seq, doc: doc}), f.set.Keep)
	return at
}

// AddSession adds a session, or replaces what is there: body is the object
// with everything expanded.
func (f *Fake) AddSession(at stripeapi.Place, body []byte) {
	var s struct {
		ID        string `json:"id"`
		Created   int64  `json:"created"`
		Redaction any    `json:"redaction"`
	}
	doc := object{}
	mustDecode(body, &s)
	mustDecode(body, &doc)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	p, now := f.at(at), f.set.Now()
	added := &item{id: s.ID, created: s.Created, seq: f.seq, changed: now, doc: doc}
	if i := slices.IndexFunc(p.sessions, func(i *item) bool { return i.id == s.ID }); i >= 0 {
		added.seq = p.sessions[i].seq
		p.sessions[i] = added
	} else {
		p.sessions = newest(append(p.sessions, added), f.set.Keep)
	}
	if s.Redaction != nil {
		p.redact(s.ID)
	}
}

// Connect makes a place without data known, as an account without sessions.
func (f *Fake) Connect(at stripeapi.Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at(at)
}

// Age sets when a session was last verified or else changed: what counts for
// the 48 hours.
func (f *Fake) Age(at stripeapi.Place, id string, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.at(at).sessions {
		if i.id == id {
			i.changed = f.set.Now().Add(-age)
		}
	}
}

// AddEndpoint adds a webhook endpoint of API v1, as JSON.
func (f *Fake) AddEndpoint(live bool, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endpoints[live] = append(f.endpoints[live], json.RawMessage(body))
}

// AddDestination adds an event destination of API v2, as JSON.
func (f *Fake) AddDestination(live bool, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.destinations[live] = append(f.destinations[live], json.RawMessage(body))
}

// Calls are the requests so far.
func (f *Fake) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := make([]Call, len(f.calls))
	for i, c := range f.calls {
		calls[i] = *c
	}
	return calls
}

// PeakRate is the most requests that arrived within any one second.
func (f *Fake) PeakRate() int {
	peak, calls := 0, f.Calls()
	for i, c := range calls {
		n := 0
		for _, before := range calls[:i+1] {
			if c.At.Sub(before.At) < time.Second {
				n++
			}
		}
		peak = max(peak, n)
	}
	return peak
}

// newest are the last of all, as many as are to be kept.
func newest[T any](all []T, keep int) []T {
	if keep == 0 || len(all) <= keep {
		return all
	}
	return slices.Delete(all, 0, len(all)-keep)
}

// at is the data of a place, new if there is none. f.mu is held.
func (f *Fake) at(p stripeapi.Place) *place {
	if p.Context != "" {
		p.Account = "" // the header of the context supersedes that of the account
	}
	if f.places[p] == nil {
		f.places[p] = &place{}
	}
	return f.places[p]
}

// redact erases what is personal in the events of a session.
func (p *place) redact(session string) {
	for _, i := range p.events {
		var data struct {
			Object object `json:"object"`
		}
		var id string
		mustDecode(i.doc["data"], &data)
		mustDecode(data.Object["id"], &id)
		if id != session {
			continue
		}
		o := data.Object
		o["metadata"] = json.RawMessage(`{}`)
		if has(o, "client_reference_id") {
			o["client_reference_id"] = mustEncode(Placeholder)
		}
		if has(o, "last_error") {
			var e object
			mustDecode(o["last_error"], &e)
			e["reason"] = mustEncode(Placeholder)
			o["last_error"] = mustEncode(e)
		}
		doc := maps.Clone(i.doc)
		doc["data"] = mustEncode(data)
		i.doc = doc
	}
}

func has(o object, field string) bool {
	raw, ok := o[field]
	return ok && string(raw) != "null"
}

// RoundTrip answers without a network.
func (f *Fake) RoundTrip(req *http.Request) (*http.Response, error) {
	w := &recorder{header: http.Header{}}
	broken := true
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a panic's value is compared as it is
				panic(p)
			}
		}()
		f.ServeHTTP(w, req)
		broken = false
	}()
	switch {
	case req.Context().Err() != nil:
		return nil, req.Context().Err()
	case broken:
		return nil, errors.New("connection reset by peer")
	}
	return &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.Buffer), ContentLength: int64(w.Len()), Request: req}, nil
}

// recorder keeps an answer.
type recorder struct {
	bytes.Buffer
	header http.Header
	status int
}

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }

// ServeHTTP answers one request.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	call, set, fault, overRate := f.arrive(r)
	if set.Arrived != nil {
		set.Arrived(id)
	}
	if !sleep(r, set.Delay+fault.Delay) || fault.Reset {
		panic(http.ErrAbortHandler)
	}
	var a answer
	switch {
	case overRate:
		a = failure(http.StatusTooManyRequests, "rate_limit", "Too many requests in a period of time.")
		a.retryAfter = "1"
	case fault.Status != 0:
		a = failure(fault.Status, "", "Something went wrong at "+r.URL.Path+".")
		if a.retryAfter = fault.RetryAfter; fault.Body != "" {
			a.body = []byte(fault.Body)
		}
	default:
		a = f.answer(r, call)
	}
	f.settle(call, a.status)
	if set.Answering != nil {
		set.Answering(id)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Request-Id", fmt.Sprintf("req_FAKE%010d", call.At.UnixNano()%1e10))
	switch set.Date {
	case "":
		h.Set("Date", set.Now().Add(set.Skew).UTC().Format(http.TimeFormat))
	case "-":
		h["Date"] = nil
	default:
		h.Set("Date", set.Date)
	}
	if a.retryAfter != "" {
		h.Set("Retry-After", a.retryAfter)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that went away
}

// arrive counts a request and takes its fault.
func (f *Fake) arrive(r *http.Request) (*Call, Settings, Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.set.Now()
	lately := 0
	for _, c := range slices.Backward(f.calls) {
		if now.Sub(c.At) >= time.Second {
			break
		}
		lately++
	}
	call := &Call{
		At: now, Path: r.URL.Path, Query: r.URL.Query(),
		Account: r.Header.Get("Stripe-Account"), Context: r.Header.Get("Stripe-Context"),
	}
	f.calls = newest(append(f.calls, call), f.set.Keep)
	if f.set.Limit > 0 && lately >= f.set.Limit {
		return call, f.set, Fault{}, true
	}
	var fault Fault
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	return call, f.set, fault, false
}

func (f *Fake) settle(c *Call, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.Status = status
}

// sleep reports whether the client has waited.
func sleep(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

type answer struct {
	status     int
	body       []byte
	retryAfter string
}

func success(v any) answer { return answer{status: http.StatusOK, body: mustEncode(v)} }

func failure(status int, code, message string) answer {
	kind := "invalid_request_error"
	if status >= http.StatusInternalServerError {
		kind = "api_error"
	}
	e := map[string]string{"type": kind, "message": message}
	if code != "" {
		e["code"] = code
	}
	return answer{status: status, body: mustEncode(map[string]any{"error": e})}
}

func mustEncode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("stripefake: %v", err))
	}
	return b
}

func mustDecode(b []byte, v any) {
	if err := json.Unmarshal(b, v); err != nil {
		panic(fmt.Sprintf("stripefake: what is told must be JSON of the right shape: %v", err))
	}
}

// verified is the one status that lists are asked for.
const verified = events.StatusVerified
