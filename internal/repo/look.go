package repo

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// view is what stands, seen under the locks of its sessions.
type view struct {
	sessions    map[string]*session
	known       map[string]bool  // event ids that stand in events, as far as was read
	quarantined map[string]doubt // by event id, unresolved
	waiting     map[string]bool  // event ids that a thin event waits for
	outputs     map[string]events.Carrier
	details     map[string]events.Carrier
	answered    []string            // sessions that Stripe's API was asked about
	shown       map[answerKey]int64 // rows of history that only an answer tells
}

// answerKey is which answer of the API: a session has one that ends in a second.
type answerKey struct {
	session string
	second  int64
}

// session is what stands of one, and where its row was found.
type session struct {
	events.Standing
	place   [6]byte // of the locked row (ctid)
	unseen  bool    // there is no row so far
	wasGone bool    // redacted before
	wanted  wanted
	touched bool // by an order
	counted bool // and not only by reconcile's, whose steps no metric counts

	digest      [16]byte // of the options and metadata that the row has; zero if unknown
	sameContent bool     // nothing has to be written of them
}

const (
	// What is acknowledged must outlive a crash, whatever the server's default is.
	// Who has vanished with its host holds no session longer than a commit may take:
	// TCP alone would notice after two hours.
	// Every statement of a write reaches its rows by key. A plan that was made
	// while a table was small would go on reading all of it as it grows.
	sqlSettings = `
SELECT set_config(name, value, $2::boolean)
FROM (VALUES
    ('lock_timeout', $1::text), ('idle_in_transaction_session_timeout', $3::text),
    ('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END),
    ('plan_cache_mode', 'force_generic_plan'),
    ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('jit', 'off')
) AS s (name, value)`

	sqlLockTimeout = `SELECT set_config('lock_timeout', $1, true)`

	// Locks come in the order of the ids, so that two batches cannot wait for each
	// other. Of a row that was locked this tells what stands once the lock is had.
	sqlSessions = `
SELECT id, account, context, livemode, type, status, last_error_code, last_error_reason,
       last_verification_report_id, client_reference_id, related_customer, related_customer_account,
       related_person, related_person_account, verification_flow, redaction_status, created_at, status_changed_at, last_event_id, last_event_created_at,
       needs_refresh, outputs_wanted_since, births, redacted, hidden, coalesce(told_by, last_event_id), content_digest,
       fetched_until IS NOT NULL, ctid
FROM stripe_identity.verification_sessions
WHERE id = ANY ($1)
ORDER BY id
FOR UPDATE`

	sqlAnswers = `
SELECT session_id, told_until, told_from, outputs, event_type, type, status, error_code, verification_report_id,
       redaction_status, account, livemode
FROM stripe_identity.answers
WHERE session_id = ANY ($1)`

	sqlHistory = `
SELECT id, event_id, session_id, occurred_at, event_type, rank, status, error_code, verification_report_id,
       redaction_status, twin, type
FROM stripe_identity.status_transitions
WHERE session_id = ANY ($1)`

	// The history, and without an id what else is known of events: its event_type
	// says what that is. One statement, because each costs some ten microseconds.
	sqlKnown = sqlHistory + `
UNION ALL
SELECT NULL, event_id, NULL, NULL, 'recorded', NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM stripe_identity.events
WHERE event_id = ANY ($2)
UNION ALL
SELECT NULL, event_id, session_id, received_at, CASE WHEN hides THEN 'hides' ELSE 'quarantined' END, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM stripe_identity.quarantined_events
WHERE (event_id = ANY ($2) OR session_id = ANY ($1)) AND coalesce(resolved_at, 'infinity') = 'infinity'
UNION ALL
SELECT NULL, snapshot_event, NULL, NULL, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM stripe_identity.events
WHERE snapshot_event = ANY ($2) AND type LIKE 'v1.%' AND resolved_at IS NULL`

	sqlOutputsCarrier = `
SELECT session_id, told_at, told_rank, told_by, told_twin
FROM stripe_identity.verified_outputs WHERE session_id = ANY ($1)`

	sqlDetailsCarrier = `
SELECT session_id, told_at, told_rank, told_by, told_twin
FROM stripe_identity.provided_details WHERE session_id = ANY ($1)`
)

