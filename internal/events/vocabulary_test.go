package events_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

func TestTheVocabularyIsThatOfTheSchema(t *testing.T) {
	t.Parallel()
	type enum struct {
		Enum  []string
		Props map[string]struct{ Enum []string }
	}
	var schema map[string]json.RawMessage
	if err := json.Unmarshal(fixture(t, "../identity_schema"), &schema); err != nil {
		t.Fatal(err)
	}
	var session struct{ Props map[string]json.RawMessage }
	if err := json.Unmarshal(schema["identity.verification_session"], &session); err != nil {
		t.Fatal(err)
	}
	of := func(prop string) (e enum) {
		if err := json.Unmarshal(session.Props[prop], &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, c := range map[string]struct{ got, want []string }{
		"statuses":        {events.Statuses(), of("status").Enum},
		"session types":   {events.SessionTypes(), of("type").Enum},
		"redaction words": {events.RedactionWords(), of("redaction").Props["status"].Enum},
		// The last two stand in Stripe's documentation only.
		"codes": {events.Codes(), append(of("last_error").Props["code"].Enum, "address_mismatch", "document_type_not_allowed")},
	} {
		slices.Sort(c.got)
		slices.Sort(c.want)
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s differ (-schema +code):\n%s", name, diff)
		}
	}
}

func TestLabelsAreOfAClosedSet(t *testing.T) {
	t.Parallel()
	for _, code := range events.Codes() {
		if got := events.CodeLabel(some(code)); got != code {
			t.Errorf("code %s has label %s", code, got)
		}
	}
	for _, status := range events.Statuses() {
		if got := events.StatusLabel(some(status)); got != status {
			t.Errorf("status %s has label %s", status, got)
		}
	}
	for _, typ := range events.SessionTypes() {
		if got := events.SessionTypeLabel(some(typ)); got != typ {
			t.Errorf("session type %s has label %s", typ, got)
		}
	}
	for _, word := range events.RedactionWords() {
		if got := events.RedactionLabel(word); got != word || !events.KnownRedaction(word) {
			t.Errorf("redaction %s has label %s", word, got)
		}
	}
	for _, typ := range events.Types() {
		if got := events.TypeLabel(typ); got != typ {
			t.Errorf("type %s has label %s", typ, got)
		}
		if got := events.TypeLabel(events.ThinType(typ)); got != "v1."+typ {
			t.Errorf("thin type %s has label %s", typ, got)
		}
	}
	for what, got := range map[string]string{
		"an unknown code":     events.CodeLabel(some("quantum")),
		"a status for a code": events.CodeLabel(some("verified")), "an unknown status": events.StatusLabel(some("abandoned")),
		"no status": events.StatusLabel(null), "an unknown type": events.SessionTypeLabel(some("email")), "no type": events.SessionTypeLabel(absent),
		"an unknown redaction": events.RedactionLabel("frobnicated"), "no redaction": events.RedactionLabel(""),
		"a foreign event": events.TypeLabel("ping"), "a seventh type": events.TypeLabel("identity.verification_session.paused"),
		"a seventh thin type": events.TypeLabel("v1.identity.verification_session.paused"), "v1 twice": events.TypeLabel("v1.v1.identity.verification_session.verified"),
		"no event type": events.TypeLabel(""),
	} {
		if got != events.LabelOther {
			t.Errorf("%s has label %q", what, got)
		}
	}
	for what, code := range map[string]events.Text{"absent": absent, "null": null, "redacted": redacted, "empty": some("")} {
		if got := events.CodeLabel(code); got != events.LabelNone {
			t.Errorf("%s code has label %q", what, got)
		}
	}
	if live, test, unknown := events.ModeLive.Label(), events.ModeTest.Label(), events.ModeUnknown.Label(); live != "true" || test != "false" || unknown != "false" {
		t.Errorf("livemode labels %s, %s, %s", live, test, unknown)
	}
}

func TestTextsAndModesAsColumns(t *testing.T) {
	t.Parallel()
	if p := some("").Ptr(); p == nil || *p != "" {
		t.Errorf("an empty text is %v", p)
	}
	for _, none := range []events.Text{absent, null, redacted} {
		if none.Ptr() != nil || none.Has() || none.Or("x") != "x" {
			t.Errorf("%+v has a value", none)
		}
	}
	if got := some("a").Or("x"); got != "a" {
		t.Errorf("got %q", got)
	}
	if events.TextOf(nil) != null || events.TextOf(new("a")) != some("a") {
		t.Error("a column is read wrong")
	}
	for mode, live := range map[events.Mode]*bool{events.ModeUnknown: nil, events.ModeLive: new(true), events.ModeTest: new(false)} {
		if events.ModeOf(live) != mode || !cmp.Equal(mode.Ptr(), live) {
			t.Errorf("mode %d is %v", mode, mode.Ptr())
		}
	}
}

func TestOnlyKeepsTheOutputsThatAreWanted(t *testing.T) {
	t.Parallel()
	all := *understood(t, string(fixture(t, "crafted/verified.expanded"))).Session.Outputs
	all.Extra = []byte(`{"x":1}`)
	if diff := cmp.Diff(all, all.Only(nil)); diff != "" {
		t.Errorf("nil wants all (-want +got):\n%s", diff)
	}
	of := map[string]events.Outputs{
		"first_name": {FirstName: all.FirstName}, "last_name": {LastName: all.LastName},
		"dob":     {DobDay: all.DobDay, DobMonth: all.DobMonth, DobYear: all.DobYear},
		"address": {Line1: all.Line1, Line2: all.Line2, City: all.City, State: all.State, PostalCode: all.PostalCode, Country: all.Country},
		"email":   {Email: all.Email}, "phone": {Phone: all.Phone}, "sex": {Sex: all.Sex},
		"id_number": {IDNumber: all.IDNumber}, "id_number_type": {IDNumberType: all.IDNumberType},
		"unparsed_place_of_birth": {UnparsedPlaceOfBirth: all.UnparsedPlaceOfBirth}, "unparsed_sex": {UnparsedSex: all.UnparsedSex},
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(events.OutputFields())), slices.Sorted(maps.Keys(of))); diff != "" {
		t.Errorf("the vocabulary's fields (-want +got):\n%s", diff)
	}
	of["nothing"] = events.Outputs{}
	for field, want := range of {
		if diff := cmp.Diff(want, all.Only(func(f string) bool { return f == field })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", field, diff)
		}
	}
	if all.FirstName != some("Jenny") || all.Dob() == nil || !all.Dob().Equal(time.Date(1992, 2, 29, 0, 0, 0, 0, time.UTC)) {
		t.Error("Only changed the original")
	}
}

func TestOutcomesThatMakeATransition(t *testing.T) {
	t.Parallel()
	for o, want := range map[events.Outcome]bool{
		events.Applied: true, events.Stale: true, events.Twin: false, events.Duplicate: false, events.Queued: false,
		events.Ignored: false, events.Quarantined: false,
	} {
		if o.Recorded() != want {
			t.Errorf("%s recorded %t, want %t", o, o.Recorded(), want)
		}
	}
}
