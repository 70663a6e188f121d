package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// TestPersonalDataStaysWhereItBelongs marks all personal data, provokes every
// kind of answer and error, looks where the marks got to, redacts, and looks
// again. The server logs as PostgreSQL does by default.
func TestPersonalDataStaysWhereItBelongs(t *testing.T) {
	t.Parallel()
	server, err := pgdev.Start(t.Context(), pgdev.Options{Ephemeral: true, Settings: map[string]string{
		"log_error_verbosity": "default", "log_min_error_statement": "error",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	database := server.URL("webhookd")
	if _, err := repo.Migrate(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	s := begin(t, database, func(e *environment) { e.MaxBodyBytes.force("64KiB") })
	conn := connect(t, database)

	var bodies, answers bytes.Buffer
	mark := func(body []byte) []byte { // reasons and metadata, where scenario has none
		body = bytes.ReplaceAll(body, []byte(`"reason": "`), []byte(`"reason": "`+scenario.Marker+` `))
		bodies.Write(body)
		return body
	}
	deliver := func(want string, body []byte) {
		t.Helper()
		a := s.deliver(mark(body))
		fmt.Fprintln(&answers, a.Header, a.Body)
		if got := a.Outcome + a.Code; got != want {
			t.Errorf("answer is %q, want %q: %d %s", got, want, a.Status, a.Body)
		}
	}

	source, at := scenario.New(1), time.Now().Add(-time.Hour)
	options := scenario.SessionOptions{Livemode: true, Metadata: map[string]string{
		"name": scenario.Marker, scenario.Marker: "x", "document": scenario.Marker, // which no payload has
	}}
	live := func(id string) *scenario.Session {
		options.ID, options.ClientReferenceID = id, "user-of-"+id
		at = at.Add(time.Minute)
		return source.Session(options)
	}
	lives := func(s *scenario.Session) { // one attempt fails, one does not
		deliver("applied", s.Created(at).Body)
		deliver("applied", s.Processing(at.Add(time.Second)).Body)
		deliver("applied", s.Expanded(s.RequiresInput(at.Add(2*time.Second), "document_expired")).Body)
		deliver("applied", s.Processing(at.Add(3*time.Second)).Body)
		verified := s.Expanded(s.Verified(at.Add(4 * time.Second)))
		deliver("applied", verified.Body)
		deliver("duplicate", verified.Body)
		deliver("twin", s.Twin(verified).Body)
		deliver("queued", s.Thin(verified).Body)
		broken := bytes.Replace(s.RequiresInput(at.Add(5*time.Second), "abandoned").Body, []byte(`"status": "requires_input"`), []byte(`"status": 5`), 1)
		deliver("quarantined", broken)
	}
	byStripe, byID, byReference := live("vs_stripe"), live("vs_id"), live("vs_reference")
	for _, s := range []*scenario.Session{byStripe, byID, byReference} {
		lives(s)
	}

	// What is refused or ignored leaves no trace of its content.
	any := byID.Expanded(byID.Verified(at)).Body
	for _, try := range []struct {
		body   []byte
		header string
	}{
		{any, ""},
		{any, "t=1,v1=" + scenario.Marker},
		{any, scenario.Marker},
		{any, signature.Sign(any, "whsec_"+scenario.Marker, time.Now())},
		{any, signature.Sign(any, whsec, at.Add(-time.Hour))},
		{bytes.Repeat(any, 20), signature.Sign(any, whsec, time.Now())},
		{any, strings.Repeat(scenario.Marker, 2000)},
	} {
		a := s.post(try.body, try.header)
		fmt.Fprintln(&answers, a.Header, a.Body)
		if a.Status/100 != 4 {
			t.Errorf("not refused: %d %s", a.Status, a.Body)
		}
	}
	deliver("not_an_event", []byte(`["`+scenario.Marker+`"]`))
	deliver("not_an_event", []byte(`{"id":"evt_1","`+scenario.Marker))
	deliver("ignored", []byte(`{"id":"evt_1","type":"charge.updated","data":{"object":{"name":"`+scenario.Marker+`"}}}`))

	// Errors of PostgreSQL quote rows; of ours, and of the content.
	execute(t, conn, `ALTER TABLE stripe_identity.events RENAME COLUMN api_version TO elsewhere`)
	deliver("database", byID.Expanded(byID.Verified(at)).Body)
	execute(t, conn, `ALTER TABLE stripe_identity.events RENAME COLUMN elsewhere TO api_version`)
	for code, want := range map[string]string{"P0001": "database", "22023": "quarantined"} {
		// It hides its own line from PostgreSQL's log, which is looked at below.
		execute(t, conn, fmt.Sprintf(`CREATE FUNCTION quote() RETURNS trigger LANGUAGE plpgsql SET log_min_messages = panic AS $$
			BEGIN RAISE EXCEPTION 'row %%', NEW USING ERRCODE = '%s', DETAIL = NEW::text, HINT = NEW::text; END $$`, code))
		execute(t, conn, `CREATE TRIGGER quote BEFORE INSERT ON stripe_identity.events FOR EACH ROW EXECUTE FUNCTION quote()`)
		deliver(want, byReference.Expanded(byReference.Verified(at)).Body)
		execute(t, conn, `DROP FUNCTION quote CASCADE`)
	}

	// Before a redaction it stands in these columns, and nowhere else.
	want := []string{
		"events.payload", "provided_details.email", "provided_details.phone", "quarantined_events.payload", "status_transitions.error_reason", "status_transitions.metadata",
		"verification_sessions.last_error_reason", "verification_sessions.metadata",
	}
	for _, column := range []string{
		"address_city", "address_line1", "address_line2", "address_postal_code", "address_state", "email", "first_name", "id_number", "last_name", "phone",
		"unparsed_place_of_birth", "unparsed_sex",
	} {
		want = append(want, "verified_outputs."+column)
	}
	last := live("vs_last") // its last state is a failure: its reason stands in the session
	deliver("applied", last.Expanded(last.RequiresInput(at, "abandoned")).Body)
	if diff := cmp.Diff(want, columnsWith(t, conn, scenario.Marker)); diff != "" {
		t.Errorf("personal data stands in (-contract +got):\n%s", diff)
	}
	secrets := regexp.MustCompile(`"(?:client_secret|url)": "([^"]+)"`).FindAllSubmatch(bodies.Bytes(), -1)
	if len(secrets) < 6 {
		t.Fatalf("%d client secrets and urls were sent", len(secrets))
	}
	never := []string{canary, password(t, database)}
	for _, secret := range secrets {
		never = append(never, string(secret[1]))
	}
	expectNone(t, "the database before redaction", dump(t, conn), never...)

	// The commands show nothing of it unasked. What one of them replays is
	// erased below like the rest.
	vars := env{"WEBHOOKD_DATABASE_URL": database}
	var shown bytes.Buffer
	for _, c := range []struct {
		code int
		args []string
	}{
		{exitDone, []string{"session", "vs_stripe"}}, {exitDone, []string{"session", "vs_stripe", "--json"}}, {exitDone, []string{"session", "vs_last"}},
		{exitDone, []string{"quarantine", "list"}}, {exitDone, []string{"quarantine", "list", "--json"}},
		{exitFailed, []string{"quarantine", "replay", "--all"}}, {exitFailed, []string{"session", "vs_unknown", "--show-outputs"}},
		{exitDone, []string{"prune", "--dry-run"}}, {exitDone, []string{"prune"}},
	} {
		p := launch(t, t.TempDir(), vars, c.args...).exits(c.code)
		fmt.Fprintln(&shown, p.stdout, p.log)
	}
	expectNone(t, "what commands show unasked", shown.String(), append(never, scenario.Marker)...)

	deliver("applied", byStripe.Expanded(byStripe.Redacted(time.Now())).Body)
	commands := launch(t, t.TempDir(), vars, "redact", "vs_id", "vs_last").exits(exitDone)
	more := launch(t, t.TempDir(), vars, "redact", "--client-reference", "user-of-vs_reference").exits(exitDone)

	// Nothing that comes later brings it back.
	for _, s := range []*scenario.Session{byID, byReference} {
		deliver("applied", s.Expanded(s.Verified(time.Now())).Body)
	}
	deliver("queued", byID.Thin(byID.Created(time.Now())).Body)

	metrics := s.get("/metrics").Body + s.get("/readyz").Body
	s.stop()
	<-s.ended
	log, err := os.ReadFile(filepath.Join(server.Dir(), "postgres.log"))
	if err != nil || !bytes.Contains(log, []byte("ERROR")) {
		t.Fatalf("PostgreSQL's log: %v\n%s", err, log)
	}
	never = append(never, scenario.Marker)
	for where, text := range map[string]string{
		"the log": s.log.String(), "the answers": answers.String(), "/metrics": metrics, "the commands": commands.stdout.String() + commands.log.String() + more.stdout.String() + more.log.String(),
		"PostgreSQL's log": string(log), "the database after redaction": dump(t, conn),
	} {
		if len(text) < 50 {
			t.Errorf("%s: only %q", where, text)
		}
		expectNone(t, where, text, never...)
	}
}

// TestPostgreSQLsLogHoldsNothingPersonal reads its settings from where
// operators read them, has PostgreSQL log every statement, and refuses a row.
func TestPostgreSQLsLogHoldsNothingPersonal(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"log_statement": "all", "log_min_duration_statement": "0"}
	text, err := os.ReadFile("../../docs/privacy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "<!-- settings:begin -->\n```ini\n")
	block, _, _ = strings.Cut(block, "```")
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		name, value, _ := strings.Cut(line, "=")
		settings[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if len(settings) != 6 {
		t.Fatalf("settings: %v", settings)
	}
	server, err := pgdev.Start(t.Context(), pgdev.Options{Ephemeral: true, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	database := server.URL("webhookd")
	if _, err := repo.Migrate(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, database)
	execute(t, conn, `ALTER TABLE stripe_identity.provided_details ADD CONSTRAINT nobody CHECK (email IS NULL)`)

	source, vars := scenario.New(1), env{"WEBHOOKD_DATABASE_URL": database}
	run := func(id string) (log string) {
		s := begin(t, database)
		session := source.Session(scenario.SessionOptions{ID: id, Metadata: map[string]string{"name": scenario.Marker}})
		s.take(session.Created(time.Now()), session.RequiresInput(time.Now(), "abandoned"))
		if a := s.deliver(session.Expanded(session.Verified(time.Now())).Body); a.Outcome != "quarantined" {
			t.Errorf("a row that is refused: %d %s", a.Status, a.Body)
		}
		s.stop()
		<-s.ended
		for _, args := range [][]string{{"session", id, "--show-outputs"}, {"export", id}, {"quarantine", "list"}, {"prune"}, {"redact", id}} {
			launch(t, t.TempDir(), vars, args...).exits(exitDone)
		}
		bytes, err := os.ReadFile(filepath.Join(server.Dir(), "postgres.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(bytes)
	}
	log := run("vs_1")
	if !strings.Contains(log, "INSERT INTO stripe_identity.events") || !strings.Contains(log, `violates check constraint "nobody"`) {
		t.Fatalf("statements and errors are not logged: %.2000s", log)
	}
	expectNone(t, "PostgreSQL's log", log, scenario.Marker)

	// What each setting keeps out would be found.
	for i, loosened := range []struct{ name, value, leaks string }{
		{"log_error_verbosity", "default", `Failing row contains .*` + scenario.Marker},
		{"log_parameter_max_length", "-1", `parameters: .*` + scenario.Marker}, // also DETAIL
	} {
		leaks := regexp.MustCompile(loosened.leaks)
		if leaks.MatchString(log) {
			t.Errorf("without %s there is %s", loosened.name, loosened.leaks)
		}
		execute(t, conn, `ALTER DATABASE webhookd SET `+loosened.name+` = '`+loosened.value+`'`)
		if log = run(fmt.Sprint("vs_loose_", i)); !leaks.MatchString(log) {
			t.Errorf("with %s = %s there is no %s: the test looks at the wrong place", loosened.name, loosened.value, loosened.leaks)
		}
	}
}

func expectNone(tb testing.TB, where, text string, never ...string) {
	tb.Helper()
	for _, secret := range never {
		if i := strings.Index(text, secret); i >= 0 {
			tb.Errorf("%s shows %s: …%.300s…", where, secret, text[max(0, i-150):])
		}
	}
}

func password(tb testing.TB, databaseURL string) string {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	text, _ := u.User.Password()
	return text
}

// tables lists all of a database, by their full names.
func tables(tb testing.TB, conn *pgx.Conn) []string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), `
SELECT oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'p', 'm') AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1`)
	if err != nil {
		tb.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) < 9 {
		tb.Fatalf("tables: %v %v", names, err)
	}
	return names
}

// dump is what pg_dump would print of all tables.
func dump(tb testing.TB, conn *pgx.Conn) string {
	tb.Helper()
	var text bytes.Buffer
	for _, table := range tables(tb, conn) {
		if _, err := conn.PgConn().CopyTo(tb.Context(), &text, "COPY "+table+" TO STDOUT"); err != nil {
			tb.Fatalf("copy %s: %v", table, err)
		}
	}
	return text.String()
}

// columnsWith lists the columns in which a word stands.
func columnsWith(tb testing.TB, conn *pgx.Conn, word string) (columns []string) {
	tb.Helper()
	for _, table := range tables(tb, conn) {
		rows, err := conn.Query(tb.Context(), `SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 1`, table)
		if err != nil {
			tb.Fatal(err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			tb.Fatal(err)
		}
		for _, column := range names {
			sql := fmt.Sprintf(`SELECT EXISTS (SELECT FROM %s WHERE %s::text LIKE '%%' || $1 || '%%')`, table, pgx.Identifier{column}.Sanitize())
			if valueOf[bool](tb, conn, sql, word) {
				columns = append(columns, strings.TrimPrefix(table, "stripe_identity.")+"."+column)
			}
		}
	}
	return columns
}
