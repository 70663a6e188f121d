package repo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"webhookd/internal/events"
)

const (
	sqlInsertEvents = `
INSERT INTO stripe_identity.events (
    event_id, type, session_id, account, context, livemode, api_version, request_id,
    snapshot_event, created_at, received_at, source, secret_name, payload, resolved_at)
SELECT event_id, type, session_id, account, context, livemode, api_version, request_id,
       snapshot_event, created_at, received_at, source, secret_name, payload::jsonb, resolved_at
FROM (
    SELECT unnest($1::text[]) AS event_id, unnest($2::text[]) AS type, unnest($3::text[]) AS session_id,
           unnest($4::text[]) AS account, unnest($5::text[]) AS context, unnest($6::boolean[]) AS livemode,
           unnest($7::text[]) AS api_version, unnest($8::text[]) AS request_id, unnest($9::text[]) AS snapshot_event,
           unnest($10::timestamptz[]) AS created_at, unnest($11::timestamptz[]) AS received_at,
           unnest($12::text[]) AS source, unnest($13::text[]) AS secret_name, unnest($14::text[]) AS payload,
           unnest($15::timestamptz[]) AS resolved_at
) e`

	sqlInsertTransitions = `
INSERT INTO stripe_identity.status_transitions (
    event_id, session_id, account, livemode, type, event_type, status, error_code, error_reason,
    verification_report_id, redaction_status, occurred_at, source, rank, twin, options, metadata, previous_status, previous_at)
SELECT event_id, session_id, account, livemode, type, event_type, status, error_code, error_reason,
       verification_report_id, redaction_status, occurred_at, source, rank, twin, options::jsonb, metadata::jsonb, previous_status, previous_at
FROM (
    SELECT unnest($1::text[]) AS event_id, unnest($2::text[]) AS session_id, unnest($3::text[]) AS account,
           unnest($4::boolean[]) AS livemode, unnest($5::text[]) AS type, unnest($6::text[]) AS event_type,
           unnest($7::text[]) AS status, unnest($8::text[]) AS error_code, unnest($9::text[]) AS error_reason,
           unnest($10::text[]) AS verification_report_id, unnest($11::text[]) AS redaction_status,
           unnest($12::timestamptz[]) AS occurred_at, unnest($13::text[]) AS source, unnest($14::smallint[]) AS rank,
           unnest($15::bytea[]) AS twin, unnest($16::text[]) AS options, unnest($17::text[]) AS metadata,
           unnest($18::text[]) AS previous_status, unnest($19::timestamptz[]) AS previous_at
) t`

	// A twin with a smaller id takes the row over, or the event that an answer
	// of the API was ahead of.
	sqlReplaceTransition = `
UPDATE stripe_identity.status_transitions
SET event_id = $2, account = $3, livemode = $4, type = $5, error_reason = $6, options = $7::text::jsonb, source = $8,
    event_type = $9, occurred_at = $10, rank = $11, twin = $12, metadata = $13::text::jsonb
WHERE id = $1`

	sqlForgetTransitions = `
DELETE FROM stripe_identity.status_transitions WHERE id = ANY ($1)`

	sqlUpsertAnswer = `
INSERT INTO stripe_identity.answers (
    session_id, told_until, told_from, outputs, event_type, type, status, error_code, verification_report_id,
    redaction_status, account, livemode)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (session_id, told_until) DO UPDATE
SET (told_from, outputs, event_type, type, status, error_code, verification_report_id, redaction_status, account, livemode)
  = (excluded.told_from, excluded.outputs, excluded.event_type, excluded.type, excluded.status, excluded.error_code,
     excluded.verification_report_id, excluded.redaction_status, excluded.account, excluded.livemode)`

	// A session that is asked for again and again keeps its last answers, those
	// that are a row of history, and the last one that was asked for outputs.
	sqlForgetAnswers = `
DELETE FROM stripe_identity.answers a
WHERE session_id = $1
  AND told_until < (
    SELECT told_until FROM stripe_identity.answers WHERE session_id = $1 ORDER BY told_until DESC OFFSET 49 LIMIT 1)
  AND told_until IS DISTINCT FROM (SELECT max(told_until) FROM stripe_identity.answers WHERE session_id = $1 AND outputs)
  AND NOT EXISTS (
    SELECT FROM stripe_identity.status_transitions WHERE session_id = $1 AND occurred_at = a.told_until AND event_id IS NULL)`

	// What came late, or moved, has new neighbours.
	sqlRelink = `
UPDATE stripe_identity.status_transitions t
SET previous_status = p.status, previous_at = p.occurred_at
FROM (
    SELECT id, lag(status) OVER history AS status, lag(occurred_at) OVER history AS occurred_at
    FROM stripe_identity.status_transitions
    WHERE session_id = ANY ($1)
    WINDOW history AS (PARTITION BY session_id ORDER BY occurred_at, rank, coalesce(event_id, ''))
) p
WHERE t.id = p.id AND t.session_id = ANY ($1)
  AND (t.previous_status, t.previous_at) IS DISTINCT FROM (p.status, p.occurred_at)`

	// A row is reached by the place at which it was locked: no plan can turn that
	// into a search, whatever the tables' size was when it was made. A session that
	// somebody else has made meanwhile breaks the key, and the write begins anew.
	// Content without a digest is what stands already.
	sqlWriteSessions = `
MERGE INTO stripe_identity.verification_sessions AS s
USING (
    SELECT unnest($1::text[]) AS id, unnest($2::text[]) AS account, unnest($3::text[]) AS context,
           unnest($4::boolean[]) AS livemode, unnest($5::text[]) AS type, unnest($6::text[]) AS status,
           unnest($7::text[]) AS last_error_code, unnest($8::text[]) AS last_error_reason,
           unnest($9::text[]) AS last_verification_report_id, unnest($10::text[]) AS client_reference_id,
           unnest($11::text[]) AS related_customer, unnest($12::text[]) AS related_customer_account,
           unnest($13::text[]) AS related_person, unnest($14::text[]) AS related_person_account,
           unnest($15::text[]) AS verification_flow, unnest($16::text[]) AS redaction_status,
           unnest($17::timestamptz[]) AS created_at, unnest($18::timestamptz[]) AS status_changed_at,
           unnest($19::text[]) AS last_event_id, unnest($20::timestamptz[]) AS last_event_created_at,
           unnest($21::boolean[]) AS needs_refresh, unnest($22::timestamptz[]) AS outputs_wanted_since,
           unnest($23::text[]) AS births, unnest($24::boolean[]) AS redacted, unnest($25::boolean[]) AS hidden,
           unnest($26::text[]) AS told_by, unnest($27::timestamptz[]) AS fetched_from,
           unnest($28::timestamptz[]) AS fetched_until, unnest($29::text[]) AS options,
           unnest($30::text[]) AS metadata, unnest($31::bytea[]) AS content_digest, unnest($32::tid[]) AS place
) AS n
ON s.ctid = n.place
WHEN MATCHED THEN UPDATE
SET id = n.id, -- breaks the key if it were another one's place
    (account, context, livemode, type, status, last_error_code, last_error_reason, last_verification_report_id,
     client_reference_id, related_customer, related_customer_account, related_person, related_person_account,
     verification_flow, redaction_status, created_at, status_changed_at, last_event_id, last_event_created_at,
     needs_refresh, outputs_wanted_since, births, redacted, hidden, told_by, fetched_from, fetched_until, updated_at)
  = (n.account, n.context, n.livemode, n.type, n.status, n.last_error_code, n.last_error_reason, n.last_verification_report_id,
     n.client_reference_id, n.related_customer, n.related_customer_account, n.related_person, n.related_person_account,
     n.verification_flow, n.redaction_status, n.created_at, n.status_changed_at, n.last_event_id, n.last_event_created_at,
     n.needs_refresh, n.outputs_wanted_since, n.births, n.redacted, n.hidden, n.told_by, n.fetched_from, n.fetched_until, now()),
    options = CASE WHEN n.content_digest IS NULL THEN s.options ELSE n.options::jsonb END,
    metadata = CASE WHEN n.content_digest IS NULL AND NOT n.redacted THEN s.metadata ELSE n.metadata::jsonb END,
    content_digest = CASE WHEN NOT n.redacted THEN coalesce(n.content_digest, s.content_digest) END
WHEN NOT MATCHED THEN INSERT (
    id, account, context, livemode, type, status, last_error_code, last_error_reason, last_verification_report_id,
    client_reference_id, related_customer, related_customer_account, related_person, related_person_account,
    verification_flow, redaction_status, created_at, status_changed_at, last_event_id, last_event_created_at,
    needs_refresh, outputs_wanted_since, births, redacted, hidden, told_by, fetched_from, fetched_until, options,
    metadata, content_digest)
VALUES (
    n.id, n.account, n.context, n.livemode, n.type, n.status, n.last_error_code, n.last_error_reason, n.last_verification_report_id,
    n.client_reference_id, n.related_customer, n.related_customer_account, n.related_person, n.related_person_account,
    n.verification_flow, n.redaction_status, n.created_at, n.status_changed_at, n.last_event_id, n.last_event_created_at,
    n.needs_refresh, n.outputs_wanted_since, n.births, n.redacted, n.hidden, n.told_by, n.fetched_from, n.fetched_until, n.options::jsonb,
    n.metadata::jsonb, CASE WHEN NOT n.redacted THEN n.content_digest END)`

	// What only history holds.
	sqlReload = `
UPDATE stripe_identity.verification_sessions s
SET last_error_reason = CASE WHEN NOT s.redacted THEN t.error_reason END,
    options = t.options,
    metadata = CASE
        WHEN s.redacted THEN NULL
        WHEN t.metadata IS NULL AND e.payload IS NULL THEN s.metadata -- retention took it: better what stands
        ELSE coalesce(t.metadata, jsonb_path_query_first(e.payload, '$.data.object.metadata ? (@.type() == "object")'))
    END,
    content_digest = NULL
FROM stripe_identity.status_transitions t, stripe_identity.events e
WHERE s.id = $1 AND t.event_id = $2 AND e.event_id = $2`

	sqlUpsertOutputs = `
INSERT INTO stripe_identity.verified_outputs (
    session_id, first_name, last_name, dob, dob_day, dob_month, dob_year, address_line1, address_line2, address_city,
    address_state, address_postal_code, address_country, id_number, id_number_type, email, phone, sex,
    unparsed_place_of_birth, unparsed_sex, verification_report_id, unreadable_fields, extra, source, fetched_at,
    told_at, told_rank, told_by, told_twin)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
        $23::text::jsonb, $24, $25, $26, $27, $28, $29)
ON CONFLICT (session_id) DO UPDATE
SET (first_name, last_name, dob, dob_day, dob_month, dob_year, address_line1, address_line2, address_city,
     address_state, address_postal_code, address_country, id_number, id_number_type, email, phone, sex,
     unparsed_place_of_birth, unparsed_sex, verification_report_id, unreadable_fields, extra, source, fetched_at,
     told_at, told_rank, told_by, told_twin)
  = (excluded.first_name, excluded.last_name, excluded.dob, excluded.dob_day, excluded.dob_month, excluded.dob_year,
     excluded.address_line1, excluded.address_line2, excluded.address_city, excluded.address_state,
     excluded.address_postal_code, excluded.address_country, excluded.id_number, excluded.id_number_type,
     excluded.email, excluded.phone, excluded.sex, excluded.unparsed_place_of_birth, excluded.unparsed_sex,
     excluded.verification_report_id, excluded.unreadable_fields, excluded.extra, excluded.source, excluded.fetched_at,
     excluded.told_at, excluded.told_rank, excluded.told_by, excluded.told_twin)`

	sqlUpsertDetails = `
INSERT INTO stripe_identity.provided_details (session_id, email, phone, told_at, told_rank, told_by, told_twin)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (session_id) DO UPDATE
SET (email, phone, told_at, told_rank, told_by, told_twin)
  = (excluded.email, excluded.phone, excluded.told_at, excluded.told_rank, excluded.told_by, excluded.told_twin)`

	sqlQuarantine = `
INSERT INTO stripe_identity.quarantined_events (
    event_id, type, session_id, created_at, received_at, reason, payload, account, livemode, source, secret_name, hides)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, $10, $11, $12)
ON CONFLICT (event_id) DO NOTHING`

	sqlRelease = `
UPDATE stripe_identity.quarantined_events SET resolved_at = now() WHERE event_id = ANY ($1)`

	sqlArrived = `
UPDATE stripe_identity.events SET resolved_at = now()
WHERE snapshot_event = ANY ($1) AND type LIKE 'v1.%' AND resolved_at IS NULL`

	sqlForgetMomentary = `
DELETE FROM stripe_identity.verification_sessions WHERE id = ANY ($1)`

	// What was taken for granted is seen now: what is in quarantine of these events
	// and sessions, also what came before a session had a row that could be locked,
	// and thin events that wait. Then the write divides by zero, and begins anew. (An
	// event that was thought new, and is not, breaks the key of events.) What is open
	// is not asked for by IS NULL: the plan would be to read all that is.
	sqlNothingElse = `
SELECT 1 / CASE
    WHEN EXISTS (
        SELECT FROM stripe_identity.quarantined_events
        WHERE (session_id = ANY ($1) OR event_id = ANY ($2)) AND coalesce(resolved_at, 'infinity') = 'infinity'
          AND event_id <> ALL (coalesce($3::text[], '{}')))
      OR EXISTS (
        SELECT FROM stripe_identity.events
        WHERE snapshot_event = ANY ($2) AND type LIKE 'v1.%' AND resolved_at IS NULL)
    THEN 0 ELSE 1 END`

	// A commit that notifies waits for every other one that does, in any
	// database of the server: that is no lock on a session.
	sqlNothingElseNotify = sqlNothingElse + `, set_config('lock_timeout', '0', true), pg_notify('stripe_identity', '')`
)

