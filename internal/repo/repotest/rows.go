// Package repotest reads the tables back as [events.Rows], for whoever compares
// them with [events.History].
package repotest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
)

// Rows is [Read] of all sessions.
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
	r, err := Read(ctx, conn, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Canonical is [Canonicalize] for tests.
func Canonical(tb testing.TB, r events.Rows) events.Rows {
	tb.Helper()
	r, err := Canonicalize(r)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Read reads what stands of some sessions in every table that the model knows;
// nil is all sessions, and whatever belongs to none.
func Read(ctx context.Context, conn *pgx.Conn, sessions []string) (events.Rows, error) {
	r := events.Rows{
		Events: map[string]events.EventRow{}, Sessions: map[string]events.SessionRow{}, Transitions: map[string]events.TransitionRow{},
		Outputs: map[string]events.OutputsRow{}, Details: map[string]events.Details{}, Quarantined: map[string]events.QuarantinedRow{},
	}
	for _, q := range []struct {
		sql string
		row func(f *fields)
	}{
		{`SELECT event_id, type, session_id, account, context, api_version, request_id, snapshot_event, livemode, created_at, payload::text
FROM stripe_identity.events`, func(f *fields) {
			r.Events[f.text()] = events.EventRow{
				Type: f.text(), SessionID: f.text(), Account: f.text(), Context: f.text(), APIVersion: f.text(), RequestID: f.text(),
				SnapshotEvent: f.text(), Livemode: f.mode(), CreatedAt: f.time(), Payload: f.json(),
			}
		}},
		{`SELECT id AS session_id, account, context, livemode, type, status, last_error_code, last_error_reason, last_verification_report_id,
       client_reference_id, related_customer, related_customer_account, related_person, related_person_account,
       verification_flow, options::text, metadata::text, redaction_status, created_at, status_changed_at, last_event_id,
       last_event_created_at, needs_refresh, hidden, outputs_wanted_since
FROM stripe_identity.verification_sessions`, func(f *fields) {
			r.Sessions[f.text()] = events.SessionRow{
				Account: f.text(), Context: f.text(), Livemode: f.mode(), Type: f.text(), Status: f.text(), LastErrorCode: f.text(),
				LastErrorReason: f.text(), LastVerificationReportID: f.text(), ClientReferenceID: f.text(), RelatedCustomer: f.text(),
				RelatedCustomerAccount: f.text(), RelatedPerson: f.text(), RelatedPersonAccount: f.text(), VerificationFlow: f.text(),
				Options: f.json(), Metadata: f.json(), RedactionStatus: f.text(), CreatedAt: f.time(), StatusChangedAt: f.time(),
				LastEventID: f.text(), LastEventCreatedAt: f.time(), NeedsRefresh: f.bool(), Hidden: f.bool(), OutputsWantedSince: f.time(),
			}
		}},
		{`SELECT coalesce(event_id, session_id || '@' || extract(epoch FROM occurred_at)::bigint), session_id, account, livemode, type,
       event_type, status, error_code, error_reason, verification_report_id, redaction_status, occurred_at
FROM stripe_identity.status_transitions`, func(f *fields) {
			r.Transitions[f.text()] = events.TransitionRow{
				SessionID: f.text(), Account: f.text(), Livemode: f.mode(), Type: f.text(), EventType: f.text(), Status: f.text(),
				ErrorCode: f.text(), ErrorReason: f.text(), VerificationReportID: f.text(), RedactionStatus: f.text(), OccurredAt: f.time(),
			}
		}},
		{`SELECT session_id, first_name, last_name, dob_day, dob_month, dob_year, address_line1, address_line2, address_city,
       address_state, address_postal_code, address_country, id_number, id_number_type, email, phone, sex,
       unparsed_place_of_birth, unparsed_sex, extra::text, verification_report_id
FROM stripe_identity.verified_outputs`, func(f *fields) {
			r.Outputs[f.text()] = events.OutputsRow{
				Outputs: events.Outputs{
					FirstName: f.maybe(), LastName: f.maybe(), DobDay: f.int(), DobMonth: f.int(), DobYear: f.int(),
					Line1: f.maybe(), Line2: f.maybe(), City: f.maybe(), State: f.maybe(), PostalCode: f.maybe(), Country: f.maybe(),
					IDNumber: f.maybe(), IDNumberType: f.maybe(), Email: f.maybe(), Phone: f.maybe(), Sex: f.maybe(),
					UnparsedPlaceOfBirth: f.maybe(), UnparsedSex: f.maybe(), Extra: []byte(f.json()),
				},
				ReportID: f.text(),
			}
		}},
		{`SELECT session_id, email, phone FROM stripe_identity.provided_details`, func(f *fields) {
			r.Details[f.text()] = events.Details{Email: f.maybe(), Phone: f.maybe()}
		}},
		{`SELECT event_id, type, session_id, reason, created_at, payload::text
FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL`, func(f *fields) {
			r.Quarantined[f.text()] = events.QuarantinedRow{
				Type: f.text(), SessionID: f.text(), Reason: f.text(), CreatedAt: f.time(), Payload: f.json(),
			}
		}},
	} {
		sql, args := q.sql, []any(nil)
		if sessions != nil {
			sql, args = `SELECT * FROM (`+q.sql+`) r WHERE session_id = ANY ($1)`, []any{sessions}
		}
		if err := each(ctx, conn, q.row, sql, args...); err != nil {
			return r, fmt.Errorf("read rows: %w", err)
		}
	}
	return r, nil
}

func each(ctx context.Context, conn *pgx.Conn, row func(f *fields), sql string, args ...any) error {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return err
		}
		f := &fields{left: values}
		if row(f); f.err != nil {
			return f.err
		}
	}
	return rows.Err()
}

