package events_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"webhookd/internal/events"
)

// history is what Stripe and an operator say of a few sessions, at its worst:
// retries, overrides both ways, several states in one second, twins, redactions
// at any place, events without what is fixed at birth, and broken ones.
type history struct {
	events []*events.Event
	erased []string
}

func drawHistory(t *rapid.T) history {
	var h history
	for s := range rapid.IntRange(1, 2).Draw(t, "sessions") {
		session := fmt.Sprintf("vs_%d", s)
		for n := range rapid.IntRange(1, 8).Draw(t, "events") {
			id := fmt.Sprintf("evt_%d_%d%d", rapid.IntRange(0, 9).Draw(t, "id"), s, n)
			body := drawBody(t, id, session, n)
			h.events = append(h.events, drawn(t, body))
			switch rapid.IntRange(0, 7).Draw(t, "again") {
			case 0: // a twin, perhaps of another second: then it is none
				body["id"] = fmt.Sprintf("evt_%d_%d%dt", rapid.IntRange(0, 9).Draw(t, "twin id"), s, n)
				body["created"] = body["created"].(int) + rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "later")
				object := body["data"].(map[string]any)["object"].(map[string]any)
				object["metadata"] = map[string]any{"of": body["id"]}
				h.events = append(h.events, drawn(t, body))
			case 1:
				kind := strings.TrimPrefix(body["type"].(string), "v1.")
				h.events = append(h.events, drawn(t, map[string]any{
					"id": "evt_thin_" + id, "type": events.ThinType(kind), "created": "2026-09-30T10:11:12.345Z",
					"related_object": map[string]any{"id": session}, "snapshot_event": id,
				}))
			}
		}
		if rapid.IntRange(0, 14).Draw(t, "erased") == 0 {
			h.erased = append(h.erased, session)
		}
	}
	return h
}

func drawBody(t *rapid.T, id, session string, n int) map[string]any {
	pick := func(label string, of ...any) any { return of[rapid.IntRange(0, len(of)-1).Draw(t, label)] }
	kind := pick("type", "created", "processing", "requires_input", "requires_input", "verified", "verified", "canceled", "redacted").(string)
	status, redaction := any(kind), any(nil)
	switch kind {
	case "created":
		status = "requires_input"
	case "redacted":
		status = pick("redacted from", "verified", "canceled")
		redaction = pick("redaction", nil, map[string]any{"status": "redacted"}, map[string]any{"status": "validated"})
	}
	if rapid.IntRange(0, 19).Draw(t, "redacting") == 0 {
		redaction = map[string]any{"status": pick("word", "processing", "frobnicated")}
	}
	if rapid.IntRange(0, 29).Draw(t, "broken") == 0 {
		status = 5
	}
	object := map[string]any{
		"id": session, "status": status, "redaction": redaction, "type": pick("session type", "document", "id_number"),
		"metadata": pick("metadata", nil, map[string]any{"of": id}), "options": map[string]any{"of": id},
		"last_verification_report": pick("report", nil, "vr_1"),
	}
	if kind == "requires_input" {
		object["last_error"] = pick("error", nil, map[string]any{"code": "abandoned", "reason": "of " + id}, map[string]any{"code": nil})
	}
	if rapid.Bool().Draw(t, "birth") {
		object["created"] = pick("born", second-2, second-1)
		object["client_reference_id"] = pick("reference", nil, "user-1", "user-2", "[redacted]")
		object["related_customer"] = pick("customer", nil, "cus_1", "cus_2")
		object["verification_flow"] = pick("flow", nil, "vf_1")
		object["related_person"] = pick("person", nil, "[redacted]", map[string]any{"person": "person_1", "account": nil})
		object["livemode"] = pick("livemode", nil, true, false)
	}
	created := second + 20*rapid.IntRange(0, 4).Draw(t, "second")
	if kind == "verified" && rapid.IntRange(0, 2).Draw(t, "expanded") == 0 {
		object["verified_outputs"] = map[string]any{"first_name": pick("name", nil, "[redacted]", "of "+id)}
		object["provided_details"] = map[string]any{"email": pick("email", nil, "of "+id)}
		// One slot holds no third carrier of a second that lies between two twins.
		created += 2*n + 1
	}
	return map[string]any{
		"id": id, "type": "identity.verification_session." + kind, "created": created,
		"account": pick("account", nil, "acct_1", "acct_2"), "context": pick("context", nil, "ctx_1"),
		"data": map[string]any{"object": object},
	}
}

