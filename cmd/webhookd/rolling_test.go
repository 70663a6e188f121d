//go:build rolling

// Opt-in, by make test-rolling: it needs HAProxy, and takes a minute.

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/pgdev/pgtest"
)

// TestRollingRestartLosesNothing restarts each of three replicas three times, one
// after the other, behind a balancer that asks /readyz, as events go on coming.
// The balancer tries nothing again: what a replica resets, the sender sees.
func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	type replica struct {
		public, admin string
		*process
	}
	replicas := make([]*replica, 3)
	start := func(r *replica) {
		r.process = launch(t, t.TempDir(), env{
			"WEBHOOKD_DATABASE_URL": database, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": whsec,
			"WEBHOOKD_LISTEN_ADDR": r.public, "WEBHOOKD_ADMIN_ADDR": r.admin, "WEBHOOKD_DRAIN_DELAY": "3s",
		}, "serve").serves()
	}
	client := newClient(t)
	taken := func(r *replica) bool {
		a, err := exchange(client, http.MethodGet, "http://"+r.admin+"/metrics", "", nil)
		if err != nil {
			return false
		}
		for line := range strings.Lines(a.Body) {
			if strings.HasPrefix(line, "webhookd_commit_events_count ") {
				return strings.TrimSpace(line) != "webhookd_commit_events_count 0"
			}
		}
		return false
	}
	servers := ""
	for i := range replicas {
		replicas[i] = &replica{public: loopbackPort(t), admin: loopbackPort(t)}
		start(replicas[i])
		_, port, _ := strings.Cut(replicas[i].admin, ":")
		servers += fmt.Sprintf("    server replica%d %s check port %s inter 500ms fall 1 rise 1\n", i, replicas[i].public, port)
	}
	front := balance(t, servers)
	eventually(t, "see the balancer find a replica", func() bool {
		a, err := exchange(client, http.MethodPost, "http://"+front+"/webhooks/stripe", "", []byte("{}"))
		return err == nil && a.Status == http.StatusBadRequest
	})

	stripe := launch(t, t.TempDir(), nil, "simulate", "--json", "--rate", "200", "--connections", "16",
		"--url", "http://"+front+"/webhooks/stripe", "--secret", whsec)
	for round := range 3 {
		for i, r := range replicas {
			eventually(t, fmt.Sprintf("see replica %d take deliveries, round %d", i, round), func() bool { return taken(r) })
			r.signal(syscall.SIGTERM)
			r.exits(exitDone)
			start(r)
		}
	}
	for i, r := range replicas {
		eventually(t, fmt.Sprintf("see replica %d take deliveries at the end", i), func() bool { return taken(r) })
	}
	stripe.signal(syscall.SIGINT)
	stripe.exits(exitDone)

	var sum summary
	if err := json.Unmarshal([]byte(stripe.stdout.String()), &sum); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]int64{http.StatusOK: sum.Sent}, sum.Statuses); diff != "" || len(sum.Errors) > 0 {
		t.Errorf("answers (-want +got), without one: %v\n%s", sum.Errors, diff)
	}
	conn := connect(t, database)
	if n := valueOf[int64](t, conn, "SELECT count(*) FROM stripe_identity.events"); n != sum.Sent {
		t.Errorf("%d events were sent, %d stand", sum.Sent, n)
	}
	fresh := sum.Outcomes["applied"] + sum.Outcomes["stale"]
	if n := valueOf[int64](t, conn, "SELECT count(*) FROM stripe_identity.status_transitions"); n != fresh || fresh+sum.Outcomes["twin"] != sum.Sent {
		t.Errorf("%d transitions stand; of %d: %v", n, sum.Sent, sum.Outcomes)
	}
	t.Logf("nine restarts: %d sent, %d acknowledged, outcomes %v, errors %v, p99 %.1f ms, slowest %.1f ms",
		sum.Sent, sum.Acked, sum.Outcomes, sum.Errors, sum.Latency.P99, sum.Latency.Max)
}

// balance starts a balancer and returns its address.
func balance(tb testing.TB, servers string) string {
	tb.Helper()
	front := loopbackPort(tb)
	config := filepath.Join(tb.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(config, []byte(`defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 30s
    timeout check 5s
frontend stripe
    bind `+front+`
    default_backend webhookd
backend webhookd
    balance roundrobin
    option httpchk GET /readyz
`+servers), 0o600); err != nil {
		tb.Fatal(err)
	}
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program = "/usr/sbin/haproxy" // Debian's place, which is not on everybody's PATH
	}
	cmd := exec.Command(program, "-db", "-f", config)
	log := new(buffer)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		tb.Fatalf("haproxy: %v (scripts/test-rolling installs it)", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if tb.Failed() {
			tb.Logf("haproxy:\n%s", log)
		}
	})
	return front
}
