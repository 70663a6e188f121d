package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// Record writes one event and answers what became of it once it is committed.
// A Foreign event is none of the store's business.
//
// It fails with [events.ErrLocked] when somebody else holds the session, with
// [context.DeadlineExceeded] when ctx ends first, and otherwise when the
// database is not at hand; then nothing is recorded, or, if the connection
// broke during COMMIT, the next delivery of the event is a duplicate.
func (s *Store) Record(ctx context.Context, e *events.Event) (events.Outcome, error) {
	o := &order{event: e}
	if err := s.carryOut(ctx, []*order{o}); err != nil {
		return "", fmt.Errorf("record event %s: %w", e.ID, err)
	}
	return o.outcome, nil
}

// Redact erases sessions for good, also such as were never seen: what is left
// is a tombstone that no later event brings back to life.
func (s *Store) Redact(ctx context.Context, sessionIDs ...string) error {
	for _, id := range sessionIDs {
		if err := s.carryOut(ctx, []*order{{redact: id}}); err != nil {
			return fmt.Errorf("redact session %s: %w", id, err)
		}
	}
	return nil
}

// order is one thing to write: an event, or an operator's redaction.
type order struct {
	event  *events.Event
	redact string // a session's id, instead of an event

	outcome events.Outcome
}

func (o *order) session() string {
	if o.event == nil {
		return o.redact
	}
	return o.event.SessionID
}

// tries bounds how often one transaction is begun anew after a deadlock.
const tries = 10

// carryOut writes orders in one transaction, and sees to it that an event that
// PostgreSQL cannot hold ends in quarantine.
func (s *Store) carryOut(ctx context.Context, orders []*order) error {
	for try := 1; ; try++ {
		err := s.transact(ctx, orders)
		if err == nil {
			return nil
		}
		switch blame, code := blameFor(err); {
		case blame == chance && try < tries && ctx.Err() == nil:
			continue
		case blame == theEvents && len(orders) == 1 && orders[0].event != nil && orders[0].event.Kind != events.Broken:
			s.metrics.rejected.Inc()
			orders[0].event = refused(orders[0].event, code)
			continue
		}
		return plain("write", err)
	}
}

// refused is the event as it goes into quarantine after PostgreSQL refused it.
func refused(e *events.Event, code string) *events.Event {
	q := *e
	q.Kind, q.Fault, q.Session = events.Broken, "refused by PostgreSQL, SQLSTATE "+code, events.Session{}
	q.Hides = e.Session.Redaction.Has() || e.Type == events.TypeRedacted
	return &q
}

// transact is the road of every write: lock, look, decide, write, commit.
func (s *Store) transact(ctx context.Context, orders []*order) (err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	begun := time.Now()
	defer func() {
		if err != nil {
			// The connection may be gone already; then the server rolls back.
			rollback, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = conn.Exec(rollback, "ROLLBACK")
			return
		}
		s.metrics.commitDuration.Observe(time.Since(begun).Seconds())
		s.metrics.commitEvents.Observe(float64(len(orders)))
	}()
	v, err := s.look(ctx, conn.Conn(), orders)
	if err != nil {
		return err
	}
	w := s.decide(orders, v)
	return s.write(ctx, conn.Conn(), w)
}

// view is what stands, seen under the locks of its sessions.
type view struct {
	sessions    map[string]*events.Standing
	bare        map[string]bool   // made by the lock, empty so far
	wasGone     map[string]bool   // redacted before
	known       map[string]bool   // event ids that stand in events
	quarantined map[string]string // unresolved event ids, with the session that each concerns
	waiting     map[string]bool   // event ids that a thin event waits for
	outputs     map[string]events.Carrier
	details     map[string]events.Carrier
}

const (
	sqlLockTimeout = `SELECT set_config('lock_timeout', $1, true)`

	// The condition that is never true makes the conflict a lock and nothing
	// else. The ids come sorted, so that two batches cannot wait for each other.
	sqlLock = `
INSERT INTO stripe_identity.verification_sessions (id)
SELECT id FROM unnest($1::text[]) AS id
ON CONFLICT (id) DO UPDATE SET id = excluded.id WHERE false`

	sqlSessions = `
SELECT id, account, context, livemode, type, status, last_error_code, last_error_reason,
       last_verification_report_id, client_reference_id, related_customer, related_customer_account,
       related_person, related_person_account, verification_flow, options::text, metadata::text,
       redaction_status, created_at, status_changed_at, last_event_id, last_event_created_at,
       needs_refresh, outputs_wanted_since, births, redacted, hidden
FROM stripe_identity.verification_sessions
WHERE id = ANY ($1)`

	sqlHistory = `
SELECT id, coalesce(event_id, ''), session_id, occurred_at, rank, event_type, coalesce(status, ''),
       coalesce(error_code, ''), coalesce(verification_report_id, ''), coalesce(redaction_status, ''), twin, type
FROM stripe_identity.status_transitions
WHERE session_id = ANY ($1)
ORDER BY session_id, occurred_at, rank, coalesce(event_id, '')`

	sqlSeen = `
SELECT 'event' AS what, event_id, session_id FROM stripe_identity.events WHERE event_id = ANY ($2)
UNION ALL
SELECT CASE WHEN hides THEN 'hides' ELSE 'quarantined' END, event_id, coalesce(session_id, '')
FROM stripe_identity.quarantined_events
WHERE (event_id = ANY ($2) OR session_id = ANY ($1)) AND resolved_at IS NULL
UNION ALL
SELECT 'waiting', snapshot_event, session_id FROM stripe_identity.events
WHERE snapshot_event = ANY ($2) AND type LIKE 'v1.%' AND resolved_at IS NULL`

	sqlOutputsCarrier = `
SELECT session_id, told_at, told_rank, coalesce(told_by, ''), told_twin
FROM stripe_identity.verified_outputs WHERE session_id = ANY ($1)`

	sqlDetailsCarrier = `
SELECT session_id, told_at, told_rank, coalesce(told_by, ''), told_twin
FROM stripe_identity.provided_details WHERE session_id = ANY ($1)`
)

