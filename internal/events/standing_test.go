package events_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

// said is an event of session vs_1, some seconds after a moment.
func said(tb testing.TB, id, kind string, after int, members string) *events.Event {
	tb.Helper()
	if members != "" {
		members = "," + members
	}
	return understood(tb, fmt.Sprintf(`{"id":"evt_%s","type":"identity.verification_session.%s","created":%d,"livemode":true,
		"data":{"object":{"id":"vs_1"%s}}}`, id, kind, second+after, members))
}

func status(word string) string { return `"status":"` + word + `"` }

// fold takes events in turn and tells what became of each.
func fold(all ...*events.Event) (*events.Standing, []events.Outcome) {
	s := &events.Standing{ID: "vs_1"}
	var outcomes []events.Outcome
	for _, e := range all {
		outcomes = append(outcomes, s.Take(e))
	}
	return s, outcomes
}

// folds is fold for every order of the events, which must not matter.
func folds(tb testing.TB, check func(*events.Standing), all ...*events.Event) {
	tb.Helper()
	var permute func(done, left []*events.Event)
	permute = func(done, left []*events.Event) {
		if len(left) == 0 {
			s, _ := fold(done...)
			check(s)
		}
		for i, e := range left {
			rest := append(append([]*events.Event{}, left[:i]...), left[i+1:]...)
			permute(append(slices.Clip(done), e), rest)
		}
	}
	permute(nil, all)
}

func is(tb testing.TB, what string, got, want any) {
	tb.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestANewerEventIsAppliedAndAnOlderOneIsStale(t *testing.T) {
	t.Parallel()
	s, outcomes := fold(
		said(t, "1", "processing", 1, status("processing")),
		said(t, "2", "verified", 2, status("verified")+`,"last_verification_report":"vr_1"`),
		said(t, "3", "created", 0, status("requires_input")),
	)
	is(t, "outcomes", outcomes, []events.Outcome{events.Applied, events.Applied, events.Stale})
	is(t, "status", s.Status, some("verified"))
	is(t, "report", s.ReportID, some("vr_1"))
	is(t, "last event", s.LastEventID, "evt_2")
	is(t, "its time", s.LastEventCreatedAt, at(second+2))
	is(t, "steps", len(s.Steps), 3)
	is(t, "refresh", s.NeedsRefresh, false)
}

func TestTheRankDecidesWithinASecond(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("verified"))
	}, said(t, "3", "created", 0, status("requires_input")), said(t, "2", "processing", 0, status("processing")), said(t, "1", "verified", 0, status("verified")))
}

func TestTheIdDecidesWithinASecondAndRank(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "code", s.ErrorCode, some("abandoned"))
	}, said(t, "2", "requires_input", 0, status("requires_input")+`,"last_error":{"code":"abandoned"}`),
		said(t, "1", "requires_input", 0, status("requires_input")+`,"last_error":{"code":"consent_declined"}`))
}

func TestOfTwinsTheSmallerIdTakesOver(t *testing.T) {
	t.Parallel()
	small := said(t, "1", "verified", 0, status("verified")+`,"metadata":{"of":"1"},"options":{"of":1},"last_error":{"reason":"one"}`)
	large := said(t, "2", "verified", 0, status("verified")+`,"metadata":{"of":"2"},"options":{"of":2},"last_error":{"reason":"two"}`)
	for name, c := range map[string]struct{ first, then *events.Event }{"small first": {small, large}, "large first": {large, small}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, outcomes := fold(c.first, c.then)
			is(t, "outcomes", outcomes, []events.Outcome{events.Applied, events.Twin})
			is(t, "steps", len(s.Steps), 1)
			is(t, "step", s.Steps[0].ID, "evt_1")
			is(t, "last event", s.LastEventID, "evt_1")
			is(t, "metadata", string(s.Metadata), `{"of":"1"}`)
			is(t, "options", string(s.Options), `{"of":1}`)
			is(t, "reason", s.ErrorReason, some("one"))
			is(t, "refresh", s.NeedsRefresh, false)
			is(t, "reload", s.Reload, "")
		})
	}
}

func TestATwinThatTakesOverKeepsItsRow(t *testing.T) {
	t.Parallel()
	s, _ := fold(said(t, "2", "verified", 0, status("verified")))
	s.Steps[0].Row, s.Steps[0].Changed = 7, false
	s.Take(said(t, "3", "verified", 0, status("verified")))
	is(t, "a larger twin changes the row", s.Steps[0].Changed, false)
	s.Take(said(t, "1", "verified", 0, status("verified")))
	is(t, "row", s.Steps[0].Row, int64(7))
	is(t, "changed", s.Steps[0].Changed, true)
}

