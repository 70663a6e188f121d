// Package repotest reads the tables back as [events.Rows], for tests that
// compare them with [events.Model].
package repotest

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// Rows reads every table that the model knows.
func Rows(tb testing.TB, url string) events.Rows {
	tb.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("connect: %v", err)
	}
	defer func() {
		if err := conn.Close(ctx); err != nil {
			tb.Errorf("disconnect: %v", err)
		}
	}()
	r := events.Rows{
		Events: map[string]events.EventRow{}, Sessions: map[string]events.SessionRow{}, Transitions: map[string]events.TransitionRow{},
		Outputs: map[string]events.OutputsRow{}, Details: map[string]events.Details{}, Quarantined: map[string]events.QuarantinedRow{},
	}
	q := query{tb, conn}
	q.each(`SELECT event_id, type, session_id, account, context, api_version, request_id, snapshot_event, livemode, created_at, payload::text FROM stripe_identity.events`,
		func(f *fields) {
			r.Events[f.text()] = events.EventRow{
				Type: f.text(), SessionID: f.text(), Account: f.text(), Context: f.text(), APIVersion: f.text(), RequestID: f.text(),
				SnapshotEvent: f.text(), Livemode: f.mode(), CreatedAt: f.time(), Payload: f.json(),
			}
		})
	q.each(`SELECT id, account, context, livemode, type, status, last_error_code, last_error_reason, last_verification_report_id,
       client_reference_id, related_customer, related_customer_account, related_person, related_person_account,
       verification_flow, options::text, metadata::text, redaction_status, created_at, status_changed_at, last_event_id,
       last_event_created_at, needs_refresh, outputs_wanted_since FROM stripe_identity.verification_sessions`,
		func(f *fields) {
			r.Sessions[f.text()] = events.SessionRow{
				Account: f.text(), Context: f.text(), Livemode: f.mode(), Type: f.text(), Status: f.text(), LastErrorCode: f.text(),
				LastErrorReason: f.text(), LastVerificationReportID: f.text(), ClientReferenceID: f.text(), RelatedCustomer: f.text(),
				RelatedCustomerAccount: f.text(), RelatedPerson: f.text(), RelatedPersonAccount: f.text(), VerificationFlow: f.text(),
				Options: f.json(), Metadata: f.json(), RedactionStatus: f.text(), CreatedAt: f.time(), StatusChangedAt: f.time(),
				LastEventID: f.text(), LastEventCreatedAt: f.time(), NeedsRefresh: f.bool(), OutputsWantedSince: f.time(),
			}
		})
	q.each(`SELECT coalesce(event_id, session_id || '@' || extract(epoch FROM occurred_at)::bigint), session_id, account, livemode, type, event_type, status, error_code, error_reason, verification_report_id,
       redaction_status, occurred_at FROM stripe_identity.status_transitions`,
		func(f *fields) {
			r.Transitions[f.text()] = events.TransitionRow{
				SessionID: f.text(), Account: f.text(), Livemode: f.mode(), Type: f.text(), EventType: f.text(), Status: f.text(),
				ErrorCode: f.text(), ErrorReason: f.text(), VerificationReportID: f.text(), RedactionStatus: f.text(), OccurredAt: f.time(),
			}
		})
	q.each(`SELECT session_id, first_name, last_name, dob_day, dob_month, dob_year, address_line1, address_line2, address_city,
       address_state, address_postal_code, address_country, id_number, id_number_type, email, phone, sex,
       unparsed_place_of_birth, unparsed_sex, extra::text, verification_report_id FROM stripe_identity.verified_outputs`,
		func(f *fields) {
			r.Outputs[f.text()] = events.OutputsRow{
				Outputs: events.Outputs{
					FirstName: f.maybe(), LastName: f.maybe(), DobDay: f.int(), DobMonth: f.int(), DobYear: f.int(),
					Line1: f.maybe(), Line2: f.maybe(), City: f.maybe(), State: f.maybe(), PostalCode: f.maybe(), Country: f.maybe(),
					IDNumber: f.maybe(), IDNumberType: f.maybe(), Email: f.maybe(), Phone: f.maybe(), Sex: f.maybe(),
					UnparsedPlaceOfBirth: f.maybe(), UnparsedSex: f.maybe(), Extra: []byte(f.json()),
				},
				ReportID: f.text(),
			}
		})
	q.each(`SELECT session_id, email, phone FROM stripe_identity.provided_details`,
		func(f *fields) { r.Details[f.text()] = events.Details{Email: f.maybe(), Phone: f.maybe()} })
	q.each(`SELECT event_id, type, session_id, reason, created_at, payload::text FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL`,
		func(f *fields) {
			r.Quarantined[f.text()] = events.QuarantinedRow{
				Type: f.text(), SessionID: f.text(), Reason: f.text(), CreatedAt: f.time(), Payload: f.json(),
			}
		})
	return r
}

