package events

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrNotASession says that an answer of Stripe's API is no session that can be
// understood. The text names the field and quotes nothing.
var ErrNotASession = errors.New("answer is no verification session")

// ParseSession decodes a VerificationSession as Stripe's API answers it, with
// the rules of [Parse]: enums are open, absent, null and redacted are told
// apart, and client_secret and url are dropped.
func ParseSession(body []byte) (Session, error) {
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.reset(body, strict, 0)
	if p.dec.PeekKind() != '{' || p.members(inSession) != nil {
		return Session{}, ErrNotASession
	}
	if _, err := p.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return Session{}, ErrNotASession
	}
	p.object = Present
	var f fault
	if p.tooDeep || p.badNumber {
		f.because("cannot be stored")
	}
	if p.sessionFaults(&f); f != "" {
		return Session{}, fmt.Errorf("%w: %s", ErrNotASession, f)
	}
	return p.session(bytes.Clone(p.out)), nil
}
