package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"webhookd/internal/signature"
)

// attack is something that strangers do, by one goroutine of many.
type attack struct {
	name    string
	at      int // once
	by      func(ctx context.Context, a *assault) error
	slow    bool  // nothing comes of it before a timeout of webhookd's
	allowed []int // statuses of answers; 0 is a connection that is closed without one
}

// assault is an attack under way.
type assault struct {
	address, path, secret string
	rng                   *rand.Rand
	answered              func(status int)
}

// memoryMost is what a replica may have while it is attacked: the limit that
// serve sets itself where nobody else does.
const memoryMost = 1 << 30

func attacks() []attack {
	return []attack{
		{"nobody", 0, nil, false, nil},
		{"bad signatures", 48, posts(func(a *assault) *http.Request {
			body := bytes.Repeat([]byte("x"), 2000)
			return a.request(body, signature.Sign(body, "whsec_guess", time.Now()))
		}), false, []int{400}},
		{"bad signatures, 1 MB each", 16, posts(func(a *assault) *http.Request {
			body := bytes.Repeat([]byte("x"), 1<<20)
			return a.request(body, signature.Sign(body, "whsec_guess", time.Now()))
		}), false, []int{400}},
		{"5,000 v1 signatures", 16, posts(func(a *assault) *http.Request {
			return a.request([]byte("{}"), "t=1"+strings.Repeat(",v1="+strings.Repeat("a", 64), 5000))
		}), false, []int{431, 0}},
		{"100 v1 signatures", 16, posts(func(a *assault) *http.Request {
			return a.request([]byte("{}"), "t=1"+strings.Repeat(",v1="+strings.Repeat("a", 64), 100))
		}), false, []int{400}},
		{"headers of 60 KB", 16, posts(func(a *assault) *http.Request {
			q := a.request([]byte("{}"), "t=1,v1=a")
			for i := range 60 {
				q.Header.Set("X-"+strconv.Itoa(i), strings.Repeat("y", 990))
			}
			return q
		}), false, []int{431, 0}},
		{"endless headers", 16, raw(func(c net.Conn, a *assault) error {
			_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n", a.path)
			for line := []byte("X-More: " + strings.Repeat("z", 1000) + "\r\n"); err == nil; {
				_, err = c.Write(line)
			}
			return nil // it closed
		}), false, []int{431, 0}},
		{"slow headers", 300, raw(func(c net.Conn, a *assault) error {
			return drip(c, "POST "+a.path+" HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("X-Slow: 1\r\n", 1000), 300*time.Millisecond)
		}), true, []int{400, 408, 0}},
		{"slow bodies", 300, raw(func(c net.Conn, a *assault) error {
			_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nStripe-Signature: %s\r\nContent-Length: 100000\r\n\r\n", a.path, guess())
			return drip(c, strings.Repeat("x", 1000), 300*time.Millisecond)
		}), true, []int{408, 0}},
		{"bodies held back", 1500, raw(func(c net.Conn, a *assault) error {
			_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nStripe-Signature: %s\r\nContent-Length: 1048576\r\n\r\n", a.path, guess())
			for part, n := make([]byte, 8<<10), 0; err == nil && n < 127; n++ {
				_, err = c.Write(part)
			}
			return err
		}), true, []int{408, 503, 0}},
		{"endless chunks", 16, raw(func(c net.Conn, a *assault) error {
			_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nStripe-Signature: %s\r\nTransfer-Encoding: chunked\r\n\r\n", a.path, guess())
			for chunk := []byte("2000\r\n" + strings.Repeat("x", 0x2000) + "\r\n"); err == nil; {
				_, err = c.Write(chunk)
			}
			return nil // it closed
		}), false, []int{413, 0}},
		{"chunks of a byte with long extensions", 16, raw(func(c net.Conn, a *assault) error {
			_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nStripe-Signature: %s\r\nTransfer-Encoding: chunked\r\n\r\n", a.path, guess())
			for chunk := []byte("1;" + strings.Repeat("e", 2000) + "\r\nx\r\n"); err == nil; {
				_, err = c.Write(chunk)
			}
			return nil // it closed
		}), false, []int{400, 408, 413, 0}},
		{"compression bombs", 16, posts(func(a *assault) *http.Request {
			q := a.request(bytes.Repeat([]byte{0x1f, 0x8b}, 5000), guess())
			q.Header.Set("Content-Encoding", "gzip")
			return q
		}), false, []int{415}},
		{"requests smuggled", 16, smuggle, false, []int{400, 408, 417, 501, 0}},
		{"paths and methods of all kinds", 16, posts(func(a *assault) *http.Request {
			q := a.request(nil, guess())
			q.Method = "M" + strconv.Itoa(a.rng.IntN(1e6))
			if a.rng.IntN(2) == 0 {
				q.URL.Path = "/" + strconv.Itoa(a.rng.IntN(1e9))
			}
			return q
		}), false, []int{404, 405}},
		{"lines for the log", 16, raw(func(c net.Conn, a *assault) error {
			line := "{\"level\":\"fatal\",\"msg\":\"forged\"}"
			forms := []string{
				"POST " + a.path + "?a=%0a" + url.QueryEscape(line) + "%1b[2J HTTP/1.1\r\nHost: x\r\nConnection: close\r\nStripe-Signature: t=1,v1=a\r\nContent-Length: 0\r\n\r\n",
				"POST " + a.path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: " + line + "\r\nRequest-Id: \t" + line + "\r\nStripe-Signature: t=1,v1=" + line + "\r\nContent-Length: 0\r\n\r\n",
				"POST " + a.path + " HTTP/1.1\r\nHost: \x1b[2J" + line + "\r\nStripe-Signature: \x1b[2J\r\n\r\n",
				"POST " + a.path + "\n" + line + "\r\n\r\n", line + "\n\n", "\x16\x03\x01\x02\x00" + line + "\r\n\r\n",
			}
			_, err := io.WriteString(c, forms[a.rng.IntN(len(forms))])
			return err
		}), false, []int{400, 0}},
		// What follows is signed: by Stripe in a bad year.
		{"signed: new words every time", 8, posts(func(a *assault) *http.Request {
			n := strconv.FormatUint(a.rng.Uint64(), 36)
			body := fmt.Appendf(nil, `{"id":"evt_%s\n{\"level\":\"fatal\"}\u001b[2J","object":"event","type":"identity.verification_session.%s\n","created":1700000000,"livemode":true,
				"data":{"object":{"id":"vs_attack%s","object":"identity.verification_session","status":"%s","type":"%s","created":1700000000,"livemode":true,"metadata":{},
				"last_error":{"code":"%s","reason":"x"}}}}`, n, n, n, n, n, n)
			return a.request(body, signature.Sign(body, a.secret, time.Now()))
		}), false, []int{200}},
		{"signed: depth", 4, posts(func(a *assault) *http.Request {
			body := []byte(`{"id":"evt_deep","type":"identity.verification_session.created","data":` + strings.Repeat("[", 400_000) + strings.Repeat("]", 400_000) + `}`)
			return a.request(body, signature.Sign(body, a.secret, time.Now()))
		}), false, []int{200, 400}},
		{"idle connections", 1500, raw(func(c net.Conn, a *assault) error {
			_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", a.path)
			return err
		}), false, []int{405, 0}},
	}
}

func guess() string { return signature.Sign([]byte("{}"), "whsec_guess", time.Now()) }

func (a *assault) request(body []byte, header string) *http.Request {
	q, err := http.NewRequest(http.MethodPost, "http://"+a.address+a.path, bytes.NewReader(body)) //nolint:noctx // given one where it is sent
	if err != nil {
		panic(err) // of our own words
	}
	q.Header.Set("Stripe-Signature", header)
	return q
}

// posts sends requests without a pause.
func posts(make func(a *assault) *http.Request) func(context.Context, *assault) error {
	return func(ctx context.Context, a *assault) error {
		road := &http.Transport{DisableCompression: true}
		defer road.CloseIdleConnections()
		for ctx.Err() == nil {
			q := make(a)
			resp, err := road.RoundTrip(q.WithContext(ctx))
			if err != nil {
				a.closed(ctx, err)
				continue
			}
			_, _ = io.Copy(io.Discard, resp.Body) // the status counts
			_ = resp.Body.Close()
			a.answered(resp.StatusCode)
		}
		return nil
	}
}

// closed notes a connection that was closed without an answer that could be
// read: whoever sends on is reset.
func (a *assault) closed(ctx context.Context, err error) {
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		a.answered(0)
	}
}

