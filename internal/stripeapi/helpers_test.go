package stripeapi_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// full is a key with every right that Identity has, unrestricted in age.
var full = stripefake.Rights{Sensitive: true, AnyAge: true}

// world is a fake of Stripe and a client that reads from it without a network,
// by default faster than any test waits.
type world struct {
	*stripefake.Fake
	*stripeapi.Client
	keys map[bool]string // by mode; may change
	src  *scenario.Source
}

func newWorld(tb testing.TB, r stripefake.Rights, change ...func(*stripeapi.Options)) *world {
	tb.Helper()
	w := &world{Fake: stripefake.InMemory(), src: scenario.New(1)}
	w.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	w.keys = map[bool]string{false: w.Key(false, r), true: w.Key(true, r)}
	o := stripeapi.Options{
		Rate: 1e6, Transport: w.Fake,
		Key: func(live bool) (string, bool) { key, ok := w.keys[live]; return key, ok },
	}
	for _, f := range change {
		f(&o)
	}
	w.Client = stripeapi.New(o)
	tb.Cleanup(w.Close)
	return w
}

// verified is a new session of the test mode that has been verified just now.
func (w *world) verified() *scenario.Session {
	s := w.src.Session(scenario.SessionOptions{})
	now := time.Now()
	w.Tell(s, s.Created(now.Add(-4*time.Minute)))
	w.Tell(s, s.Processing(now.Add(-time.Minute)))
	w.Tell(s, s.Verified(now))
	return s
}

// paths are the expansions of the calls from the n-th on, joined by commas.
func (w *world) expansions(from int) []string {
	var all []string
	for _, c := range w.Calls()[from:] {
		all = append(all, strings.Join(c.Query["expand[]"], ","))
	}
	return all
}

func wants(fields ...string) func(*stripeapi.Options) {
	return func(o *stripeapi.Options) {
		o.Wants = func(field string) bool { return slices.Contains(fields, field) }
	}
}

func rate(perSecond float64) func(*stripeapi.Options) {
	return func(o *stripeapi.Options) { o.Rate = perSecond }
}

// over puts another transport between the client and the fake.
func over(t roundTrip) func(*stripeapi.Options) {
	return func(o *stripeapi.Options) { o.Transport = t }
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func fixture(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatalf("unexpected error: %v", err)
		}
		return v
	}
}

// dump is everything that printing a value can tell.
func dump(v any) string { return fmt.Sprintf("%v %+v %#v %q", v, v, v, v) }

func scenarioOf(account string) scenario.SessionOptions {
	return scenario.SessionOptions{Account: account}
}