// A redaction erases, in every table that holds something personal, the rows
// or columns of a session. What stays: ids, status, codes, times, options.
var sqlErase = []string{
	`DELETE FROM stripe_identity.verified_outputs WHERE session_id = ANY ($1)`,
	`DELETE FROM stripe_identity.provided_details WHERE session_id = ANY ($1)`,
	`DELETE FROM stripe_identity.wishes WHERE session_id = ANY ($1)`,
	`UPDATE stripe_identity.events SET payload = NULL WHERE session_id = ANY ($1) AND payload IS NOT NULL`,
	`UPDATE stripe_identity.quarantined_events SET payload = NULL WHERE session_id = ANY ($1) AND payload IS NOT NULL`,
	`UPDATE stripe_identity.status_transitions SET error_reason = NULL, metadata = NULL
WHERE session_id = ANY ($1) AND (error_reason IS NOT NULL OR metadata IS NOT NULL)`,
}

// write puts a decision into the database and commits: in one round trip, unless
// there is something that is written row by row.
func (s *Store) write(ctx context.Context, conn *pgx.Conn, p *pipeline, w *writes) error {
	before, after := &pgx.Batch{}, &pgx.Batch{}
	w.addSessions(p, after)
	w.addEvents(p)
	w.addTransitions(p, before)
	w.queueOutputs(after, s.opt.Outputs)
	w.queueQuarantine(after)
	if len(w.released) > 0 {
		after.Queue(sqlRelease, w.released) // also what came into quarantine just now
	}
	w.queueServed(after)
	if before.Len() > 0 {
		if err := conn.SendBatch(ctx, before).Close(); err != nil {
			return err
		}
	}
	for _, rare := range []struct {
		ids        []string
		statements []string
	}{
		{w.moved, []string{sqlRelink}}, {w.gone, sqlErase}, {w.arrived, []string{sqlArrived}},
		{w.momentary, []string{sqlForgetMomentary}}, {w.wishes, []string{sqlWish}},
	} {
		for _, sql := range rare.statements {
			if len(rare.ids) > 0 {
				p.add(sql, nil)
				strs(p, rare.ids, itself)
			}
		}
	}
	if after.Len() > 0 {
		if err := p.run(ctx, conn); err != nil {
			return err
		}
		if err := conn.SendBatch(ctx, after).Close(); err != nil {
			return err
		}
	}
	if len(w.sessions) > 0 {
		sql := sqlNothingElse
		if w.notifies {
			sql = sqlNothingElseNotify
		}
		p.add(sql, nil)
		strs(p, w.sessions, func(s *session) string { return s.ID })
		strs(p, w.events, func(e *events.Event) string { return e.ID })
		strs(p, w.doubted, itself)
	}
	p.add("COMMIT", nil)
	return p.run(ctx, conn)
}

