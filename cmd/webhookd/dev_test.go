package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/pgdev"
)

// development is a folder in which dev is run.
type development struct {
	testing.TB
	dir string
}

func newDevelopment(tb testing.TB) *development {
	tb.Helper()
	d := &development{tb, tb.TempDir()}
	removed(tb, filepath.Join(d.dir, ".webhookd", "postgres"))
	return d
}

// removed sees to it that nothing of a server is left: as root its data may be elsewhere.
func removed(tb testing.TB, dir string) {
	tb.Cleanup(func() {
		if err := pgdev.Reset(context.Background(), dir); err != nil {
			tb.Error(err)
		}
	})
}

// run starts dev and waits for its greeting.
func (d *development) run(args ...string) (*process, target) {
	d.Helper()
	return d.runWith(env{}, args...)
}

func (d *development) runWith(e env, args ...string) (*process, target) {
	d.Helper()
	e["WEBHOOKD_LISTEN_ADDR"], e["WEBHOOKD_ADMIN_ADDR"] = "127.0.0.1:0", "127.0.0.1:0"
	dev := launch(d, d.dir, e, append([]string{"dev"}, args...)...)
	eventually(d, "see dev greet", func() bool {
		select {
		case <-dev.ended:
			d.Fatalf("dev ended\n%s%s", dev.stdout, dev.log)
		default:
		}
		return strings.Contains(dev.stdout.String(), "webhookd is ready")
	})
	file := filepath.Join(d.dir, devFile)
	info, err := os.Stat(file)
	if err != nil {
		d.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		d.Errorf("%s is %v", devFile, info.Mode())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		d.Fatal(err)
	}
	var at target
	if err := json.Unmarshal(text, &at); err != nil {
		d.Fatal(err)
	}
	for _, said := range []string{at.URL, at.Secret, at.MetricsURL, at.DatabaseURL, " trigger story", "export DATABASE_URL='" + at.DatabaseURL + "'", "stripe listen --forward-to " + at.URL} {
		if !strings.Contains(dev.stdout.String(), said) {
			d.Errorf("the greeting does not say %s:\n%s", said, dev.stdout)
		}
	}
	return dev, at
}

// rows counts a table.
func (d *development) rows(at target, table string) int {
	d.Helper()
	return valueOf[int](d, connect(d, at.DatabaseURL), "SELECT count(*) FROM stripe_identity."+table)
}

