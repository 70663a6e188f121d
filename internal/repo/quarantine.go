package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// Quarantined is an event in quarantine without its payload.
type Quarantined struct {
	EventID    string     `json:"event_id"`
	Type       string     `json:"type"`
	SessionID  *string    `json:"session_id"` // any that was found in it
	Account    *string    `json:"account"`
	Livemode   *bool      `json:"livemode"`
	CreatedAt  *time.Time `json:"created_at"`
	ReceivedAt time.Time  `json:"received_at"`
	Reason     string     `json:"reason"` // in our own words
	Hides      bool       `json:"hides"`  // a redaction can be read in it
	Source     string     `json:"source"`
}

// Quarantine lists at most limit events that are in quarantine, the newest
// first, and counts all.
func (s *Store) Quarantine(ctx context.Context, limit int) (list []Quarantined, total int, err error) {
	once := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, once, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
SELECT event_id, type, session_id, account, livemode, created_at, received_at, reason, hides, source
FROM stripe_identity.quarantined_events
WHERE resolved_at IS NULL
ORDER BY received_at DESC, event_id
LIMIT $1`, limit) // CollectRows tells the error
		if list, err = pgx.CollectRows(rows, pgx.RowToStructByName[Quarantined]); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
SELECT count(*) FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL`).Scan(&total)
	})
	return list, total, plain("list the quarantine", err)
}

// QuarantinedIDs lists the ids of all events in quarantine, the oldest first.
func (s *Store) QuarantinedIDs(ctx context.Context) ([]string, error) {
	rows, _ := s.pool.Query(ctx, `
SELECT event_id
FROM stripe_identity.quarantined_events
WHERE resolved_at IS NULL
ORDER BY received_at, event_id`) // CollectRows tells the error
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, plain("list the quarantine", err)
}

// Replayed is what became of an event that was taken out of quarantine, or why
// it was not.
type Replayed struct {
	EventID string
	Session string         // empty if none was found
	Outcome events.Outcome // duplicate: it had left quarantine before; empty: it did not leave
	Why     string         // it did not leave, in our own words
}

// The reasons for which an event stays that are no fault of its content.
const (
	notInQuarantine = "no such event is or was in quarantine"
	payloadGone     = "its payload is gone (redaction or retention); only Stripe can send it again"
	payloadCut      = "its payload was cut to be stored; only Stripe can send it again"
)

// Replay takes events through the normal path once more, from their sanitised
// payloads, all at the same time, and answers for each in the order of the ids.
// An error is the database's; what was replayed until then stands, and another
// call finds it done.
func (s *Store) Replay(ctx context.Context, ids ...string) ([]Replayed, error) {
	all, errs := make([]Replayed, len(ids)), make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { all[i], errs[i] = s.replay(ctx, id) })
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// shelf is a row of quarantined_events, as far as a replay needs it.
type shelf struct {
	SessionID  *string
	ReceivedAt time.Time
	Source     string
	SecretName *string
	Reason     string
	Resolved   bool
	Payload    *string
}

func (s *Store) shelf(ctx context.Context, id string) (shelf, error) {
	rows, _ := s.pool.Query(ctx, `
SELECT session_id, received_at, source, secret_name, reason, resolved_at IS NOT NULL AS resolved, payload::text AS payload
FROM stripe_identity.quarantined_events
WHERE event_id = $1`, id) // CollectOneRow tells the error
	return pgx.CollectOneRow(rows, pgx.RowToStructByName[shelf])
}

func (s *Store) replay(ctx context.Context, id string) (Replayed, error) {
	r := Replayed{EventID: id}
	kept, err := s.shelf(ctx, id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		r.Why = notInQuarantine
		return r, nil
	case err != nil:
		return r, plain("read quarantined event "+id, err)
	}
	r.Session = *orEmpty(kept.SessionID)
	switch {
	case kept.Resolved:
		r.Outcome = events.Duplicate
		return r, nil
	case kept.Payload == nil:
		r.Why = payloadGone
		return r, nil
	case cut(kept.Reason):
		r.Why = payloadCut
		return r, nil
	}
	e, err := events.Parse([]byte(*kept.Payload))
	switch {
	case err != nil || e.ID != id:
		r.Why = kept.Reason
		return r, nil //nolint:nilerr // that it stays is the answer
	case e.Kind != events.Snapshot && e.Kind != events.Thin:
		r.Why = e.Fault
		return r, nil
	}
	if err := s.whole(ctx, e); err != nil {
		return r, err
	}
	e.Source, e.SecretName, e.ReceivedAt = kept.Source, *orEmpty(kept.SecretName), kept.ReceivedAt
	outcome, err := s.Record(ctx, e)
	switch {
	case errors.Is(err, events.ErrLocked):
		r.Why = "somebody else holds its session; try again"
		return r, nil
	case err != nil:
		return r, err
	}
	// What PostgreSQL refuses goes back where it was, as a duplicate.
	if outcome == events.Duplicate {
		if kept, err = s.shelf(ctx, id); err != nil {
			return r, plain("read quarantined event "+id, err)
		}
		if !kept.Resolved {
			r.Why = kept.Reason
			return r, nil
		}
	}
	r.Outcome, r.Session = outcome, e.SessionID
	return r, nil
}

// whole completes an event that was read from its payload by what stands of its
// session: payloads leave out options.document, and some keys of metadata, and the
// row that is written anew would lose them.
func (s *Store) whole(ctx context.Context, e *events.Event) error {
	var options, metadata *string
	err := s.pool.QueryRow(ctx, `
SELECT (SELECT options || $2::text::jsonb WHERE jsonb_typeof(options) = 'object')::text,
       (SELECT jsonb_object_agg(key, value) || $3::text::jsonb
        FROM jsonb_each(CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata END)
        WHERE key = ANY ($4))::text
FROM stripe_identity.verification_sessions
WHERE id = $1`, e.SessionID, e.Session.Options, e.Session.Metadata, events.Withheld()).Scan(&options, &metadata)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return plain("read what stands of session "+e.SessionID, err)
	}
	if options != nil {
		e.Session.Options = []byte(*options)
	}
	if metadata != nil {
		e.Session.Metadata, e.Session.MetadataApart = []byte(*metadata), true
	}
	return nil
}

// cut reports whether the stored payload lacks what the event said: it went
// too deep, had a number that jsonb cannot hold, or said it where something
// personal stands.
func cut(reason string) bool {
	return reason == "number out of range" || slices.ContainsFunc(
		[]string{"nested deeper than ", "last_verification_report is no ", "provided_details", "verified_outputs"},
		func(cause string) bool { return strings.HasPrefix(reason, cause) })
}

func orEmpty(s *string) *string {
	if s == nil {
		return new(string)
	}
	return s
}
