package repo

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
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
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::text[], $8::text[],
            $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::timestamptz[])
     AS e (event_id, type, session_id, account, context, livemode, api_version, request_id,
           snapshot_event, created_at, received_at, source, secret_name, payload, resolved_at)`

	sqlInsertTransitions = `
INSERT INTO stripe_identity.status_transitions (
    event_id, session_id, account, livemode, type, event_type, status, error_code, error_reason,
    verification_report_id, redaction_status, occurred_at, source, rank, twin, options, metadata, previous_status, previous_at)
SELECT event_id, session_id, account, livemode, type, event_type, status, error_code, error_reason,
       verification_report_id, redaction_status, occurred_at, source, rank, twin, options::jsonb, metadata::jsonb, previous_status, previous_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::timestamptz[], $13::text[], $14::smallint[], $15::bytea[], $16::text[],
            $17::text[], $18::text[], $19::timestamptz[])
     AS t (event_id, session_id, account, livemode, type, event_type, status, error_code, error_reason,
           verification_report_id, redaction_status, occurred_at, source, rank, twin, options, metadata,
           previous_status, previous_at)`

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

	// A session that is asked for again and again keeps its last answers.
	sqlForgetAnswers = `
DELETE FROM stripe_identity.answers
WHERE session_id = $1 AND told_until < (
    SELECT told_until FROM stripe_identity.answers WHERE session_id = $1 ORDER BY told_until DESC OFFSET 49 LIMIT 1)`

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
WHERE t.id = p.id AND (t.previous_status, t.previous_at) IS DISTINCT FROM (p.status, p.occurred_at)`

	sqlUpdateSessions = `
UPDATE stripe_identity.verification_sessions s
SET account = n.account, context = n.context, livemode = n.livemode, type = n.type, status = n.status,
    last_error_code = n.code, last_verification_report_id = n.report,
    last_error_reason = CASE WHEN n.redacted THEN NULL WHEN n.renewed THEN n.reason ELSE s.last_error_reason END,
    metadata = CASE WHEN n.redacted THEN NULL WHEN n.renewed THEN n.metadata::jsonb ELSE s.metadata END,
    options = CASE WHEN n.renewed THEN n.options::jsonb ELSE s.options END,
    client_reference_id = n.reference, related_customer = n.customer, related_customer_account = n.customer_account,
    related_person = n.person, related_person_account = n.person_account, verification_flow = n.flow,
    redaction_status = n.redaction,
    created_at = n.created, status_changed_at = n.changed, last_event_id = n.last_event,
    last_event_created_at = n.last_created, needs_refresh = n.needs_refresh, outputs_wanted_since = n.wanted,
    births = n.births, redacted = n.redacted, hidden = n.hidden, told_by = n.told_by,
    fetched_from = n.fetched_from, fetched_until = n.fetched_until, updated_at = now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
            $18::text[], $19::timestamptz[], $20::timestamptz[], $21::text[], $22::timestamptz[], $23::boolean[],
            $24::timestamptz[], $25::text[], $26::boolean[], $27::boolean[], $28::text[], $29::timestamptz[], $30::timestamptz[],
            $31::boolean[])
     AS n (id, account, context, livemode, type, status, code, reason, report,
           reference, customer, customer_account, person, person_account, flow, options, metadata,
           redaction, created, changed, last_event, last_created, needs_refresh,
           wanted, births, redacted, hidden, told_by, fetched_from, fetched_until, renewed)
WHERE s.id = n.id`

	// What only the row in history holds.
	sqlReload = `
UPDATE stripe_identity.verification_sessions s
SET options = t.options,
    last_error_reason = CASE WHEN NOT s.redacted THEN t.error_reason END,
    metadata = CASE WHEN NOT s.redacted THEN t.metadata END
FROM stripe_identity.status_transitions t
WHERE s.id = $1 AND t.event_id = $2`

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

	sqlForgetBare = `
DELETE FROM stripe_identity.verification_sessions WHERE id = ANY ($1)`

	// A commit that notifies waits for every other one that does, in any
	// database of the server: that is no lock on a session.
	sqlNotify = `SELECT set_config('lock_timeout', '0', true), pg_notify('stripe_identity', '')`
)

// A redaction erases, in every table that holds something personal, the rows
// or columns of a session. What stays: ids, status, codes, times, options.
var sqlErase = []string{
	`DELETE FROM stripe_identity.verified_outputs WHERE session_id = ANY ($1)`,
	`DELETE FROM stripe_identity.provided_details WHERE session_id = ANY ($1)`,
	`UPDATE stripe_identity.events SET payload = NULL WHERE session_id = ANY ($1) AND payload IS NOT NULL`,
	`UPDATE stripe_identity.quarantined_events SET payload = NULL WHERE session_id = ANY ($1) AND payload IS NOT NULL`,
	`UPDATE stripe_identity.status_transitions SET error_reason = NULL, metadata = NULL
WHERE session_id = ANY ($1) AND (error_reason IS NOT NULL OR metadata IS NOT NULL)`,
}

