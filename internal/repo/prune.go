package repo

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Retention is how long things are kept from when they were received, outputs
// from when they were fetched; zero is for ever.
type Retention struct {
	Payloads   time.Duration // of events
	Quarantine time.Duration // events in quarantine, understood since or not
	Outputs    time.Duration // verified outputs, and provided details
	History    time.Duration // transitions, answers of the API and event ids
}

// redeliverable is how long Stripe can come with an event again, or with its
// twin: ids and what tells twins apart stay at least so long
// (docs.stripe.com/webhooks: resend for 30 days).
const redeliverable = 31 * 24 * time.Hour

// Pruned counts what retention took away.
type Pruned struct {
	Payloads           int64 // of events; their rows stay
	QuarantinePayloads int64 // of quarantined events whose ids stay
	Quarantined        int64 // events in quarantine, as a whole
	Outputs            int64 // rows of verified_outputs
	Details            int64 // rows of provided_details
	Transitions        int64
	Answers            int64
	Reasons            int64 // transitions that stay without error reason and metadata
	Events             int64 // rows of events, with their ids
	Held               int64 // what was left alone because somebody else had its session
}

// Rows is how many rows were changed or deleted.
func (p Pruned) Rows() int64 {
	return p.Payloads + p.QuarantinePayloads + p.Quarantined + p.Outputs + p.Details + p.Transitions + p.Answers + p.Reasons + p.Events
}

const (
	pruneRound = 50_000 // rows to look for at a time
	pruneBatch = 1_000  // rows, or sessions with their history, in a transaction
)

// Prune takes away what is older than retention says, in small transactions
// that lock the sessions concerned as every writer does. It waits for nobody:
// what somebody else holds is left for the next run, and counted. Any number of
// processes may prune at once, and one that is broken off leaves whole batches.
//
// The present state of a session does not change by it, and nothing that was
// counted is counted again, by a late duplicate, a twin, an answer of the API
// or a replay: see sqlCut for what stays of a history.
//
// progress, if not nil, is told after each batch what is done so far.
func (s *Store) Prune(ctx context.Context, r Retention, progress func(Pruned)) (Pruned, error) {
	var done Pruned
	steps, err := s.pruning(ctx, r, &done)
	if err != nil {
		return done, err
	}
	for _, step := range steps {
		held, err := s.prune(ctx, step, func() {
			if progress != nil {
				progress(done)
			}
		})
		done.Held += held
		if err != nil {
			return done, plain("prune "+step.what, err)
		}
	}
	return done, nil
}

// Prunable counts what Prune would take away now.
func (s *Store) Prunable(ctx context.Context, r Retention) (Pruned, error) {
	var would Pruned
	steps, err := s.pruning(ctx, r, &would)
	if err != nil {
		return would, err
	}
	for _, step := range steps {
		counts := make([]any, len(step.writes))
		for i, write := range step.writes {
			counts[i] = write.counter
		}
		args := []any{pgx.QueryExecModeExec, step.before}
		if !step.gone.IsZero() {
			args = []any{pgx.QueryExecModeExec, step.gone, step.before}
		}
		err := s.looking(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, step.count, args...).Scan(counts...) })
		if err != nil {
			return would, plain("count "+step.what, err)
		}
	}
	return would, nil
}

// pruneStep takes away one kind of thing.
type pruneStep struct {
	what   string
	before time.Time
	gone   time.Time // from before when a step before this one takes the rows as a whole
	find   string    // at most $2 things from before $1: session, or '' without one, and key
	count  string    // of things from before $1: a column for each write; with gone: from before $2, $1 is gone
	writes []pruneWrite
}

// pruneWrite changes rows with the keys $1 from before $2. It looks again at
// all that made them be found: the session was not locked then.
type pruneWrite struct {
	sql     string
	counter *int64
}

