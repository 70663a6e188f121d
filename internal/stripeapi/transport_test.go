package stripeapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

func TestRequestsAreNeverCloserThanTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full, rate(5))
		w.Set(func(s *stripefake.Settings) { s.Limit = 5 })
		s := w.verified()
		time.Sleep(time.Minute) // no credit is saved up
		var wait sync.WaitGroup
		for range 40 {
			wait.Go(func() {
				if _, err := w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		calls := w.Calls()
		for i := range calls[1:] {
			if gap := calls[i+1].At.Sub(calls[i].At); gap < 199*time.Millisecond {
				t.Errorf("request %d came %v after the one before", i+1, gap)
			}
		}
		if len(calls) != 40 || w.PeakRate() > 5 {
			t.Errorf("%d calls, at most %d in a second", len(calls), w.PeakRate())
		}
	})
}

func TestTheDefaultRateIsFive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full, rate(0))
		s := w.verified()
		began := time.Now()
		for range 11 {
			must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false))
		}
		if took := time.Since(began).Round(time.Millisecond); took != 2*time.Second {
			t.Errorf("11 reads took %v", took)
		}
	})
}

func TestA429WithRetryAfterStopsAllRequestsUntilThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full, rate(10))
		s := w.verified()
		w.Next(stripefake.Fault{Status: 429, RetryAfter: "20"})
		began := time.Now()
		if _, err := w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false); err == nil {
			t.Fatal("no error")
		}
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				if _, err := w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		calls := w.Calls()
		for i, c := range calls[1:] {
			if c.At.Sub(began) < 20*time.Second {
				t.Errorf("request %d came after %v", i+1, c.At.Sub(began))
			}
		}
		if w.PeakRate() > 10 || calls[1].At.Equal(calls[2].At) {
			t.Error("those that waited came at once")
		}
	})
}

func TestNobodyWaitsForALongPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full)
		s := w.verified()
		w.Next(stripefake.Fault{Status: 429, RetryAfter: "600"})
		_, err := w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false)
		time.Sleep(time.Minute)
		_, err2 := w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false)
		var first, second *stripeapi.RetryError
		if !errors.As(err, &first) || !errors.As(err2, &second) || first.After != 10*time.Minute || second.After.Round(time.Second) != 9*time.Minute {
			t.Errorf("errors %v and %v", err, err2)
		}
		if n := len(w.Calls()); n != 1 {
			t.Errorf("%d requests within the pause", n)
		}
	})
}

func TestWaitingForTheLimiterEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, full, rate(0.1))
		s := w.verified()
		must[stripeapi.Answer](t)(w.Session(t.Context(), stripeapi.Place{}, s.ID, false, false))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Session(ctx, stripeapi.Place{}, s.ID, false, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if n := len(w.Calls()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestARequestThatTheConnectionSwallowedIsNotRepeatedPastTheLimiter(t *testing.T) {
	t.Parallel()
	fake := stripefake.New(t)
	key := fake.Key(false, full)
	c := stripeapi.New(stripeapi.Options{Base: fake.URL + "/", Rate: 1000, Key: func(bool) (string, bool) { return key, true }})
	t.Cleanup(c.Close)
	must[time.Time](t)(c.Clock(t.Context(), false)) // the connection is used again
	fake.Next(stripefake.Fault{Reset: true})
	_, err := c.Event(t.Context(), stripeapi.Place{}, "evt_1")
	if _, ok := errors.AsType[*stripeapi.RetryError](err); !ok {
		t.Errorf("error %v", err)
	}
	if n := len(fake.Calls()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestTheClockIsStripes(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *world){
		"of an answer":      func(*world) {},
		"of a refusal":      func(w *world) { w.Grant(w.keys[true], stripefake.Rights{NoSessions: true}) },
		"of an expired key": func(w *world) { w.Expire(w.keys[true]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, full)
				change(w)
				w.Set(func(s *stripefake.Settings) { s.Skew = 90 * time.Second })
				got := must[time.Time](t)(w.Clock(t.Context(), true))
				if want := time.Now().Add(90 * time.Second); !got.Equal(want) {
					t.Errorf("clock %v, want %v", got, want)
				}
			})
		})
	}
	w := newWorld(t, full)
	w.Next(stripefake.Fault{Reset: true})
	if at, err := w.Clock(t.Context(), false); err == nil {
		t.Errorf("without an answer the clock is %v", at)
	}
	w.Set(func(s *stripefake.Settings) { s.Date = "-" })
	if at, err := w.Clock(t.Context(), false); err == nil {
		t.Errorf("without a Date the clock is %v", at)
	}
}

// A firewall that forgets a connection tells nobody.
func TestAConnectionWhosePathVanishedIsLeft(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("asked by %s", r.Proto)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	var vanished atomic.Bool
	transport := stripeapi.NewTransport(2 * time.Second)
	transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig
	first := true
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil && first {
			first, conn = false, vanishing{conn, &vanished}
		}
		return conn, err
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	ask := func() error {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(q)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close())
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	vanished.Store(true)
	if err := ask(); err == nil {
		return // asked again by itself
	}
	if err := ask(); err != nil {
		t.Errorf("the next read: %v", err)
	}
}

// vanishing is a connection that swallows what is sent once its path has vanished.
type vanishing struct {
	net.Conn
	vanished *atomic.Bool
}

func (c vanishing) Write(b []byte) (int, error) {
	if c.vanished.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}
