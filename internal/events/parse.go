package events

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
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
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	if p.read(body) {
		return p.event()
	}
	// Deeper than the tokenizer goes: judge by the upper part.
	if upper, depth := shallow(body); depth > tokenizerDepth && p.read(upper) {
		p.tooDeep = true
		return p.event()
	}
	return nil, ErrNotAnEvent
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
	inPerson
	inOutputs
	inAddress
	inDob
	inDetails
	inRequest
	inRelated
)

// policy says what is left out of a copy.
type policy uint8

const (
	strict   policy = iota // a payload: no secrets, outputs, documents or reports at any depth
	personal               // options, and an output of tomorrow: no secrets
	all                    // metadata, whose names are the operator's own: nothing
)

const (
	// wrong marks a field whose JSON type is not the documented one.
	wrong Presence = 255

	// tokenizerDepth is where jsontext gives up with an error.
	tokenizerDepth = 10_000

	placeholder = "[redacted]"
)

// number is an integer field.
type number struct {
	presence Presence
	value    int64
}

type parser struct {
	dec    *jsontext.Decoder
	src    bytes.Buffer
	body   []byte // what src was made of
	out    []byte // the sanitised copy
	name   []byte // scratch for member names
	text   []byte // scratch for string values
	policy policy
	depth  int

	version string // of the API, as the last event told it: mostly the same

	tooDeep      bool
	badNumber    bool
	zeros        int    // digits that exponents add
	sawWithheld  bool   // something that strict leaves out
	sawRedaction bool   // a redaction anywhere
	isReport     bool   // the object that is being read
	vs           []byte // the first vs_… anywhere

	// The last value read for each field, so that the last of doubled keys wins.
	id, typ, account, context       Text
	apiVersion, snapshot, requestID Text
	livemode                        number // 0 or 1
	created                         number // unix seconds
	createdText                     Text   // of a thin event
	request, data, relatedObject    Presence
	relatedID                       Text
	content
}

// content is what was read of data.object.
type content struct {
	object                                Presence
	objectName, sessionID                 Text
	sessionCreated, sessionLivemode       number
	lastError, redaction, person, details Presence
	options, metadata                     Presence
	optionsAt, metadataAt                 int // where the copy has them; 0 if they are no part of it
	s                                     Session
	d                                     Details
	outputs                               Presence
	findings
}

// findings is what was read of verified_outputs.
type findings struct {
	o                Outputs
	address, dob     Presence
	day, month, year number
	extras           [3]map[string][]byte // outputs of tomorrow, as JSON: of the whole, address, dob
}

var parsers = sync.Pool{New: func() any { return &parser{dec: jsontext.NewDecoder(new(bytes.Buffer))} }}

