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

// Step is one thing that was told of a session's state: by one event, or by
// several twins, of which the content of the smallest id stands; or by an
// answer of the API, which has no ID and stands behind all events up to the
// end of its span. An event is a row of history. An answer is one only where
// it tells a change that no event told.
type Step struct {
	Key              // ID is the event's
	Row      int64   // surrogate id in status_transitions; zero until written
	From     int64   // of an answer: when its span begins, unix
	Answer   bool    // told by the API
	Outputs  bool    // of an answer: it was asked for outputs
	Twin     TwinKey // equal for events that tell this change
	Type     string  // of the event
	State    State
	Session  Text // the session's type
	Account  Text
	Livemode Mode
	Reason   Text   // last_error.reason; not read back from the database
	Options  []byte // likewise
	Metadata []byte // likewise
	Source   string // likewise
	Changed  bool   // to be written
	Shown    bool   // of an answer: it is a row of history

	MetadataApart bool // the event's payload has not all of Metadata
}

// redaction reports whether the step tells that data must go.
func (s *Step) redaction() bool { return s.Type == TypeRedacted || KnownRedaction(s.State.Redaction) }

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

	// ToldBy names the step whose content the row has: an event's id, or "@" and
	// the end of an answer's span.
	ToldBy string

	Steps []Step // in order

	Obsolete []int64  // rows of history that an answer made and events explain by now
	Filled   []string // events that took over such a row: it was counted already

	// Renewed says that Options and Metadata are to be written. They are not read
	// back: what is not renewed stays as it is.
	Renewed bool

	// Reload names the event whose content must be read back from what is
	// stored, because neither the row nor the events at hand hold it.
	Reload string

	fresh []heard // taken since the row was read
}

// heard is what only an event or answer itself holds.
type heard struct {
	step string
	*Session
}

// Take folds one event, which is new and a [Snapshot] of this session.
func (s *Standing) Take(e *Event) Outcome {
	s.hear(&e.Session, e.Key(), e.Account, e.Context)
	s.Redacted = s.Redacted || e.Type == TypeRedacted // whatever word it has
	step := Step{
		Key: e.Key(), Twin: e.Twin(), Type: e.Type, State: e.Session.State(), Session: e.Session.Type,
		Account: e.Account, Livemode: e.Livemode, Reason: e.Session.ErrorReason,
		Options: e.Session.Options, Metadata: e.Session.Metadata, MetadataApart: e.Session.MetadataApart,
		Source: e.Source, Changed: true,
	}
	s.keep(step.name(), &e.Session)
	if i := slices.IndexFunc(s.Steps, func(t Step) bool { return !t.Answer && t.Twin == step.Twin }); i >= 0 {
		if step.ID < s.Steps[i].ID {
			step.Row, step.Source = s.Steps[i].Row, cmp.Or(s.Steps[i].Source, step.Source)
			s.Steps[i] = step
			s.sort()
		}
		s.Settle()
		return Twin
	}
	s.Steps = append(s.Steps, step)
	s.sort()
	s.Settle()
	if s.ToldBy == e.ID {
		return Applied
	}
	return Stale
}

// Answer is what Stripe's API told of a session: a state that held at some
// moment between From and Until, in whole seconds.
type Answer struct {
	From, Until time.Time // start of the request, never after Until; the answer's Date, by Stripe's clock
	Account     Text      // in whose name it was asked, for Connect
	Context     Text      // likewise, for an organization
	Session     Session
	Outputs     bool     // outputs were asked for
	Unreadable  []string // those that the key may not read
}

// Hear folds one answer. Of two that end in the same second the later request
// counts.
func (s *Standing) Hear(a *Answer) {
	c := &a.Session
	key := Key{Second: a.Until.Unix(), Rank: AnswerRank}
	step := Step{
		Key: key, Answer: true, From: a.From.Unix(), Outputs: a.Outputs, Type: c.eventType(), State: c.State(),
		Session: c.Type, Account: a.Account, Livemode: c.Livemode,
		Source: SourceAPI, Changed: true,
	}
	if i := slices.IndexFunc(s.Steps, func(t Step) bool { return t.Answer && t.Second == key.Second }); i >= 0 {
		other := &s.Steps[i]
		step.Outputs = step.Outputs || other.Outputs
		if step.From < other.From || step.From == other.From && step.State.less(other.State) {
			other.Changed = other.Changed || other.Outputs != step.Outputs
			other.Outputs = step.Outputs
			s.hear(c, key, a.Account, a.Context)
			s.Settle()
			return
		}
		switch {
		case other.Row == 0:
		case step.sameRow(other): // it tells the same: the row stands, and was counted
			step.Row, step.Shown = other.Row, other.Shown
		default:
			s.Obsolete = append(s.Obsolete, other.Row)
		}
		*other = step
		if s.ToldBy == step.name() {
			s.ToldBy = "" // its content is to be taken over again
		}
	} else {
		s.Steps = append(s.Steps, step)
	}
	s.hear(c, key, a.Account, a.Context)
	s.keep(step.name(), c)
	s.sort()
	s.Settle()
}

