package events

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Rows is what must stand in the database for a set of events. Columns that
// depend on when and how an event reached us are not part of it.
type Rows struct {
	Events      map[string]EventRow // by event id, thin ones too
	Sessions    map[string]SessionRow
	Transitions map[string]TransitionRow // by event id
	Outputs     map[string]OutputsRow    // by session id
	Details     map[string]Details       // by session id
	Quarantined map[string]QuarantinedRow
}

// EventRow is a row of events. Payload tells whether there is one.
type EventRow struct {
	Type, SessionID, Account, Context, APIVersion, RequestID, SnapshotEvent string
	Livemode                                                                Mode
	CreatedAt                                                               time.Time
	Payload                                                                 string
}

// SessionRow is a row of verification_sessions. An empty string is null.
type SessionRow struct {
	Account, Context                        string
	Livemode                                Mode
	Type, Status                            string
	LastErrorCode, LastErrorReason          string
	LastVerificationReportID                string
	ClientReferenceID                       string
	RelatedCustomer, RelatedCustomerAccount string
	RelatedPerson, RelatedPersonAccount     string
	VerificationFlow                        string
	Options, Metadata                       string
	RedactionStatus                         string
	CreatedAt, StatusChangedAt              time.Time
	LastEventID                             string
	LastEventCreatedAt                      time.Time
	NeedsRefresh                            bool
	OutputsWantedSince                      time.Time
}

// TransitionRow is a row of status_transitions.
type TransitionRow struct {
	SessionID, Account      string
	Livemode                Mode
	Type, EventType, Status string
	ErrorCode, ErrorReason  string
	VerificationReportID    string
	RedactionStatus         string
	OccurredAt              time.Time
}

// OutputsRow is a row of verified_outputs.
type OutputsRow struct {
	Outputs
	ReportID string
}

// QuarantinedRow is a row of quarantined_events.
type QuarantinedRow struct {
	Type, SessionID, Reason string
	CreatedAt               time.Time
	Payload                 string
}

// Model computes the rows for a set of events, given in any order and number,
// and of sessions that an operator erased. It is written from the contract,
// for the whole set at once, and shares only the vocabulary with [Standing].
func Model(set []*Event, erased ...string) Rows {
	rows := Rows{
		Events: map[string]EventRow{}, Sessions: map[string]SessionRow{}, Transitions: map[string]TransitionRow{},
		Outputs: map[string]OutputsRow{}, Details: map[string]Details{}, Quarantined: map[string]QuarantinedRow{},
	}
	byID := map[string]*Event{}
	for _, e := range set {
		byID[e.ID] = e
	}
	sessions := map[string]*told{}
	of := func(id string) *told {
		if sessions[id] == nil {
			sessions[id] = &told{}
		}
		return sessions[id]
	}
	for _, id := range erased {
		of(id).erased = true
	}
	for _, e := range byID {
		switch {
		case e.Kind == Snapshot:
			of(e.SessionID).events = append(of(e.SessionID).events, e)
		case e.Kind == Thin && e.Type == ThinType(TypeRedacted):
			of(e.SessionID).erased = true
		case e.Kind == Broken && e.SessionID != "":
			of(e.SessionID).broken = append(of(e.SessionID).broken, e)
		}
	}
	for id, t := range sessions {
		if len(t.events) > 0 || t.erased {
			t.rows(id, &rows)
		}
	}
	for _, e := range byID {
		gone := sessions[e.SessionID] != nil && sessions[e.SessionID].gone()
		payload := string(e.Payload)
		if gone || e.Hides {
			payload = ""
		}
		switch e.Kind {
		case Snapshot, Thin:
			rows.Events[e.ID] = EventRow{
				Type: e.Type, SessionID: e.SessionID, Account: e.Account.Value, Context: e.Context.Value,
				APIVersion: e.APIVersion.Value, RequestID: e.RequestID.Value, SnapshotEvent: e.SnapshotEvent.Value,
				Livemode: e.Livemode, CreatedAt: e.Created, Payload: payload,
			}
		case Broken:
			rows.Quarantined[e.ID] = QuarantinedRow{e.Type, e.SessionID, e.Fault, e.Created, payload}
		}
	}
	return rows
}

// told is everything that a set says of one session.
type told struct {
	events []*Event // ids are unique
	broken []*Event
	erased bool
}

func (t *told) gone() bool {
	return t.erased || slices.ContainsFunc(t.events, func(e *Event) bool { return KnownRedaction(e.Session.Redaction.Value) })
}

func (t *told) hidden() bool {
	return slices.ContainsFunc(t.events, func(e *Event) bool {
		r := e.Session.Redaction
		return r.Has() && !KnownRedaction(r.Value)
	}) || slices.ContainsFunc(t.broken, func(e *Event) bool { return e.Hides })
}

