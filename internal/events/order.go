package events

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// rankOf orders the types within one second; -1 is none of the six.
func rankOf(eventType string) int {
	suffix, ok := strings.CutPrefix(eventType, typePrefix)
	if !ok {
		return -1
	}
	return slices.Index([]string{"created", "processing", "requires_input", "verified", "canceled", "redacted"}, suffix)
}

// Key is the place of an event in its session's history. Stripe's times are
// whole seconds and its order of delivery means nothing
// (docs.stripe.com/webhooks#event-ordering), so the type and then the id decide.
type Key struct {
	Second int64 // unix
	Rank   int   // of the event type
	ID     string
}

// Compare orders two keys; ids by their bytes.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Second, o.Second), cmp.Compare(k.Rank, o.Rank), strings.Compare(k.ID, o.ID))
}

// Key is the event's place in its session's history.
func (e *Event) Key() Key { return Key{e.Created.Unix(), rankOf(e.Type), e.ID} }

// State is what two events or answers of one second can differ in.
type State struct {
	Status, ErrorCode, ReportID, Redaction string
}

func (s State) less(o State) bool {
	return cmp.Or(strings.Compare(s.Status, o.Status), strings.Compare(s.ErrorCode, o.ErrorCode),
		strings.Compare(s.ReportID, o.ReportID), strings.Compare(s.Redaction, o.Redaction)) < 0
}

// eventType is the type of the event that would have told the session's state.
func (s *Session) eventType() string {
	switch r := s.Redaction.Value; {
	case r == RedactionRedacted || r == RedactionValidated:
		return TypeRedacted
	case s.Status.Value == StatusVerified:
		return TypeVerified
	case s.Status.Value == StatusProcessing:
		return TypeProcessing
	case s.Status.Value == StatusCanceled:
		return TypeCanceled
	case !s.ErrorCode.Has() && !s.ReportID.Has():
		return TypeCreated // nobody has tried yet
	}
	return TypeRequiresInput
}

// State is the state that the session's content tells. Null and a placeholder
// count as nothing.
func (s *Session) State() State {
	return State{s.Status.Value, s.ErrorCode.Value, s.ReportID.Value, s.Redaction.Value}
}

// TwinKey is equal for two events that report one change: same session, event
// type, state and second (docs.stripe.com/webhooks#handle-duplicate-events).
type TwinKey [16]byte

// Twin is the event's twin key.
func (e *Event) Twin() TwinKey { return twinKey(e.SessionID, e.Type, e.Session.State(), e.Created) }

func twinKey(sessionID, eventType string, s State, created time.Time) TwinKey {
	b := make([]byte, 0, 256)
	for _, part := range [...]string{sessionID, eventType, s.Status, s.ErrorCode, s.ReportID, s.Redaction} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(binary.AppendVarint(b, created.Unix()))
	return TwinKey(sum[:16])
}
