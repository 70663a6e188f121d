package main

import (
	"encoding/json"
	"maps"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
)

// desk is an operator's shell.
type desk struct {
	testing.TB
	dir      string
	database string
	store    *repo.Store
}

func newDesk(tb testing.TB) *desk {
	tb.Helper()
	d := &desk{TB: tb, dir: tb.TempDir(), database: pgtest.Database(tb)}
	store, err := repo.Open(tb.Context(), repo.Options{URL: d.database})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(store.Close)
	d.store = store
	return d
}

func (d *desk) take(want events.Outcome, bodies ...[]byte) {
	d.Helper()
	for _, body := range bodies {
		e, err := events.Parse(body)
		if err != nil {
			d.Fatal(err)
		}
		e.ReceivedAt = time.Now()
		if got, err := d.store.Record(d.Context(), e); err != nil || got != want {
			d.Fatalf("record %s: %s, %v; want %s", e.ID, got, err, want)
		}
	}
}

// runs a command to its end and answers what it printed.
func (d *desk) runs(code int, args ...string) (stdout, stderr string) {
	d.Helper()
	p := launch(d, d.dir, env{"WEBHOOKD_DATABASE_URL": d.database}, args...).exits(code)
	return p.stdout.String(), p.log.String()
}

// noon is when the stories of these tests begin.
func noon(seconds int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}

func expectLines(tb testing.TB, what, text, want string) {
	tb.Helper()
	if diff := cmp.Diff(strings.Split(strings.TrimLeft(want, "\n"), "\n"), strings.Split(text, "\n")); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(line); n > 101 {
			tb.Errorf("%s: %d columns: %s", what, n, line)
		}
	}
}