// raw opens connections, one after the other, and waits for the answer to what
// is written.
func raw(write func(c net.Conn, a *assault) error) func(context.Context, *assault) error {
	return func(ctx context.Context, a *assault) error {
		for ctx.Err() == nil {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", a.address)
			if err != nil {
				return nil //nolint:nilerr // the end of the attack, or of the strangers' ports
			}
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				_ = write(c, a) // who is closed on cannot write
			}()
			status := 0
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
				status = resp.StatusCode
				_ = resp.Body.Close()         // the status counts
				_, _ = io.Copy(io.Discard, c) // until the other side closes it
			}
			if status != 0 || ctx.Err() == nil {
				a.answered(status)
			}
			_ = c.Close()
			<-wrote
			stop()
		}
		return nil
	}
}

// drip writes a byte at a time.
func drip(c net.Conn, text string, pause time.Duration) error {
	for i := range len(text) {
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return nil //nolint:nilerr // it closed
		}
		time.Sleep(pause)
	}
	return nil
}

// smuggle hides a request in another one's body, for a server that ends the
// first one elsewhere than a proxy before it. A second answer is a success.
func smuggle(ctx context.Context, a *assault) error {
	inner := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nStripe-Signature: t=1,v1=%064d\r\n\r\n{}", a.path, 0)
	head := "POST " + a.path + " HTTP/1.1\r\nHost: x\r\nStripe-Signature: " + guess() + "\r\n"
	forms := []string{
		"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
		"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
		"Content-Length: 0, 5\r\n\r\n",
		"Content-Length: +0\r\n\r\n",
		"Content-Length: 0x0\r\n\r\n",
		"Content-Length: -1\r\n\r\n",
		"Content-Length : 0\r\n\r\n",
		"Content-Length: 1e1\r\n\r\n",
		"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: identity\r\n\r\n",
		"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n1\r\nx0\r\n\r\n",
		"Expect: 200-maybe\r\nContent-Length: 0\r\n\r\n",
		"Upgrade: h2c\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
		"\x00: x\r\n\r\n",
	}
	for ctx.Err() == nil {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", a.address)
		if err != nil {
			return nil //nolint:nilerr // the end of the attack
		}
		_ = c.SetDeadline(time.Now().Add(8 * time.Second))
		_, _ = io.WriteString(c, head+forms[a.rng.IntN(len(forms))]+inner) // it may close before the end
		text, _ := io.ReadAll(c)                                           // until it closes, or resets what was not read
		_ = c.Close()
		answers := bytes.Split(text, []byte("HTTP/1.1 "))[1:]
		status := 0
		if len(answers) > 0 {
			status, _ = strconv.Atoi(string(answers[0][:min(3, len(answers[0]))]))
		}
		if len(answers) > 1 {
			status = -1 // the inner request was heard
		}
		if ctx.Err() == nil {
			a.answered(status)
		}
	}
	return nil
}

