package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// TestRestore loses a database, restores older backups of it, reconciles, and
// looks at each row of the table in docs/reliability.md: the case of that name.
func TestRestore(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.beforeTheBackup()
	backups := map[string]string{dumped: h.dumps(), copied: h.copies()}
	h.afterTheBackup()
	h.isLost()
	for method, restore := range map[string]func(tb testing.TB, backup string) (database string){dumped: restoreDump, copied: startCopy} { //nolint:paralleltest // they ask one Stripe, and watch what it is asked
		t.Run(method, func(t *testing.T) {
			r := &restored{TB: t, history: h, method: method, database: restore(t, backups[method])}
			r.conn = connect(t, r.database)
			if method == dumped { // as docs/consume.md says
				execute(t, r.conn, `UPDATE stripe_identity.status_transitions SET xid = pg_current_xact_id()`)
			}
			r.isReconciled()
			for name, check := range restoreTable() {
				t.Run(name, func(t *testing.T) { at := *r; at.TB = t; check(&at) })
			}
		})
	}
}

// The two kinds of backup.
const (
	dumped = "pg_dump"
	copied = "pg_basebackup"
)

// TestRestoreTableNamesItsTestCases holds the document against the cases.
func TestRestoreTableNamesItsTestCases(t *testing.T) {
	t.Parallel()
	_, table, _ := strings.Cut(document(t, "docs/reliability.md"), "<!-- restore:begin -->\n")
	table, _, _ = strings.Cut(table, "<!-- restore:end -->")
	rows, cases := []string{}, []string{"what"} // the head
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(table, -1) {
		rows = append(rows, row[1])
	}
	for name := range restoreTable() {
		cases = append(cases, name)
	}
	slices.Sort(cases)
	slices.Sort(rows)
	if diff := cmp.Diff(cases, rows); diff != "" {
		t.Errorf("rows of docs/reliability.md (-test cases +document):\n%s", diff)
	}
}