func TestASecondLaterItIsNoTwin(t *testing.T) {
	t.Parallel()
	s, outcomes := fold(said(t, "1", "verified", 0, status("verified")), said(t, "2", "verified", 1, status("verified")))
	is(t, "outcomes", outcomes, []events.Outcome{events.Applied, events.Applied})
	is(t, "steps", len(s.Steps), 2)
	is(t, "changed at", s.StatusChangedAt, at(second))
}

func TestATieNeedsARefreshUntilALaterEvent(t *testing.T) {
	t.Parallel()
	verified := said(t, "1", "verified", 1, status("verified"))
	failed := said(t, "2", "requires_input", 1, status("requires_input"))
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("verified"))
		is(t, "refresh", s.NeedsRefresh, true)
	}, verified, failed, said(t, "0", "created", 0, status("requires_input")))
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("processing"))
		is(t, "refresh", s.NeedsRefresh, false)
	}, verified, failed, said(t, "3", "processing", 2, status("processing")))
}

func TestTheSameStateTwiceInASecondIsNoTie(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "refresh", s.NeedsRefresh, false)
		is(t, "steps", len(s.Steps), 2)
	}, said(t, "1", "created", 0, status("requires_input")), said(t, "2", "requires_input", 0, status("requires_input")))
}

func TestCanceledIsFinal(t *testing.T) {
	t.Parallel()
	canceled := said(t, "1", "canceled", 1, status("canceled"))
	s, outcomes := fold(canceled, said(t, "2", "verified", 2, status("verified")))
	is(t, "outcomes", outcomes, []events.Outcome{events.Applied, events.Stale})
	is(t, "wanted", s.OutputsWantedSince.IsZero(), true)
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("canceled"))
		is(t, "last event", s.LastEventID, "evt_1")
		is(t, "refresh", s.NeedsRefresh, true)
		is(t, "steps", len(s.Steps), 3)
	}, canceled, said(t, "2", "verified", 2, status("verified")), said(t, "3", "created", 0, status("requires_input")))
}

func TestWhatWasBeforeTheCancelIsHistory(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("canceled"))
		is(t, "changed at", s.StatusChangedAt, at(second+2))
		is(t, "refresh", s.NeedsRefresh, false)
	}, said(t, "1", "created", 0, status("requires_input")), said(t, "2", "processing", 1, status("processing")), said(t, "3", "canceled", 2, status("canceled")))
}

func TestARedactionAfterTheCancelCounts(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "last event", s.LastEventID, "evt_2")
		is(t, "status", s.Status, some("canceled"))
		is(t, "redaction", s.RedactionStatus, some("redacted"))
		is(t, "redacted", s.Redacted, true)
		is(t, "changed at", s.StatusChangedAt, at(second))
		is(t, "refresh", s.NeedsRefresh, false)
	}, said(t, "1", "canceled", 0, status("canceled")), said(t, "2", "redacted", 1, status("canceled")))
}

func TestVerifiedIsOverriddenBothWays(t *testing.T) {
	t.Parallel()
	all := []*events.Event{
		said(t, "1", "verified", 0, status("verified")),
		said(t, "2", "requires_input", 1, status("requires_input")),
		said(t, "3", "verified", 2, status("verified")+`,"last_error":{"code":"abandoned"}`),
	}
	s, outcomes := fold(all...)
	is(t, "outcomes", outcomes, []events.Outcome{events.Applied, events.Applied, events.Applied})
	is(t, "steps", len(s.Steps), 3)
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("requires_input"))
		is(t, "wanted", s.OutputsWantedSince.IsZero(), true)
	}, all[:2]...)
	folds(t, func(s *events.Standing) {
		is(t, "status", s.Status, some("verified"))
		is(t, "changed at", s.StatusChangedAt, at(second+2))
		is(t, "wanted", s.OutputsWantedSince, at(second+2))
		is(t, "refresh", s.NeedsRefresh, false)
	}, all...)
}

