package events

import (
	"strconv"
	"time"
)

// withinColumn reports whether timestamptz can hold a time in unix seconds
// (4713 BC to 294276 AD).
func withinColumn(unix int64) bool { return -210_866_803_200 <= unix && unix < 9_224_318_016_000 }

// fault says why an event of ours cannot be understood; empty if it can.
func (p *parser) fault(kind Kind) string {
	var f fault
	if p.tooDeep {
		f.because("nested deeper than " + strconv.Itoa(MaxDepth))
	}
	if p.badNumber {
		f.because("number out of range")
	}
	f.needed("id", p.id)
	f.id("account", p.account)
	f.id("context", p.context)
	f.id("snapshot_event", p.snapshot)
	f.object("request", p.request)
	f.id("request.id", p.requestID)
	f.text("api_version", p.apiVersion)
	f.boolean("livemode", p.livemode)
	f.object("data", p.data)
	f.object("related_object", p.relatedObject)
	if kind == Thin {
		f.needed("related_object.id", p.relatedID)
		if t, err := time.Parse(time.RFC3339, p.createdText.Value); err != nil || !withinColumn(t.Unix()) {
			f.because("created is no RFC 3339 time")
		}
		return string(f)
	}
	if p.created.presence != Present {
		f.because("created is no number of seconds")
	}
	f.seconds("created", p.created)
	p.sessionFaults(&f)
	return string(f)
}

func (p *parser) sessionFaults(f *fault) {
	s := &p.s
	f.object("data.object", p.object)
	f.needed("data.object.id", p.sessionID)
	f.text("data.object.object", p.objectName)
	if p.objectName.Has() && p.objectName.Value != "identity.verification_session" {
		f.because("data.object is no verification session")
	}
	f.seconds("data.object.created", p.sessionCreated)
	f.boolean("data.object.livemode", p.sessionLivemode)
	f.text("data.object.type", s.Type)
	f.text("data.object.status", s.Status)
	f.object("last_error", p.lastError)
	f.text("last_error.code", s.ErrorCode)
	f.text("last_error.reason", s.ErrorReason)
	f.id("last_verification_report", s.ReportID)
	f.text("client_reference_id", s.ClientReferenceID)
	f.id("related_customer", s.RelatedCustomer)
	f.id("related_customer_account", s.RelatedCustomerAccount)
	f.object("related_person", p.person)
	f.id("related_person.account", s.RelatedPersonAccount)
	f.id("related_person.person", s.RelatedPerson)
	f.id("verification_flow", s.VerificationFlow)
	f.object("options", p.options)
	f.object("metadata", p.metadata)
	f.object("redaction", p.redaction)
	f.text("redaction.status", s.Redaction)
	f.object("provided_details", p.details)
	f.text("provided_details.email", p.d.Email)
	f.text("provided_details.phone", p.d.Phone)
	f.object("verified_outputs", p.outputs)
	if p.outputs != Present {
		return
	}
	for _, t := range p.o.texts() {
		f.text("verified_outputs."+t.name, *t.Text)
	}
	f.object("verified_outputs.address", p.address)
	f.object("verified_outputs.dob", p.dob)
	f.int32("verified_outputs.dob.day", p.day)
	f.int32("verified_outputs.dob.month", p.month)
	f.int32("verified_outputs.dob.year", p.year)
}

// fault is the first thing that is wrong with an event, in our own words.
type fault string

func (f *fault) because(words string) {
	if *f == "" {
		*f = fault(words)
	}
}

func (f *fault) text(name string, t Text) {
	if t.Presence == wrong {
		f.because(name + " is no string")
	}
}

func (f *fault) id(name string, t Text) {
	f.text(name, t)
	if len(t.Value) > MaxID {
		f.because(name + " is longer than " + strconv.Itoa(MaxID) + " bytes")
	}
}

func (f *fault) needed(name string, t Text) {
	f.id(name, t)
	if t.Value == "" {
		f.because("no " + name)
	}
}

func (f *fault) object(name string, p Presence) {
	if p == wrong {
		f.because(name + " is no object")
	}
}

func (f *fault) boolean(name string, n number) {
	if n.presence == wrong {
		f.because(name + " is no boolean")
	}
}

func (f *fault) int32(name string, n number) {
	if n.presence == wrong || n.value != int64(int32(n.value)) {
		f.because(name + " is no 32-bit integer")
	}
}

func (f *fault) seconds(name string, n number) {
	switch {
	case n.presence == wrong:
		f.because(name + " is no number of seconds")
	case !withinColumn(n.value):
		f.because(name + " is out of range")
	}
}
