package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
)

const usingDev = "webhookd: using the database of 'webhookd dev' in this folder\n"

// besideDev is a desk in a folder in which dev runs, as far as its file says.
func besideDev(tb testing.TB) *desk {
	tb.Helper()
	d := newDesk(tb)
	text, err := json.Marshal(target{URL: "http://127.0.0.1:9/x", Secret: whsec, DatabaseURL: d.database})
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.dir, ".webhookd"), 0o700); err != nil {
		tb.Fatal(err)
	}
	writeFile(tb, filepath.Join(d.dir, devFile), string(text))
	return d
}

func TestCommandsOfOperatorsFindDev(t *testing.T) {
	t.Parallel()
	d := besideDev(t)
	s := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1"})
	d.take(events.Applied, s.Created(noon(0)).Body)
	for _, c := range []struct {
		args []string
		code int
		want string // on stdout, or after the line about dev on stderr
	}{
		{[]string{"session", "vs_1"}, exitDone, "vs_1"},
		{[]string{"export", "vs_1"}, exitDone, `"session_id": "vs_1"`},
		{[]string{"quarantine", "list"}, exitDone, "nothing is in quarantine"},
		{[]string{"quarantine", "replay", "--all"}, exitDone, "nothing is in quarantine"},
		{[]string{"prune", "--dry-run"}, exitDone, "WOULD GO"},
		{[]string{"migrate", "status"}, exitDone, "0001_create_schema.sql"},
		{[]string{"reconcile"}, exitUsage, "WEBHOOKD_STRIPE_API_KEYS has no API key"},
		{[]string{"redact", "vs_1"}, exitDone, "redacted vs_1 (erased: events 1"},
	} {
		p := launch(t, d.dir, nil, c.args...).exits(c.code)
		rest, said := strings.CutPrefix(p.log.String(), usingDev)
		if !said || !strings.Contains(p.stdout.String()+rest, c.want) {
			t.Errorf("%q: %s%s", c.args, p.stdout, p.log)
		}
	}

	// The cluster of tests loses what a crash of the machine loses, and doctor says so.
	p := launch(t, d.dir, nil, "doctor").exits(exitFailed)
	if out := p.stdout.String(); strings.Count(p.log.String(), usingDev) != 1 || !strings.Contains(out, "ok       configuration") || !strings.Contains(out, "1 secret: dev") {
		t.Errorf("doctor: %s%s", out, p.log)
	}
	// As dev prints it for psql, it means no less; another database is another matter.
	printed := launch(t, d.dir, env{"DATABASE_URL": d.database}, "doctor").exits(exitFailed)
	if !strings.Contains(printed.stdout.String(), "1 secret: dev") {
		t.Errorf("doctor, with what dev printed: %s%s", printed.stdout, printed.log)
	}
	other := launch(t, d.dir, env{"DATABASE_URL": d.database + "&application_name=x"}, "doctor").exits(exitUsage)
	if strings.Contains(other.log.String(), usingDev) {
		t.Errorf("doctor, with another database: %s%s", other.stdout, other.log)
	}
	own := launch(t, d.dir, env{"WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "mine=" + whsec}, "doctor").exits(exitFailed)
	if !strings.Contains(own.stdout.String(), "1 secret: mine") {
		t.Errorf("doctor: %s%s", own.stdout, own.log)
	}
}

// A key of one's own is never sent to a demo.
func TestBesideADemoStripeIsTheOneThatItPlays(t *testing.T) {
	t.Parallel()
	demo := target{URL: "http://127.0.0.1:9/x", StripeBase: "http://127.0.0.1:9"}
	for name, c := range map[string]struct {
		dev        target
		key        string
		keys, base string
	}{
		"a demo":                  {demo, "", demoKeys, demo.StripeBase},
		"a demo, and a key":       {demo, "rk_test_mine", "rk_test_mine", ""},
		"dev, which plays nobody": {target{URL: demo.URL}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var e environment
			if c.key != "" {
				e.StripeAPIKeys.force(c.key)
			}
			c.dev.lendStripe(&e)
			if e.StripeAPIKeys.text != c.keys || e.StripeAPIBase.text != c.base {
				t.Errorf("keys %q at %q: want %q at %q", e.StripeAPIKeys.text, e.StripeAPIBase.text, c.keys, c.base)
			}
		})
	}
}

func TestAConfiguredDatabaseIsNeverThatOfDev(t *testing.T) {
	t.Parallel()
	d := besideDev(t)
	const nobody = "postgres://nobody@127.0.0.1:9/x?sslmode=disable"
	file := writeFile(t, filepath.Join(d.dir, "url"), nobody)
	for name, c := range map[string]struct {
		text string
		code int
	}{
		"DATABASE_URL":                       {nobody, exitFailed},
		"WEBHOOKD_DATABASE_URL":              {nobody, exitFailed},
		"WEBHOOKD_DATABASE_URL_FILE":         {file, exitFailed},
		"WEBHOOKD_MIGRATE_DATABASE_URL":      {nobody, exitUsage}, // only for migrate
		"WEBHOOKD_MIGRATE_DATABASE_URL_FILE": {file, exitUsage},
	} {
		for text, code := range map[string]int{c.text: c.code, "": exitUsage} {
			p := launch(t, d.dir, env{name: text}, "quarantine", "list").exits(code)
			if strings.Contains(p.log.String(), usingDev) || p.stdout.String() != "" {
				t.Errorf("%s=%s: %s%s", name, text, p.stdout, p.log)
			}
		}
	}
}

func TestWhatDeploysDoesNotTakeTheDatabaseOfDev(t *testing.T) {
	t.Parallel()
	d := besideDev(t)
	for _, args := range [][]string{{"serve"}, {"migrate", "up"}} {
		p := launch(t, d.dir, nil, args...).exits(exitUsage)
		if strings.Contains(p.log.String(), usingDev) || !strings.Contains(p.log.String(), "WEBHOOKD_DATABASE_URL is required") {
			t.Errorf("%q: %s%s", args, p.stdout, p.log)
		}
	}
}

func TestADevThatDoesNotRunIsToldWhereItsDatabaseCounts(t *testing.T) {
	t.Parallel()
	d := besideDev(t)
	writeFile(t, filepath.Join(d.dir, devFile), `{"database_url": "postgres://postgres@127.0.0.1:9/webhookd?sslmode=disable"}`)
	want := strings.TrimSpace(usingDev) + ", which does not answer (is 'webhookd dev' running?)\n"
	for _, args := range [][]string{{"session", "vs_1"}, {"quarantine", "list"}, {"prune"}, {"migrate", "status"}, {"redact", "vs_1"}} {
		p := launch(t, d.dir, nil, args...).exits(exitFailed)
		if log := p.log.String(); !strings.HasPrefix(log, want) || !strings.HasSuffix(log, "no connection to the database: refused\n") {
			t.Errorf("%q: %s", args, log)
		}
	}
	p := launch(t, d.dir, env{"WEBHOOKD_STRIPE_WEBHOOK_SECRETS": whsec}, "doctor").exits(exitFailed)
	if !strings.HasPrefix(p.log.String(), want) || !strings.Contains(p.stdout.String(), "→ start 'webhookd dev' in this folder") {
		t.Errorf("doctor: %s%s", p.stdout, p.log)
	}
	own := launch(t, d.dir, env{"WEBHOOKD_DATABASE_URL": "postgres://postgres@127.0.0.1:9/webhookd?sslmode=disable", "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": whsec}, "doctor").exits(exitFailed)
	if strings.Contains(own.log.String()+own.stdout.String(), "webhookd dev") || !strings.Contains(own.stdout.String(), "→ check WEBHOOKD_DATABASE_URL") {
		t.Errorf("doctor: %s%s", own.stdout, own.log)
	}
}

func TestAFileOfDevThatCannotBeReadIsToldWhereItCounts(t *testing.T) {
	t.Parallel()
	d := besideDev(t)
	writeFile(t, filepath.Join(d.dir, devFile), "{")
	for _, args := range [][]string{{"quarantine", "list"}, {"doctor"}} {
		if p := launch(t, d.dir, nil, args...).exits(exitUsage); !strings.Contains(p.log.String(), "read .webhookd/dev.json") {
			t.Errorf("%q: %s%s", args, p.stdout, p.log)
		}
	}
	d.runs(exitDone, "quarantine", "list") // by the environment

	body := filepath.Join(d.dir, "body")
	writeFile(t, body, "{}")
	verify := []string{"verify", "--body", body, "--header", "t=1,v1=" + strings.Repeat("0", 64)}
	if p := launch(t, d.dir, nil, verify...).exits(exitUsage); !strings.Contains(p.log.String(), "read .webhookd/dev.json") {
		t.Errorf("verify: %s%s", p.stdout, p.log)
	}
	launch(t, d.dir, env{"WEBHOOKD_STRIPE_WEBHOOK_SECRETS": whsec}, verify...).exits(exitFailed) // it does not match
}
