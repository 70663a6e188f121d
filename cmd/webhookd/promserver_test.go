//go:build prometheus

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// promServer is a real Prometheus that scrapes one webhookd.
type promServer struct {
	testing.TB
	url string
	log *buffer
}

// startPrometheus scrapes every second a target that calls itself job webhookd,
// namespace identity, with rules and the history of an OpenMetrics text.
func startPrometheus(tb testing.TB, target, rules, history string) *promServer {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		return file
	}
	data := filepath.Join(dir, "data")
	if history != "" {
		text := write("history.txt", history)
		if out, err := exec.Command("promtool", "tsdb", "create-blocks-from", "openmetrics", text, data).CombinedOutput(); err != nil {
			tb.Fatalf("promtool: %v\n%s", err, out)
		}
	}
	write("rules.yaml", rules)
	config := write("prometheus.yaml", fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: webhookd
    static_configs: [{targets: [%q], labels: {namespace: identity}}]
`, target))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close() // Prometheus takes it over

	p := &promServer{tb, "http://" + address, new(buffer)}
	cmd := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+data, "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGKILL); _ = cmd.Wait() })
	eventually(p, "see Prometheus scrape", func() bool {
		all, err := p.query("count_over_time(webhookd_build_info[1m])")
		return err == nil && len(all) > 0 && all[0].last() >= 2
	})
	return p
}

// promSeries is a series of an answer; an instant one has one value.
type promSeries struct {
	Metric map[string]string
	Value  [2]any
	Values [][2]any
}

func (s promSeries) numbers() (all []float64) {
	for _, v := range append(s.Values, s.Value) {
		if text, ok := v[1].(string); ok {
			if n, err := strconv.ParseFloat(text, 64); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

func (s promSeries) last() float64 { n := s.numbers(); return n[len(n)-1] }

// api asks Prometheus; what it answers with an error is one.
func (p *promServer) api(path string, q url.Values, into any) error {
	resp, err := http.Get(p.url + path + "?" + q.Encode())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var a struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	if a.Status != "success" {
		return fmt.Errorf("%s: %s", a.Status, a.Error)
	}
	return json.Unmarshal(a.Data, into)
}

func (p *promServer) query(expr string) ([]promSeries, error) {
	var d struct{ Result []promSeries }
	err := p.api("/api/v1/query", url.Values{"query": {expr}}, &d)
	return d.Result, err
}

// queryRange asks for the last minutes.
func (p *promServer) queryRange(expr string, d time.Duration) ([]promSeries, error) {
	var a struct{ Result []promSeries }
	now := time.Now()
	at := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	err := p.api("/api/v1/query_range", url.Values{
		"query": {expr}, "start": {at(now.Add(-d))}, "end": {at(now)}, "step": {"1"},
	}, &a)
	return a.Result, err
}

// promRule is a rule as Prometheus runs it.
type promRule struct {
	Name, Query, Health, LastError, State string
	Alerts                                []struct {
		Labels, Annotations map[string]string
		State               string
		ActiveAt            time.Time
	}
}

func (p *promServer) rules() (all []promRule) {
	p.Helper()
	var d struct{ Groups []struct{ Rules []promRule } }
	if err := p.api("/api/v1/rules", nil, &d); err != nil {
		p.Fatal(err)
	}
	for _, g := range d.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// firing lists the names of the alerts that fire.
func (p *promServer) firing() (names []string) {
	p.Helper()
	for _, r := range p.rules() {
		if r.State == "firing" {
			names = append(names, r.Name)
		}
	}
	return names
}

// gate stands in front of a database and can be shut.
type gate struct {
	testing.TB
	listener net.Listener
	behind   string

	mu    sync.Mutex
	shut  bool
	conns []net.Conn
}

// newGate returns it and the URL of the database through it.
func newGate(tb testing.TB, databaseURL string) (*gate, string) {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	g := &gate{TB: tb, listener: l, behind: u.Host}
	tb.Cleanup(func() { _ = l.Close(); g.close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go g.pass(conn)
		}
	}()
	u.Host = l.Addr().String()
	return g, u.String()
}

func (g *gate) pass(conn net.Conn) {
	other, err := net.Dial("tcp", g.behind)
	g.mu.Lock()
	if err != nil || g.shut {
		g.mu.Unlock()
		_ = conn.Close()
		if err == nil {
			_ = other.Close()
		}
		return
	}
	g.conns = append(g.conns, conn, other)
	g.mu.Unlock()
	go func() { _, _ = io.Copy(other, conn); _ = other.Close() }()
	_, _ = io.Copy(conn, other)
	_ = conn.Close()
}

// close breaks every connection, and lets none through until open.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
}

// repositoryFile is a file of the repository.
func repositoryFile(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(repository, path))
	if err != nil {
		tb.Fatal(err)
	}
	return string(bytes.TrimSpace(text)) + "\n"
}

// labeled fills a legend of Grafana's.
func labeled(legend string, metric map[string]string) string {
	for name, value := range metric {
		legend = strings.ReplaceAll(legend, "{{"+name+"}}", value)
	}
	return legend
}