func drawn(t *rapid.T, body map[string]any) *events.Event {
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// ledger keeps rows as the database would: what Standing does not hold, such
// as the content of older events, is not there unless a row has it.
type ledger struct {
	rows      events.Rows
	standings map[string]*events.Standing
	known     map[string]*events.Event
	steps     map[int64]string // the event id of each row of history
	outputs   map[string]events.Carrier
	details   map[string]events.Carrier
	recorded  int
}

func newLedger() *ledger {
	return &ledger{
		rows:      emptyRows(),
		standings: map[string]*events.Standing{}, known: map[string]*events.Event{}, steps: map[int64]string{},
		outputs: map[string]events.Carrier{}, details: map[string]events.Carrier{},
	}
}

func emptyRows() events.Rows {
	return events.Rows{
		Sessions: map[string]events.SessionRow{}, Transitions: map[string]events.TransitionRow{},
		Outputs: map[string]events.OutputsRow{}, Details: map[string]events.Details{},
	}
}

func (l *ledger) standing(session string) *events.Standing {
	if l.standings[session] == nil {
		l.standings[session] = &events.Standing{ID: session}
	}
	return l.standings[session]
}

func (l *ledger) take(e *events.Event) {
	if l.known[e.ID] != nil {
		return
	}
	l.known[e.ID] = e
	s := l.standing(e.SessionID)
	switch {
	case e.Kind == events.Broken:
		s.Doubt(e.Hides)
	case e.Type == events.ThinType(events.TypeRedacted):
		s.Redact()
	case e.Kind == events.Snapshot:
		if s.Take(e).Recorded() {
			l.recorded++
		}
		c := events.Carrier{Key: e.Key(), Twin: e.Twin()}
		if before, ok := l.outputs[s.ID]; e.Session.Outputs != nil && (!ok || c.Supersedes(before)) {
			l.outputs[s.ID] = c
		}
		if before, ok := l.details[s.ID]; e.Session.Details != nil && (!ok || c.Supersedes(before)) {
			l.details[s.ID] = c
		}
	}
	l.write(s)
}

// write does what one transaction does with a standing.
func (l *ledger) write(s *events.Standing) {
	if e := l.known[s.Reload]; e != nil {
		s.Options = e.Session.Options
		if !s.Redacted {
			s.ErrorReason, s.Metadata = e.Session.ErrorReason, e.Session.Metadata
		}
	}
	for i := range s.Steps {
		step := &s.Steps[i]
		if !step.Changed {
			continue
		}
		if step.Row == 0 {
			step.Row = int64(len(l.steps) + 1)
		}
		delete(l.rows.Transitions, l.steps[step.Row])
		l.steps[step.Row] = step.ID
		l.rows.Transitions[step.ID] = events.TransitionRow{
			SessionID: s.ID, Account: step.Account.Value, Livemode: step.Livemode, Type: step.Session.Value, EventType: step.Type,
			Status: step.State.Status, ErrorCode: step.State.ErrorCode, ErrorReason: step.Reason.Value,
			VerificationReportID: step.State.ReportID, RedactionStatus: step.State.Redaction, OccurredAt: at(step.Second),
		}
	}
	if len(s.Steps) > 0 || s.Redacted {
		l.rows.Sessions[s.ID] = rowOf(s)
	}
	if s.Redacted {
		for id, row := range l.rows.Transitions {
			if row.SessionID == s.ID {
				row.ErrorReason = ""
				l.rows.Transitions[id] = row
			}
		}
		delete(l.outputs, s.ID)
		delete(l.details, s.ID)
	}
}

// reread is the standing as the next transaction reads it.
func (l *ledger) reread(t *rapid.T, session string) {
	s := l.standing(session)
	births, err := events.ParseBirths(string(s.Births.Append(nil)))
	if err != nil {
		t.Fatal(err)
	}
	next := &events.Standing{
		ID: s.ID, Account: s.Account, Context: s.Context, Livemode: s.Livemode, Created: s.Created,
		ClientReferenceID: s.ClientReferenceID, RelatedCustomer: s.RelatedCustomer, RelatedCustomerAccount: s.RelatedCustomerAccount,
		RelatedPerson: s.RelatedPerson, RelatedPersonAccount: s.RelatedPersonAccount, VerificationFlow: s.VerificationFlow,
		Births: births, Type: s.Type, Status: s.Status, ErrorCode: s.ErrorCode, ReportID: s.ReportID, ErrorReason: s.ErrorReason,
		Options: s.Options, Metadata: s.Metadata, StatusChangedAt: s.StatusChangedAt, LastEventID: s.LastEventID,
		LastEventCreatedAt: s.LastEventCreatedAt, RedactionStatus: s.RedactionStatus, Redacted: s.Redacted, Hidden: s.Hidden,
		Suspect: s.Suspect, NeedsRefresh: s.NeedsRefresh, OutputsWantedSince: s.OutputsWantedSince,
	}
	for _, step := range s.Steps {
		next.Steps = append(next.Steps, events.Step{
			Key: step.Key, Row: step.Row, Twin: step.Twin, Type: step.Type, State: step.State, Session: step.Session,
		})
	}
	l.standings[session] = next
}

func rowOf(s *events.Standing) events.SessionRow {
	return events.SessionRow{
		Account: s.Account.Value, Context: s.Context.Value, Livemode: s.Livemode, Type: s.Type.Value, Status: s.Status.Value,
		LastErrorCode: s.ErrorCode.Value, LastErrorReason: s.ErrorReason.Value, LastVerificationReportID: s.ReportID.Value,
		ClientReferenceID: s.ClientReferenceID.Value, RelatedCustomer: s.RelatedCustomer.Value,
		RelatedCustomerAccount: s.RelatedCustomerAccount.Value, RelatedPerson: s.RelatedPerson.Value,
		RelatedPersonAccount: s.RelatedPersonAccount.Value, VerificationFlow: s.VerificationFlow.Value,
		Options: string(s.Options), Metadata: string(s.Metadata), RedactionStatus: s.RedactionStatus.Value,
		CreatedAt: s.Created, StatusChangedAt: s.StatusChangedAt, LastEventID: s.LastEventID,
		LastEventCreatedAt: s.LastEventCreatedAt, NeedsRefresh: s.NeedsRefresh, Hidden: s.Hidden, OutputsWantedSince: s.OutputsWantedSince,
	}
}

// told is the rows in full, with what the carriers carry.
func (l *ledger) told() events.Rows {
	rows := l.rows
	find := func(id string) *events.Event { return l.known[id] }
	for session, c := range l.outputs {
		rows.Outputs[session] = events.OutputsRow{Outputs: *find(c.ID).Session.Outputs, ReportID: find(c.ID).Session.ReportID.Value}
	}
	for session, c := range l.details {
		rows.Details[session] = *find(c.ID).Session.Details
	}
	for session, s := range l.standings {
		if s.Redacted {
			delete(rows.Outputs, session)
			delete(rows.Details, session)
		}
	}
	return rows
}

// TestStandingEqualsTheModelInAnyOrder folds the events one by one, in any
// order and number, with the row read anew at any moment.
func TestStandingEqualsTheModelInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		l := newLedger()
		var deliveries []func()
		for _, e := range h.events {
			for range rapid.IntRange(1, 2).Draw(t, "deliveries") {
				deliveries = append(deliveries, func() { l.take(e) })
			}
		}
		for _, session := range h.erased {
			deliveries = append(deliveries, func() {
				l.standing(session).Redact()
				l.write(l.standing(session))
			})
		}
		for _, deliver := range rapid.Permutation(deliveries).Draw(t, "order") {
			deliver()
			for _, session := range slices.Sorted(maps.Keys(l.standings)) {
				if rapid.Bool().Draw(t, "reread") {
					l.reread(t, session)
				}
			}
		}
		want := events.Model(h.events, h.erased...)
		want.Events, want.Quarantined = nil, nil // of the store
		if diff := cmp.Diff(want, l.told()); diff != "" {
			t.Fatalf("rows differ from the model (-model +standing):\n%s", diff)
		}
		if l.recorded != len(want.Transitions) {
			t.Errorf("%d transitions were announced, %d stand", l.recorded, len(want.Transitions))
		}
	})
}