// look locks the sessions and reads what stands, in one round trip.
func (s *Store) look(ctx context.Context, conn *pgx.Conn, orders []*order) (*view, error) {
	sessionIDs, eventIDs, carries := concerned(orders)
	v := &view{
		sessions: make(map[string]*events.Standing, len(sessionIDs)), bare: map[string]bool{}, wasGone: map[string]bool{},
		known: map[string]bool{}, waiting: map[string]bool{},
		quarantined: map[string]string{},
		outputs:     map[string]events.Carrier{}, details: map[string]events.Carrier{},
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(sqlLockTimeout, fmt.Sprint(s.opt.LockTimeout.Milliseconds())).QueryRow(func(row pgx.Row) error { return row.Scan(nil) })
	b.Queue(sqlLock, sessionIDs)
	b.Queue(sqlSessions, sessionIDs).Query(v.readSessions)
	b.Queue(sqlHistory, sessionIDs).Query(v.readHistory)
	b.Queue(sqlSeen, sessionIDs, eventIDs).Query(v.readSeen)
	if carries {
		b.Queue(sqlOutputsCarrier, sessionIDs).Query(func(r pgx.Rows) error { return readCarriers(r, v.outputs) })
		b.Queue(sqlDetailsCarrier, sessionIDs).Query(func(r pgx.Rows) error { return readCarriers(r, v.details) })
	}
	return v, conn.SendBatch(ctx, b).Close()
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
	}
	slices.Sort(sessionIDs)
	slices.Sort(eventIDs)
	return slices.Compact(sessionIDs), slices.Compact(eventIDs), carries
}

func (v *view) readSessions(rows pgx.Rows) error {
	for rows.Next() {
		var (
			s                                                        events.Standing
			account, context, typ, status, code, reason, report      *string
			reference, customer, customerAccount, person, personAcct *string
			flow, options, metadata, redaction, lastEvent            *string
			created, changed, lastCreated, wanted                    *time.Time
			live                                                     *bool
			births                                                   string
		)
		err := rows.Scan(&s.ID, &account, &context, &live, &typ, &status, &code, &reason, &report, &reference,
			&customer, &customerAccount, &person, &personAcct, &flow, &options, &metadata, &redaction,
			&created, &changed, &lastEvent, &lastCreated, &s.NeedsRefresh, &wanted, &births,
			&s.Redacted, &s.Hidden)
		if err != nil {
			return err
		}
		for dst, src := range map[*events.Text]*string{
			&s.Account: account, &s.Context: context, &s.Type: typ, &s.Status: status, &s.ErrorCode: code,
			&s.ErrorReason: reason, &s.ReportID: report, &s.ClientReferenceID: reference,
			&s.RelatedCustomer: customer, &s.RelatedCustomerAccount: customerAccount, &s.RelatedPerson: person,
			&s.RelatedPersonAccount: personAcct, &s.VerificationFlow: flow, &s.RedactionStatus: redaction,
		} {
			*dst = events.TextOf(src)
		}
		s.Livemode = events.ModeOf(live)
		s.Options, s.Metadata = bytesOf(options), bytesOf(metadata)
		s.LastEventID = events.TextOf(lastEvent).Value
		s.Created, s.StatusChangedAt, s.LastEventCreatedAt, s.OutputsWantedSince =
			timeOf(created), timeOf(changed), timeOf(lastCreated), timeOf(wanted)
		if s.Births, err = events.ParseBirths(births); err != nil {
			return err
		}
		v.bare[s.ID] = lastEvent == nil && !s.Redacted
		v.wasGone[s.ID] = s.Redacted
		v.sessions[s.ID] = &s
	}
	return rows.Err()
}