// Canonical is the model's rows as a database would give them back: JSON with
// sorted keys, and of what is not there only the empty form.
func Canonical(tb testing.TB, r events.Rows) events.Rows {
	tb.Helper()
	for id, e := range r.Events {
		e.Payload = canonical(tb, e.Payload)
		r.Events[id] = e
	}
	for id, s := range r.Sessions {
		s.Options, s.Metadata = canonical(tb, s.Options), canonical(tb, s.Metadata)
		r.Sessions[id] = s
	}
	for id, o := range r.Outputs {
		o.Extra = []byte(canonical(tb, string(o.Extra)))
		for _, t := range []*events.Text{
			&o.FirstName, &o.LastName, &o.Line1, &o.Line2, &o.City, &o.State, &o.PostalCode, &o.Country, &o.IDNumber,
			&o.IDNumberType, &o.Email, &o.Phone, &o.Sex, &o.UnparsedPlaceOfBirth, &o.UnparsedSex,
		} {
			*t = events.TextOf(t.Ptr())
		}
		r.Outputs[id] = o
	}
	for id, d := range r.Details {
		r.Details[id] = events.Details{Email: events.TextOf(d.Email.Ptr()), Phone: events.TextOf(d.Phone.Ptr())}
	}
	for id, q := range r.Quarantined {
		q.Payload = canonical(tb, q.Payload)
		r.Quarantined[id] = q
	}
	return r
}

func canonical(tb testing.TB, s string) string {
	tb.Helper()
	if s == "" {
		return ""
	}
	var v any
	d := json.NewDecoder(bytes.NewReader([]byte(s)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		tb.Fatalf("stored JSON %q: %v", s, err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatalf("encode: %v", err)
	}
	return string(b)
}

type query struct {
	tb   testing.TB
	conn *pgx.Conn
}

func (q query) each(sql string, row func(*fields)) {
	q.tb.Helper()
	rows, err := q.conn.Query(context.Background(), sql)
	if err != nil {
		q.tb.Fatalf("query: %v", err)
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			q.tb.Fatalf("read row: %v", err)
		}
		row(&fields{q.tb, values})
	}
	if err := rows.Err(); err != nil {
		q.tb.Fatalf("query: %v", err)
	}
}

// fields hands out the columns of a row from left to right.
type fields struct {
	tb   testing.TB
	left []any
}

func (f *fields) next() any {
	v := f.left[0]
	f.left = f.left[1:]
	return v
}

func (f *fields) text() string {
	s, _ := f.next().(string)
	return s
}

func (f *fields) maybe() events.Text {
	s, ok := f.next().(string)
	if !ok {
		return events.TextOf(nil)
	}
	return events.Some(s)
}

func (f *fields) json() string { return canonical(f.tb, f.text()) }

func (f *fields) bool() bool {
	b, _ := f.next().(bool)
	return b
}

func (f *fields) mode() events.Mode {
	b, ok := f.next().(bool)
	if !ok {
		return events.ModeUnknown
	}
	return events.ModeOf(&b)
}

func (f *fields) int() *int32 {
	n, ok := f.next().(int32)
	if !ok {
		return nil
	}
	return &n
}

func (f *fields) time() time.Time {
	t, ok := f.next().(time.Time)
	if !ok {
		return time.Time{}
	}
	return t.UTC()
}
