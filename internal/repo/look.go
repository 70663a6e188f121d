package repo

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"webhookd/internal/events"
)

// view is what stands, seen under the locks of its sessions.
type view struct {
	sessions    map[string]*events.Standing
	bare        map[string]bool  // made by the lock, empty so far
	wasGone     map[string]bool  // redacted before
	known       map[string]bool  // event ids that stand in events
	quarantined map[string]doubt // by event id, unresolved
	waiting     map[string]bool  // event ids that a thin event waits for
	outputs     map[string]events.Carrier
	details     map[string]events.Carrier
}

const (
	// What is acknowledged must outlive a crash, whatever the server's default is.
	// Every statement of a write reaches its rows by key. A plan that was made
	// while a table was small would go on reading all of it as it grows.
	sqlSettings = `
SELECT set_config('lock_timeout', $1, true),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
       set_config('plan_cache_mode', 'force_generic_plan', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)`

	// The condition that is never true makes the conflict a lock and nothing
	// else. The ids come sorted, so that two batches cannot wait for each other.
	// A new row begins with what its indexes hold: filling it is cheaper then.
	sqlLock = `
INSERT INTO stripe_identity.verification_sessions (id, client_reference_id)
SELECT id, reference FROM unnest($1::text[], $2::text[]) AS n (id, reference)
ON CONFLICT (id) DO UPDATE SET id = excluded.id WHERE false`

	sqlSessions = `
SELECT id, account, context, livemode, type, status, last_error_code,
       last_verification_report_id, client_reference_id, related_customer, related_customer_account,
       related_person, related_person_account, verification_flow, redaction_status, created_at, status_changed_at, coalesce(last_event_id, ''), last_event_created_at,
       needs_refresh, outputs_wanted_since, births, redacted, hidden, coalesce(told_by, last_event_id, '')
FROM stripe_identity.verification_sessions
WHERE id = ANY ($1)`

	// Events, and answers of the API with the row that each may have.
	sqlHistory = `
SELECT id, coalesce(event_id, ''), session_id, occurred_at, rank, event_type, coalesce(status, ''),
       coalesce(error_code, ''), coalesce(verification_report_id, ''), coalesce(redaction_status, ''), twin, type,
       NULL::timestamptz, false, NULL, NULL::boolean
FROM stripe_identity.status_transitions
WHERE session_id = ANY ($1) AND event_id IS NOT NULL
UNION ALL
SELECT coalesce(t.id, 0), '', a.session_id, a.told_until, 9, a.event_type, coalesce(a.status, ''),
       coalesce(a.error_code, ''), coalesce(a.verification_report_id, ''), coalesce(a.redaction_status, ''), NULL, a.type,
       a.told_from, a.outputs, a.account, a.livemode
FROM stripe_identity.answers a
LEFT JOIN stripe_identity.status_transitions t
    ON t.session_id = a.session_id AND t.occurred_at = a.told_until AND t.event_id IS NULL
WHERE a.session_id = ANY ($1)
ORDER BY 3, 4, 5, 2`

	sqlSeen = `
SELECT 'event' AS what, event_id, session_id, received_at FROM stripe_identity.events WHERE event_id = ANY ($2)
UNION ALL
SELECT CASE WHEN hides THEN 'hides' ELSE 'quarantined' END, event_id, coalesce(session_id, ''), received_at
FROM stripe_identity.quarantined_events
WHERE (event_id = ANY ($2) OR session_id = ANY ($1)) AND resolved_at IS NULL
UNION ALL
SELECT 'waiting', snapshot_event, session_id, received_at FROM stripe_identity.events
WHERE snapshot_event = ANY ($2) AND type LIKE 'v1.%' AND resolved_at IS NULL`

	sqlOutputsCarrier = `
SELECT session_id, told_at, told_rank, coalesce(told_by, ''), told_twin
FROM stripe_identity.verified_outputs WHERE session_id = ANY ($1)`

	sqlDetailsCarrier = `
SELECT session_id, told_at, told_rank, coalesce(told_by, ''), told_twin
FROM stripe_identity.provided_details WHERE session_id = ANY ($1)`
)

// look locks the sessions and reads what stands, in one round trip.
func look(ctx context.Context, conn *pgx.Conn, orders []*order, lockTimeout time.Duration) (*view, error) {
	sessionIDs, eventIDs, carries := concerned(orders)
	references := map[string]string{}
	for _, o := range orders {
		if e := o.event; e != nil && e.Session.ClientReferenceID.Has() {
			references[e.SessionID] = e.Session.ClientReferenceID.Value
		}
	}
	v := &view{
		sessions: make(map[string]*events.Standing, len(sessionIDs)), bare: map[string]bool{}, wasGone: map[string]bool{},
		known: map[string]bool{}, waiting: map[string]bool{},
		quarantined: map[string]doubt{},
		outputs:     map[string]events.Carrier{}, details: map[string]events.Carrier{},
	}
	itself := func(id string) string { return id }
	sessions, ids := strs(sessionIDs, itself), strs(eventIDs, itself)
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED") // each statement sees what the lock waited for
	b.Queue(sqlSettings, strconv.FormatInt(lockTimeout.Milliseconds(), 10))
	b.Queue(sqlLock, sessions, optional(sessionIDs, func(id string) string { return references[id] }))
	b.Queue(sqlSessions, sessions).Query(v.readSessions)
	b.Queue(sqlHistory, sessions).Query(v.readHistory)
	b.Queue(sqlSeen, sessions, ids).Query(v.readSeen)
	if carries {
		b.Queue(sqlOutputsCarrier, sessions).Query(func(r pgx.Rows) error { return readCarriers(r, v.outputs) })
		b.Queue(sqlDetailsCarrier, sessions).Query(func(r pgx.Rows) error { return readCarriers(r, v.details) })
	}
	return v, conn.SendBatch(ctx, b).Close()
}

