package scenario_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
)

var start = time.Unix(1_700_000_000, 0).UTC()

func parse(tb testing.TB, e scenario.Event, want events.Kind) *events.Event {
	tb.Helper()
	got, err := events.Parse(e.Body)
	if err != nil {
		tb.Fatalf("Parse: %v\n%s", err, e.Body)
	}
	if got.Kind != want {
		tb.Fatalf("kind %d (%s), want %d\n%s", got.Kind, got.Fault, want, e.Body)
	}
	if got.ID != e.ID || got.Type != e.Type || got.SessionID != e.SessionID || !got.Created.Equal(e.Created) {
		tb.Fatalf("body says %s %s %s %v, Event says %s %s %s %v",
			got.ID, got.Type, got.SessionID, got.Created, e.ID, e.Type, e.SessionID, e.Created)
	}
	return got
}

func tell(tb testing.TB, s *scenario.Source, name string, o scenario.SessionOptions) []scenario.Event {
	tb.Helper()
	told, err := s.Story(name, start, o)
	if err != nil {
		tb.Fatal(err)
	}
	return told
}

func happen(tb testing.TB, s *scenario.Session, what string) scenario.Event {
	tb.Helper()
	what, code, _ := strings.Cut(what, ":")
	e, err := s.Happen(what, code, start)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func TestEventsTellTheStateOfTheirSession(t *testing.T) {
	t.Parallel()
	type state struct {
		Type, Status, Code string
		Report             int // the number of its appearance, 0 for none
		Redaction          string
	}
	tests := map[string]struct {
		before string
		what   string
		want   state
	}{
		"a birth":                             {"", "created", state{events.TypeCreated, "requires_input", "", 0, ""}},
		"a birth has no past":                 {"processing requires_input:document_expired", "created", state{events.TypeCreated, "requires_input", "", 0, ""}},
		"a failure after an override":         {"processing verified processing", "requires_input:document_expired", state{events.TypeRequiresInput, "requires_input", "document_expired", 2, ""}},
		"an override with a code":             {"processing verified", "requires_input:document_expired", state{events.TypeRequiresInput, "requires_input", "document_expired", 1, ""}},
		"a submission":                        {"created", "processing", state{events.TypeProcessing, "processing", "", 0, ""}},
		"a failed check has a report":         {"created processing", "requires_input:document_expired", state{events.TypeRequiresInput, "requires_input", "document_expired", 1, ""}},
		"giving up has none":                  {"created", "requires_input:abandoned", state{events.TypeRequiresInput, "requires_input", "abandoned", 0, ""}},
		"a failure without an error":          {"created processing", "requires_input", state{events.TypeRequiresInput, "requires_input", "", 0, ""}},
		"a new submission forgets the error":  {"created processing requires_input:document_expired", "processing", state{events.TypeProcessing, "processing", "", 1, ""}},
		"a new attempt has a new report":      {"created processing requires_input:document_expired processing", "verified", state{events.TypeVerified, "verified", "", 2, ""}},
		"a success":                           {"created processing", "verified", state{events.TypeVerified, "verified", "", 1, ""}},
		"an override keeps report and error":  {"created processing requires_input:document_expired", "verified", state{events.TypeVerified, "verified", "document_expired", 1, ""}},
		"an override back keeps the report":   {"created processing verified", "requires_input", state{events.TypeRequiresInput, "requires_input", "", 1, ""}},
		"a cancellation":                      {"created", "canceled", state{events.TypeCanceled, "canceled", "", 0, ""}},
		"a redaction cancels first":           {"created", "redacting", state{events.TypeCanceled, "canceled", "", 0, "processing"}},
		"a redaction after its cancellation":  {"created redacting", "redacted", state{events.TypeRedacted, "canceled", "", 0, "redacted"}},
		"a redaction leaves verified alone":   {"created processing verified", "redacted", state{events.TypeRedacted, "verified", "", 1, "redacted"}},
		"a redaction out of nothing":          {"", "redacted", state{events.TypeRedacted, "canceled", "", 0, "redacted"}},
		"a redaction keeps the error's code":  {"created processing requires_input:abandoned", "redacted", state{events.TypeRedacted, "canceled", "abandoned", 0, "redacted"}},
		"a success out of nothing":            {"", "verified", state{events.TypeVerified, "verified", "", 1, ""}},
		"a failure of tomorrow has a report":  {"", "requires_input:quantum_flux", state{events.TypeRequiresInput, "requires_input", "quantum_flux", 1, ""}},
		"an event after a redaction tells it": {"created processing redacted", "verified", state{events.TypeVerified, "verified", "", 1, "redacted"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scenario.New(1).Session(scenario.SessionOptions{})
			reports := []string{""}
			see := func(e scenario.Event) state {
				p := parse(t, e, events.Snapshot)
				if !slices.Contains(reports, p.Session.ReportID.Value) {
					reports = append(reports, p.Session.ReportID.Value)
				}
				st := p.Session.State()
				return state{p.Type, st.Status, st.ErrorCode, slices.Index(reports, st.ReportID), st.Redaction}
			}
			for what := range strings.FieldsSeq(tt.before) {
				see(happen(t, s, what))
			}
			if diff := cmp.Diff(tt.want, see(happen(t, s, tt.what))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEveryCodeIsToldWithItsReason(t *testing.T) {
	t.Parallel()
	checks := 0
	for _, code := range append(events.Codes(), "quantum_flux") {
		s := scenario.New(1).Session(scenario.SessionOptions{Type: scenario.SessionType(code)})
		got := parse(t, s.RequiresInput(start, code), events.Snapshot).Session
		if got.ErrorCode.Value != code || !got.ErrorReason.Has() {
			t.Errorf("%s: told as %q, %q", code, got.ErrorCode.Value, got.ErrorReason.Value)
		}
		if got.ReportID.Has() {
			checks++
		}
	}
	if want := len(events.Codes()) + 1 - 5; checks != want {
		t.Errorf("%d codes with a report, want %d: five codes belong to no check", checks, want)
	}
}

func TestASessionIsContinuedWhereItStands(t *testing.T) {
	t.Parallel()
	first := scenario.New(1).Session(scenario.SessionOptions{})
	verified := parse(t, first.Verified(start), events.Snapshot).Session
	for _, status := range []string{events.StatusVerified, events.StatusCanceled} {
		elsewhere := scenario.New(2).Session(scenario.SessionOptions{ID: first.ID, Status: status})
		got := parse(t, elsewhere.Redacted(start.Add(time.Hour)), events.Snapshot).Session
		if got.ID != first.ID || got.Status.Value != status {
			t.Errorf("%s: redacted as %s, %s", status, got.ID, got.Status.Value)
		}
		if status == events.StatusVerified && got.ReportID != verified.ReportID {
			t.Errorf("report %q was %q", got.ReportID.Value, verified.ReportID.Value)
		}
	}
}

func TestOptionsReachTheBody(t *testing.T) {
	t.Parallel()
	o := scenario.SessionOptions{
		ID: "vs_1given", Livemode: true, Type: "verification_flow", Account: "acct_1", Context: "acct_2",
		ClientReferenceID: "user-1", Metadata: map[string]string{"k": "v"}, CreatedAt: start.Add(-time.Hour), APIVersion: "2020-08-27",
	}
	got := parse(t, scenario.New(1).Session(o).Processing(start), events.Snapshot)
	want := map[string]string{
		"id": "vs_1given", "type": "verification_flow", "account": "acct_1", "context": "acct_2", "ref": "user-1",
		"metadata": `{"k":"v"}`, "version": "2020-08-27", "live": "true true", "created": "2023-11-14T21:13:20Z",
	}
	if diff := cmp.Diff(want, map[string]string{
		"id": got.Session.ID, "type": got.Session.Type.Value, "account": got.Account.Value, "context": got.Context.Value,
		"ref": got.Session.ClientReferenceID.Value, "metadata": string(got.Session.Metadata), "version": got.APIVersion.Value,
		"live": got.Livemode.Label() + " " + got.Session.Livemode.Label(), "created": got.Session.Created.UTC().Format(time.RFC3339),
	}); diff != "" {
		t.Error(diff)
	}
	if !got.Session.VerificationFlow.Has() {
		t.Error("a verification_flow has no flow")
	}
}

func TestOnlyABirthHoldsSecrets(t *testing.T) {
	t.Parallel()
	for _, name := range scenario.Stories() {
		for _, e := range tell(t, scenario.New(1), name, scenario.SessionOptions{}) {
			var body struct {
				Data struct {
					Object struct {
						ClientSecret, URL *string
					}
				}
			}
			text := bytes.ReplaceAll(e.Body, []byte("client_secret"), []byte("ClientSecret"))
			if err := json.Unmarshal(text, &body); err != nil {
				t.Fatal(err)
			}
			born := e.Type == events.TypeCreated
			if o := body.Data.Object; (o.ClientSecret != nil) != born || (o.URL != nil) != born {
				t.Errorf("%s of %s: client_secret %v, url %v", e.Type, name, o.ClientSecret != nil, o.URL != nil)
			}
			if bytes.Contains(e.Body, []byte("verified_outputs")) || bytes.Contains(e.Body, []byte("provided_details")) {
				t.Errorf("%s of %s is expanded", e.Type, name)
			}
		}
	}
}

func TestARedactionLeavesNothingPersonal(t *testing.T) {
	t.Parallel()
	s := scenario.New(1).Session(scenario.SessionOptions{ClientReferenceID: "user-1", Metadata: map[string]string{"name": "Jenny"}})
	s.RequiresInput(start, "document_expired")
	e := s.Redacted(start)
	got := parse(t, s.Expanded(e), events.Snapshot).Session
	if string(got.Metadata) != "{}" || got.ErrorReason.Has() || got.ClientReferenceID.Has() || got.Details != nil {
		t.Errorf("left over: %+v", got)
	}
	// As documented: docs.stripe.com/identity/verification-sessions#redact
	if diff := cmp.Diff(&events.Outputs{Country: events.Some("US")}, got.Outputs, cmpopts.IgnoreFields(events.Text{}, "Presence")); diff != "" {
		t.Error(diff)
	}
	if body := s.Expanded(e).Body; !bytes.Contains(body, []byte(`"year": 1`)) || bytes.Contains(body, []byte(scenario.Marker)) {
		t.Errorf("no placeholders:\n%s", body)
	}
}

func TestExpandedMarksWhatIsPersonal(t *testing.T) {
	t.Parallel()
	s := scenario.New(1).Session(scenario.SessionOptions{})
	e := s.Expanded(s.Verified(start))
	got := parse(t, e, events.Snapshot).Session
	if got.Outputs == nil || got.Details == nil {
		t.Fatalf("outputs %v, details %v", got.Outputs, got.Details)
	}
	o, d := got.Outputs, got.Details
	for _, text := range []events.Text{
		o.FirstName, o.LastName, o.Line1, o.Line2, o.City, o.State, o.PostalCode, o.IDNumber,
		o.Email, o.Phone, o.UnparsedPlaceOfBirth, o.UnparsedSex, d.Email, d.Phone,
	} {
		if !strings.Contains(text.Value, scenario.Marker) {
			t.Errorf("%q is not marked", text.Value)
		}
	}
	if dob := o.Dob(); dob == nil || dob.Format(time.DateOnly) != "1904-02-29" {
		t.Errorf("born %v", dob)
	}
}

func TestATwinTellsTheSameChangeUnderAnotherID(t *testing.T) {
	t.Parallel()
	for _, name := range scenario.Stories() {
		source := scenario.New(1)
		for _, e := range tell(t, source, name, scenario.SessionOptions{}) {
			s := source.Session(scenario.SessionOptions{ID: e.SessionID})
			twin := s.Twin(e)
			a, b := parse(t, e, events.Snapshot), parse(t, twin, events.Snapshot)
			if a.ID == b.ID || a.Twin() != b.Twin() {
				t.Errorf("%s of %s: %s and %s are no twins", e.Type, name, a.ID, b.ID)
			}
			if rest := bytes.ReplaceAll(twin.Body, []byte(twin.ID), []byte(e.ID)); !bytes.Equal(rest, e.Body) {
				t.Errorf("%s of %s differs in more than its id:\n%s", e.Type, name, cmp.Diff(string(e.Body), string(rest)))
			}
		}
	}
}

func TestAThinEventNamesItsSnapshot(t *testing.T) {
	t.Parallel()
	for _, live := range []bool{false, true} {
		source := scenario.New(1)
		for _, e := range tell(t, source, "redacted-unverified", scenario.SessionOptions{Livemode: live, Account: "acct_1"}) {
			thin := source.Session(scenario.SessionOptions{ID: e.SessionID}).Thin(e)
			got := parse(t, thin, events.Thin)
			if got.SnapshotEvent.Value != e.ID || got.Type != events.ThinType(e.Type) || got.Context.Value != "acct_1" ||
				got.Livemode != events.ModeOf(&live) || !got.Created.Truncate(time.Second).Equal(e.Created) {
				t.Errorf("thin event of %s: %+v", e.Type, got)
			}
		}
	}
}

func TestStoriesGoForwardFromTheirStart(t *testing.T) {
	t.Parallel()
	for _, name := range scenario.Stories() {
		for seed := range uint64(20) {
			told := tell(t, scenario.New(seed), name, scenario.SessionOptions{})
			if first := told[0]; first.Type != events.TypeCreated || !first.Created.Equal(start) {
				t.Errorf("%s begins with %s at %v", name, first.Type, first.Created)
			}
			for i, e := range told[1:] {
				if e.SessionID != told[0].SessionID || !e.Created.After(told[i].Created) {
					t.Errorf("%s: %s %v after %v", name, e.Type, e.Created, told[i].Created)
				}
			}
		}
	}
	if _, err := scenario.New(1).Story("sad", start, scenario.SessionOptions{}); err == nil || !strings.Contains(err.Error(), "happy") {
		t.Errorf("unknown story: %v", err)
	}
}

func TestASeedMakesTheSameBytes(t *testing.T) {
	t.Parallel()
	all := func(seed uint64) (text string, ids []string) {
		source := scenario.New(seed)
		for _, name := range scenario.Stories() {
			for _, e := range tell(t, source, name, scenario.SessionOptions{}) {
				text += string(e.Body)
				ids = append(ids, e.ID)
			}
		}
		return text, ids
	}
	one, ids := all(7)
	if again, _ := all(7); one != again {
		t.Error("one seed, two tellings")
	}
	_, others := all(8)
	ids = append(ids, others...)
	slices.Sort(ids)
	if n := len(ids); len(slices.Compact(ids)) != n {
		t.Error("an event id came twice")
	}
}

func TestIDsLookLikeStripes(t *testing.T) {
	t.Parallel()
	e := parse(t, scenario.New(1).Session(scenario.SessionOptions{}).Created(start), events.Snapshot)
	for prefix, id := range map[string]string{"evt_1": e.ID, "vs_1": e.SessionID, "req_": e.RequestID.Value} {
		if !strings.HasPrefix(id, prefix) || len(id) < len("req_")+14 {
			t.Errorf("%q", id)
		}
	}
}
