package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
	"unicode"
)

// ErrBlankSecret refuses a secret without a visible character. An HMAC with an
// empty key is one that anybody can make; NULs are the same key as none.
var ErrBlankSecret = errors.New("signing secret is blank")

// Secret is the signing secret of one endpoint. It prints as its name: its value
// cannot be read back.
type Secret struct {
	name string
	test bool
	key  *key
}

// NewSecret takes the secret as Stripe shows it, "whsec_" included, though that
// prefix is not demanded here. Without a name, a fingerprint of the value
// becomes its name ("sha256:" and 8 hex digits). The error is ErrBlankSecret.
func NewSecret(name, value string, test bool) (Secret, error) {
	visible := func(r rune) bool { return unicode.IsGraphic(r) && !unicode.IsSpace(r) }
	if !strings.ContainsFunc(value, visible) {
		return Secret{}, ErrBlankSecret
	}
	if name == "" {
		sum := sha256.Sum256([]byte(value))
		name = fmt.Sprintf("sha256:%x", sum[:4])
	}
	k := &key{}
	k.pool.New = func() any { return newKeyed(value) }
	return Secret{name: name, test: test, key: k}, nil
}

// Name is the configured name or the fingerprint.
func (s Secret) Name() string { return s.name }

// Test says that a live event signed with this secret must be refused, as ErrWrongMode.
func (s Secret) Test() bool { return s.test }

// String is the name.
func (s Secret) String() string { return s.name }

// Format prints the name under every verb and flag, %#v too.
func (s Secret) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), s.name)
}

// MarshalText is the name, for encoding/json and its like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.name), nil }

// key makes MACs with one secret, for many callers at once. Its states are kept
// because keying one costs as much as hashing a small body.
type key struct {
	pool sync.Pool // of *keyed, reset
}

func (k *key) mac(t string, body []byte) [sha256.Size]byte {
	s := k.pool.Get().(*keyed)
	sum := s.mac(t, body)
	s.Reset()
	k.pool.Put(s)
	return sum
}

// keyed is an HMAC that has its key and nothing else.
type keyed struct {
	hash.Hash
	buf [sha256.Size]byte // what goes through the interface would escape otherwise
}

func newKeyed(value string) *keyed {
	return &keyed{Hash: hmac.New(sha256.New, []byte(value))}
}

// mac needs a Reset before it can be called again.
func (k *keyed) mac(t string, body []byte) [sha256.Size]byte {
	k.Write(append(append(k.buf[:0], t...), '.'))
	k.Write(body)
	k.Sum(k.buf[:0])
	return k.buf
}