// sameRow reports whether two answers that end in the same second are the same
// row of history.
func (s *Step) sameRow(o *Step) bool {
	return s.State == o.State && s.Type == o.Type && s.Livemode == o.Livemode &&
		s.Session.Value == o.Session.Value && s.Account.Value == o.Account.Value
}

// AnswerRank puts an answer behind every event of its last second.
const AnswerRank = 9

// hear takes over what counts whatever the order: births and redactions.
func (s *Standing) hear(c *Session, key Key, account, context Text) {
	s.bear(c, key, account, context)
	if r := c.Redaction; r.Has() {
		s.Redacted = s.Redacted || KnownRedaction(r.Value)
		s.Hidden = s.Hidden || !KnownRedaction(r.Value)
	}
}

func (s *Standing) keep(step string, c *Session) {
	s.fresh = append(s.fresh, heard{step, c})
}

// AskedAt is when the span of the newest answer of Stripe's API begins; zero if
// it never answered.
func (s *Standing) AskedAt() time.Time {
	if a := s.newestAnswer(); a != nil {
		return time.Unix(a.From, 0).UTC()
	}
	return time.Time{}
}

// AnsweredAt is when that span ends.
func (s *Standing) AnsweredAt() time.Time {
	if a := s.newestAnswer(); a != nil {
		return time.Unix(a.Second, 0).UTC()
	}
	return time.Time{}
}

func (s *Standing) newestAnswer() *Step {
	for i := len(s.Steps) - 1; i >= 0; i-- {
		if s.Steps[i].Answer {
			return &s.Steps[i]
		}
	}
	return nil
}

// name tells steps of one session apart.
func (s *Step) name() string {
	if s.Answer {
		return "@" + strconv.FormatInt(s.Second, 10)
	}
	return s.ID
}

// Redact erases the session by an operator's order: an input like an event,
// that stands until Stripe has a word of its own.
func (s *Standing) Redact() {
	s.Redacted = true
	if !s.RedactionStatus.Has() {
		s.RedactionStatus = Some(RedactionRedacted)
	}
	s.Settle()
}

// Doubt notes that an event of this session is in quarantine; hides says that
// a redaction could be read in it.
func (s *Standing) Doubt(hides bool) {
	s.Suspect = true
	s.Hidden = s.Hidden || hides
	s.Settle()
}

func (s *Standing) sort() {
	slices.SortFunc(s.Steps, func(a, b Step) int { return a.Compare(b.Key) })
}

