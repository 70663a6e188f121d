package receiver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"webhookd/internal/events"
	"webhookd/internal/receiver"
)

// head is the head of a delivery of n bytes, with more header lines.
func head(n int, header http.Header, more ...string) string {
	lines := []string{"POST " + path + " HTTP/1.1", "Host: x", fmt.Sprintf("Content-Length: %d", n)}
	for _, v := range header["Stripe-Signature"] {
		lines = append(lines, "Stripe-Signature: "+v)
	}
	return strings.Join(append(lines, more...), "\r\n") + "\r\n\r\n"
}

func timeout(d time.Duration) func(*receiver.Options) {
	return func(o *receiver.Options) { o.DeliveryTimeout = d }
}

func readFrom(tb testing.TB, r io.Reader) answer {
	tb.Helper()
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		tb.Fatalf("read the answer: %v", err)
	}
	return read(tb, res)
}

func TestBodyTooSlow(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore, timeout(200*time.Millisecond))
	body := fixture(t, "verified")
	for name, sent := range map[string]string{
		"by length": head(len(body), signed(body)) + string(body[:10]),
		"chunked": strings.Replace(head(0, signed(body)), "Content-Length: 0", "Transfer-Encoding: chunked", 1) +
			"a\r\n" + string(body[:10]) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := readFrom(t, dial(t, svc.listen(t), sent))
			if got.Status != 408 || got.Code != "body_too_slow" || !got.Closes {
				t.Errorf("got %+v, want 408 body_too_slow that closes", got)
			}
		})
	}
}

// What nobody reads does not hold the answer back or the connection open.
func TestUnreadBodyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore, timeout(400*time.Millisecond))
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"over the limit by its length": {head(maxBody+1, signed(nil)), 413},
		"encoded":                      {head(100, signed(nil), "Content-Encoding: br"), 415},
		"large header":                 {head(100, nil, "Stripe-Signature: "+strings.Repeat("x", 9<<10)), 431},
		"no signature":                 {head(100, nil), 400},
		"other path":                   {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", 404},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, svc.listen(t), c.head)
			begun := time.Now()
			got := readFrom(t, conn)
			_, err := io.Copy(io.Discard, conn)
			if took := time.Since(begun); got.Status != c.status || err != nil || took > 3*time.Second {
				t.Errorf("got %d after %v, then %v; want %d, then the end", got.Status, took, err, c.status)
			}
		})
	}
}

func TestExpectContinueIsRefusedBeforeTheBody(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	body := fixture(t, "verified")
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"good":           {head(len(body), signed(body), "Expect: 100-continue"), 100},
		"no signature":   {head(len(body), nil, "Expect: 100-continue"), 400},
		"over the limit": {head(maxBody+1, signed(body), "Expect: 100-continue"), 413},
		"encoded":        {head(len(body), signed(body), "Expect: 100-continue", "Content-Encoding: gzip"), 415},
		"large header":   {head(len(body), signed(body), "Expect: 100-continue", "X: "+strings.Repeat("x", 16<<10)), 431},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, svc.listen(t), c.head)
			r := bufio.NewReader(conn)
			line, err := r.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
				t.Fatalf("got %q, %v; want %d", line, err, c.status)
			}
			if c.status != 100 {
				return
			}
			if _, err := conn.Write(body); err != nil {
				t.Fatal(err)
			}
			_, _ = r.ReadString('\n') // the blank line
			if got := readFrom(t, r); got.Status != 200 {
				t.Errorf("got %+v, want 200", got)
			}
		})
	}
}

