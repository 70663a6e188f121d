package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// service is serve, run in this process.
type service struct {
	testing.TB
	public, admin string // URLs; the first one of the endpoint
	log           *buffer
	client        *http.Client
	stop          context.CancelFunc
	ended         chan struct{}
	err           error // of serve, after ended
}

// begin serves with what edits say until stop or the test's end. Both of its
// addresses are open when it returns; it may not have looked at its database.
func begin(tb testing.TB, databaseURL string, edits ...func(*environment)) *service {
	tb.Helper()
	cfg, err := LoadConfig(needDatabase|needSecrets, append([]func(*environment){func(e *environment) {
		e.DatabaseURL.force(databaseURL)
		e.StripeWebhookSecrets.force("main=" + whsec)
		e.ListenAddr.force("127.0.0.1:0")
		e.AdminAddr.force("127.0.0.1:0")
		e.DrainDelay.force("0s")
		e.LogLevel.force("debug")
	}}, edits...)...)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &service{TB: tb, log: new(buffer), client: newClient(tb), stop: stop, ended: make(chan struct{})}
	on, err := listen(ctx, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s.public, s.admin = "http://"+on.public.Addr().String()+cfg.WebhookPath, "http://"+on.admin.Addr().String()
	open := make(chan struct{})
	go func() {
		defer close(s.ended)
		s.err = serve(ctx, cfg, newLogger(s.log, cfg.LogLevel, cfg.LogFormat), on, func() error { close(open); return nil })
	}()
	tb.Cleanup(func() { stop(); <-s.ended })
	select {
	case <-open:
	case <-s.ended:
		tb.Fatalf("serve: %v\n%s", s.err, s.log)
	}
	return s
}

// ready waits until the service has seen its schema.
func (s *service) ready() *service {
	s.Helper()
	eventually(s, "be ready", func() bool { return s.get("/readyz").Status == http.StatusOK })
	return s
}

func newClient(tb testing.TB) *http.Client {
	tb.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// answer is what came back.
type answer struct {
	Status  int
	Outcome string // of a 200
	Code    string // of a problem
	Event   string
	Closes  bool // the connection
	Header  http.Header
	Body    string
}

func exchange(client *http.Client, method, url, header string, body []byte) (answer, error) {
	q, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if header != "" {
		q.Header.Set("Stripe-Signature", header)
	}
	resp, err := client.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode, Closes: resp.Close, Header: resp.Header, Body: string(text)}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		err = json.Unmarshal(text, &a)
	}
	return a, err
}

// get asks the admin address.
func (s *service) get(path string) answer {
	s.Helper()
	a, err := exchange(s.client, http.MethodGet, s.admin+path, "", nil)
	if err != nil {
		s.Fatalf("GET %s: %v", path, err)
	}
	return a
}

// post delivers a body under a header, as it is.
func (s *service) post(body []byte, header string) answer {
	s.Helper()
	a, err := exchange(s.client, http.MethodPost, s.public, header, body)
	if err != nil {
		s.Errorf("deliver: %v", err) // may be called by any goroutine
	}
	return a
}

// deliver signs a body and delivers it.
func (s *service) deliver(body []byte) answer {
	s.Helper()
	return s.post(body, signature.Sign(body, whsec, time.Now()))
}

// take delivers events one after the other, each of which must be recorded.
func (s *service) take(all ...scenario.Event) {
	s.Helper()
	for _, e := range all {
		if a := s.deliver(e.Body); a.Status != http.StatusOK {
			s.Fatalf("%s %s: %d %s", e.Type, e.ID, a.Status, a.Body)
		}
	}
}

// metrics are the series of webhookd_ and their values; of a histogram its
// count alone.
func (s *service) metrics() map[string]float64 {
	s.Helper()
	series := map[string]float64{}
	for line := range strings.Lines(s.get("/metrics").Body) {
		end := strings.LastIndexByte(line, ' ')
		if end < 0 || !strings.HasPrefix(line, "webhookd_") {
			continue
		}
		name, _, _ := strings.Cut(line, "{")
		if strings.HasSuffix(name, "_bucket") || strings.HasSuffix(strings.Fields(name)[0], "_sum") {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[end:]), 64)
		if err != nil {
			s.Fatalf("metric %q: %v", line, err)
		}
		series[line[:end]] = value
	}
	return series
}

// eventually waits for what takes a moment, on a busy machine a minute.
func eventually(tb testing.TB, what string, happened func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain to %s", what)
		}
	}
}

// story tells one of scenario's, all of it in the last days.
func story(tb testing.TB, source *scenario.Source, name string, o scenario.SessionOptions) []scenario.Event {
	tb.Helper()
	told, err := source.Story(name, time.Now().Add(-5*24*time.Hour), o)
	if err != nil {
		tb.Fatal(err)
	}
	return told
}

// expectModel compares the rows of a database with the model of all bodies
// that were delivered.
func expectModel(tb testing.TB, databaseURL string, bodies [][]byte) {
	tb.Helper()
	var set []*events.Event
	for _, body := range bodies {
		e, err := events.Parse(body)
		if err != nil {
			tb.Fatalf("parse: %v", err)
		}
		if e.Kind != events.Foreign {
			set = append(set, e)
		}
	}
	want := repotest.Canonical(tb, events.Model(set))
	if diff := cmp.Diff(want, repotest.Rows(tb, databaseURL)); diff != "" {
		tb.Errorf("rows differ from the model (-model +rows):\n%.20000s", diff)
	}
}

// connect is a connection of the test's own.
func connect(tb testing.TB, databaseURL string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execute(tb testing.TB, conn *pgx.Conn, sql string) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// valueOf is the only value of a query.
func valueOf[T any](tb testing.TB, conn *pgx.Conn, sql string, args ...any) (v T) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), sql, args...).Scan(&v); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

// buffer takes what several goroutines write.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