// doubt is an event in quarantine.
type doubt struct {
	session  string
	received time.Time
}

// suspects reports whether an event of the session is in quarantine that came
// since Stripe's API was asked last.
func (v *view) suspects(s *events.Standing) bool {
	for _, d := range v.quarantined {
		if d.session == s.ID && !d.received.Before(s.AskedAt()) {
			return true
		}
	}
	return false
}

// concerned lists the sessions and events that orders name, each once, sorted.
func concerned(orders []*order) (sessionIDs, eventIDs []string, carries bool) {
	for _, o := range orders {
		if id := o.session(); id != "" {
			sessionIDs = append(sessionIDs, id)
		}
		if e := o.event; e != nil {
			eventIDs = append(eventIDs, e.ID)
			if e.SnapshotEvent.Has() {
				eventIDs = append(eventIDs, e.SnapshotEvent.Value)
			}
			carries = carries || e.Session.Outputs != nil || e.Session.Details != nil
		}
		carries = carries || o.answer != nil
	}
	slices.Sort(sessionIDs)
	slices.Sort(eventIDs)
	return slices.Compact(sessionIDs), slices.Compact(eventIDs), carries
}

func (v *view) readSessions(rows pgx.Rows) error {
	for rows.Next() {
		s := &events.Standing{}
		var births string
		err := rows.Scan(&s.ID, (*text)(&s.Account), (*text)(&s.Context), (*mode)(&s.Livemode), (*text)(&s.Type),
			(*text)(&s.Status), (*text)(&s.ErrorCode), (*text)(&s.ReportID),
			(*text)(&s.ClientReferenceID), (*text)(&s.RelatedCustomer), (*text)(&s.RelatedCustomerAccount),
			(*text)(&s.RelatedPerson), (*text)(&s.RelatedPersonAccount), (*text)(&s.VerificationFlow),
			(*text)(&s.RedactionStatus), (*moment)(&s.Created), (*moment)(&s.StatusChangedAt),
			&s.LastEventID, (*moment)(&s.LastEventCreatedAt), &s.NeedsRefresh, (*moment)(&s.OutputsWantedSince),
			&births, &s.Redacted, &s.Hidden, &s.ToldBy)
		if err != nil {
			return err
		}
		if s.Births, err = events.ParseBirths(births); err != nil {
			return err
		}
		v.bare[s.ID] = s.LastEventID == "" && !s.Redacted
		v.wasGone[s.ID] = s.Redacted
		v.sessions[s.ID] = s
	}
	return rows.Err()
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

func (v *view) readHistory(rows pgx.Rows) error {
	for rows.Next() {
		var (
			t              events.Step
			session        string
			occurred, from moment
			twin           []byte
		)
		err := rows.Scan(&t.Row, &t.ID, &session, &occurred, &t.Rank, &t.Type, &t.State.Status, &t.State.ErrorCode,
			&t.State.ReportID, &t.State.Redaction, &twin, (*text)(&t.Session), &from, &t.Outputs,
			(*text)(&t.Account), (*mode)(&t.Livemode))
		if err != nil {
			return err
		}
		t.Second = time.Time(occurred).Unix()
		copy(t.Twin[:], twin)
		if asked := time.Time(from); !asked.IsZero() {
			t.Answer, t.From, t.Shown, t.Source = true, asked.Unix(), t.Row != 0, events.SourceAPI
		}
		if s := v.sessions[session]; s != nil {
			s.Steps = append(s.Steps, t)
		}
	}
	return rows.Err()
}

func (v *view) readSeen(rows pgx.Rows) error {
	for rows.Next() {
		var what, id, session string
		var received time.Time
		if err := rows.Scan(&what, &id, &session, &received); err != nil {
			return err
		}
		switch what {
		case "event":
			v.known[id] = true
		case "waiting":
			v.waiting[id] = true
		default:
			v.quarantined[id] = doubt{session, received}
			if s := v.sessions[session]; s != nil {
				s.Hidden = s.Hidden || what == "hides"
			}
		}
	}
	return rows.Err()
}

func readCarriers(rows pgx.Rows, into map[string]events.Carrier) error {
	for rows.Next() {
		var (
			id   string
			at   time.Time
			c    events.Carrier
			twin []byte
		)
		if err := rows.Scan(&id, &at, &c.Rank, &c.ID, &twin); err != nil {
			return err
		}
		c.Second = at.Unix()
		copy(c.Twin[:], twin)
		into[id] = c
	}
	return rows.Err()
}
