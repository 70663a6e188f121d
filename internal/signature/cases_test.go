package signature_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"webhookd/internal/signature"
)

// publishedCase is a case of the suites of Stripe's own libraries.
type publishedCase struct {
	ID          string   `json:"id"`
	Title       string   `json:"title"`
	Secrets     []string `json:"secrets"`
	Body        string   `json:"payload_b64"`
	Header      *string  `json:"header"`
	Now         int64    `json:"now"`
	Tolerance   int64    `json:"tolerance_s"`
	RejectClass string   `json:"reject_class"`
	Policy      string   `json:"suggested_policy"`
}

// The contract and the cases agree on all of them: none is excepted here.
func TestPublishedCases(t *testing.T) {
	t.Parallel()
	var file struct {
		Cases []publishedCase `json:"cases"`
	}
	if err := json.Unmarshal(readFile(t, "signature_cases.json"), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) != 37 {
		t.Fatalf("%d cases, want the 37 published ones", len(file.Cases))
	}

	for _, c := range file.Cases {
		t.Run(c.ID+": "+c.Title, func(t *testing.T) {
			t.Parallel()
			body, err := base64.StdEncoding.DecodeString(c.Body)
			if err != nil {
				t.Fatal(err)
			}
			var secrets []signature.Secret
			for _, value := range c.Secrets {
				secrets = append(secrets, newSecret(t, "", value, false))
			}
			var header string
			if c.Header != nil {
				header = *c.Header
			}
			v := newVerifier(t, time.Duration(c.Tolerance)*time.Second, secrets...)

			_, err = v.Verify(body, header, time.Unix(c.Now, 0))
			if got, want := word(t, err), c.want(t); got != want {
				t.Errorf("%q is %s, want %s", header, got, want)
			}
		})
	}
}

// want translates the classes of the cases to the words of the contract.
func (c publishedCase) want(tb testing.TB) string {
	tb.Helper()
	switch {
	case c.Policy == "accept":
		return "accepted"
	case c.RejectClass == "no_supported_scheme":
		return "no_v1_signature"
	case c.RejectClass == "timestamp_out_of_tolerance" && c.ID == "php-future15-tol10":
		return "too_new"
	case c.RejectClass == "timestamp_out_of_tolerance":
		return "too_old"
	case c.RejectClass == "missing_header", c.RejectClass == "malformed_header", c.RejectClass == "no_match":
		return c.RejectClass
	}
	tb.Fatalf("case %s: policy %q, class %q", c.ID, c.Policy, c.RejectClass)
	return ""
}

// The headers were computed elsewhere, for the exact bytes of the files.
func TestGoldenDeliveries(t *testing.T) {
	t.Parallel()
	for file, header := range map[string]string{
		"payment_intent.succeeded.json": "t=1700000000,v1=215fef739fd61f5491f6e614c4da39792c8a277d0b5cb4429609a63ed4132a5d",
		"redacted.json":                 "t=1700000000,v1=15506bcd0065849f41c5ec0701d5a30cad55db02b93cfbfd9f7334e83680a2dc",
		"thin.ping.json":                "t=1700000000,v1=03377f7fe2296efe5d81e0ce66f2c4a6622192a8e2904758fc50a465b1cd4f7b",
		"verified.old_api_version.json": "t=1700000000,v1=a56c8386f489158c2edd43b8ca09fe867d2c89f6f924bc7db4eae4cc1ac6c1de",
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			body := readFile(t, "deliveries", file)
			v := newVerifier(t, time.Second, newSecret(t, "", live, false))
			if _, err := v.Verify(body, header, now); err != nil {
				t.Errorf("Verify: %v", err)
			}
			if got := signature.Sign(body, live, now); got != header {
				t.Errorf("Sign = %s, want %s", got, header)
			}
		})
	}
}

func readFile(tb testing.TB, path ...string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
