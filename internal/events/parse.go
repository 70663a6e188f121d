package events

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Parse decodes the body of one delivery, or an event of Stripe's API, in one
// pass. It answers [ErrNotAnEvent] for what is no JSON object with the strings
// id and type; whatever else is wrong with an event of ours makes it Broken,
// never an error, because Stripe would send it again for three days.
//
// NUL, lone surrogates and invalid UTF-8 become U+FFFD; of doubled keys the
// last one wins; enums are open; absent and null fields are normal. The event
// shares no memory with body.
func Parse(body []byte) (*Event, error) {
	e, tooDeep, err := parse(body, false)
	if tooDeep && err != nil {
		// Nested deeper than the tokenizer goes: look at the upper part only.
		e, _, err = parse(shallow(body), true)
	}
	return e, err
}

func parse(body []byte, tooDeep bool) (*Event, bool, error) {
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.reset(body, strict, 0)
	p.tooDeep = tooDeep
	if p.dec.PeekKind() != '{' {
		return nil, false, ErrNotAnEvent
	}
	if err := p.object(inEvent); err != nil {
		return nil, nestsTooDeep(body), ErrNotAnEvent
	}
	if _, err := p.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, false, ErrNotAnEvent
	}
	e, err := p.event()
	return e, false, err
}

// place says which object of an event the parser is in.
type place uint8

const (
	elsewhere place = iota
	inEvent
	inData
	inSession
	inLastError
	inReport
	inRedaction
	inOutputs
	inAddress
	inDob
	inDetails
	inPerson
	inRequest
	inRelated
)

// policy says what is left out of the copy.
type policy uint8

const (
	strict  policy = iota // a payload: no secrets, outputs or documents at any depth
	keepAll               // options, metadata, unknown outputs: all of it
)

// wrong marks a field whose JSON type is not the documented one.
const wrong Presence = 255

// number is an integer field.
type number struct {
	presence Presence
	value    int64
}

type parser struct {
	dec    *jsontext.Decoder
	src    bytes.Buffer
	out    []byte // the sanitised copy
	name   []byte // scratch for member names
	text   []byte // scratch for string values
	policy policy
	depth  int

	tooDeep     bool
	badNumber   bool
	sawWithheld bool   // a name that strict leaves out
	vs          string // the first vs_… anywhere
	redaction   bool   // a redaction anywhere

	// The last value read for each field, so that the last of doubled keys wins.
	id, typ                                       Text
	account, context, apiVersion, snapshot        Text
	requestID                                     Text
	livemode                                      number // 0 or 1
	created                                       number // unix seconds
	createdText                                   Text   // of a thin event
	request, data, content, relatedObject         Presence
	relatedID                                     Text
	sessionCreated, sessionLivemode               number
	lastError, report, redacted, outputs, details Presence
	person, address, dob, options, metadata       Presence
	day, month, year                              number
	s                                             Session
	sessionID                                     Text
	o                                             Outputs
	d                                             Details
}

var parsers = sync.Pool{New: func() any { return &parser{dec: jsontext.NewDecoder(new(bytes.Buffer))} }}