func TestWhatNeverBecomesARequestIsNotCounted(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	for name, c := range map[string]struct{ sent, answer string }{
		"headers over 64 KiB": {head(0, nil, "X: "+strings.Repeat("x", 80<<10)), "HTTP/1.1 431 "},
		"broken headers":      {"POST " + path + " HTTP/1.1\r\nbroken\r\n\r\n", "HTTP/1.1 400 "},
		"slow headers":        {"POST " + path + " HTTP/1.1\r\nHost: x\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, svc.listen(t), c.sent)
			got, _ := io.ReadAll(conn) // ends with a closed or a reset connection
			if !strings.HasPrefix(string(got), c.answer) || c.answer == "" && len(got) > 0 {
				t.Errorf("got %q, want %q", got, c.answer)
			}
		})
	}
	t.Cleanup(func() {
		if counted := svc.counted(t); len(counted) > 0 {
			t.Errorf("counted %v", counted)
		}
	})
}

func TestOptionsOfTheServerIsAnotherPath(t *testing.T) {
	t.Parallel()
	got := readFrom(t, dial(t, newService(t, nopStore).listen(t), "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"))
	if got.Status != 404 || got.Code != "not_found" {
		t.Errorf("got %+v, want 404", got)
	}
}

func TestClientThatHangsUpDoesNotAbortTheCommit(t *testing.T) {
	t.Parallel()
	entered, gone, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	svc := newService(t, store(func(ctx context.Context, _ *events.Event) (events.Outcome, error) {
		close(entered)
		<-gone
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
		result <- ctx.Err()
		return events.Applied, nil
	}))
	body := fixture(t, "verified")
	conn := dial(t, svc.listen(t), head(len(body), signed(body))+string(body))
	<-entered
	_ = conn.Close()
	close(gone)
	if err := <-result; err != nil {
		t.Errorf("the commit's context ended: %v", err)
	}
}

func TestDeadlineCountsFromTheRequest(t *testing.T) {
	t.Parallel()
	svc := newService(t, store(func(ctx context.Context, _ *events.Event) (events.Outcome, error) {
		deadline, _ := ctx.Deadline()
		time.Sleep(time.Until(deadline))
		return "", errors.New("record event: timeout") // a store may hide what ended it
	}), timeout(100*time.Millisecond))
	if got := svc.send(t); got.Status != 503 || got.Code != "deadline" {
		t.Errorf("got %+v, want 503 deadline", got)
	}
}

// The body's deadline passes while the store works: that is nothing to the connection.
func TestConnectionSurvivesASlowCommit(t *testing.T) {
	t.Parallel()
	svc := newService(t, store(func(context.Context, *events.Event) (events.Outcome, error) {
		time.Sleep(2 * time.Second)
		return events.Applied, nil
	}), timeout(3*time.Second))
	addr, body := svc.listen(t), fixture(t, "verified")
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)

	for i := range 2 {
		reused := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
		})
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header = signed(body)
		res, err := transport.RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); got.Status != 200 || reused != (i > 0) {
			t.Errorf("request %d: status %d, connection reused: %v", i, got.Status, reused)
		}
	}
}