// attack lets strangers at one replica, one attack after the other, beside
// good deliveries, and reports what these still get.
func (r *rig) endureAll(ctx context.Context, stdout io.Writer) error {
	one := r.replicas[0]
	r.stripe.patience = 15 * time.Second // a slow machine is no success of a stranger's
	g := &good{rig: r, one: one}
	var broken []string
	one.eachLine(func(line []byte) {
		g.lines.Add(1)
		if !json.Valid(line) || bytes.Contains(line, []byte(`"level":"fatal"`)) || bytes.ContainsRune(line, 0x1b) {
			r.stripe.objectf("a line of the log was forged: %.200q", line)
		}
	})
	before := one.look(ctx)
	var rest float64 // goroutines while nobody attacks
	fmt.Fprintf(stdout, "| attack | connections | tried/s | answers | good deliveries/s | p50 ms | p99 ms | failed | memory MB | goroutines | log lines/s |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, a := range attacks() {
		if r.attackFor < shortOfTime { // to be through with them
			a.at = (a.at + 4) / 5
		}
		line, goroutines, wrong := r.endure(ctx, a, g)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if a.at == 0 {
			rest = goroutines
		}
		fmt.Fprintln(stdout, line)
		broken = append(broken, wrong...)
	}

	// It forgets.
	begun := time.Now()
	after := one.look(ctx)
	for after["go_goroutines"] > rest+30 && time.Since(begun) < within {
		time.Sleep(time.Second / 2)
		after = one.look(ctx)
	}
	if after["go_goroutines"] > rest+30 {
		broken = append(broken, fmt.Sprintf("%.0f goroutines are left, %.0f there were", after["go_goroutines"], rest))
	}
	fmt.Fprintf(stdout, "\n%d series before, %d after; %.0f goroutines before, %.0f %v after the last attack.\n",
		len(before), len(after), rest, after["go_goroutines"], time.Since(begun).Round(time.Second))
	// A status of its own and an outcome come into being when they are first seen.
	if len(after) > len(before)+200 {
		broken = append(broken, fmt.Sprintf("%d series came into being", len(after)-len(before)))
	}
	broken = append(broken, r.stripe.wrong...)
	if err := r.intact(ctx, g, stdout); err != nil {
		broken = append(broken, err.Error())
	}
	for _, b := range broken {
		fmt.Fprintf(stdout, "  %s\n", b)
	}
	if len(broken) > 0 {
		return errors.New("an attack had success")
	}
	return nil
}