func TestWhatIsFixedAtBirthIsTheFirstThatWasTold(t *testing.T) {
	t.Parallel()
	told := func(id string, after int, of string) *events.Event {
		return understood(t, fmt.Sprintf(`{"id":"evt_%s","type":"identity.verification_session.processing","created":%d,"account":"acct_%[3]s","context":"ctx_%[3]s","livemode":%[4]t,
			"data":{"object":{"id":"vs_1","created":%[5]d,"client_reference_id":"ref_%[3]s","related_customer":"cus_%[3]s","related_customer_account":"acct_%[3]s",
			"related_person":{"person":"person_%[3]s","account":"acct_%[3]s"},"verification_flow":"vf_%[3]s"}}}`, id, second+after, of, of == "a", second+len(of)))
	}
	nothing := said(t, "0", "created", -1, `"client_reference_id":null,"related_customer":"[redacted]","related_person":"[redacted]","verification_flow":null`)
	erased := said(t, "9", "redacted", 9, `"client_reference_id":"[redacted]","related_customer":null,"related_person":{"person":"[redacted]","account":null}`)
	folds(t, func(s *events.Standing) {
		for field, got := range map[string]events.Text{"account_a": s.Account, "context_a": s.Context, "reference": s.ClientReferenceID} {
			if !got.Has() || got.Value[len(got.Value)-2:] != "_a" {
				t.Errorf("%s is %+v", field, got)
			}
		}
		is(t, "customer", s.RelatedCustomer, some("cus_a"))
		is(t, "customer's account", s.RelatedCustomerAccount, some("acct_a"))
		is(t, "person", s.RelatedPerson, some("person_a"))
		is(t, "person's account", s.RelatedPersonAccount, some("acct_a"))
		is(t, "flow", s.VerificationFlow, some("vf_a"))
		is(t, "created", s.Created, at(second+1))
		is(t, "livemode", s.Livemode, events.ModeLive)
	}, nothing, told("1", 1, "a"), told("2", 2, "bb"), erased)
}

func TestEverythingElseIsTheNewestEvents(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "type", s.Type, absent)
		is(t, "report", s.ReportID, null)
		is(t, "code", s.ErrorCode, null)
		is(t, "options", s.Options, []byte(nil))
		is(t, "metadata", string(s.Metadata), `{"b":"2"}`)
	}, said(t, "1", "requires_input", 0, status("requires_input")+`,"type":"document","last_verification_report":"vr_1","last_error":{"code":"abandoned"},"options":{"a":1},"metadata":{"a":"1"}`),
		said(t, "2", "processing", 1, status("processing")+`,"metadata":{"b":"2"}`))
}

func TestTheNewestRedactionWordStandsAndIsNeverNullAgain(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "word", s.RedactionStatus, some("redacted"))
		is(t, "redacted", s.Redacted, true)
		is(t, "status follows", s.Status, some("requires_input"))
		is(t, "refresh", s.NeedsRefresh, false)
	}, said(t, "1", "verified", 0, status("verified")+`,"redaction":{"status":"processing"}`),
		said(t, "2", "redacted", 1, status("verified")),
		said(t, "3", "requires_input", 2, status("requires_input")+`,"redaction":null`))
}

func TestARedactionErasesMetadataAndReasonsWheneverItCame(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "metadata", s.Metadata, []byte(nil))
		is(t, "reason", s.ErrorReason, absent)
		is(t, "wanted", s.OutputsWantedSince.IsZero(), true)
		for _, step := range s.Steps {
			is(t, "reason of a step", step.Reason, absent)
		}
		is(t, "code stays", s.ErrorCode, some("abandoned"))
		is(t, "options stay", string(s.Options), `{"b":2}`)
		is(t, "reference stays", s.ClientReferenceID, some("user-1"))
	}, said(t, "1", "requires_input", 0, status("requires_input")+`,"last_error":{"code":"abandoned","reason":"x"},"metadata":{"a":"1"},"client_reference_id":"user-1"`),
		said(t, "2", "redacted", 1, status("verified")),
		said(t, "3", "verified", 2, status("verified")+`,"last_error":{"code":"abandoned","reason":"y"},"options":{"b":2},"metadata":{"b":"2"}`))
}

func TestARedactCommandIsReplacedByStripesWord(t *testing.T) {
	t.Parallel()
	s := &events.Standing{ID: "vs_1"}
	s.Redact()
	is(t, "tombstone", rowOf(s), events.SessionRow{RedactionStatus: "redacted"})
	s.Take(said(t, "1", "verified", 0, status("verified")+`,"metadata":{"a":"1"},"last_error":{"reason":"x"}`))
	is(t, "word", s.RedactionStatus, some("redacted"))
	is(t, "metadata", s.Metadata, []byte(nil))
	is(t, "reason", s.ErrorReason, absent)
	is(t, "wanted", s.OutputsWantedSince.IsZero(), true)
	s.Take(said(t, "2", "verified", 1, status("verified")+`,"redaction":{"status":"processing"}`))
	is(t, "Stripe's word", s.RedactionStatus, some("processing"))
	s.Redact()
	is(t, "a second command", s.RedactionStatus, some("processing"))
	s.Steps = nil // retention
	s.Redact()
	is(t, "a third, without history", s.RedactionStatus, some("processing"))
	is(t, "redacted", s.Redacted, true)
}