// gone waits until nobody listens at any address of a dev.
func (d *development) gone(at target) {
	d.Helper()
	for _, address := range []string{at.URL, at.MetricsURL, at.DatabaseURL} {
		u, err := url.Parse(address)
		if err != nil {
			d.Fatal(err)
		}
		eventually(d, "see nobody listen at "+u.Host, func() bool {
			conn, err := net.Dial("tcp", u.Host)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
	}
}

func TestDevServesWithoutConfiguration(t *testing.T) {
	t.Parallel()
	d := newDevelopment(t)
	dev, at := d.run()

	story := launch(t, d.dir, nil, "trigger", "story").exits(exitDone)
	if n := strings.Count(story.stdout.String(), "200  applied"); n != 3 {
		t.Errorf("a story is\n%s%s", story.stdout, story.log)
	}
	failure := launch(t, d.dir, nil, "trigger", "requires_input", "--code", "document_expired").exits(exitDone)
	if n := strings.Count(failure.stdout.String(), "200  applied"); n != 1 {
		t.Errorf("a failure is\n%s%s", failure.stdout, failure.log)
	}
	metrics, err := exchange(newClient(t), http.MethodGet, at.MetricsURL, "", nil)
	if err != nil || !strings.Contains(metrics.Body, `webhookd_verification_failures_total{code="document_expired",livemode="false",type="document"} 1`) {
		t.Errorf("metrics: %d, %v", metrics.Status, err)
	}
	if n := d.rows(at, "verification_timeline"); n != 4 {
		t.Errorf("%d transitions, want 4", n)
	}

	// What the greeting says to try is tried as it is: after the database is
	// exported, as text for a shell; commands of operators need not even that.
	lines := regexp.MustCompile(`(?m)^  (export DATABASE_URL=.*|.*psql .*verification_timeline.*)$`).FindAllString(dev.stdout.String(), -1)
	session := valueOf[string](t, connect(t, at.DatabaseURL), `SELECT session_id FROM stripe_identity.status_transitions LIMIT 1`)
	psql := exec.Command("sh", "-e", "-c", strings.Join(lines, "\n"))
	if out, err := psql.CombinedOutput(); err != nil || len(lines) != 2 || !strings.Contains(string(out), session) || !strings.Contains(string(out), "(4 rows)") {
		t.Errorf("%q: %v\n%s", lines, err, out)
	}
	if shown := launch(t, d.dir, nil, "session", session).exits(exitDone); !strings.Contains(shown.log.String(), "using the database of 'webhookd dev'") {
		t.Errorf("session: %s%s", shown.stdout, shown.log)
	}

	// A second one in this folder says what is wrong, and harms nobody.
	anyPort := env{"WEBHOOKD_LISTEN_ADDR": "127.0.0.1:0", "WEBHOOKD_ADMIN_ADDR": "127.0.0.1:0"}
	second := launch(t, d.dir, anyPort, "dev").exits(exitFailed)
	if !strings.Contains(second.log.String(), "already running") {
		t.Errorf("a second dev: %s", second.log)
	}
	launch(t, d.dir, anyPort, "dev", "--reset").exits(exitFailed)
	if n := d.rows(at, "verification_sessions"); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}

	dev.signal(syscall.SIGINT)
	dev.exits(exitDone)
	d.gone(at)
	data := regexp.MustCompile(`data in (.+)\)`).FindStringSubmatch(dev.stdout.String())
	if data == nil {
		t.Fatalf("the greeting does not say where the data are:\n%s", dev.stdout)
	}
	log, err := os.ReadFile(filepath.Join(data[1], "postgres.log"))
	if err != nil || !strings.Contains(string(log), "database system is shut down") {
		t.Errorf("PostgreSQL was not stopped in order: %v\n%s", err, log)
	}
}

func TestDevKeepsItsDataUntilReset(t *testing.T) {
	t.Parallel()
	d := newDevelopment(t)
	dev, at := d.run()
	launch(t, d.dir, nil, "trigger", "story").exits(exitDone)
	dev.signal(syscall.SIGINT)
	dev.exits(exitDone)

	// Its secret was printed to be used, also where it is run again.
	dev, again := d.runWith(env{"WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "dev=" + at.Secret})
	if n := d.rows(again, "events"); n != 3 || again.Secret != at.Secret {
		t.Errorf("the second run has %d events, want 3, or another secret", n)
	}
	if again.DatabaseURL != at.DatabaseURL {
		t.Error("the second run has another database URL")
	}
	dev.signal(syscall.SIGTERM)
	dev.exits(exitDone)

	dev, anew := d.run("--reset")
	if n := d.rows(anew, "events"); n != 0 || anew.Secret == at.Secret {
		t.Errorf("after --reset there are %d events, or the old secret", n)
	}
	dev.signal(syscall.SIGINT)
	dev.exits(exitDone)
	d.gone(anew)
}

func TestDevStartsNothingWhereItsAddressIsTaken(t *testing.T) {
	t.Parallel()
	d := newDevelopment(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for variable, other := range map[string]string{"WEBHOOKD_LISTEN_ADDR": "WEBHOOKD_ADMIN_ADDR", "WEBHOOKD_ADMIN_ADDR": "WEBHOOKD_LISTEN_ADDR"} {
		dev := launch(t, d.dir, env{variable: taken.Addr().String(), other: "127.0.0.1:0"}, "dev", "--reset").exits(exitFailed)
		want := regexp.MustCompile(`^webhookd: listen on ` + variable + `: .*address already in use: set it to another address \(is another 'webhookd dev' running\?\)\n$`)
		if !want.MatchString(dev.log.String()) {
			t.Errorf("%s is taken: %s", variable, dev.log)
		}
		if _, err := os.Stat(filepath.Join(d.dir, ".webhookd", "postgres")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is taken, and there is a PostgreSQL: %v", variable, err)
		}
	}
}

func TestDevTakesAnotherPortWhereItsOwnIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
	for address, want := range map[string]int{
		"": 0, "postgres:///x": 0, ":": 0,
		"postgres://" + taken.Addr().String() + "/x":        0,
		"postgres://u:p@" + free.Addr().String() + "/x?a=b": port(free),
	} {
		if got := portAgain(t.Context(), address); got != want {
			t.Errorf("after %q the port is %d, want %d", address, got, want)
		}
	}
}

func TestDevLeavesNoPostgreSQLWhenItIsKilled(t *testing.T) {
	t.Parallel()
	d := newDevelopment(t)
	dev, at := d.run()
	launch(t, d.dir, nil, "trigger", "story").exits(exitDone)
	dev.signal(syscall.SIGKILL)
	dev.exits(-1)
	d.gone(at)

	dev, again := d.run()
	if n := d.rows(again, "events"); n != 3 {
		t.Errorf("after the crash there are %d events, want 3", n)
	}
	dev.signal(syscall.SIGINT)
	dev.exits(exitDone)
}

func TestADemoShowsEveryErrorCodeAndWhatNeedsStripe(t *testing.T) {
	t.Parallel()
	d := newDevelopment(t)
	dev, _ := d.run()
	launch(t, d.dir, nil, "trigger", "story", "--session", "vs_1OfAnEarlierRun").exits(exitDone) // there is no key yet
	dev.signal(syscall.SIGINT)
	dev.exits(exitDone)
	dev = launch(d, d.dir, env{"WEBHOOKD_LISTEN_ADDR": "127.0.0.1:0", "WEBHOOKD_ADMIN_ADDR": "127.0.0.1:0"}, "dev", "--demo")
	eventually(d, "see dev greet", func() bool { return strings.Contains(dev.stdout.String(), "The demo runs until you press Ctrl-C") })
	text, err := os.ReadFile(filepath.Join(d.dir, devFile))
	if err != nil {
		t.Fatal(err)
	}
	var at target
	if err := json.Unmarshal(text, &at); err != nil {
		t.Fatal(err)
	}
	var page string
	moved := func(series string) bool {
		m := regexp.MustCompile(`(?m)^`+series+` (\S+)$`).FindAllStringSubmatch(page, -1)
		return slices.ContainsFunc(m, func(m []string) bool { return m[len(m)-1] != "0" })
	}
	want := []string{`webhookd_outputs_fetches_total\{result="stored"\}`, `webhookd_signature_failures_total\{reason="no_match"\}`}
	for _, code := range append(events.Codes(), events.LabelOther, events.LabelNone) {
		want = append(want, `webhookd_verification_failures_total\{code="`+code+`",.*\}`)
	}
	client := newClient(t)
	happened := func() bool {
		metrics, err := exchange(client, http.MethodGet, at.MetricsURL, "", nil)
		page = metrics.Body
		return err == nil && !slices.ContainsFunc(want, func(series string) bool { return !moved(series) })
	}
	// The demo draws what happens: what is rare in it can take its time.
	for end := time.Now().Add(6 * time.Minute); !happened(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain to see all of it happen:\n%s", page)
		}
	}
	conn := connect(t, at.DatabaseURL)
	eventually(t, "see the outputs of an earlier run's session", func() bool {
		return valueOf[int](t, conn, `SELECT count(*) FROM stripe_identity.verified_outputs WHERE session_id = 'vs_1OfAnEarlierRun'`) == 1
	})
	if n := valueOf[int](t, conn, `SELECT count(*) FROM stripe_identity.verified_outputs WHERE first_name IS DISTINCT FROM 'Jenny Fictional'`); n > 0 {
		t.Errorf("%d people do not look made up", n)
	}
	if n := valueOf[int](t, conn, `SELECT count(*) FROM stripe_identity.verified_outputs o
WHERE NOT EXISTS (SELECT FROM stripe_identity.status_transitions t WHERE t.session_id = o.session_id AND status = 'verified')`); n > 0 {
		t.Errorf("%d have outputs and were never verified", n)
	}
	doctor := launch(t, d.dir, nil, "doctor", "--json").exits(exitDone)
	well := map[string]bool{}
	for _, f := range decoded(t, doctor).Checks {
		well[f.Check] = f.Level == isOK
		if strings.HasPrefix(f.Found, "off") {
			t.Errorf("%s is %s beside a demo", f.Check, f.Found)
		}
	}
	if !well["live key"] || !well["live endpoint"] || !well["test key"] || !well["test endpoint"] || !strings.Contains(doctor.log.String(), "whose demo plays Stripe") {
		t.Errorf("doctor beside a demo:\n%s%s", doctor.stdout, doctor.log)
	}
	dev.signal(syscall.SIGINT)
	dev.exits(exitDone)
	d.gone(at)
}