// pruning lists the steps, in their order. Time is the database's.
func (s *Store) pruning(ctx context.Context, r Retention, p *Pruned) (steps []pruneStep, err error) {
	var now time.Time
	if err := s.pool.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return nil, plain("ask the database for the time", err)
	}
	if r.Payloads > 0 {
		steps = append(steps, pruneStep{
			what: "payloads of events", before: now.Add(-r.Payloads), find: sqlOldPayloads, count: sqlCountPayloads,
			writes: []pruneWrite{{sqlPrunePayloads, &p.Payloads}},
		})
	}
	if r.Quarantine > 0 {
		steps = append(steps, pruneStep{
			what: "the quarantine", before: now.Add(-max(r.Quarantine, redeliverable)), find: sqlOldQuarantined, count: sqlCountQuarantined,
			writes: []pruneWrite{{sqlPruneQuarantined, &p.Quarantined}},
		})
	}
	if r.Quarantine > 0 && r.Quarantine < redeliverable {
		steps = append(steps, pruneStep{
			what: "payloads of the quarantine", before: now.Add(-r.Quarantine), gone: now.Add(-redeliverable),
			find: sqlOldShelved, count: sqlCountShelved,
			writes: []pruneWrite{{sqlPruneShelved, &p.QuarantinePayloads}},
		})
	}
	if r.Outputs > 0 {
		before := now.Add(-r.Outputs)
		steps = append(steps, pruneStep{
			what: "verified outputs", before: before, find: sqlOldOutputs, count: sqlCountOutputs,
			writes: []pruneWrite{{sqlPruneOutputs, &p.Outputs}},
		}, pruneStep{
			what: "provided details", before: before, find: sqlOldDetails, count: sqlCountDetails,
			writes: []pruneWrite{{sqlPruneDetails, &p.Details}},
		})
	}
	if r.History > 0 {
		before := now.Add(-max(r.History, redeliverable))
		steps = append(steps, pruneStep{
			what: "history", before: before, find: sqlOldHistory, count: sqlCountHistory,
			writes: []pruneWrite{{sqlPruneTransitions, &p.Transitions}, {sqlPruneAnswers, &p.Answers}},
		}, pruneStep{
			what: "reasons in the history", before: now.Add(-r.History), gone: before, find: sqlOldReasons, count: sqlCountReasons,
			writes: []pruneWrite{{sqlPruneReasons, &p.Reasons}},
		}, pruneStep{
			what: "event ids", before: before, find: sqlOldEvents, count: sqlCountEvents,
			writes: []pruneWrite{{sqlPruneEvents, &p.Events}},
		})
	}
	return steps, nil
}