// look locks the sessions and reads what stands: in one round trip, or in two if
// Stripe's API was asked about one of them before. Unless all is to be read, it
// takes for granted what is almost always so and is made sure of before COMMIT:
// that an event outside the history is new, that nothing of these sessions is in
// quarantine, that no thin event waits for these events.
func (s *Store) look(ctx context.Context, conn *pgx.Conn, p *pipeline, orders []*order, lockTimeout time.Duration, all bool) (*view, error) {
	sessionIDs, eventIDs, carries := concerned(orders)
	v := &view{
		sessions: make(map[string]*session, len(sessionIDs)), known: make(map[string]bool, len(eventIDs)),
		waiting: map[string]bool{}, quarantined: map[string]doubt{},
		outputs: map[string]events.Carrier{}, details: map[string]events.Carrier{}, shown: map[answerKey]int64{},
	}
	sessions, steps := make([]session, len(sessionIDs)), make([]events.Step, len(sessionIDs)*usualSteps)
	for i, id := range sessionIDs {
		s := &sessions[i]
		s.ID, s.unseen, s.Steps = id, true, steps[i*usualSteps:i*usualSteps:(i+1)*usualSteps]
		v.sessions[id] = s
	}
	ask := func(sql string, read func(*row)) {
		p.add(sql, read)
		strs(p, sessionIDs, itself)
	}
	p.add("BEGIN ISOLATION LEVEL READ COMMITTED", nil) // each statement sees what the lock waited for
	switch {
	case conn.PgConn().CustomData()[setting] == nil:
		p.add(sqlSettings, nil)
		p.text(milliseconds(lockTimeout))
		p.flag(true)
		p.text(milliseconds(s.patience))
	case lockTimeout != s.batchLock:
		p.add(sqlLockTimeout, nil)
		p.text(milliseconds(lockTimeout))
	}
	ask(sqlSessions, v.readSession)
	if all {
		ask(sqlKnown, v.readKnown)
		strs(p, eventIDs, itself)
	} else {
		ask(sqlHistory, v.readKnown)
	}
	if carries {
		ask(sqlOutputsCarrier, func(r *row) { readCarrier(r, v.outputs) })
		ask(sqlDetailsCarrier, func(r *row) { readCarrier(r, v.details) })
	}
	if err := p.run(ctx, conn); err != nil {
		return nil, err
	}
	if len(v.answered) > 0 {
		p.add(sqlAnswers, v.readAnswer)
		strs(p, v.answered, itself)
		if err := p.run(ctx, conn); err != nil {
			return nil, err
		}
	}
	for _, s := range v.sessions {
		slices.SortFunc(s.Steps, func(a, b events.Step) int { return a.Compare(b.Key) })
	}
	return v, nil
}

// setting marks connections that have the settings of writes by themselves.
const setting = "set for writes"

// setForWrites gives a connection the settings of writes for as long as it
// stands. Where a pooler answers, it is another server's tomorrow: then each
// transaction sets them.
func (s *Store) setForWrites(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // the pool has no limit of its own
	defer cancel()
	var backend uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&backend); err != nil {
		return err
	}
	if backend != conn.PgConn().PID() {
		return nil
	}
	_, err := conn.Exec(ctx, sqlSettings, milliseconds(s.batchLock), false, milliseconds(s.patience))
	conn.PgConn().CustomData()[setting] = true
	return err
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func itself(id string) string { return id }

// doubt is an event in quarantine.
type doubt struct {
	session  string
	received time.Time
}