// A request with both lengths may carry a second one (RFC 9112, 6.1).
func TestChunksEndTheConnection(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	second := "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
	conn := dial(t, svc.listen(t), "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+second)
	all, err := io.ReadAll(conn)
	if n := strings.Count(string(all), "HTTP/1.1 "); err != nil || n != 1 || !strings.Contains(string(all), "Connection: close") {
		t.Errorf("%d answers, %v, want one and the end:\n%s", n, err, all)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	body := fixture(t, "verified")
	svc := newService(t, nopStore)
	addr := svc.listen(t)
	if got := deliver(t, addr, body); got.Status != 200 || got.Closes {
		t.Errorf("before: %+v", got)
	}

	svc.Drain()
	if got := deliver(t, addr, body); got.Status != 200 || !got.Closes {
		t.Errorf("draining: %+v, want 200 that closes", got)
	}
	if got := send(t, addr, http.MethodGet, "/", nil, nil); got.Status != 404 || !got.Closes {
		t.Errorf("draining, other path: %+v, want 404 that closes", got)
	}

	svc.Close()
	svc.Drain() // does not open it again
	if got := deliver(t, addr, body); got.Status != 503 || got.Code != "draining" || !got.Closes {
		t.Errorf("closed: %+v, want 503 draining that closes", got)
	}
	if n := svc.counted(t)[`webhookd_unavailable_total{reason="draining"}`]; n != 1 {
		t.Errorf("draining counted %v times", n)
	}
}

func TestServerLogIsBounded(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	srv := receiver.NewServer(http.NotFoundHandler(), time.Second, zap.New(core))
	for range 100 {
		srv.ErrorLog.Print("a\x1b[31mb" + strings.Repeat("x", 5000))
	}
	lines := logs.All()
	if len(lines) != 10 {
		t.Fatalf("%d lines, want 10", len(lines))
	}
	if text := lines[0].ContextMap()["error"].(string); len(text) > 1100 || strings.Contains(text, "\x1b") {
		t.Errorf("line %q", text)
	}
}

// Long bodies that strangers never finish take no more than their share.
func TestBodiesThatNeverEndHoldABoundedAmountOfMemory(t *testing.T) {
	t.Parallel()
	var before, after runtime.MemStats
	addr := newService(t, answers(events.Applied), func(o *receiver.Options) { o.DeliveryTimeout = 8 * time.Second }).listen(t)
	runtime.GC()
	runtime.ReadMemStats(&before)
	unsigned := http.Header{"Stripe-Signature": {"t=1,v1=" + strings.Repeat("0", 64)}}
	part := make([]byte, 1<<20-1)
	var wg sync.WaitGroup
	for range 150 {
		wg.Go(func() {
			conn := dial(t, addr, head(1<<20, unsigned))
			_, _ = conn.Write(part) // it may be refused before it is through
			_, _ = conn.Read(make([]byte, 1))
		})
	}
	time.Sleep(2500 * time.Millisecond)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 110<<20 {
		t.Errorf("150 bodies of 1 MiB that never end hold %d MiB", grown>>20)
	}
	wg.Wait()
}

// Nor does who sends next to nothing get what a longer body needed before.
func TestBodiesThatHardlyBeginHoldABoundedAmountOfMemory(t *testing.T) { //nolint:paralleltest // it looks at the heap
	var before, after runtime.MemStats
	addr := newService(t, answers(events.Applied), func(o *receiver.Options) { o.DeliveryTimeout = 20 * time.Second }).listen(t)
	unsigned := http.Header{"Stripe-Signature": {"t=1,v1=" + strings.Repeat("0", 64)}}
	body := strings.Repeat("x", 50<<10)
	runtime.GC()
	runtime.ReadMemStats(&before)
	const rounds, each = 6, 200
	for range rounds {
		var longer []net.Conn
		for range each {
			longer = append(longer, dial(t, addr, head(len(body), unsigned)+body[1:]))
		}
		time.Sleep(300 * time.Millisecond) // all have come in, but for their last byte
		for _, conn := range longer {
			_, _ = io.WriteString(conn, "x") // some were refused before
			readFrom(t, conn)
		}
		for range each {
			dial(t, addr, head(1<<10, unsigned)+"x")
		}
		time.Sleep(100 * time.Millisecond)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 60<<20 {
		t.Errorf("%d bodies of one byte that never go on hold %d MiB", rounds*each, grown>>20)
	}
}

// However long bodies may be, what all may hold together is never too little for one.
func TestTheLongestBodyIsTaken(t *testing.T) {
	t.Parallel()
	const limit = 64 << 20
	addr := newService(t, answers(events.Applied), func(o *receiver.Options) { o.MaxBodyBytes, o.DeliveryTimeout = limit, time.Minute }).listen(t)
	for _, size := range []int{40 << 20, limit} {
		body := fixture(t, "verified")
		body = append(body, bytes.Repeat([]byte(" "), size-len(body))...)
		if a := deliver(t, addr, body); a.Status != http.StatusOK {
			t.Errorf("a signed body of %d MiB is answered %d %s", size>>20, a.Status, a.Code)
		}
	}
}