// looking is for statements that read a table as a whole. To compile them
// takes longer than to run them.
func (s *Store) looking(ctx context.Context, look func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL jit = off`); err != nil {
			return err
		}
		return look(tx)
	})
}

// aged is something that is older than retention says.
type aged struct{ Session, Key string }

// prune takes a step until nothing is found, or nothing but what is held.
func (s *Store) prune(ctx context.Context, step pruneStep, progress func()) (held int64, err error) {
	for {
		var found []aged
		err := s.looking(ctx, func(tx pgx.Tx) (err error) {
			rows, _ := tx.Query(ctx, step.find, pgx.QueryExecModeExec, step.before, pruneRound) // CollectRows tells the error
			found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[aged])
			return err
		})
		if err != nil {
			return 0, err
		}
		slices.SortFunc(found, func(a, b aged) int {
			return cmp.Or(strings.Compare(a.Session, b.Session), strings.Compare(a.Key, b.Key))
		})
		var changed int64
		held = 0
		for batch := range slices.Chunk(found, pruneBatch) {
			n, left, err := s.pruneSome(ctx, step, batch)
			if err != nil {
				return held, err
			}
			changed, held = changed+n, held+left
			progress()
		}
		if len(found) < pruneRound || changed == 0 {
			return held, nil
		}
	}
}

// pruneSome takes a step with one batch, in a transaction. held is how many of
// its sessions are somebody else's at present.
func (s *Store) pruneSome(ctx context.Context, step pruneStep, batch []aged) (changed, held int64, err error) {
	sessions := make([]string, 0, len(batch))
	for _, a := range batch {
		sessions = append(sessions, a.Session)
	}
	sessions = slices.Compact(sessions) // the batch is sorted
	for n := 1; ; n++ {
		counts, held, err := s.pruneOnce(ctx, step, batch, sessions)
		switch blame, _ := blameFor(err); {
		case err == nil:
			for i, write := range step.writes {
				*write.counter += counts[i]
				changed += counts[i]
			}
			return changed, held, nil
		case blame == someones: // a row, without its session
			return 0, int64(len(sessions)), nil
		case blame != chance || n == tries || ctx.Err() != nil:
			return 0, 0, err
		}
	}
}

func (s *Store) pruneOnce(ctx context.Context, step pruneStep, batch []aged, sessions []string) (counts []int64, held int64, err error) {
	counts = make([]int64, len(step.writes))
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlSettings, milliseconds(batchLockTimeout), true, milliseconds(s.patience)); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, sqlLockFree, sessions) // CollectRows tells the error
		free, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, sqlOthers, sessions, free)
		others, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		held = int64(len(others))
		keys := make([]string, 0, len(batch))
		for _, a := range batch {
			if !slices.Contains(others, a.Session) {
				keys = append(keys, a.Key)
			}
		}
		for i, write := range step.writes {
			tag, err := tx.Exec(ctx, write.sql, keys, step.before)
			if err != nil {
				return err
			}
			counts[i] = tag.RowsAffected()
		}
		return nil
	})
	return counts, held, err
}

const (
	sqlLockFree = `
SELECT id FROM stripe_identity.verification_sessions WHERE id = ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED`

	// Events without a session, and thin ones that wait for it, have no row to lock.
	sqlOthers = `
SELECT id FROM stripe_identity.verification_sessions WHERE id = ANY ($1) AND NOT id = ANY ($2)`

	sqlOldPayloads = `
SELECT session_id, event_id
FROM stripe_identity.events
WHERE received_at < $1 AND payload IS NOT NULL
LIMIT $2`
	sqlCountPayloads = `
SELECT count(*) FROM stripe_identity.events WHERE received_at < $1 AND payload IS NOT NULL`
	sqlPrunePayloads = `
UPDATE stripe_identity.events SET payload = NULL
WHERE event_id = ANY ($1) AND received_at < $2 AND payload IS NOT NULL`

	sqlOldQuarantined = `
SELECT coalesce(session_id, ''), event_id
FROM stripe_identity.quarantined_events
WHERE received_at < $1
LIMIT $2`
	sqlCountQuarantined = `
SELECT count(*) FROM stripe_identity.quarantined_events WHERE received_at < $1`
	sqlPruneQuarantined = `
DELETE FROM stripe_identity.quarantined_events WHERE event_id = ANY ($1) AND received_at < $2`

	sqlOldShelved = `
SELECT coalesce(session_id, ''), event_id
FROM stripe_identity.quarantined_events
WHERE received_at < $1 AND payload IS NOT NULL
LIMIT $2`
	sqlCountShelved = `
SELECT count(*) FROM stripe_identity.quarantined_events WHERE received_at >= $1 AND received_at < $2 AND payload IS NOT NULL`
	sqlPruneShelved = `
UPDATE stripe_identity.quarantined_events SET payload = NULL
WHERE event_id = ANY ($1) AND received_at < $2 AND payload IS NOT NULL`

	// What was told of the outputs stands in answers: they are not wanted again.
	sqlOldOutputs = `
SELECT session_id, session_id FROM stripe_identity.verified_outputs WHERE fetched_at < $1 LIMIT $2`
	sqlCountOutputs = `
SELECT count(*) FROM stripe_identity.verified_outputs WHERE fetched_at < $1`
	sqlPruneOutputs = `
DELETE FROM stripe_identity.verified_outputs WHERE session_id = ANY ($1) AND fetched_at < $2`

	// Of an answer told_at is its Date, as fetched_at is for the outputs.
	sqlOldDetails = `
SELECT session_id, session_id FROM stripe_identity.provided_details WHERE told_at < $1 LIMIT $2`
	sqlCountDetails = `
SELECT count(*) FROM stripe_identity.provided_details WHERE told_at < $1`
	sqlPruneDetails = `
DELETE FROM stripe_identity.provided_details WHERE session_id = ANY ($1) AND told_at < $2`

	// Who asks for a session's cut, the time from which on its history stays,
	// binds s to the session and before to the time of retention. What goes is
	// always the beginning of a history, in whole seconds, and never:
	//   - what the present state follows from: where its status began, the newest
	//     event, the first cancellation, which is final, and the span of the newest
	//     answer;
	//   - what came a short while ago, however long ago it happened: its twin may
	//     come yet;
	//   - the row before an answer that only confirmed it: the answer would be
	//     taken for news, and counted.
	// A session with an event in quarantine keeps all: who knows what it tells.
	sqlCut = `
SELECT CASE WHEN a.first IS NULL OR EXISTS (
           SELECT FROM stripe_identity.status_transitions
           WHERE session_id = s.id AND occurred_at BETWEEN c.cut AND a.first
       ) THEN c.cut ELSE (
           SELECT max(occurred_at) FROM stripe_identity.status_transitions WHERE session_id = s.id AND occurred_at < c.cut
       ) END AS cut
FROM (
    SELECT least(s.status_changed_at, s.last_event_created_at, s.fetched_from, (
               SELECT min(occurred_at) FROM stripe_identity.status_transitions
               WHERE session_id = s.id AND (status = 'canceled' OR recorded_at >= before)
           )) AS cut
) c
CROSS JOIN LATERAL (
    SELECT min(told_until) AS first FROM stripe_identity.answers WHERE session_id = s.id AND told_until >= c.cut
) a
WHERE s.status_changed_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM stripe_identity.quarantined_events WHERE session_id = s.id AND resolved_at IS NULL)
OFFSET 0` // once for a session, not wherever it is used

	// The sessions whose history begins before their cut from before $1. Most
	// are told apart by the first row.
	sqlCuts = `
