package repo_test

// What stands between the two marks is shown in docs/consume.md; make generate
// copies it there. The file has nothing else, so the imports are all of it too.

// docs:begin
import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const sqlCursor = `
CREATE TABLE IF NOT EXISTS verification_cursor (
    name text PRIMARY KEY,
    xid  xid8 NOT NULL DEFAULT '0',
    id   bigint NOT NULL DEFAULT 0
)`

const sqlNext = `
SELECT t.xid, t.id, t.session_id, t.event_type, t.status, t.error_code, t.occurred_at,
       s.livemode IS TRUE AS livemode, s.account, s.client_reference_id,
       s.status AS status_now, s.redaction_status
FROM stripe_identity.status_transitions t
JOIN stripe_identity.verification_sessions s ON s.id = t.session_id
WHERE (t.xid, t.id) > ($1, $2)
  AND t.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY t.xid, t.id
LIMIT 100`

// Transition is one step of a session's history, and where the session stands now.
type Transition struct {
	Xid        uint64
	ID         int64
	SessionID  string
	EventType  string  // identity.verification_session.verified and so on
	Status     *string // what this step told
	ErrorCode  *string
	OccurredAt time.Time

	Livemode          bool    // false in a sandbox, which verifies nobody
	Account           *string // the connected account, nil for the platform's own
	ClientReferenceID *string // whom the session is about, in the application's words
	StatusNow         *string // differs from Status if something newer is known
	RedactionStatus   *string // not nil: erase what was copied of this session
}

// Handle acts on one transition. What it writes through tx is committed
// together with the cursor, so it is written exactly once.
type Handle func(ctx context.Context, tx pgx.Tx, t Transition) error

// Follow hands every transition to handle until ctx ends or something fails;
// call it again then. Several may run under one name: they take turns.
func Follow(ctx context.Context, url, name string, poll time.Duration, handle Handle) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("follow verifications: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // nothing is under way any more

	// Listen first: what is committed while we read wakes us afterwards.
	for _, sql := range []string{"LISTEN stripe_identity", sqlCursor} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("follow verifications: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, "INSERT INTO verification_cursor (name) VALUES ($1) ON CONFLICT DO NOTHING", name); err != nil {
		return fmt.Errorf("follow verifications: %w", err)
	}
	for {
		more, err := next(ctx, conn, name, handle)
		if err != nil {
			return fmt.Errorf("follow verifications: %w", err)
		}
		if more {
			continue
		}
		// A notification has no payload: it only says that it is worth looking.
		wait, cancel := context.WithTimeout(ctx, poll)
		_, err = conn.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("follow verifications: %w", ctx.Err())
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("follow verifications: %w", err)
		}
	}
}

// next takes up to 100 transitions and moves the cursor behind them.
func next(ctx context.Context, conn *pgx.Conn, name string, handle Handle) (more bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var (
			xid uint64
			id  int64
		)
		cursor := tx.QueryRow(ctx, "SELECT xid, id FROM verification_cursor WHERE name = $1 FOR UPDATE", name)
		if err := cursor.Scan(&xid, &id); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, sqlNext, xid, id) // CollectRows tells the error
		steps, err := pgx.CollectRows(rows, pgx.RowToStructByName[Transition])
		if err != nil || len(steps) == 0 {
			return err
		}
		for _, t := range steps {
			if err := handle(ctx, tx, t); err != nil {
				return err
			}
		}
		more = true
		last := steps[len(steps)-1]
		_, err = tx.Exec(ctx, "UPDATE verification_cursor SET xid = $2, id = $3 WHERE name = $1", name, last.Xid, last.ID)
		return err
	})
	return more, err
}

// keepUser notes where a person stands: by the best of their sessions, whichever
// of them changed. Sandboxes verify nobody, and of connected accounts only both
// together, account and reference, name a person: neither is this one's to keep.
func keepUser(ctx context.Context, tx pgx.Tx, t Transition) error {
	if !t.Livemode || t.Account != nil || t.ClientReferenceID == nil {
		return nil
	}
	_, err := tx.Exec(ctx, `
UPDATE users
SET verification = s.best_status
FROM stripe_identity.subject_status s
WHERE users.id = $1 AND s.client_reference_id = $1 AND s.livemode AND s.account IS NULL`, *t.ClientReferenceID)
	return err
}

// docs:end
