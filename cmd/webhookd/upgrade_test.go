package main

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
	"webhookd/migrations"
)

// TestOldSchemaIsWaitedFor runs the program on the schema before its own, and
// migrates under it.
func TestOldSchemaIsWaitedFor(t *testing.T) {
	t.Parallel()
	previous := migrations.Version() - 1
	url := pgtest.Empty(t)
	execute(t, connect(t, url), "CREATE SCHEMA stripe_identity")
	migrateTo(t, url, previous)
	s := begin(t, url)
	source := scenario.New(1)
	early := story(t, source, "happy", scenario.SessionOptions{})

	eventually(t, "be told that the schema is behind", func() bool {
		a := s.get("/readyz")
		return a.Status == http.StatusServiceUnavailable &&
			strings.Contains(a.Body, fmt.Sprintf(`"schema":%d,"schema_required":%d`, previous, previous+1)) &&
			strings.Contains(a.Body, "run webhookd migrate up")
	})
	// What may work by chance on one schema more or less is not promised to, so
	// no 200 is asked for here: only that a retry is, and that nothing is lost.
	for _, e := range early {
		if a := s.deliver(e.Body); a.Status != http.StatusServiceUnavailable && a.Status != http.StatusOK {
			t.Errorf("on the schema before: %d %s", a.Status, a.Body)
		}
	}

	up := launch(t, t.TempDir(), env{"WEBHOOKD_MIGRATE_DATABASE_URL": url}, "migrate", "up").exits(exitDone)
	if name := fmt.Sprintf("applied %04d_", previous+1); !strings.Contains(up.stdout.String(), name) {
		t.Errorf("migrate up says %q, want %q in it", up.stdout, name)
	}
	s.ready()
	var bodies [][]byte
	for _, e := range slices.Concat(early, story(t, source, "failing", scenario.SessionOptions{})) {
		s.take(e)
		bodies = append(bodies, e.Body)
	}
	expectModel(t, url, bodies)
}

// TestNewSchemaIsServed runs the program on a schema that has a step more than
// it knows: what the release after it adds while this one still serves.
func TestNewSchemaIsServed(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := connect(t, url)
	rows, err := conn.Query(t.Context(), `SELECT oid::regclass::text FROM pg_class
WHERE relnamespace = 'stripe_identity'::regnamespace AND relkind = 'r' AND relname <> 'schema_migrations'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		execute(t, conn, "ALTER TABLE "+table+" ADD COLUMN of_tomorrow text, ADD COLUMN since_tomorrow integer NOT NULL DEFAULT 0")
		execute(t, conn, "CREATE INDEX ON "+table+" (since_tomorrow)")
	}
	execute(t, conn, "CREATE TABLE stripe_identity.thing_of_tomorrow (id bigint PRIMARY KEY)")
	execute(t, conn, fmt.Sprintf("INSERT INTO stripe_identity.schema_migrations (version_id, is_applied) VALUES (%d, true)", migrations.Version()+1))

	s := begin(t, url).ready()
	source := scenario.New(2)
	var bodies [][]byte
	for _, name := range scenario.Stories() {
		for _, e := range story(t, source, name, scenario.SessionOptions{}) {
			s.take(e)
			bodies = append(bodies, e.Body)
		}
	}
	expectModel(t, url, bodies)
	if n := s.metrics()["webhookd_quarantined_events"]; n > 0 {
		t.Errorf("%v events are in quarantine", n)
	}
	// The pods of the old version that start once more must start.
	up := launch(t, t.TempDir(), env{"WEBHOOKD_MIGRATE_DATABASE_URL": url}, "migrate", "up").exits(exitDone)
	if up.stdout.String() != "nothing to do\n" {
		t.Errorf("migrate up says %q", up.stdout)
	}
}

// TestMigrationsAddBeforeTheyTakeAway: what an older version needs goes only in
// a step that says which version that was.
func TestMigrationsAddBeforeTheyTakeAway(t *testing.T) {
	t.Parallel()
	takesAway := regexp.MustCompile(`(?i)\b(drop\s+(table|column|view|type|schema|function)|rename\s|truncate|set\s+not\s+null|set\s+data\s+type|alter\s+column\s+\S+\s+type)\b`)
	files, err := migrations.Files.ReadDir(".")
	if err != nil || len(files) == 0 {
		t.Fatalf("migrations: %v", err)
	}
	for _, f := range files {
		text, err := migrations.Files.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		code := regexp.MustCompile(`(?m)--.*$`).ReplaceAllString(string(text), "")
		if what := takesAway.FindString(code); what != "" && !strings.Contains(string(text), "\n-- contract: ") {
			t.Errorf("%s has %q: docs/upgrades.md says how", f.Name(), what)
		}
		if !strings.HasPrefix(string(text), "-- +goose Up\n") || strings.Contains(string(text), "+goose Down") {
			t.Errorf("%s is no forward step", f.Name())
		}
	}
}

// migrateTo brings a database to an earlier version of our schema.
func migrateTo(tb testing.TB, url string, version int64) {
	tb.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	db := stdlib.OpenDB(*cfg)
	defer func() { _ = db.Close() }()
	store, err := database.NewStore(database.DialectPostgres, "stripe_identity.schema_migrations")
	if err != nil {
		tb.Fatal(err)
	}
	p, err := goose.NewProvider("", db, migrations.Files, goose.WithStore(store), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := p.UpTo(context.Background(), version); err != nil {
		tb.Fatal(err)
	}
}