// suspects reports whether an event of the session is in quarantine that came
// since Stripe's API was asked last.
func (v *view) suspects(s *session) bool {
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

// usualSteps is how long a history is for which no memory is asked again.
const usualSteps = 4

func (v *view) readSession(r *row) {
	s := v.sessions[string(r.raw())]
	if s == nil {
		return
	}
	s.unseen = false
	s.Account, s.Context, s.Livemode, s.Type, s.Status = r.text(), r.text(), r.mode(), r.text(), r.text()
	s.ErrorCode, s.ErrorReason, s.ReportID, s.ClientReferenceID = r.text(), r.text(), r.text(), r.text()
	s.RelatedCustomer, s.RelatedCustomerAccount = r.text(), r.text()
	s.RelatedPerson, s.RelatedPersonAccount, s.VerificationFlow = r.text(), r.text(), r.text()
	s.RedactionStatus, s.Created, s.StatusChangedAt = r.text(), r.time(), r.time()
	s.LastEventID, s.LastEventCreatedAt, s.NeedsRefresh, s.OutputsWantedSince = r.str(), r.time(), r.bool(), r.time()
	births, err := events.ParseBirths(r.str())
	if err != nil {
		r.err = errForm
	}
	s.Births, s.Redacted, s.Hidden, s.ToldBy = births, r.bool(), r.bool(), r.like(s.LastEventID)
	copy(s.digest[:], r.raw())
	if r.bool() {
		v.answered = append(v.answered, s.ID)
	}
	copy(s.place[:], r.raw())
	s.wasGone = s.Redacted
	s.wanted = wanted{s.NeedsRefresh && !s.Hidden, s.OutputsWantedSince}
}

// readAnswer reads an answer of the API. The row of history that it may have
// was read before.
func (v *view) readAnswer(r *row) {
	s := v.sessions[string(r.raw())]
	t := events.Step{Answer: true, Source: events.SourceAPI}
	t.Second, t.Rank, t.From, t.Outputs = r.time().Unix(), events.AnswerRank, r.time().Unix(), r.bool()
	t.Type, t.Session = r.str(), r.text()
	t.State = events.State{Status: r.str(), ErrorCode: r.str(), ReportID: r.str(), Redaction: r.str()}
	t.Account, t.Livemode = r.text(), r.mode()
	t.Row, t.Shown = v.shown[answerKey{s.ID, t.Second}]
	s.Steps = append(s.Steps, t)
}

// readKnown reads a row of history, or what is known of an event.
func (v *view) readKnown(r *row) {
	t := events.Step{Row: r.int64()}
	t.ID = r.str()
	session := r.raw()
	at := r.time()
	t.Type = r.str()
	s := v.sessions[string(session)]
	switch {
	case t.Row != 0 && s != nil:
		v.readStep(r, s, t, at.Unix())
	case t.Row != 0:
	case t.Type == "recorded":
		v.known[t.ID] = true
	case t.Type == "waiting":
		v.waiting[t.ID] = true
	default:
		v.quarantined[t.ID] = doubt{string(session), at}
		if s != nil {
			s.Hidden = s.Hidden || t.Type == "hides" && !s.Redacted
		}
	}
}

func (v *view) readStep(r *row, s *session, t events.Step, second int64) {
	t.Second, t.Rank = second, int(r.int64())
	if t.ID == "" {
		v.shown[answerKey{s.ID, t.Second}] = t.Row
		return
	}
	v.known[t.ID] = true
	t.State = events.State{Status: r.str(), ErrorCode: r.str(), ReportID: r.str(), Redaction: r.str()}
	copy(t.Twin[:], r.raw())
	t.Session = r.text()
	s.Steps = append(s.Steps, t)
}

func readCarrier(r *row, into map[string]events.Carrier) {
	var c events.Carrier
	id := r.str()
	c.Second, c.Rank, c.ID = r.time().Unix(), int(r.int64()), r.str()
	copy(c.Twin[:], r.raw())
	into[id] = c
}
