package signature_test

import (
	"testing"
	"time"

	"webhookd/internal/signature"
)

const (
	live = "whsec_test_secret"
	roll = "whsec_test_secret_rolled_key"
)

var now = time.Unix(1_700_000_000, 0)

func newSecret(tb testing.TB, name, value string, test bool) signature.Secret {
	tb.Helper()
	s, err := signature.NewSecret(name, value, test)
	if err != nil {
		tb.Fatalf("NewSecret(%q): %v", name, err)
	}
	return s
}

func newVerifier(tb testing.TB, tolerance time.Duration, secrets ...signature.Secret) *signature.Verifier {
	tb.Helper()
	v, err := signature.NewVerifier(tolerance, secrets...)
	if err != nil {
		tb.Fatalf("NewVerifier: %v", err)
	}
	return v
}

// word is what became of a delivery: a reason, or "accepted".
func word(tb testing.TB, err error) string {
	tb.Helper()
	if err == nil {
		return "accepted"
	}
	r := signature.Reason(err)
	if r == "" {
		tb.Fatalf("error without a reason: %v", err)
	}
	return r
}
