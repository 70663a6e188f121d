package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
)

// simulated runs simulate against an endpoint that takes everything.
func simulated(tb testing.TB, args ...string) *endpoint {
	tb.Helper()
	ep := newEndpoint(tb, applied)
	webhookd(tb, exitDone, append([]string{"simulate", "--url", ep.URL, "--secret", triggerSecret}, args...)...)
	return ep
}

// summaryOf runs simulate against a URL.
func summaryOf(tb testing.TB, want int, url, secret string, args ...string) (sum summary) {
	tb.Helper()
	out, _ := webhookd(tb, want, append([]string{"simulate", "--json", "--url", url, "--secret", secret}, args...)...)
	if err := json.Unmarshal([]byte(out), &sum); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return sum
}

func TestSimulateTellsSessionsAsTheyHappen(t *testing.T) {
	t.Parallel()
	ep := simulated(t, "--events", "3000", "--connections", "4")
	sessions, ids, kinds, codes := map[string][]*events.Event{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	size := 0
	for i, e := range ep.events {
		if e.Kind != events.Snapshot || e.SessionID != e.Session.ID {
			t.Fatalf("event %s is %v: %s", e.ID, e.Kind, ep.bodies[i])
		}
		sessions[e.SessionID] = append(sessions[e.SessionID], e)
		ids[e.ID], kinds[e.Type], codes[e.Session.ErrorCode.Value] = true, true, true
		size += len(ep.bodies[i])
	}
	if len(ids) != 3000 {
		t.Errorf("%d ids in 3000 events", len(ids))
	}
	if each := 3000. / float64(len(sessions)); each < 2.7 || each > 3.7 {
		t.Errorf("%.1f events a session, want about 3", each)
	}
	if each := size / 3000; each < 2400 || each > 2900 {
		t.Errorf("%d bytes a body, want about 2700", each)
	}
	if len(kinds) != len(events.Types()) || len(codes) < 10 {
		t.Errorf("%d types and %d codes", len(kinds), len(codes))
	}
	for id, told := range sessions {
		for i, e := range told {
			if i == 0 && e.Type != events.TypeCreated || i > 0 && !e.Created.After(told[i-1].Created) {
				t.Fatalf("session %s: %s at %v is number %d", id, e.Type, e.Created, i)
			}
			if !e.Session.Created.Equal(told[0].Created) {
				t.Fatalf("session %s was born at %v and at %v", id, told[0].Created, e.Session.Created)
			}
			if age := time.Since(e.Created); age < 0 || age > time.Minute {
				t.Fatalf("event %s is %v old", e.ID, age)
			}
			if who := e.Session.ClientReferenceID; who.Has() && who.Value != told[0].Session.ClientReferenceID.Value {
				t.Fatalf("session %s is about %q and %q", id, who.Value, told[0].Session.ClientReferenceID.Value)
			}
		}
	}
}

func TestSimulatedSessionsAreRecorded(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := begin(t, database).ready()
	sum := summaryOf(t, exitDone, s.public, whsec, "--events", "600", "--duplicates", "0.2", "--shuffle", "0.2", "--bad-signatures", "0.1")
	fresh := sum.Outcomes["applied"] + sum.Outcomes["stale"] + sum.Outcomes["twin"]
	if sum.Sent != 600 || fresh+sum.Outcomes["duplicate"] != sum.Acked || sum.Outcomes["no_match"] != sum.BadSignatures ||
		sum.Outcomes["stale"] == 0 || sum.Outcomes["duplicate"] == 0 || sum.BadSignatures == 0 {
		t.Errorf("summary: %+v", sum)
	}
	conn := connect(t, database)
	if n := valueOf[int64](t, conn, `SELECT count(*) FROM stripe_identity.events`); n != fresh {
		t.Errorf("%d events are recorded, %d are said to be", n, fresh)
	}
	if n := valueOf[int64](t, conn, `SELECT count(*) FROM stripe_identity.quarantined_events`); n != 0 {
		t.Errorf("%d events are in quarantine", n)
	}
}

func TestSimulateMixesAsItIsTold(t *testing.T) {
	t.Parallel()
	share := func(ep *endpoint, of func(i int) bool) float64 {
		n := 0
		for i := range ep.events {
			if of(i) {
				n++
			}
		}
		return float64(n) / float64(len(ep.events))
	}
	within := func(t *testing.T, got, low, high float64) {
		t.Helper()
		if got < low || got > high {
			t.Errorf("a share of %.3f, want %v to %v", got, low, high)
		}
	}
	t.Run("duplicates", func(t *testing.T) {
		t.Parallel()
		ep := simulated(t, "--events", "2000", "--duplicates", "0.3")
		seen := map[string]string{}
		within(t, share(ep, func(i int) bool {
			before, again := seen[ep.events[i].ID]
			seen[ep.events[i].ID] = ep.bodies[i]
			if again && before != ep.bodies[i] {
				t.Errorf("event %s came again with another body", ep.events[i].ID)
			}
			return again
		}), 0.25, 0.35)
	})
	t.Run("shuffles keep the times of a story", func(t *testing.T) {
		t.Parallel()
		ep := simulated(t, "--events", "2000", "--shuffle", "0.5", "--stories", "happy", "--connections", "1")
		last := map[string]time.Time{}
		within(t, share(ep, func(i int) bool {
			e := ep.events[i]
			late := e.Created.Before(last[e.SessionID])
			last[e.SessionID] = e.Created
			return late
		}), 0.15, 0.6)
		for _, e := range ep.events {
			if at := e.Created.Sub(e.Session.Created); e.Type == events.TypeCreated && at != 0 || e.Type == events.TypeVerified && at < 2*time.Second {
				t.Fatalf("%s %v after the birth", e.Type, at)
			}
		}
	})
	t.Run("codes", func(t *testing.T) {
		t.Parallel()
		ep := simulated(t, "--events", "2000", "--stories", "abandoned=1", "--codes", "document_expired=3,email_unverified_other,none=0", "--seed", "7")
		within(t, 2*share(ep, func(i int) bool { return ep.events[i].Session.ErrorCode.Value == "document_expired" }), 0.69, 0.81)
		within(t, 2*share(ep, func(i int) bool { return ep.events[i].Session.Type.Value == "verification_flow" }), 0.4, 0.6)
	})
	t.Run("size", func(t *testing.T) {
		t.Parallel()
		for _, size := range []int{0, 1500, 9000} {
			ep := simulated(t, "--events", "30", "--stories", "happy", "--size", fmt.Sprint(size))
			for _, body := range ep.bodies {
				if n := len(body); size > 0 && (n < size-300 || n > size+300) || n > 1400 && size == 0 {
					t.Fatalf("%d bytes, want about %d", n, size)
				}
			}
		}
	})
	t.Run("a seed draws the same mix under other ids", func(t *testing.T) {
		t.Parallel()
		kinds := func(seed string) (types, ids []string) {
			for _, e := range simulated(t, "--events", "100", "--connections", "1", "--seed", seed).events {
				types, ids = append(types, e.Type+e.Session.ErrorCode.Value), append(ids, e.ID)
			}
			return types, ids
		}
		one, ids := kinds("7")
		again, _ := kinds("7")
		other, others := kinds("8")
		if !slices.Equal(one, again) || slices.Equal(one, other) {
			t.Error("the seed does not decide")
		}
		if slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(others, id) }) {
			t.Error("two seeds have an id in common")
		}
	})
}

