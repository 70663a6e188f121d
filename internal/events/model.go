package events

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
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
	NeedsRefresh, Hidden                    bool
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
// and of sessions that an operator erased.
func Model(set []*Event, erased ...string) Rows {
	return History{Events: set, Erased: erased}.Rows()
}

// History is everything that Stripe and operators have said.
type History struct {
	Events  []*Event
	Answers map[string][]Answer // by session
	Erased  []string            // sessions
}

// Rows computes what must stand. It is written from the contract, for the whole
// set at once, and shares only the vocabulary with [Standing].
func (h History) Rows() Rows {
	rows := Rows{
		Events: map[string]EventRow{}, Sessions: map[string]SessionRow{}, Transitions: map[string]TransitionRow{},
		Outputs: map[string]OutputsRow{}, Details: map[string]Details{}, Quarantined: map[string]QuarantinedRow{},
	}
	byID := map[string]*Event{}
	for _, e := range h.Events {
		byID[e.ID] = e
	}
	sessions := map[string]*told{}
	of := func(id string) *told {
		if sessions[id] == nil {
			sessions[id] = &told{}
		}
		return sessions[id]
	}
	for _, id := range h.Erased {
		of(id).erased = true
	}
	for id, answers := range h.Answers {
		of(id).answers = answers
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
		if len(t.events) > 0 || len(t.answers) > 0 || t.erased {
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
	events  []*Event // ids are unique
	answers []Answer
	broken  []*Event
	erased  bool
}

func (t *told) gone() bool {
	return t.erased || t.says(func(c *Session) bool { return KnownRedaction(c.Redaction.Value) }) ||
		slices.ContainsFunc(t.events, func(e *Event) bool { return e.Type == TypeRedacted })
}

// says reports whether any event or answer tells something.
func (t *told) says(something func(*Session) bool) bool {
	return slices.ContainsFunc(t.events, func(e *Event) bool { return something(&e.Session) }) ||
		slices.ContainsFunc(t.answers, func(a Answer) bool { return something(&a.Session) })
}

func (t *told) hidden() bool {
	return t.says(func(c *Session) bool { return c.Redaction.Has() && !KnownRedaction(c.Redaction.Value) }) ||
		slices.ContainsFunc(t.broken, func(e *Event) bool { return e.Hides })
}

// item is an event or an answer in the order of a session's history.
type item struct {
	Key
	*Session
	event         *Event // nil for an answer
	from          int64  // of an answer
	asked         bool   // for outputs
	told, context Text   // of an answer: the account, and an organization's context
	twin          TwinKey
}

// items is everything that was told, in order: answers behind the events of
// their last second, and of two that end in one second only the one that
// counts.
func (t *told) items() []item {
	var all []item
	for _, e := range t.events {
		all = append(all, item{Key: e.Key(), Session: &e.Session, event: e, twin: e.Twin()})
	}
	answers := map[int64]item{}
	for _, a := range t.answers {
		next := item{Key: Key{Second: a.Until.Unix(), Rank: AnswerRank}, Session: &a.Session, from: a.From.Unix(), asked: a.Outputs, told: a.Account, context: a.Context}
		if other, ok := answers[next.Second]; ok {
			asked := other.asked || next.asked
			if next.from < other.from || next.from == other.from && next.State().less(other.State()) {
				next = other
			}
			next.asked = asked
		}
		answers[next.Second] = next
	}
	for _, a := range answers {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b item) int { return a.Compare(b.Key) })
	return all
}

func (t *told) rows(id string, rows *Rows) {
	all := t.items()
	var row SessionRow
	for _, i := range all {
		row.Account = cmp.Or(row.Account, i.told.Value)
		row.Context = cmp.Or(row.Context, i.context.Value)
		if i.event != nil {
			row.Account = cmp.Or(row.Account, i.event.Account.Value)
			row.Context = cmp.Or(row.Context, i.event.Context.Value)
		}
		row.Livemode = cmp.Or(row.Livemode, i.Livemode)
		if row.CreatedAt.IsZero() {
			row.CreatedAt = i.Created
		}
		row.ClientReferenceID = cmp.Or(row.ClientReferenceID, i.ClientReferenceID.Value)
		row.RelatedCustomer = cmp.Or(row.RelatedCustomer, i.RelatedCustomer.Value)
		row.RelatedCustomerAccount = cmp.Or(row.RelatedCustomerAccount, i.RelatedCustomerAccount.Value)
		row.RelatedPerson = cmp.Or(row.RelatedPerson, i.RelatedPerson.Value)
		row.RelatedPersonAccount = cmp.Or(row.RelatedPersonAccount, i.RelatedPersonAccount.Value)
		row.VerificationFlow = cmp.Or(row.VerificationFlow, i.VerificationFlow.Value)
	}

	// Of twins the smallest id counts: it comes first.
	seen := map[TwinKey]bool{}
	changes := slices.DeleteFunc(slices.Clone(all), func(i item) bool {
		defer func() { seen[i.twin] = true }()
		return i.event != nil && seen[i.twin]
	})
	t.state(&row, changes)
	if t.erased && row.RedactionStatus == "" {
		row.RedactionStatus = RedactionRedacted
	}
	row.NeedsRefresh = row.NeedsRefresh || t.doubted(all)
	if t.gone() {
		row.LastErrorReason, row.Metadata = "", ""
	}
	if row.Hidden = t.hidden() && !t.gone(); row.Hidden || t.gone() {
		row.OutputsWantedSince = time.Time{}
	}
	rows.Sessions[id] = row
	t.history(id, changes, rows)
	if t.gone() {
		return
	}
	if i := newestCarrier(all, func(c *Session) bool { return c.Outputs != nil }); i != nil {
		rows.Outputs[id] = OutputsRow{*i.Outputs, i.ReportID.Value}
	}
	if i := newestCarrier(all, func(c *Session) bool { return c.Details != nil }); i != nil {
		rows.Details[id] = *i.Details
	}
}

// state fills in what the newest change tells that is not after the end.
func (t *told) state(row *SessionRow, changes []item) {
	end := int64(math.MaxInt64)
	var valid, late []item
	for _, i := range changes {
		if i.Status.Value == StatusCanceled {
			end = min(end, i.Second)
		}
		if i.event != nil && i.Second > end && i.event.Type != TypeRedacted && !KnownRedaction(i.Redaction.Value) {
			late = append(late, i)
		} else {
			valid = append(valid, i)
		}
		if i.Redaction.Has() {
			row.RedactionStatus = i.Redaction.Value
		}
	}
	if len(valid) == 0 {
		return
	}
	now := valid[len(valid)-1]
	row.Type, row.Status = now.Type.Value, now.Status.Value
	row.LastErrorCode, row.LastErrorReason = now.ErrorCode.Value, now.ErrorReason.Value
	row.LastVerificationReportID = now.ReportID.Value
	row.Options, row.Metadata = string(now.Options), string(now.Metadata)
	for _, i := range slices.Backward(valid) {
		if i.Status.Value != row.Status {
			break
		}
		row.StatusChangedAt = time.Unix(i.Second, 0).UTC()
	}
	fetched := false
	for _, i := range valid {
		if i.event != nil {
			row.LastEventID, row.LastEventCreatedAt = i.Key.ID, i.event.Created
		}
		fetched = fetched || i.asked && i.Second >= row.StatusChangedAt.Unix()
	}
	from := now.Second
	if now.event == nil {
		from = now.from
	}
	for _, i := range changes {
		inDoubt := i.Second >= from && i.Second <= now.Second
		row.NeedsRefresh = row.NeedsRefresh || i.event != nil && inDoubt && i.State() != now.State()
	}
	for _, i := range late {
		row.NeedsRefresh = row.NeedsRefresh || i.Second > now.Second
	}
	if row.Status == StatusVerified && !fetched {
		row.OutputsWantedSince = row.StatusChangedAt
	}
}

// doubted reports whether an event is in quarantine that came since the newest
// answer was asked for.
func (t *told) doubted(all []item) bool {
	var asked time.Time
	for _, i := range all {
		if i.event == nil {
			asked = time.Unix(i.from, 0)
		}
	}
	return slices.ContainsFunc(t.broken, func(e *Event) bool { return !e.ReceivedAt.Before(asked) })
}

// history is every change that an event told, and those that only an answer
// did: it tells another state than what was told before it.
func (t *told) history(id string, changes []item, rows *Rows) {
	for n, i := range changes {
		tr := TransitionRow{
			SessionID: id, Livemode: i.Livemode, Type: i.Type.Value, Status: i.Status.Value,
			ErrorCode: i.ErrorCode.Value, ErrorReason: i.ErrorReason.Value,
			VerificationReportID: i.ReportID.Value, RedactionStatus: i.Redaction.Value, OccurredAt: time.Unix(i.Second, 0).UTC(),
		}
		if t.gone() {
			tr.ErrorReason = ""
		}
		switch {
		case i.event != nil:
			tr.EventType, tr.Account = i.event.Type, i.event.Account.Value
			rows.Transitions[i.Key.ID] = tr
		case n == 0 || changes[n-1].State() != i.State():
			tr.EventType, tr.Account, tr.ErrorReason = i.eventType(), i.told.Value, ""
			rows.Transitions[fmt.Sprintf("%s@%d", id, i.Second)] = tr
		}
	}
}

// newestCarrier is the newest item that carries something.
func newestCarrier(all []item, carries func(*Session) bool) *item {
	var newest *item
	for _, i := range all {
		if carries(i.Session) && (newest == nil || i.carrier().Supersedes(newest.carrier())) {
			newest = &i
		}
	}
	return newest
}

func (i *item) carrier() Carrier { return Carrier{i.Key, i.twin} }

// Carrier says which event told what stands in verified_outputs or
// provided_details.
type Carrier struct {
	Key
	Twin TwinKey
}

// Supersedes reports whether what c carries takes the place of what o told:
// newer in the order, or of two twins the smaller id. Where several changes of
// one second and type carry something, their twin keys decide between them:
// any order will do, but it must be one.
func (c Carrier) Supersedes(o Carrier) bool {
	return cmp.Or(
		cmp.Compare(c.Second, o.Second), cmp.Compare(c.Rank, o.Rank),
		bytes.Compare(c.Twin[:], o.Twin[:]), strings.Compare(o.ID, c.ID),
	) > 0
}