func (w *writes) addEvents(p *pipeline) {
	rows := w.events
	if len(rows) == 0 {
		return
	}
	p.add(sqlInsertEvents, nil)
	strs(p, rows, func(e *events.Event) string { return e.ID })
	strs(p, rows, func(e *events.Event) string { return e.Type })
	strs(p, rows, func(e *events.Event) string { return e.SessionID })
	texts(p, rows, func(e *events.Event) events.Text { return e.Account })
	texts(p, rows, func(e *events.Event) events.Text { return e.Context })
	modes(p, rows, func(e *events.Event) events.Mode { return e.Livemode })
	texts(p, rows, func(e *events.Event) events.Text { return e.APIVersion })
	texts(p, rows, func(e *events.Event) events.Text { return e.RequestID })
	texts(p, rows, func(e *events.Event) events.Text { return e.SnapshotEvent })
	times(p, rows, func(e *events.Event) time.Time { return e.Created })
	times(p, rows, func(e *events.Event) time.Time { return e.ReceivedAt })
	strs(p, rows, func(e *events.Event) string { return e.Source })
	optional(p, rows, func(e *events.Event) string { return e.SecretName })
	docs(p, rows, w.payload)
	times(p, rows, w.resolvedAt)
}

// resolvedAt is when the rest of a thin event was told: now, if its snapshot
// is here already.
func (w *writes) resolvedAt(e *events.Event) time.Time {
	if e.Kind == events.Thin && e.SnapshotEvent.Has() && w.snapshotKnown(e) {
		return e.ReceivedAt
	}
	return time.Time{}
}

