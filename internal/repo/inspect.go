package repo

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is what a PostgreSQL server says of itself to the store's role.
type Server struct {
	Version  string // as 15.18
	Number   int    // as 150018
	Database string // its name

	Standby           bool // in recovery: nothing can be written
	ReadOnly          bool // default_transaction_read_only
	Fsync             bool
	FullPageWrites    bool
	SynchronousCommit string
	Clock             time.Duration // how far it is ahead of ours; 0 within a round trip
	NotifyQueue       float64       // the part of the queue of notifications that is used

	Pooled    bool   // something between answers in PostgreSQL's name
	QueryMode string // default_query_exec_mode of the URL, as it is written there

	PoolSize int // the most connections that one replica opens
	Most     int // connections that the server, the database and the role allow
	Free     int // of these
}

// Inspect asks the server for what a diagnosis needs. now is our clock.
func (s *Store) Inspect(ctx context.Context, now func() time.Time) (Server, error) {
	cfg := s.pool.Config()
	f := Server{
		QueryMode: strings.ReplaceAll(cfg.ConnConfig.DefaultQueryExecMode.String(), " ", "_"),
	}
	for _, pool := range s.pools() {
		f.PoolSize += int(pool.Config().MaxConns)
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return Server{}, plain("inspect the server", err)
	}
	defer conn.Release()

	// One round trip and no prepared statement: a pooler of any kind lets it pass.
	var backend uint32
	var theirs time.Time
	asked := now()
	err = conn.QueryRow(ctx, `
WITH limits AS (
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0) AS most,
           (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database)::int AS used
    UNION ALL
    SELECT d.datconnlimit, s.numbackends
    FROM pg_catalog.pg_database d
    JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid
    WHERE d.datname = current_database() AND d.datconnlimit >= 0
    UNION ALL
    SELECT r.rolconnlimit, (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = r.oid)::int
    FROM pg_catalog.pg_roles r
    WHERE r.rolname = session_user AND r.rolconnlimit >= 0
)
SELECT current_setting('server_version'), current_setting('server_version_num')::int, current_database()::text,
       pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean,
       current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean,
       current_setting('synchronous_commit'), pg_notification_queue_usage(), pg_backend_pid(), clock_timestamp(),
       (SELECT min(most) FROM limits), (SELECT min(most - used) FROM limits)`, pgx.QueryExecModeExec).
		Scan(&f.Version, &f.Number, &f.Database, &f.Standby, &f.ReadOnly, &f.Fsync, &f.FullPageWrites,
			&f.SynchronousCommit, &f.NotifyQueue, &backend, &theirs, &f.Most, &f.Free)
	answered := now()
	if err != nil {
		return Server{}, plain("inspect the server", err)
	}
	f.Version, _, _ = strings.Cut(f.Version, " ") // what follows is the packager's
	f.Pooled = backend != conn.Conn().PgConn().PID()
	switch {
	case theirs.After(answered):
		f.Clock = theirs.Sub(answered)
	case theirs.Before(asked):
		f.Clock = theirs.Sub(asked)
	}
	return f, nil
}

// Schema is the version of the schema; the error says if this build needs a
// newer one, or why it cannot be told.
func (s *Store) Schema(ctx context.Context) (int64, error) {
	h, _ := s.check(ctx)
	if h.Ready { // that it is read-only is another question
		return h.Schema, nil
	}
	return h.Schema, h.Err
}

