package receiver_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"webhookd/internal/events"
	"webhookd/internal/receiver"
	"webhookd/internal/signature"
)

// names lists the series of one metric, and reports those that are not zero.
func names(tb testing.TB, series map[string]float64, metric string) []string {
	tb.Helper()
	var found []string
	for name, v := range series {
		labels, ok := strings.CutPrefix(name, metric+"{")
		if !ok {
			continue
		}
		found = append(found, strings.TrimSuffix(labels, "}"))
		if v != 0 {
			tb.Errorf("%s is %v", name, v)
		}
	}
	slices.Sort(found)
	return found
}

func TestKnownValuesExistAtZeroFromTheStart(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	svc.ExpectSecrets("live", "test")
	series := svc.scrape(t)

	var types []string
	for _, word := range []string{"created", "processing", "requires_input", "verified", "canceled", "redacted"} {
		types = append(types, "identity.verification_session."+word, "v1.identity.verification_session."+word)
	}
	types = append(types, "other")
	codes := append(events.Codes(), "other", "none")
	if len(codes) != 23 {
		t.Errorf("%d codes, want 19, 2, other and none", len(codes))
	}
	outcomes := []string{"applied", "stale", "twin", "duplicate", "queued", "ignored", "quarantined", "refused", "unavailable"}

	type label struct {
		name   string
		values []string
	}
	for metric, labels := range map[string][]label{
		"webhookd_deliveries_total":                {{"event_type", append(slices.Clone(types), "unknown")}, {"outcome", outcomes}},
		"webhookd_signature_failures_total":        {{"reason", []string{"missing_header", "malformed_header", "no_v1_signature", "no_match", "too_old", "too_new", "wrong_mode"}}},
		"webhookd_signature_matches_total":         {{"secret", []string{"live", "test"}}},
		"webhookd_unavailable_total":               {{"reason", []string{"database", "queue_full", "deadline", "locked", "draining"}}},
		"webhookd_delivery_duration_seconds_count": {{"outcome", outcomes}},
		"webhookd_event_lag_seconds_count":         {{"event_type", types}},
		"webhookd_time_to_decision_seconds_count":  {{"status", []string{"verified", "requires_input", "canceled"}}},
		"webhookd_verification_failures_total":     {{"code", codes}, {"livemode", []string{"true", "false"}}, {"type", []string{"document", "id_number", "verification_flow", "other"}}},
		"webhookd_status_transitions_total":        {{"livemode", []string{"true", "false"}}, {"status", []string{"canceled", "processing", "requires_input", "verified", "other"}}},
		"webhookd_redactions_total":                {{"status", []string{"processing", "redacted", "validated", "other"}}},
	} {
		want := []string{""}
		for _, l := range labels {
			var longer []string
			for _, have := range want {
				for _, v := range l.values {
					longer = append(longer, strings.TrimPrefix(have+fmt.Sprintf(",%s=%q", l.name, v), ","))
				}
			}
			want = longer
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, names(t, series, metric)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", metric, diff)
		}
	}
}

func TestASecretThatIsTakenOutHasNoSeriesAnyMore(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	svc.ExpectSecrets("old", "new")
	svc.ExpectSecrets("new", "next")
	want := []string{`secret="new"`, `secret="next"`}
	if diff := cmp.Diff(want, names(t, svc.scrape(t), "webhookd_signature_matches_total")); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func TestMetricsAreLintFree(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	svc.ExpectSecrets("live")
	problems, err := testutil.GatherAndLint(svc.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestHostileValuesDoNotBecomeLabels(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]receiver.Store{"recorded": answers(events.Stale), "quarantined": answers(events.Quarantined)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := newService(t, s)
			svc.ExpectSecrets("live", "test")
			before := slices.Sorted(maps.Keys(svc.scrape(t)))
			for _, bad := range []string{"evil", "", `\"}`, `\n`, "other ", "verified\\u0000", "OTHER", strings.Repeat("x", 5000), "[redacted]", "created"} {
				quoted := `"` + bad + `"`
				for _, body := range [][]byte{
					fixture(t, "requires_input", `"selfie_face_mismatch"`, quoted),
					fixture(t, "requires_input", `"type": "document"`, `"type": `+quoted),
					fixture(t, "requires_input", `"status": "requires_input"`, `"status": `+quoted),
					fixture(t, "requires_input", `"redaction": null`, `"redaction": {"status": `+quoted+`}`),
					fixture(t, "requires_input", `"identity.verification_session.requires_input"`, quoted),
					fixture(t, "requires_input", `.requires_input"`, "."+bad+`"`),
					fixture(t, "thin", `.verified"`, "."+bad+`"`),
				} {
					svc.post(t, body, signed(body))
				}
				svc.post(t, []byte(bad), signedBy([]byte(bad), "whsec_"+bad))
			}
			if diff := cmp.Diff(before, slices.Sorted(maps.Keys(svc.scrape(t)))); diff != "" {
				t.Errorf("series (-before +after):\n%s", diff)
			}
		})
	}
}

