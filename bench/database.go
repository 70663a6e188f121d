package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// tables are what an event is written to.
var tables = [...]string{"events", "verification_sessions", "status_transitions"}

func (l *lab) connect(ctx context.Context, database, schema string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(l.postgres.URL(database))
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["search_path"] = schema
	return pgx.ConnectConfig(ctx, cfg)
}

// execute runs statements, each in a transaction of its own.
func (l *lab) execute(ctx context.Context, database string, statements ...string) (err error) {
	conn, err := l.connect(ctx, database, ourSchema)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%w in %s", err, sql)
		}
	}
	return nil
}

func (l *lab) createDatabase(ctx context.Context, name string) error {
	if err := l.execute(ctx, "postgres", "CREATE DATABASE "+name); err != nil {
		return err
	}
	return l.migrate(ctx, name)
}

func (l *lab) migrate(ctx context.Context, database string) error {
	cmd := exec.CommandContext(ctx, l.program, "migrate", "up") //nolint:gosec // our own
	cmd.Env = append(withoutOurs(os.Environ()), "WEBHOOKD_DATABASE_URL="+l.postgres.URL(database))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return nil
}

// copyTables makes tables like webhookd's in another schema, if they are not
// there, with its indexes or with primary keys alone.
func (l *lab) copyTables(ctx context.Context, schema string, indexed bool) (err error) {
	conn, err := l.connect(ctx, mainDatabase, schema)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, schema).Scan(&exists); err != nil || exists {
		return err
	}
	statements := []string{"CREATE SCHEMA " + schema}
	for _, table := range tables {
		like := "INCLUDING ALL"
		if !indexed {
			like = "INCLUDING ALL EXCLUDING INDEXES"
		}
		statements = append(statements, fmt.Sprintf("CREATE TABLE %s (LIKE %s.%[1]s %[3]s)", table, ourSchema, like))
		var key, options string // LIKE leaves the options of the table out
		err := conn.QueryRow(ctx, `
SELECT (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = 1), coalesce(array_to_string(c.reloptions, ', '), '')
FROM pg_class c WHERE c.oid = $1::regclass`, ourSchema+"."+table).Scan(&key, &options)
		if err != nil {
			return err
		}
		if !indexed {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", table, key))
		}
		if options != "" {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s SET (%s)", table, options))
		}
	}
	_, err = conn.Exec(ctx, strings.Join(statements, ";"))
	return err
}

// clear begins a measurement: empty tables, and nothing left to write.
func (l *lab) clear(ctx context.Context, schema string) error {
	if schema != "" {
		if err := l.execute(ctx, mainDatabase, "TRUNCATE "+schema+"."+strings.Join(tables[:], ", "+schema+".")); err != nil {
			return err
		}
	}
	return l.execute(ctx, "postgres", "CHECKPOINT")
}

// reportDelay is how late a session may report its transactions: after 10 s
// without work (PGSTAT_IDLE_INTERVAL).
const reportDelay = 11 * time.Second

