package repo

import (
	"context"

	"github.com/jackc/pgx/v5"
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

// Seen tells whether anything is held about a session, be it a tombstone.
func (s *Store) Seen(ctx context.Context, sessionID string) (seen bool, err error) {
	err = s.pool.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = $1)
    OR EXISTS (SELECT FROM stripe_identity.events WHERE session_id = $1)
    OR EXISTS (SELECT FROM stripe_identity.quarantined_events WHERE session_id = $1)`, sessionID).Scan(&seen)
	return seen, plain("look for session "+sessionID, err)
}
