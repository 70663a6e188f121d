package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
)

// The dashboard of PostgreSQL logs in as a reader, who sees nothing personal:
// every query must work for this role, and show what happened.
func TestTheDashboardOfPostgresReadsAsTheReader(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := begin(t, database).ready()
	session := scenario.New(11).Session(scenario.SessionOptions{Livemode: true, ClientReferenceID: "user-o'neill"})
	now := time.Now()
	s.take(session.Created(now.Add(-3*time.Minute)), session.Processing(now.Add(-2*time.Minute)), session.RequiresInput(now.Add(-time.Minute), "document_expired"))
	s.take(renamed(session.Processing(now), "identity.verification_session.of_tomorrow")) // also opens the session's state

	conn := connect(t, database)
	roles, err := os.ReadFile(filepath.Join(repository, "deploy/sql/roles.sql"))
	if err != nil {
		t.Fatal(err)
	}
	execute(t, conn, string(roles))
	execute(t, conn, "INSERT INTO stripe_identity.reconcile_runs (started_at, since, result) VALUES (now(), now(), 'ok')")
	execute(t, conn, "SET ROLE webhookd_reader")

	text, err := os.ReadFile(filepath.Join(repository, "deploy/grafana/postgres.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Templating struct {
			List []struct {
				Name, Type, AllValue string
				Query                any
			}
		}
		Panels []struct {
			Title   string
			Targets []struct{ RawSQL string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	all := "" // what Grafana puts in for All, as it is
	for _, v := range d.Templating.List {
		if v.Name == "code" {
			all = v.AllValue
		}
		if v.Type == "query" {
			queries["variable "+v.Name] = v.Query.(string)
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			queries[p.Title] = target.RawSQL
		}
	}
	if len(queries) != 9 {
		t.Errorf("%d queries, want 9", len(queries))
	}
	timeFilter := regexp.MustCompile(`\$__timeFilter\(([\w.]+)\)`)
	variables := strings.NewReplacer("$livemode", "true", "${code:sqlstring}", all,
		"${session:sqlstring}", "'"+session.ID+"'", "${reference:sqlstring}", "'user-o''neill'")
	for title, sql := range queries {
		sql = timeFilter.ReplaceAllString(variables.Replace(sql), "$1 BETWEEN now() - interval '2 hours' AND now()")
		if strings.Contains(sql, "$") {
			t.Errorf("%s: a variable is left: %s", title, sql)
		}
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatalf("%s: %v", title, err)
		}
		all, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil {
			t.Errorf("%s: %v", title, err)
		}
		want := 1
		if title == "Timeline of one session" {
			want = 3
		}
		if len(all) != want {
			t.Errorf("%s shows %d rows, want %d: %v", title, len(all), want, all)
		}
	}
}
