package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// demoMark is part of every name in a demo, whose people nobody must take for real.
const demoMark = "Fictional"

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
	what []string
	code string // of its failures
}

func newDemo(t target, stripe *demoStripe, seed uint64) (*demo, error) {
	d := &demo{target: t, stripe: stripe, rng: rand.New(rand.NewPCG(seed, 1)), source: scenario.New(seed)}
	d.source.Mark = demoMark
	var err error
	if d.stories, err = weightsOf(usualStories); err != nil {
		return nil, err
	}
	if d.codes, err = weightsOf(usualCodes + ",none=1,a_code_of_tomorrow=1"); err != nil {
		return nil, err
	}
	return d, nil
}

// run tells until ctx ends. It begins with each error code once, so that none is
// missing from any page or panel. What is not answered Stripe would send again; the
// demo goes on with the next.
func (d *demo) run(ctx context.Context) {
	for _, code := range append(events.Codes(), "a_code_of_tomorrow", events.LabelNone) {
		s := d.begin("abandoned", code)
		for len(s.what) > 0 && ctx.Err() == nil {
			d.tell(ctx, s)
		}
	}
	for ctx.Err() == nil {
		for len(d.alive) < demoAlive {
			d.alive = append(d.alive, d.begin(d.draw(d.stories), d.draw(d.codes)))
		}
		i := d.rng.IntN(len(d.alive))
		d.tell(ctx, d.alive[i])
		if len(d.alive[i].what) == 0 {
			d.alive = slices.Delete(d.alive, i, i+1)
		}
		wait(ctx, time.Duration(float64(demoPace)*d.rng.ExpFloat64()))
	}
}

// tell does a step, and pauses if nobody answers.
func (d *demo) tell(ctx context.Context, s *demoSession) {
	if d.step(ctx, s) != nil {
		wait(ctx, time.Second)
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
	s := &demoSession{code: code}
	for _, e := range told {
		s.what = append(s.what, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
	}
	if code == events.LabelNone {
		s.code = ""
	}
	s.Session = d.source.Session(scenario.SessionOptions{
		Livemode: d.rng.IntN(5) > 0, Type: scenario.SessionType(code),
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
	d.stripe.Tell(s.Session, e)
	d.sent++
	switch draw := d.rng.IntN(100); {
	case d.sent == 80 || draw == 0 && d.rng.IntN(5) == 0:
		return nil
	case d.sent == 40 || draw == 16 && d.rng.IntN(20) == 0:
		err = d.deliver(ctx, d.target.Secret, e, renamed(s.Twin(e), "identity.verification_session.of_tomorrow"))
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

// demoStripe is the Stripe of a demo. It is told of what happens before it is
// delivered, and has what is lost.
type demoStripe struct {
	*stripefake.Fake
	server *http.Server
	base   string
}

// demoKeys stand for restricted keys of either mode.
const demoKeys = "rk_live_demo,rk_test_demo"

func serveDemoStripe(ctx context.Context) (*demoStripe, error) {
	fake := stripefake.InMemory()
	fake.Set(func(s *stripefake.Settings) { s.Keep, s.Unknown = 1000, toldBefore }) // a demo may run for days
	for key := range strings.SplitSeq(demoKeys, ",") {
		fake.Grant(key, stripefake.Rights{Sensitive: true})
	}
	server, err := fake.Serve(ctx)
	if err != nil {
		return nil, err
	}
	return &demoStripe{fake, server, fake.URL}, nil
}

func (d *demoStripe) close() error { return d.server.Close() }

// sendTo makes the endpoint that doctor looks for, in either mode.
func (d *demoStripe) sendTo(url string) {
	for live, id := range map[bool]string{true: "we_live_demo", false: "we_test_demo"} {
		d.AddEndpoint(live, fmt.Sprintf(`{"id":%q,"object":"webhook_endpoint","url":%q,"status":"enabled","enabled_events":["%s"],"api_version":%q,"livemode":%t}`,
			id, url, strings.Join(events.Types(), `","`), scenario.APIVersion, live))
	}
}

// toldBefore makes up a session that an earlier run left in the database, or
// that trigger told of: who wants its outputs knows it to be verified.
func toldBefore(at stripeapi.Place, id string) []byte {
	source := scenario.New(0)
	source.Mark = demoMark
	s := source.Session(scenario.SessionOptions{ID: id, Livemode: at.Live, Status: events.StatusVerified})
	return s.Expanded(s.Verified(time.Now())).Body
}
