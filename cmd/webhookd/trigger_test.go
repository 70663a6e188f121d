package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/signature"
)

const triggerSecret = "whsec_trigger"

// endpoint takes what is signed, and remembers it.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	events []*events.Event
	bodies []string
}

func newEndpoint(tb testing.TB, answer http.HandlerFunc) *endpoint {
	tb.Helper()
	secret, err := signature.NewSecret("", triggerSecret, false)
	if err != nil {
		tb.Fatal(err)
	}
	verifier, err := signature.NewVerifier(time.Minute, secret)
	if err != nil {
		tb.Fatal(err)
	}
	ep := &endpoint{}
	ep.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			tb.Errorf("read body: %v", err)
		}
		if _, err := verifier.Verify(body, r.Header.Get("Stripe-Signature"), time.Now()); err != nil {
			tb.Errorf("signature: %v", err)
		}
		e, err := events.Parse(body)
		if err != nil {
			tb.Errorf("parse: %v", err)
		}
		ep.mu.Lock()
		ep.events = append(ep.events, e)
		ep.bodies = append(ep.bodies, string(body))
		ep.mu.Unlock()
		answer(w, r)
	}))
	tb.Cleanup(ep.Close)
	return ep
}

func applied(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"outcome":"applied","event":"evt_1"}`)
}

// webhookd runs the program and returns what it printed.
func webhookd(tb testing.TB, want int, args ...string) (stdout, stderr string) {
	tb.Helper()
	var out, errs bytes.Buffer
	if got := run(tb.Context(), args, &out, &errs); got != want {
		tb.Fatalf("webhookd %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &errs)
	}
	return out.String(), errs.String()
}

// triggered sends to an endpoint of its own.
func triggered(tb testing.TB, args ...string) []*events.Event {
	tb.Helper()
	ep := newEndpoint(tb, applied)
	webhookd(tb, exitDone, append(append([]string{"trigger"}, args...), "--url", ep.URL, "--secret", triggerSecret)...)
	return ep.events
}

// short is an event in a few words.
func short(e *events.Event) string {
	text := e.Type[strings.LastIndex(e.Type, ".")+1:]
	if e.Kind == events.Thin {
		text = "thin " + text
	}
	for _, part := range []string{e.Session.ErrorCode.Value, e.Session.Redaction.Value} {
		if part != "" {
			text += " " + part
		}
	}
	return text
}

func TestTriggerSendsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args     string
		want     []string
		sessions int
	}{
		"one kind":                       {"verified", []string{"verified"}, 1},
		"a full name":                    {"identity.verification_session.processing", []string{"processing"}, 1},
		"a thin name":                    {"v1.identity.verification_session.verified", []string{"thin verified"}, 1},
		"both names":                     {"verified v1.verified", []string{"verified", "thin verified"}, 1},
		"several kinds of one session":   {"created processing verified", []string{"created", "processing", "verified"}, 1},
		"a failure":                      {"requires_input", []string{"requires_input document_unverified_other"}, 1},
		"a failure with a code":          {"requires_input --code abandoned", []string{"requires_input abandoned"}, 1},
		"a failure with any code":        {"requires_input --code quantum_flux", []string{"requires_input quantum_flux"}, 1},
		"a failure without an error":     {"requires_input --code none", []string{"requires_input"}, 1},
		"a redaction":                    {"redacted", []string{"redacted redacted"}, 1},
		"several sessions":               {"canceled --count 3", []string{"canceled", "canceled", "canceled"}, 3},
		"duplicates":                     {"canceled --duplicates 2", []string{"canceled", "canceled", "canceled"}, 1},
		"a twin":                         {"created canceled --twin", []string{"created", "created", "canceled", "canceled"}, 1},
		"a thin twin":                    {"canceled --thin", []string{"canceled", "thin canceled"}, 1},
		"a story":                        {"story", []string{"created", "processing", "verified"}, 1},
		"another story":                  {"story redacted-unverified --count 2", []string{"created", "canceled processing", "redacted redacted", "created", "canceled processing", "redacted redacted"}, 2},
		"everything at once, sorted":     {"processing --twin --thin --duplicates 1", []string{"processing", "processing", "thin processing", "processing", "processing", "thin processing"}, 1},
		"a session that began elsewhere": {"redacted --session vs_1elsewhere", []string{"redacted redacted"}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			sessions := make(map[string]bool)
			for _, e := range triggered(t, strings.Fields(tt.args)...) {
				got = append(got, short(e))
				sessions[e.SessionID] = true
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if len(sessions) != tt.sessions {
				t.Errorf("%d sessions, want %d", len(sessions), tt.sessions)
			}
		})
	}
}

func TestTriggerSendsEveryCode(t *testing.T) {
	t.Parallel()
	var codes []string
	sessions := make(map[string]bool)
	types := make(map[string]bool)
	for _, e := range triggered(t, "requires_input", "--code", "all") {
		codes = append(codes, e.Session.ErrorCode.Value)
		sessions[e.SessionID] = true
		types[e.Session.Type.Value] = true
	}
	if diff := cmp.Diff(events.Codes(), codes); diff != "" {
		t.Error(diff)
	}
	if len(sessions) != len(codes) || len(types) != len(events.SessionTypes()) {
		t.Errorf("%d sessions of types %v", len(sessions), types)
	}
}

func TestTriggerTellsWhatItsFlagsSay(t *testing.T) {
	t.Parallel()
	e := triggered(t, "verified", "--session", "vs_1mine", "--livemode", "--account", "acct_1", "--client-reference-id", "user-1",
		"--metadata", "a=1", "--metadata", "b=2", "--type", "id_number", "--api-version", "2020-08-27", "--at", "1700000000", "--expanded")[0]
	want := []string{"vs_1mine", "true", "acct_1", "user-1", `{"a":"1","b":"2"}`, "id_number", "2020-08-27", "2023-11-14T22:13:20Z", "true"}
	s := e.Session
	if diff := cmp.Diff(want, []string{
		e.SessionID, e.Livemode.Label(), e.Account.Value, s.ClientReferenceID.Value, string(s.Metadata), s.Type.Value,
		e.APIVersion.Value, e.Created.UTC().Format(time.RFC3339), fmt.Sprint(s.Outputs != nil),
	}); diff != "" {
		t.Error(diff)
	}
}

func TestTriggerGoesOnWithAVerifiedSession(t *testing.T) {
	t.Parallel()
	for status, args := range map[string][]string{"verified": nil, "canceled": {"--status", "canceled"}} {
		e := triggered(t, append([]string{"redacted", "--session", "vs_1mine"}, args...)...)[0]
		if e.SessionID != "vs_1mine" || e.Session.Status.Value != status {
			t.Errorf("%s is redacted as %s, want %s", e.SessionID, e.Session.Status.Value, status)
		}
	}
}

func TestTriggerEndsNowOneSecondApart(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args  string
		apart func(time.Duration) bool
	}{
		"kinds":          {"created processing verified", func(d time.Duration) bool { return d == time.Second }},
		"kinds in a tie": {"created processing verified --spacing 0", func(d time.Duration) bool { return d == 0 }},
		"a story":        {"story override", func(d time.Duration) bool { return d >= time.Second }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := time.Now().Truncate(time.Second)
			sent := triggered(t, strings.Fields(tt.args)...)
			for i, e := range sent[1:] {
				if d := e.Created.Sub(sent[i].Created); !tt.apart(d) {
					t.Errorf("%s %v after %s", e.Type, d, sent[i].Type)
				}
			}
			if last := sent[len(sent)-1].Created; last.Before(before) || last.After(time.Now()) {
				t.Errorf("last one created at %v", last)
			}
		})
	}
}

func TestTriggerDrawsTheSameOfOneSeed(t *testing.T) {
	t.Parallel()
	ids := func(args ...string) (ids []string) {
		for _, e := range triggered(t, append([]string{"story", "retry", "--twin", "--shuffle"}, args...)...) {
			ids = append(ids, e.ID)
		}
		return ids
	}
	one, again := ids("--seed", "0"), ids("--seed", "0")
	if diff := cmp.Diff(one, again); diff != "" {
		t.Error(diff)
	}
	if other := ids(); slices.Equal(one, other) || slices.Equal(other, ids()) {
		t.Error("without a seed the same ids again")
	}
}

func TestTriggerPrintsALineForEachDelivery(t *testing.T) {
	t.Parallel()
	ep := newEndpoint(t, applied)
	stdout, stderr := webhookd(t, exitDone, "trigger", "created", "verified", "--url", ep.URL, "--secret", triggerSecret)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), stdout)
	}
	for i, line := range lines {
		f := strings.Fields(line)
		want := []string{"200", "applied", ep.events[i].ID, ep.events[i].Type, ep.events[i].SessionID}
		if diff := cmp.Diff(want, f[:len(f)-2]); diff != "" || f[len(f)-1] != "ms" {
			t.Errorf("%q: %s", line, diff)
		}
	}
	if !strings.Contains(stderr, " session "+ep.events[0].SessionID+"\n") {
		t.Errorf("no hint where to look: %q", stderr)
	}

	stdout, stderr = webhookd(t, exitDone, "trigger", "verified", "--json", "--url", ep.URL, "--secret", triggerSecret)
	var got delivered
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || stderr != "" {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	if got.Status != 200 || got.Outcome != "applied" || got.Event != ep.events[2].ID || got.Millis <= 0 {
		t.Errorf("%+v", got)
	}
}

func TestTriggerFailsUnlessEveryDeliveryIsTaken(t *testing.T) {
	t.Parallel()
	n := 0
	ep := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n != 2 {
			applied(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"code":"queue_full","title":"Busy","detail":"come again"}`)
	})
	stdout, stderr := webhookd(t, exitFailed, "trigger", "created", "processing", "verified", "--url", ep.URL, "--secret", triggerSecret)
	if !strings.Contains(stdout, "503  queue_full") || !strings.Contains(stderr, "come again") || !strings.Contains(stderr, "webhookd: 1 of 3 deliveries were not taken") {
		t.Errorf("%s%s", stdout, stderr)
	}
	if len(ep.events) != 3 {
		t.Errorf("%d deliveries, want all 3", len(ep.events))
	}
}

