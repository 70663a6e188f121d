package repo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

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
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
			return plain("wait for the migration lock", err)
		}
		defer func() {
			// Without it the lock would go with the connection, a moment later.
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrationLock))
		}()
		if err := createSchema(ctx, conn); err != nil {
			return err
		}
		results, err := p.Up(ctx)
		if err != nil {
			return migrationError(err)
		}
		for _, r := range results {
			taken = append(taken, MigrationStep{Version: r.Source.Version, Name: r.Source.Path, Applied: time.Now()})
		}
		return nil
	})
	return taken, err
}

// createSchema asks first: IF NOT EXISTS wants the right to create schemas
// also where there is nothing to create.
func createSchema(ctx context.Context, conn *sql.Conn) error {
	var there bool
	if err := conn.QueryRowContext(ctx, "SELECT to_regnamespace('stripe_identity') IS NOT NULL").Scan(&there); err != nil {
		return plain("look for schema stripe_identity", err)
	}
	if there {
		return nil
	}
	if _, err := conn.ExecContext(ctx, "CREATE SCHEMA stripe_identity"); err != nil {
		return plain("create schema stripe_identity", err)
	}
	return nil
}

// MigrationStatus lists every step that this build knows.
func MigrationStatus(ctx context.Context, url string) (steps []MigrationStep, err error) {
	err = withMigrations(ctx, url, func(conn *sql.Conn, p *goose.Provider) error {
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
	switch {
	case errors.As(err, &pg) && errors.As(err, &partial):
		return fmt.Errorf("migration %s: %s (SQLSTATE %s)", partial.Failed.Source.Path, pg.Message, pg.Code)
	case errors.As(err, &pg):
		return fmt.Errorf("migrate: %s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	return fmt.Errorf("migrate: %w", err)
}
