package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrUnknownSession says that nothing is held about a session.
var ErrUnknownSession = errors.New("nothing is held about this session")

// Reader is who looks at something personal, and by which command: a row of
// pii_reads.
type Reader struct{ Who, Command string }

// SessionView is what is held about a session. Its JSON has the names of the
// columns.
type SessionView struct {
	State       *SessionRow    `json:"session"` // nil if no event of it was understood yet
	Timeline    []SessionStep  `json:"timeline"`
	Quarantined int            `json:"quarantined"`         // its events in quarantine
	ThinPending int            `json:"thin_events_pending"` // those that the API has not told the rest of
	Personal    *PersonalParts `json:"personal,omitempty"`  // only if they were asked for
}

// SessionRow is a row of verification_sessions without what is personal.
type SessionRow struct {
	ID                       string          `json:"id"`
	Account                  *string         `json:"account"`
	Context                  *string         `json:"context"`
	Livemode                 *bool           `json:"livemode"`
	Type                     *string         `json:"type"`
	Status                   *string         `json:"status"`
	LastErrorCode            *string         `json:"last_error_code"`
	LastVerificationReportID *string         `json:"last_verification_report_id"`
	ClientReferenceID        *string         `json:"client_reference_id"`
	RelatedCustomer          *string         `json:"related_customer"`
	RelatedCustomerAccount   *string         `json:"related_customer_account"`
	RelatedPerson            *string         `json:"related_person"`
	RelatedPersonAccount     *string         `json:"related_person_account"`
	VerificationFlow         *string         `json:"verification_flow"`
	Options                  json.RawMessage `json:"options"`
	RedactionStatus          *string         `json:"redaction_status"`
	Hidden                   bool            `json:"hidden"` // from the views: a redaction that was not understood
	CreatedAt                *time.Time      `json:"created_at"`
	StatusChangedAt          *time.Time      `json:"status_changed_at"`
	LastEventID              *string         `json:"last_event_id"`
	LastEventCreatedAt       *time.Time      `json:"last_event_created_at"`
	NeedsRefresh             bool            `json:"needs_refresh"`
	FetchedFrom              *time.Time      `json:"fetched_from"`
	FetchedUntil             *time.Time      `json:"fetched_until"`
	OutputsWantedSince       *time.Time      `json:"outputs_wanted_since"`
	FirstSeenAt              time.Time       `json:"first_seen_at"`
	UpdatedAt                time.Time       `json:"updated_at"`
}

// SessionStep is a row of the session's history, in its order.
type SessionStep struct {
	EventID                 *string   `json:"event_id"` // nil while only the API told it
	EventType               string    `json:"event_type"`
	Status                  *string   `json:"status"`
	PreviousStatus          *string   `json:"previous_status"`
	SecondsInPreviousStatus *float64  `json:"seconds_in_previous_status"`
	ErrorCode               *string   `json:"error_code"`
	VerificationReportID    *string   `json:"verification_report_id"`
	RedactionStatus         *string   `json:"redaction_status"`
	OccurredAt              time.Time `json:"occurred_at"`
	RecordedAt              time.Time `json:"recorded_at"`
	Source                  string    `json:"source"`
}

// PersonalParts is what is personal of a session. What is not there is null.
type PersonalParts struct {
	LastErrorReason *string         `json:"last_error_reason"`
	Metadata        json.RawMessage `json:"metadata"`
	VerifiedOutputs json.RawMessage `json:"verified_outputs"` // an object of columns
	ProvidedDetails json.RawMessage `json:"provided_details"` // likewise
	Withheld        string          `json:"withheld"`         // why something is held and not here: hidden, unconfirmed
	Steps           []PersonalStep  `json:"steps"`            // those of the history that have something
}

// PersonalStep is what is personal of a row of history.
type PersonalStep struct {
	EventID     *string         `json:"event_id"`
	OccurredAt  time.Time       `json:"occurred_at"`
	ErrorReason *string         `json:"error_reason"`
	Metadata    json.RawMessage `json:"metadata"`
}

