package signature_test

import (
	"encoding/json"
	"testing"
	"time"

	"webhookd/internal/signature"
)

// TestHeadersOfStripesOwnLibrary needs no Node: the vectors were made by the
// npm package, through scripts/verify-with-stripe-node.sh --update.
func TestHeadersOfStripesOwnLibrary(t *testing.T) {
	t.Parallel()
	var file struct {
		Package, Version string
		Vectors          []struct {
			Name, Body, Secret, Header, Want string
			Timestamp                        int64
		}
	}
	if err := json.Unmarshal(readFile(t, "stripe-node.json"), &file); err != nil {
		t.Fatal(err)
	}
	if file.Package != "stripe" || file.Version == "" || len(file.Vectors) < 10 {
		t.Fatalf("%d vectors of %s %q", len(file.Vectors), file.Package, file.Version)
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			body, at := []byte(v.Body), time.Unix(v.Timestamp, 0)
			_, err := newVerifier(t, time.Second, newSecret(t, "", v.Secret, false)).Verify(body, v.Header, at)
			if got := word(t, err); got != v.Want {
				t.Errorf("%s is %s, want %s", v.Header, got, v.Want)
			}
			if got := signature.Sign(body, v.Secret, at); got == v.Header != (v.Want == "accepted") {
				t.Errorf("Sign = %s, stripe %s made %s", got, file.Version, v.Header)
			}
		})
	}
}
