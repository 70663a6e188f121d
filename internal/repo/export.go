package repo

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// Export is everything that is held about a session: of each table its rows,
// with all of their columns.
type Export struct {
	SessionID  string    `json:"session_id"`
	ExportedAt time.Time `json:"exported_at"` // of what is in it

	Sessions    []json.RawMessage `json:"verification_sessions"`
	Transitions []json.RawMessage `json:"status_transitions"`
	Answers     []json.RawMessage `json:"answers"`
	Events      []json.RawMessage `json:"events"`
	Outputs     []json.RawMessage `json:"verified_outputs"`
	Details     []json.RawMessage `json:"provided_details"`
	Quarantined []json.RawMessage `json:"quarantined_events"`
	Wishes      []json.RawMessage `json:"wishes"`
	Reads       []json.RawMessage `json:"pii_reads"` // this one too
}

// Export reads everything that is held about a session, all of one moment. The
// reader is recorded in the same transaction: an error means that nothing was
// read. It answers [ErrUnknownSession] if nothing is held.
func (s *Store) Export(ctx context.Context, id string, r Reader) (*Export, error) {
	x := &Export{SessionID: id}
	err := s.recorded(ctx, id, r, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT transaction_timestamp()`).Scan(&x.ExportedAt); err != nil {
			return err
		}
		x.ExportedAt = x.ExportedAt.UTC()
		held := 0
		// A row as a whole, so that a column of tomorrow is in it.
		for _, table := range []struct {
			into *[]json.RawMessage
			sql  string
		}{
			{&x.Sessions, `
SELECT row_to_json(t) FROM stripe_identity.verification_sessions t WHERE id = $1`},
			{&x.Transitions, `
SELECT row_to_json(t) FROM stripe_identity.status_transitions t WHERE session_id = $1
ORDER BY occurred_at, rank, coalesce(event_id, '')`},
			{&x.Answers, `
SELECT row_to_json(t) FROM stripe_identity.answers t WHERE session_id = $1 ORDER BY told_until`},
			{&x.Events, `
SELECT row_to_json(t) FROM stripe_identity.events t WHERE session_id = $1 ORDER BY created_at, event_id`},
			{&x.Outputs, `
SELECT row_to_json(t) FROM stripe_identity.verified_outputs t WHERE session_id = $1`},
			{&x.Details, `
SELECT row_to_json(t) FROM stripe_identity.provided_details t WHERE session_id = $1`},
			{&x.Quarantined, `
SELECT row_to_json(t) FROM stripe_identity.quarantined_events t WHERE session_id = $1 ORDER BY received_at, event_id`},
		} {
			rows, _ := tx.Query(ctx, table.sql, id) // CollectRows tells the error
			all, err := pgx.CollectRows(rows, pgx.RowTo[json.RawMessage])
			if err != nil {
				return err
			}
			*table.into, held = all, held+len(all)
		}
		if held == 0 {
			return ErrUnknownSession
		}
		rows, _ := tx.Query(ctx, `
SELECT row_to_json(t) FROM stripe_identity.wishes t WHERE session_id = $1`, id)
		var err error
		if x.Wishes, err = pgx.CollectRows(rows, pgx.RowTo[json.RawMessage]); err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, `
SELECT row_to_json(t) FROM stripe_identity.pii_reads t WHERE session_id = $1 ORDER BY id`, id)
		x.Reads, err = pgx.CollectRows(rows, pgx.RowTo[json.RawMessage])
		return err
	})
	if err != nil {
		return nil, told("export session "+id, err)
	}
	return x, nil
}