// payload is what may be stored of an event's body: nothing once its session
// is redacted.
func (w *writes) payload(e *events.Event) []byte {
	if e.Hides || w.isGone(e.SessionID) {
		return nil
	}
	return e.Payload
}

// transition is a step that becomes a row.
type transition struct {
	*events.Step
	session  string
	previous *events.Step // nil for the first
}

func (w *writes) addTransitions(p *pipeline, before *pgx.Batch) {
	rows := make([]transition, 0, len(w.events))
	for _, s := range w.sessions {
		if len(s.Obsolete) > 0 {
			before.Queue(sqlForgetTransitions, s.Obsolete)
		}
		var previous *events.Step
		for i := range s.Steps {
			t := &s.Steps[i]
			if t.Answer && t.Changed {
				before.Queue(sqlUpsertAnswer, s.ID, time.Unix(t.Second, 0), time.Unix(t.From, 0), t.Outputs, t.Type, t.Session.Ptr(),
					nonEmpty(t.State.Status), nonEmpty(t.State.ErrorCode), nonEmpty(t.State.ReportID), nonEmpty(t.State.Redaction),
					t.Account.Ptr(), t.Livemode.Ptr())
				before.Queue(sqlForgetAnswers, s.ID)
			}
			switch {
			case t.Answer && !t.Shown:
				continue
			case t.Row == 0:
				rows = append(rows, transition{t, s.ID, previous})
			case t.Changed && !t.Answer:
				before.Queue(sqlReplaceTransition, t.Row, t.ID, t.Account.Ptr(), t.Livemode.Ptr(), t.Session.Ptr(), t.Reason.Ptr(),
					textOf(t.Options), t.Source, t.Type, time.Unix(t.Second, 0), t.Rank, t.Twin[:], textOf(apart(t)))
			}
			previous = t
		}
	}
	if len(rows) == 0 {
		return
	}
	p.add(sqlInsertTransitions, nil)
	optional(p, rows, func(t transition) string { return t.ID })
	strs(p, rows, func(t transition) string { return t.session })
	texts(p, rows, func(t transition) events.Text { return t.Account })
	modes(p, rows, func(t transition) events.Mode { return t.Livemode })
	texts(p, rows, func(t transition) events.Text { return t.Session })
	strs(p, rows, func(t transition) string { return t.Type })
	optional(p, rows, func(t transition) string { return t.State.Status })
	optional(p, rows, func(t transition) string { return t.State.ErrorCode })
	texts(p, rows, func(t transition) events.Text { return t.Reason })
	optional(p, rows, func(t transition) string { return t.State.ReportID })
	optional(p, rows, func(t transition) string { return t.State.Redaction })
	times(p, rows, func(t transition) time.Time { return time.Unix(t.Second, 0) })
	strs(p, rows, func(t transition) string { return t.Source })
	ranks(p, rows, func(t transition) int { return t.Rank })
	digests(p, rows, transition.twin)
	docs(p, rows, func(t transition) []byte { return t.Options })
	docs(p, rows, func(t transition) []byte { return apart(t.Step) })
	optional(p, rows, func(t transition) string {
		if t.previous == nil {
			return ""
		}
		return t.previous.State.Status
	})
	times(p, rows, func(t transition) time.Time {
		if t.previous == nil {
			return time.Time{}
		}
		return time.Unix(t.previous.Second, 0)
	})
}