func (v *view) readHistory(rows pgx.Rows) error {
	for rows.Next() {
		var (
			t        events.Step
			session  string
			occurred time.Time
			twin     []byte
			typ      *string
		)
		err := rows.Scan(&t.Row, &t.ID, &session, &occurred, &t.Rank, &t.Type, &t.State.Status, &t.State.ErrorCode,
			&t.State.ReportID, &t.State.Redaction, &twin, &typ)
		if err != nil {
			return err
		}
		t.Second, t.Session = occurred.Unix(), events.TextOf(typ)
		copy(t.Twin[:], twin)
		if s := v.sessions[session]; s != nil {
			s.Steps = append(s.Steps, t)
		}
	}
	return rows.Err()
}

func (v *view) readSeen(rows pgx.Rows) error {
	for rows.Next() {
		var what, id, session string
		if err := rows.Scan(&what, &id, &session); err != nil {
			return err
		}
		switch what {
		case "event":
			v.known[id] = true
		case "waiting":
			v.waiting[id] = true
		default:
			v.quarantined[id] = session
			if s := v.sessions[session]; s != nil {
				s.Suspect, s.Hidden = true, s.Hidden || what == "hides"
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

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func bytesOf(s *string) []byte {
	if s == nil {
		return nil
	}
	return []byte(*s)
}

// writes is what a decision puts into the database.
type writes struct {
	events      []*events.Event
	sessions    []*events.Standing // by id
	quarantined []*events.Event
	outputs     map[string]*events.Event // by session
	details     map[string]*events.Event
	gone        []string // sessions to erase
	bare        []string // rows that only the lock made
	released    []string // event ids that leave quarantine
	arrived     []string // event ids that thin events waited for
	advanced    bool     // there are new transitions

	isGone        func(sessionID string) bool
	snapshotKnown func(thin *events.Event) bool
}

// decide folds the orders, one after the other, into what stands.
func (s *Store) decide(orders []*order, v *view) *writes {
	w := &writes{outputs: map[string]*events.Event{}, details: map[string]*events.Event{}}
	touched := map[string]*events.Standing{}
	for _, o := range orders {
		e, standing := o.event, v.sessions[o.session()]
		switch {
		case e == nil:
			standing.Redact()
		case v.known[e.ID]:
			o.outcome = events.Duplicate
			continue
		case e.Kind == events.Broken:
			if _, again := v.quarantined[e.ID]; again {
				o.outcome = events.Duplicate
				continue
			}
			o.outcome = events.Quarantined
			v.quarantined[e.ID] = e.SessionID
			w.quarantined = append(w.quarantined, e)
			if standing == nil {
				continue
			}
			standing.Doubt(e.Hides)
		default:
			if _, released := v.quarantined[e.ID]; released {
				delete(v.quarantined, e.ID)
				w.released = append(w.released, e.ID)
				standing.Suspect = v.suspects(standing.ID)
			}
			o.outcome = s.take(standing, e, v, w)
			w.advanced = w.advanced || o.outcome.Recorded()
			v.known[e.ID] = true
			w.events = append(w.events, e)
			if v.waiting[e.ID] {
				w.arrived = append(w.arrived, e.ID)
			}
		}
		touched[standing.ID] = standing
	}
	for id, standing := range v.sessions {
		switch {
		case v.bare[id] && len(standing.Steps) == 0 && !standing.Redacted:
			w.bare = append(w.bare, id)
		case touched[id] != nil:
			if s.opt.NoOutputs {
				standing.OutputsWantedSince = time.Time{}
			}
			w.sessions = append(w.sessions, standing)
			if standing.Redacted && !v.wasGone[id] {
				w.gone = append(w.gone, id)
			}
		}
	}
	slices.SortFunc(w.sessions, func(a, b *events.Standing) int { return strings.Compare(a.ID, b.ID) })
	w.isGone = func(id string) bool { return v.sessions[id] != nil && v.sessions[id].Redacted }
	w.snapshotKnown = func(e *events.Event) bool { return v.known[e.SnapshotEvent.Value] }
	return w
}

func (s *Store) take(standing *events.Standing, e *events.Event, v *view, w *writes) events.Outcome {
	if e.Kind == events.Snapshot {
		s.carry(e, v, w)
		return standing.Take(e)
	}
	if e.Type == events.ThinType(events.TypeRedacted) {
		// Stripe has erased it: what is ours to erase does not wait for the API.
		standing.Redact()
	}
	return events.Queued
}

// suspects reports whether an event of the session is in quarantine.
func (v *view) suspects(session string) bool {
	for _, s := range v.quarantined {
		if s == session {
			return true
		}
	}
	return false
}

// carry notes that an event brought outputs or provided details, if it is the
// newest that does.
func (s *Store) carry(e *events.Event, v *view, w *writes) {
	c := events.Carrier{Key: e.Key(), Twin: e.Twin()}
	for _, kind := range []struct {
		told bool
		now  map[string]events.Carrier
		out  map[string]*events.Event
	}{
		{e.Session.Outputs != nil && !s.opt.NoOutputs, v.outputs, w.outputs},
		{e.Session.Details != nil && !s.opt.NoOutputs, v.details, w.details},
	} {
		before, stands := kind.now[e.SessionID]
		if kind.told && (!stands || c.Supersedes(before)) {
			kind.now[e.SessionID], kind.out[e.SessionID] = c, e
		}
	}
}
