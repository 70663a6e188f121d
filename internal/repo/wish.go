package repo

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"webhookd/internal/events"
)

// Wish is one session that Stripe's API is to be asked about, claimed by one
// worker for the time of a lease. What is wanted stands in the rows of the
// session and of its thin events; the wish itself is only who sees to it. It
// grows a generation with everything new that is wanted, so that what comes
// while the API is being asked is not taken for served.
type Wish struct {
	Session    string
	Generation int64
	Attempt    int       // 1 for the first of this generation
	TriedAt    time.Time // when that was

	Account, Context events.Text // in whose name to ask
	Livemode         events.Mode
	Redacted         bool
	Refresh          bool      // the state is open
	OutputsSince     time.Time // when outputs came to be wanted; zero if they are not
	Thin             []ThinEvent

	ended bool // with the answer that was written
}

// ThinEvent is an event whose content was not told yet.
type ThinEvent struct {
	ID       string
	Snapshot events.Text // the event that has the content
}

// Claim leases the wish of a session. It is nil if there is none that is due
// and free, or if nothing is wanted any more.
func (s *Store) Claim(ctx context.Context, session string, lease time.Duration) (*Wish, error) {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	w := &Wish{Session: session}
	var hidden bool
	b := &pgx.Batch{}
	b.Queue(`
UPDATE stripe_identity.wishes
SET leased_until = now() + $2::interval, attempts = attempts + 1, tried_at = coalesce(tried_at, now())
WHERE session_id = $1 AND due_at <= now() AND (leased_until IS NULL OR leased_until <= now())
RETURNING generation, attempts, tried_at`, session, lease).QueryRow(func(row pgx.Row) error {
		return row.Scan(&w.Generation, &w.Attempt, &w.TriedAt)
	})
	b.Queue(`
SELECT account, context, livemode, redacted, hidden, needs_refresh, outputs_wanted_since
FROM stripe_identity.verification_sessions
WHERE id = $1`, session).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			err := rows.Scan((*text)(&w.Account), (*text)(&w.Context), (*mode)(&w.Livemode), &w.Redacted, &hidden,
				&w.Refresh, (*moment)(&w.OutputsSince))
			if err != nil {
				return err
			}
		}
		return rows.Err()
	})
	b.Queue(`
SELECT event_id, snapshot_event, account, context, livemode
FROM stripe_identity.events
WHERE session_id = $1 AND type LIKE 'v1.%' AND resolved_at IS NULL
ORDER BY event_id`, session).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var t ThinEvent
			var account, context events.Text
			var livemode events.Mode
			if err := rows.Scan(&t.ID, (*text)(&t.Snapshot), (*text)(&account), (*text)(&context), (*mode)(&livemode)); err != nil {
				return err
			}
			w.Thin = append(w.Thin, t)
			if w.Livemode == events.ModeUnknown {
				w.Account, w.Context, w.Livemode = account, context, livemode
			}
		}
		return rows.Err()
	})
	err := s.pool.SendBatch(ctx, b).Close()
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // documented: there is none
	case err != nil:
		return nil, plain("claim the wish of session "+session, err)
	case hidden || !w.Refresh && w.OutputsSince.IsZero() && len(w.Thin) == 0:
		return nil, s.Settle(ctx, w)
	}
	return w, nil
}

// Renew prolongs the lease of a wish.
func (s *Store) Renew(ctx context.Context, w *Wish, lease time.Duration) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
UPDATE stripe_identity.wishes SET leased_until = now() + $3::interval
WHERE session_id = $1 AND generation = $2 AND leased_until IS NOT NULL`, w.Session, w.Generation, lease)
	return plain("renew the lease of session "+w.Session, err)
}

// Served is what became of an answer.
type Served struct {
	Redacted bool // the session holds nothing personal, whatever the answer had
	Ended    bool // nothing more is wanted
}

// Serve writes what Stripe's API answered, and ends the wish in the same
// transaction if nothing more is wanted.
func (s *Store) Serve(ctx context.Context, w *Wish, a *events.Answer) (Served, error) {
	o := &order{about: a.Session.ID, answer: a, wish: w}
	err := plain("write what Stripe tells of session "+w.Session, s.putAnswer(ctx, o))
	return Served{Redacted: o.redacted, Ended: w.ended}, err
}

// sqlSettle ends a wish that is served. Whoever wants something new holds the
// session's row, and gives the wish another generation.
const sqlSettle = `
DELETE FROM stripe_identity.wishes
WHERE session_id = $1 AND generation = $2
  AND (EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = $1 AND hidden)
    OR NOT EXISTS (SELECT FROM stripe_identity.verification_sessions
                   WHERE id = $1 AND (needs_refresh OR outputs_wanted_since IS NOT NULL))
   AND NOT EXISTS (SELECT FROM stripe_identity.events
                   WHERE session_id = $1 AND type LIKE 'v1.%' AND resolved_at IS NULL))`

// sqlGiveBack gives a wish back that is still there. If more came to be wanted,
// it is due at once.
const sqlGiveBack = `
UPDATE stripe_identity.wishes
SET leased_until = NULL,
    due_at = CASE WHEN generation <> $2 THEN least(due_at, now()) ELSE coalesce(now() + $3::interval, 'infinity') END