// apart is the metadata of an event whose payload has not all of it. What
// others told is read back from there.
func apart(t *events.Step) []byte {
	if t.MetadataApart {
		return t.Metadata
	}
	return nil
}

func (t transition) twin() []byte {
	if t.Answer {
		return nil
	}
	return t.Twin[:]
}

// appended reports whether all that changes in a history comes after what
// stands: then no row that stands gets another predecessor.
func appended(s *session) bool {
	if len(s.Obsolete) > 0 || len(s.Filled) > 0 {
		return false
	}
	isRow := func(t events.Step) bool { return !t.Answer || t.Shown }
	first := slices.IndexFunc(s.Steps, func(t events.Step) bool { return isRow(t) && (t.Row == 0 || t.Changed) })
	return first < 0 || !slices.ContainsFunc(s.Steps[first:], func(t events.Step) bool { return isRow(t) && t.Row != 0 })
}

func (w *writes) addSessions(p *pipeline, after *pgx.Batch) {
	rows := w.sessions
	if len(rows) == 0 {
		return
	}
	var text []byte
	for _, s := range rows {
		text = s.digestContent(text[:0])
	}
	p.add(sqlWriteSessions, nil)
	strs(p, rows, func(s *session) string { return s.ID })
	texts(p, rows, func(s *session) events.Text { return s.Account })
	texts(p, rows, func(s *session) events.Text { return s.Context })
	modes(p, rows, func(s *session) events.Mode { return s.Livemode })
	texts(p, rows, func(s *session) events.Text { return s.Type })
	texts(p, rows, func(s *session) events.Text { return s.Status })
	texts(p, rows, func(s *session) events.Text { return s.ErrorCode })
	texts(p, rows, func(s *session) events.Text { return s.ErrorReason })
	texts(p, rows, func(s *session) events.Text { return s.ReportID })
	texts(p, rows, func(s *session) events.Text { return s.ClientReferenceID })
	texts(p, rows, func(s *session) events.Text { return s.RelatedCustomer })
	texts(p, rows, func(s *session) events.Text { return s.RelatedCustomerAccount })
	texts(p, rows, func(s *session) events.Text { return s.RelatedPerson })
	texts(p, rows, func(s *session) events.Text { return s.RelatedPersonAccount })
	texts(p, rows, func(s *session) events.Text { return s.VerificationFlow })
	texts(p, rows, func(s *session) events.Text { return s.RedactionStatus })
	times(p, rows, func(s *session) time.Time { return s.Created })
	times(p, rows, func(s *session) time.Time { return s.StatusChangedAt })
	optional(p, rows, func(s *session) string { return s.LastEventID })
	times(p, rows, func(s *session) time.Time { return s.LastEventCreatedAt })
	flags(p, rows, func(s *session) bool { return s.NeedsRefresh })
	times(p, rows, func(s *session) time.Time { return s.OutputsWantedSince })
	column(p, pgtype.TextOID, rows, func(s *session) bool {
		p.out = s.Births.Append(p.out)
		return true
	})
	flags(p, rows, func(s *session) bool { return s.Redacted })
	flags(p, rows, func(s *session) bool { return s.Hidden })
	optional(p, rows, func(s *session) string { return s.ToldBy })
	times(p, rows, (*session).AskedAt)
	times(p, rows, (*session).AnsweredAt)
	docs(p, rows, func(s *session) []byte { return s.unlessSame(s.Options) })
	docs(p, rows, func(s *session) []byte { return s.unlessSame(s.Metadata) })
	digests(p, rows, func(s *session) []byte { return s.unlessSame(s.digest[:]) })
	places(p, rows, (*session).locked)
	for _, s := range rows {
		if s.Reload != "" {
			after.Queue(sqlReload, s.ID, s.Reload)
		}
	}
}