// restoreTable is what becomes of what, as docs/reliability.md has it.
func restoreTable() map[string]func(*restored) {
	const full, part, erased = "verified with all outputs, shown", "verified with some outputs, shown", "verified redacted"
	return map[string]func(*restored){
		// What the backup has.
		"a verified session with its outputs": func(r *restored) { r.session("vs_kept", full) },
		"a failed session": func(r *restored) {
			r.session("vs_failed", "requires_input document_expired")
			r.expect("true", `SELECT (last_error_reason IS NOT NULL AND metadata ->> 'name' = 'PIIMARK of vs_failed')::text FROM stripe_identity.verification_sessions WHERE id = 'vs_failed'`)
		},
		"a canceled session":                   func(r *restored) { r.session("vs_canceled", "canceled") },
		"a session redacted before the backup": func(r *restored) { r.erased("vs_redacted", erased) },
		"`webhookd redact` before the backup":  func(r *restored) { r.erased("vs_here", erased) },
		"an event in quarantine": func(r *restored) {
			r.expect("webhook", `SELECT source FROM stripe_identity.quarantined_events WHERE session_id = 'vs_doubt' AND resolved_at IS NULL AND payload IS NOT NULL`)
		},
		"a thin event that was not yet resolved": func(r *restored) {
			r.session("vs_thin", full)
			r.expect("true", `SELECT bool_and(resolved_at IS NOT NULL)::text FROM stripe_identity.events WHERE session_id = 'vs_thin' AND type LIKE 'v1.%'`)
		},
		"outputs that were being fetched": func(r *restored) {
			r.session("vs_flight", full)
		},
		"a session that Stripe does not know": func(r *restored) {
			r.session("vs_forgotten", "verified with all outputs, unconfirmed")
			if says := "vs_forgotten: Stripe does not know it, and its outputs stay hidden"; !strings.Contains(r.report, says) {
				r.Errorf("reconcile says\n%s", r.report)
			}
			r.run(exitDone, "redact", "vs_forgotten")
			r.erased("vs_forgotten", erased)
			r.run(exitDone, "reconcile")
		},
		"what retention had taken away": func(r *restored) {
			const stands = `SELECT count(payload)::text FROM stripe_identity.events WHERE session_id = 'vs_canceled'`
			r.expect("2", stands)
			r.run(exitDone, "prune")
			r.expect("0", stands)
		},

		// What happened since.
		"an event since, of the last 30 days": func(r *restored) {
			r.session("vs_progress", full)
			r.expect("created webhook, processing webhook, verified reconcile", stepsOf, "vs_progress")
		},
		"a session created since": func(r *restored) {
			r.session("vs_born", full)
			r.expect("created reconcile, processing reconcile, verified reconcile", stepsOf, "vs_born")
		},
		"a failure since": func(r *restored) {
			r.session("vs_born_failed", "requires_input document_expired")
			r.expect("1", `SELECT sum(failures)::text FROM stripe_identity.failure_reasons_hourly WHERE hour > now() - interval '1 day'`)
		},
		"an event since, of which only the thin one was delivered": func(r *restored) { r.session("vs_born_thin", full) },
		"an event in quarantine since": func(r *restored) {
			r.expect("reconcile", `SELECT source FROM stripe_identity.quarantined_events WHERE session_id = 'vs_born_doubt' AND resolved_at IS NULL`)
		},
		"outputs verified since, more than 48 hours ago": func(r *restored) {
			r.session("vs_late", part)
			r.expect("dob id_number sex unparsed_place_of_birth unparsed_sex", `SELECT array_to_string(unreadable_fields, ' ') FROM stripe_identity.verified_outputs WHERE session_id = 'vs_late'`)
		},
		"events since that are older than 30 days": func(r *restored) {
			r.session("vs_stale", part)
			r.expect("created webhook, processing webhook, verified api", stepsOf, "vs_stale")
		},
		"a session created since, more than 30 days ago": func(r *restored) {
			r.session("vs_old_born", part)
			r.expect("verified api", stepsOf, "vs_old_born")
		},
		"a session since, of an account never seen before": func(r *restored) {
			r.expect("0", `SELECT count(*)::text FROM stripe_identity.verification_sessions WHERE id = 'vs_newcomer'`)
			r.extra = env{"WEBHOOKD_STRIPE_ACCOUNTS": "acct_new"}
			r.run(exitDone, "reconcile", "--since", "30d")
			r.session("vs_newcomer", "verified")
		},
		"`pii_reads` since": func(r *restored) {
			r.expect("before", `SELECT string_agg(who, ' ') FROM stripe_identity.pii_reads`)
		},
		"a consumer's cursor that is kept elsewhere": func(r *restored) {
			const behind = `SELECT count(*)::text FROM stripe_identity.status_transitions
WHERE (xid, id) > ($1::text::xid8, $2::text::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())`
			if r.method == copied { // it waits for numbers that come again; a dump's are another server's
				r.expect("0", behind, r.xid, r.id)
			}
			all := valueOf[string](r, r.conn, `SELECT count(*)::text FROM stripe_identity.status_transitions`)
			eventually(r, "see all from the beginning", func() bool { return valueOf[string](r, r.conn, behind, "0", "0") == all })
		},

		// What was redacted since.
		"redacted at Stripe since, with its event": func(r *restored) { r.erased("vs_told", erased) },
		"redacted at Stripe while nothing served": func(r *restored) {
			r.erased("vs_down", erased)
			r.expect("created webhook, processing webhook, verified webhook, redacted reconcile", stepsOf, "vs_down")
		},
		"redacted at Stripe since, more than 30 days ago": func(r *restored) {
			r.erased("vs_long_ago", erased)
			r.expect("created webhook, processing webhook, verified webhook, redacted api", stepsOf, "vs_long_ago")
		},
		"redacted at Stripe since, and never verified": func(r *restored) { r.erased("vs_failed_redacted", "canceled document_expired redacted") },
		"redacted at Stripe since, of which only an event in quarantine is held": func(r *restored) {
			r.erased("vs_unseen", erased)
		},
		"redacted at Stripe since, whose outputs were being fetched": func(r *restored) { r.erased("vs_flight_redacted", erased) },
		"`webhookd redact` since, in your list": func(r *restored) {
			r.erased("vs_listed", erased)
			r.erased("vs_printed", erased)
		},
		"`webhookd redact` since, in no list": func(r *restored) {
			r.session("vs_unlisted", full) // Stripe has it, and knows of no erasure
			r.run(exitDone, "redact", "vs_unlisted")
			r.erased("vs_unlisted", erased)
		},
	}
}

const stepsOf = `SELECT string_agg(replace(event_type, 'identity.verification_session.', '') || ' ' || source, ', ' ORDER BY occurred_at, id)
FROM stripe_identity.status_transitions WHERE session_id = $1`

