package repo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"webhookd/migrations"
)

// versions is where goose notes which steps are done.
const versions = "stripe_identity.schema_migrations"

// migrationLock is the key of the advisory lock that lets one of many replicas
// migrate at a time: "webhookd" in ASCII.
const migrationLock = 0x776562686f6f6b64

// MigrationStep is one step of the schema's history.
type MigrationStep struct {
	Version int64
	Name    string
	Applied time.Time // zero while it is to be done
}

// Migrate brings the schema up to what this build needs and answers the steps
// it took. It may run in many processes at once: one works, the others wait
// and find nothing to do. url must reach PostgreSQL directly, not through a
// pooler, because the lock belongs to the session.
func Migrate(ctx context.Context, url string) (taken []MigrationStep, err error) {
	err = withMigrations(ctx, url, func(conn *sql.Conn, p *goose.Provider) error {
		// To wait for another migration is meant: see migrationLockTimeout.
		for _, statement := range []string{"SET lock_timeout = 0", fmt.Sprintf("SELECT pg_advisory_lock(%d)", int64(migrationLock))} {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return plain("wait for the migration lock", err)
			}
		}
		defer func() {
			// Without it the lock would go with the connection, a moment later.
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrationLock))
		}()
		for _, schema := range []string{"stripe_identity", JobSchema} {
			if err := createSchema(ctx, conn, schema); err != nil {
				return err
			}
		}
		// First, so that a version of ours promises the job queue's.
		if taken, err = migrateJobs(ctx, url); err != nil {
			return err
		}
		results, err := upPatiently(ctx, p)
		if err != nil {
			return err
		}
		for _, r := range results {
			taken = append(taken, MigrationStep{Version: r.Source.Version, Name: r.Source.Path, Applied: time.Now()})
		}
		return nil
	})
	return taken, err
}

// migrationLockTimeout is how long a step waits for somebody who reads a table
// that it changes: every delivery waits behind it meanwhile.
const migrationLockTimeout = "2s"

// upPatiently takes the steps, and tries again what met somebody's lock, for
// about two minutes. Each step is a transaction of its own.
func upPatiently(ctx context.Context, p *goose.Provider) (results []*goose.MigrationResult, err error) {
	const tries, pause = 30, 2 * time.Second
	for n := 1; ; n++ {
		some, err := p.Up(ctx)
		if partial, ok := errors.AsType[*goose.PartialError](err); ok {
			some = partial.Applied
		}
		results = append(results, some...)
		if blame, _ := blameFor(err); err == nil || blame != someones || n == tries {
			if err != nil {
				err = migrationError(err)
			}
			return results, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return results, migrationError(err)
		}
	}
}

// createSchema asks first: IF NOT EXISTS wants the right to create schemas
// also where there is nothing to create.
func createSchema(ctx context.Context, conn *sql.Conn, schema string) error {
	var there bool
	if err := conn.QueryRowContext(ctx, "SELECT to_regnamespace($1) IS NOT NULL", schema).Scan(&there); err != nil {
		return plain("look for schema "+schema, err)
	}
	if there {
		return nil
	}
	if _, err := conn.ExecContext(ctx, "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return plain("create schema "+schema, err)
	}
	return nil
}

// JobSchema is where the job queue, River, keeps its tables.
const JobSchema = "webhookd_jobs"

// withJobMigrations lends River's own migrator.
func withJobMigrations(ctx context.Context, url string, do func(*rivermigrate.Migrator[pgx.Tx]) error) error {
	pool, err := OpenPool(ctx, Options{URL: url}, "webhookd", 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Schema: JobSchema, Logger: slog.New(slog.DiscardHandler), // what it does is answered
	})
	if err != nil {
		return fmt.Errorf("read the job queue's migrations: %w", err)
	}
	return do(m)
}

func jobStep(version int, name string, applied time.Time) MigrationStep {
	return MigrationStep{Version: int64(version), Name: fmt.Sprintf("%s/%04d_%s", JobSchema, version, strings.ReplaceAll(name, " ", "_")), Applied: applied}
}