// shortOfTime is less than what slow strangers need to be refused.
const shortOfTime = 10 * time.Second

func (r *rig) endure(ctx context.Context, at attack, g *good) (line string, goroutines float64, wrong []string) {
	one := g.one
	answers := map[int]int{}
	var mu sync.Mutex
	attacking, stop := context.WithTimeout(ctx, r.attackFor)
	defer stop()
	var strangers sync.WaitGroup
	for i := range at.at {
		strangers.Go(func() {
			a := &assault{
				address: one.listen, path: "/webhooks/stripe", secret: (*r.stripe.secrets.Load())[0], rng: rand.New(rand.NewPCG(r.seed, uint64(i))),
				answered: func(status int) { mu.Lock(); answers[status]++; mu.Unlock() },
			}
			if err := at.by(attacking, a); err != nil {
				r.stripe.objectf("%s: %v", at.name, err)
			}
		})
	}
	g.lines.Store(0)
	var memory float64
	var looking sync.WaitGroup
	looking.Go(func() {
		for attacking.Err() == nil {
			goroutines = max(goroutines, one.look(ctx)["go_goroutines"])
			memory = max(memory, resident(one.pid()))
			time.Sleep(200 * time.Millisecond)
		}
	})
	latencies, failed := g.deliver(attacking)
	looking.Wait()
	strangers.Wait()
	slices.Sort(latencies)
	at50, at99 := quantile(latencies, 0.5), quantile(latencies, 0.99)
	total, seen := 0, []string{}
	for _, status := range slices.SortedFunc(maps.Keys(answers), func(a, b int) int { return cmp.Compare(answers[b], answers[a]) }) {
		total += answers[status]
		word := strconv.Itoa(status)
		if status == 0 {
			word = "closed"
		}
		seen = append(seen, fmt.Sprintf("%s: %d", word, answers[status]))
		if !slices.Contains(at.allowed, status) {
			wrong = append(wrong, fmt.Sprintf("%s: %d times answered %s", at.name, answers[status], word))
		}
	}
	seconds := r.attackFor.Seconds()
	if at.at > 0 && total == 0 && (!at.slow || r.attackFor > shortOfTime) {
		wrong = append(wrong, at.name+": nothing came of it")
	}
	if failed > 0 || len(latencies) == 0 {
		wrong = append(wrong, fmt.Sprintf("%s: %d good deliveries failed, %d did not", at.name, failed, len(latencies)))
	}
	if memory > memoryMost {
		wrong = append(wrong, fmt.Sprintf("%s: %.0f MB of memory", at.name, memory/(1<<20)))
	}
	return fmt.Sprintf("| %s | %d | %.0f | %s | %.0f | %.1f | %.1f | %d | %.0f | %.0f | %.0f |", at.name, at.at, float64(total)/seconds, strings.Join(seen, ", "),
		float64(len(latencies))/seconds, at50, at99, failed, memory/(1<<20), goroutines, float64(g.lines.Load())/seconds), goroutines, wrong
}

