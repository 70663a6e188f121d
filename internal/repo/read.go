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