func TestTriggerPrintsTheCodesThatItSent(t *testing.T) {
	t.Parallel()
	ep := newEndpoint(t, applied)
	to := []string{"--url", ep.URL, "--secret", triggerSecret}
	stdout, _ := webhookd(t, exitDone, append([]string{"trigger", "requires_input", "--code", "all"}, to...)...)
	var told []string
	for line := range strings.Lines(stdout) {
		_, code, _ := strings.Cut(strings.TrimSpace(line), " ms  ")
		told = append(told, code)
	}
	if diff := cmp.Diff(events.Codes(), told); diff != "" {
		t.Error(diff)
	}
	stdout, _ = webhookd(t, exitDone, append([]string{"trigger", "requires_input", "--code", "abandoned", "--json"}, to...)...)
	if !strings.Contains(stdout, `"error_code":"abandoned"`) {
		t.Errorf("as JSON: %s", stdout)
	}
}

func TestTriggerSaysWhereToLookWhenTheServiceCannotWrite(t *testing.T) {
	t.Parallel()
	s := begin(t, pgtest.Empty(t))
	_, stderr := webhookd(t, exitFailed, "trigger", "created", "verified", "--url", s.public, "--secret", whsec)
	if strings.Count(stderr, "the service's log says") != 1 || !strings.Contains(stderr, "'webhookd migrate up'") {
		t.Error(stderr)
	}
	eventually(t, "see the service's log say it", func() bool { return strings.Contains(s.log.String(), "run webhookd migrate up") })
}

