package pgtest_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"webhookd/internal/pgdev/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, prepare)) }

func prepare(ctx context.Context, databaseURL string) (err error) {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, `CREATE TABLE words AS SELECT 'from the template' AS word`)
	return err
}

func connect(tb testing.TB, databaseURL string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	return conn // left open: dropping the database must cope
}

func words(tb testing.TB, conn *pgx.Conn) []string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), `SELECT word FROM words`)
	if err != nil {
		tb.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestEachTestHasItsOwnMigratedDatabase(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"first", "second", "third", "fourth"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.Database(t))
			if _, err := conn.Exec(t.Context(), `INSERT INTO words VALUES ($1)`, name); err != nil {
				t.Fatal(err)
			}
			want := []string{"from the template", name}
			if diff := cmp.Diff(want, words(t, conn)); diff != "" {
				t.Errorf("words (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEmptyDatabaseHasNoSchema(t *testing.T) {
	t.Parallel()
	_, err := connect(t, pgtest.Empty(t)).Exec(t.Context(), `SELECT FROM words`)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42P01" {
		t.Errorf("read the template's table: %v, want 42P01", err)
	}
}

func TestDatabaseIsDroppedWithItsConnections(t *testing.T) {
	t.Parallel()
	var databaseURL string
	t.Run("a test", func(t *testing.T) {
		databaseURL = pgtest.Database(t)
		connect(t, databaseURL)
	})
	_, err := pgx.Connect(t.Context(), databaseURL)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "3D000" {
		t.Errorf("connect after the test: %v, want 3D000", err)
	}
}
