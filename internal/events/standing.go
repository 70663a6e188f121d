package events

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Step is one transition of a session's history: a change that one event, or
// several twins, told. Of twins the content of the smallest id stands.
type Step struct {
	Key              // ID is the event's
	Row      int64   // surrogate id in status_transitions; zero until written
	Twin     TwinKey // equal for events that tell this change
	Type     string  // of the event
	State    State
	Session  Text // the session's type
	Account  Text
	Livemode Mode
	Reason   Text   // last_error.reason; not read back from the database
	Options  []byte // likewise
	Source   string // likewise
	Changed  bool   // to be written
}

// redaction reports whether the step tells that data must go.
func (s *Step) redaction() bool { return KnownRedaction(s.State.Redaction) }

// Standing is what stands of one session: its row, its history, and what the
// fold needs beside them. Its zero value with an ID is a session of which
// nothing is known yet.
type Standing struct {
	ID string

	// Fixed at birth: told by the first event, in the order, that has it.
	Account, Context                        Text
	Livemode                                Mode
	Created                                 time.Time
	ClientReferenceID                       Text
	RelatedCustomer, RelatedCustomerAccount Text
	RelatedPerson, RelatedPersonAccount     Text
	VerificationFlow                        Text
	// Births says which event told each of the ten fields above.
	Births Births

	// What the governing step tells. Zero for a session that is only a tombstone.
	Type, Status, ErrorCode, ReportID Text
	ErrorReason                       Text
	Options, Metadata                 []byte
	StatusChangedAt                   time.Time
	LastEventID                       string
	LastEventCreatedAt                time.Time

	RedactionStatus    Text
	Redacted           bool // a redaction was told: nothing personal may stand
	Hidden             bool // an unknown redaction word, or one that could not be understood
	Suspect            bool // an event of this session is in quarantine
	NeedsRefresh       bool
	OutputsWantedSince time.Time

	Steps []Step // in order

	// Reload names the event whose content must be read back from what is
	// stored, because neither the row nor the events at hand hold it.
	Reload string

	fresh []*Event // taken since the row was read
}

// Take folds one event, which is new and a [Snapshot] of this session.
func (s *Standing) Take(e *Event) Outcome {
	s.fresh = append(s.fresh, e)
	s.bear(e)
	if r := e.Session.Redaction; r.Has() {
		s.Redacted = s.Redacted || KnownRedaction(r.Value)
		s.Hidden = s.Hidden || !KnownRedaction(r.Value)
	}
	step := Step{
		Key: e.Key(), Twin: e.Twin(), Type: e.Type, State: e.Session.State(), Session: e.Session.Type,
		Account: e.Account, Livemode: e.Livemode, Reason: e.Session.ErrorReason, Options: e.Session.Options,
		Source: e.Source, Changed: true,
	}
	if i := slices.IndexFunc(s.Steps, func(t Step) bool { return t.Twin == step.Twin }); i >= 0 {
		if step.ID < s.Steps[i].ID {
			step.Row, step.Source = s.Steps[i].Row, cmp.Or(s.Steps[i].Source, step.Source)
			s.Steps[i] = step
			s.sort()
			s.settle()
		}
		return Twin
	}
	s.Steps = append(s.Steps, step)
	s.sort()
	s.settle()
	if s.LastEventID == e.ID {
		return Applied
	}
	return Stale
}

// Redact erases the session by an operator's order: an input like an event,
// that stands until Stripe has a word of its own.
func (s *Standing) Redact() {
	s.Redacted = true
	if !s.RedactionStatus.Has() {
		s.RedactionStatus = Some(RedactionRedacted)
	}
	s.settle()
}

// Doubt notes that an event of this session is in quarantine; hides says that
// a redaction could be read in it.
func (s *Standing) Doubt(hides bool) {
	s.Suspect = true
	s.Hidden = s.Hidden || hides
	s.settle()
}

func (s *Standing) sort() {
	slices.SortFunc(s.Steps, func(a, b Step) int { return a.Compare(b.Key) })
}

// settle derives everything that is not fixed at birth from the steps.
func (s *Standing) settle() {
	s.NeedsRefresh = s.Suspect
	if g := governing(s.Steps); g >= 0 {
		s.follow(g)
		s.NeedsRefresh = s.NeedsRefresh || unsettled(s.Steps, g)
	}
	if i := newestRedaction(s.Steps); i >= 0 {
		s.RedactionStatus = Some(s.Steps[i].State.Redaction)
	}
	if s.Redacted {
		s.Metadata, s.ErrorReason = nil, Text{}
		for i := range s.Steps {
			s.Steps[i].Reason = Text{}
		}
	}
	if s.Redacted || s.Hidden {
		s.OutputsWantedSince = time.Time{}
	}
}

// follow makes the row tell what step g tells.
func (s *Standing) follow(g int) {
	step := &s.Steps[g]
	end := finalSecond(s.Steps)
	since, first := step.Second, true
	for i := g - 1; i >= 0 && first; i-- {
		if before := &s.Steps[i]; before.counts(end) {
			if first = before.State.Status == step.State.Status; first {
				since = before.Second
			}
		}
	}
	// History that retention took away may have begun earlier.
	if changed := s.StatusChangedAt; first && !changed.IsZero() && s.Status.Value == step.State.Status {
		since = min(since, changed.Unix())
	}
	s.StatusChangedAt = time.Unix(since, 0).UTC()
	if s.LastEventID != step.ID {
		s.content(step)
	}
	s.Type = step.Session
	s.Status = text(step.State.Status)
	s.ErrorCode = text(step.State.ErrorCode)
	s.ReportID = text(step.State.ReportID)
	s.LastEventID = step.ID
	s.LastEventCreatedAt = time.Unix(step.Second, 0).UTC()
	s.OutputsWantedSince = time.Time{}
	if step.State.Status == StatusVerified {
		s.OutputsWantedSince = s.LastEventCreatedAt
	}
}

