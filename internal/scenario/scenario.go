// Package scenario speaks as Stripe does: it makes the bodies and stories of
// events for the commands trigger and simulate, and for the tests.
//
// A [Source] draws ids and times from a seed, so that the same calls make the
// same bytes. A [Session] lives the life of one VerificationSession: each
// method is something that happens to it, changes what it holds (status, last
// report, last error) and returns the event that Stripe would send. Order and
// number of calls are free; what Stripe would never do can be said too.
//
// Bodies have the fields, their order and the indentation of API version
// [APIVersion]; outputs are not in them, as in production ([Session.Expanded]
// is the exception). Nothing here is safe for concurrent use: give each
// goroutine a Source of its own.
package scenario

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"webhookd/internal/events"
)

// APIVersion is the version of the bodies unless SessionOptions says otherwise.
const APIVersion = "2026-10-28.endive"

// Marker is part of every name, address, number and other personal text that
// [Session.Expanded] adds: where it is found, personal data has got to.
// The day of birth is 1904-02-29.
const Marker = "PIIMARK"

const placeholder = "[redacted]"

// Source draws what is random in sessions and events.
type Source struct {
	Mark string // in place of [Marker], for what people are to look at

	rng *rand.Rand
}

// New makes a source; equal seeds draw equally.
func New(seed uint64) *Source { return &Source{rng: rand.New(rand.NewPCG(seed, 0))} }

func (s *Source) text(prefix string, n int) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = digits[s.rng.IntN(len(digits))]
	}
	return prefix + string(b)
}

func (s *Source) id(prefix string) string { return s.text(prefix+"_1", 23) }

func (s *Source) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.rng.Int64N(int64(high-low)+1))
}

// SessionOptions say what is not drawn.
type SessionOptions struct {
	ID                string // vs_…; drawn if empty
	Livemode          bool
	Type              string            // document if empty
	Account           string            // acct_… of a connected account
	Context           string            // of an organization's destination
	ClientReferenceID string            // drawn if empty
	Metadata          map[string]string // drawn if nil
	CreatedAt         time.Time         // told by the first event if zero
	APIVersion        string
	Status            string // where it stands, for a session that began elsewhere; requires_input if empty
}

// Session is one VerificationSession of Stripe's.
type Session struct {
	ID string

	src       *Source
	common    envelope // what all of its events share
	now       content
	submitted bool // an attempt is being checked
}

// Session begins a session. Nothing is told of it until an event is asked for.
func (s *Source) Session(o SessionOptions) *Session {
	id := o.ID
	if id == "" {
		id = s.id("vs")
	}
	if o.ClientReferenceID == "" {
		o.ClientReferenceID = fmt.Sprintf("user-%08x", s.rng.Uint32())
	}
	if o.Metadata == nil {
		o.Metadata = map[string]string{"tenant": "acme", "signup": s.text("", 12)}
	}
	session := &Session{
		ID:  id,
		src: s,
		common: envelope{
			Object: "event", Account: o.Account, Context: o.Context, Livemode: o.Livemode, PendingWebhooks: 1,
			APIVersion: cmp.Or(o.APIVersion, APIVersion),
		},
		now: content{
			ID: id, Object: "identity.verification_session", Livemode: o.Livemode,
			Type:              cmp.Or(o.Type, "document"),
			Status:            cmp.Or(o.Status, events.StatusRequiresInput),
			ClientReferenceID: &o.ClientReferenceID,
			Metadata:          o.Metadata,
		},
	}
	session.now.Options = optionsOf(session.now.Type)
	if session.now.Type == "verification_flow" {
		session.now.VerificationFlow = s.id("vf")
	}
	if o.Status == events.StatusVerified {
		session.now.Report = session.report()
	}
	if !o.CreatedAt.IsZero() {
		session.now.Created = o.CreatedAt.Unix()
	}
	return session
}

// Event is one event as Stripe would send it.
type Event struct {
	ID, Type, SessionID string
	Created             time.Time // whole seconds; of a thin event milliseconds
	Body                []byte

	doc envelope // what Body says, of a snapshot
}

// Created is the birth. Its body holds a client_secret and a url.
func (s *Session) Created(at time.Time) Event {
	if s.now.Created == 0 {
		s.now.Created = at.Unix()
	}
	s.now.Status, s.now.Report, s.now.LastError = events.StatusRequiresInput, nil, nil
	mode := "test"
	if s.now.Livemode {
		mode = "live"
	}
	born := s.now
	born.ClientSecret = new(s.src.text(s.ID+"_secret_"+mode+"_YWNjdF8x", 64))
	born.URL = new(s.src.text("https://verify.stripe.com/start/"+mode+"_YWNjdF8x", 64))
	return s.event(events.TypeCreated, at, born, s.call())
}

// Processing is the person's submission of an attempt.
func (s *Session) Processing(at time.Time) Event {
	s.now.Status, s.now.LastError, s.submitted = events.StatusProcessing, nil, true
	return s.event(events.TypeProcessing, at, s.now, request{})
}