func TestSimulateSumsUpWhatItSaw(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	ep := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%4 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"code":"queue_full","title":"busy"}`)
			return
		}
		applied(w, r)
	})
	got := summaryOf(t, exitFailed, ep.URL, triggerSecret, "--events", "100", "--connections", "2")
	if got.Seconds <= 0 || got.AcksPerSecond <= 0 || got.Latency.P50 <= 0 || got.Latency.P50 > got.Latency.P99 || got.Latency.P999 > got.Latency.Max {
		t.Errorf("times: %+v", got)
	}
	got.Seconds, got.AcksPerSecond, got.Latency = 0, 0, quantiles{}
	want := summary{
		Connections: 2, Sent: 100, Acked: 75, Outcomes: map[string]int64{"applied": 75, "queue_full": 25},
		Statuses: map[int]int64{200: 75, 503: 25}, Errors: map[string]int64{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	stdout, stderr := webhookd(t, exitFailed, "simulate", "--url", ep.URL, "--secret", triggerSecret, "--events", "100")
	for _, want := range []string{"4 connections: 100 sent, 75 acked", "p99.9", "outcomes  applied 75  queue_full 25", "statuses  200 75  503 25"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if want := "25 of 100 signed deliveries were not taken"; !strings.Contains(stderr, want) || strings.Contains(stderr, "\r") {
		t.Errorf("want %q and no progress line, got %q", want, stderr)
	}
}

func TestSimulateNoticesAForgeryThatIsTaken(t *testing.T) {
	t.Parallel()
	gullible := httptest.NewServer(http.HandlerFunc(applied))
	t.Cleanup(gullible.Close)
	_, stderr := webhookd(t, exitFailed, "simulate", "--url", gullible.URL, "--secret", triggerSecret, "--events", "50", "--bad-signatures", "1")
	if want := "50 of 50 forged deliveries were taken"; !strings.Contains(stderr, want) {
		t.Errorf("want %q, got %q", want, stderr)
	}
}

func TestSimulateCountsFromWhenAnEventWasDue(t *testing.T) {
	t.Parallel()
	const stall = 400 * time.Millisecond
	slow := func() *endpoint {
		var n atomic.Int64
		return newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				time.Sleep(stall)
			}
			applied(w, r)
		})
	}
	open := summaryOf(t, exitDone, slow().URL, triggerSecret, "--connections", "1", "--events", "100", "--rate", "250")
	if open.Latency.P50 < 100 {
		t.Errorf("p50 %v ms, though all that was due in the stall was late", open.Latency.P50)
	}
	closed := summaryOf(t, exitDone, slow().URL, triggerSecret, "--connections", "1", "--events", "100")
	if closed.Latency.P50 > 100 || closed.Latency.Max < 400 {
		t.Errorf("p50 %v ms, max %v ms: one of a hundred was slow", closed.Latency.P50, closed.Latency.Max)
	}
	if even := summaryOf(t, exitDone, newEndpoint(t, applied).URL, triggerSecret, "--events", "100", "--rate", "200"); even.Seconds < 0.49 {
		t.Errorf("100 events at 200 a second took %v s", even.Seconds)
	}
}

func TestSimulateEndsWithASummary(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var n atomic.Int64
	ep := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 20 {
			cancel()
		}
		applied(w, r)
	})
	args := []string{"simulate", "--url", ep.URL, "--secret", triggerSecret}
	var stdout, stderr strings.Builder
	if code := run(ctx, args, &stdout, &stderr); code != exitDone || !strings.Contains(stdout.String(), fmt.Sprintf("%d sent, %[1]d acked", n.Load())) {
		t.Errorf("canceled: exit code %d\n%s%s", code, &stdout, &stderr)
	}
	sum := summaryOf(t, exitDone, ep.URL, triggerSecret, "--duration", "350ms", "--rate", "10")
	if sum.Seconds < 0.3 || sum.Seconds > 30 || float64(sum.Acked) > 10*sum.Seconds+1 || sum.Acked < 1 {
		t.Errorf("%d events in %v s", sum.Acked, sum.Seconds)
	}
}

func TestSimulateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args string
		code int
		want string
	}{
		"https":               {"--url https://127.0.0.1/x", exitUsage, "http:// endpoints of this machine only"},
		"another machine":     {"--url http://192.0.2.1/x", exitUsage, "http:// endpoints of this machine only"},
		"nobody there":        {"--url http://127.0.0.1:1/x", exitFailed, "is 'webhookd dev' or 'webhookd serve' running?"},
		"unknown story":       {"--stories sad", exitUsage, "happy"},
		"a negative weight":   {"--codes a=-1", exitUsage, `the weight of "a"`},
		"weights of zero":     {"--codes a=0,b=0", exitUsage, "all weights are zero"},
		"a weight of nothing": {"--codes =1", exitUsage, "want name=weight"},
		"too large shares":    {"--duplicates 0.6 --bad-signatures 0.6", exitUsage, "shares are from 0 to 1"},
		"no connection":       {"--connections 0", exitUsage, "--connections"},
		"a rate of NaN":       {"--rate NaN", exitUsage, "--rate"},
		"a negative end":      {"--events -1", exitUsage, "not negative"},
		"too large bodies":    {"--size 1000000", exitUsage, "--size"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"simulate", "--url", "http://127.0.0.1:1/x", "--secret", triggerSecret}, strings.Fields(tt.args)...)
			if _, stderr := webhookd(t, tt.code, args...); !strings.Contains(stderr, tt.want) {
				t.Errorf("want %q, got %q", tt.want, stderr)
			}
		})
	}
}

func TestALinkReadsWhatServersAnswer(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + `{"outcome":"applied"}`
	tests := map[string]struct {
		answer string
		status int // 0 for an error
		word   string
		keep   bool
	}{
		"an outcome":          {ok, 200, "applied", true},
		"a problem":           {"HTTP/1.1 400 Bad Request\r\ncontent-length: 19\r\n\r\n" + `{"code":"no_match"}`, 400, "no_match", true},
		"no body":             {"HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		"an end":              {"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", 200, "", false},
		"an old server":       {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", false},
		"a body to the end":   {"HTTP/1.1 200 OK\r\n\r\nhello", 200, "", false},
		"chunks":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "", true},
		"chunks and trailers": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", 200, "", true},
		"first a 100":         {"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + ok, 200, "applied", true},
		"a large body":        {"HTTP/1.1 500 No\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000), 500, "", true},
		"too short a body":    {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", 0, "", false},
		"a wrong length":      {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0, "", false},
		"no status":           {"HTTP/1.1 abc\r\n\r\n", 0, "", false},
		"another protocol":    {"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", 0, "", false},
		"nothing":             {"", 0, "", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := linkTo(t, func(conn net.Conn) { _, _ = io.WriteString(conn, tt.answer) })
			got, err := l.deliver(t.Context(), aMessage(t), false, time.Now())
			if (err != nil) != (tt.status == 0) || err == nil && (got.status != tt.status || string(got.word) != tt.word) {
				t.Errorf("%d %q, %v", got.status, got.word, err)
			}
			if keep := l.conn != nil; keep != tt.keep {
				t.Errorf("the connection is kept: %v", keep)
			}
		})
	}
}

func TestALinkConnectsAgain(t *testing.T) {
	t.Parallel()
	l := linkTo(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	})
	for range 3 {
		if got, err := l.deliver(t.Context(), aMessage(t), false, time.Now()); err != nil || got.status != 200 {
			t.Fatalf("%d, %v", got.status, err)
		}
	}
}

// linkTo leads to a server that reads one request of a connection, does as it is
// told, and closes.
func linkTo(tb testing.TB, do func(net.Conn)) *link {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 64<<10))
			do(conn)
			_ = conn.Close()
		}
	}()
	l := newLink(&url.URL{Host: listener.Addr().String(), Path: "/x"}, triggerSecret)
	tb.Cleanup(func() { l.close(); _ = listener.Close(); <-done })
	return l
}

func aMessage(tb testing.TB) *message {
	tb.Helper()
	m, err := newMix(1, []weighted{{"happy", 1}}, []weighted{{"none", 1}}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return newTeller(m, 1, 0, 1, 0).next(time.Now().Unix())
}

func TestADeliveryAllocatesNothing(t *testing.T) {
	stories, err := weightsOf(usualStories)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMix(1, stories, []weighted{{"document_expired", 1}}, 2700)
	if err != nil {
		t.Fatal(err)
	}
	teller, l, now := newTeller(m, 1, 0, 1, 0.1), newLink(&url.URL{Host: "localhost:1", Path: "/x"}, triggerSecret), time.Now()
	l.write(teller.next(now.Unix()), false, now) // makes the buffers
	if n := testing.AllocsPerRun(1000, func() { l.write(teller.next(now.Unix()), false, now) }); n > 0 {
		t.Errorf("%v allocations for each delivery", n)
	}
}

func TestIDsNeverRepeatAndSortByTime(t *testing.T) {
	t.Parallel()
	m, err := newMix(1, []weighted{{"happy", 1}}, []weighted{{"none", 1}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[idLength]byte]bool{}
	for n := range 3 {
		teller := newTeller(m, 1, n, 3, 0)
		for range 20_000 {
			seen[teller.id(1_700_000_000)] = true
		}
	}
	if len(seen) != 60_000 {
		t.Errorf("%d ids of 60000", len(seen))
	}
	teller := newTeller(m, 1, 0, 1, 0)
	last := ""
	for _, at := range []int64{1_700_000_000, 1_700_000_001, 1_700_000_062, 1_899_999_999, 1_900_000_000} {
		id := teller.id(at)
		if string(id[:]) <= last {
			t.Errorf("%s comes not after %s", id, last)
		}
		last = string(id[:])
	}
}

func TestLatenciesTellQuantiles(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	var h, half latencies
	var all []time.Duration
	for i := range 50_000 {
		d := time.Duration(rng.ExpFloat64() * float64(3*time.Millisecond))
		all = append(all, d)
		if i%2 == 0 {
			h.add(d)
		} else {
			half.add(d)
		}
	}
	h.merge(&half)
	slices.Sort(all)
	for _, q := range []float64{0, .01, .5, .9, .99, .999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := h.quantile(q); (got - want).Abs() > want/64+time.Microsecond {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := new(latencies).quantile(.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for _, d := range []time.Duration{-1, 0, 130 * time.Microsecond, 132 * time.Microsecond, time.Hour} {
		h.add(d) // and does not panic
	}
	if h.max != time.Hour {
		t.Errorf("max %v", h.max)
	}
}

func TestOnlyATerminalSeesProgress(t *testing.T) {
	t.Parallel()
	file, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if isTerminal(file) || isTerminal(io.Discard) {
		t.Error("a file is taken for a terminal")
	}
}