func TestTriggerTakesARedirectForAnAnswer(t *testing.T) {
	t.Parallel()
	ep := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	if stdout, _ := webhookd(t, exitFailed, "trigger", "verified", "--url", ep.URL, "--secret", triggerSecret); !strings.HasPrefix(stdout, "307  -") {
		t.Errorf("%q", stdout)
	}
}

func TestTriggerPrintsInsteadOfSending(t *testing.T) {
	t.Parallel()
	ep := newEndpoint(t, applied)
	stdout, _ := webhookd(t, exitDone, "trigger", "story", "--print", "--json", "--url", ep.URL, "--secret", triggerSecret)
	for line := range strings.Lines(stdout) {
		var p struct{ URL, Header, Body string }
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		file := writeFile(t, t.TempDir()+"/body", p.Body)
		if word, _ := webhookd(t, exitDone, "verify", "--body", file, "--header", p.Header, "--secret", triggerSecret); word != "accepted\n" || p.URL != ep.URL {
			t.Errorf("%s: %s", p.URL, word)
		}
	}
	if len(ep.events) > 0 {
		t.Errorf("%d deliveries", len(ep.events))
	}
}

func TestTriggerFindsDev(t *testing.T) { // not parallel: it looks in the working directory
	t.Chdir(t.TempDir())
	ep := newEndpoint(t, applied)
	if err := os.Mkdir(".webhookd", 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, devFile, fmt.Sprintf(`{"url":%q,"secret":%q,"metrics_url":"http://127.0.0.1:9090/metrics"}`, ep.URL, triggerSecret))
	_, stderr := webhookd(t, exitDone, "trigger", "verified")
	if len(ep.events) != 1 || !strings.HasSuffix(stderr, " session "+ep.events[0].SessionID+"\n") {
		t.Errorf("%d deliveries\n%s", len(ep.events), stderr)
	}
}

func TestTriggerNamesEachSessionToLookAt(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]struct{ named, more int }{
		"created verified --twin --duplicates 1":     {1, 0},
		"story --count 2":                            {2, 0},
		"verified --count 3 --shuffle":               {3, 0},
		"requires_input --code all":                  {3, len(events.Codes()) - 3},
		"verified --count 4 --seed 1 --duplicates 1": {3, 1},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			ep := newEndpoint(t, applied)
			_, stderr := webhookd(t, exitDone, append(append([]string{"trigger"}, strings.Fields(args)...), "--url", ep.URL, "--secret", triggerSecret)...)
			var sent, named []string
			for _, e := range ep.events {
				if !slices.Contains(sent, e.SessionID) {
					sent = append(sent, e.SessionID)
				}
			}
			for line := range strings.Lines(stderr) {
				if _, id, is := strings.Cut(strings.TrimSpace(line), " session "); is {
					named = append(named, id)
				}
			}
			diff(t, sent[:want.named], named)
			if more := fmt.Sprintf("and %d more", want.more); strings.Contains(stderr, "more") != (want.more > 0) || want.more > 0 && !strings.Contains(stderr, more) {
				t.Errorf("%s\nwant %s", stderr, more)
			}
		})
	}
}