// RequiresInput is a failure with a code, any text; with "" last_error is null.
// A failed check makes a new report. After Verified without Processing it is
// a reviewer's override and keeps the report.
func (s *Session) RequiresInput(at time.Time, code string) Event {
	override := s.now.Status == events.StatusVerified
	s.now.LastError = nil
	if code != "" {
		check, reason := explain(code)
		s.now.LastError = &lastError{code, reason}
		if check && !override {
			s.now.Report = s.report()
		}
	}
	s.now.Status, s.submitted = events.StatusRequiresInput, false
	return s.event(events.TypeRequiresInput, at, s.now, request{})
}

// Verified is a success with a new report. After a failed check without
// Processing it is a reviewer's override: report and last_error stay as they are.
func (s *Session) Verified(at time.Time) Event {
	if s.submitted || s.now.Report == nil {
		s.now.Report, s.now.LastError = s.report(), nil
	}
	s.now.Status, s.submitted = events.StatusVerified, false
	return s.event(events.TypeVerified, at, s.now, request{})
}

// Canceled is a call of the cancel API.
func (s *Session) Canceled(at time.Time) Event {
	s.now.Status, s.submitted = events.StatusCanceled, false
	return s.event(events.TypeCanceled, at, s.now, s.call())
}

// Redacting is a call of the redact API for a session that was never verified:
// it is canceled first, with a redaction under way.
func (s *Session) Redacting(at time.Time) Event {
	s.now.Status, s.submitted = events.StatusCanceled, false
	s.redact(events.RedactionProcessing)
	return s.event(events.TypeCanceled, at, s.now, s.call())
}

// Redacted is the end of a redaction, up to four days after the call. What was
// personal is a placeholder, and stays one in later events.
func (s *Session) Redacted(at time.Time) Event {
	if s.now.Status == events.StatusRequiresInput {
		s.now.Status = events.StatusCanceled
	}
	s.redact(events.RedactionRedacted)
	return s.event(events.TypeRedacted, at, s.now, request{})
}

func (s *Session) redact(word string) {
	s.now.Redaction = &redaction{word}
	s.now.Metadata = map[string]string{}
	s.now.ClientReferenceID = new(placeholder)
	if s.now.LastError != nil {
		s.now.LastError = &lastError{s.now.LastError.Code, placeholder}
	}
}

// Twin is another event for the change that a snapshot event told
// (docs.stripe.com/webhooks#handle-duplicate-events).
func (s *Session) Twin(e Event) Event {
	e.doc.ID = s.src.id("evt")
	return e.doc.encode(e.Created)
}

// Thin is the notification without content that goes with a snapshot event.
func (s *Session) Thin(e Event) Event {
	id, at := s.src.text("evt_test_65", 49), e.Created.Add(s.src.between(0, 999*time.Millisecond)).Truncate(time.Millisecond)
	if e.doc.Livemode {
		id = s.src.text("evt_65", 49)
	}
	n := notification{
		ID: id, Object: "v2.core.event", Type: events.ThinType(e.Type),
		Livemode: e.doc.Livemode, Created: at.UTC().Format("2006-01-02T15:04:05.000Z"),
		Context: cmp.Or(e.doc.Context, e.doc.Account),
		Related: related{s.ID, "identity.verification_session", "/v1/identity/verification_sessions/" + s.ID},
		Twin:    e.ID,
	}
	if e.doc.Request.ID != nil {
		n.Reason = &reason{"request", e.doc.Request}
	}
	return Event{ID: id, Type: n.Type, SessionID: s.ID, Created: at, Body: encode(n)}
}

// Expanded is a snapshot event with what Stripe never sends in one: the
// person's details and outputs, each text with [Marker] in it, or once the
// session is redacted with its placeholders.
func (s *Session) Expanded(e Event) Event {
	c, as := &e.doc.Data.Object, redacted
	if c.Redaction == nil {
		as = func(text string) json.RawMessage { return marked(text, cmp.Or(s.src.Mark, Marker)) }
	}
	c.ProvidedDetails, c.VerifiedOutputs = as(details), as(outputs)
	return e.doc.encode(e.Created)
}

// report is the id of a new report. The first one is told by the session's id,
// so that a session which is continued elsewhere keeps it.
func (s *Session) report() *string {
	if tail, ok := strings.CutPrefix(s.ID, "vs_"); ok && s.now.Report == nil {
		return new("vr_" + tail)
	}
	return new(s.src.id("vr"))
}

// call is what Stripe tells of the API call that caused an event; the zero
// request is an event that Stripe caused by itself.
func (s *Session) call() request {
	return request{new(s.src.text("req_", 14)), new(s.src.text("idv-", 20))}
}

func (s *Session) event(eventType string, at time.Time, c content, r request) Event {
	at = time.Unix(at.Unix(), 0).UTC()
	if s.now.Created == 0 {
		s.now.Created = at.Add(-4 * time.Minute).Unix()
		c.Created = s.now.Created
	}
	doc := s.common
	doc.ID, doc.Type, doc.Created, doc.Request = s.src.id("evt"), eventType, at.Unix(), r
	doc.Data.Object = c
	return doc.encode(at)
}

func encode(v any) []byte {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // strings, numbers and constants only
	}
	return body
}
