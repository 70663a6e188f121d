package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"webhookd/internal/pgdev"
)

const (
	mainDatabase = "webhookd"
	ourSchema    = "stripe_identity"
	secret       = "whsec_bench" //nolint:gosec // of nothing
)

// lab is what measurements need: the program, a PostgreSQL, and what was started.
type lab struct {
	machine    machine
	seconds    time.Duration
	log        io.Writer
	dir        string
	program    string // webhookd
	postgres   *pgdev.Server
	postmaster int
	servers    []*server
}

// machine is where figures come from.
type machine struct {
	CPUs       int     `json:"cpus"`
	MemoryGB   float64 `json:"memory_gb"`
	Go         string  `json:"go"`
	PostgreSQL string  `json:"postgresql"`
	SyncMicros float64 `json:"sync_us"` // median of writing 8 KiB and fsync
}

func openLab(ctx context.Context, seconds time.Duration, log io.Writer) (l *lab, err error) {
	l = &lab{seconds: seconds, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close(context.WithoutCancel(ctx)))
		}
	}()
	if l.dir, err = os.MkdirTemp("", "webhookd-bench-"); err != nil {
		return l, err
	}
	l.sayf("building webhookd")
	l.program = filepath.Join(l.dir, "webhookd")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", l.program, "webhookd/cmd/webhookd").CombinedOutput(); err != nil { //nolint:gosec // our own
		return l, fmt.Errorf("go build: %w\n%s", err, out)
	}
	l.sayf("starting PostgreSQL")
	buffers := min(2<<30, max(memory()/4, 128<<20))
	l.postgres, err = pgdev.Start(ctx, pgdev.Options{Log: log, Settings: map[string]string{
		"shared_buffers":     strconv.FormatInt(buffers>>20, 10) + "MB",
		"max_wal_size":       "8GB",
		"checkpoint_timeout": "30min", // checkpoints are between measurements
	}})
	if err != nil {
		return l, err
	}
	if l.postmaster, err = postmasterOf(l.postgres.Dir()); err != nil {
		return l, err
	}
	flush, err := syncTime(l.dir)
	if err != nil {
		return l, err
	}
	l.machine = machine{
		runtime.NumCPU(), float64(memory()>>20) / 1024, runtime.Version(), l.postgres.Version(), float64(flush.Nanoseconds()) / 1e3,
	}
	return l, l.migrate(ctx, mainDatabase)
}

func (l *lab) sayf(format string, args ...any) { fmt.Fprintf(l.log, format+"\n", args...) }

// close ends everything that was started, the last first.
func (l *lab) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	for _, s := range slices.Backward(l.servers) {
		errs = append(errs, s.stop())
	}
	if l.postgres != nil {
		errs = append(errs, l.postgres.Stop(ctx))
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir)) //nolint:gosec // pgdev's own
	}
	return errors.Join(errs...)
}

// postmasterOf is the process id of the server on a folder of pgdev's.
func postmasterOf(dir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(first)
}

// syncTime is how long the disk takes to keep 8 KiB.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // goes with its folder
	var all []time.Duration
	page := make([]byte, 8<<10)
	for range 100 {
		start := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(start))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// server is a process under load.
type server struct {
	cmd        *exec.Cmd
	stdin      io.Closer
	url, admin string // admin is "" for what has none
	schema     string // what it writes, cleared before each measurement; "" for nothing
	done       chan struct{}
	ended      error // after done
}

func (l *lab) startRaw(ctx context.Context) (*server, error) {
	return l.startSelf(ctx, "", "serve-raw")
}

func (l *lab) startByHand(ctx context.Context, pool int) (*server, error) {
	if err := l.copyTables(ctx, byHandSchema, true); err != nil {
		return nil, err
	}
	return l.startSelf(ctx, byHandSchema, "serve-by-hand", "--database", l.postgres.URL(mainDatabase), "--secret", secret, "--pool", strconv.Itoa(pool))
}

func (l *lab) startSelf(ctx context.Context, schema string, args ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s, err := l.start(ctx, exec.Command(self, args...)) //nolint:gosec,noctx // our own, and close ends it
	if err != nil {
		return nil, err
	}
	s.schema = schema
	return s, nil
}

