package repo_test

import (
	"errors"
	"maps"
	neturl "net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
)

// personal is every column that holds something about a person; of two tables
// all of them.
func personal(table, column string) bool {
	switch table {
	case "verified_outputs", "provided_details", "verified_identities":
		return true
	}
	return slices.Contains([]string{
		"verification_sessions.metadata", "verification_sessions.content_digest", "verification_sessions.last_error_reason", "status_transitions.error_reason", "status_transitions.metadata",
		"events.payload", "quarantined_events.payload",
	}, table+"."+column)
}

// as is a URL that logs in as another user.
func as(tb testing.TB, url, user string) string {
	tb.Helper()
	u, err := neturl.Parse(url)
	if err != nil {
		tb.Fatalf("URL: %v", err)
	}
	password, _ := u.User.Password()
	u.User = neturl.UserPassword(user, password)
	return u.String()
}

// login makes a user with the password of the server's own.
func login(tb testing.TB, url, user, in string) string {
	tb.Helper()
	u, err := neturl.Parse(url)
	if err != nil {
		tb.Fatalf("URL: %v", err)
	}
	password, _ := u.User.Password()
	execute(tb, url, `DROP ROLE IF EXISTS `+user)
	execute(tb, url, `CREATE ROLE `+user+` LOGIN `+in+` PASSWORD '`+password+`'`)
	return as(tb, url, user)
}

func applyRoles(tb testing.TB, url string) {
	tb.Helper()
	sql, err := os.ReadFile("../../deploy/sql/roles.sql")
	if err != nil {
		tb.Fatalf("read roles: %v", err)
	}
	execute(tb, url, string(sql))
}

