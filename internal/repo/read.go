package repo

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"webhookd/internal/events"
)

// SessionsOf lists the ids of the sessions that have a client reference.
func (s *Store) SessionsOf(ctx context.Context, clientReference string) ([]string, error) {
	rows, _ := s.pool.Query(ctx, `
SELECT id
FROM stripe_identity.verification_sessions
WHERE client_reference_id = $1
ORDER BY id`, clientReference) // CollectRows tells the error
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, plain("look for sessions by client reference", err)
}

// Erasable is what a redaction of a session would erase, in rows of each table.
type Erasable struct {
	Seen     bool      // anything is held, be it a tombstone
	Redacted bool      // there is a tombstone
	ToldAt   time.Time // when Stripe first told of a redaction; zero if it never did

	Outputs, Details      int64
	Payloads, Quarantined int64 // of events, and of those in quarantine
	Transitions, Session  int64 // with an error reason or metadata
}

// Erasable counts what a redaction would erase now; it reads nothing of it.
func (s *Store) Erasable(ctx context.Context, sessionID string) (e Erasable, err error) {
	var told *time.Time
	err = s.pool.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = $1)
           OR EXISTS (SELECT FROM stripe_identity.events WHERE session_id = $1)
           OR EXISTS (SELECT FROM stripe_identity.quarantined_events WHERE session_id = $1),
       EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = $1 AND redacted),
       (SELECT min(occurred_at) FROM stripe_identity.status_transitions
        WHERE session_id = $1 AND redaction_status IN ('processing', 'redacted', 'validated')),
       (SELECT count(*) FROM stripe_identity.verified_outputs WHERE session_id = $1),
       (SELECT count(*) FROM stripe_identity.provided_details WHERE session_id = $1),
       (SELECT count(payload) FROM stripe_identity.events WHERE session_id = $1),
       (SELECT count(payload) FROM stripe_identity.quarantined_events WHERE session_id = $1),
       (SELECT count(*) FROM stripe_identity.status_transitions
        WHERE session_id = $1 AND (error_reason IS NOT NULL OR metadata IS NOT NULL)),
       (SELECT count(*) FROM stripe_identity.verification_sessions
        WHERE id = $1 AND (last_error_reason IS NOT NULL OR metadata IS NOT NULL))`, sessionID).
		Scan(&e.Seen, &e.Redacted, &told, &e.Outputs, &e.Details, &e.Payloads, &e.Quarantined, &e.Transitions, &e.Session)
	if told != nil {
		e.ToldAt = *told
	}
	return e, plain("look for session "+sessionID, err)
}

// What is null in a column, as the vocabulary says it.
type (
	text   events.Text
	mode   events.Mode
	moment time.Time
)

// ScanText implements [pgtype.TextScanner].
func (t *text) ScanText(v pgtype.Text) error {
	*t = text{Presence: events.Null}
	if v.Valid {
		*t = text(events.Some(v.String))
	}
	return nil
}

// ScanBool implements [pgtype.BoolScanner].
func (m *mode) ScanBool(v pgtype.Bool) error {
	switch {
	case !v.Valid:
		*m = mode(events.ModeUnknown)
	case v.Bool:
		*m = mode(events.ModeLive)
	default:
		*m = mode(events.ModeTest)
	}
	return nil
}

// ScanTimestamptz implements [pgtype.TimestamptzScanner].
func (t *moment) ScanTimestamptz(v pgtype.Timestamptz) error {
	*t = moment{}
	if v.Valid {
		*t = moment(v.Time.UTC())
	}
	return nil
}
