package repo_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
)

var jenny = repo.Reader{Who: "jenny@support", Command: "session"}

func asJSON(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatalf("encode: %v", err)
	}
	return string(b)
}

// reads are all rows of pii_reads.
func reads(tb testing.TB, url string) []string {
	tb.Helper()
	return one(tb, url, `SELECT concat_ws('|', who, command, session_id) FROM stripe_identity.pii_reads WHERE at > now() - interval '1 hour' ORDER BY id`)
}

func TestASessionIsShownWithoutAnythingPersonal(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	v, err := store.Session(t.Context(), "vs_1")
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if got := asJSON(t, v); strings.Contains(got, scenario.Marker) || !strings.Contains(got, `"status":"verified"`) {
		t.Errorf("session: %s", got)
	}
	if v.Personal != nil || v.Quarantined != 1 || *v.State.ClientReferenceID != "user-vs_1" {
		t.Errorf("session: %+v, state %+v", v, v.State)
	}
	type step struct {
		event, code string
		after       float64
	}
	var got []step
	for _, s := range v.Timeline {
		n := step{event: s.EventType}
		if s.ErrorCode != nil {
			n.code = *s.ErrorCode
		}
		if s.SecondsInPreviousStatus != nil {
			n.after = *s.SecondsInPreviousStatus
		}
		got = append(got, n)
	}
	want := []step{
		{"identity.verification_session.created", "document_expired", 0},
		{"identity.verification_session.requires_input", "document_expired", 10},
		{"identity.verification_session.verified", "document_expired", 20},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
	if got := reads(t, url); len(got) > 0 {
		t.Errorf("recorded as personal: %q", got)
	}
}

func TestWhoSeesPersonalDataIsRecorded(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	v, err := store.SessionWithOutputs(t.Context(), "vs_1", jenny)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	p := v.Personal
	for name, part := range map[string]string{
		"outputs": string(p.VerifiedOutputs), "details": string(p.ProvidedDetails), "metadata": string(p.Metadata),
		"reason": *p.LastErrorReason, "steps": asJSON(t, p.Steps),
	} {
		if !strings.Contains(part, scenario.Marker) {
			t.Errorf("%s: %s", name, part)
		}
	}
	if _, err := store.Export(t.Context(), "vs_1", repo.Reader{Who: "jenny@privacy", Command: "export"}); err != nil {
		t.Fatalf("export: %v", err)
	}
	if diff := cmp.Diff([]string{"jenny@support|session|vs_1", "jenny@privacy|export|vs_1"}, reads(t, url)); diff != "" {
		t.Errorf("pii_reads (-want +got):\n%s", diff)
	}
}

func TestWhatCannotBeRecordedIsNotRead(t *testing.T) {
	t.Parallel()
	for name, obstacle := range map[string]string{
		"a trigger refuses":      `CREATE TRIGGER no BEFORE INSERT ON stripe_identity.pii_reads FOR EACH ROW EXECUTE FUNCTION no()`,
		"the commit fails":       `CREATE CONSTRAINT TRIGGER no AFTER INSERT ON stripe_identity.pii_reads DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()`,
		"the table is not there": `DROP TABLE stripe_identity.pii_reads`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url)
			_, bodies := fullLife(t, 1, "vs_1")
			tell(t, store, bodies...)
			execute(t, url, `CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$`)
			execute(t, url, obstacle)
			if v, err := store.SessionWithOutputs(t.Context(), "vs_1", jenny); v != nil || err == nil || strings.Contains(err.Error(), scenario.Marker) {
				t.Errorf("session: %+v, %v", v, err)
			}
			if x, err := store.Export(t.Context(), "vs_1", jenny); x != nil || err == nil || strings.Contains(err.Error(), scenario.Marker) {
				t.Errorf("export: %+v, %v", x, err)
			}
		})
	}
}

