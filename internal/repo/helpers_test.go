package repo_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
)

// at is a time on the day on which the stories of these tests happen.
func at(seconds int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}

// read parses a body as the receiver does.
func read(tb testing.TB, body []byte) *events.Event {
	tb.Helper()
	e, err := events.Parse(body)
	if err != nil {
		tb.Fatalf("parse %.200q: %v", body, err)
	}
	e.ReceivedAt = time.Now()
	return e
}

// tell delivers bodies one after the other.
func tell(tb testing.TB, s *repo.Store, bodies ...[]byte) []events.Outcome {
	tb.Helper()
	var outcomes []events.Outcome
	for _, body := range bodies {
		outcome, err := s.Record(tb.Context(), read(tb, body))
		if err != nil {
			tb.Fatalf("record: %v", err)
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes
}

// tellAtOnce delivers bodies all at the same time, and waits.
func tellAtOnce(tb testing.TB, s *repo.Store, bodies ...[]byte) {
	tb.Helper()
	var wg sync.WaitGroup
	for _, body := range bodies {
		e := read(tb, body)
		wg.Go(func() {
			if _, err := s.Record(tb.Context(), e); err != nil {
				tb.Errorf("record: %v", err)
			}
		})
	}
	wg.Wait()
}

// edit changes a body; a path of "data.object.status" names a field.
func edit(tb testing.TB, body []byte, fields map[string]any) []byte {
	tb.Helper()
	var doc map[string]any
	if err := json.Unmarshal(body, &doc); err != nil {
		tb.Fatalf("decode body: %v", err)
	}
	for path, value := range fields {
		at, names := doc, strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			if _, ok := at[name].(map[string]any); !ok {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		at[names[len(names)-1]] = value
	}
	changed, err := json.Marshal(doc)
	if err != nil {
		tb.Fatalf("encode body: %v", err)
	}
	return changed
}

func newSession(seed uint64, id string) *scenario.Session {
	return scenario.New(seed).Session(scenario.SessionOptions{ID: id, Livemode: true, CreatedAt: at(0), ClientReferenceID: "user-" + id})
}

// query returns all rows of a query on a connection of its own.
func query(tb testing.TB, url, sql string, args ...any) [][]any {
	tb.Helper()
	conn := connect(tb, url)
	defer func() {
		if err := conn.Close(tb.Context()); err != nil {
			tb.Errorf("disconnect: %v", err)
		}
	}()
	return rowsOf(tb, conn, sql, args...)
}

func rowsOf(tb testing.TB, conn *pgx.Conn, sql string, args ...any) [][]any {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), sql, args...)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) ([]any, error) { return r.Values() })
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return all
}

// one is the only column of a query's rows, as strings; null is "".
func one(tb testing.TB, url, sql string, args ...any) []string {
	tb.Helper()
	all := []string{}
	for _, row := range query(tb, url, sql, args...) {
		s, _ := row[0].(string)
		all = append(all, s)
	}
	return all
}