// write puts a decision into the database and commits, in one round trip.
func (s *Store) write(ctx context.Context, conn *pgx.Conn, w *writes) error {
	b := &pgx.Batch{}
	w.queueEvents(b)
	w.queueTransitions(b)
	w.queueRelink(b)
	w.queueSessions(b)
	w.queueOutputs(b, s.opt.Outputs)
	w.queueQuarantine(b)
	if len(w.gone) > 0 {
		for _, sql := range sqlErase {
			b.Queue(sql, w.gone)
		}
	}
	for _, rare := range []struct {
		sql string
		ids []string
	}{{sqlRelease, w.released}, {sqlArrived, w.arrived}, {sqlForgetBare, w.bare}} {
		if len(rare.ids) > 0 {
			b.Queue(rare.sql, rare.ids)
		}
	}
	if w.advanced && s.opt.Notify {
		b.Queue(sqlNotify)
	}
	b.Queue("COMMIT")
	return conn.SendBatch(ctx, b).Close()
}

func (w *writes) queueEvents(b *pgx.Batch) {
	rows := w.events
	if len(rows) == 0 {
		return
	}
	b.Queue(sqlInsertEvents,
		strs(rows, func(e *events.Event) string { return e.ID }),
		strs(rows, func(e *events.Event) string { return e.Type }),
		strs(rows, func(e *events.Event) string { return e.SessionID }),
		texts(rows, func(e *events.Event) events.Text { return e.Account }),
		texts(rows, func(e *events.Event) events.Text { return e.Context }),
		modes(rows, func(e *events.Event) events.Mode { return e.Livemode }),
		texts(rows, func(e *events.Event) events.Text { return e.APIVersion }),
		texts(rows, func(e *events.Event) events.Text { return e.RequestID }),
		texts(rows, func(e *events.Event) events.Text { return e.SnapshotEvent }),
		times(rows, func(e *events.Event) time.Time { return e.Created }),
		times(rows, func(e *events.Event) time.Time { return e.ReceivedAt }),
		strs(rows, func(e *events.Event) string { return e.Source }),
		optional(rows, func(e *events.Event) string { return e.SecretName }),
		docs(rows, w.payload),
		times(rows, w.resolvedAt),
	)
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

func (w *writes) queueTransitions(b *pgx.Batch) {
	rows := make([]transition, 0, len(w.events))
	for _, s := range w.sessions {
		if len(s.Obsolete) > 0 {
			b.Queue(sqlForgetTransitions, s.Obsolete)
		}
		var previous *events.Step
		for i := range s.Steps {
			t := &s.Steps[i]
			if t.Answer && t.Changed {
				b.Queue(sqlUpsertAnswer, s.ID, time.Unix(t.Second, 0), time.Unix(t.From, 0), t.Outputs, t.Type, t.Session.Ptr(),
					nonEmpty(t.State.Status), nonEmpty(t.State.ErrorCode), nonEmpty(t.State.ReportID), nonEmpty(t.State.Redaction),
					t.Account.Ptr(), t.Livemode.Ptr())
				b.Queue(sqlForgetAnswers, s.ID)
			}
			switch {
			case t.Answer && !t.Shown:
				continue
			case t.Row == 0:
				rows = append(rows, transition{t, s.ID, previous})
			case t.Changed && !t.Answer:
				b.Queue(sqlReplaceTransition, t.Row, t.ID, t.Account.Ptr(), t.Livemode.Ptr(), t.Session.Ptr(), t.Reason.Ptr(),
					textOf(t.Options), t.Source, t.Type, time.Unix(t.Second, 0), t.Rank, t.Twin[:], textOf(t.Metadata))
			}
			previous = t
		}
	}
	if len(rows) == 0 {
		return
	}
	b.Queue(sqlInsertTransitions,
		optional(rows, func(t transition) string { return t.ID }),
		strs(rows, func(t transition) string { return t.session }),
		texts(rows, func(t transition) events.Text { return t.Account }),
		modes(rows, func(t transition) events.Mode { return t.Livemode }),
		texts(rows, func(t transition) events.Text { return t.Session }),
		strs(rows, func(t transition) string { return t.Type }),
		optional(rows, func(t transition) string { return t.State.Status }),
		optional(rows, func(t transition) string { return t.State.ErrorCode }),
		texts(rows, func(t transition) events.Text { return t.Reason }),
		optional(rows, func(t transition) string { return t.State.ReportID }),
		optional(rows, func(t transition) string { return t.State.Redaction }),
		times(rows, func(t transition) time.Time { return time.Unix(t.Second, 0) }),
		strs(rows, func(t transition) string { return t.Source }),
		ranks(rows, func(t transition) int { return t.Rank }),
		docs(rows, transition.twin),
		docs(rows, func(t transition) []byte { return t.Options }),
		docs(rows, func(t transition) []byte { return t.Metadata }),
		optional(rows, func(t transition) string {
			if t.previous == nil {
				return ""
			}
			return t.previous.State.Status
		}),
		times(rows, func(t transition) time.Time {
			if t.previous == nil {
				return time.Time{}
			}
			return time.Unix(t.previous.Second, 0)
		}),
	)
}

func (t transition) twin() []byte {
	if t.Answer {
		return nil
	}
	return t.Twin[:]
}

func (w *writes) queueRelink(b *pgx.Batch) {
	var ids []string
	for _, s := range w.sessions {
		if !appended(s) {
			ids = append(ids, s.ID)
		}
	}
	if len(ids) > 0 {
		b.Queue(sqlRelink, ids)
	}
}

// appended reports whether all that changes in a history comes after what
// stands: then no row that stands gets another predecessor.
func appended(s *events.Standing) bool {
	if len(s.Obsolete) > 0 || len(s.Filled) > 0 {
		return false
	}
	isRow := func(t events.Step) bool { return !t.Answer || t.Shown }
	first := slices.IndexFunc(s.Steps, func(t events.Step) bool { return isRow(t) && (t.Row == 0 || t.Changed) })
	return first < 0 || !slices.ContainsFunc(s.Steps[first:], func(t events.Step) bool { return isRow(t) && t.Row != 0 })
}

func (w *writes) queueSessions(b *pgx.Batch) {
	rows := w.sessions
	if len(rows) == 0 {
		return
	}
	b.Queue(sqlUpdateSessions,
		strs(rows, func(s *events.Standing) string { return s.ID }),
		texts(rows, func(s *events.Standing) events.Text { return s.Account }),
		texts(rows, func(s *events.Standing) events.Text { return s.Context }),
		modes(rows, func(s *events.Standing) events.Mode { return s.Livemode }),
		texts(rows, func(s *events.Standing) events.Text { return s.Type }),
		texts(rows, func(s *events.Standing) events.Text { return s.Status }),
		texts(rows, func(s *events.Standing) events.Text { return s.ErrorCode }),
		texts(rows, func(s *events.Standing) events.Text { return s.ErrorReason }),
		texts(rows, func(s *events.Standing) events.Text { return s.ReportID }),
		texts(rows, func(s *events.Standing) events.Text { return s.ClientReferenceID }),
		texts(rows, func(s *events.Standing) events.Text { return s.RelatedCustomer }),
		texts(rows, func(s *events.Standing) events.Text { return s.RelatedCustomerAccount }),
		texts(rows, func(s *events.Standing) events.Text { return s.RelatedPerson }),
		texts(rows, func(s *events.Standing) events.Text { return s.RelatedPersonAccount }),
		texts(rows, func(s *events.Standing) events.Text { return s.VerificationFlow }),
		docs(rows, func(s *events.Standing) []byte { return s.Options }),
		docs(rows, func(s *events.Standing) []byte { return s.Metadata }),
		texts(rows, func(s *events.Standing) events.Text { return s.RedactionStatus }),
		times(rows, func(s *events.Standing) time.Time { return s.Created }),
		times(rows, func(s *events.Standing) time.Time { return s.StatusChangedAt }),
		optional(rows, func(s *events.Standing) string { return s.LastEventID }),
		times(rows, func(s *events.Standing) time.Time { return s.LastEventCreatedAt }),
		flags(rows, func(s *events.Standing) bool { return s.NeedsRefresh }),
		times(rows, func(s *events.Standing) time.Time { return s.OutputsWantedSince }),
		strs(rows, func(s *events.Standing) string { return s.Births.String() }),
		flags(rows, func(s *events.Standing) bool { return s.Redacted }),
		flags(rows, func(s *events.Standing) bool { return s.Hidden }),
		optional(rows, func(s *events.Standing) string { return s.ToldBy }),
		times(rows, (*events.Standing).AskedAt),
		times(rows, (*events.Standing).AnsweredAt),
		flags(rows, func(s *events.Standing) bool { return s.Renewed }),
	)
	for _, s := range rows {
		if s.Reload != "" {
			b.Queue(sqlReload, s.ID, s.Reload)
		}
	}
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
		if !w.isGone(id) {
			b.Queue(sqlUpsertDetails, id, c.Details.Email.Ptr(), c.Details.Phone.Ptr(), time.Unix(c.Second, 0), c.Rank, nonEmpty(c.Key.ID), c.Twin[:])
		}
	}
}

func (w *writes) queueQuarantine(b *pgx.Batch) {
	for _, e := range w.quarantined {
		b.Queue(sqlQuarantine, e.ID, e.Type, nonEmpty(e.SessionID), nonZero(e.Created), e.ReceivedAt, e.Fault,
			textOf(w.payload(e)), e.Account.Ptr(), e.Livemode.Ptr(), e.Source, nonEmpty(e.SecretName), e.Hides)
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