func (p *parser) reset(body []byte, pol policy, depth int) {
	*p = parser{dec: p.dec, out: p.out[:0], name: p.name[:0], text: p.text[:0], vs: p.vs[:0], policy: pol, depth: depth, version: p.version}
	p.body, p.src = body, *bytes.NewBuffer(body)
	p.dec.Reset(&p.src, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// read takes in a whole body; false if it is no JSON object.
func (p *parser) read(body []byte) bool {
	p.reset(body, strict, 0)
	if p.dec.PeekKind() != '{' || p.members(inEvent) != nil {
		return false
	}
	_, err := p.dec.ReadToken()
	return errors.Is(err, io.EOF)
}

// Withheld is what payloads leave out of an object at any depth, by its name.
func Withheld() []string {
	return []string{"client_secret", "url", "verified_outputs", "provided_details", "document", "selfie", "id_number", "dob"}
}

// leavesOut reports whether the copy never has a field of this name, at any
// depth: bearer secrets, and what is read from documents and faces.
func (p *parser) leavesOut(name []byte) bool {
	switch string(name) {
	case "client_secret", "url":
		p.sawWithheld = true
		return p.policy <= personal
	case "verified_outputs", "provided_details", "document", "selfie", "id_number", "dob":
		p.sawWithheld = true
		return p.policy == strict
	}
	return false
}

// value copies the next value, whatever it is.
func (p *parser) value() error {
	switch p.dec.PeekKind() {
	case '{':
		return p.members(elsewhere)
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

func (p *parser) members(at place) error {
	if p.depth >= MaxDepth {
		return p.elide()
	}
	p.depth++
	if _, err := p.dec.ReadToken(); err != nil {
		return err
	}
	start, outer := len(p.out), p.isReport
	p.isReport = false
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
	if p.isReport && at == elsewhere {
		p.out = append(p.out[:start], "null"...)
	}
	p.isReport = outer
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

// skip reads a value and leaves it out of the copy.
func (p *parser) skip() error {
	mark, vs := len(p.out), len(p.vs)
	err := p.value()
	p.out, p.vs = p.out[:mark], p.vs[:vs]
	return err
}

// member reads one member's value and reports whether the copy keeps it.
func (p *parser) member(at place, name []byte) (keep bool, err error) {
	switch at {
	case inEvent:
		return p.eventMember(name)
	case inData:
		if string(name) == "object" {
			p.content = content{}
			return true, p.nested(&p.object, inSession)
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
			return true, p.string(&p.s.ErrorCode, Codes()...)
		case "reason":
			return true, p.string(&p.s.ErrorReason)
		}
	case inReport:
		if string(name) == "id" {
			return true, p.string(&p.s.ReportID)
		}
		return false, p.skip()
	case inRedaction:
		if string(name) == "status" {
			return true, p.string(&p.s.Redaction, RedactionWords()...)
		}
	case inPerson:
		switch string(name) {
		case "account":
			return true, p.string(&p.s.RelatedPersonAccount)
		case "person":
			return true, p.string(&p.s.RelatedPerson)
		}
	case inOutputs:
		return true, p.output(string(name))
	case inAddress:
		return true, p.output("address." + string(name))
	case inDob:
		return true, p.output("dob." + string(name))
	case inDetails:
		switch string(name) {
		case "email":
			return true, p.string(&p.d.Email)
		case "phone":
			return true, p.string(&p.d.Phone)
		}
		return true, p.skip()
	}
	return p.otherMember(name)
}

func (p *parser) eventMember(name []byte) (keep bool, err error) {
	switch string(name) {
	case "id":
		return true, p.string(&p.id)
	case "type":
		return true, p.string(&p.typ, Types()...)
	case "account":
		return true, p.string(&p.account)
	case "context":
		return true, p.string(&p.context)
	case "api_version":
		err := p.string(&p.apiVersion, p.version)
		p.version = p.apiVersion.Value
		return true, err
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
		p.content = content{}
		return true, p.nested(&p.data, inData)
	case "related_object":
		p.relatedID = Text{}
		return true, p.nested(&p.relatedObject, inRelated)
	}
	return p.otherMember(name)
}

func (p *parser) sessionMember(name []byte) (keep bool, err error) {
	s := &p.s
	switch string(name) {
	case "id":
		return true, p.string(&p.sessionID)
	case "object":
		return true, p.string(&p.objectName, "identity.verification_session")
	case "created":
		return true, p.integer(&p.sessionCreated)
	case "livemode":
		return true, p.bool(&p.sessionLivemode)
	case "type":
		return true, p.string(&s.Type, SessionTypes()...)
	case "status":
		return true, p.string(&s.Status, Statuses()...)
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
		if p.dec.PeekKind() == '{' { // expanded: of the report only the id is kept
			s.ReportID = Text{Presence: Null}
			mark := len(p.out)
			err := p.members(inReport)
			p.out = appendText(p.out[:mark], s.ReportID)
			return true, err
		}
		err := p.string(&s.ReportID)
		return s.ReportID.Presence != wrong, err
	case "redaction":
		s.Redaction = Text{}
		p.sawRedaction = p.sawRedaction || p.dec.PeekKind() != 'n'
		return true, p.nested(&p.redaction, inRedaction)
	case "options":
		return true, p.whole(&p.options, &s.Options, &p.optionsAt, personal)
	case "metadata":
		return true, p.whole(&p.metadata, &s.Metadata, &p.metadataAt, all)
	case "verified_outputs":
		p.findings = findings{}
		return false, p.apart(&p.outputs, inOutputs)
	case "provided_details":
		p.d = Details{}
		return false, p.apart(&p.details, inDetails)
	}
	return p.otherMember(name)
}

// apart reads an object of personal data, in which no session's id is looked for.
func (p *parser) apart(dst *Presence, at place) error {
	vs := len(p.vs)
	err := p.nested(dst, at)
	p.vs = p.vs[:vs]
	return err
}

// output reads a member of verified_outputs, or of its address or dob.
func (p *parser) output(name string) error {
	for _, f := range p.o.texts() {
		if f.name == name {
			return p.string(f.Text)
		}
	}
	switch name {
	case "address":
		p.forget("address.", ofAddress)
		return p.nested(&p.address, inAddress)
	case "dob":
		p.forget("dob.", ofDob)
		p.day, p.month, p.year = number{}, number{}, number{}
		return p.nested(&p.dob, inDob)
	case "dob.day":
		return p.integer(&p.day)
	case "dob.month":
		return p.integer(&p.month)
	case "dob.year":
		return p.integer(&p.year)
	}
	return p.extra(name)
}

// Where an output of tomorrow stands.
const (
	ofTheWhole = iota
	ofAddress
	ofDob
)

// forget drops the outputs read so far whose names begin with prefix.
func (p *parser) forget(prefix string, of int) {
	for _, f := range p.o.texts() {
		if strings.HasPrefix(f.name, prefix) {
			*f.Text = Text{}
		}
	}
	p.extras[of] = nil
}

// extra keeps an output of tomorrow, unless it is null, a secret, or holds a
// placeholder.
func (p *parser) extra(name string) error {
	of, last := ofTheWhole, name
	if suffix, ok := strings.CutPrefix(name, "address."); ok {
		of, last = ofAddress, suffix
	} else if suffix, ok := strings.CutPrefix(name, "dob."); ok {
		of, last = ofDob, suffix
	}
	delete(p.extras[of], name)
	raw, err := p.dec.ReadValue()
	if err != nil {
		return err
	}
	value, err := p.appendCopy(nil, raw, personal)
	if err != nil || raw.Kind() == 'n' || last == "client_secret" || last == "url" ||
		bytes.Contains(value, []byte(`"`+placeholder+`"`)) {
		return err
	}
	if p.extras[of] == nil {
		p.extras[of] = make(map[string][]byte)
	}
	p.extras[of][name] = value
	return nil
}

// otherMember copies a member that has no meaning here, if it may be kept.
func (p *parser) otherMember(name []byte) (keep bool, err error) {
	if p.leavesOut(name) {
		return false, p.skip()
	}
	switch kind := p.dec.PeekKind(); string(name) {
	case "redaction":
		p.sawRedaction = p.sawRedaction || kind == '{' || kind == '"'
	case "last_verification_report":
		if kind == '{' || kind == '[' {
			p.sawWithheld = true
			if p.policy == strict {
				return false, p.skip()
			}
		}
	case "object":
		mark := len(p.out)
		err = p.value()
		if string(p.out[mark:]) == `"identity.verification_report"` {
			p.sawWithheld, p.isReport = true, p.policy == strict
		}
		return true, err
	}
	return true, p.value()
}

// whole reads an object that is stored as it is; the payload's copy leaves out
// what a payload never has. If that is nothing, the object is a part of the copy,
// and at says where.
func (p *parser) whole(presence *Presence, dst *[]byte, at *int, pol policy) error {
	*dst, *at = nil, 0
	if p.dec.PeekKind() != '{' {
		return p.nested(presence, elsewhere)
	}
	*presence = Present
	start, mark := p.dec.InputOffset(), len(p.out)
	outer, sawWithheld, sawRedaction := p.policy, p.sawWithheld, p.sawRedaction
	p.policy, p.sawWithheld = pol, false
	err := p.members(elsewhere)
	withheld := p.sawWithheld
	p.policy, p.sawWithheld, p.sawRedaction = outer, sawWithheld, sawRedaction
	if err != nil {
		return err
	}
	*dst, *at = p.out[mark:len(p.out):len(p.out)], mark
	if withheld {
		*dst, *at = bytes.Clone(*dst), 0
		p.s.MetadataApart = p.s.MetadataApart || pol == all
		raw := bytes.TrimLeft(p.body[start:p.dec.InputOffset()], ": \t\r\n")
		p.out, err = p.appendCopy(p.out[:mark], raw, strict)
	}
	return err
}

// appendCopy appends a clean copy of one value.
func (p *parser) appendCopy(dst, raw []byte, pol policy) ([]byte, error) {
	q := parsers.Get().(*parser)
	defer parsers.Put(q)
	q.reset(raw, pol, p.depth)
	q.zeros = p.zeros
	if err := q.value(); err != nil {
		return nil, err
	}
	p.tooDeep = p.tooDeep || q.tooDeep
	p.badNumber = p.badNumber || q.badNumber
	p.zeros = q.zeros
	if len(p.vs) == 0 {
		p.vs = append(p.vs, q.vs...)
	}
	return append(dst, q.out...), nil
}

// nested reads an object whose members have a meaning; dst tells what came instead.
func (p *parser) nested(dst *Presence, at place) error {
	switch p.dec.PeekKind() {
	case '{':
		*dst = Present
		return p.members(at)
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

// string reads a text; those that are known need no copy.
func (p *parser) string(dst *Text, known ...string) error {
	switch p.dec.PeekKind() {
	case '"':
		raw, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		value := p.scalar(raw)
		if string(value) == placeholder {
			*dst = Text{Presence: Redacted}
			return nil
		}
		for _, word := range known {
			if word == string(value) {
				*dst = Some(word)
				return nil
			}
		}
		*dst = Some(string(value))
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
		if len(p.vs) == 0 && isSessionID(value) {
			p.vs = append(p.vs, value...)
		}
		return value
	case 't', 'f', 'n':
		p.out = append(p.out, raw...)
	default:
		if p.storable(raw) {
			p.out = append(p.out, raw...)
			break
		}
		p.badNumber = true
		p.out = append(append(append(p.out, '"'), raw...), '"')
	}
	return nil
}

// isSessionID reports whether a string can be the id of a session. A
// client_secret, vs_…_secret_…, begins like one.
func isSessionID(s []byte) bool {
	if !bytes.HasPrefix(s, []byte("vs_")) || bytes.Contains(s, []byte("_secret_")) {
		return false
	}
	for _, c := range s {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// storable reports whether jsonb can hold a number: numeric ends at 131072
// digits before the point and 16383 after it. It writes all of them out, so
// what the exponents of one event add is bounded as well.
func (p *parser) storable(number []byte) bool {
	i := bytes.IndexAny(number, "eE")
	if i < 0 {
		return len(number) <= 1000
	}
	exp, err := strconv.Atoi(string(number[i+1:]))
	if err != nil || len(number) > 1000 || exp > 1000 || exp < -1000 {
		return false
	}
	p.zeros += max(exp, -exp)
	return p.zeros <= maxZeros
}

// maxZeros is how many digits exponents may add to one event.
const maxZeros = 64 << 10

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

// appendText is a text as JSON: a string, or null where there is no value.
func appendText(dst []byte, t Text) []byte {
	if !t.Has() {
		return append(dst, "null"...)
	}
	dst, _ = jsontext.AppendQuote(dst, t.Value) // t.Value is valid UTF-8
	return dst
}

// event judges what was read.
func (p *parser) event() (*Event, error) {
	if !isString(p.id) || !isString(p.typ) {
		return nil, ErrNotAnEvent
	}
	id := p.id.Value
	if id == "" { // or a placeholder: what the event says must tell it from others
		id = string(p.out) + strings.Repeat(" ", MaxID)
	}
	e := &Event{
		ID: StoredID(id), Type: p.typ.Value, Source: SourceWebhook,
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
	e.SessionID = p.sessionID.Value
	if e.Kind == Thin {
		e.SessionID = p.relatedID.Value
	}
	if e.Fault == "" {
		e.Fault = p.fault(e.Kind)
	}
	switch {
	case e.Fault != "":
		p.shelve(e)
	case e.Kind == Snapshot:
		e.Session = p.session(e.Payload)
	}
	return e, nil
}

// shelve makes an event Broken: what can be told of it all the same.
func (p *parser) shelve(e *Event) {
	e.Kind = Broken
	e.Hides = p.sawRedaction || e.Type == TypeRedacted || e.Type == ThinType(TypeRedacted)
	if !strings.HasPrefix(e.SessionID, "vs_") {
		e.SessionID = string(p.vs)
	}
	for _, id := range []*string{&e.SessionID, &e.Account.Value, &e.Context.Value, &e.RequestID.Value, &e.SnapshotEvent.Value} {
		*id = StoredID(*id)
	}
}

// isString reports whether the field was a string, be it a placeholder.
func isString(t Text) bool { return t.Presence == Present || t.Presence == Redacted }

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

// session is what was read; payload is the copy, out of the parser's hands.
func (p *parser) session(payload []byte) Session {
	s := p.s
	for _, part := range [...]struct {
		of *[]byte
		at int
	}{{&s.Options, p.optionsAt}, {&s.Metadata, p.metadataAt}} {
		if end := part.at + len(*part.of); part.at > 0 {
			*part.of = payload[part.at:end:end]
		}
	}
	s.ID = p.sessionID.Value
	s.Livemode = p.mode()
	if p.sessionCreated.presence == Present && withinColumn(p.sessionCreated.value) {
		s.Created = time.Unix(p.sessionCreated.value, 0).UTC()
	}
	switch {
	case s.Redaction.Presence == Redacted, p.redaction == Redacted:
		s.Redaction = Some(RedactionRedacted)
	case s.Redaction.Value == "":
		s.Redaction.Presence = min(s.Redaction.Presence, Null)
	}
	if p.typ.Value == TypeRedacted && !s.Redaction.Has() {
		s.Redaction = Some(RedactionRedacted)
	}
	if p.outputs == Present {
		s.Outputs = p.verifiedOutputs()
	}
	if p.details == Present && (p.d.Email.Has() || p.d.Phone.Has()) {
		s.Details = new(p.d)
	}
	return s
}

// verifiedOutputs is nil if there is nothing but placeholders.
func (p *parser) verifiedOutputs() *Outputs {
	o := p.o
	if one := (number{Present, 1}); p.day != one || p.month != one || p.year != one {
		o.DobDay, o.DobMonth, o.DobYear = p.day.ptr(), p.month.ptr(), p.year.ptr()
	}
	for _, extras := range p.extras {
		for _, name := range slices.Sorted(maps.Keys(extras)) {
			o.Extra = append(o.Extra, ',')
			o.Extra[0] = '{'
			o.Extra = append(append(appendText(o.Extra, Some(name)), ':'), extras[name]...)
		}
	}
	if o.Extra != nil {
		o.Extra = append(o.Extra, '}')
	}
	if o.Extra != nil || o.DobDay != nil || o.DobMonth != nil || o.DobYear != nil {
		return &o
	}
	for _, t := range o.texts() {
		if t.Has() {
			return &o
		}
	}
	return nil
}

func (n number) ptr() *int32 {
	if n.presence != Present {
		return nil
	}
	return new(int32(n.value))
}

type named struct {
	name string
	*Text
}

func (o *Outputs) texts() [15]named {
	return [...]named{
		{"first_name", &o.FirstName}, {"last_name", &o.LastName},
		{"address.line1", &o.Line1}, {"address.line2", &o.Line2}, {"address.city", &o.City}, {"address.state", &o.State},
		{"address.postal_code", &o.PostalCode}, {"address.country", &o.Country},
		{"id_number", &o.IDNumber}, {"id_number_type", &o.IDNumberType},
		{"email", &o.Email}, {"phone", &o.Phone}, {"sex", &o.Sex},
		{"unparsed_place_of_birth", &o.UnparsedPlaceOfBirth}, {"unparsed_sex", &o.UnparsedSex},
	}
}

// shallow is body with null for every value nested deeper than MaxDepth, and
// how deep it nests. It looks at brackets and strings only.
func shallow(body []byte) (upper []byte, deepest int) {
	upper = make([]byte, 0, min(len(body), 64<<10))
	depth, inString, escaped := 0, false, false
	for _, c := range body {
		if !inString && (c == '{' || c == '[') {
			depth++
			deepest = max(deepest, depth)
			if depth == MaxDepth+1 {
				upper = append(upper, "null"...)
			}
		}
		if depth <= MaxDepth {
			upper = append(upper, c)
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
	return upper, deepest
}