func TestTheModelKeepsNoPayloadOfWhatIsErased(t *testing.T) {
	t.Parallel()
	verified := understood(t, snapshot("verified", `{"id":"vs_1","status":"verified","metadata":{"a":"1"}}`))
	quarantined := broken(t, envelope(`"id":"evt_2","type":"identity.verification_session.verified","data":{"object":{"id":"vs_1","status":5}}`), "status")
	hiding := broken(t, envelope(`"id":"evt_3","type":"identity.verification_session.redacted","data":{"object":{"id":"vs_2","status":5}}`), "status")
	both := []*events.Event{verified, quarantined, hiding}

	kept := events.Model(both)
	if kept.Events["evt_1"].Payload == "" || kept.Quarantined["evt_2"].Payload == "" || kept.Quarantined["evt_3"].Payload != "" {
		t.Errorf("payloads %+v %+v", kept.Events, kept.Quarantined)
	}
	erased := events.Model(both, "vs_1", "vs_9")
	if erased.Events["evt_1"].Payload != "" || erased.Quarantined["evt_2"].Payload != "" {
		t.Errorf("payloads %+v %+v", erased.Events, erased.Quarantined)
	}
	if row := erased.Sessions["vs_9"]; row != (events.SessionRow{RedactionStatus: "redacted"}) {
		t.Errorf("the tombstone is %+v", row)
	}
	if _, ok := kept.Sessions["vs_2"]; ok {
		t.Error("a broken event alone made a session")
	}
}

func TestTheModelForgetsOrderAndNumber(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		again := append(slices.Clone(h.events), rapid.SliceOf(rapid.SampledFrom(h.events)).Draw(t, "duplicates")...)
		again = rapid.Permutation(again).Draw(t, "order")
		if diff := cmp.Diff(events.Model(h.events, h.erased...), events.Model(again, h.erased...)); diff != "" {
			t.Fatalf("the model depends on order or number:\n%s", diff)
		}
	})
}
