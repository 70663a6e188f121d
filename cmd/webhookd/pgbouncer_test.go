//go:build pgbouncer

// Opt-in, by make test-pgbouncer: not every system's packages have PgBouncer,
// and no test of the usual ones is skipped.

package main

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi/stripefake"
)

// pool starts a PgBouncer before a database, with the settings that deploy/k8s
// ships, and returns the database's URL through it.
func pool(tb testing.TB, databaseURL string) string {
	tb.Helper()
	direct, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	// PgBouncer refuses to be root, and another user must get here.
	dir, err := os.MkdirTemp("", "webhookd-pgbouncer-") //nolint:usetesting // nobody else may enter a test's
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	listen := loopbackPort(tb)
	host, port, _ := strings.Cut(listen, ":")
	settings := strings.NewReplacer(
		"/run/secrets/pgbouncer/", dir+"/", "listen_addr = *", "listen_addr = "+host, "listen_port = 6432", "listen_port = "+port,
		// Fewer than webhookd opens: so they are shared, and change hands.
		"default_pool_size = 10", "default_pool_size = 3",
	).Replace(document(tb, "deploy/k8s/components/pgbouncer/pgbouncer.ini"))
	user := direct.User.Username()
	password, _ := direct.User.Password()
	for name, text := range map[string]string{
		"pgbouncer.ini": settings,
		"userlist.txt":  fmt.Sprintf("%q %q\n", user, password),
		"databases.ini": fmt.Sprintf("[databases]\nwebhookd = host=%s port=%s dbname=%s\n", direct.Hostname(), direct.Port(), strings.TrimPrefix(direct.Path, "/")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	args := []string{filepath.Join(dir, "pgbouncer.ini")}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // Debian's place, which is not on everybody's PATH
	}
	cmd := exec.Command(program, args...)
	log := new(buffer)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		tb.Fatalf("pgbouncer: %v (scripts/test-pgbouncer installs it)", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-ended
		if tb.Failed() {
			tb.Logf("pgbouncer:\n%s", log)
		}
	})
	through := fmt.Sprintf("postgres://%s@%s/webhookd?sslmode=disable", direct.User, listen)
	eventually(tb, "reach PostgreSQL through PgBouncer", func() bool {
		select {
		case <-ended:
			tb.Fatalf("pgbouncer ended:\n%s", log)
		default:
		}
		conn, err := pgx.Connect(tb.Context(), through+"&default_query_exec_mode=simple_protocol")
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(tb.Context()) }()
		return conn.Ping(tb.Context()) == nil
	})
	return through
}

// TestPgBouncerSharesItsConnections: without that the tests below would prove
// nothing. A session's own things do not outlive its transaction.
func TestPgBouncerSharesItsConnections(t *testing.T) {
	t.Parallel()
	through := pool(t, pgtest.Database(t)) + "&default_query_exec_mode=simple_protocol"
	one, other := connect(t, through), connect(t, through)
	execute(t, one, "PREPARE mine AS SELECT 1")
	before := valueOf[int](t, one, "SELECT pg_backend_pid()")
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	var taken int
	if err := tx.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&taken); err != nil || taken != before {
		t.Fatalf("the idle connection %d was not handed on: %d, %v", before, taken, err)
	}
	if _, err := one.Exec(t.Context(), "EXECUTE mine"); err == nil {
		t.Error("a prepared statement outlived its transaction")
	}
}

// TestServeWorksThroughPgBouncer in transaction mode, with the setting that the
// README names: every story, shuffled and doubled, by many at once.
func TestServeWorksThroughPgBouncer(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	through := pool(t, direct) + "&default_query_exec_mode=cache_describe"
	s := begin(t, through).ready()
	source, rng := scenario.New(1), rand.New(rand.NewPCG(1, 2))
	var told []scenario.Event
	for range 10 {
		for _, name := range scenario.Stories() {
			told = append(told, story(t, source, name, scenario.SessionOptions{Livemode: rng.IntN(2) == 0})...)
		}
	}
	work := make(chan scenario.Event)
	var senders sync.WaitGroup
	for range 16 {
		senders.Go(func() {
			for e := range work {
				if a := s.deliver(e.Body); a.Status != 200 || a.Outcome == "quarantined" {
					t.Errorf("%s: %d %s", e.Type, a.Status, a.Body)
				}
			}
		})
	}
	var bodies [][]byte
	for _, i := range append(rng.Perm(len(told)), rng.Perm(len(told))...) {
		work <- told[i]
		bodies = append(bodies, told[i].Body)
	}
	close(work)
	senders.Wait()
	expectModel(t, direct, bodies)

	launch(t, t.TempDir(), env{"WEBHOOKD_DATABASE_URL": through}, "redact", told[0].SessionID).exits(exitDone)
	if log := s.log.String(); strings.Contains(log, "SQLSTATE") {
		t.Errorf("the database complained:\n%s", log)
	}
}

// TestJobsWorkThroughPgBouncer: River polls instead of listening, elects and
// locks within transactions, and what it fetches is stored.
func TestJobsWorkThroughPgBouncer(t *testing.T) {
	t.Parallel()
	fake := stripefake.New(t)
	key := fake.Key(true, stripefake.Rights{Sensitive: true, AnyAge: true})
	direct := pgtest.Database(t)
	through := pool(t, direct) + "&default_query_exec_mode=cache_describe"
	var replicas []*service
	for range 2 {
		replicas = append(replicas, begin(t, through, func(e *environment) {
			e.StripeAPIKeys.force(key)
			e.StripeAPIBase.force(fake.URL)
			e.APIRate.force("25")
			e.ReconcileEvery.force("0") // it would be told, now, what the events of a minute ago change
		}).ready())
	}
	const people = 12
	source := scenario.New(1)
	for i := range people {
		s, at := source.Session(scenario.SessionOptions{Livemode: true}), time.Now().Add(-time.Minute)
		for _, e := range []scenario.Event{s.Created(at), s.Processing(at.Add(time.Second)), s.Verified(at.Add(2 * time.Second))} {
			fake.Tell(s, e)
			replicas[i%2].take(e)
		}
	}
	conn := connect(t, direct)
	eventually(t, "see every output stored and no wish left", func() bool {
		return valueOf[bool](t, conn, `SELECT
(SELECT count(*) FROM stripe_identity.verified_outputs WHERE id_number IS NOT NULL) = $1 AND NOT EXISTS (SELECT FROM stripe_identity.wishes)`, people)
	})
	for _, s := range replicas {
		s.stop()
		<-s.ended
		if log := s.log.String(); s.err != nil || strings.Contains(log, "SQLSTATE") || strings.Contains(log, `"level":"error"`) {
			t.Errorf("a replica ended with %v\n%s", s.err, log)
		}
	}
}