// history is a Stripe, a webhookd and its database, until that is lost.
type history struct {
	testing.TB
	fake     *stripefake.Fake
	source   *scenario.Source
	now      time.Time
	server   *pgdev.Server
	vars     env
	serving  *process
	sessions map[string]*scenario.Session

	mu       sync.Mutex
	held     map[string]bool // whose answers Stripe keeps back until it is released
	released chan struct{}

	list    []string // what was erased here since the backup, as the operator keeps it
	xid, id string   // how far a consumer had read
}

func newHistory(tb testing.TB) *history {
	tb.Helper()
	server, err := pgdev.Start(tb.Context(), pgdev.Options{Ephemeral: true, Settings: map[string]string{"wal_level": "replica", "max_wal_senders": "4"}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = server.Stop(context.Background()) })
	database := server.URL("webhookd")
	if _, err := repo.Migrate(tb.Context(), database); err != nil {
		tb.Fatal(err)
	}
	h := &history{
		TB: tb, fake: stripefake.New(tb), source: scenario.New(1), now: time.Now(), server: server,
		sessions: map[string]*scenario.Session{}, held: map[string]bool{}, released: make(chan struct{}),
	}
	h.fake.Set(func(s *stripefake.Settings) {
		s.Limit = 0
		s.Arrived = func(id string) {
			h.mu.Lock()
			held := h.held[id]
			h.mu.Unlock()
			if held {
				<-h.released
			}
		}
	})
	h.vars = env{
		"WEBHOOKD_DATABASE_URL": database, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "main=" + whsec,
		"WEBHOOKD_LISTEN_ADDR": "127.0.0.1:0", "WEBHOOKD_ADMIN_ADDR": "127.0.0.1:0", "WEBHOOKD_DRAIN_DELAY": "0s",
		"WEBHOOKD_STRIPE_API_KEYS": h.fake.Key(false, stripefake.Rights{Sensitive: true}), "WEBHOOKD_STRIPE_API_BASE": h.fake.URL,
		"WEBHOOKD_API_RATE": "25", "WEBHOOKD_RECONCILE_EVERY": "0",
	}
	h.serving = launch(tb, tb.TempDir(), h.vars, "serve").serves()
	return h
}

// Who is told of what happens.
const (
	stripe = 1 << iota
	us
	both = stripe | us
)

// happens lets something happen to a session, in steps of a minute.
func (h *history) happens(told int, id string, ago time.Duration, story string) (events []scenario.Event) {
	h.Helper()
	s := h.sessions[id]
	if s == nil {
		o := scenario.SessionOptions{ID: id, Metadata: map[string]string{"name": scenario.Marker + " of " + id}}
		switch id {
		case "vs_down":
			o.Account = "acct_seen"
		case "vs_newcomer":
			o.Account = "acct_new"
		}
		s = h.source.Session(o)
		h.sessions[id] = s
	}
	at := h.now.Add(-ago)
	for step := range strings.FieldsSeq(story) {
		what, code, _ := strings.Cut(step, ":")
		e, err := s.Happen(what, code, at)
		if err != nil {
			h.Fatal(err)
		}
		if at = at.Add(time.Minute); told&stripe != 0 {
			h.fake.Tell(s, e)
		}
		if told&us != 0 {
			h.deliver(e.Body)
		}
		events = append(events, e)
	}
	return events
}

func (h *history) deliver(body []byte) {
	h.Helper()
	a, err := exchange(newClient(h), "POST", h.serving.endpoint(), signature.Sign(body, whsec, time.Now()), body)
	if err != nil || a.Status != 200 {
		h.Fatalf("%v, %d %s", err, a.Status, a.Body)
	}
}

// doubtful is an event that this version does not understand.
func (h *history) doubtful(told int, id string, ago time.Duration) {
	h.Helper()
	e := h.happens(0, id, ago, "requires_input:abandoned")[0]
	body := bytes.Replace(e.Body, []byte(`"status": "requires_input"`), []byte(`"status": 5`), 1)
	if told&stripe != 0 {
		h.fake.AddEvent(body)
	}
	h.deliver(body)
}

func (h *history) hold(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[id] = true
}

func (h *history) run(args ...string) string {
	h.Helper()
	return launch(h, h.TempDir(), h.vars, args...).exits(exitDone).stdout.String()
}

