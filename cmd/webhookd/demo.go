package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// demoAlive is how many sessions go through their stories at once, demoPace
// how long a step of one of them takes.
const (
	demoAlive = 8
	demoPace  = 400 * time.Millisecond
)

// demo keeps `dev --demo` going: sessions live through the stories of simulate,
// step by step, with everything beside them that a real endpoint meets.
type demo struct {
	target target
	stripe *demoStripe
	rng    *rand.Rand
	source *scenario.Source

	stories, codes []weighted
	alive          []*demoSession
	sent           int
}

// demoSession is a session and what is still to happen to it.
type demoSession struct {
	*scenario.Session
	live bool
	what []string
	code string // of its failures
}

func newDemo(t target, stripe *demoStripe, seed uint64) (*demo, error) {
	d := &demo{target: t, stripe: stripe, rng: rand.New(rand.NewPCG(seed, 1)), source: scenario.New(seed)}
	var err error
	if d.stories, err = weightsOf(usualStories); err != nil {
		return nil, err
	}
	if d.codes, err = weightsOf(usualCodes + ",none=1,a_code_of_tomorrow=1"); err != nil {
		return nil, err
	}
	return d, nil
}

// run tells until ctx ends or the endpoint is gone. It begins with each error
// code once, so that none is missing from any page or panel.
func (d *demo) run(ctx context.Context) {
	for _, code := range append(events.Codes(), "a_code_of_tomorrow", events.LabelNone) {
		s := d.begin("abandoned", code)
		for len(s.what) > 0 {
			if d.step(ctx, s) != nil {
				return
			}
		}
	}
	for ctx.Err() == nil {
		for len(d.alive) < demoAlive {
			d.alive = append(d.alive, d.begin(d.draw(d.stories), d.draw(d.codes)))
		}
		i := d.rng.IntN(len(d.alive))
		if d.step(ctx, d.alive[i]) != nil {
			return
		}
		if len(d.alive[i].what) == 0 {
			d.alive = slices.Delete(d.alive, i, i+1)
		}
		wait(ctx, time.Duration(float64(demoPace)*d.rng.ExpFloat64()))
	}
}

func (d *demo) draw(all []weighted) string {
	at := d.rng.Float64() * total(all)
	for _, w := range all {
		if at -= w.weight; at < 0 {
			return w.name
		}
	}
	return all[0].name
}