func (t *told) rows(id string, rows *Rows) {
	inOrder := slices.SortedFunc(slices.Values(t.events), func(a, b *Event) int { return a.Key().Compare(b.Key()) })

	// Of twins the smallest id counts: it comes first.
	changes := slices.Clone(inOrder)
	seen := map[TwinKey]bool{}
	changes = slices.DeleteFunc(changes, func(e *Event) bool {
		k := e.Twin()
		defer func() { seen[k] = true }()
		return seen[k]
	})

	row := SessionRow{
		Account:                birth(inOrder, func(e *Event) Text { return e.Account }),
		Context:                birth(inOrder, func(e *Event) Text { return e.Context }),
		ClientReferenceID:      birth(inOrder, func(e *Event) Text { return e.Session.ClientReferenceID }),
		RelatedCustomer:        birth(inOrder, func(e *Event) Text { return e.Session.RelatedCustomer }),
		RelatedCustomerAccount: birth(inOrder, func(e *Event) Text { return e.Session.RelatedCustomerAccount }),
		RelatedPerson:          birth(inOrder, func(e *Event) Text { return e.Session.RelatedPerson }),
		RelatedPersonAccount:   birth(inOrder, func(e *Event) Text { return e.Session.RelatedPersonAccount }),
		VerificationFlow:       birth(inOrder, func(e *Event) Text { return e.Session.VerificationFlow }),
	}
	for _, e := range inOrder {
		if row.Livemode == ModeUnknown {
			row.Livemode = e.Livemode
		}
		if row.CreatedAt.IsZero() {
			row.CreatedAt = e.Session.Created
		}
	}
	t.state(&row, changes)
	if t.erased && row.RedactionStatus == "" {
		row.RedactionStatus = RedactionRedacted
	}
	row.NeedsRefresh = row.NeedsRefresh || len(t.broken) > 0
	if t.gone() {
		row.LastErrorReason, row.Metadata = "", ""
	}
	if t.gone() || t.hidden() {
		row.OutputsWantedSince = time.Time{}
	}
	rows.Sessions[id] = row

	for _, e := range changes {
		c := e.Session
		tr := TransitionRow{
			SessionID: id, Account: e.Account.Value, Livemode: e.Livemode, Type: c.Type.Value, EventType: e.Type,
			Status: c.Status.Value, ErrorCode: c.ErrorCode.Value, ErrorReason: c.ErrorReason.Value,
			VerificationReportID: c.ReportID.Value, RedactionStatus: c.Redaction.Value, OccurredAt: e.Created,
		}
		if t.gone() {
			tr.ErrorReason = ""
		}
		rows.Transitions[e.ID] = tr
	}
	if t.gone() {
		return
	}
	if e := newestCarrier(inOrder, func(e *Event) bool { return e.Session.Outputs != nil }); e != nil {
		rows.Outputs[id] = OutputsRow{*e.Session.Outputs, e.Session.ReportID.Value}
	}
	if e := newestCarrier(inOrder, func(e *Event) bool { return e.Session.Details != nil }); e != nil {
		rows.Details[id] = *e.Session.Details
	}
}

// state fills in what the newest change tells that is not after the end.
func (t *told) state(row *SessionRow, changes []*Event) {
	var end *Event
	var valid, late []*Event
	for _, e := range changes {
		if end == nil && e.Session.Status.Value == StatusCanceled {
			end = e
		}
		if end != nil && e.Created.After(end.Created) && !KnownRedaction(e.Session.Redaction.Value) {
			late = append(late, e)
		} else {
			valid = append(valid, e)
		}
		if e.Session.Redaction.Has() {
			row.RedactionStatus = e.Session.Redaction.Value
		}
	}
	if len(valid) == 0 {
		return
	}
	now := valid[len(valid)-1]
	c := now.Session
	row.Type, row.Status = c.Type.Value, c.Status.Value
	row.LastErrorCode, row.LastErrorReason = c.ErrorCode.Value, c.ErrorReason.Value
	row.LastVerificationReportID = c.ReportID.Value
	row.Options, row.Metadata = string(c.Options), string(c.Metadata)
	row.LastEventID, row.LastEventCreatedAt = now.ID, now.Created
	row.StatusChangedAt = now.Created
	for _, e := range slices.Backward(valid) {
		if e.Session.Status.Value != row.Status {
			break
		}
		row.StatusChangedAt = e.Created
	}
	for _, e := range changes {
		row.NeedsRefresh = row.NeedsRefresh || e.Created.Equal(now.Created) && e.Session.State() != c.State()
	}
	for _, e := range late {
		row.NeedsRefresh = row.NeedsRefresh || e.Created.After(now.Created)
	}
	if row.Status == StatusVerified {
		row.OutputsWantedSince = now.Created
	}
}

func birth(inOrder []*Event, field func(*Event) Text) string {
	for _, e := range inOrder {
		if field(e).Has() {
			return field(e).Value
		}
	}
	return ""
}

// newestCarrier is the newest event that carries something; of twins that
// both do, the one with the smaller id.
func newestCarrier(inOrder []*Event, carries func(*Event) bool) *Event {
	first := map[TwinKey]*Event{}
	for _, e := range inOrder {
		if carries(e) && first[e.Twin()] == nil {
			first[e.Twin()] = e
		}
	}
	carriers := slices.SortedFunc(maps.Values(first), func(a, b *Event) int { return a.Key().Compare(b.Key()) })
	if len(carriers) == 0 {
		return nil
	}
	return carriers[len(carriers)-1]
}

// Carrier says which event told what stands in verified_outputs or
// provided_details.
type Carrier struct {
	Key
	Twin TwinKey
}

// Supersedes reports whether what c carries takes the place of what o told:
// newer in the order, or of two twins the smaller id.
func (c Carrier) Supersedes(o Carrier) bool {
	if c.Twin == o.Twin {
		return strings.Compare(c.ID, o.ID) < 0
	}
	return c.Compare(o.Key) > 0
}