const (
	sqlSessionRow = `
SELECT id, account, context, livemode, type, status, last_error_code, last_verification_report_id, client_reference_id,
       related_customer, related_customer_account, related_person, related_person_account, verification_flow, options,
       redaction_status, hidden, created_at, status_changed_at, last_event_id, last_event_created_at, needs_refresh,
       fetched_from, fetched_until, outputs_wanted_since, first_seen_at, updated_at
FROM stripe_identity.verification_sessions
WHERE id = $1`

	sqlSessionSteps = `
SELECT event_id, event_type, status, previous_status,
       date_part('epoch', occurred_at) - date_part('epoch', previous_at) AS seconds_in_previous_status,
       error_code, verification_report_id, redaction_status, occurred_at, recorded_at, source
FROM stripe_identity.status_transitions
WHERE session_id = $1
ORDER BY occurred_at, rank, coalesce(event_id, '')`

	sqlSessionWaiting = `
SELECT (SELECT count(*) FROM stripe_identity.quarantined_events WHERE session_id = $1 AND resolved_at IS NULL),
       (SELECT count(*) FROM stripe_identity.events WHERE session_id = $1 AND type LIKE 'v1.%' AND resolved_at IS NULL)`

	sqlPersonalParts = `
SELECT s.last_error_reason, s.metadata,
       (SELECT row_to_json(o) FROM (
            SELECT first_name, last_name, dob, dob_day, dob_month, dob_year, address_line1, address_line2, address_city,
                   address_state, address_postal_code, address_country, id_number, id_number_type, email, phone, sex,
                   unparsed_place_of_birth, unparsed_sex, verification_report_id, unreadable_fields, extra, source, fetched_at
            FROM stripe_identity.verified_outputs
            WHERE session_id = $1 AND NOT unconfirmed
       ) o) AS verified_outputs,
       (SELECT row_to_json(d) FROM (
            SELECT email, phone FROM stripe_identity.provided_details WHERE session_id = $1 AND NOT unconfirmed
       ) d) AS provided_details,
       CASE WHEN EXISTS (SELECT FROM stripe_identity.verified_outputs WHERE session_id = $1 AND unconfirmed)
              OR EXISTS (SELECT FROM stripe_identity.provided_details WHERE session_id = $1 AND unconfirmed)
            THEN 'unconfirmed' ELSE '' END AS withheld
FROM (SELECT) once
LEFT JOIN stripe_identity.verification_sessions s ON s.id = $1`

	sqlPersonalSteps = `
SELECT event_id, occurred_at, error_reason, metadata
FROM (
    SELECT t.event_id, t.occurred_at, t.rank, t.error_reason,
           coalesce(t.metadata, e.payload #> '{data,object,metadata}') AS metadata -- history has what the payload lacks
    FROM stripe_identity.status_transitions t
    LEFT JOIN stripe_identity.events e ON e.event_id = t.event_id
    WHERE t.session_id = $1
) step
WHERE error_reason IS NOT NULL OR metadata IS NOT NULL
ORDER BY occurred_at, rank, coalesce(event_id, '')`
)

// Session reads what is held about a session, all of one moment, and selects
// no column that is personal. It answers [ErrUnknownSession] if nothing is.
func (s *Store) Session(ctx context.Context, id string) (*SessionView, error) {
	var v *SessionView
	once := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, once, func(tx pgx.Tx) (err error) {
		v, err = viewSession(ctx, tx, id)
		return err
	})
	return v, told("read session "+id, err)
}

// SessionWithOutputs reads the same and what is personal, but for what the
// views do not show either. The reader is recorded in the same transaction: an
// error means that nothing was read.
func (s *Store) SessionWithOutputs(ctx context.Context, id string, r Reader) (*SessionView, error) {
	var v *SessionView
	err := s.recorded(ctx, id, r, func(tx pgx.Tx) (err error) {
		if v, err = viewSession(ctx, tx, id); err != nil {
			return err
		}
		if v.State != nil && v.State.Hidden { // perhaps it is to be erased
			v.Personal = &PersonalParts{Withheld: "hidden", Steps: []PersonalStep{}}
			return nil
		}
		rows, _ := tx.Query(ctx, sqlPersonalParts, id) // CollectExactlyOneRow tells the error
		parts, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByNameLax[PersonalParts])
		if err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, sqlPersonalSteps, id)
		parts.Steps, err = pgx.CollectRows(rows, pgx.RowToStructByName[PersonalStep])
		v.Personal = &parts
		return err
	})
	if err != nil {
		return nil, told("read session "+id, err)
	}
	return v, nil
}

func viewSession(ctx context.Context, tx pgx.Tx, id string) (*SessionView, error) {
	v := &SessionView{}
	rows, _ := tx.Query(ctx, sqlSessionRow, id) // CollectOneRow tells the error
	state, err := pgx.CollectOneRow(rows, pgx.RowToAddrOfStructByName[SessionRow])
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	if err == nil {
		v.State = state
	}
	rows, _ = tx.Query(ctx, sqlSessionSteps, id)
	if v.Timeline, err = pgx.CollectRows(rows, pgx.RowToStructByName[SessionStep]); err != nil {
		return nil, err
	}
	if err := tx.QueryRow(ctx, sqlSessionWaiting, id).Scan(&v.Quarantined, &v.ThinPending); err != nil {
		return nil, err
	}
	if v.State == nil && v.Quarantined == 0 && v.ThinPending == 0 {
		return nil, ErrUnknownSession
	}
	return v, nil
}

// recorded runs read in a transaction that sees one moment, and in which the
// reader is recorded: who cannot be recorded reads nothing.
func (s *Store) recorded(ctx context.Context, session string, r Reader, read func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		// The record must outlive a crash; times are told in UTC.
		_, err := tx.Exec(ctx, `
SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
       set_config('TimeZone', 'UTC', true)`)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
INSERT INTO stripe_identity.pii_reads (who, command, session_id)
VALUES ($1, $2, $3)`, r.Who, r.Command, session)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotRecorded, err)
		}
		return read(tx)
	})
}

// errNotRecorded says that nothing personal may be shown.
var errNotRecorded = errors.New("record the reader in pii_reads")

// told puts an error of a read into words that may be logged.
func told(doing string, err error) error {
	switch {
	case errors.Is(err, ErrUnknownSession):
		return ErrUnknownSession
	case errors.Is(err, errNotRecorded):
		return plain(doing+": "+errNotRecorded.Error(), err)
	}
	return plain(doing, err)
}