// startWebhookd serves with the default configuration, and with what env adds.
func (l *lab) startWebhookd(ctx context.Context, database string, env ...string) (*server, error) {
	cmd := exec.Command(l.program, "serve") //nolint:gosec,noctx // our own, and close ends it
	cmd.Env = append(withoutOurs(os.Environ()),
		"WEBHOOKD_DATABASE_URL="+l.postgres.URL(database),
		"WEBHOOKD_STRIPE_WEBHOOK_SECRETS="+secret,
		"WEBHOOKD_LISTEN_ADDR=127.0.0.1:0",
		"WEBHOOKD_ADMIN_ADDR=127.0.0.1:0",
		"WEBHOOKD_DRAIN_DELAY=0s", // is for balancers
	)
	cmd.Env = append(cmd.Env, env...)
	s, err := l.start(ctx, cmd)
	if err != nil {
		return nil, err
	}
	s.url += "/webhooks/stripe"
	s.schema = ourSchema
	return s, s.ready(ctx)
}

// withoutOurs leaves out what would change a default.
func withoutOurs(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool {
		return strings.HasPrefix(v, "WEBHOOKD_") || strings.HasPrefix(v, "DATABASE_URL=") ||
			strings.HasPrefix(v, "GOGC=") || strings.HasPrefix(v, "GOMEMLIMIT=") || strings.HasPrefix(v, "GOMAXPROCS=")
	})
}