func TestAnUnknownSessionIsSaidToBeUnknownAndNotRecorded(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	for what, read := range map[string]func() error{
		"session":  func() error { _, err := store.Session(t.Context(), "vs_2"); return err },
		"personal": func() error { _, err := store.SessionWithOutputs(t.Context(), "vs_2", jenny); return err },
		"export":   func() error { _, err := store.Export(t.Context(), "vs_2", jenny); return err },
	} {
		if err := read(); !errors.Is(err, repo.ErrUnknownSession) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := reads(t, url); len(got) > 0 {
		t.Errorf("recorded: %q", got)
	}
}

func TestASessionOfWhichNothingWasUnderstoodIsKnown(t *testing.T) {
	t.Parallel()
	store := open(t, pgtest.Database(t))
	broken, thin := newSession(1, "vs_broken"), newSession(2, "vs_thin")
	tell(t, store, edit(t, broken.Created(at(0)).Body, map[string]any{"data.object.status": 5}), thin.Thin(thin.Created(at(0))).Body)
	if err := store.Redact(t.Context(), "vs_tombstone"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	for id, want := range map[string]repo.SessionView{
		"vs_broken": {Quarantined: 1}, "vs_thin": {ThinPending: 1}, "vs_tombstone": {},
	} {
		v, err := store.SessionWithOutputs(t.Context(), id, jenny)
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		if v.Quarantined != want.Quarantined || v.ThinPending != want.ThinPending || len(v.Timeline) > 0 || (v.State != nil) != (id == "vs_tombstone") {
			t.Errorf("%s: %+v", id, v)
		}
		if _, err := store.Export(t.Context(), id, jenny); err != nil {
			t.Errorf("export %s: %v", id, err)
		}
	}
}

func TestWhatIsNotShownInTheViewsIsNotShownToAnybody(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	for what, sql := range map[string]string{
		"hidden":      `UPDATE stripe_identity.verification_sessions SET hidden = $1`,
		"unconfirmed": `WITH d AS (UPDATE stripe_identity.provided_details SET unconfirmed = $1) UPDATE stripe_identity.verified_outputs SET unconfirmed = $1`,
	} {
		execute(t, url, sql, true)
		v, err := store.SessionWithOutputs(t.Context(), "vs_1", jenny)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if p := v.Personal; p.Withheld != what || len(p.VerifiedOutputs) > 0 || len(p.ProvidedDetails) > 0 {
			t.Errorf("%s: %+v", what, p)
		}
		execute(t, url, sql, false)
	}
}

// TestAnExportHasEverything looks for the session's rows in every table that
// there is, and for each of their columns.
func TestAnExportHasEverything(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, append(bodies, s.Thin(s.Verified(at(40))).Body)...)
	if err := store.Tell(t.Context(), answered(t, s, at(50))); err != nil {
		t.Fatalf("tell: %v", err)
	}
	execute(t, url, `INSERT INTO stripe_identity.wishes (session_id) VALUES ('vs_1') ON CONFLICT DO NOTHING`)
	_, others := fullLife(t, 2, "vs_2")
	tell(t, store, others...)
	if _, err := store.SessionWithOutputs(t.Context(), "vs_1", jenny); err != nil {
		t.Fatalf("read: %v", err)
	}
	x, err := store.Export(t.Context(), "vs_1", repo.Reader{Who: "jenny", Command: "export"})
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(asJSON(t, x)), &doc); err != nil {
		t.Fatalf("decode: %v", err)
	}
	for _, table := range one(t, url, `
SELECT DISTINCT table_name::text FROM information_schema.columns c
WHERE table_schema = 'stripe_identity' AND (column_name = 'session_id' OR table_name = 'verification_sessions')
  AND EXISTS (SELECT FROM information_schema.tables t WHERE (t.table_schema, t.table_name) = (c.table_schema, c.table_name) AND table_type = 'BASE TABLE')`) {
		rows, _ := doc[table].([]any)
		id := "session_id"
		if table == "verification_sessions" {
			id = "id"
		}
		want := one(t, url, `SELECT 'x' FROM stripe_identity.`+table+` WHERE `+id+` = 'vs_1'`)
		if len(rows) != len(want) || len(want) == 0 {
			t.Errorf("%s: %d rows, want %d", table, len(rows), len(want))
			continue
		}
		var got []string
		for column := range rows[0].(map[string]any) {
			got = append(got, column)
		}
		columns, _ := tableColumns(t, url, table)
		slices.Sort(columns)
		slices.Sort(got)
		if diff := cmp.Diff(columns, got); diff != "" {
			t.Errorf("columns of %s (-table +export):\n%s", table, diff)
		}
	}
	if text := asJSON(t, x); strings.Contains(text, "vs_2") || strings.Count(text, scenario.Marker) < 20 {
		t.Errorf("export: %s", text)
	}
}
