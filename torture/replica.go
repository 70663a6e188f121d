package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"webhookd/internal/scenario"
)

// build makes the program, as versions that differ in nothing but their name.
func build(ctx context.Context, dir string, versions ...string) (programs []string, err error) {
	for _, version := range versions {
		out := filepath.Join(dir, "webhookd-"+version)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", out, "webhookd/cmd/webhookd") //nolint:gosec // our own
		if said, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build: %w\n%s", err, said)
		}
		programs = append(programs, out)
	}
	return programs, nil
}

// replica is webhookd as a process that can be ended and started again.
type replica struct {
	name          string
	env           []string
	listen, admin string
	proxy         *proxy
	objectf       func(format string, args ...any)
	forbidden     []string // what no line of its log may hold

	mu      sync.Mutex
	program string
	cmd     *exec.Cmd
	ended   chan struct{}
	tail    []string // of its log
	line    func([]byte)
	lives   []series // of processes that have ended, as they were last seen
	seen    series   // of the present one
}

// givenAddresses are those that replicas of this process have had.
var givenAddresses sync.Map

// loopbackAddress is free, and given once. Somebody could take it while the
// replica is down: so it is below the ports that outgoing connections get, and
// below those that private PostgreSQL servers draw.
func loopbackAddress() (string, error) {
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(10000)))
		if _, given := givenAddresses.LoadOrStore(address, true); given {
			continue
		}
		l, err := net.Listen("tcp", address) //nolint:noctx // at once
		if err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("no free port on 127.0.0.1")
}

// eachLine is told every line of the log from now on.
func (r *replica) eachLine(line func([]byte)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line = line
}

func (r *replica) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cmd.Process.Pid
}

func (r *replica) url() string { return "http://" + r.listen + "/webhooks/stripe" }

// start runs the present program, and does not wait until it serves.
func (r *replica) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cmd := exec.Command(r.program, "serve") //nolint:gosec,noctx // our own; it outlives what starts it
	cmd.Env = r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to pass on
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	r.cmd, r.ended, r.seen = cmd, ended, nil
	go func() {
		r.follow(pipe)
		_ = cmd.Wait() // ProcessState tells
		close(ended)
	}()
	return nil
}

// follow reads the log: its end is kept, and none of it may be personal.
func (r *replica) follow(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		for _, word := range r.forbidden {
			if bytes.Contains(lines.Bytes(), []byte(word)) {
				r.objectf("the log of %s holds %s", r.name, word)
			}
		}
		r.mu.Lock()
		if r.line != nil {
			r.line(lines.Bytes())
		}
		if len(r.tail) == 30 {
			r.tail = append(r.tail[:0], r.tail[10:]...)
		}
		r.tail = append(r.tail, lines.Text())
		r.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, log) // a line too long must not stop the process
}

func (r *replica) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return nil
	}
	if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// wait waits for the end, and tells its exit code.
func (r *replica) wait(ctx context.Context) (int, error) {
	r.mu.Lock()
	cmd, ended := r.cmd, r.ended
	r.mu.Unlock()
	select {
	case <-ended:
		return cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// kill ends it as a machine's death would.
func (r *replica) kill(ctx context.Context) error {
	r.look(ctx)
	if err := r.signal(syscall.SIGKILL); err != nil {
		return err
	}
	_, err := r.wait(ctx)
	r.bury()
	return err
}

// term asks it to end, which it must do in order.
func (r *replica) term(ctx context.Context) error {
	r.look(ctx) // on a busy machine it may end before it is looked at again
	if err := r.signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	looking, stop := context.WithCancel(ctx)
	go func() { // until the admin address closes: what it did last counts
		for looking.Err() == nil {
			r.look(looking)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	code, err := r.wait(ctx)
	stop()
	if err != nil {
		return fmt.Errorf("%s does not end after SIGTERM: %w", r.name, err)
	}
	r.bury()
	if code != 0 {
		r.objectf("%s ends with exit code %d after SIGTERM\n  %s", r.name, code, r.end())
	}
	return nil
}

func (r *replica) bury() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen != nil {
		r.lives = append(r.lives, r.seen)
	}
	r.seen, r.cmd = nil, nil
}

func (r *replica) end() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.tail, "\n  ")
}

// series are samples of /metrics, by name and labels as they are printed.
type series map[string]float64

// look reads the metrics of the present process, if it answers.
func (r *replica) look(ctx context.Context) series {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+"/metrics", nil) //nolint:gosec // of our own child
	if err != nil {
		return nil
	}
	r.mu.Lock()
	of := r.cmd
	r.mu.Unlock()
	resp, err := http.DefaultClient.Do(req) //nolint:gosec // of our own child
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }() // is read
	all := series{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.Contains(line, scenario.Marker) {
			r.objectf("a metric of %s holds %s", r.name, scenario.Marker)
		}
		name, value := line[:max(0, strings.LastIndexByte(line, ' '))], line[strings.LastIndexByte(line, ' ')+1:]
		if n, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(line, "#") {
			all[name] = n
		}
	}
	if lines.Err() != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if of == r.cmd && of != nil {
		r.seen = all
	}
	return all
}

// counted adds up a replica's lives.
func (r *replica) counted(total series) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, life := range append(slices.Clip(r.lives), r.seen) {
		for name, n := range life {
			total[name] += n
		}
	}
}
