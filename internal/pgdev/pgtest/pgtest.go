// Package pgtest gives every test a PostgreSQL database of its own.
//
// A test binary has one server, started by the first test that asks and fast
// because it does not care for the machine's death, and one migrated template,
// of which each test gets a clone. No test shares rows with another, so all of
// them may run in parallel. A test that finds no PostgreSQL fails; it never
// skips. A test that breaks its server starts one with pgdev.Start instead.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, migrate)) }
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev"
)

const template = "webhookd_template"

// patience is how long any one thing may take on a busy machine.
const patience = 2 * time.Minute

// shared is the one server of this test binary: between Main and a test stands
// the testing package, which passes nothing on.
var shared struct {
	prepare  func(ctx context.Context, databaseURL string) error
	start    sync.Once
	server   *pgdev.Server
	err      error
	template sync.Once
	prepared error
	count    atomic.Int64
}

// Main runs the tests, ends the server, and returns the exit code. prepare
// brings an empty database to the present schema and leaves no connection open.
// A nil prepare leaves Database as empty as Empty.
func Main(m *testing.M, prepare func(ctx context.Context, databaseURL string) error) int {
	shared.prepare = prepare
	code := m.Run()
	if shared.server == nil {
		return code
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := shared.server.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Server is the server that the tests of this binary share.
func Server(tb testing.TB) *pgdev.Server {
	tb.Helper()
	shared.start.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		shared.server, shared.err = pgdev.Start(ctx, pgdev.Options{Ephemeral: true, Log: os.Stderr})
	})
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server
}

// Database returns the URL of a migrated database that only this test has. It
// is dropped, connections and all, when the test ends.
func Database(tb testing.TB) string {
	tb.Helper()
	server := Server(tb)
	shared.template.Do(func() { shared.prepared = makeTemplate(server) })
	if shared.prepared != nil {
		tb.Fatal(shared.prepared)
	}
	return create(tb, server, template)
}

// Empty returns the URL of a database without a schema that only this test has.
func Empty(tb testing.TB) string {
	tb.Helper()
	return create(tb, Server(tb), "template1")
}

func makeTemplate(server *pgdev.Server) error {
	if err := execute(server, "CREATE DATABASE "+template); err != nil {
		return fmt.Errorf("create the template database: %w", err)
	}
	if shared.prepare != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := shared.prepare(ctx, server.URL(template)); err != nil {
			return fmt.Errorf("prepare the template database: %w", err)
		}
	}
	// A database that somebody is connected to cannot be cloned.
	if err := execute(server, "ALTER DATABASE "+template+" ALLOW_CONNECTIONS false"); err != nil {
		return fmt.Errorf("close the template database: %w", err)
	}
	return nil
}

func create(tb testing.TB, server *pgdev.Server, from string) string {
	tb.Helper()
	// Without fsync copying files is several times faster than logging pages.
	name := fmt.Sprintf("test_%d", shared.count.Add(1))
	if err := execute(server, "CREATE DATABASE "+name+" TEMPLATE "+from+" STRATEGY file_copy"); err != nil {
		tb.Fatalf("create a database: %v", err)
	}
	tb.Cleanup(func() {
		if err := execute(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop the test's database: %v", err)
		}
	})
	return server.URL(name)
}

// execute runs a statement that must be the only one of its transaction.
func execute(server *pgdev.Server, statement string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}
