//go:build !race

// Under the race detector a sync.Pool forgets at random.

package signature_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"webhookd/internal/signature"
)

// Not parallel: AllocsPerRun counts the whole process.
func TestVerifyDoesNotAllocate(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 3000)
	v := newVerifier(t, time.Minute, newSecret(t, "", live, false), newSecret(t, "", roll, true))

	for name, header := range map[string]string{
		"good":                    signature.Sign(body, live, now),
		"good, the second secret": signature.SignAll(body, now, "whsec_other", roll),
		"no match":                "t=1700000000,v1=" + bad,
		"sixteen, no match":       "t=1700000000" + strings.Repeat(",v1="+bad, 16),
		"none readable":           "t=1700000000" + strings.Repeat(",v1=zz", 16),
		"seventeen":               "t=1700000000" + strings.Repeat(",v1="+bad, 17),
		"no v1":                   "t=1700000000" + strings.Repeat(",a=b", 2000),
		"only commas":             strings.Repeat(",", signature.MaxHeaderBytes),
		"too long":                strings.Repeat("a=b,", signature.MaxHeaderBytes),
		"missing":                 "",
	} {
		if n := testing.AllocsPerRun(200, func() { _, _ = v.Verify(body, header, now) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