// good are deliveries that have nothing to do with an attack.
type good struct {
	rig   *rig
	one   *replica
	lines atomic.Int64 // of the log
	told  int          // tales
}

// deliver brings one event after the other, at most 100 a second, and returns
// how long each took, in milliseconds.
func (g *good) deliver(ctx context.Context) (latencies []float64, failed int) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		t := g.rig.stripe.tale(g.told)
		g.told++
		for _, event := range t.deliveries { // a tale that has begun is told to its end
			<-tick.C
			f, begun := t.events[event], time.Now()
			a, err := g.rig.stripe.post(context.WithoutCancel(ctx), g.one.url(), f.body, signed(f.body, *g.rig.stripe.secrets.Load()))
			if err != nil || a.status != http.StatusOK {
				failed++
				g.rig.stripe.objectf("a good delivery is answered %d %s, %v", a.status, a.Code, err)
			}
			latencies = append(latencies, float64(time.Since(begun).Microseconds())/1000)
		}
	}
	return latencies, failed
}

// intact compares the good deliveries with the tables, and looks for what
// strangers left there.
func (r *rig) intact(ctx context.Context, g *good, stdout io.Writer) error {
	conn, err := r.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	// What was signed is Stripe's and not a stranger's.
	for _, sql := range []string{
		`DELETE FROM stripe_identity.quarantined_events WHERE session_id LIKE 'vs_attack%' OR event_id = 'evt_deep'`,
		`DELETE FROM stripe_identity.verification_sessions WHERE id LIKE 'vs_attack%'`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	o := &oracle{author: r.stripe.author, told: g.told, conn: conn}
	if err := o.judge(ctx, g.told, int(r.probed.Load())); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d rows compared with the model: lost %d, twice or of a stranger %d, different %d, resurrected %d.\n",
		o.verdict.Compared, o.verdict.Lost, o.verdict.Twice, o.verdict.Different, o.verdict.Resurrected)
	if !o.verdict.ok() {
		return fmt.Errorf("the tables are not what they must be:\n%s", strings.Join(o.verdict.Samples, "\n"))
	}
	return nil
}

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// resident is the memory of a process, in bytes.
func resident(pid int) float64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm") //nolint:gosec // of our own child
	if err != nil {
		return 0
	}
	columns := strings.Fields(string(text))
	if len(columns) < 2 {
		return 0
	}
	pages, err := strconv.ParseFloat(columns[1], 64)
	if err != nil {
		return 0
	}
	return pages * float64(os.Getpagesize())
}