const (
	aDay = 24 * time.Hour
	// openWishes leaves out one that Stripe cannot fulfil.
	openWishes = `SELECT count(*)::int FROM stripe_identity.wishes WHERE session_id <> 'vs_forgotten'`
)

func (h *history) beforeTheBackup() {
	h.Helper()
	const verified = "created processing verified"
	fetched := []string{"vs_kept", "vs_redacted", "vs_here", "vs_told", "vs_down", "vs_listed", "vs_printed", "vs_unlisted"}
	for _, id := range fetched {
		h.happens(both, id, 20*aDay, verified)
	}
	h.happens(both, "vs_long_ago", 60*aDay, verified)
	h.happens(both, "vs_failed", 20*aDay, "created processing requires_input:document_expired")
	h.happens(both, "vs_failed_redacted", 20*aDay, "created processing requires_input:document_expired")
	h.happens(both, "vs_canceled", 20*aDay, "created canceled")
	h.happens(both, "vs_progress", 20*aDay, "created processing")
	h.happens(both, "vs_late", 20*aDay, "created processing")
	h.happens(both, "vs_stale", 60*aDay, "created processing")
	h.happens(us, "vs_forgotten", 20*aDay, "created processing")
	e := h.happens(0, "vs_forgotten", 19*aDay, "verified")[0]
	h.deliver(h.sessions["vs_forgotten"].Expanded(e).Body)
	h.happens(both, "vs_doubt", 20*aDay, "created")
	h.doubtful(both, "vs_doubt", 19*aDay)
	h.doubtful(us, "vs_unseen", 50*aDay)

	conn := connect(h, h.server.URL("webhookd"))
	eventually(h, "have the outputs", func() bool {
		return valueOf[int](h, conn, `SELECT count(*)::int FROM stripe_identity.verified_outputs`) == len(fetched)+2 &&
			valueOf[int](h, conn, openWishes) == 0
	})
	h.happens(both, "vs_redacted", 15*aDay, "redacted")
	h.run("redact", "vs_here")
	h.run("session", "vs_kept", "--show-outputs", "--who", "before")
	execute(h, conn, `UPDATE stripe_identity.events SET received_at = now() - interval '40 days' WHERE session_id = 'vs_canceled'`)

	// Stripe is being asked when the backup is made.
	h.hold("vs_flight")
	h.hold("vs_flight_redacted")
	h.happens(both, "vs_flight", aDay, verified)
	h.happens(both, "vs_flight_redacted", aDay, verified)
	story := h.happens(stripe, "vs_thin", aDay, verified)
	h.hold(story[2].ID)
	h.deliver(h.sessions["vs_thin"].Thin(story[2]).Body)
	eventually(h, "see Stripe asked", func() bool {
		return valueOf[int](h, conn, openWishes+` AND attempts > 0`) == 3
	})
}

func (h *history) afterTheBackup() {
	h.Helper()
	const verified = "created processing verified"
	h.happens(both, "vs_told", 5*aDay, "redacted")
	h.happens(both, "vs_long_ago", 40*aDay, "redacted")
	h.happens(both, "vs_failed_redacted", 6*aDay, "redacting redacted")
	h.happens(stripe, "vs_unseen", 45*aDay, "verified redacted")
	h.happens(both, "vs_flight_redacted", aDay/2, "redacted")

	h.happens(both, "vs_progress", 2*time.Hour, "verified")
	h.happens(both, "vs_late", 3*aDay, "verified")
	h.happens(both, "vs_stale", 35*aDay, "requires_input:document_expired processing verified")
	h.happens(both, "vs_born", 3*time.Hour, verified)
	h.happens(both, "vs_born_failed", 3*time.Hour, "created processing requires_input:document_expired")
	h.happens(both, "vs_old_born", 35*aDay, verified)
	h.happens(both, "vs_newcomer", 3*time.Hour, verified)
	story := h.happens(stripe, "vs_born_thin", 3*time.Hour, verified)
	h.deliver(h.sessions["vs_born_thin"].Thin(story[2]).Body)
	h.happens(both, "vs_born_doubt", 3*time.Hour, "created")
	h.doubtful(both, "vs_born_doubt", 2*time.Hour)

	// Two ways to keep the list of docs/privacy.md.
	conn := connect(h, h.server.URL("webhookd"))
	h.run("redact", "vs_listed")
	_, text, _ := strings.Cut(document(h, "docs/privacy.md"), "```sql\nSELECT id ")
	text, _, _ = strings.Cut(text, "```")
	rows, _ := conn.Query(h.Context(), "SELECT id "+text) // CollectRows tells the error
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Contains(list, "vs_listed") || slices.Contains(list, "vs_told") {
		h.Fatalf("the list of docs/privacy.md: %q, %v", list, err)
	}
	h.list = list
	for line := range strings.Lines(h.run("redact", "vs_printed")) {
		h.list = append(h.list, strings.Fields(line)[1])
	}
	h.run("redact", "vs_unlisted")
	h.run("export", "vs_kept", "--who", "after")
	h.run("prune")
	for _, id := range []string{"vs_told", "vs_long_ago", "vs_flight_redacted", "vs_listed", "vs_printed", "vs_unlisted"} {
		if n := valueOf[int](h, conn, `SELECT count(*)::int FROM stripe_identity.verified_outputs WHERE session_id = $1`, id); n != 0 {
			h.Errorf("%s is not erased before the loss", id)
		}
	}
	// Other work of the server's moves the numbers on.
	for range 2000 {
		execute(h, conn, `SELECT pg_current_xact_id()`)
	}
	execute(h, conn, `UPDATE stripe_identity.status_transitions SET xid = pg_current_xact_id() WHERE id = (SELECT max(id) FROM stripe_identity.status_transitions)`)
	h.xid, h.id, _ = strings.Cut(valueOf[string](h, conn, `SELECT xid::text || ' ' || id FROM stripe_identity.status_transitions ORDER BY xid DESC, id DESC LIMIT 1`), " ")
}