func TestSessionShowsStateAndTimeline(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	s := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1", Livemode: true, ClientReferenceID: "user-\x1b[31m7\n", Account: "acct_1"})
	created := s.Created(noon(0))
	all := [][]byte{created.Body, s.Processing(noon(75)).Body}
	failed := s.RequiresInput(noon(4000), "id_number_insufficient_document_data")
	s.Processing(noon(90000))
	verified := s.Verified(noon(90_003))
	d.take(events.Applied, append(all, failed.Body, verified.Body)...)

	out, _ := d.runs(exitDone, "session", "vs_1")
	out = strings.ReplaceAll(out, verified.ID, "evt_verified")
	report := valueOf[string](t, connect(t, d.database), `SELECT last_verification_report_id FROM stripe_identity.verification_sessions`)
	expectLines(t, "session", strings.ReplaceAll(out, report, "vr_1"), `
session     vs_1
status      verified since 2026-03-02 13:00:03
type        document, live
reference   user-�[31m7�
account     acct_1
created     2026-03-01 12:00:00
report      vr_1
last event  evt_verified of 2026-03-02 13:00:03
outputs     wanted since 2026-03-02 13:00:03

TIME (UTC)           AFTER   EVENT           STATUS          ERROR
2026-03-01 12:00:00          created         requires_input
2026-03-01 12:01:15  1m15s   processing      processing
2026-03-01 13:06:40  1h05m   requires_input  requires_input  id_number_insufficient_document_data
2026-03-02 13:00:03  23h53m  verified        verified
`)

	out, _ = d.runs(exitDone, "session", "vs_1", "--json")
	var doc struct {
		Session  map[string]any
		Timeline []map[string]any
		Personal any
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if doc.Session["status"] != "verified" || len(doc.Timeline) != 4 || doc.Timeline[2]["event_id"] != failed.ID || doc.Personal != nil {
		t.Errorf("as JSON: %s", out)
	}
	for _, column := range []string{"metadata", "last_error_reason", "error_reason"} {
		if strings.Contains(out, `"`+column+`"`) {
			t.Errorf("%s is in\n%s", column, out)
		}
	}
}

func TestSessionSaysWhatIsOpenAboutIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	source := scenario.New(1)
	s := source.Session(scenario.SessionOptions{ID: "vs_1"})
	created := s.Created(noon(0))
	d.take(events.Applied, created.Body)
	d.take(events.Quarantined, []byte(strings.Replace(string(s.Processing(noon(10)).Body), `"processing"`, `5`, 1)))
	d.take(events.Queued, s.Thin(s.Processing(noon(20))).Body)
	out, _ := d.runs(exitDone, "session", "vs_1")
	for _, want := range []string{
		"(in doubt: needs a refresh)", "quarantine   1 of its events (webhookd quarantine list)", "thin events  1 wait for Stripe's API",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}

	d.take(events.Quarantined, []byte(strings.Replace(string(source.Session(scenario.SessionOptions{ID: "vs_2"}).Processing(noon(10)).Body), `"processing"`, `5`, 1)))
	if out, _ := d.runs(exitDone, "session", "vs_2"); !strings.Contains(out, "not known: no event of it was understood yet") {
		t.Errorf("nothing was understood, and it says\n%s", out)
	}
	if _, _ = d.runs(exitDone, "redact", "vs_3"); !strings.Contains(first(d.runs(exitDone, "session", "vs_3")), "none: only a tombstone") {
		t.Error("a tombstone is not said to be one")
	}
	if out, err := d.runs(exitFailed, "session", "vs_4"); out != "" || err != "webhookd: session vs_4: nothing is held about this session\n" {
		t.Errorf("unknown: %s%s", out, err)
	}
	if _, err := d.runs(exitFailed, "export", "user-1"); !strings.Contains(err, "a session's id begins with vs_") {
		t.Errorf("no session id: %s", err)
	}
}

func TestSessionSaysWhereItWasRedacted(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	source := scenario.New(1)
	ours, theirs := source.Session(scenario.SessionOptions{ID: "vs_1"}), source.Session(scenario.SessionOptions{ID: "vs_2"})
	d.take(events.Applied, ours.Created(noon(0)).Body, theirs.Created(noon(0)).Body, theirs.Redacted(noon(10)).Body)
	d.runs(exitDone, "redact", "vs_1", "vs_2")
	for id, want := range map[string]string{
		"vs_1": "redaction   redacted here; Stripe has told of no redaction\n",
		"vs_2": "redaction   redacted\n",
	} {
		if out, _ := d.runs(exitDone, "session", id); !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func first(stdout, _ string) string { return stdout }

func TestWhatIsPersonalIsShownOnlyWhenAskedAndRecorded(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	s := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1", Metadata: map[string]string{"name": scenario.Marker}})
	d.take(events.Applied, s.Created(noon(0)).Body, s.RequiresInput(noon(10), "abandoned").Body, s.Expanded(s.Verified(noon(20))).Body)
	conn := connect(t, d.database)

	if out, err := d.runs(exitDone, "session", "vs_1"); strings.Contains(out+err, scenario.Marker) {
		t.Errorf("not asked for:\n%s%s", out, err)
	}
	out, _ := d.runs(exitDone, "session", "vs_1", "--show-outputs")
	for _, want := range []string{
		"verified_outputs.first_name ", "Jenny " + scenario.Marker, "verified_outputs.dob ", "1904-02-29", "provided_details.email ",
		"metadata.name ", "error reason 2026-03-01 12:00:10 ", "The user began the verification",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	out, _ = d.runs(exitDone, "session", "vs_1", "--show-outputs", "--json", "--who", "jenny@support")
	if !strings.Contains(out, `"first_name": "Jenny `+scenario.Marker+`"`) {
		t.Errorf("as JSON: %s", out)
	}
	out, _ = d.runs(exitDone, "export", "vs_1", "--who", "jenny@privacy")
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(out), &doc); err != nil || !strings.Contains(out, scenario.Marker) {
		t.Errorf("export: %v\n%s", err, out)
	}
	want := []string{
		"answers", "events", "exported_at", "pii_reads", "provided_details", "quarantined_events", "session_id", "status_transitions",
		"verification_sessions", "verified_outputs", "wishes",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(doc))); diff != "" {
		t.Errorf("keys of the export (-want +got):\n%s", diff)
	}

	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	got := valueOf[string](t, conn, `SELECT string_agg(concat_ws(' ', who, command, session_id), '|' ORDER BY id) FROM stripe_identity.pii_reads`)
	if want := me.Username + "@" + host + " session vs_1|jenny@support session vs_1|jenny@privacy export vs_1"; got != want {
		t.Errorf("pii_reads: %s, want %s", got, want)
	}

	execute(t, conn, `DROP TABLE stripe_identity.pii_reads`)
	for _, args := range [][]string{{"session", "vs_1", "--show-outputs"}, {"export", "vs_1"}} {
		if out, err := d.runs(exitFailed, args...); out != "" || !strings.Contains(err, "record the reader in pii_reads: SQLSTATE 42P01") {
			t.Errorf("%q shows what cannot be recorded: %s%s", args, out, err)
		}
	}
}

func TestQuarantineIsListedAndReplayed(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	conn := connect(t, d.database)
	if out, _ := d.runs(exitDone, "quarantine", "list"); out != "nothing is in quarantine\n" {
		t.Errorf("empty: %s", out)
	}
	if out, _ := d.runs(exitDone, "quarantine", "replay", "--all"); out != "nothing is in quarantine\n" {
		t.Errorf("replay of nothing: %s", out)
	}
	s := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1"})
	broken := func(e scenario.Event) []byte {
		return []byte(strings.Replace(string(e.Body), `"related_customer": null`, `"related_customer": 5`, 1))
	}
	good, bad := s.Created(noon(0)), s.Verified(noon(10))
	d.take(events.Quarantined, broken(good), broken(bad))
	execute(t, conn, `UPDATE stripe_identity.quarantined_events SET received_at = created_at`)
	execute(t, conn, `UPDATE stripe_identity.quarantined_events SET payload = jsonb_set(payload, '{data,object,related_customer}', 'null') WHERE event_id = '`+good.ID+`'`)

	out, _ := d.runs(exitDone, "quarantine", "list")
	expectLines(t, "list", out, `
2026-03-01 12:00:10  `+bad.ID+`  vs_1
    verified: related_customer is no string
2026-03-01 12:00:00  `+good.ID+`  vs_1
    created: related_customer is no string
2 in quarantine
`)
	out, _ = d.runs(exitDone, "quarantine", "list", "--limit", "1")
	expectLines(t, "one of the list", out, `
2026-03-01 12:00:10  `+bad.ID+`  vs_1
    verified: related_customer is no string
1 of 2; more with --limit
`)
	out, _ = d.runs(exitDone, "quarantine", "list", "--json")
	var list struct {
		Total  int
		Events []struct {
			EventID string `json:"event_id"`
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || list.Total != 2 || len(list.Events) != 2 || list.Events[0].EventID != bad.ID || strings.Contains(out, "payload") {
		t.Errorf("as JSON: %v\n%s", err, out)
	}

	out, err := d.runs(exitFailed, "quarantine", "replay", "--all")
	expectLines(t, "replay", out, good.ID+"  vs_1  applied\n"+bad.ID+"  vs_1  stays: related_customer is no string\n")
	if err != "webhookd: 1 of 2 did not leave quarantine\n" {
		t.Errorf("stderr: %s", err)
	}
	if out, _ := d.runs(exitDone, "quarantine", "replay", good.ID); !strings.Contains(out, "duplicate") {
		t.Errorf("again: %s", out)
	}
	if out, _ := d.runs(exitFailed, "quarantine", "replay", "evt_unknown"); !strings.Contains(out, "stays: no such event is or was in quarantine") {
		t.Errorf("unknown: %s", out)
	}
}

func TestRedactSaysWhatItErasedAndNothingOfIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	source := scenario.New(1)
	s := source.Session(scenario.SessionOptions{ID: "vs_1", Metadata: map[string]string{"name": scenario.Marker}})
	d.take(events.Applied, s.Created(noon(0)).Body, s.RequiresInput(noon(10), "abandoned").Body, s.Expanded(s.Verified(noon(20))).Body)
	d.take(events.Quarantined, []byte(strings.Replace(string(s.Processing(noon(30)).Body), `"processing"`, `5`, 1)))
	told := source.Session(scenario.SessionOptions{ID: "vs_2"})
	d.take(events.Applied, told.Created(noon(0)).Body, told.Verified(noon(10)).Body, told.Redacted(noon(40)).Body)
	odd := source.Session(scenario.SessionOptions{ID: "vs_ö"})
	d.take(events.Applied, odd.Created(noon(0)).Body)

	out, _ := d.runs(exitDone, "redact", "vs_1", "vs_1", "vs_2", "vs_ö")
	if strings.Contains(out, scenario.Marker) {
		t.Errorf("personal: %s", out)
	}
	want := `
redacted vs_1 (erased: verified_outputs 1, provided_details 1, events 3, quarantined_events 1, status_transitions 1, verification_sessions 1)
redacted vs_1 (nothing personal was held; redacted before)
redacted vs_2 (nothing personal was held; redacted before, Stripe says at 2026-03-01T12:00:40Z)
redacted vs_ö (erased: events 1, verification_sessions 1)
`
	if diff := cmp.Diff(want, "\n"+out); diff != "" {
		t.Error(diff)
	}
}

func TestPruneListsWhatIsKeptForever(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, args := range [][]string{{"prune", "--dry-run"}, {"prune"}} {
		out, _ := d.runs(exitDone, args...)
		for _, what := range []string{"verified outputs", "provided details", "transitions", "answers of Stripe's API", "reasons of transitions that stay", "event ids"} {
			if !regexp.MustCompile(`(?m)^forever +0 +` + what + `$`).MatchString(out) {
				t.Errorf("%q does not say that %s are kept forever:\n%s", args, what, out)
			}
		}
	}
}

func TestPruneTakesAwayWhatTheSettingsSay(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	conn := connect(t, d.database)
	s := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1"})
	d.take(events.Applied, s.Created(noon(0)).Body, s.Processing(noon(10)).Body, s.Expanded(s.Verified(noon(20))).Body)
	for _, column := range []string{"events SET received_at", "status_transitions SET recorded_at", "verified_outputs SET fetched_at", "provided_details SET told_at"} {
		execute(t, conn, `UPDATE stripe_identity.`+column+` = now() - interval '50 days'`)
	}
	vars := env{"WEBHOOKD_DATABASE_URL": d.database, "WEBHOOKD_RETAIN_OUTPUTS": "40d", "WEBHOOKD_RETAIN_HISTORY": "45d"}
	table := func(head string) string {
		return `
KEPT FOR  ` + head + `  WHAT
30d       3` + strings.Repeat(" ", len(head)+1) + `payloads of events
90d       0` + strings.Repeat(" ", len(head)+1) + `events in quarantine
90d       0` + strings.Repeat(" ", len(head)+1) + `payloads of those whose ids stay
40d       1` + strings.Repeat(" ", len(head)+1) + `verified outputs
40d       1` + strings.Repeat(" ", len(head)+1) + `provided details
45d       2` + strings.Repeat(" ", len(head)+1) + `transitions
45d       0` + strings.Repeat(" ", len(head)+1) + `answers of Stripe's API
45d       0` + strings.Repeat(" ", len(head)+1) + `reasons of transitions that stay
45d       2` + strings.Repeat(" ", len(head)+1) + `event ids
`
	}
	before := dump(t, conn)
	out := launch(t, d.dir, vars, "prune", "--dry-run").exits(exitDone).stdout.String()
	expectLines(t, "dry run", out, table("WOULD GO"))
	if diff := cmp.Diff(before, dump(t, conn)); diff != "" {
		t.Errorf("a dry run changed the database (-before +after):\n%s", diff)
	}
	out = launch(t, d.dir, vars, "prune").exits(exitDone).stdout.String()
	expectLines(t, "prune", out, table("GONE"))
	if got := valueOf[string](t, conn, `SELECT status FROM stripe_identity.verification_sessions`); got != "verified" {
		t.Errorf("status is %s", got)
	}
	if strings.Contains(dump(t, conn), scenario.Marker) {
		t.Error("outputs stand")
	}
}