func (p *parser) reset(body []byte, pol policy, depth int) {
	*p = parser{dec: p.dec, out: p.out[:0], name: p.name[:0], text: p.text[:0], policy: pol, depth: depth}
	p.src = *bytes.NewBuffer(body)
	p.dec.Reset(&p.src, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// withheld reports whether a payload never has a field of this name, at any
// depth: bearer secrets, and what is read from documents and faces.
func withheld(name []byte) bool {
	switch string(name) {
	case "client_secret", "url", "verified_outputs", "provided_details", "document", "selfie", "id_number", "dob":
		return true
	}
	return false
}

// value copies the next value, whatever it is.
func (p *parser) value() error {
	switch p.dec.PeekKind() {
	case '{':
		return p.object(elsewhere)
	case '[':
		return p.array()
	default:
		raw, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		p.scalar(raw)
		return nil
	}
}

func (p *parser) array() error {
	if p.depth >= MaxDepth {
		return p.elide()
	}
	p.depth++
	if _, err := p.dec.ReadToken(); err != nil {
		return err
	}
	p.out = append(p.out, '[')
	for n := 0; p.dec.PeekKind() != ']'; n++ {
		if n > 0 {
			p.out = append(p.out, ',')
		}
		if err := p.value(); err != nil {
			return err
		}
	}
	p.out = append(p.out, ']')
	p.depth--
	_, err := p.dec.ReadToken()
	return err
}

func (p *parser) object(at place) error {
	if p.depth >= MaxDepth {
		return p.elide()
	}
	p.depth++
	if _, err := p.dec.ReadToken(); err != nil {
		return err
	}
	p.out = append(p.out, '{')
	empty := true
	for p.dec.PeekKind() != '}' {
		raw, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		mark := len(p.out)
		if !empty {
			p.out = append(p.out, ',')
		}
		name, plain := p.clean(raw, p.name[:0])
		if !plain {
			p.name = name[:0]
		}
		p.quote(raw, name, plain)
		p.out = append(p.out, ':')
		keep, err := p.member(at, name)
		if err != nil {
			return err
		}
		if keep {
			empty = false
		} else {
			p.out = p.out[:mark]
		}
	}
	p.out = append(p.out, '}')
	p.depth--
	_, err := p.dec.ReadToken()
	return err
}

// elide puts null where the nesting goes too deep.
func (p *parser) elide() error {
	p.tooDeep = true
	p.out = append(p.out, "null"...)
	return p.dec.SkipValue()
}

// member reads one member's value and reports whether the copy keeps it.
func (p *parser) member(at place, name []byte) (keep bool, err error) {
	switch at {
	case inEvent:
		return p.eventMember(name)
	case inData:
		if string(name) == "object" {
			p.forgetSession()
			return true, p.nested(&p.content, inSession)
		}
	case inSession:
		return p.sessionMember(name)
	case inRequest:
		if string(name) == "id" {
			return true, p.string(&p.requestID)
		}
	case inRelated:
		if string(name) == "id" {
			return true, p.string(&p.relatedID)
		}
	case inLastError:
		switch string(name) {
		case "code":
			return true, p.string(&p.s.ErrorCode)
		case "reason":
			return true, p.string(&p.s.ErrorReason)
		}
	case inReport:
		if string(name) == "id" {
			return true, p.string(&p.s.ReportID)
		}
		return false, p.dec.SkipValue()
	case inRedaction:
		if string(name) == "status" {
			return true, p.string(&p.s.Redaction)
		}
	case inPerson:
		switch string(name) {
		case "account":
			return true, p.string(&p.s.RelatedPersonAccount)
		case "person":
			return true, p.string(&p.s.RelatedPerson)
		}
	case inOutputs, inAddress, inDob, inDetails:
		return true, p.personalMember(at, name)
	}
	return p.otherMember(name)
}

func (p *parser) eventMember(name []byte) (keep bool, err error) {
	switch string(name) {
	case "id":
		return true, p.string(&p.id)
	case "type":
		return true, p.string(&p.typ)
	case "account":
		return true, p.string(&p.account)
	case "context":
		return true, p.string(&p.context)
	case "api_version":
		return true, p.string(&p.apiVersion)
	case "snapshot_event":
		return true, p.string(&p.snapshot)
	case "livemode":
		return true, p.bool(&p.livemode)
	case "created":
		p.createdText = Text{}
		if p.dec.PeekKind() == '"' {
			p.created = number{}
			return true, p.string(&p.createdText)
		}
		return true, p.integer(&p.created)
	case "request":
		p.requestID = Text{}
		if p.dec.PeekKind() == '"' { // API versions before 2017-05-25
			p.request = Present
			return true, p.string(&p.requestID)
		}
		return true, p.nested(&p.request, inRequest)
	case "data":
		p.forgetSession()
		return true, p.nested(&p.data, inData)
	case "related_object":
		p.relatedID = Text{}
		return true, p.nested(&p.relatedObject, inRelated)
	}
	return p.otherMember(name)
}

func (p *parser) forgetSession() {
	p.content, p.sessionID, p.sessionCreated, p.sessionLivemode = 0, Text{}, number{}, number{}
	p.lastError, p.report, p.redacted, p.outputs, p.details = 0, 0, 0, 0, 0
	p.person, p.address, p.dob, p.options, p.metadata = 0, 0, 0, 0, 0
	p.day, p.month, p.year = number{}, number{}, number{}
	p.s, p.o, p.d = Session{}, Outputs{}, Details{}
}

func (p *parser) sessionMember(name []byte) (keep bool, err error) {
	s := &p.s
	switch string(name) {
	case "id":
		return true, p.string(&p.sessionID)
	case "created":
		return true, p.integer(&p.sessionCreated)
	case "livemode":
		return true, p.bool(&p.sessionLivemode)
	case "type":
		return true, p.string(&s.Type)
	case "status":
		return true, p.string(&s.Status)
	case "client_reference_id":
		return true, p.string(&s.ClientReferenceID)
	case "related_customer":
		return true, p.string(&s.RelatedCustomer)
	case "related_customer_account":
		return true, p.string(&s.RelatedCustomerAccount)
	case "verification_flow":
		return true, p.string(&s.VerificationFlow)
	case "related_person":
		s.RelatedPerson, s.RelatedPersonAccount = Text{}, Text{}
		return true, p.nested(&p.person, inPerson)
	case "last_error":
		s.ErrorCode, s.ErrorReason = Text{}, Text{}
		return true, p.nested(&p.lastError, inLastError)
	case "last_verification_report":
		s.ReportID = Text{}
		if p.dec.PeekKind() == '{' { // expanded: of the report only the id is kept
			mark := len(p.out)
			err := p.nested(&p.report, inReport)
			p.out, _ = jsontext.AppendQuote(p.out[:mark], s.ReportID.Value) // valid: clean made it
			return true, err
		}
		p.report = Present
		return true, p.string(&s.ReportID)
	case "redaction":
		s.Redaction = Text{}
		p.redaction = p.redaction || p.dec.PeekKind() != 'n'
		return true, p.nested(&p.redacted, inRedaction)
	case "options":
		return true, p.whole(&p.options, &s.Options)
	case "metadata":
		return true, p.whole(&p.metadata, &s.Metadata)
	case "verified_outputs":
		p.o, p.address, p.dob = Outputs{}, 0, 0
		p.day, p.month, p.year = number{}, number{}, number{}
		return false, p.nested(&p.outputs, inOutputs)
	case "provided_details":
		p.d = Details{}
		return false, p.nested(&p.details, inDetails)
	}
	return p.otherMember(name)
}

// personalMember reads what stands in verified_outputs and provided_details.
func (p *parser) personalMember(at place, name []byte) error {
	if at == inDetails {
		switch string(name) {
		case "email":
			return p.string(&p.d.Email)
		case "phone":
			return p.string(&p.d.Phone)
		}
		return p.dec.SkipValue()
	}
	if at == inDob {
		switch string(name) {
		case "day":
			return p.integer(&p.day)
		case "month":
			return p.integer(&p.month)
		case "year":
			return p.integer(&p.year)
		}
		return p.extra("dob.", name)
	}
	if at == inAddress {
		switch string(name) {
		case "line1":
			return p.string(&p.o.Line1)
		case "line2":
			return p.string(&p.o.Line2)
		case "city":
			return p.string(&p.o.City)
		case "state":
			return p.string(&p.o.State)
		case "postal_code":
			return p.string(&p.o.PostalCode)
		case "country":
			return p.string(&p.o.Country)
		}
		return p.extra("address.", name)
	}
	switch string(name) {
	case "first_name":
		return p.string(&p.o.FirstName)
	case "last_name":
		return p.string(&p.o.LastName)
	case "address":
		return p.nested(&p.address, inAddress)
	case "dob":
		return p.nested(&p.dob, inDob)
	case "id_number":
		return p.string(&p.o.IDNumber)
	case "id_number_type":
		return p.string(&p.o.IDNumberType)
	case "email":
		return p.string(&p.o.Email)
	case "phone":
		return p.string(&p.o.Phone)
	case "sex":
		return p.string(&p.o.Sex)
	case "unparsed_place_of_birth":
		return p.string(&p.o.UnparsedPlaceOfBirth)
	case "unparsed_sex":
		return p.string(&p.o.UnparsedSex)
	}
	return p.extra("", name)
}

// extra keeps an output of tomorrow under its name, unless it is null or redacted.
func (p *parser) extra(prefix string, name []byte) error {
	key := append(append([]byte(nil), prefix...), name...)
	raw, err := p.dec.ReadValue()
	if err != nil {
		return err
	}
	if raw.Kind() == 'n' || string(raw) == `"[redacted]"` {
		return nil
	}
	value, _, err := p.copyOf(raw, keepAll)
	if err != nil {
		return err
	}
	if p.o.Extra == nil {
		p.o.Extra = append(p.o.Extra, '{')
	} else {
		p.o.Extra[len(p.o.Extra)-1] = ','
	}
	p.o.Extra, _ = jsontext.AppendQuote(p.o.Extra, key) // key is valid: clean made it
	p.o.Extra = append(p.o.Extra, ':')
	p.o.Extra = append(append(p.o.Extra, value...), '}')
	return nil
}

// otherMember copies a member that has no meaning here, if it may be kept.
func (p *parser) otherMember(name []byte) (keep bool, err error) {
	if withheld(name) {
		p.sawWithheld = true
		if p.policy == strict {
			return false, p.dec.SkipValue()
		}
	}
	switch string(name) {
	case "redaction":
		p.redaction = p.redaction || p.dec.PeekKind() == '{' || p.dec.PeekKind() == '"'
	case "last_verification_report":
		if p.policy == strict && p.dec.PeekKind() == '{' {
			return false, p.dec.SkipValue()
		}
	}
	return true, p.value()
}

// whole reads an object that is stored as it is; the payload's copy leaves out
// what a payload never has.
func (p *parser) whole(presence *Presence, dst *[]byte) error {
	*dst = nil
	if p.dec.PeekKind() != '{' {
		return p.nested(presence, elsewhere)
	}
	*presence = Present
	raw, err := p.dec.ReadValue()
	if err != nil {
		return err
	}
	all, withheld, err := p.copyOf(raw, keepAll)
	if err != nil {
		return err
	}
	*dst = all
	if withheld {
		if all, _, err = p.copyOf(raw, strict); err != nil {
			return err
		}
	}
	p.out = append(p.out, all...)
	return nil
}

// copyOf is a clean copy of one value, and whether it has names that a payload
// must not have.
func (p *parser) copyOf(raw []byte, pol policy) (clean []byte, withheld bool, err error) {
	q := parsers.Get().(*parser)
	defer parsers.Put(q)
	q.reset(raw, pol, p.depth)
	if err := q.value(); err != nil {
		return nil, false, err
	}
	p.tooDeep = p.tooDeep || q.tooDeep
	p.badNumber = p.badNumber || q.badNumber
	if p.vs == "" {
		p.vs = q.vs
	}
	return bytes.Clone(q.out), q.sawWithheld, nil
}

// nested reads an object whose members have a meaning; dst tells what came instead.
func (p *parser) nested(dst *Presence, at place) error {
	switch p.dec.PeekKind() {
	case '{':
		*dst = Present
		return p.object(at)
	case 'n':
		*dst = Null
	case '"':
		var t Text
		if err := p.string(&t); err != nil {
			return err
		}
		if *dst = Redacted; t.Has() {
			*dst = wrong
		}
		return nil
	default:
		*dst = wrong
	}
	return p.value()
}

func (p *parser) string(dst *Text) error {
	switch p.dec.PeekKind() {
	case '"':
		raw, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		value := p.scalar(raw)
		if string(value) == "[redacted]" {
			*dst = Text{Presence: Redacted}
		} else {
			*dst = Some(intern(value))
		}
		return nil
	case 'n':
		*dst = Text{Presence: Null}
	default:
		*dst = Text{Presence: wrong}
	}
	return p.value()
}

func (p *parser) bool(dst *number) error {
	switch p.dec.PeekKind() {
	case 't':
		*dst = number{Present, 1}
	case 'f':
		*dst = number{Present, 0}
	case 'n':
		*dst = number{presence: Null}
	default:
		*dst = number{presence: wrong}
	}
	return p.value()
}

func (p *parser) integer(dst *number) error {
	switch p.dec.PeekKind() {
	case '0':
		raw, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if *dst = (number{Present, n}); err != nil {
			dst.presence = wrong
		}
		p.scalar(raw)
		return nil
	case 'n':
		*dst = number{presence: Null}
		return p.value()
	case '"':
		var t Text
		err := p.string(&t)
		if *dst = (number{presence: Redacted}); t.Has() {
			dst.presence = wrong
		}
		return err
	default:
		*dst = number{presence: wrong}
		return p.value()
	}
}

// scalar copies a string, number or literal; of a string it answers the value,
// which stands until the next read.
func (p *parser) scalar(raw []byte) []byte {
	switch raw[0] {
	case '"':
		value, plain := p.clean(raw, p.text[:0])
		if !plain {
			p.text = value[:0]
		}
		p.quote(raw, value, plain)
		if p.vs == "" && bytes.HasPrefix(value, []byte("vs_")) {
			p.vs = string(value)
		}
		return value
	case 't', 'f', 'n':
		p.out = append(p.out, raw...)
	default:
		if storable(raw) {
			p.out = append(p.out, raw...)
			break
		}
		p.badNumber = true
		p.out = append(append(append(p.out, '"'), raw...), '"')
	}
	return nil
}

// storable reports whether jsonb can hold a number: numeric ends at 131072
// digits before the point and 16383 after it, far beyond what Stripe sends.
func storable(number []byte) bool {
	if len(number) > 1000 {
		return false
	}
	i := bytes.IndexAny(number, "eE")
	if i < 0 {
		return true
	}
	exp, err := strconv.Atoi(string(number[i+1:]))
	return err == nil && -1000 < exp && exp < 1000
}

// clean is the value of a quoted string as PostgreSQL can hold it. It is plain
// if the quoted form can be copied as it is; then it is a part of raw, else it
// is appended to dst.
func (p *parser) clean(raw, dst []byte) (value []byte, plain bool) {
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner, true
	}
	// The error only tells that something was replaced by U+FFFD.
	value, _ = jsontext.AppendUnquote(dst, raw)
	if bytes.IndexByte(value, 0) >= 0 {
		value = bytes.ReplaceAll(value, []byte{0}, []byte("\uFFFD"))
	}
	return value, false
}

func (p *parser) quote(raw, value []byte, plain bool) {
	if plain {
		p.out = append(p.out, raw...)
		return
	}
	p.out, _ = jsontext.AppendQuote(p.out, value) // value is valid UTF-8
}

// event judges what was read.
func (p *parser) event() (*Event, error) {
	if !p.id.Has() || !p.typ.Has() {
		return nil, ErrNotAnEvent
	}
	e := &Event{
		ID: StoredID(p.id.Value), Type: p.typ.Value, Source: SourceWebhook,
		Account: known(p.account), Context: known(p.context), APIVersion: known(p.apiVersion),
		RequestID: known(p.requestID), SnapshotEvent: known(p.snapshot), Livemode: p.mode(),
	}
	switch {
	case rankOf(e.Type) >= 0:
		e.Kind = Snapshot
	case strings.HasPrefix(e.Type, thinPrefix):
		e.Kind = Thin
	case strings.HasPrefix(e.Type, typePrefix):
		e.Kind = Broken
		e.Fault = "unknown event type"
	default:
		return e, nil
	}
	e.Payload = bytes.Clone(p.out)
	if p.created.presence == Present && withinColumn(p.created.value) {
		e.Created = time.Unix(p.created.value, 0).UTC()
	} else if p.createdText.Has() {
		if t, err := time.Parse(time.RFC3339, p.createdText.Value); err == nil && withinColumn(t.Unix()) {
			e.Created = t.UTC().Truncate(time.Microsecond)
		}
	}
	e.SessionID = p.sessionID.Or(p.relatedID.Or(p.vs))
	if e.Kind == Snapshot {
		e.Session = p.session()
	}
	if e.Fault == "" {
		e.Fault = p.fault(e.Kind)
	}
	if e.Fault != "" {
		e.Kind = Broken
		if !strings.HasPrefix(e.SessionID, "vs_") {
			e.SessionID = p.vs
		}
		e.Hides = p.redaction || e.Type == TypeRedacted || e.Type == thinPrefix+"redacted"
		e.Session = Session{}
		e.SessionID = StoredID(e.SessionID)
		for _, t := range []*Text{&e.Account, &e.Context, &e.RequestID, &e.SnapshotEvent} {
			t.Value = StoredID(t.Value)
		}
	}
	return e, nil
}

// known forgets a wrong type: the fault tells it, the field is not there.
func known(t Text) Text {
	if t.Presence == wrong {
		return Text{}
	}
	return t
}

func (p *parser) mode() Mode {
	for _, n := range []number{p.livemode, p.sessionLivemode} {
		if n.presence == Present {
			return ModeTest + Mode(n.value)
		}
	}
	return ModeUnknown
}

func (p *parser) session() Session {
	s := p.s
	s.ID = p.sessionID.Value
	s.Livemode = p.mode()
	if p.sessionCreated.presence == Present && withinColumn(p.sessionCreated.value) {
		s.Created = time.Unix(p.sessionCreated.value, 0).UTC()
	}
	switch {
	case s.Redaction.Presence == Redacted, p.redacted == Redacted:
		s.Redaction = Some(RedactionRedacted)
	case s.Redaction.Value == "":
		s.Redaction.Presence = min(s.Redaction.Presence, Null)
	}
	if p.typ.Value == TypeRedacted && !s.Redaction.Has() {
		s.Redaction = Some(RedactionRedacted)
	}
	if placeholder := p.day == p.month && p.month == p.year && p.day == (number{Present, 1}); !placeholder {
		p.o.DobDay, p.o.DobMonth, p.o.DobYear = p.day.ptr(), p.month.ptr(), p.year.ptr()
	}
	if p.outputs == Present && p.o.told() {
		s.Outputs = new(p.o)
	}
	if p.details == Present && (p.d.Email.Has() || p.d.Phone.Has()) {
		s.Details = new(p.d)
	}
	return s
}

func (n number) ptr() *int32 {
	if n.presence != Present {
		return nil
	}
	return new(int32(n.value))
}

// told reports whether there is a value that is no placeholder.
func (o *Outputs) told() bool {
	if o.Extra != nil || o.DobDay != nil || o.DobMonth != nil || o.DobYear != nil {
		return true
	}
	for _, t := range o.texts() {
		if t.Has() {
			return true
		}
	}
	return false
}

func (o *Outputs) texts() [16]Text {
	return [...]Text{
		o.FirstName, o.LastName, o.Line1, o.Line2, o.City, o.State, o.PostalCode, o.Country,
		o.IDNumber, o.IDNumberType, o.Email, o.Phone, o.Sex, o.UnparsedPlaceOfBirth, o.UnparsedSex, {},
	}
}

// withinColumn reports whether timestamptz can hold a time in unix seconds
// (4713 BC to 294276 AD).
func withinColumn(unix int64) bool { return -210_866_803_200 <= unix && unix < 9_224_318_016_000 }

// fault says why an event of ours cannot be understood; empty if it can.
func (p *parser) fault(kind Kind) string {
	switch {
	case p.tooDeep:
		return "nested deeper than " + strconv.Itoa(MaxDepth)
	case p.badNumber:
		return "number out of range"
	}
	ids := []named{
		{"id", p.id}, {"account", p.account}, {"context", p.context}, {"request.id", p.requestID},
		{"snapshot_event", p.snapshot},
	}
	texts := []named{{"api_version", p.apiVersion}}
	objects := []namedPresence{{"request", p.request}, {"data", p.data}, {"related_object", p.relatedObject}}
	numbers := []namedNumber{{"livemode", p.livemode, 1}}
	if kind == Thin {
		ids = append(ids, named{"related_object.id", p.relatedID})
	} else {
		s := &p.s
		ids = append(ids,
			named{"data.object.id", p.sessionID}, named{"last_verification_report", s.ReportID},
			named{"related_customer", s.RelatedCustomer}, named{"related_customer_account", s.RelatedCustomerAccount},
			named{"related_person.person", s.RelatedPerson}, named{"related_person.account", s.RelatedPersonAccount},
			named{"verification_flow", s.VerificationFlow})
		texts = append(texts,
			named{"data.object.type", s.Type}, named{"data.object.status", s.Status},
			named{"last_error.code", s.ErrorCode}, named{"last_error.reason", s.ErrorReason},
			named{"client_reference_id", s.ClientReferenceID}, named{"redaction.status", s.Redaction},
			named{"provided_details.email", p.d.Email}, named{"provided_details.phone", p.d.Phone})
		for _, t := range p.o.texts() {
			texts = append(texts, named{"verified_outputs", t})
		}
		objects = append(objects,
			namedPresence{"data.object", p.content}, namedPresence{"last_error", p.lastError},
			namedPresence{"redaction", p.redacted}, namedPresence{"verified_outputs", p.outputs},
			namedPresence{"provided_details", p.details}, namedPresence{"related_person", p.person},
			namedPresence{"verified_outputs.address", p.address}, namedPresence{"verified_outputs.dob", p.dob},
			namedPresence{"options", p.options}, namedPresence{"metadata", p.metadata})
		numbers = append(numbers,
			namedNumber{"data.object.livemode", p.sessionLivemode, 1},
			namedNumber{"verified_outputs.dob", p.day, 1<<31 - 1}, namedNumber{"verified_outputs.dob", p.month, 1<<31 - 1},
			namedNumber{"verified_outputs.dob", p.year, 1<<31 - 1})
	}
	for _, id := range ids {
		if len(id.Value) > MaxID {
			return fmt.Sprintf("%s longer than %d bytes", id.name, MaxID)
		}
	}
	for _, t := range append(texts, ids...) {
		if t.Presence == wrong {
			return t.name + " is no string"
		}
	}
	for _, o := range objects {
		if o.Presence == wrong {
			return o.name + " is no object"
		}
	}
	for _, n := range numbers {
		if n.presence == wrong {
			return n.name + " has the wrong type"
		}
		if n.presence == Present && (n.value > n.most || n.value < -n.most-1) {
			return n.name + " is out of range"
		}
	}
	return p.missing(kind)
}

type named struct {
	name string
	Text
}

type namedPresence struct {
	name string
	Presence
}

type namedNumber struct {
	name string
	number
	most int64
}

// missing names what an event cannot do without: its session and its time.
func (p *parser) missing(kind Kind) string {
	if kind == Thin {
		if p.relatedID.Value == "" {
			return "no related_object.id"
		}
		if t, err := time.Parse(time.RFC3339, p.createdText.Value); err != nil || !withinColumn(t.Unix()) {
			return "created is no time of day"
		}
		return ""
	}
	switch {
	case p.sessionID.Value == "":
		return "no data.object.id"
	case p.created.presence != Present:
		return "created is no number of seconds"
	case !withinColumn(p.created.value):
		return "created is out of range"
	case p.sessionCreated.presence == wrong:
		return "data.object.created has the wrong type"
	case p.sessionCreated.presence == Present && !withinColumn(p.sessionCreated.value):
		return "data.object.created is out of range"
	}
	return ""
}

// nestsTooDeep reports whether brackets outside strings nest deeper than MaxDepth.
func nestsTooDeep(body []byte) bool { return len(shallow(body)) != len(body) }

// shallow is body with null for every value nested deeper than MaxDepth. It
// looks at brackets and strings only: Parse judges what it leaves.
func shallow(body []byte) []byte {
	out := make([]byte, 0, min(len(body), 64<<10))
	depth, inString, escaped := 0, false, false
	for _, c := range body {
		if !inString && (c == '{' || c == '[') {
			if depth++; depth == MaxDepth+1 {
				out = append(out, "null"...)
			}
		}
		if depth <= MaxDepth {
			out = append(out, c)
		}
		switch {
		case escaped:
			escaped = false
		case inString:
			inString, escaped = c != '"', c == '\\'
		case c == '"':
			inString = true
		case c == '}' || c == ']':
			depth--
		}
	}
	return out
}