// isLost ends the machine, with the database on it.
func (h *history) isLost() {
	h.Helper()
	h.serving.signal(syscall.SIGKILL)
	<-h.serving.ended
	close(h.released)
	if err := errors.Join(h.server.Kill(), h.server.Stop(context.Background())); err != nil {
		h.Fatal(err)
	}
	h.happens(stripe, "vs_down", -time.Since(h.now), "redacted")
	for id, age := range map[string]time.Duration{"vs_late": 3 * aDay, "vs_stale": 35 * aDay, "vs_old_born": 35 * aDay} {
		h.fake.Age(stripeapi.Place{}, id, age)
	}
}

// restored is a database out of a backup, and what was made of it.
type restored struct {
	testing.TB
	*history
	method   string
	database string
	conn     *pgx.Conn
	extra    env
	report   string // of reconcile --after-restore
}

// redactedSince are those whose data must not be seen any more.
func redactedSince() []string {
	return []string{
		"vs_told", "vs_down", "vs_long_ago", "vs_failed_redacted", "vs_unseen", "vs_flight_redacted", "vs_listed", "vs_printed",
	}
}

// isReconciled follows docs/reconcile.md, and watches what can be seen
// whenever Stripe is asked.
func (r *restored) isReconciled() {
	r.Helper()
	const shown = `SELECT coalesce(string_agg(session_id, ' ' ORDER BY session_id), '') FROM stripe_identity.verified_identities
WHERE first_name IS NOT NULL AND session_id = ANY ($1)`
	// What the document warns of: nothing protects a database that is just restored.
	r.expect("vs_down vs_listed vs_long_ago vs_printed vs_told", shown, redactedSince())

	r.run(exitDone, "migrate", "status")
	r.run(exitDone, append([]string{"redact"}, r.list...)...)
	var (
		mu    sync.Mutex
		asked int
		seen  []string
		conn  = connect(r, r.database)
	)
	r.fake.Set(func(s *stripefake.Settings) {
		s.Arrived = func(string) {
			mu.Lock()
			defer mu.Unlock()
			var ids string
			var all int
			err := conn.QueryRow(context.Background(), shown, redactedSince()).Scan(&ids)
			if err == nil {
				err = conn.QueryRow(context.Background(), `SELECT count(*)::int FROM stripe_identity.verified_identities WHERE first_name IS NOT NULL`).Scan(&all)
			}
			if asked++; err != nil || ids != "" || asked == 1 && all > 0 {
				seen = append(seen, fmt.Sprintf("request %d: %q and %d in all, %v", asked, ids, all, err))
			}
		}
	})
	r.report = r.run(exitFailed, "reconcile", "--after-restore")
	r.fake.Set(func(s *stripefake.Settings) { s.Arrived = nil })
	if len(seen) > 0 || asked < 5 {
		r.Errorf("asked %d times, seen: %q", asked, seen)
	}
	r.expect("", shown, redactedSince())

	serving := launch(r, r.TempDir(), r.variables(), "serve").serves()
	eventually(r, "have what is wanted of Stripe", func() bool { return valueOf[int](r, r.conn, openWishes) == 0 })
	serving.signal(syscall.SIGTERM)
	serving.exits(exitDone)
}

