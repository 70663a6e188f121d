package repo_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/migrations"
)

// contractTables is "Tables" of the contract. A column without a type is text.
var contractTables = map[string]string{
	"events": `event_id type session_id account context livemode:boolean api_version request_id snapshot_event
		created_at:timestamptz received_at:timestamptz source secret_name payload:jsonb`,
	"verification_sessions": `id account context livemode:boolean type status last_error_code last_error_reason
		last_verification_report_id client_reference_id related_customer related_customer_account related_person
		related_person_account verification_flow options:jsonb metadata:jsonb redaction_status created_at:timestamptz
		status_changed_at:timestamptz last_event_id last_event_created_at:timestamptz needs_refresh:boolean
		fetched_from:timestamptz fetched_until:timestamptz outputs_wanted_since:timestamptz first_seen_at:timestamptz
		updated_at:timestamptz`,
	"status_transitions": `id:bigint event_id session_id account livemode:boolean type event_type status error_code
		error_reason verification_report_id redaction_status occurred_at:timestamptz recorded_at:timestamptz source xid:xid8`,
	"verified_outputs": `session_id first_name last_name dob:date dob_day:integer dob_month:integer dob_year:integer
		address_line1 address_line2 address_city address_state address_postal_code address_country id_number
		id_number_type email phone sex unparsed_place_of_birth unparsed_sex verification_report_id
		unreadable_fields:text[] extra:jsonb source fetched_at:timestamptz`,
	"provided_details": `session_id email phone`,
	"quarantined_events": `event_id type session_id created_at:timestamptz received_at:timestamptz reason payload:jsonb
		resolved_at:timestamptz`,
	"reconcile_runs": `started_at:timestamptz finished_at:timestamptz since:timestamptz result listed:bigint
		recovered:bigint detail`,
	"pii_reads": `at:timestamptz who command session_id`,
}

var contractViews = map[string]string{
	"verification_timeline": `id:bigint event_id session_id account livemode:boolean type event_type status error_code
		verification_report_id redaction_status occurred_at:timestamptz recorded_at:timestamptz source xid:xid8
		previous_status seconds_in_previous_status:float8`,
	"verified_identities": `session_id account livemode:boolean client_reference_id type verified_at:timestamptz
		first_name last_name dob:date dob_day:integer dob_month:integer dob_year:integer address_line1 address_line2
		address_city address_state address_postal_code address_country id_number id_number_type email phone sex
		unparsed_place_of_birth unparsed_sex verification_report_id unreadable_fields:text[] extra:jsonb source
		fetched_at:timestamptz`,
	"subject_status": `account livemode:boolean client_reference_id best_status best_session_id newest_session_id
		newest_status sessions:bigint failures:bigint`,
	"failure_reasons_hourly": `hour:timestamptz account livemode:boolean type error_code failures:bigint`,
}

// columnsOf reads the lists above: names in their order, and their types.
func columnsOf(list string) (names []string, types map[string]string) {
	long := strings.NewReplacer("timestamptz", "timestamp with time zone", "float8", "double precision")
	types = map[string]string{}
	for field := range strings.FieldsSeq(list) {
		name, typ, named := strings.Cut(field, ":")
		if !named {
			typ = "text"
		}
		names, types[name] = append(names, name), long.Replace(typ)
	}
	return names, types
}

func tableColumns(tb testing.TB, url, table string) (names []string, types map[string]string) {
	tb.Helper()
	types = map[string]string{}
	for _, row := range query(tb, url, `
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a
WHERE a.attrelid = ('stripe_identity.' || $1)::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`, table) {
		names, types[row[0].(string)] = append(names, row[0].(string)), row[1].(string)
	}
	return names, types
}