// transactions is how many there were in the main database so far.
func (l *lab) transactions(ctx context.Context) (n int64, err error) {
	if err := pause(ctx, reportDelay); err != nil {
		return 0, err
	}
	conn, err := l.connect(ctx, "postgres", ourSchema) // its own do not count there
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	err = conn.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`, mainDatabase).Scan(&n)
	return n, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lab) setCommitDelay(ctx context.Context, delay time.Duration) error {
	return l.execute(ctx, "postgres",
		fmt.Sprintf("ALTER SYSTEM SET commit_delay = %d", delay.Microseconds()), "ALTER SYSTEM SET commit_siblings = 0", "SELECT pg_reload_conf()")
}

// fill makes so many transitions, an event each and three a session, a month
// ago and long known to PostgreSQL. Payloads are past their retention.
func (l *lab) fill(ctx context.Context, database string, transitions int) error {
	l.sayf("filling %d transitions", transitions)
	start := time.Now()
	drop, create, err := l.indexes(ctx, database)
	if err != nil {
		return err
	}
	const chunk = 300_000
	statements := append([]string{"SET synchronous_commit = off", "SET maintenance_work_mem = '512MB'"}, drop...)
	for from := 0; from < transitions; from += chunk {
		series := fmt.Sprintf("generate_series(%d, %d) AS n", from, min(from+chunk, transitions)-1)
		statements = append(statements, fmt.Sprintf(sqlFillEvents, series), fmt.Sprintf(sqlFillSessions, series), fmt.Sprintf(sqlFillTransitions, series))
	}
	statements = append(append(statements, create...), "VACUUM (ANALYZE, FREEZE)", "CHECKPOINT")
	if err := l.execute(ctx, database, statements...); err != nil {
		return err
	}
	l.sayf("filled in %v", time.Since(start).Round(time.Second))
	return nil
}

// indexes are the statements that drop all of them and make them again: at the
// end of filling they take half of the time.
func (l *lab) indexes(ctx context.Context, database string) (drop, create []string, err error) {
	conn, err := l.connect(ctx, database, ourSchema)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	rows, err := conn.Query(ctx, `
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint
WHERE conrelid = ANY ($1::regclass[]) AND contype IN ('p', 'u')
UNION ALL
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index
WHERE indrelid = ANY ($1::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)`, tables[:])
	if err != nil {
		return nil, nil, err
	}
	var dropping, creating string
	_, err = pgx.ForEachRow(rows, []any{&dropping, &creating}, func() error {
		drop, create = append(drop, dropping), append(create, creating)
		return nil
	})
	return drop, create, err
}

// The ids sort by time, before those of today.
const (
	sqlFillEvents = `
INSERT INTO events (event_id, type, session_id, livemode, api_version, request_id, created_at, received_at, source, secret_name)
SELECT 'evt_10' || lpad(n::text, 10, '0') || left(md5(n::text), 12), 'identity.verification_session.processing',
       'vs_10' || lpad((n / 3)::text, 10, '0') || left(md5((n / 3)::text), 12), true, '2026-10-28.endive', 'req_' || left(md5(n::text), 14),
       now() - interval '30 days' + n * interval '1 millisecond', now() - interval '30 days' + n * interval '1 millisecond', 'webhook', 'main'
FROM %s`
	sqlFillSessions = `
INSERT INTO verification_sessions (id, livemode, type, status, client_reference_id, options, metadata, created_at, status_changed_at, last_event_id, last_event_created_at)
SELECT 'vs_10' || lpad((n / 3)::text, 10, '0') || left(md5((n / 3)::text), 12), true, 'document', 'verified', 'user-' || left(md5((n / 3)::text), 8),
       '{"document": {"require_matching_selfie": true}}', '{"tenant": "acme"}', at, at, 'evt_10' || lpad(n::text, 10, '0') || left(md5(n::text), 12), at
FROM %s, LATERAL (SELECT now() - interval '30 days' + n * interval '1 millisecond' AS at) t
WHERE n %% 3 = 0`
	sqlFillTransitions = `
INSERT INTO status_transitions (event_id, session_id, livemode, type, event_type, status, error_code, occurred_at, recorded_at, source, rank, twin, options)
SELECT 'evt_10' || lpad(n::text, 10, '0') || left(md5(n::text), 12), 'vs_10' || lpad((n / 3)::text, 10, '0') || left(md5((n / 3)::text), 12), true, 'document',
       'identity.verification_session.' || (ARRAY['created', 'processing', 'requires_input'])[n %% 3 + 1], 'requires_input', 'document_expired',
       at, at, 'webhook', n %% 3, sha256(n::text::bytea), '{"document": {"require_matching_selfie": true}}'
FROM %s, LATERAL (SELECT now() - interval '30 days' + n * interval '1 millisecond' AS at) t`
)
