package signature_test

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"webhookd/internal/signature"
)

// FuzzVerify: nothing is accepted that the holder of a secret did not sign, and
// each refusal has the reason that the contract gives. In header, {live} and
// {test} stand for the signatures of body at the text at by the two secrets, so
// that the fuzzer holds the secrets as well.
func FuzzVerify(f *testing.F) {
	for _, header := range []string{
		"t=1700000000,v1={live}",
		"t=1700000000,v1={test},v0=00",
		" t=1700000000 ,\tv1={test}, v1={live}",
		"t=1700000000,v1={live},v1=zz,v1=",
		"t=1700000000,v1={live},",
		"t=1700000000,v1={live},t=1700000000",
		"t=1700000001,v1={live}",
		"t=1700000000,v0={live}",
		"t=1700000000" + strings.Repeat(",v1={live}", 17),
		"v1={live}", "", " ", "t", "t=1=2",
	} {
		f.Add([]byte(`{"id":"evt_1"}`), header, "1700000000", int64(1_700_000_000), int64(300))
	}
	f.Add([]byte{}, "t=9999999999999999999,v1={live}", "9999999999999999999", int64(-1<<63), int64(9_000_000_000))
	f.Add([]byte{0xff}, "t=007,v1={live}", "007", int64(9), int64(1))

	a, b := newSecret(f, "a", live, false), newSecret(f, "b", roll, true)
	f.Fuzz(func(t *testing.T, body []byte, header, at string, now, tolerance int64) {
		if tolerance <= 0 || tolerance > 9_000_000_000 {
			return
		}
		header = strings.NewReplacer("{live}", macOf(live, at, body), "{test}", macOf(roll, at, body)).Replace(header)
		v := newVerifier(t, time.Duration(tolerance)*time.Second, b, a)

		s, err := v.Verify(body, header, time.Unix(now, 0))
		got := s.Name()
		if err != nil {
			got = word(t, err)
		}
		if want := oracle(body, header, now, tolerance); got != want {
			t.Errorf("%q at %d (%d s) is %s, want %s", header, now, tolerance, got, want)
		}
	})
}

var (
	element = regexp.MustCompile(`(?s)^[^=]*=[^=]*$`)
	tValue  = regexp.MustCompile(`(?s)^[ \t]*t=([^=]*?)[ \t]*$`)
	v1Value = regexp.MustCompile(`(?s)^[ \t]*v1=([^=]*?)[ \t]*$`)
	tDigits = regexp.MustCompile(`^[0-9]{1,19}$`)
	v1Hex   = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
	blank   = regexp.MustCompile(`^[ \t]*$`)
)

// oracle is the contract's paragraph on the header once more, by other means:
// regular expressions, big numbers and an HMAC written out. It gives the name of
// the secret that signed, or the reason word.
func oracle(body []byte, header string, now, tolerance int64) string {
	if len(header) <= signature.MaxHeaderBytes && blank.MatchString(header) {
		return "missing_header"
	}
	var ts, v1s []string
	malformed := len(header) > signature.MaxHeaderBytes
	for e := range strings.SplitSeq(header, ",") {
		malformed = malformed || !element.MatchString(e)
		if m := tValue.FindStringSubmatch(e); m != nil {
			ts = append(ts, m[1])
		}
		if m := v1Value.FindStringSubmatch(e); m != nil {
			v1s = append(v1s, m[1])
		}
	}
	if malformed || len(ts) != 1 || !tDigits.MatchString(ts[0]) || len(v1s) > 16 {
		return "malformed_header"
	}
	if len(v1s) == 0 {
		return "no_v1_signature"
	}

	signer := ""
	for _, secret := range []struct{ name, value string }{{"b", roll}, {"a", live}} {
		for _, v1 := range v1s {
			if v1Hex.MatchString(v1) && strings.ToLower(v1) == macOf(secret.value, ts[0], body) {
				signer = secret.name
			}
		}
	}
	if signer == "" {
		return "no_match"
	}

	at, _ := new(big.Int).SetString(ts[0], 10)
	age := new(big.Int).Sub(big.NewInt(now), at)
	switch limit := big.NewInt(tolerance); {
	case !at.IsInt64():
		return "too_new"
	case age.Cmp(limit) > 0:
		return "too_old"
	case age.Neg(age).Cmp(limit) > 0:
		return "too_new"
	}
	return signer
}

// macOf is HMAC-SHA256 as RFC 2104 writes it, of t, a dot and body, in hex.
func macOf(value, t string, body []byte) string {
	var inner, outer [sha256.BlockSize]byte
	key := []byte(value)
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	sum := sha256.Sum256([]byte(string(inner[:]) + t + "." + string(body)))
	sum = sha256.Sum256(append(outer[:], sum[:]...))
	return hex.EncodeToString(sum[:])
}
