package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/jobs"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi/stripefake"
)

// reconciled is a migrated database, a Stripe, and what the program is told of both.
type reconciled struct {
	testing.TB
	*stripefake.Fake
	database string
	vars     env
}

func newReconciled(tb testing.TB) *reconciled {
	tb.Helper()
	r := &reconciled{TB: tb, Fake: stripefake.New(tb), database: pgtest.Database(tb)}
	r.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	r.vars = env{
		"WEBHOOKD_DATABASE_URL": r.database, "WEBHOOKD_STRIPE_API_BASE": r.URL, "WEBHOOKD_API_RATE": "25",
		"WEBHOOKD_STRIPE_API_KEYS": r.Key(false, stripefake.Rights{Sensitive: true}) + "," + r.Key(true, stripefake.Rights{Sensitive: true}),
	}
	return r
}

func (r *reconciled) run(code int, args ...string) (stdout, stderr string) {
	r.Helper()
	p := launch(r, r.TempDir(), r.vars, append([]string{"reconcile"}, args...)...).exits(code)
	return p.stdout.String(), p.log.String()
}

func (r *reconciled) rows() int64 {
	r.Helper()
	conn := connect(r, r.database)
	return valueOf[int64](r, conn, `SELECT (SELECT count(*) FROM stripe_identity.events) + (SELECT count(*) FROM stripe_identity.reconcile_runs)`)
}

func TestReconcileFromTheCommandLine(t *testing.T) {
	t.Parallel()
	r := newReconciled(t)
	s := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1"})
	now := time.Now()
	for _, e := range []scenario.Event{s.Created(now.Add(-3 * time.Hour)), s.Processing(now.Add(-2 * time.Hour)), s.Verified(now.Add(-time.Hour))} {
		r.Tell(s, e)
	}

	dry, stderr := r.run(0, "--since", "1d", "--dry-run")
	if !strings.Contains(dry, "dry run: nothing was written") || strings.Count(dry, "missing ") != 3 || r.rows() != 0 || stderr != "" {
		t.Errorf("dry run:\n%s%s%d rows", dry, stderr, r.rows())
	}
	wet, _ := r.run(0, "--since", "1d")
	if got := strings.Replace(dry, ", dry run: nothing was written", "", 1); r.rows() != 4 || withoutLine(got, "since") != withoutLine(wet, "since") {
		t.Errorf("the run, after the dry one:\n%s\n%s%d rows", dry, wet, r.rows())
	}

	if text, _ := r.run(0, "--since", "30d", "--dry-run"); strings.Contains(text, "note") {
		t.Errorf("30 days are no more than Stripe has:\n%s", text)
	}
	text, _ := r.run(0, "--json")
	var again struct {
		jobs.Report
		Found []jobs.Finding `json:"found"`
	}
	if err := json.Unmarshal([]byte(text), &again); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if again.Result != jobs.RunOK || again.EventsListed != 3 || again.Recovered() != 0 || again.Found == nil || strings.Count(text, "\n") != 1 {
		t.Errorf("the second run: %s", text)
	}

	r.Next(stripefake.Fault{Status: 403})
	text, stderr = r.run(1, "--since", "1d")
	if !strings.Contains(text, "partial") || !strings.Contains(text, "unread    test: list events: stripe refused the request with status 403") ||
		!strings.HasPrefix(stderr, "webhookd: reconcile: the comparison is not complete: test: list events") {
		t.Errorf("incomplete:\n%s%s", text, stderr)
	}
	for _, shown := range []string{dry, wet, text, stderr} {
		if strings.Contains(shown, "rk_") || strings.Contains(shown, scenario.Marker) || strings.Contains(shown, r.URL) {
			t.Errorf("shown is\n%s", shown)
		}
	}
}

func withoutLine(text, first string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, first) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func TestReconcileRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(env)
		args   []string
		code   int
		says   string
	}{
		"no key":            {func(e env) { delete(e, "WEBHOOKD_STRIPE_API_KEYS") }, nil, 2, "WEBHOOKD_STRIPE_API_KEYS has no API key to read with: make a restricted one"},
		"none for the mode": {func(e env) { e["WEBHOOKD_LIVEMODE"], e["WEBHOOKD_STRIPE_API_KEYS"] = "live", "rk_test_1" }, nil, 2, "no API key"},
		"a wrong duration":  {nil, []string{"--since", "yesterday"}, 2, `--since is "yesterday": want a duration`},
		"no time at all":    {nil, []string{"--since", "0d"}, 2, `--since is "0d": want more than 0`},
		"an argument":       {nil, []string{"vs_1"}, 2, "unknown command"},
		"no database":       {func(e env) { e["WEBHOOKD_DATABASE_URL"] = "postgres://nobody:canary@127.0.0.1:9/x?sslmode=disable" }, nil, 1, "no connection to the database: refused"},
		"no database URL":   {func(e env) { e["WEBHOOKD_DATABASE_URL"] = "" }, nil, 2, "WEBHOOKD_DATABASE_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReconciled(t)
			if c.change != nil {
				c.change(r.vars)
			}
			stdout, stderr := r.run(c.code, c.args...)
			if stdout != "" || !strings.Contains(stderr, c.says) || strings.Contains(stderr, "canary") {
				t.Errorf("stdout %q, stderr %q, want %q", stdout, stderr, c.says)
			}
		})
	}
}

func TestAReconcileThatIsBrokenOffIsNotComplete(t *testing.T) {
	t.Parallel()
	r := newReconciled(t)
	r.Set(func(s *stripefake.Settings) { s.Delay = time.Minute })
	p := launch(t, t.TempDir(), r.vars, "reconcile", "--json")
	eventually(t, "see it ask", func() bool { return len(r.Calls()) > 0 })
	p.signal(syscall.SIGTERM)
	p.exits(1)
	if !strings.Contains(p.stdout.String(), "broken off") {
		t.Errorf("it says\n%s", p.stdout)
	}
	conn := connect(t, r.database)
	if got := valueOf[string](t, conn, `SELECT concat(result, ' ', finished_at IS NOT NULL) FROM stripe_identity.reconcile_runs`); got != "failed t" {
		t.Errorf("row of the run: %s", got)
	}
}

func TestProgressIsALineNowAndThen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		terminal bool
		want     string
	}{
		"in a file":     {false, "2 of 3\n3 of 3\nfound\n"},
		"on a terminal": {true, "\r2 of 3\x1b[K\r3 of 3\x1b[K\r\x1b[Kfound\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			l := newProgressLine(&b)
			l.terminal = c.terminal
			l.show("%d of 3", 1) // too soon
			l.every = 0
			l.show("%d of 3", 2)
			l.show("%d of 3", 3)
			l.clear()
			l.clear()
			b.WriteString("found\n")
			if diff := cmp.Diff(c.want, b.String()); diff != "" {
				t.Errorf("shown (-want +got):\n%s", diff)
			}
		})
	}
}
