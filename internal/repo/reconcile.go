package repo

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// ReconcileRun is a row of reconcile_runs.
type ReconcileRun struct {
	StartedAt, FinishedAt time.Time
	Since                 time.Time // what was created at Stripe before is not in it
	Result                string    // ok, partial, failed
	Listed, Recovered     int64
	Detail                string // nothing personal
	Daily                 bool   // it read again what is read again once a day
}

// BeginRun notes that a run has begun.
func (s *Store) BeginRun(ctx context.Context, r ReconcileRun) (id int64, err error) {
	err = s.pool.QueryRow(ctx, `
WITH old AS (DELETE FROM stripe_identity.reconcile_runs WHERE started_at < now() - interval '400 days')
INSERT INTO stripe_identity.reconcile_runs (started_at, since) VALUES ($1, $2) RETURNING id`, r.StartedAt, r.Since).Scan(&id)
	return id, plain("begin a run", err)
}

// EndRun notes how a run ended.
func (s *Store) EndRun(ctx context.Context, id int64, r ReconcileRun) error {
	_, err := s.pool.Exec(ctx, `
UPDATE stripe_identity.reconcile_runs
SET finished_at = $2, result = $3, listed = $4, recovered = $5, detail = $6, daily = $7
WHERE id = $1`, id, r.FinishedAt, r.Result, r.Listed, r.Recovered, r.Detail, r.Daily)
	return plain("end a run", err)
}

// Runs calls each with the complete runs that began since then, oldest first,
// and tells when any run began last, complete or not.
func (s *Store) Runs(ctx context.Context, since time.Time, each func(ReconcileRun)) (last time.Time, err error) {
	rows, _ := s.pool.Query(ctx, `
SELECT started_at, since, coalesce(result, ''), daily
FROM stripe_identity.reconcile_runs
WHERE started_at >= $1
ORDER BY started_at, id`, since) // ForEachRow tells the error
	var r ReconcileRun
	_, err = pgx.ForEachRow(rows, []any{&r.StartedAt, &r.Since, &r.Result, &r.Daily}, func() error {
		last = r.StartedAt
		if r.Result == "ok" {
			each(r)
		}
		return nil
	})
	return last, plain("look for earlier runs", err)
}

// Owner is whose sessions there are: the platform's if it has neither account
// nor context.
type Owner struct {
	Live             bool
	Account, Context string
}

// Owners lists everybody of whom a session was seen.
func (s *Store) Owners(ctx context.Context) ([]Owner, error) {
	rows, _ := s.pool.Query(ctx, `
SELECT livemode, coalesce(account, ''), coalesce(context, '') FROM stripe_identity.verification_sessions WHERE livemode IS NOT NULL
UNION
SELECT livemode, coalesce(account, ''), coalesce(context, '') FROM stripe_identity.events
WHERE type LIKE 'v1.%' AND resolved_at IS NULL AND livemode IS NOT NULL
UNION
SELECT livemode, coalesce(account, ''), '' FROM stripe_identity.quarantined_events
WHERE resolved_at IS NULL AND livemode IS NOT NULL
ORDER BY 1, 2, 3`) // CollectRows tells the error
	owners, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Owner])
	return owners, plain("look for accounts", err)
}

// Knowledge is what is held of an event.
type Knowledge uint8

// An event is not known, in quarantine, or recorded.
const (
	Unknown Knowledge = iota
	InQuarantine
	Recorded
)

// Known tells what is held of events. An id that is not in it is Unknown.
func (s *Store) Known(ctx context.Context, eventIDs []string) (map[string]Knowledge, error) {
	rows, _ := s.pool.Query(ctx, `
SELECT event_id, false FROM stripe_identity.quarantined_events WHERE event_id = ANY ($1) AND resolved_at IS NULL
UNION ALL
SELECT event_id, true FROM stripe_identity.events WHERE event_id = ANY ($1)`, eventIDs) // ForEachRow tells the error
	known := make(map[string]Knowledge, len(eventIDs))
	var id string
	var recorded bool
	_, err := pgx.ForEachRow(rows, []any{&id, &recorded}, func() error {
		if known[id] = InQuarantine; recorded {
			known[id] = Recorded
		}
		return nil
	})
	return known, plain("look for events", err)
}

// SessionState is what stands of a session, as far as Stripe's answer is
// compared with it.
type SessionState struct {
	Known        bool // there is a row, be it a tombstone
	State        events.State
	NeedsRefresh bool
	LastEvent    time.Time // of the newest event; zero without any
	Unconfirmed  bool      // it holds what is not shown until Stripe was asked
}