// observed posts bodies and returns what moved, without the deliveries themselves.
func (s *service) observed(tb testing.TB, bodies ...[]byte) map[string]float64 {
	tb.Helper()
	for _, body := range bodies {
		if w := s.post(tb, body, signed(body)); w.Code != 200 {
			tb.Fatalf("answer %d %s", w.Code, w.Body)
		}
	}
	counted := s.counted(tb)
	maps.DeleteFunc(counted, func(name string, _ float64) bool {
		return strings.HasPrefix(name, "webhookd_deliver") || strings.HasPrefix(name, "webhookd_signature")
	})
	return counted
}

func TestEventsAreCountedByWhatBecameOfThem(t *testing.T) {
	t.Parallel()
	lag := func(eventType string) string {
		return fmt.Sprintf("webhookd_event_lag_seconds_count{event_type=%q}", eventType)
	}
	const (
		failed   = `webhookd_verification_failures_total{code="selfie_face_mismatch",livemode="false",type="document"}`
		toInput  = `webhookd_status_transitions_total{livemode="false",status="requires_input"}`
		toDone   = `webhookd_status_transitions_total{livemode="false",status="verified"}`
		input    = `webhookd_time_to_decision_seconds_count{status="requires_input"}`
		done     = `webhookd_time_to_decision_seconds_count{status="verified"}`
		redacted = `webhookd_redactions_total{status="redacted"}`
	)
	for name, c := range map[string]struct {
		body    []byte
		outcome events.Outcome
		want    map[string]float64
	}{
		"a failure that advances":           {fixture(t, "requires_input"), events.Applied, map[string]float64{failed: 1, toInput: 1, input: 1, lag(events.TypeRequiresInput): 1}},
		"a failure that comes late":         {fixture(t, "requires_input"), events.Stale, map[string]float64{failed: 1, toInput: 1, input: 1, lag(events.TypeRequiresInput): 1}},
		"a failure told twice":              {fixture(t, "requires_input"), events.Twin, map[string]float64{lag(events.TypeRequiresInput): 1}},
		"a failure seen before":             {fixture(t, "requires_input"), events.Duplicate, map[string]float64{}},
		"a failure that PostgreSQL refuses": {fixture(t, "requires_input"), events.Quarantined, map[string]float64{lag(events.TypeRequiresInput): 1}},
		"a failure without a code": {
			fixture(t, "requires_input", `"selfie_face_mismatch"`, "null"), events.Applied,
			map[string]float64{strings.Replace(failed, "selfie_face_mismatch", "none", 1): 1, toInput: 1, input: 1, lag(events.TypeRequiresInput): 1},
		},
		"a birth is no failure": {
			fixture(t, "requires_input", ".requires_input", ".created"), events.Applied,
			map[string]float64{toInput: 1, lag(events.TypeCreated): 1},
		},
		"a live failure": {
			fixture(t, "requires_input", `"livemode": false`, `"livemode": true`), events.Applied,
			map[string]float64{
				strings.Replace(failed, "false", "true", 1): 1, strings.Replace(toInput, "false", "true", 1): 1,
				input: 1, lag(events.TypeRequiresInput): 1,
			},
		},
		"a decision":                      {fixture(t, "verified"), events.Applied, map[string]float64{toDone: 1, done: 1, lag(events.TypeVerified): 1}},
		"a decision of an unknown age":    {fixture(t, "verified", `"created": 1699998400`, `"created": null`), events.Applied, map[string]float64{toDone: 1, done: 0, lag(events.TypeVerified): 1}},
		"a decision before the beginning": {fixture(t, "verified", `"created": 1699998400`, `"created": 1800000000`), events.Applied, map[string]float64{toDone: 1, done: 0, lag(events.TypeVerified): 1}},
		"a thin event":                    {fixture(t, "thin"), events.Queued, map[string]float64{lag("v1." + events.TypeVerified): 1}},
		"a redaction":                     {fixture(t, "redacted"), events.Applied, map[string]float64{redacted: 1, toDone: 1, lag(events.TypeRedacted): 1}},
		"a redaction of tomorrow": {
			fixture(t, "redacted", `"status": "redacted"`, `"status": "shredded"`), events.Applied,
			map[string]float64{`webhookd_redactions_total{status="other"}`: 1, toDone: 1, lag(events.TypeRedacted): 1},
		},
		"a foreign event": {fixture(t, "foreign"), events.Ignored, map[string]float64{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			maps.DeleteFunc(c.want, func(_ string, v float64) bool { return v == 0 })
			if diff := cmp.Diff(c.want, newService(t, answers(c.outcome)).observed(t, c.body)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatReconcileBringsIsNotCounted(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	e, err := events.Parse(fixture(t, "requires_input"))
	if err != nil {
		t.Fatal(err)
	}
	e.Source = events.SourceReconcile
	svc.Count(e, events.Applied)
	if counted := svc.counted(t); len(counted) > 0 {
		t.Errorf("counted %v", counted)
	}
	e.Source = events.SourceWebhook
	svc.Count(e, events.Applied)
	if counted := svc.counted(t); len(counted) != 4 {
		t.Errorf("counted %v, want failure, transition, decision and lag", counted)
	}
}

func TestLagAndDecisionAreMeasuredFromStripesTimes(t *testing.T) {
	t.Parallel()
	at := now
	svc := newService(t, nopStore, func(o *receiver.Options) { o.Now = func() time.Time { return at } })
	body := fixture(t, "verified")
	var sent struct {
		Created int64
		Data    struct{ Object struct{ Created int64 } }
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Fatal(err)
	}
	svc.post(t, body, signed(body))
	at = time.Unix(sent.Created-60, 0) // a clock that is slow
	svc.post(t, body, map[string][]string{"Stripe-Signature": {signature.Sign(body, liveSecret, at)}})

	series := svc.scrape(t)
	for name, want := range map[string]int64{
		`webhookd_event_lag_seconds_sum{event_type="` + events.TypeVerified + `"}`: now.Unix() - sent.Created,
		`webhookd_time_to_decision_seconds_sum{status="verified"}`:                 2 * (sent.Created - sent.Data.Object.Created),
	} {
		if series[name] != float64(want) {
			t.Errorf("%s is %v, want %d", name, series[name], want)
		}
	}
}

func TestMatchesTellWhichSecretIsInUse(t *testing.T) {
	t.Parallel()
	svc := newService(t, nopStore)
	body := fixture(t, "verified")
	for secret, n := range map[string]int{liveSecret: 2, testSecret: 1, "whsec_none": 3} {
		for range n {
			svc.post(t, body, signedBy(body, secret))
		}
	}
	live := []byte(`{"id":"evt_1","type":"a.b","livemode":true}`)
	svc.post(t, live, signedBy(live, testSecret)) // wrong_mode: what is refused matches nothing
	counted := svc.counted(t)
	if counted[`webhookd_signature_matches_total{secret="live"}`] != 2 || counted[`webhookd_signature_matches_total{secret="test"}`] != 1 {
		t.Errorf("counted %v", counted)
	}
}

func TestSecretsAreThoseOfTheMoment(t *testing.T) {
	t.Parallel()
	secret, err := signature.NewSecret("next", "whsec_next", false)
	if err != nil {
		t.Fatal(err)
	}
	next, err := signature.NewVerifier(time.Minute, secret)
	if err != nil {
		t.Fatal(err)
	}
	present := newVerifier(t)
	svc := newService(t, nopStore, func(o *receiver.Options) {
		o.Verifier = func() *signature.Verifier { return present }
	})
	body := fixture(t, "verified")
	before := svc.post(t, body, signedBy(body, "whsec_next")).Code
	present = next
	after := svc.post(t, body, signedBy(body, "whsec_next")).Code
	if before != 400 || after != 200 {
		t.Errorf("answers %d and %d, want 400 and 200", before, after)
	}
}
