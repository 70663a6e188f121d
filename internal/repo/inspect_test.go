package repo_test

import (
	"encoding/binary"
	"io"
	"net"
	neturl "net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/migrations"
)

func parsed(tb testing.TB, url string) *neturl.URL {
	tb.Helper()
	u, err := neturl.Parse(url)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func inspect(tb testing.TB, url string, now func() time.Time) repo.Server {
	tb.Helper()
	s, err := open(tb, url).Inspect(tb.Context(), now)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestAServerTellsItsSettings(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	name := strings.TrimPrefix(parsed(t, url).Path, "/")
	execute(t, url, `ALTER DATABASE `+name+` CONNECTION LIMIT 30`)
	want := repo.Server{
		Version: pgtest.Server(t).Version(), Database: name, SynchronousCommit: "on",
		QueryMode: "cache_statement", PoolSize: 9, Most: 30, Free: 29,
	}
	got := inspect(t, url+"&pool_max_conns=9", time.Now)
	if major, _, _ := strings.Cut(want.Version, "."); strconv.Itoa(got.Number/10000) != major {
		t.Errorf("number %d, version %s", got.Number, want.Version)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(repo.Server{}, "Number")); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}

	for _, set := range []string{"synchronous_commit = remote_write", "default_transaction_read_only = on"} {
		execute(t, url, `ALTER DATABASE `+name+` SET `+set)
	}
	got = inspect(t, url+"&default_query_exec_mode=cache_describe", time.Now)
	if !got.ReadOnly || got.SynchronousCommit != "remote_write" || got.QueryMode != "cache_describe" {
		t.Errorf("server %+v", got)
	}
}

func TestTheServersClockIsComparedWithOurs(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	for _, ours := range []time.Duration{-time.Hour, 0, time.Hour} {
		got := inspect(t, url, func() time.Time { return time.Now().Add(ours) }).Clock
		if near := (got + ours).Abs() < time.Minute; !near || ours == 0 && got != 0 {
			t.Errorf("ours is off by %s: the server's is ahead by %s", ours, got)
		}
	}
}

func TestAPoolerIsNoticed(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	through := parsed(t, url)
	through.Host = pooler(t, through.Host)
	if s := inspect(t, through.String(), time.Now); !s.Pooled {
		t.Errorf("through a pooler: %+v", s)
	}
	if s := inspect(t, url, time.Now); s.Pooled {
		t.Errorf("without one: %+v", s)
	}
}

// pooler passes everything on, and gives connections keys of its own, as poolers do.
func pooler(tb testing.TB, server string) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go pool(client, server)
		}
	}()
	return l.Addr().String()
}

func pool(client net.Conn, addr string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() { _, _ = io.Copy(server, client) }()
	for head := make([]byte, 5); ; {
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return
		}
		if head[0] == 'K' { // BackendKeyData: a process id, and a secret
			body[3]++
		}
		if _, err := client.Write(slices.Concat(head, body)); err != nil {
			return
		}
	}
}

func TestASchemaIsToldApart(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	newest := migrations.Version()
	if v, err := open(t, url).Schema(t.Context()); v != newest || err != nil {
		t.Errorf("version %d, error %v", v, err)
	}
	execute(t, url, `INSERT INTO stripe_identity.schema_migrations (version_id, is_applied) VALUES (9999, true)`)
	if v, err := open(t, url).Schema(t.Context()); v != 9999 || err != nil {
		t.Errorf("of a newer build: version %d, error %v", v, err)
	}
	execute(t, url, `DELETE FROM stripe_identity.schema_migrations WHERE version_id >= $1`, newest)
	if v, err := open(t, url).Schema(t.Context()); v != newest-1 || err == nil || !strings.Contains(err.Error(), "migrate up") {
		t.Errorf("behind: version %d, error %v", v, err)
	}
	if v, err := open(t, pgtest.Empty(t)).Schema(t.Context()); v != 0 || err == nil {
		t.Errorf("without one: version %d, error %v", v, err)
	}
}