// States looks sessions up. One that is not known is not in it.
func (s *Store) States(ctx context.Context, sessionIDs []string) (map[string]SessionState, error) {
	rows, _ := s.pool.Query(ctx, `
SELECT id, coalesce(status, ''), coalesce(last_error_code, ''), coalesce(last_verification_report_id, ''),
       coalesce(redaction_status, ''), needs_refresh, last_event_created_at,
       EXISTS (SELECT FROM stripe_identity.verified_outputs o WHERE o.session_id = s.id AND o.unconfirmed)
       OR EXISTS (SELECT FROM stripe_identity.provided_details d WHERE d.session_id = s.id AND d.unconfirmed)
FROM stripe_identity.verification_sessions s
WHERE id = ANY ($1)`, sessionIDs) // ForEachRow tells the error
	states := make(map[string]SessionState, len(sessionIDs))
	var id string
	now := SessionState{Known: true}
	_, err := pgx.ForEachRow(rows, []any{
		&id, &now.State.Status, &now.State.ErrorCode, &now.State.ReportID, &now.State.Redaction,
		&now.NeedsRefresh, (*moment)(&now.LastEvent), &now.Unconfirmed,
	}, func() error {
		states[id] = now
		return nil
	})
	return states, plain("look for sessions", err)
}

// Again says which sessions to read again.
type Again struct {
	Livemodes  []bool
	Processing time.Time // those that are processing since then or longer
	Active     time.Time // those in requires_input of which something was told since then; zero for none
	Before     time.Time // only those created before: the others were listed
}

// OwnedSession is a session and whose it is.
type OwnedSession struct {
	ID string
	Owner
	Unconfirmed bool // it holds what is not shown until Stripe was asked
}

// ToReadAgain lists up to 100 sessions behind an id, by id: those of q, and all
// that hold something unconfirmed.
func (s *Store) ToReadAgain(ctx context.Context, q Again, behind string) ([]OwnedSession, error) {
	rows, _ := s.pool.Query(ctx, `
WITH unconfirmed AS (
    SELECT session_id FROM stripe_identity.verified_outputs WHERE unconfirmed
    UNION SELECT session_id FROM stripe_identity.provided_details WHERE unconfirmed)
SELECT id, livemode, coalesce(account, ''), coalesce(context, ''), id IN (SELECT session_id FROM unconfirmed)
FROM stripe_identity.verification_sessions
WHERE id > $1 AND livemode = ANY ($2)
  AND ((created_at IS NULL OR created_at < $5)
       AND (status = 'processing' AND status_changed_at <= $3
            OR status = 'requires_input' AND greatest(last_event_created_at, status_changed_at) >= $4::timestamptz)
       OR id IN (SELECT session_id FROM unconfirmed))
ORDER BY id
LIMIT 100`, behind, q.Livemodes, q.Processing, nonZero(q.Active), q.Before) // CollectRows tells the error
	sessions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o OwnedSession, err error) {
		return o, row.Scan(&o.ID, &o.Live, &o.Account, &o.Context, &o.Unconfirmed)
	})
	return sessions, plain("look for sessions to read again", err)
}

// OldestUnconfirmed is when the first session was created that holds something
// unconfirmed; zero if there is none.
func (s *Store) OldestUnconfirmed(ctx context.Context) (created time.Time, err error) {
	err = s.pool.QueryRow(ctx, `
SELECT min(created_at)
FROM stripe_identity.verification_sessions
WHERE id IN (SELECT session_id FROM stripe_identity.verified_outputs WHERE unconfirmed
             UNION ALL SELECT session_id FROM stripe_identity.provided_details WHERE unconfirmed)`).Scan((*moment)(&created))
	return created, plain("look for the oldest session", err)
}

// OldestUnredacted is when the first session was created that is not redacted
// as far as we know; zero if there is none.
func (s *Store) OldestUnredacted(ctx context.Context) (created time.Time, err error) {
	err = s.pool.QueryRow(ctx, `
SELECT min(created_at) FROM stripe_identity.verification_sessions WHERE NOT redacted`).Scan((*moment)(&created))
	return created, plain("look for the oldest session", err)
}

// Unconfirm hides all outputs and provided details until Stripe was asked about
// their sessions, and answers how many sessions have outputs.
func (s *Store) Unconfirm(ctx context.Context) (sessions int64, err error) {
	tag, err := s.pool.Exec(ctx, `
WITH details AS (UPDATE stripe_identity.provided_details SET unconfirmed = true WHERE NOT unconfirmed)
UPDATE stripe_identity.verified_outputs SET unconfirmed = true`)
	return tag.RowsAffected(), plain("hide outputs", err)
}

// WithOutputs counts the sessions that have outputs.
func (s *Store) WithOutputs(ctx context.Context) (sessions int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM stripe_identity.verified_outputs`).Scan(&sessions)
	return sessions, plain("count outputs", err)
}

// Confirm shows again what Unconfirm has hidden of these sessions.
func (s *Store) Confirm(ctx context.Context, sessionIDs []string) error {
	b := &pgx.Batch{}
	b.Queue(`UPDATE stripe_identity.verified_outputs SET unconfirmed = false WHERE session_id = ANY ($1) AND unconfirmed`, sessionIDs)
	b.Queue(`UPDATE stripe_identity.provided_details SET unconfirmed = false WHERE session_id = ANY ($1) AND unconfirmed`, sessionIDs)
	return plain("show outputs again", s.pool.SendBatch(ctx, b).Close())
}