WITH cuts AS MATERIALIZED (
SELECT s.id, cut.cut
FROM (SELECT $1::timestamptz AS before) b
CROSS JOIN stripe_identity.verification_sessions s
CROSS JOIN LATERAL (` + sqlCut + `
) cut
WHERE (EXISTS (SELECT FROM stripe_identity.status_transitions
               WHERE session_id = s.id AND recorded_at < $1 AND occurred_at < least(s.status_changed_at, s.last_event_created_at, s.fetched_from))
    OR EXISTS (SELECT FROM stripe_identity.answers
               WHERE session_id = s.id AND told_until < least($1, s.status_changed_at, s.last_event_created_at, s.fetched_from)))
  AND (EXISTS (SELECT FROM stripe_identity.status_transitions WHERE session_id = s.id AND occurred_at < cut.cut)
    OR EXISTS (SELECT FROM stripe_identity.answers WHERE session_id = s.id AND told_until < cut.cut))`

	sqlOldHistory = sqlCuts + `
LIMIT $2)
SELECT id, id FROM cuts`
	sqlCountHistory = sqlCuts + `)
SELECT (SELECT count(*) FROM cuts JOIN stripe_identity.status_transitions t ON t.session_id = cuts.id AND t.occurred_at < cuts.cut),
       (SELECT count(*) FROM cuts JOIN stripe_identity.answers a ON a.session_id = cuts.id AND a.told_until < cuts.cut)`
	sqlPruneTransitions = `
DELETE FROM stripe_identity.status_transitions t
USING (SELECT $2::timestamptz AS before) b
CROSS JOIN stripe_identity.verification_sessions s
CROSS JOIN LATERAL (` + sqlCut + `
) cut
WHERE s.id = ANY ($1) AND t.session_id = s.id AND t.occurred_at < cut.cut`
	// What is left of the history begins where it was cut.
	sqlPruneAnswers = `
DELETE FROM stripe_identity.answers a
USING (SELECT $2::timestamptz AS before) b
CROSS JOIN stripe_identity.verification_sessions s
CROSS JOIN LATERAL (` + sqlCut + `
) cut
WHERE s.id = ANY ($1) AND a.session_id = s.id AND a.told_until < cut.cut`

	sqlOldReasons = `
SELECT session_id, id::text
FROM stripe_identity.status_transitions
WHERE recorded_at < $1 AND (error_reason IS NOT NULL OR metadata IS NOT NULL)
LIMIT $2`
	sqlCountReasons = sqlCuts + `)
SELECT count(*)
FROM stripe_identity.status_transitions t
LEFT JOIN cuts ON cuts.id = t.session_id AND t.occurred_at < cuts.cut
WHERE t.recorded_at < $2 AND (t.error_reason IS NOT NULL OR t.metadata IS NOT NULL) AND cuts.id IS NULL`
	sqlPruneReasons = `
UPDATE stripe_identity.status_transitions SET error_reason = NULL, metadata = NULL
WHERE id = ANY ($1::text[]::bigint[]) AND recorded_at < $2 AND (error_reason IS NOT NULL OR metadata IS NOT NULL)`

	// The id of an event that still has its row of history goes with that one. A
	// thin event waits for the API for as long as it takes.
	sqlOldEvents = `
SELECT e.session_id, e.event_id
FROM stripe_identity.events e
WHERE e.received_at < $1 AND (e.type NOT LIKE 'v1.%' OR e.resolved_at IS NOT NULL)
  AND NOT EXISTS (SELECT FROM stripe_identity.status_transitions t WHERE t.event_id = e.event_id)
LIMIT $2`
	sqlCountEvents = sqlCuts + `)
SELECT count(*)
FROM stripe_identity.events e
LEFT JOIN stripe_identity.status_transitions t ON t.event_id = e.event_id
LEFT JOIN cuts ON cuts.id = t.session_id AND t.occurred_at < cuts.cut
WHERE e.received_at < $1 AND (e.type NOT LIKE 'v1.%' OR e.resolved_at IS NOT NULL) AND (t.event_id IS NULL OR cuts.id IS NOT NULL)`
	sqlPruneEvents = `
DELETE FROM stripe_identity.events e
WHERE e.event_id = ANY ($1) AND e.received_at < $2 AND (e.type NOT LIKE 'v1.%' OR e.resolved_at IS NOT NULL)
  AND NOT EXISTS (SELECT FROM stripe_identity.status_transitions t WHERE t.event_id = e.event_id)`
)