func TestTablesHaveTheColumnsOfTheContract(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	for table, list := range contractTables {
		_, want := columnsOf(list)
		_, got := tableColumns(t, url, table)
		for name := range got {
			if _, named := want[name]; !named {
				delete(got, name) // a column for our own use
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("columns of %s (-contract +database):\n%s", table, diff)
		}
	}
}

func TestViewsHaveTheColumnsOfTheContract(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	for view, list := range contractViews {
		wantNames, wantTypes := columnsOf(list)
		gotNames, gotTypes := tableColumns(t, url, view)
		if diff := cmp.Diff(wantNames, gotNames); diff != "" {
			t.Errorf("columns of %s (-contract +database):\n%s", view, diff)
		}
		if diff := cmp.Diff(wantTypes, gotTypes); diff != "" {
			t.Errorf("types of %s (-contract +database):\n%s", view, diff)
		}
	}
}

func TestViewsRunWithTheRightsOfTheirReader(t *testing.T) {
	t.Parallel()
	got := one(t, pgtest.Database(t), `
SELECT relname::text FROM pg_class
WHERE relnamespace = 'stripe_identity'::regnamespace AND relkind = 'v' AND 'security_invoker=true' = ANY (reloptions)
ORDER BY relname`)
	if diff := cmp.Diff([]string{"failure_reasons_hourly", "subject_status", "verification_timeline", "verified_identities"}, got); diff != "" {
		t.Errorf("views with security_invoker (-want +got):\n%s", diff)
	}
}

func TestKeysOfTheContract(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	got := one(t, url, `
SELECT i.indrelid::regclass || '.' || a.attname
FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indrelid::regclass::text LIKE 'stripe_identity.%'
  AND i.indrelid::regclass::text <> 'stripe_identity.schema_migrations'
ORDER BY 1`)
	want := []string{
		"stripe_identity.events.event_id",
		"stripe_identity.leases.name",
		"stripe_identity.pii_reads.id",
		"stripe_identity.provided_details.session_id",
		"stripe_identity.quarantined_events.event_id",
		"stripe_identity.reconcile_runs.id",
		"stripe_identity.status_transitions.event_id",
		"stripe_identity.status_transitions.id",
		"stripe_identity.verification_sessions.id",
		"stripe_identity.verified_outputs.session_id",
		"stripe_identity.wishes.session_id",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unique keys (-want +got):\n%s", diff)
	}
	rule := one(t, url, `SELECT indexdef FROM pg_indexes WHERE indexname = 'status_transitions_history'`)
	if len(rule) != 1 || !strings.Contains(rule[0], "UNIQUE") || !strings.HasSuffix(rule[0], "(session_id, occurred_at, twin)") {
		t.Errorf("the rule of twins has the key %v", rule)
	}
}

// Ids are at most 255 bytes when they come from events.Parse. Text of any
// other column has no limit, and PostgreSQL refuses a btree entry of 2.7 KB.
func TestNothingLongIsIndexedAsItIs(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	bounded := []string{"id", "event_id", "session_id", "snapshot_event", "name"} // a lease has a name of ours
	columns := one(t, url, `
SELECT DISTINCT a.attname::text
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[])
WHERE c.relnamespace = 'stripe_identity'::regnamespace AND m.amname <> 'hash'
  AND a.atttypid IN ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype)
ORDER BY 1`)
	for _, column := range columns {
		if !slices.Contains(bounded, column) {
			t.Errorf("column %s is indexed as it is", column)
		}
	}
	if len(columns) == 0 {
		t.Error("no indexed text at all: the query sees too little")
	}
	expressions := one(t, url, `
SELECT pg_get_expr(i.indexprs, i.indrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'stripe_identity'::regnamespace AND i.indexprs IS NOT NULL
ORDER BY 1`)
	want := []string{
		"date_bin('01:00:00'::interval, occurred_at, '2000-01-01 00:00:00+00'::timestamp with time zone)",
	}
	if diff := cmp.Diff(want, expressions); diff != "" {
		t.Errorf("indexed expressions (-bounded +database):\n%s", diff)
	}
}

func TestMigrateTwiceDoesNothing(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	first, err := repo.Migrate(t.Context(), url)
	if err != nil || len(first) == 0 {
		t.Fatalf("first: %d steps, %v", len(first), err)
	}
	if again, err := repo.Migrate(t.Context(), url); err != nil || len(again) != 0 {
		t.Errorf("second: %v, %v; want nothing done", again, err)
	}
}

func TestEightReplicasMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	var mu sync.Mutex
	taken := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			steps, err := repo.Migrate(t.Context(), url)
			if err != nil {
				t.Errorf("migrate: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, step := range steps {
				taken[step.Name]++
			}
		})
	}
	wg.Wait()
	for name, times := range taken {
		if times != 1 {
			t.Errorf("step %s was taken %d times", name, times)
		}
	}
	for _, name := range []string{"0001_create_schema.sql", repo.JobSchema + "/0001_create_river_migration"} {
		if taken[name] == 0 {
			t.Errorf("step %s was not taken; taken were %v", name, taken)
		}
	}
}

func TestAMigrationDoesNotHoldUpDeliveriesBehindAReader(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := connect(t, url)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), `
DELETE FROM stripe_identity.schema_migrations WHERE version_id = (SELECT max(version_id) FROM stripe_identity.schema_migrations);
BEGIN;
SELECT count(*) FROM stripe_identity.verification_sessions, stripe_identity.events`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := repo.Migrate(t.Context(), url)
		done <- err
	}()
	s := open(t, url)
	for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		_, err := s.Record(ctx, read(t, newSession(1, fmt.Sprintf("vs_%d", time.Now().UnixNano())).Created(at(0)).Body))
		cancel()
		if err != nil {
			t.Fatalf("a delivery behind the migration: %v", err)
		}
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("migrate, after the reader: %v", err)
	}
}

func TestMigrationStatusTellsWhatIsDone(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	status := func() (names []string, pending int) {
		steps, err := repo.MigrationStatus(t.Context(), url)
		if err != nil {
			t.Fatalf("status: %v", err)
		}
		for _, s := range steps {
			names = append(names, s.Name)
			if s.Applied.IsZero() {
				pending++
			}
		}
		return names, pending
	}
	before, n := status()
	if n != len(before) || int64(n) <= migrations.Version() {
		t.Errorf("%d steps to do in an empty database, want %d and those of the job queue", n, migrations.Version())
	}
	taken, err := repo.Migrate(t.Context(), url)
	if err != nil {
		t.Fatalf("migrate: %v", err)
	}
	after, n := status()
	if n != 0 {
		t.Errorf("%d steps to do after migrate", n)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("steps before migrate -, after +:\n%s", diff)
	}
	if len(taken) != len(after) {
		t.Errorf("%d steps were taken, and %d are known", len(taken), len(after))
	}
}

func TestMigrationsGoForwardOnly(t *testing.T) {
	t.Parallel()
	entries, err := migrations.Files.ReadDir(".")
	if err != nil {
		t.Fatalf("read migrations: %v", err)
	}
	for _, e := range entries {
		text, err := migrations.Files.ReadFile(e.Name())
		if err != nil {
			t.Fatalf("read %s: %v", e.Name(), err)
		}
		if strings.Contains(strings.ToLower(string(text)), "+goose down") {
			t.Errorf("%s has a way back", e.Name())
		}
	}
}