func migrateJobs(ctx context.Context, url string) (taken []MigrationStep, err error) {
	err = withJobMigrations(ctx, url, func(m *rivermigrate.Migrator[pgx.Tx]) error {
		result, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil)
		if err != nil {
			return migrationError(err)
		}
		for _, v := range result.Versions {
			taken = append(taken, jobStep(v.Version, v.Name, time.Now()))
		}
		return nil
	})
	return taken, err
}

// jobSteps lists the job queue's steps. When each was done its migrator does not
// tell, but its table, which has had these columns from the first step on.
func jobSteps(ctx context.Context, url string, conn *sql.Conn) (steps []MigrationStep, err error) {
	applied, err := jobStepsDone(ctx, conn)
	if err != nil {
		return nil, plain("look for the job queue's steps", err)
	}
	err = withJobMigrations(ctx, url, func(m *rivermigrate.Migrator[pgx.Tx]) error {
		for _, v := range m.AllVersions() {
			steps = append(steps, jobStep(v.Version, v.Name, applied[v.Version]))
		}
		return nil
	})
	return steps, err
}

func jobStepsDone(ctx context.Context, conn *sql.Conn) (applied map[int]time.Time, err error) {
	var there bool
	if err := conn.QueryRowContext(ctx, "SELECT to_regclass($1) IS NOT NULL", JobSchema+".river_migration").Scan(&there); err != nil || !there {
		return nil, err
	}
	rows, err := conn.QueryContext(ctx, "SELECT version, created_at FROM webhookd_jobs.river_migration")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	applied = map[int]time.Time{}
	for rows.Next() {
		var version int
		var at time.Time
		if err := rows.Scan(&version, &at); err != nil {
			return nil, err
		}
		applied[version] = at
	}
	return applied, rows.Err()
}

// MigrationStatus lists every step that this build knows: those of the job queue,
// then ours, in the order in which Migrate takes them.
func MigrationStatus(ctx context.Context, url string) (steps []MigrationStep, err error) {
	err = withMigrations(ctx, url, func(conn *sql.Conn, p *goose.Provider) (err error) {
		if steps, err = jobSteps(ctx, url, conn); err != nil {
			return err
		}
		var there bool
		if err := conn.QueryRowContext(ctx, "SELECT to_regclass($1) IS NOT NULL", versions).Scan(&there); err != nil {
			return plain("look for the schema", err)
		}
		if !there {
			for _, s := range p.ListSources() {
				steps = append(steps, MigrationStep{Version: s.Version, Name: s.Path})
			}
			return nil
		}
		status, err := p.Status(ctx)
		if err != nil {
			return migrationError(err)
		}
		for _, s := range status {
			steps = append(steps, MigrationStep{Version: s.Source.Version, Name: s.Source.Path, Applied: s.AppliedAt})
		}
		return nil
	})
	return steps, err
}

func withMigrations(ctx context.Context, url string, do func(*sql.Conn, *goose.Provider) error) (err error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	cfg.RuntimeParams["lock_timeout"] = migrationLockTimeout
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()
	store, err := database.NewStore(database.DialectPostgres, versions)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	p, err := goose.NewProvider("", db, migrations.Files, goose.WithStore(store), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return plain("connect", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return do(conn, p)
}

// migrationError keeps PostgreSQL's message: a migration holds no personal
// data, and the operator needs to know what is wrong.
func migrationError(err error) error {
	var pg *pgconn.PgError
	var partial *goose.PartialError
	hint := ""
	if errors.As(err, &pg) && pg.Code == "42501" {
		hint = ": migrations need the URL of the schema's owner (WEBHOOKD_MIGRATE_DATABASE_URL)"
	}
	switch {
	case errors.As(err, &pg) && errors.As(err, &partial):
		return fmt.Errorf("migration %s: %s (SQLSTATE %s)%s", partial.Failed.Source.Path, pg.Message, pg.Code, hint)
	case errors.As(err, &pg):
		return fmt.Errorf("migrate: %s (SQLSTATE %s)%s", pg.Message, pg.Code, hint)
	}
	return fmt.Errorf("migrate: %w", err)
}
