package events_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"webhookd/internal/events"
)

func TestAnswersOfTheAPIAreDecodedLikeEvents(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]struct {
		status, first, dob string
		outputs            bool
	}{
		"session.verified.restricted_key.expand_all.json":          {"verified", "Jenny", "1992-02-29", true},
		"session.verified.secret_key.expand_verified_outputs.json": {"verified", "Jenny", "", true},
		"session.redacted.expand_all.json":                         {"verified", "", "", true},
		"session.requires_input.json":                              {"requires_input", "", "", false},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(filepath.Join("testdata/fixtures/crafted_api", file))
			if err != nil {
				t.Fatal(err)
			}
			s, err := events.ParseSession(body)
			if err != nil {
				t.Fatal(err)
			}
			if s.Status.Value != want.status || !strings.HasPrefix(s.ID, "vs_") {
				t.Errorf("status %q of %q, want %q", s.Status.Value, s.ID, want.status)
			}
			if (s.Outputs != nil) != want.outputs {
				t.Fatalf("outputs %v, want %v", s.Outputs, want.outputs)
			}
			if s.Outputs == nil {
				return
			}
			dob := ""
			if d := s.Outputs.Dob(); d != nil {
				dob = d.Format("2006-01-02")
			}
			if s.Outputs.FirstName.Value != want.first || dob != want.dob {
				t.Errorf("first name %q, dob %q, want %q, %q", s.Outputs.FirstName.Value, dob, want.first, want.dob)
			}
		})
	}
}

func TestWhatIsNoSessionIsAnError(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"nothing":            ``,
		"an array":           `[]`,
		"cut off":            `{"id":"vs_1"`,
		"something after it": `{"id":"vs_1"} {}`,
		"no id":              `{"status":"verified"}`,
		"a wrong status":     `{"id":"vs_1","status":5}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if s, err := events.ParseSession([]byte(body)); !errors.Is(err, events.ErrNotASession) {
				t.Errorf("decoded to %+v, %v", s, err)
			}
		})
	}
}