func TestMissingRightsAreNamed(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	missing := func(url string) []string {
		t.Helper()
		names, err := open(t, url).MissingRights(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got := missing(url); len(got) > 0 {
		t.Errorf("the owner misses %q", got)
	}
	stranger := login(t, url, "test_inspect_stranger", "")
	got := missing(stranger)
	for _, want := range []string{"USAGE on schema stripe_identity", "INSERT on stripe_identity.events", "DELETE on stripe_identity.verified_outputs", "SELECT on stripe_identity.schema_migrations"} {
		if !slices.Contains(got, want) {
			t.Errorf("without %q: %q", want, got)
		}
	}

	// What roles.sql gives to the writer is enough, and each thing taken away is told.
	execute(t, url, `
GRANT USAGE ON SCHEMA stripe_identity TO test_inspect_stranger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stripe_identity TO test_inspect_stranger;
REVOKE INSERT, UPDATE, DELETE ON stripe_identity.schema_migrations FROM test_inspect_stranger;
REVOKE UPDATE, DELETE ON stripe_identity.pii_reads FROM test_inspect_stranger;
REVOKE UPDATE ON stripe_identity.events, stripe_identity.status_transitions FROM test_inspect_stranger;
GRANT UPDATE (payload) ON stripe_identity.events TO test_inspect_stranger;
CREATE SCHEMA IF NOT EXISTS `+repo.JobSchema+`;
CREATE TABLE `+repo.JobSchema+`.test_jobs (id bigserial);
CREATE TABLE public.others (id bigserial);
GRANT USAGE ON SCHEMA `+repo.JobSchema+` TO test_inspect_stranger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA `+repo.JobSchema+` TO test_inspect_stranger;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA `+repo.JobSchema+` TO test_inspect_stranger;
REVOKE USAGE ON SEQUENCE `+repo.JobSchema+`.test_jobs_id_seq FROM test_inspect_stranger;
REVOKE DELETE ON `+repo.JobSchema+`.test_jobs FROM test_inspect_stranger`)
	want := []string{
		"DELETE on " + repo.JobSchema + ".test_jobs",
		"UPDATE on stripe_identity.status_transitions",
		"USAGE on " + repo.JobSchema + ".test_jobs_id_seq",
	}
	if diff := cmp.Diff(want, missing(stranger)); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}

func TestSecretsSeenAreCountedByName(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	now := time.Now().UTC().Truncate(time.Second)
	for i, e := range []struct {
		name, source any
		ago          time.Duration
	}{
		{"main", "webhook", time.Minute}, {"main", "webhook", time.Hour}, {"main", "webhook", 8 * 24 * time.Hour},
		{"old", "webhook", 8 * 24 * time.Hour}, {"other", "webhook", time.Hour}, {nil, "reconcile", time.Minute}, {nil, "webhook", time.Minute},
	} {
		execute(t, url, `INSERT INTO stripe_identity.events (event_id, type, session_id, created_at, received_at, source, secret_name)
VALUES ('evt_' || $1::int, 'identity.verification_session.created', 'vs_1', $2, $2, $3, $4)`, i, now.Add(-e.ago), e.source, e.name)
	}
	got, err := open(t, url).SecretsSeen(t.Context(), now.Add(-7*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want := []repo.SecretUse{{"main", 2, now.Add(-time.Minute)}, {"other", 1, now.Add(-time.Hour)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
}

// Of outputs only the live ones count, for the other mode has no key, and not
// those that were given up.
func TestABacklogIsCountedByKind(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url, func(o *repo.Options) { o.Asks = func(live bool) bool { return live } })
	backlog := func() repo.Backlog {
		t.Helper()
		b, err := store.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if diff := cmp.Diff(repo.Backlog{}, backlog()); diff != "" {
		t.Errorf("of an empty database (-want +got):\n%s", diff)
	}
	execute(t, url, `
INSERT INTO stripe_identity.quarantined_events (event_id, type, received_at, reason, source, resolved_at) VALUES
    ('evt_1', 'x', '2026-01-01Z', 'r', 'webhook', null), ('evt_2', 'x', '2026-01-02Z', 'r', 'webhook', null), ('evt_3', 'x', '2025-01-01Z', 'r', 'webhook', now());
INSERT INTO stripe_identity.verification_sessions (id, livemode, needs_refresh, outputs_wanted_since, updated_at) VALUES
    ('vs_1', false, true, null, '2026-01-03Z'), ('vs_2', true, false, '2026-01-04Z', now()), ('vs_3', true, false, '2026-01-05Z', now()),
    ('vs_4', true, false, null, '2025-01-01Z'), ('vs_5', false, false, '2026-01-01Z', now()), ('vs_6', null, false, '2026-01-01Z', now()),
    ('vs_7', true, false, '2026-01-01Z', now());
INSERT INTO stripe_identity.wishes (session_id, due_at) VALUES ('vs_7', 'infinity'), ('vs_2', now());
INSERT INTO stripe_identity.events (event_id, type, session_id, created_at, received_at, source, resolved_at) VALUES
    ('evt_4', 'v1.identity.verification_session.created', 'vs_1', now(), '2026-01-06Z', 'webhook', null),
    ('evt_5', 'v1.identity.verification_session.created', 'vs_1', now(), '2025-01-06Z', 'webhook', now()),
    ('evt_6', 'identity.verification_session.created', 'vs_1', now(), '2025-01-06Z', 'webhook', null);
INSERT INTO stripe_identity.reconcile_runs (started_at, since, finished_at, result) VALUES
    ('2026-01-07Z', '2026-01-07Z', '2026-01-08Z', 'ok'), ('2026-01-06Z', '2026-01-06Z', '2026-01-07Z', 'ok'),
    ('2026-01-09Z', '2026-01-09Z', '2026-01-10Z', 'partial'), ('2026-01-11Z', '2026-01-11Z', null, null)`)
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	want := repo.Backlog{
		Quarantined: repo.Waiting{Count: 2, Since: day(1)}, Refresh: repo.Waiting{Count: 1, Since: day(3)},
		Outputs: repo.Waiting{Count: 2, Since: day(4)}, Thin: repo.Waiting{Count: 1, Since: day(6)},
		Reconciled: day(8), LastRun: "partial",
	}
	if diff := cmp.Diff(want, backlog()); diff != "" {
		t.Errorf("backlog (-want +got):\n%s", diff)
	}
}

func TestWhatIsToldOfAServerNamesNeitherAddressNorUser(t *testing.T) {
	t.Parallel()
	s := open(t, "postgres://canary:canary@127.0.0.1:1/canary?sslmode=disable")
	_, err1 := s.Inspect(t.Context(), time.Now)
	_, err2 := s.Schema(t.Context())
	_, err3 := s.MissingRights(t.Context())
	_, err4 := s.SecretsSeen(t.Context(), time.Now())
	_, err5 := s.Backlog(t.Context())
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("error %v", err)
		}
	}
}
