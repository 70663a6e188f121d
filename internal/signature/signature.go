// Package signature proves that bytes came from Stripe.
//
// Stripe signs each attempt of a delivery: the Stripe-Signature header carries a
// unix time t and, for every active secret of the endpoint, a v1 value that is
// the HMAC-SHA256 of t, a dot and the body. A body is proven when any v1 matches
// any configured secret and t lies within the tolerance of now, both ways.
//
// The header is judged first, then the MAC, then the age: who does not hold a
// secret learns nothing about the clock. What is refused is refused for one of
// the errors below; [Reason] gives the word for it. Work and memory are bounded:
// no header and no body makes Verify allocate in proportion to it.
//
// Source of the scheme: https://docs.stripe.com/webhooks#verify-manually.
package signature

import (
	"cmp"
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// Why a delivery is refused.
var (
	ErrMissingHeader   = errors.New("no Stripe-Signature header")
	ErrMalformedHeader = errors.New("the Stripe-Signature header is not of the form t=<unix time>,v1=<signature>")
	ErrNoV1Signature   = errors.New("the Stripe-Signature header has no v1 signature")
	ErrNoMatch         = errors.New("no v1 signature matches: another endpoint's secret, or the body was changed on its way")
	ErrTooOld          = errors.New("signed too long ago: a replay, or this clock is fast")
	ErrTooNew          = errors.New("signed in the future: this clock is slow")

	// ErrWrongMode is the caller's verdict: whether an event is live stands in
	// its body, which this package does not read. See [Secret.Test].
	ErrWrongMode = errors.New("live event signed with a test secret")
)

// reasons is in the order in which a delivery is judged.
var reasons = [...]struct {
	err  error
	word string
}{
	{ErrMissingHeader, "missing_header"},
	{ErrMalformedHeader, "malformed_header"},
	{ErrNoV1Signature, "no_v1_signature"},
	{ErrNoMatch, "no_match"},
	{ErrTooOld, "too_old"},
	{ErrTooNew, "too_new"},
	{ErrWrongMode, "wrong_mode"},
}

// Reason is the word for a refusal in metrics and answers, "" for any other error.
func Reason(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return ""
}

// Reasons lists every word that [Reason] can give, but "".
func Reasons() []string {
	words := make([]string, len(reasons))
	for i, r := range reasons {
		words[i] = r.word
	}
	return words
}

// Verifier judges deliveries by a fixed set of secrets. It is safe for
// concurrent use; to change the secrets, make another one.
type Verifier struct {
	secrets   []Secret
	tolerance uint64 // whole seconds
}

// NewVerifier accepts what one of secrets signed at most tolerance before or
// after now. Ages are whole seconds, so a fraction in tolerance has no effect.
// It is an error to give no secret, the zero Secret, or a tolerance of zero or less.
func NewVerifier(tolerance time.Duration, secrets ...Secret) (*Verifier, error) {
	var faults []error
	if tolerance <= 0 {
		faults = append(faults, fmt.Errorf("signature tolerance %v is not positive", tolerance))
	}
	if len(secrets) == 0 {
		faults = append(faults, errors.New("no signing secret"))
	}
	if slices.ContainsFunc(secrets, func(s Secret) bool { return s.key == nil }) {
		faults = append(faults, ErrBlankSecret)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}

	// Live secrets come first, so that the first match is the one to prefer.
	secrets = slices.SortedStableFunc(slices.Values(secrets), func(a, b Secret) int {
		return cmp.Compare(rank(a), rank(b))
	})
	return &Verifier{secrets: secrets, tolerance: uint64(tolerance / time.Second)}, nil
}

func rank(s Secret) int {
	if s.test {
		return 1
	}
	return 0
}

// CheckHeader tells what is wrong with a Stripe-Signature value before a body is
// read for it: missing, malformed or without a v1 signature.
func CheckHeader(header string) error {
	var h signed
	return h.parse(header)
}

// Verify proves that header signs body and returns the secret that did, a live
// one if several did. header is the value of Stripe-Signature, "" if there was
// none. The error is one of this package's, ErrWrongMode excepted.
func (v *Verifier) Verify(body []byte, header string, now time.Time) (Secret, error) {
	var h signed
	if err := h.parse(header); err != nil {
		return Secret{}, err
	}
	secret, ok := v.match(&h, body)
	if !ok {
		return Secret{}, ErrNoMatch
	}
	if err := v.age(h.at, now.Unix()); err != nil {
		return Secret{}, err
	}
	return secret, nil
}

func (v *Verifier) match(h *signed, body []byte) (Secret, bool) {
	macs := h.v1[:h.macs]
	if len(macs) == 0 {
		return Secret{}, false
	}
	for _, s := range v.secrets {
		want := s.key.mac(h.t, body)
		for i := range macs {
			if hmac.Equal(want[:], macs[i][:]) {
				return s, true
			}
		}
	}
	return Secret{}, false
}

// age compares two unix times. The unsigned differences are exact for every now,
// also a negative one; an at that is no int64 lies in the future of all of them.
func (v *Verifier) age(at uint64, now int64) error {
	switch {
	case at > math.MaxInt64:
		return ErrTooNew
	case int64(at) > now && at-uint64(now) > v.tolerance:
		return fmt.Errorf("%w: t is %d s ahead, the tolerance is %d s", ErrTooNew, at-uint64(now), v.tolerance)
	case int64(at) < now && uint64(now)-at > v.tolerance:
		return fmt.Errorf("%w: t is %d s ago, the tolerance is %d s", ErrTooOld, uint64(now)-at, v.tolerance)
	}
	return nil
}

// Sign makes the Stripe-Signature header that Stripe would send with body at t
// from an endpoint whose only secret is value.
func Sign(body []byte, value string, t time.Time) string {
	return SignAll(body, t, value)
}

// SignAll makes the header of an endpoint whose secret was rolled: one v1 for
// each of values, in their order.
func SignAll(body []byte, t time.Time, values ...string) string {
	at := strconv.FormatInt(t.Unix(), 10)
	header := []byte("t=" + at)
	for _, value := range values {
		mac := newKeyed(value).mac(at, body)
		header = append(header, ",v1="...)
		header = hex.AppendEncode(header, mac[:])
	}
	return string(header)
}