// begin draws a session that was made minutes ago, live four times in five.
func (d *demo) begin(story, code string) *demoSession {
	told, err := d.source.Story(story, time.Now(), scenario.SessionOptions{})
	if err != nil {
		panic(err) // the stories are our own
	}
	s := &demoSession{live: d.rng.IntN(5) > 0, code: code}
	for _, e := range told {
		s.what = append(s.what, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
	}
	if code == events.LabelNone {
		s.code = ""
	}
	s.Session = d.source.Session(scenario.SessionOptions{
		Livemode: s.live, Type: scenario.SessionType(code),
		CreatedAt: time.Now().Add(-time.Duration(20+d.rng.IntN(600)) * time.Second),
	})
	return s
}

// step tells what happens next to a session. Now and then it repeats it, tells
// it twice or as a thin event, forges it, says something foreign or what nobody
// understands, or loses it, for reconcile to find.
func (d *demo) step(ctx context.Context, s *demoSession) error {
	e, err := s.Happen(s.what[0], s.code, time.Now())
	if err != nil {
		panic(err) // likewise
	}
	s.what = s.what[1:]
	d.stripe.learn(s.ID, s.Expanded(e).Body)
	d.sent++
	switch draw := d.rng.IntN(100); {
	case d.sent == 80 || draw == 0 && d.rng.IntN(5) == 0:
		d.stripe.keep(e, s.live)
		return nil
	case draw < 5:
		err = d.deliver(ctx, d.target.Secret, e, e)
	case draw < 8:
		err = d.deliver(ctx, d.target.Secret, e, s.Twin(e))
	case draw < 11:
		err = d.deliver(ctx, d.target.Secret, e, s.Thin(e))
	case draw < 14:
		err = d.deliver(ctx, "whsec_of_a_stranger", e)
		if err == nil {
			err = d.deliver(ctx, d.target.Secret, e)
		}
	case draw < 16:
		err = d.deliver(ctx, d.target.Secret, e, renamed(s.Twin(e), "customer.updated"))
	case d.sent == 40 || draw == 16 && d.rng.IntN(20) == 0:
		err = d.deliver(ctx, d.target.Secret, e, renamed(s.Twin(e), "identity.verification_session.of_tomorrow"))
	default:
		err = d.deliver(ctx, d.target.Secret, e)
	}
	return err
}

// renamed is an event under another type.
func renamed(e scenario.Event, to string) scenario.Event {
	e.Body = bytes.Replace(e.Body, []byte(`"`+e.Type+`"`), []byte(`"`+to+`"`), 1)
	return e
}

func (d *demo) deliver(ctx context.Context, secret string, all ...scenario.Event) error {
	for _, e := range all {
		if _, err := d.target.deliver(ctx, e, signature.Sign(e.Body, secret, time.Now())); err != nil {
			return err
		}
	}
	return nil
}

// demoStripe is as much of Stripe's API as a demo needs: the sessions that it
// told of, with made-up outputs, and the events that it lost.
type demoStripe struct {
	server *http.Server
	base   string

	mu       sync.Mutex
	sessions map[string]json.RawMessage
	lost     map[bool][]json.RawMessage // by livemode
}

// demoKeys stand for restricted keys; demoStripe takes any.
const demoKeys = "rk_live_demo,rk_test_demo"

func serveDemoStripe(ctx context.Context) (*demoStripe, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve Stripe's part of the demo: %w", err)
	}
	d := &demoStripe{base: "http://" + l.Addr().String(), sessions: map[string]json.RawMessage{}, lost: map[bool][]json.RawMessage{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/identity/verification_sessions/{id}", d.session)
	mux.HandleFunc("GET /v1/events", d.events)
	mux.HandleFunc("GET /v1/", func(w http.ResponseWriter, _ *http.Request) { answerList(w, nil) })
	d.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = d.server.Serve(l) }() // Close ends it
	return d, nil
}

func (d *demoStripe) close() error { return d.server.Close() }

// learn keeps what an event tells of its session, outputs included.
func (d *demoStripe) learn(id string, event []byte) {
	var e struct {
		Data struct{ Object json.RawMessage }
	}
	if json.Unmarshal(event, &e) != nil {
		panic("an event of our own is no JSON")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.sessions) > 10_000 {
		clear(d.sessions) // a demo may run for days
	}
	d.sessions[id] = e.Data.Object
}

// keep lists an event that is not delivered.
func (d *demoStripe) keep(e scenario.Event, live bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost[live] = append(d.lost[live][max(0, len(d.lost[live])-50):], e.Body)
}

func (d *demoStripe) session(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	session, ok := d.sessions[path.Base(r.URL.Path)]
	d.mu.Unlock()
	if !ok {
		writeJSON(w, http.StatusNotFound, map[string]any{"error": map[string]string{"type": "invalid_request_error", "code": "resource_missing"}})
		return
	}
	writeJSON(w, http.StatusOK, session)
}

func (d *demoStripe) events(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	all := slices.Clone(d.lost[strings.Contains(r.Header.Get("Authorization"), "_live_")])
	d.mu.Unlock()
	if r.URL.Query().Has("ending_before") {
		all = nil // they came on the first page
	}
	slices.Reverse(all)
	answerList(w, all)
}

func answerList(w http.ResponseWriter, data []json.RawMessage) {
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "has_more": false, "data": append([]json.RawMessage{}, data...)})
}
