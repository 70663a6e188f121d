package receiver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"webhookd/internal/events"
	"webhookd/internal/receiver"
	"webhookd/internal/signature"
)

const (
	path       = "/webhooks/stripe"
	liveSecret = "whsec_live"
	testSecret = "whsec_test"
	maxBody    = 64 << 10
)

// now is 1000 s after the events of testdata.
var now = time.Unix(1_700_001_000, 0)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store makes a Store of a function.
type store func(ctx context.Context, e *events.Event) (events.Outcome, error)

func (s store) Record(ctx context.Context, e *events.Event) (events.Outcome, error) { return s(ctx, e) }

func answers(o events.Outcome) store {
	return func(context.Context, *events.Event) (events.Outcome, error) { return o, nil }
}

func fails(err error) store {
	return func(context.Context, *events.Event) (events.Outcome, error) { return "", err }
}

// service is a Receiver with everything that can be seen of it.
type service struct {
	*receiver.Receiver
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
	timeout  time.Duration
}

func newService(tb testing.TB, s receiver.Store, change ...func(*receiver.Options)) *service {
	tb.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	registry := prometheus.NewPedanticRegistry()
	verifier := newVerifier(tb)
	o := receiver.Options{
		Store: s, Verifier: func() *signature.Verifier { return verifier }, Path: path,
		MaxBodyBytes: maxBody, DeliveryTimeout: 10 * time.Second,
		Now: func() time.Time { return now }, Log: zap.New(core), Registry: registry,
	}
	for _, c := range change {
		c(&o)
	}
	r, err := receiver.New(o)
	if err != nil {
		tb.Fatalf("New: %v", err)
	}
	return &service{r, registry, logs, o.DeliveryTimeout}
}

func newVerifier(tb testing.TB) *signature.Verifier {
	tb.Helper()
	var secrets []signature.Secret
	for name, test := range map[string]bool{"live": false, "test": true} {
		s, err := signature.NewSecret(name, "whsec_"+name, test)
		if err != nil {
			tb.Fatal(err)
		}
		secrets = append(secrets, s)
	}
	v, err := signature.NewVerifier(5*time.Minute, secrets...)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// listen serves on a port of its own and returns the address.
func (s *service) listen(tb testing.TB) string {
	tb.Helper()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = receiver.NewServer(s, s.timeout, zap.NewNop())
	srv.Start()
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// answer is what a client sees.
type answer struct {
	Status              int
	Type, Retry, Allow  string
	Closes              bool
	Outcome, Event      string // of a 200
	Code, Title, Detail string // of a problem
	Body                string
	StatusInProblem     int
}

// send makes a request with the headers as they are.
func send(tb testing.TB, addr, method, path string, body io.Reader, header http.Header) answer {
	tb.Helper()
	q, err := http.NewRequestWithContext(tb.Context(), method, "http://"+addr+path, body)
	if err != nil {
		tb.Fatal(err)
	}
	maps.Copy(q.Header, header)
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(q)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return read(tb, res)
}

func read(tb testing.TB, res *http.Response) answer {
	tb.Helper()
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	a := answer{
		Status: res.StatusCode, Type: res.Header.Get("Content-Type"), Closes: res.Close,
		Retry: res.Header.Get("Retry-After"), Allow: res.Header.Get("Allow"), Body: string(body),
	}
	if cl := res.Header.Get("Content-Length"); cl != strconv.Itoa(len(body)) {
		tb.Errorf("Content-Length %q for %d bytes", cl, len(body))
	}
	var j struct {
		Outcome, Event, Code, Title, Detail string
		Status                              int
	}
	if err := json.Unmarshal(body, &j); err != nil {
		tb.Fatalf("answer %q: %v", body, err)
	}
	a.Outcome, a.Event, a.Code, a.Title, a.Detail, a.StatusInProblem = j.Outcome, j.Event, j.Code, j.Title, j.Detail, j.Status
	return a
}

func deliver(tb testing.TB, addr string, body []byte) answer {
	tb.Helper()
	return send(tb, addr, http.MethodPost, path, bytes.NewReader(body), signed(body))
}

// post is a delivery without a network: for pure time, fuzzing and benchmarks.
func (s *service) post(tb testing.TB, body []byte, header http.Header) *httptest.ResponseRecorder {
	tb.Helper()
	q := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	q.Header = header
	w := httptest.NewRecorder()
	s.ServeHTTP(w, q)
	return w
}

func signed(body []byte) http.Header { return signedBy(body, liveSecret) }

func signedBy(body []byte, secret string) http.Header {
	return http.Header{"Stripe-Signature": {signature.Sign(body, secret, now)}}
}

func fixture(tb testing.TB, name string, replace ...string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	return []byte(strings.NewReplacer(replace...).Replace(string(b)))
}

// dial is a raw connection that has sent request.
func dial(tb testing.TB, addr, request string) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		tb.Fatal(err)
	}
	return c
}

// scrape reads all series as Prometheus does: `name{label="value"}` to value.
func (s *service) scrape(tb testing.TB) map[string]float64 {
	tb.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	series := make(map[string]float64)
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
		if err != nil {
			tb.Fatalf("line %q: %v", line, err)
		}
		series[line[:i]] = v
	}
	return series
}

// counted is what is not zero of the counters and of the histograms' counts.
func (s *service) counted(tb testing.TB) map[string]float64 {
	tb.Helper()
	series := s.scrape(tb)
	maps.DeleteFunc(series, func(name string, v float64) bool {
		metric, _, _ := strings.Cut(name, "{")
		return v == 0 || !strings.HasSuffix(metric, "_total") && !strings.HasSuffix(metric, "_count")
	})
	return series
}
