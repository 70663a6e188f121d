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
    last_error_code = n.code, last_error_reason = n.reason, last_verification_report_id = n.report,
    client_reference_id = n.reference, related_customer = n.customer, related_customer_account = n.customer_account,
    related_person = n.person, related_person_account = n.person_account, verification_flow = n.flow,
    options = n.options::jsonb, metadata = n.metadata::jsonb, redaction_status = n.redaction,
    created_at = n.created, status_changed_at = n.changed, last_event_id = n.last_event,
    last_event_created_at = n.last_created, needs_refresh = n.needs_refresh, outputs_wanted_since = n.wanted,
    births = n.births, redacted = n.redacted, hidden = n.hidden, told_by = n.told_by,
    fetched_from = n.fetched_from, fetched_until = n.fetched_until, updated_at = now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
            $18::text[], $19::timestamptz[], $20::timestamptz[], $21::text[], $22::timestamptz[], $23::boolean[],
            $24::timestamptz[], $25::text[], $26::boolean[], $27::boolean[], $28::text[], $29::timestamptz[], $30::timestamptz[])
     AS n (id, account, context, livemode, type, status, code, reason, report,
           reference, customer, customer_account, person, person_account, flow, options, metadata,
           redaction, created, changed, last_event, last_created, needs_refresh,
           wanted, births, redacted, hidden, told_by, fetched_from, fetched_until)
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
	n := len(w.events)
	if n == 0 {
		return
	}
	id, typ, session := make([]string, n), make([]string, n), make([]string, n)
	account, context, version := make([]*string, n), make([]*string, n), make([]*string, n)
	request, snapshot, secret := make([]*string, n), make([]*string, n), make([]*string, n)
	live, source, payload := make([]*bool, n), make([]string, n), make([]pgtype.Text, n)
	created, received, resolved := make([]time.Time, n), make([]time.Time, n), make([]*time.Time, n)
	for i, e := range w.events {
		id[i], typ[i], session[i] = e.ID, e.Type, e.SessionID
		account[i], context[i], version[i] = e.Account.Ptr(), e.Context.Ptr(), e.APIVersion.Ptr()
		request[i], snapshot[i], secret[i] = e.RequestID.Ptr(), e.SnapshotEvent.Ptr(), nonEmpty(e.SecretName)
		live[i], source[i], payload[i] = e.Livemode.Ptr(), e.Source, w.payload(e)
		created[i], received[i] = e.Created, e.ReceivedAt
		if e.Kind == events.Thin && e.SnapshotEvent.Has() && w.snapshotKnown(e) {
			resolved[i] = &received[i]
		}
	}
	b.Queue(sqlInsertEvents, id, typ, session, account, context, live, version, request, snapshot, created, received,
		source, secret, payload, resolved)
}

// payload is what may be stored of an event's body: nothing once its session
// is redacted.
func (w *writes) payload(e *events.Event) pgtype.Text {
	return pgtype.Text{String: string(e.Payload), Valid: e.Payload != nil && !e.Hides && !w.isGone(e.SessionID)}
}