func text(s string) Text {
	if s == "" {
		return Text{Presence: Null}
	}
	return Some(s)
}

// content takes over what only the event itself holds.
func (s *Standing) content(step *Step) {
	for _, e := range s.fresh {
		if e.ID == step.ID {
			s.Reload = ""
			s.ErrorReason, s.Options, s.Metadata = e.Session.ErrorReason, e.Session.Options, e.Session.Metadata
			return
		}
	}
	s.Reload = step.ID
}

// finalSecond is when the session was canceled, which is final; else the end of time.
func finalSecond(steps []Step) int64 {
	for i := range steps {
		if steps[i].State.Status == StatusCanceled {
			return steps[i].Second
		}
	}
	return math.MaxInt64
}

// counts reports whether the session may have the step's state: what is dated
// after the end and is no redaction is history.
func (s *Step) counts(end int64) bool { return s.Second <= end || s.redaction() }

// governing is the newest step that counts, or -1.
func governing(steps []Step) int {
	end := finalSecond(steps)
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].counts(end) {
			return i
		}
	}
	return -1
}

// unsettled reports whether the events leave open what the session's state is:
// the newest second tells two of them, or something came after the end.
func unsettled(steps []Step, g int) bool {
	for i := len(steps) - 1; i >= 0 && steps[i].Second >= steps[g].Second; i-- {
		if steps[i].Second > steps[g].Second || steps[i].State != steps[g].State {
			return true
		}
	}
	return false
}

func newestRedaction(steps []Step) int {
	for i, step := range slices.Backward(steps) {
		if step.State.Redaction != "" {
			return i
		}
	}
	return -1
}

// Births says, for each field that is fixed at birth, which event told it.
type Births [10]Key

// bear takes over what is fixed at birth from an event that is earlier in the
// order than the one that told it so far. Null and placeholders tell nothing.
func (s *Standing) bear(e *Event) {
	c := &e.Session
	texts := [...]struct {
		dst  *Text
		told Text
	}{
		{&s.Account, e.Account}, {&s.Context, e.Context},
		{&s.ClientReferenceID, c.ClientReferenceID},
		{&s.RelatedCustomer, c.RelatedCustomer}, {&s.RelatedCustomerAccount, c.RelatedCustomerAccount},
		{&s.RelatedPerson, c.RelatedPerson}, {&s.RelatedPersonAccount, c.RelatedPersonAccount},
		{&s.VerificationFlow, c.VerificationFlow},
	}
	key := e.Key()
	earlier := func(field int) bool {
		first := s.Births[field] == Key{} || key.Compare(s.Births[field]) < 0
		if first {
			s.Births[field] = key
		}
		return first
	}
	for i, f := range texts {
		if f.told.Has() && earlier(i) {
			*f.dst = f.told
		}
	}
	if e.Livemode != ModeUnknown && earlier(8) {
		s.Livemode = e.Livemode
	}
	if !c.Created.IsZero() && earlier(9) {
		s.Created = c.Created
	}
}

// String packs the births for a column: a digit for each field, then the keys
// that the digits name, as second.rank.length:id; "-" is a field nobody told.
func (b Births) String() string {
	var keys []Key
	out := make([]byte, len(b), 64)
	for i, k := range b {
		if k == (Key{}) {
			out[i] = '-'
			continue
		}
		at := slices.Index(keys, k)
		if at < 0 {
			at, keys = len(keys), append(keys, k)
		}
		out[i] = '0' + byte(at)
	}
	for _, k := range keys {
		out = strconv.AppendInt(append(out, ' '), k.Second, 10)
		out = strconv.AppendInt(append(out, '.'), int64(k.Rank), 10)
		out = strconv.AppendInt(append(out, '.'), int64(len(k.ID)), 10)
		out = append(append(out, ':'), k.ID...)
	}
	return string(out)
}

// ParseBirths reads what [Births.String] wrote.
func ParseBirths(s string) (b Births, err error) {
	if s == "" {
		return b, nil
	}
	if len(s) < len(b) {
		return b, fmt.Errorf("births %q: too short", s)
	}
	var keys []Key
	for rest := s[len(b):]; rest != ""; {
		var k Key
		if k, rest, err = cutKey(rest); err != nil {
			return b, fmt.Errorf("births %q: %w", s, err)
		}
		keys = append(keys, k)
	}
	for i := range b {
		if s[i] == '-' {
			continue
		}
		n := int(s[i]) - '0'
		if n < 0 || n >= len(keys) {
			return b, fmt.Errorf("births %q: field %d", s, i)
		}
		b[i] = keys[n]
	}
	return b, nil
}

// cutKey reads one key off the front of s: a space, second.rank.length:id.
func cutKey(s string) (k Key, rest string, err error) {
	head, tail, _ := strings.Cut(s, ":")
	number := strings.Split(strings.TrimPrefix(head, " "), ".")
	if head == "" || head[0] != ' ' || len(number) != 3 {
		return k, "", fmt.Errorf("key %q", head)
	}
	second, err1 := strconv.ParseInt(number[0], 10, 64)
	rank, err2 := strconv.Atoi(number[1])
	length, err3 := strconv.Atoi(number[2])
	if err := cmp.Or(err1, err2, err3); err != nil {
		return k, "", fmt.Errorf("key %q: %w", head, err)
	}
	if length < 0 || length > len(tail) {
		return k, "", fmt.Errorf("key %q: the id ends too soon", head)
	}
	return Key{Second: second, Rank: rank, ID: tail[:length]}, tail[length:], nil
}
