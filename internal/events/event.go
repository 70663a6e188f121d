package events

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// MaxID is the longest identifier, in bytes, that is stored and indexed as it
// is. Stripe documents up to 5000 characters and sends some 30.
const MaxID = 255

// MaxDepth is the deepest nesting of an event that is understood.
const MaxDepth = 64

// ErrNotAnEvent says that a body is no JSON object with the strings id and type.
var ErrNotAnEvent = errors.New("body is no JSON object with the strings id and type")

// Reasons for which a delivery cannot be recorded now; Stripe is asked to try
// again. Any other error of a store means that the database is not at hand.
var (
	// ErrQueueFull says that more deliveries wait than the queue may hold.
	ErrQueueFull = errors.New("queue is full")
	// ErrLocked says that somebody else holds the session's row for too long.
	ErrLocked = errors.New("session is locked by somebody else")
	// ErrDraining says that the process takes no more deliveries.
	ErrDraining = errors.New("shutting down")
)

// Kind says what an event is to webhookd.
type Kind uint8

// The kinds of events.
const (
	Foreign  Kind = iota // signed, but none of ours
	Snapshot             // one of the six types, understood
	Thin                 // a v1.identity.verification_session.* notification
	Broken               // ours, but not understood: Fault says why
)

// Presence tells apart what Stripe did not send, sent as null, replaced by a
// placeholder, and sent.
type Presence uint8

// The four states of a field.
const (
	Absent Presence = iota
	Null
	Redacted
	Present
)

// Text is a string of Stripe's together with its presence.
type Text struct {
	Presence Presence
	Value    string // empty unless Present
}

// Some makes a present text.
func Some(s string) Text { return Text{Present, s} }

// Has reports whether there is a value.
func (t Text) Has() bool { return t.Presence == Present }

// Or is the value, or other where there is none.
func (t Text) Or(other string) string {
	if t.Has() {
		return t.Value
	}
	return other
}

// Ptr is the value for a nullable column: nil where there is none.
func (t Text) Ptr() *string {
	if !t.Has() {
		return nil
	}
	return &t.Value
}

// TextOf reads a nullable column.
func TextOf(s *string) Text {
	if s == nil {
		return Text{Presence: Null}
	}
	return Some(*s)
}

// Mode is Stripe's livemode; zero where an event does not tell it.
type Mode uint8

// The modes.
const (
	ModeUnknown Mode = iota
	ModeTest
	ModeLive
)

// ModeOf makes a mode of a nullable column.
func ModeOf(live *bool) Mode {
	switch {
	case live == nil:
		return ModeUnknown
	case *live:
		return ModeLive
	default:
		return ModeTest
	}
}

// Ptr is the mode for a nullable column.
func (m Mode) Ptr() *bool {
	if m == ModeUnknown {
		return nil
	}
	live := m == ModeLive
	return &live
}

// Label is the mode as the metric label livemode: "true" or "false".
func (m Mode) Label() string {
	if m == ModeLive {
		return "true"
	}
	return "false"
}

// Sources of a row.
const (
	SourceWebhook   = "webhook"
	SourceReconcile = "reconcile"
	SourceAPI       = "api"
)

// Event is one fact of Stripe's, known by its id. Every string is valid UTF-8
// without NUL: PostgreSQL takes it as it is.
type Event struct {
	ID   string // evt_…, or sha256:<hex> of an id over MaxID bytes
	Type string // as sent, e.g. identity.verification_session.verified
	Kind Kind
	// Fault says in a few of our own words why the event is Broken.
	Fault string
	// Hides says that a redaction can be read in a Broken event.
	Hides bool

	Account       Text // acct_… for Connect, absent otherwise
	Context       Text // Stripe-Context of an organization's destination
	APIVersion    Text
	RequestID     Text // req_…, null for what Stripe did by itself
	SnapshotEvent Text // a thin event's twin, evt_…
	Livemode      Mode
	Created       time.Time // whole seconds for snapshots, milliseconds for thin events; zero if unknown
	SessionID     string    // vs_…; of a Broken event, the first that can be found

	// Session is the content of a Snapshot.
	Session Session
	// Payload is the body as compact JSON without what must never be stored
	// (see sanitised in contract). Nil for a Foreign event.
	Payload []byte

	// Filled is set by the store: the event filled a row of history that an
	// answer of the API had made, and that was counted then.
	Filled bool

	// How the event reached us.
	Source     string // SourceWebhook or SourceReconcile
	SecretName string // the configured name of the secret that matched
	ReceivedAt time.Time
}