// Canonicalize returns the model's rows as a database gives them back: JSON with
// sorted keys, and of what is not there only the empty form. r stays as it is.
func Canonicalize(r events.Rows) (events.Rows, error) {
	var s sorter
	r.Events = changed(r.Events, func(e *events.EventRow) { e.Payload = s.sorted(e.Payload) })
	r.Sessions = changed(r.Sessions, func(c *events.SessionRow) { c.Options, c.Metadata = s.sorted(c.Options), s.sorted(c.Metadata) })
	r.Outputs = changed(r.Outputs, func(o *events.OutputsRow) {
		o.Extra = []byte(s.sorted(string(o.Extra)))
		stored(&o.FirstName, &o.LastName, &o.Line1, &o.Line2, &o.City, &o.State, &o.PostalCode, &o.Country, &o.IDNumber,
			&o.IDNumberType, &o.Email, &o.Phone, &o.Sex, &o.UnparsedPlaceOfBirth, &o.UnparsedSex)
	})
	r.Details = changed(r.Details, func(d *events.Details) { stored(&d.Email, &d.Phone) })
	r.Quarantined = changed(r.Quarantined, func(q *events.QuarantinedRow) { q.Payload = s.sorted(q.Payload) })
	return r, s.err
}

// changed is a copy of rows with a change made to each.
func changed[R any](rows map[string]R, change func(*R)) map[string]R {
	all := make(map[string]R, len(rows))
	for id, row := range rows {
		change(&row)
		all[id] = row
	}
	return all
}

// stored makes texts what a nullable column can hold.
func stored(texts ...*events.Text) {
	for _, t := range texts {
		*t = events.TextOf(t.Ptr())
	}
}

// sorter sorts the keys of JSON, and keeps what was wrong with it.
type sorter struct{ err error }

func (s *sorter) sorted(text string) string {
	if text == "" {
		return ""
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		s.err = errors.Join(s.err, fmt.Errorf("decode %q: %w", text, err))
		return text
	}
	b, err := json.Marshal(v)
	if err != nil {
		s.err = errors.Join(s.err, fmt.Errorf("encode %q: %w", text, err))
	}
	return string(b)
}

// fields hands out the columns of a row from left to right.
type fields struct {
	sorter
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
	if s, ok := f.next().(string); ok {
		return events.Some(s)
	}
	return events.TextOf(nil)
}

func (f *fields) json() string { return f.sorted(f.text()) }

func (f *fields) bool() bool {
	b, _ := f.next().(bool)
	return b
}

func (f *fields) mode() events.Mode {
	if b, ok := f.next().(bool); ok {
		return events.ModeOf(&b)
	}
	return events.ModeUnknown
}

func (f *fields) int() *int32 {
	if n, ok := f.next().(int32); ok {
		return &n
	}
	return nil
}

func (f *fields) time() time.Time {
	if t, ok := f.next().(time.Time); ok {
		return t.UTC()
	}
	return time.Time{}
}