// MissingRights lists what webhookd_writer of deploy/sql/roles.sql may and the
// store's role may not, as "INSERT on stripe_identity.events"; also in the job
// queue's schema, once that is there.
func (s *Store) MissingRights(ctx context.Context) ([]string, error) {
	rows, err := s.pool.Query(ctx, `
WITH things AS (
    SELECT c.oid, c.relkind, c.relname, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_namespace n
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
    WHERE n.nspname = ANY($1)
)
SELECT format('USAGE on schema %I', n.nspname) AS missing
FROM pg_catalog.pg_namespace n
WHERE n.nspname = ANY($1) AND NOT has_schema_privilege(n.oid, 'USAGE')
UNION ALL
SELECT format('%s on %s', r.wanted, t.name)
FROM things t
CROSS JOIN unnest(CASE t.relname
    WHEN 'schema_migrations' THEN ARRAY['SELECT']
    WHEN 'river_migration' THEN ARRAY[]::text[]
    WHEN 'pii_reads' THEN ARRAY['SELECT', 'INSERT']
    ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END) AS r(wanted)
WHERE t.relkind IN ('r', 'p')
  AND NOT CASE r.wanted WHEN 'UPDATE' THEN has_any_column_privilege(t.oid, 'UPDATE') ELSE has_table_privilege(t.oid, r.wanted) END
UNION ALL
SELECT format('USAGE on %s', t.name)
FROM things t
WHERE CASE WHEN t.relkind = 'S' THEN NOT has_sequence_privilege(t.oid, 'USAGE') END
  AND NOT EXISTS ( -- one of an identity column goes with its table
      SELECT FROM pg_catalog.pg_depend d
      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = t.oid AND d.deptype = 'i')
ORDER BY missing`, pgx.QueryExecModeExec, []string{"stripe_identity", JobSchema})
	if err != nil {
		return nil, plain("look at the rights", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return missing, plain("look at the rights", err)
}

// SecretUse is how many events came under a signing secret, and when the last.
type SecretUse struct {
	Name   string
	Events int64
	Last   time.Time
}

// SecretsSeen tells by name under which secrets events were received since then.
func (s *Store) SecretsSeen(ctx context.Context, since time.Time) ([]SecretUse, error) {
	rows, err := s.pool.Query(ctx, `
SELECT secret_name AS name, count(*) AS events, max(received_at) AS last
FROM stripe_identity.events
WHERE received_at >= $1 AND source = 'webhook' AND secret_name IS NOT NULL
GROUP BY secret_name
ORDER BY secret_name`, pgx.QueryExecModeExec, since)
	if err != nil {
		return nil, plain("count events by secret", err)
	}
	seen, err := pgx.CollectRows(rows, pgx.RowToStructByName[SecretUse])
	return seen, plain("count events by secret", err)
}

// Waiting is how many of something wait, and since when the first; its Since
// is zero when none do.
type Waiting struct {
	Count int64
	Since time.Time
}

// Backlog is what waits for somebody or for Stripe's API.
type Backlog struct {
	Quarantined Waiting // events, since they were received
	Refresh     Waiting // sessions, since they were last written
	Outputs     Waiting // sessions of modes that have a key, since their outputs are wanted
	Thin        Waiting // events, since they were received

	Reconciled time.Time // end of the last complete run; zero if there was none
	LastRun    string    // result of the last run: ok, partial, failed; empty if none has ended
}

// Backlog counts what waits.
func (s *Store) Backlog(ctx context.Context) (Backlog, error) {
	var b Backlog
	err := s.pool.QueryRow(ctx, `
SELECT q.n, q.since, r.n, r.since, o.n, o.since, t.n, t.since,
       (SELECT max(finished_at) FROM stripe_identity.reconcile_runs WHERE result = 'ok'),
       coalesce((SELECT result FROM stripe_identity.reconcile_runs
                 WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1), '')
FROM (SELECT count(*) AS n, min(received_at) AS since
      FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL) q,
     (SELECT count(*) AS n, min(updated_at) AS since
      FROM stripe_identity.verification_sessions WHERE needs_refresh) r,
     (SELECT count(*) AS n, min(outputs_wanted_since) AS since
      FROM stripe_identity.verification_sessions s
      WHERE outputs_wanted_since IS NOT NULL AND livemode = ANY ($1)
        AND NOT EXISTS (SELECT FROM stripe_identity.wishes WHERE session_id = s.id AND due_at = 'infinity')) o, -- given up
     (SELECT count(*) AS n, min(received_at) AS since
      FROM stripe_identity.events WHERE type LIKE 'v1.%' AND resolved_at IS NULL) t`, pgx.QueryExecModeExec, s.asked()).
		Scan(&b.Quarantined.Count, (*moment)(&b.Quarantined.Since), &b.Refresh.Count, (*moment)(&b.Refresh.Since),
			&b.Outputs.Count, (*moment)(&b.Outputs.Since), &b.Thin.Count, (*moment)(&b.Thin.Since),
			(*moment)(&b.Reconciled), &b.LastRun)
	return b, plain("count what waits", err)
}