// Session is a VerificationSession as one event or one answer of Stripe's API
// tells it (docs.stripe.com/api/identity/verification_sessions/object).
type Session struct {
	ID        string
	Created   time.Time // zero if not told
	Livemode  Mode
	Type      Text // document, id_number, verification_flow; open
	Status    Text // canceled, processing, requires_input, verified; open
	ErrorCode Text // last_error.code; open
	// ErrorReason is free text about a person.
	ErrorReason Text
	ReportID    Text // last_verification_report, also when it came as an object

	ClientReferenceID      Text
	RelatedCustomer        Text
	RelatedCustomerAccount Text
	RelatedPerson          Text
	RelatedPersonAccount   Text
	VerificationFlow       Text

	// Options and Metadata are JSON objects, nil when absent or null. They may be a
	// part of the event's Payload: nobody writes to any of the three.
	Options  []byte
	Metadata []byte
	// MetadataApart says that a payload leaves out a part of Metadata.
	MetadataApart bool

	Redaction Text     // redaction.status: processing, redacted, validated; open
	Outputs   *Outputs // nil when absent, null or nothing but placeholders
	Details   *Details // likewise provided_details
}

// Outputs is verified_outputs: what Stripe read from documents and registers.
// Placeholders of a redaction never appear in it.
type Outputs struct {
	FirstName, LastName               Text
	DobDay, DobMonth, DobYear         *int32
	Line1, Line2, City, State         Text
	PostalCode, Country               Text
	IDNumber, IDNumberType            Text
	Email, Phone, Sex                 Text
	UnparsedPlaceOfBirth, UnparsedSex Text
	Extra                             []byte // fields that webhookd does not know, as a JSON object; nil if none
}

// Dob is the date of birth in UTC, or nil unless all three parts are there and
// make a day of the calendar.
func (o *Outputs) Dob() *time.Time {
	if o.DobDay == nil || o.DobMonth == nil || o.DobYear == nil {
		return nil
	}
	y, m, d := int(*o.DobYear), time.Month(*o.DobMonth), int(*o.DobDay)
	t := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	if y < 1 || y > 9999 || t.Year() != y || t.Month() != m || t.Day() != d {
		return nil
	}
	return &t
}

// Only is a copy with the fields that wants names; nil wants all. A field that
// webhookd does not know goes with all only.
func (o Outputs) Only(wants func(field string) bool) Outputs {
	if wants == nil {
		return o
	}
	for field, texts := range map[string][]*Text{
		"first_name": {&o.FirstName}, "last_name": {&o.LastName}, "id_number": {&o.IDNumber}, "id_number_type": {&o.IDNumberType},
		"address": {&o.Line1, &o.Line2, &o.City, &o.State, &o.PostalCode, &o.Country},
		"email":   {&o.Email}, "phone": {&o.Phone}, "sex": {&o.Sex},
		"unparsed_place_of_birth": {&o.UnparsedPlaceOfBirth}, "unparsed_sex": {&o.UnparsedSex},
	} {
		if !wants(field) {
			for _, t := range texts {
				*t = Text{}
			}
		}
	}
	if !wants("dob") {
		o.DobDay, o.DobMonth, o.DobYear = nil, nil, nil
	}
	if !wants("extra") {
		o.Extra = nil
	}
	return o
}

// Details is provided_details: what the person typed in.
type Details struct {
	Email, Phone Text
}

// Only is a copy with the fields that wants names; nil wants all.
func (d Details) Only(wants func(field string) bool) Details {
	if wants != nil && !wants("email") {
		d.Email = Text{}
	}
	if wants != nil && !wants("phone") {
		d.Phone = Text{}
	}
	return d
}

// StoredID is an identifier as webhookd stores it: itself up to MaxID bytes,
// else sha256:<hex>.
func StoredID(id string) string {
	if len(id) <= MaxID {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Outcome is what became of a delivery that was answered with 200.
type Outcome string

// The outcomes of the contract.
const (
	Applied     Outcome = "applied"     // the session advanced
	Stale       Outcome = "stale"       // history gained a row, the session keeps its state
	Twin        Outcome = "twin"        // another event id for a recorded change
	Duplicate   Outcome = "duplicate"   // event id seen before
	Queued      Outcome = "queued"      // a thin event waits for the API
	Ignored     Outcome = "ignored"     // none of ours
	Quarantined Outcome = "quarantined" // kept, not understood
)

// Recorded reports whether the outcome made a transition.
func (o Outcome) Recorded() bool { return o == Applied || o == Stale }