func (r *restored) variables() env {
	vars := env{}
	for _, all := range []env{r.vars, {"WEBHOOKD_DATABASE_URL": r.database}, r.extra} {
		maps.Copy(vars, all)
	}
	return vars
}

func (r *restored) run(code int, args ...string) string {
	r.Helper()
	return launch(r, r.TempDir(), r.variables(), args...).exits(code).stdout.String()
}

func (r *restored) expect(want, sql string, args ...any) {
	r.Helper()
	if got := valueOf[string](r, r.conn, sql, args...); got != want {
		r.Errorf("%s %v: %q, want %q", sql, args, got, want)
	}
}

// session compares where a session stands, in words.
func (r *restored) session(id, want string) {
	r.Helper()
	r.expect(want, `
SELECT concat_ws(', ', concat_ws(' ', s.status, s.last_error_code, s.redaction_status,
           CASE WHEN o.id_number LIKE '%PIIMARK' AND o.dob_year = 1904 THEN 'with all outputs' WHEN o.first_name LIKE '%PIIMARK' THEN 'with some outputs' END),
       CASE WHEN o.unconfirmed THEN 'unconfirmed' END, CASE WHEN v.first_name IS NOT NULL THEN 'shown' END)
FROM stripe_identity.verification_sessions s
LEFT JOIN stripe_identity.verified_outputs o ON o.session_id = s.id
LEFT JOIN stripe_identity.verified_identities v ON v.session_id = s.id
WHERE s.id = $1`, id)
}

// erased looks through all tables for what is personal of a session.
func (r *restored) erased(id, want string) {
	r.Helper()
	r.session(id, want)
	for _, table := range []string{"verified_outputs", "provided_details"} {
		r.expect("0", `SELECT count(*)::text FROM stripe_identity.`+table+` WHERE session_id = $1`, id)
	}
	for line := range strings.Lines(dump(r, r.conn)) {
		if strings.Contains(line, id) {
			expectNone(r, "a row of "+id, line, scenario.Marker, stripefake.Placeholder)
		}
	}
}

// postgres runs one of PostgreSQL's programs, as the server's account if it is to own files.
func postgres(tb testing.TB, url string, as *syscall.Credential, name string, args ...string) {
	tb.Helper()
	dir, err := pgdev.Find()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, name), append(args, "--dbname", url)...)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// dumps makes a logical backup.
func (h *history) dumps() (file string) {
	h.Helper()
	file = filepath.Join(h.TempDir(), "webhookd.dump")
	postgres(h, h.server.URL("webhookd"), nil, "pg_dump", "--format", "custom", "--file", file)
	return file
}

// copies makes a physical backup, as a folder that pgdev starts on.
func (h *history) copies() (dir string) {
	h.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(h.server.Dir()), "webhookd-copy-") // which the server's account can enter
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	password, err := os.ReadFile(filepath.Join(h.server.Dir(), "password"))
	if err != nil {
		h.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(h.server.Dir(), "data"))
	if err != nil {
		h.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := errors.Join(os.Chown(dir, int(owner.Uid), int(owner.Gid)), os.WriteFile(filepath.Join(dir, "password"), password, 0o600)); err != nil {
		h.Fatal(err)
	}
	var as *syscall.Credential
	if os.Geteuid() == 0 {
		as = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	postgres(h, h.server.URL("webhookd"), as, "pg_basebackup", "--pgdata", filepath.Join(dir, "data"), "--checkpoint", "fast", "--no-sync")
	return dir
}

// restoreDump restores into a new database of another server.
func restoreDump(tb testing.TB, file string) (database string) {
	tb.Helper()
	database = pgtest.Empty(tb)
	postgres(tb, database, nil, "pg_restore", "--exit-on-error", file)
	return database
}

// startCopy runs a server on a physical backup until the test ends.
func startCopy(tb testing.TB, dir string) (database string) {
	tb.Helper()
	server, err := pgdev.Start(tb.Context(), pgdev.Options{Ephemeral: true, Dir: dir})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = server.Stop(context.Background()) })
	return server.URL("webhookd")
}
