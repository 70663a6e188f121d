package signature_test

import (
	"bytes"
	"testing"
	"time"

	"webhookd/internal/signature"
)

// BenchmarkVerify judges an event of the usual size, 2.7 KB.
func BenchmarkVerify(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 2700)
	v := newVerifier(b, 5*time.Minute, newSecret(b, "", live, false), newSecret(b, "", roll, false))

	for name, header := range map[string]string{
		"good":             signature.Sign(body, live, now),
		"no_match":         "t=1700000000,v1=" + bad,
		"malformed_header": "t=1700000000,v1=" + bad + ",",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(body, header, now)
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 2700)
	b.ReportAllocs()
	for b.Loop() {
		_ = signature.Sign(body, live, now)
	}
}