func TestAnUnknownRedactionWordHidesAndErasesNothing(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "word", s.RedactionStatus, some("frobnicated"))
		is(t, "hidden", s.Hidden, true)
		is(t, "redacted", s.Redacted, false)
		is(t, "wanted", s.OutputsWantedSince.IsZero(), true)
		is(t, "metadata", string(s.Metadata), `{"a":"1"}`)
	}, said(t, "1", "verified", 0, status("verified")+`,"redaction":{"status":"frobnicated"}`),
		said(t, "2", "verified", 1, status("verified")+`,"metadata":{"a":"1"}`))
}

func TestWhatIsRedactedIsNotHiddenWhateverCameLast(t *testing.T) {
	t.Parallel()
	odd := status("verified") + `,"redaction":{"status":"frobnicated"}`
	folds(t, func(s *events.Standing) {
		is(t, "hidden", s.Hidden, false)
		is(t, "redacted", s.Redacted, true)
	}, said(t, "1", "verified", 0, odd), said(t, "2", "verified", 0, odd), // twins
		said(t, "3", "redacted", 1, status("verified")+`,"redaction":{"status":"processing"}`))
}

func TestAnEventInQuarantineNeedsARefresh(t *testing.T) {
	t.Parallel()
	s, _ := fold(said(t, "1", "verified", 0, status("verified")))
	s.Doubt(false)
	is(t, "refresh", s.NeedsRefresh, true)
	is(t, "hidden", s.Hidden, false)
	is(t, "wanted", s.OutputsWantedSince, at(second))
	s.Take(said(t, "2", "verified", 1, status("verified")))
	is(t, "refresh, after a later event", s.NeedsRefresh, true)
	s.Doubt(true)
	is(t, "hidden, once a redaction was read", s.Hidden, true)
	is(t, "wanted, once hidden", s.OutputsWantedSince.IsZero(), true)
	s.Doubt(false)
	is(t, "still hidden", s.Hidden, true)
}

func TestOutputsAreWantedSinceTheGoverningEventAndOnlyWhenVerified(t *testing.T) {
	t.Parallel()
	s, _ := fold(said(t, "1", "verified", 0, status("verified")))
	is(t, "verified", s.OutputsWantedSince, at(second))
	s.Take(said(t, "2", "requires_input", 1, status("requires_input")))
	is(t, "overridden", s.OutputsWantedSince.IsZero(), true)
	s.Take(said(t, "3", "verified", 2, status("verified")))
	is(t, "verified again", s.OutputsWantedSince, at(second+2))
}

func TestTheStatusChangedWhenItsFirstEventOfManyWasMade(t *testing.T) {
	t.Parallel()
	folds(t, func(s *events.Standing) {
		is(t, "changed at", s.StatusChangedAt, at(second+1))
		is(t, "last event", s.LastEventCreatedAt, at(second+3))
	}, said(t, "1", "processing", 0, status("processing")),
		said(t, "2", "requires_input", 1, status("requires_input")+`,"last_error":{"code":"abandoned"}`),
		said(t, "3", "requires_input", 3, status("requires_input")+`,"last_error":{"code":"consent_declined"}`))
}

func TestHistoryThatRetentionTookAwayStillTellsWhenTheStatusChanged(t *testing.T) {
	t.Parallel()
	s, _ := fold(said(t, "1", "verified", 0, status("verified")), said(t, "2", "verified", 5, status("verified")))
	s.Steps = nil
	s.Take(said(t, "3", "verified", 9, status("verified")))
	is(t, "changed at", s.StatusChangedAt, at(second))
	s.Steps = nil
	s.Take(said(t, "4", "requires_input", 12, status("requires_input")))
	is(t, "changed at, of another status", s.StatusChangedAt, at(second+12))
}

func TestContentThatIsNotAtHandIsReloaded(t *testing.T) {
	t.Parallel()
	before, _ := fold(
		said(t, "1", "redacted", 2, status("verified")+`,"options":{"of":1}`),
		said(t, "2", "verified", 5, status("verified")+`,"options":{"of":2}`),
	)
	// As the next transaction reads it: without the events.
	s := &events.Standing{ID: "vs_1", Redacted: true, Steps: before.Steps, Status: before.Status, LastEventID: before.LastEventID, Options: before.Options}
	is(t, "a cancel before it", s.Take(said(t, "3", "canceled", 2, status("canceled"))), events.Stale)
	is(t, "to be read back", []string{s.LastEventID, s.Reload}, []string{"evt_1", "evt_1"})
	is(t, "a redaction after it", s.Take(said(t, "4", "redacted", 6, status("canceled")+`,"options":{"of":4}`)), events.Applied)
	is(t, "at hand", []string{s.LastEventID, s.Reload, string(s.Options)}, []string{"evt_4", "", `{"of":4}`})
}