// Settle derives everything that is not fixed at birth from the steps.
func (s *Standing) Settle() {
	s.NeedsRefresh = s.Suspect
	if g := governing(s.Steps); g >= 0 {
		s.follow(g)
		s.NeedsRefresh = s.NeedsRefresh || unsettled(s.Steps, g)
	}
	if i := newestRedaction(s.Steps); i >= 0 {
		s.RedactionStatus = Some(s.Steps[i].State.Redaction)
	}
	s.show()
	if s.Redacted {
		// What hid the session has come to its end.
		s.Hidden, s.Metadata, s.ErrorReason = false, nil, Text{}
		for i := range s.Steps {
			s.Steps[i].Reason, s.Steps[i].Metadata = Text{}, nil
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
	if s.ToldBy != step.name() {
		s.content(step)
	}
	s.Type = step.Session
	s.Status = text(step.State.Status)
	s.ErrorCode = text(step.State.ErrorCode)
	s.ReportID = text(step.State.ReportID)
	s.LastEventID, s.LastEventCreatedAt = "", time.Time{}
	fetched := int64(math.MinInt64)
	for i := range s.Steps {
		switch t := &s.Steps[i]; {
		case t.Answer && t.Outputs:
			fetched = t.Second
		case !t.Answer && t.counts(end):
			s.LastEventID, s.LastEventCreatedAt = t.ID, time.Unix(t.Second, 0).UTC()
		}
	}
	s.OutputsWantedSince = time.Time{}
	if step.State.Status == StatusVerified && fetched < since {
		s.OutputsWantedSince = s.StatusChangedAt
	}
}

// show settles which answers are rows of history: those that tell another
// state than the step before them. An event that comes to tell the change
// itself takes the row over.
func (s *Standing) show() {
	for i := range s.Steps {
		t := &s.Steps[i]
		if !t.Answer {
			continue
		}
		if i == 0 || s.Steps[i-1].State != t.State {
			t.Shown = true
			continue
		}
		t.Shown = false
		if t.Row == 0 {
			continue
		}
		if before := &s.Steps[i-1]; !before.Answer && before.Row == 0 {
			before.Row = t.Row
			s.Filled = append(s.Filled, before.ID)
		} else {
			s.Obsolete = append(s.Obsolete, t.Row)
		}
		t.Row = 0
	}
}

func text(s string) Text {
	if s == "" {
		return Text{Presence: Null}
	}
	return Some(s)
}

// content takes over what only the event or answer itself holds.
func (s *Standing) content(step *Step) {
	s.ToldBy, s.Reload = step.name(), ""
	for _, c := range slices.Backward(s.fresh) {
		if c.step == s.ToldBy {
			s.ErrorReason, s.Options, s.Metadata, s.Renewed = c.ErrorReason, c.Options, c.Metadata, true
			return
		}
	}
	if !step.Answer {
		s.Reload = step.ID
	}
	// What an answer told is not kept: it governs again only when what came
	// later turns out to come after the end, and that asks for a refresh.
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

// counts reports whether the session may have the step's state: an event that
// is dated after the end and is no redaction is history.
func (s *Step) counts(end int64) bool { return s.Answer || s.Second <= end || s.redaction() }

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

// unsettled reports whether it is open what the session's state is: the newest
// second, or the span of the answer that governs, tells two of them, or
// something came after the end.
func unsettled(steps []Step, g int) bool {
	from := steps[g].Second
	if steps[g].Answer {
		from = steps[g].From
	}
	for _, t := range steps {
		if !t.Answer && (t.Second > steps[g].Second || t.Second >= from && t.State != steps[g].State) {
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
func (s *Standing) bear(c *Session, key Key, account, context Text) {
	texts := [...]struct {
		dst  *Text
		told Text
	}{
		{&s.Account, account}, {&s.Context, context},
		{&s.ClientReferenceID, c.ClientReferenceID},
		{&s.RelatedCustomer, c.RelatedCustomer}, {&s.RelatedCustomerAccount, c.RelatedCustomerAccount},
		{&s.RelatedPerson, c.RelatedPerson}, {&s.RelatedPersonAccount, c.RelatedPersonAccount},
		{&s.VerificationFlow, c.VerificationFlow},
	}
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
	if c.Livemode != ModeUnknown && earlier(8) {
		s.Livemode = c.Livemode
	}
	if !c.Created.IsZero() && earlier(9) {
		s.Created = c.Created
	}
}

// Append packs the births for a column: a digit for each field, then the keys
// that the digits name, as second.rank.length:id; "-" is a field nobody told.
func (b Births) Append(out []byte) []byte {
	var all [len(b)]Key
	keys := all[:0]
	for _, k := range b {
		if k == (Key{}) {
			out = append(out, '-')
			continue
		}
		at := slices.Index(keys, k)
		if at < 0 {
			at, keys = len(keys), append(keys, k)
		}
		out = append(out, '0'+byte(at))
	}
	for _, k := range keys {
		out = strconv.AppendInt(append(out, ' '), k.Second, 10)
		out = strconv.AppendInt(append(out, '.'), int64(k.Rank), 10)
		out = strconv.AppendInt(append(out, '.'), int64(len(k.ID)), 10)
		out = append(append(out, ':'), k.ID...)
	}
	return out
}

// ParseBirths reads what [Births.Append] wrote.
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
	numbers, ok := strings.CutPrefix(head, " ")
	when, rest, _ := strings.Cut(numbers, ".")
	place, size, found := strings.Cut(rest, ".")
	if !ok || !found {
		return k, "", fmt.Errorf("key %q", head)
	}
	second, err1 := strconv.ParseInt(when, 10, 64)
	rank, err2 := strconv.Atoi(place)
	length, err3 := strconv.Atoi(size)
	if err := cmp.Or(err1, err2, err3); err != nil {
		return k, "", fmt.Errorf("key %q: %w", head, err)
	}
	if length < 0 || length > len(tail) {
		return k, "", fmt.Errorf("key %q: the id ends too soon", head)
	}
	return Key{Second: second, Rank: rank, ID: tail[:length]}, tail[length:], nil
}