func code(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

const denied = "42501"

// TestRoles is one test because roles belong to the server, not to a database.
func TestRoles(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	applyRoles(t, url) // before there is a table
	migrator := login(t, url, "test_migrator", "IN ROLE webhookd_owner")
	execute(t, url, `ALTER ROLE test_migrator SET role = 'webhookd_owner'`)
	if _, err := repo.Migrate(t.Context(), migrator); err != nil {
		t.Fatalf("migrate as the owner: %v", err)
	}
	applyRoles(t, migrator) // also the migrator may
	applyRoles(t, url)
	writer := login(t, url, "test_writer", "IN ROLE webhookd_writer")
	reader := login(t, url, "test_reader", "IN ROLE webhookd_reader")
	piiReader := login(t, url, "test_pii_reader", "IN ROLE webhookd_pii_reader")

	store := open(t, writer)
	_, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)

	t.Run("nobody logs in as a group", func(t *testing.T) {
		got := one(t, url, `SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'webhookd\_%' AND NOT rolcanlogin AND NOT rolsuper AND NOT rolcreaterole ORDER BY 1`)
		if diff := cmp.Diff([]string{"webhookd_owner", "webhookd_pii_reader", "webhookd_reader", "webhookd_writer"}, got); diff != "" {
			t.Errorf("groups (-want +got):\n%s", diff)
		}
	})

	t.Run("who migrates and is not the owner is told what to do", func(t *testing.T) {
		step := one(t, url, `DELETE FROM stripe_identity.schema_migrations WHERE version_id = (SELECT max(version_id) FROM stripe_identity.schema_migrations) RETURNING version_id::text`)
		if _, err := repo.Migrate(t.Context(), writer); err == nil || !strings.Contains(err.Error(), "WEBHOOKD_MIGRATE_DATABASE_URL") {
			t.Errorf("as the writer: %v", err)
		}
		if _, err := repo.Migrate(t.Context(), migrator); err != nil || len(step) != 1 {
			t.Errorf("as the owner, step %q: %v", step, err)
		}
	})

	t.Run("all is the owner's", func(t *testing.T) {
		if got := one(t, url, `
SELECT relname::text FROM pg_class WHERE relnamespace = 'stripe_identity'::regnamespace AND relowner <> 'webhookd_owner'::regrole`); len(got) > 0 {
			t.Errorf("not the owner's: %q", got)
		}
	})

	t.Run("each column is granted to readers or personal", func(t *testing.T) {
		for _, row := range query(t, url, `
SELECT c.relname::text, a.attname::text,
       has_column_privilege('webhookd_reader', c.oid, a.attname, 'SELECT'),
       has_column_privilege('webhookd_pii_reader', c.oid, a.attname, 'SELECT'),
       has_column_privilege('webhookd_writer', c.oid, a.attname, 'SELECT'),
       has_column_privilege('webhookd_reader', c.oid, a.attname, 'INSERT, UPDATE, REFERENCES')
       OR has_column_privilege('webhookd_pii_reader', c.oid, a.attname, 'INSERT, UPDATE, REFERENCES')
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'stripe_identity'::regnamespace AND c.relkind IN ('r', 'p', 'v')`) {
			table, column := row[0].(string), row[1].(string)
			notes := table == "pii_reads" && slices.Contains([]string{"who", "command", "session_id"}, column)
			want := []any{table, column, !personal(table, column), true, true, notes}
			if diff := cmp.Diff(want, row); diff != "" {
				t.Errorf("rights on %s.%s: reader, pii_reader and writer read, readers write (-want +got):\n%s", table, column, diff)
			}
		}
	})

	t.Run("selects do what the rights say", func(t *testing.T) {
		conns := map[string]*pgx.Conn{"reader": connect(t, reader), "pii_reader": connect(t, piiReader)}
		for role, conn := range conns {
			for _, table := range slices.Sorted(maps.Keys(mergeKeys(contractTables, contractViews))) {
				names, _ := tableColumns(t, url, table)
				for _, column := range names {
					_, err := conn.Exec(t.Context(), `SELECT `+pgx.Identifier{column}.Sanitize()+` FROM stripe_identity.`+table)
					want := ""
					if role == "reader" && personal(table, column) {
						want = denied
					}
					if got := code(err); got != want {
						t.Errorf("%s selects %s.%s: SQLSTATE %q, want %q", role, table, column, got, want)
					}
				}
			}
			for view := range contractViews {
				_, err := conn.Exec(t.Context(), `SELECT * FROM stripe_identity.`+view)
				if refused := code(err) == denied; refused != (role == "reader" && view == "verified_identities") {
					t.Errorf("%s selects all of %s: %v", role, view, err)
				}
			}
			for _, sql := range []string{
				`DELETE FROM stripe_identity.events`, `UPDATE stripe_identity.verification_sessions SET status = 'verified'`,
				`INSERT INTO stripe_identity.provided_details (session_id, told_at, told_rank) VALUES ('vs_x', now(), 0)`,
				`TRUNCATE stripe_identity.events`, `CREATE TABLE stripe_identity.mine (id int)`, `DROP VIEW stripe_identity.subject_status`,
			} {
				if _, err := conn.Exec(t.Context(), sql); code(err) != denied {
					t.Errorf("%s may %s: %v", role, sql, err)
				}
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Errorf("disconnect: %v", err)
			}
		}
	})

	t.Run("readers look at sessions by the commands", func(t *testing.T) {
		asReader, asPIIReader := open(t, reader), open(t, piiReader)
		for _, s := range []*repo.Store{asReader, asPIIReader} {
			if _, err := s.Session(t.Context(), "vs_1"); err != nil {
				t.Errorf("session: %v", err)
			}
			if _, _, err := s.Quarantine(t.Context(), 10); err != nil {
				t.Errorf("quarantine: %v", err)
			}
		}
		who := repo.Reader{Who: "test", Command: "session"}
		if v, err := asReader.SessionWithOutputs(t.Context(), "vs_1", who); v != nil || err == nil || !strings.Contains(err.Error(), denied) {
			t.Errorf("a reader sees outputs: %+v, %v", v, err)
		}
		if x, err := asReader.Export(t.Context(), "vs_1", who); x != nil || err == nil || !strings.Contains(err.Error(), denied) {
			t.Errorf("a reader exports: %+v, %v", x, err)
		}
		if _, err := asPIIReader.SessionWithOutputs(t.Context(), "vs_1", who); err != nil {
			t.Errorf("a reader of personal data sees no outputs: %v", err)
		}
		if _, err := asPIIReader.Export(t.Context(), "vs_1", who); err != nil {
			t.Errorf("a reader of personal data exports nothing: %v", err)
		}
		if n := len(one(t, url, `SELECT who FROM stripe_identity.pii_reads WHERE who = 'test'`)); n != 2 {
			t.Errorf("%d reads are recorded, want 2", n)
		}
		conn := connect(t, piiReader)
		for _, sql := range []string{
			`INSERT INTO stripe_identity.pii_reads (who, command, at) VALUES ('x', 'session', now() - interval '1 year')`,
			`UPDATE stripe_identity.pii_reads SET who = 'nobody'`, `DELETE FROM stripe_identity.pii_reads`,
		} {
			if _, err := conn.Exec(t.Context(), sql); code(err) != denied {
				t.Errorf("a reader may %s: %v", sql, err)
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Errorf("disconnect: %v", err)
		}
	})

	t.Run("a reader follows along", func(t *testing.T) {
		// Whether it sees the rows yet is for the oldest transaction of the server to say.
		_ = one(t, reader, `
SELECT t.event_type FROM stripe_identity.status_transitions t
WHERE (t.xid, t.id) > ('0', 0) AND t.xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY t.xid, t.id LIMIT 1`)
	})

	t.Run("a writer does all that the store does", func(t *testing.T) {
		s := newSession(2, "vs_2")
		e := s.Verified(at(10))
		all := [][]byte{
			edit(t, e.Body, map[string]any{"id": "evt_z"}), edit(t, e.Body, map[string]any{"id": "evt_a"}), // a twin takes over
			s.Processing(at(5)).Body, s.Thin(e).Body, edit(t, e.Body, map[string]any{"id": "evt_b", "data.object.status": 5}),
			edit(t, e.Body, map[string]any{"id": "evt_b"}), withPerson(t, s, s.Verified(at(20))), s.Redacted(at(30)).Body,
		}
		tell(t, store, all...)
		if err := store.Redact(t.Context(), "vs_1"); err != nil {
			t.Errorf("redact: %v", err)
		}
		var set []*events.Event
		for _, body := range append(bodies, all...) {
			set = append(set, read(t, body))
		}
		got := repotest.Rows(t, writer)
		if diff := cmp.Diff(repotest.Canonical(t, events.Model(set, "vs_1")).Sessions["vs_1"], got.Sessions["vs_1"]); diff != "" {
			t.Errorf("session (-model +rows):\n%s", diff)
		}
		if strings.Contains(everything(t, url), scenario.Marker) {
			t.Error("the writer could not erase everything")
		}
		tell(t, store, newSession(3, "vs_3").Thin(e).Body) // the lock made a row, which goes again
		for _, sql := range []string{
			`INSERT INTO stripe_identity.pii_reads (who, command) VALUES ('me', 'session')`,
			`INSERT INTO stripe_identity.reconcile_runs (started_at, since) VALUES (now(), now())`,
			`UPDATE stripe_identity.reconcile_runs SET finished_at = now(), result = 'ok'`,
			`UPDATE stripe_identity.events SET payload = NULL WHERE received_at < now()`,
			`UPDATE stripe_identity.quarantined_events SET payload = NULL WHERE received_at < now()`,
			`DELETE FROM stripe_identity.verified_outputs WHERE fetched_at < now()`,
			`DELETE FROM stripe_identity.status_transitions WHERE recorded_at < now()`,
			`DELETE FROM stripe_identity.quarantined_events WHERE received_at < now()`,
			`DELETE FROM stripe_identity.events WHERE received_at < now()`,
		} {
			execute(t, writer, sql)
		}
	})

	t.Run("a writer prunes and replays", func(t *testing.T) {
		e := newSession(4, "vs_4").Created(at(0))
		shelve(t, url, store, e)
		if r := replay(t, store, e.ID)[0]; r.Outcome != events.Applied {
			t.Errorf("replay: %+v", r)
		}
		age(t, url, 100*day)
		prune(t, store, repo.Retention{Payloads: day, Quarantine: day, Outputs: day, History: day})
	})

	t.Run("a writer does not rewrite the past or the schema", func(t *testing.T) {
		conn := connect(t, writer)
		for _, sql := range []string{
			`UPDATE stripe_identity.events SET type = 'x'`,
			`UPDATE stripe_identity.events SET received_at = now()`,
			`UPDATE stripe_identity.status_transitions SET status = 'verified'`,
			`UPDATE stripe_identity.status_transitions SET error_code = NULL`,
			`UPDATE stripe_identity.status_transitions SET xid = '1'`,
			`UPDATE stripe_identity.status_transitions SET session_id = 'vs_x'`,
			`UPDATE stripe_identity.quarantined_events SET reason = 'x'`,
			`UPDATE stripe_identity.pii_reads SET who = 'nobody'`,
			`DELETE FROM stripe_identity.pii_reads`,
			`DELETE FROM stripe_identity.schema_migrations`,
			`INSERT INTO stripe_identity.schema_migrations (version_id, is_applied) VALUES (99, true)`,
			`TRUNCATE stripe_identity.events`,
			`ALTER TABLE stripe_identity.events ADD COLUMN mine int`,
			`DROP TABLE stripe_identity.events`,
			`CREATE INDEX mine ON stripe_identity.events (type)`,
			`CREATE TABLE stripe_identity.mine (id int)`,
		} {
			if _, err := conn.Exec(t.Context(), sql); code(err) != denied {
				t.Errorf("a writer may %s: %v", sql, err)
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Errorf("disconnect: %v", err)
		}
	})

	t.Run("a new table can be written at once and is read by nobody", func(t *testing.T) {
		execute(t, migrator, `CREATE TABLE stripe_identity.tomorrow (id bigserial PRIMARY KEY, secret text)`)
		execute(t, writer, `INSERT INTO stripe_identity.tomorrow (secret) VALUES ('x')`)
		for _, role := range []string{reader, piiReader} {
			conn := connect(t, role)
			if _, err := conn.Exec(t.Context(), `SELECT secret FROM stripe_identity.tomorrow`); code(err) != denied {
				t.Errorf("a reader may read a table that is not judged yet: %v", err)
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Errorf("disconnect: %v", err)
			}
		}
		execute(t, migrator, `ALTER TABLE stripe_identity.events ADD COLUMN tomorrow text`)
		applyRoles(t, migrator)
		got := query(t, url, `
SELECT has_column_privilege('webhookd_reader', 'stripe_identity.events', 'tomorrow', 'SELECT'),
       has_any_column_privilege('webhookd_reader', 'stripe_identity.tomorrow', 'SELECT')`)
		if diff := cmp.Diff([][]any{{false, false}}, got); diff != "" {
			t.Errorf("a reader reads what nobody has judged (-want +got):\n%s", diff)
		}
	})

	t.Run("tables that somebody else made are taken over, also by no superuser", func(t *testing.T) {
		url := pgtest.Database(t)
		applyRoles(t, url)
		if got := one(t, url, `SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'stripe_identity'::regnamespace`); !cmp.Equal(got, []string{"webhookd_owner"}) {
			t.Errorf("owners %q", got)
		}
		fresh := pgtest.Empty(t)
		admin := login(t, fresh, "test_admin", "CREATEROLE IN ROLE webhookd_owner")
		execute(t, fresh, `DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO test_admin', current_database()); END $$`)
		if _, err := repo.Migrate(t.Context(), admin); err != nil {
			t.Fatalf("migrate as an administrator: %v", err)
		}
		applyRoles(t, admin)
		tell(t, open(t, as(t, fresh, "test_writer")), newSession(1, "vs_1").Created(at(0)).Body)
	})
}

func mergeKeys(all ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, m := range all {
		maps.Copy(merged, m)
	}
	return merged
}