// start runs a program until it says where it listens.
func (l *lab) start(ctx context.Context, cmd *exec.Cmd) (*server, error) {
	s := &server{cmd: cmd, done: make(chan struct{})}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = stdin
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to pass on
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l.servers = append(l.servers, s)
	serving := make(chan struct{})
	var lines []string // what it said before, should it end
	go func() {
		defer close(s.done)
		said := false
		for scan := bufio.NewScanner(stderr); scan.Scan(); {
			var line struct{ Msg, Listen, Admin string }
			if said {
				continue // keeps the pipe empty
			}
			lines = append(lines, scan.Text())
			if json.Unmarshal(scan.Bytes(), &line) == nil && line.Msg == "serving" {
				s.url, said = "http://"+line.Listen, true
				if line.Admin != "" {
					s.admin = "http://" + line.Admin
				}
				close(serving)
			}
		}
		s.ended = cmd.Wait()
	}()
	select {
	case <-serving:
		return s, nil
	case <-s.done:
		return nil, fmt.Errorf("%s ended: %w\n%s", filepath.Base(cmd.Path), s.ended, strings.Join(lines, "\n"))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// get asks the admin address.
func (s *server) get(ctx context.Context, path string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.admin+path, nil) //nolint:gosec // of our own child
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(q) //nolint:gosec // likewise
}

// ready waits until webhookd has looked at its database.
func (s *server) ready(ctx context.Context) error {
	for range 500 {
		resp, err := s.get(ctx, "/readyz")
		if err == nil {
			_ = resp.Body.Close() // only the status counts
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("webhookd does not get ready")
}

// stop ends a process in order if it listens, and else at once.
func (s *server) stop() error {
	_ = s.stdin.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	return s.ended
}

// metrics are those of webhookd and of its Go runtime that have no labels.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	resp, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	all := map[string]float64{}
	scan := bufio.NewScanner(resp.Body)
	for scan.Scan() {
		name, value, _ := strings.Cut(scan.Text(), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = n
		}
	}
	return all, scan.Err()
}

// summary is what simulate tells.
type summary struct {
	Sent      int     `json:"sent"`
	Acked     int     `json:"acked"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"acks_per_second"`
	Latency   struct {
		P50  float64 `json:"p50"`
		P90  float64 `json:"p90"`
		P99  float64 `json:"p99"`
		P999 float64 `json:"p99_9"`
	} `json:"latency_ms"`
	cpu time.Duration
}

// simulate runs the load generator to its end.
func (l *lab) simulate(ctx context.Context, s *server, connections int, duration time.Duration, args ...string) (*summary, error) {
	ctx, cancel := context.WithTimeout(ctx, duration+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.program, append([]string{"simulate", "--json", "--url", s.url, "--secret", secret, //nolint:gosec // our own
		"--connections", strconv.Itoa(connections), "--duration", duration.String()}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // it needs no more, and takes less from the servers
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("simulate: %w\n%s%s", err, &stdout, &stderr))
	}
	sum := &summary{}
	if err := json.Unmarshal(stdout.Bytes(), sum); err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	sum.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return sum, nil
}

// load measures servers that share the connections, each with a generator.
func (l *lab) load(ctx context.Context, connections int, args []string, servers ...*server) (m measurement, err error) {
	first := servers[0]
	if err := l.clear(ctx, first.schema); err != nil {
		return m, err
	}
	all := make([]*summary, len(servers))
	drive := func(d time.Duration) error {
		group, ctx := errgroup.WithContext(ctx)
		for i, s := range servers {
			group.Go(func() (err error) {
				all[i], err = l.simulate(ctx, s, max(connections/len(servers), 1), d, args...)
				return err
			})
		}
		return group.Wait()
	}
	if err := drive(l.seconds / 10); err != nil { // connections are made, statements prepared
		return m, err
	}
	before, err := l.look(ctx, servers)
	if err != nil {
		return m, err
	}
	if err := drive(l.seconds); err != nil {
		return m, err
	}
	after, err := l.look(ctx, servers)
	if err != nil {
		return m, err
	}
	events, used := 0, time.Duration(0)
	for _, s := range all {
		events += s.Sent
		used += s.cpu
		m.PerSecond += float64(s.Sent) / s.Seconds // what was sent was taken, or rightly refused
		m.P50, m.P90 = max(m.P50, s.Latency.P50), max(m.P90, s.Latency.P90)
		m.P99, m.P999 = max(m.P99, s.Latency.P99), max(m.P999, s.Latency.P999)
	}
	m.GeneratorCPU = perEvent(used, events)
	m.ServerCPU, m.PostgresCPU = perEvent(after.server-before.server, events), perEvent(after.postgres-before.postgres, events)
	m.RSS = after.resident
	if first.admin != "" {
		change := func(name string) float64 { return after.metrics[name] - before.metrics[name] }
		m.Allocations = change("go_memstats_mallocs_total") / (float64(events) / float64(len(servers)))
		if commits := change("webhookd_commit_events_count"); commits > 0 {
			m.EventsPerCommit = change("webhookd_commit_events_sum") / commits
		}
	}
	return m, nil
}

// refuse measures refusals, and what the database has of them.
func (l *lab) refuse(ctx context.Context, s *server) (m measurement, err error) {
	untouched := *s
	untouched.schema = ""
	var counts [3]int64 // before as long without deliveries, before them, after them
	for i, during := range []func() error{
		func() error { return nil },
		func() error { return pause(ctx, l.seconds) },
		func() error {
			m, err = l.load(ctx, middle, []string{"--bad-signatures", "1"}, &untouched)
			return err
		},
	} {
		if err := during(); err != nil {
			return m, err
		}
		if counts[i], err = l.transactions(ctx); err != nil {
			return m, err
		}
	}
	m.Transactions = (counts[2] - counts[1]) - (counts[1] - counts[0])
	return m, nil
}

// sight is what is looked at before and after a measurement.
type sight struct {
	server, postgres time.Duration
	resident         int64
	metrics          map[string]float64 // of the first server
}

func (l *lab) look(ctx context.Context, servers []*server) (s sight, err error) {
	if servers[0].admin != "" {
		if s.metrics, err = servers[0].metrics(ctx); err != nil {
			return s, err
		}
	}
	for _, server := range servers {
		used, _ := cpu(server.pid())
		s.server += used
		s.resident = max(s.resident, resident(server.pid()))
	}
	s.postgres, _ = cpu(l.postmaster)
	return s, nil
}

func perEvent(used time.Duration, events int) float64 {
	return float64(used.Microseconds()) / float64(max(events, 1))
}