func (w *writes) queueTransitions(b *pgx.Batch) {
	var steps, before []*events.Step
	var session []string
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
				steps, session, before = append(steps, t), append(session, s.ID), append(before, previous)
			case t.Changed && !t.Answer:
				b.Queue(sqlReplaceTransition, t.Row, t.ID, t.Account.Ptr(), t.Livemode.Ptr(), t.Session.Ptr(), t.Reason.Ptr(),
					textOf(t.Options), t.Source, t.Type, time.Unix(t.Second, 0), t.Rank, t.Twin[:], textOf(t.Metadata))
			}
			previous = t
		}
	}
	n := len(steps)
	if n == 0 {
		return
	}
	id, account, live, typ := make([]*string, n), make([]*string, n), make([]*bool, n), make([]*string, n)
	eventType, status, code, reason := make([]string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	report, redaction, occurred := make([]*string, n), make([]*string, n), make([]time.Time, n)
	source, rank, twin, options := make([]string, n), make([]int16, n), make([][]byte, n), make([]pgtype.Text, n)
	metadata, previous, since := make([]pgtype.Text, n), make([]*string, n), make([]*time.Time, n)
	for i, t := range steps {
		id[i], account[i], live[i], typ[i] = nonEmpty(t.ID), t.Account.Ptr(), t.Livemode.Ptr(), t.Session.Ptr()
		eventType[i], status[i], code[i], reason[i] = t.Type, nonEmpty(t.State.Status), nonEmpty(t.State.ErrorCode), t.Reason.Ptr()
		report[i], redaction[i], occurred[i] = nonEmpty(t.State.ReportID), nonEmpty(t.State.Redaction), time.Unix(t.Second, 0)
		source[i], rank[i], twin[i], options[i] = t.Source, int16(t.Rank), twinOf(t), textOf(t.Options)
		metadata[i] = textOf(t.Metadata)
		if p := before[i]; p != nil {
			previous[i], since[i] = nonEmpty(p.State.Status), new(time.Unix(p.Second, 0))
		}
	}
	b.Queue(sqlInsertTransitions, id, session, account, live, typ, eventType, status, code, reason, report, redaction,
		occurred, source, rank, twin, options, metadata, previous, since)
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

func twinOf(t *events.Step) []byte {
	if t.Answer {
		return nil
	}
	return t.Twin[:]
}

func (w *writes) queueSessions(b *pgx.Batch) {
	n := len(w.sessions)
	if n == 0 {
		return
	}
	id, account, context, live := make([]string, n), make([]*string, n), make([]*string, n), make([]*bool, n)
	typ, status, code, reason := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	report, reference, customer := make([]*string, n), make([]*string, n), make([]*string, n)
	customerAccount, person, personAccount := make([]*string, n), make([]*string, n), make([]*string, n)
	flow, options, metadata := make([]*string, n), make([]pgtype.Text, n), make([]pgtype.Text, n)
	redaction, created, changed := make([]*string, n), make([]*time.Time, n), make([]*time.Time, n)
	lastEvent, lastCreated, refresh := make([]*string, n), make([]*time.Time, n), make([]bool, n)
	wanted, births, redacted, hidden := make([]*time.Time, n), make([]string, n), make([]bool, n), make([]bool, n)
	toldBy, fetchedFrom, fetchedUntil := make([]*string, n), make([]*time.Time, n), make([]*time.Time, n)
	for i, s := range w.sessions {
		toldBy[i] = nonEmpty(s.ToldBy)
		fetchedFrom[i], fetchedUntil[i] = s.Asked()
		id[i], account[i], context[i], live[i] = s.ID, s.Account.Ptr(), s.Context.Ptr(), s.Livemode.Ptr()
		typ[i], status[i], code[i], reason[i] = s.Type.Ptr(), s.Status.Ptr(), s.ErrorCode.Ptr(), s.ErrorReason.Ptr()
		report[i], reference[i], customer[i] = s.ReportID.Ptr(), s.ClientReferenceID.Ptr(), s.RelatedCustomer.Ptr()
		customerAccount[i], person[i], personAccount[i] = s.RelatedCustomerAccount.Ptr(), s.RelatedPerson.Ptr(), s.RelatedPersonAccount.Ptr()
		flow[i], options[i], metadata[i] = s.VerificationFlow.Ptr(), textOf(s.Options), textOf(s.Metadata)
		redaction[i], created[i], changed[i] = s.RedactionStatus.Ptr(), nonZero(s.Created), nonZero(s.StatusChangedAt)
		lastEvent[i], lastCreated[i], refresh[i] = nonEmpty(s.LastEventID), nonZero(s.LastEventCreatedAt), s.NeedsRefresh
		wanted[i], births[i], redacted[i], hidden[i] = nonZero(s.OutputsWantedSince), s.Births.String(), s.Redacted, s.Hidden
	}
	b.Queue(sqlUpdateSessions, id, account, context, live, typ, status, code, reason, report, reference, customer,
		customerAccount, person, personAccount, flow, options, metadata, redaction, created, changed, lastEvent,
		lastCreated, refresh, wanted, births, redacted, hidden, toldBy, fetchedFrom, fetchedUntil)
	for _, s := range w.sessions {
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
			w.payload(e), e.Account.Ptr(), e.Livemode.Ptr(), e.Source, nonEmpty(e.SecretName), e.Hides)
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