// locked is where the session's row stands, nil if it has none.
func (s *session) locked() []byte {
	if s.unseen {
		return nil
	}
	return s.place[:]
}

// digestContent settles whether options and metadata have to be written. It
// uses text, and answers it for its next use.
func (s *session) digestContent(text []byte) []byte {
	if !s.Renewed {
		s.sameContent = true
		return text
	}
	text = binary.AppendUvarint(text, uint64(len(s.Options)))
	text = append(append(text, s.Options...), s.Metadata...)
	sum := sha256.Sum256(text)
	digest := [16]byte(sum[:])
	s.sameContent, s.digest = digest == s.digest, digest
	return text
}

// unlessSame is nothing if the row has the content already.
func (s *session) unlessSame(column []byte) []byte {
	if s.sameContent {
		return nil
	}
	return column
}

func (w *writes) queueOutputs(b *pgx.Batch, wants func(string) bool) {
	for _, id := range slices.Sorted(maps.Keys(w.outputs)) {
		c := w.outputs[id]
		o := c.Outputs.Only(wants)
		if w.isGone(id) {
			continue
		}
		b.Queue(sqlUpsertOutputs, id, o.FirstName.Ptr(), o.LastName.Ptr(), o.Dob(), o.DobDay, o.DobMonth, o.DobYear,
			o.Line1.Ptr(), o.Line2.Ptr(), o.City.Ptr(), o.State.Ptr(), o.PostalCode.Ptr(), o.Country.Ptr(),
			o.IDNumber.Ptr(), o.IDNumberType.Ptr(), o.Email.Ptr(), o.Phone.Ptr(), o.Sex.Ptr(),
			o.UnparsedPlaceOfBirth.Ptr(), o.UnparsedSex.Ptr(), c.ReportID.Ptr(), c.unreadable, textOf(o.Extra),
			c.source, c.at, time.Unix(c.Second, 0), c.Rank, nonEmpty(c.Key.ID), c.Twin[:])
	}
	for _, id := range slices.Sorted(maps.Keys(w.details)) {
		c := w.details[id]
		d := c.Details.Only(wants)
		if !w.isGone(id) {
			b.Queue(sqlUpsertDetails, id, d.Email.Ptr(), d.Phone.Ptr(), time.Unix(c.Second, 0), c.Rank, nonEmpty(c.Key.ID), c.Twin[:])
		}
	}
}

func (w *writes) queueQuarantine(b *pgx.Batch) {
	for _, o := range w.quarantined {
		e := o.event
		b.Queue(sqlQuarantine, e.ID, e.Type, nonEmpty(e.SessionID), nonZero(e.Created), e.ReceivedAt, e.Fault,
			textOf(w.payload(e)), e.Account.Ptr(), e.Livemode.Ptr(), e.Source, nonEmpty(e.SecretName), e.Hides,
		).Exec(func(done pgconn.CommandTag) error {
			if done.RowsAffected() == 0 { // nobody's lock kept out who brought it at the same time
				o.outcome = events.Duplicate
			}
			return nil
		})
	}
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func nonZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func textOf(b []byte) pgtype.Text { return pgtype.Text{String: string(b), Valid: b != nil} }