WHERE session_id = $1`

// Settle ends a wish if nothing is wanted any more, and else gives it back, due now.
func (s *Store) Settle(ctx context.Context, w *Wish) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(sqlSettle, w.Session, w.Generation)
	b.Queue(sqlGiveBack, w.Session, w.Generation, time.Duration(0))
	return plain("settle the wish of session "+w.Session, s.pool.SendBatch(ctx, b).Close())
}

// Postpone gives back a wish that could not be served.
func (s *Store) Postpone(ctx context.Context, w *Wish, d time.Duration) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, sqlGiveBack, w.Session, w.Generation, d)
	return plain("postpone the wish of session "+w.Session, err)
}

// GiveUp leaves a wish unserved until something new is wanted.
func (s *Store) GiveUp(ctx context.Context, w *Wish) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, sqlGiveBack, w.Session, w.Generation, nil)
	return plain("give up the wish of session "+w.Session, err)
}

// Due lists sessions whose wishes wait for somebody, at most n, the longest
// waiting first. Before, it makes the wishes that nobody made: for what came
// to be wanted while there was no key for the mode.
func (s *Store) Due(ctx context.Context, livemodes []bool, n int) (sessions []string, err error) {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(`
INSERT INTO stripe_identity.wishes (session_id)
SELECT id
FROM (
    SELECT id
    FROM (
        SELECT id FROM stripe_identity.verification_sessions WHERE needs_refresh AND NOT hidden AND livemode = ANY ($1)
        UNION
        SELECT id FROM stripe_identity.verification_sessions WHERE outputs_wanted_since IS NOT NULL AND livemode = ANY ($1)
        UNION
        SELECT session_id FROM stripe_identity.events e
        WHERE type LIKE 'v1.%' AND resolved_at IS NULL AND livemode = ANY ($1)
          AND NOT EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = e.session_id AND hidden)
    ) wanted
    WHERE NOT EXISTS (SELECT FROM stripe_identity.wishes WHERE session_id = wanted.id)
    LIMIT $2
) missing
ORDER BY id -- as every writer does
ON CONFLICT DO NOTHING`, livemodes, n)
	b.Queue(`
SELECT session_id
FROM stripe_identity.wishes
WHERE due_at <= now() AND (leased_until IS NULL OR leased_until <= now())
  AND NOT EXISTS (SELECT FROM stripe_identity.verification_sessions s WHERE s.id = session_id AND NOT s.livemode = ANY ($2))
ORDER BY due_at
LIMIT $1`, n, livemodes).Query(func(rows pgx.Rows) error {
		sessions, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return sessions, plain("look for what is due", s.pool.SendBatch(ctx, b).Close())
}

// wanted is what a session's row asked of the API before a write.
type wanted struct {
	refresh bool
	since   time.Time
}

// wishes reports whether something new is wanted of the API.
func (s *Store) wishes(standing *events.Standing, before wanted) bool {
	if standing.Hidden || !s.asks(standing.Livemode) {
		return false
	}
	since := standing.OutputsWantedSince
	return standing.NeedsRefresh && !before.refresh || !since.IsZero() && !since.Equal(before.since)
}

// asks reports whether there is a key for a mode.
func (s *Store) asks(m events.Mode) bool {
	return s.opt.Asks != nil && m != events.ModeUnknown && s.opt.Asks(m == events.ModeLive)
}

// asked are the modes for which there is a key.
func (s *Store) asked() []bool {
	return slices.DeleteFunc([]bool{false, true}, func(live bool) bool { return s.opt.Asks == nil || !s.opt.Asks(live) })
}

// sqlWish makes new wishes of sessions known.
const sqlWish = `
INSERT INTO stripe_identity.wishes (session_id)
SELECT unnest($1::text[])
ON CONFLICT (session_id) DO UPDATE
SET generation = stripe_identity.wishes.generation + 1, attempts = 0, tried_at = NULL, due_at = now()`

// queueServed ends the wishes that an answer served.
func (w *writes) queueServed(b *pgx.Batch) {
	for _, wish := range w.served {
		ids := make([]string, len(wish.Thin))
		for i, t := range wish.Thin {
			ids[i] = t.ID
		}
		if len(ids) > 0 {
			b.Queue(`
UPDATE stripe_identity.events SET resolved_at = now()
WHERE event_id = ANY ($1) AND resolved_at IS NULL`, ids)
		}
		b.Queue(sqlSettle, wish.Session, wish.Generation).Exec(func(done pgconn.CommandTag) error {
			wish.ended = done.RowsAffected() > 0
			return nil
		})
	}
}

// wake tells the job queue of new wishes, in the transaction that makes them.
func (s *Store) wake(ctx context.Context, conn *pgx.Conn, w *writes) error {
	if len(w.wishes) == 0 || s.opt.Wake == nil {
		return nil
	}
	return s.opt.Wake(ctx, begun{conn}, w.wishes)
}

// begun is the transaction that look began, for who takes a [pgx.Tx]. It is
// not theirs to end.
type begun struct{ *connection }

type connection = pgx.Conn

var errNotYours = errors.New("the transaction is the store's to end")

func (b begun) Conn() *pgx.Conn                     { return b.connection }
func (begun) Begin(context.Context) (pgx.Tx, error) { return nil, errNotYours }
func (begun) Commit(context.Context) error          { return errNotYours }
func (begun) Rollback(context.Context) error        { return errNotYours }
func (begun) LargeObjects() (none pgx.LargeObjects) { return none }
