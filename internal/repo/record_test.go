package repo_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
)

func TestOutcomeSaysWhatBecameOfADelivery(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		bodies func(testing.TB, *scenario.Session) [][]byte
		want   []events.Outcome
	}{
		"a new event advances the session": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				return [][]byte{s.Created(at(0)).Body, s.Processing(at(10)).Body}
			},
			[]events.Outcome{events.Applied, events.Applied},
		},
		"an event that is older than the session's state is history": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				p, v := s.Processing(at(10)), s.Verified(at(20))
				return [][]byte{v.Body, p.Body}
			},
			[]events.Outcome{events.Applied, events.Stale},
		},
		"another id for the same change is a twin": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0))
				return [][]byte{e.Body, s.Twin(e).Body, s.Twin(e).Body}
			},
			[]events.Outcome{events.Applied, events.Twin, events.Twin},
		},
		"the same change in another second is no twin": {
			func(tb testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0))
				return [][]byte{e.Body, edit(tb, s.Twin(e).Body, map[string]any{"created": at(1).Unix()})}
			},
			[]events.Outcome{events.Applied, events.Applied},
		},
		"another error code in the same second is no twin": {
			func(tb testing.TB, s *scenario.Session) [][]byte {
				e := s.RequiresInput(at(0), "abandoned")
				other := edit(tb, s.Twin(e).Body, map[string]any{"id": "evt_0", "data.object.last_error.code": "consent_declined"})
				return [][]byte{e.Body, other}
			},
			[]events.Outcome{events.Applied, events.Stale},
		},
		"an event id that was seen is a duplicate": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0))
				return [][]byte{e.Body, s.Processing(at(10)).Body, e.Body, e.Body}
			},
			[]events.Outcome{events.Applied, events.Applied, events.Duplicate, events.Duplicate},
		},
		"a thin twin is queued": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0))
				return [][]byte{s.Thin(e).Body, e.Body}
			},
			[]events.Outcome{events.Queued, events.Applied},
		},
		"an event that cannot be understood is quarantined once": {
			func(tb testing.TB, s *scenario.Session) [][]byte {
				e := edit(tb, s.Created(at(0)).Body, map[string]any{"data.object.status": 5})
				return [][]byte{e, e}
			},
			[]events.Outcome{events.Quarantined, events.Duplicate},
		},
		"a seventh type is quarantined": {
			func(tb testing.TB, s *scenario.Session) [][]byte {
				return [][]byte{edit(tb, s.Created(at(0)).Body, map[string]any{"type": "identity.verification_session.frozen"})}
			},
			[]events.Outcome{events.Quarantined},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, pgtest.Database(t))
			if diff := cmp.Diff(test.want, tell(t, s, test.bodies(t, newSession(1, "vs_1"))...)); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOfTwinsTheSmallerIdCounts(t *testing.T) {
	t.Parallel()
	session := newSession(1, "vs_1")
	e := session.Verified(at(10))
	small := edit(t, e.Body, map[string]any{"id": "evt_a", "data.object.metadata": map[string]any{"told": "by a"}})
	large := edit(t, e.Body, map[string]any{"id": "evt_b", "data.object.metadata": map[string]any{"told": "by b"}})
	for name, bodies := range map[string][][]byte{"the smaller first": {small, large}, "the larger first": {large, small}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			tell(t, open(t, url), bodies...)
			got := one(t, url, `
SELECT concat_ws(' ', s.last_event_id, s.metadata ->> 'told', (SELECT string_agg(event_id, ',') FROM stripe_identity.status_transitions))
FROM stripe_identity.verification_sessions s
UNION ALL
(SELECT event_id FROM stripe_identity.events ORDER BY event_id)`)
			if diff := cmp.Diff([]string{"evt_a by a evt_a", "evt_a", "evt_b"}, got); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOutputsOfAnEventAreStored(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	session := newSession(1, "vs_1")
	tell(t, open(t, url), session.Created(at(0)).Body, session.Expanded(session.Verified(at(10))).Body)
	got := one(t, url, `
SELECT concat_ws('|', first_name, last_name, dob, dob_day, address_line1, address_country, id_number, id_number_type, email,
                 phone, sex, unparsed_place_of_birth, unparsed_sex, verification_report_id, source)
FROM stripe_identity.verified_outputs
UNION ALL SELECT concat_ws('|', email, phone) FROM stripe_identity.provided_details`)
	want := []string{
		"Jenny PIIMARK|Rosen PIIMARK|1904-02-29|29|1234 Main St. PIIMARK|US|1234 PIIMARK|us_ssn|jenny@example.com PIIMARK|" +
			"+14155550123 PIIMARK|female|SAN FRANCISCO PIIMARK|F PIIMARK|vr_1|event",
		"jenny.rosen@example.com PIIMARK|+14155550199 PIIMARK",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outputs and details (-want +got):\n%s", diff)
	}
}

func TestEventsWithoutOutputsEraseNone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	session := newSession(1, "vs_1")
	tell(t, open(t, url), session.Expanded(session.Verified(at(10))).Body, session.RequiresInput(at(20), "document_expired").Body,
		edit(t, session.Verified(at(30)).Body, map[string]any{"data.object.verified_outputs": nil, "data.object.provided_details": nil}))
	got := one(t, url, `SELECT first_name FROM stripe_identity.verified_outputs UNION ALL SELECT email FROM stripe_identity.provided_details`)
	if diff := cmp.Diff([]string{"Jenny PIIMARK", "jenny.rosen@example.com PIIMARK"}, got); diff != "" {
		t.Errorf("what stands (-want +got):\n%s", diff)
	}
}

func TestNoOutputsStoresNone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	session := newSession(1, "vs_1")
	store := open(t, url, func(o *repo.Options) { o.NoOutputs = true })
	tell(t, store, session.Expanded(session.Verified(at(10))).Body)
	if got := everything(t, url); strings.Contains(got, scenario.Marker) {
		t.Errorf("outputs stand somewhere:\n%s", got)
	}
	if got := one(t, url, `SELECT id FROM stripe_identity.verification_sessions WHERE outputs_wanted_since IS NOT NULL`); len(got) != 0 {
		t.Errorf("outputs are wanted of %q", got)
	}
}

func TestOnlyTheOutputsThatAreWantedAreStoredOfAnEvent(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	session := newSession(1, "vs_1")
	store := open(t, url, func(o *repo.Options) { o.Outputs = func(field string) bool { return field == "phone" } })
	tell(t, store, session.Expanded(session.Verified(at(10))).Body)
	got := query(t, url, `
SELECT o.first_name, o.email, o.phone IS NOT NULL, d.email, d.phone IS NOT NULL
FROM stripe_identity.verified_outputs o, stripe_identity.provided_details d`)
	if diff := cmp.Diff([][]any{{nil, nil, true, nil, true}}, got); diff != "" {
		t.Errorf("of name, e-mail and phone, and of the e-mail and phone provided, stand (-want +got):\n%s", diff)
	}
}

// everything is all rows of all tables as text.
func everything(tb testing.TB, url string) string {
	tb.Helper()
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(contractTables)) {
		for _, row := range one(tb, url, `SELECT t::text FROM stripe_identity.`+table+` t`) {
			b.WriteString(table + row + "\n")
		}
	}
	return b.String()
}

func TestThinEventIsResolvedByItsSnapshotBeforeOrAfter(t *testing.T) {
	t.Parallel()
	session := newSession(1, "vs_1")
	snapshot := session.Created(at(0))
	thin := session.Thin(snapshot)
	alone := session.Thin(session.Processing(at(10)))
	for name, bodies := range map[string][][]byte{"before": {thin.Body, snapshot.Body}, "after": {snapshot.Body, thin.Body}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			tell(t, open(t, url), append(bodies, alone.Body)...)
			got := one(t, url, `SELECT event_id FROM stripe_identity.events WHERE type LIKE 'v1.%' AND resolved_at IS NULL`)
			if diff := cmp.Diff([]string{alone.ID}, got); diff != "" {
				t.Errorf("waiting (-want +got):\n%s", diff)
			}
		})
	}
}

func TestThinEventAloneMakesNoSession(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	session := newSession(1, "vs_1")
	tell(t, open(t, url), session.Thin(session.Created(at(0))).Body)
	if got := one(t, url, `SELECT id FROM stripe_identity.verification_sessions`); len(got) != 0 {
		t.Errorf("sessions %q", got)
	}
}

// state is a session's state in one line.
func state(tb testing.TB, url string) string {
	tb.Helper()
	return strings.Join(one(tb, url, `
SELECT concat_ws(' ', status, last_error_code, redaction_status, CASE WHEN needs_refresh THEN 'needs refresh' END)
FROM stripe_identity.verification_sessions ORDER BY id`), "\n")
}

func TestCanceledIsFinal(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, session := open(t, url), newSession(1, "vs_1")
	got := tell(t, store, session.Created(at(0)).Body, session.Canceled(at(10)).Body, session.Verified(at(20)).Body)
	if diff := cmp.Diff([]events.Outcome{events.Applied, events.Applied, events.Stale}, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if got := state(t, url); got != "canceled needs refresh" {
		t.Errorf("after a later verified the session is %q", got)
	}
	other := newSession(2, "vs_1")
	other.Canceled(at(10))
	if got := tell(t, store, other.Redacted(at(30)).Body); got[0] != events.Applied {
		t.Errorf("a redaction after the end is %s", got[0])
	}
}

func TestTwoStatesInTheNewestSecondNeedARefresh(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, session := open(t, url), newSession(1, "vs_1")
	processing, verified := session.Processing(at(10)), session.Verified(at(10))
	tell(t, store, verified.Body)
	if got := state(t, url); got != "verified" {
		t.Errorf("one event: %q", got)
	}
	tell(t, store, processing.Body)
	if got := state(t, url); got != "verified needs refresh" {
		t.Errorf("two states in the newest second: %q", got)
	}
	tell(t, store, session.RequiresInput(at(11), "document_expired").Body)
	if got := state(t, url); got != "requires_input document_expired" {
		t.Errorf("after a later event: %q", got)
	}
}

func TestWhatIsFixedAtBirthIsToldByTheFirstAndNeverOverwritten(t *testing.T) {
	t.Parallel()
	session := newSession(1, "vs_1")
	first := edit(t, session.Created(at(0)).Body, map[string]any{
		"account": "acct_1", "context": "ctx_1", "data.object.client_reference_id": "user-1", "data.object.related_customer": "cus_1",
		"data.object.related_customer_account": "ca_1", "data.object.related_person": map[string]any{"person": "p_1", "account": "pa_1"},
	})
	second := edit(t, session.Processing(at(10)).Body, map[string]any{
		"account": "acct_2", "data.object.client_reference_id": "user-2", "data.object.related_customer": nil,
		"data.object.related_person": nil, "data.object.verification_flow": "vf_2", "livemode": false, "data.object.created": 5,
	})
	third := session.Redacted(at(20)).Body
	want := []string{"acct_1|ctx_1|user-1|cus_1|ca_1|p_1|pa_1|vf_2|t|1772366400"}
	for name, bodies := range map[string][][]byte{
		"in order": {first, second, third}, "backwards": {third, second, first}, "the middle last": {first, third, second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			tell(t, open(t, url), bodies...)
			got := one(t, url, `
SELECT concat_ws('|', account, context, client_reference_id, related_customer, related_customer_account, related_person,
                 related_person_account, verification_flow, livemode, extract(epoch FROM created_at)::bigint)
FROM stripe_identity.verification_sessions`)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("birth (-want +got):\n%s", diff)
			}
		})
	}
}

// noise is text that no compression makes short enough for an index.
func noise(tb testing.TB, n int) string {
	tb.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		tb.Fatalf("random: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(b)[:n]
}

// hostile are bodies of one session each, as no friend would send them.
func hostile(tb testing.TB) map[string][]byte {
	tb.Helper()
	long := noise(tb, 5000)
	metadata := map[string]any{}
	for i := range 50 {
		metadata[fmt.Sprintf("key_%02d", i)] = noise(tb, 650)
	}
	bodies := map[string][]byte{}
	for name, fields := range map[string]map[string]any{
		"NUL everywhere": {
			"data.object.metadata": map[string]any{"a\x00b": "c\x00d"}, "data.object.client_reference_id": "u\x00ser",
			"data.object.last_error": map[string]any{"code": "c\x00", "reason": "r\x00"}, "data.object.status": "s\x00", "api_version": "\x00",
		},
		"long client reference":      {"data.object.client_reference_id": long},
		"long event id":              {"id": "evt_" + long},
		"long session id":            {"data.object.id": "vs_" + long},
		"long report id":             {"data.object.last_verification_report": "vr_" + long},
		"long account":               {"account": "acct_" + long},
		"long context":               {"context": long},
		"long request id":            {"request.id": long},
		"long customer":              {"data.object.related_customer": long},
		"long flow":                  {"data.object.verification_flow": long},
		"long code":                  {"data.object.last_error": map[string]any{"code": long, "reason": long}},
		"long status":                {"data.object.status": long},
		"long session type":          {"data.object.type": long},
		"long api version":           {"api_version": long},
		"long redaction":             {"data.object.redaction": map[string]any{"status": long}},
		"long event type":            {"type": "identity.verification_session." + long},
		"33 KB of metadata":          {"data.object.metadata": metadata},
		"created beyond the column":  {"created": int64(9_300_000_000_000)},
		"created of the last second": {"created": int64(9_224_318_015_999)},
		"created before Christ":      {"created": int64(-210_866_803_200)},
		"created beyond int64":       {"created": json.RawMessage("99999999999999999999")},
		"created with a point":       {"created": 1.5},
		"birth beyond the column":    {"data.object.created": int64(1) << 62},
		"number beyond jsonb":        {"data.object.metadata": json.RawMessage(`{"n":1e400000}`)},
		"dob beyond the column":      {"data.object.verified_outputs": map[string]any{"dob": map[string]any{"day": 1 << 40, "month": -1, "year": 0}}},
		"dob that is no day":         {"data.object.verified_outputs": map[string]any{"dob": map[string]any{"day": 31, "month": 2, "year": 1990}}},
		"unknown everything": {
			"data.object.status": "frozen", "data.object.type": "email", "data.object.last_error": map[string]any{"code": "too_shiny", "extra": 1},
			"data.object.redaction": map[string]any{"status": "frobnicated"}, "api_version": "2031-01-01.zinnia", "tomorrow": []any{1, "x"},
			"data.object.verified_outputs": map[string]any{"aura": map[string]any{"colour": "blue"}},
		},
		"null everything": {
			"account": nil, "livemode": nil, "request": nil, "api_version": nil, "data.object.status": nil, "data.object.type": nil,
			"data.object.metadata": nil, "data.object.options": nil, "data.object.created": nil, "data.object.livemode": nil,
		},
		"wrong types": {"livemode": "yes", "account": 5, "data.object.options": []any{}},
		"no data":     {"data": nil},
		"deep":        {"data.object.metadata": json.RawMessage(strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100))},
	} {
		session := newSession(1, "vs_hostile_"+strings.ReplaceAll(name, " ", "_"))
		body := edit(tb, session.RequiresInput(at(5), "abandoned").Body, map[string]any{"id": "evt_" + strings.ReplaceAll(name, " ", "_")})
		bodies[name] = edit(tb, body, fields)
	}
	surrogate := edit(tb, newSession(1, "vs_surrogate").Created(at(0)).Body, map[string]any{"id": "evt_surrogate", "data.object.client_reference_id": "LONE", "data.object.metadata": map[string]any{"LONE": "LONE"}})
	bodies["lone surrogates"] = []byte(strings.ReplaceAll(string(surrogate), "LONE", `\ud800`))
	bodies["invalid UTF-8"] = []byte(strings.NewReplacer("LONE", "\xff\xc0", "evt_surrogate", "evt_utf8", "vs_surrogate", "vs_utf8").Replace(string(surrogate)))
	return bodies
}

func TestHostileEventsHarmNobody(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url, func(o *repo.Options) { o.Committers = 1 })
	var bodies [][]byte
	want := map[string]bool{}
	var good []string
	for _, body := range hostile(t) {
		e := read(t, body)
		want[e.ID] = true
		neighbour := newSession(uint64(100+len(bodies)), fmt.Sprintf("vs_good_%02d", len(bodies))).Verified(at(10))
		good = append(good, neighbour.ID)
		bodies = append(bodies, body, neighbour.Body)
	}
	tellAtOnce(t, store, bodies...)
	for _, id := range one(t, url, `SELECT event_id FROM stripe_identity.events UNION ALL SELECT event_id FROM stripe_identity.quarantined_events`) {
		delete(want, id)
	}
	if len(want) > 0 {
		t.Errorf("lost: %v", slices.Collect(maps.Keys(want)))
	}
	slices.Sort(good)
	got := one(t, url, `SELECT last_event_id FROM stripe_identity.verification_sessions WHERE id LIKE 'vs\_good%' AND status = 'verified' ORDER BY 1`)
	if diff := cmp.Diff(good, got); diff != "" {
		t.Errorf("good neighbours (-want +got):\n%s", diff)
	}
}

func TestHostileEventsEqualTheModel(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	var set []*events.Event
	for _, body := range hostile(t) {
		set = append(set, read(t, body))
		tell(t, store, body)
	}
	if diff := cmp.Diff(repotest.Canonical(t, events.Model(set)), repotest.Rows(t, url)); diff != "" {
		t.Errorf("rows differ from the model (-model +rows):\n%s", diff)
	}
}

func TestWhatPostgreSQLRefusesIsQuarantined(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*events.Event){
		"payload that is no JSON":      func(e *events.Event) { e.Payload = []byte(`{"a":`) },
		"payload with a NUL":           func(e *events.Event) { e.Payload = []byte(`{"a":"\u0000"}`) },
		"time beyond the year 294276":  func(e *events.Event) { e.Created = time.Unix(9_400_000_000_000, 0) },
		"metadata that is no JSON":     func(e *events.Event) { e.Session.Metadata = []byte("nonsense") },
		"outputs with a NUL":           func(e *events.Event) { e.Session.Outputs = &events.Outputs{FirstName: events.Some("a\x00")} },
		"status that is no UTF-8":      func(e *events.Event) { e.Session.Status = events.Some("\xff") },
		"all of it at once":            func(e *events.Event) { e.Payload, e.Created = []byte("x"), time.Unix(9_400_000_000_000, 0) },
		"an event id of another's row": func(e *events.Event) { e.ID = "evt_taken" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			// History whose event retention has removed.
			execute(t, url, `
INSERT INTO stripe_identity.status_transitions (event_id, session_id, event_type, occurred_at, source, rank)
VALUES ('evt_taken', 'vs_other', 'identity.verification_session.created', now(), 'webhook', 0)`)
			store := open(t, url, func(o *repo.Options) { o.Committers = 1 })
			bad := read(t, newSession(1, "vs_bad").Verified(at(10)).Body)
			spoil(bad)
			var wg sync.WaitGroup
			for i := range 5 {
				good := read(t, newSession(uint64(100+i), fmt.Sprintf("vs_good_%d", i)).Verified(at(10)).Body)
				wg.Go(func() {
					if outcome, err := store.Record(t.Context(), good); err != nil || outcome != events.Applied {
						t.Errorf("a neighbour is %q, %v", outcome, err)
					}
				})
			}
			if outcome, err := store.Record(t.Context(), bad); err != nil || outcome != events.Quarantined {
				t.Errorf("refused event is %q, %v; want quarantined", outcome, err)
			}
			wg.Wait()
			if got := one(t, url, `SELECT reason FROM stripe_identity.quarantined_events`); len(got) != 1 || !strings.Contains(got[0], "SQLSTATE 2") {
				t.Errorf("reasons in quarantine %q", got)
			}
		})
	}
}

// Also if it is the session's row that is refused, which quarantine writes too.
func TestWhatTheSessionsRowRefusesIsQuarantined(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"22003", "23514", "54000"} {
		for name, known := range map[string]bool{"of a session that is known": true, "of one that is not": false} {
			t.Run(code+", "+name, func(t *testing.T) {
				t.Parallel()
				url := pgtest.Database(t)
				store, session := open(t, url, func(o *repo.Options) { o.Committers, o.Notify = 1, true }), newSession(1, "vs_bad")
				if known {
					tell(t, store, session.Created(at(0)).Body)
				}
				execute(t, url, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF new.id = 'vs_bad' THEN RAISE EXCEPTION 'no' USING ERRCODE = '`+code+`'; END IF; RETURN new; END $$`)
				execute(t, url, `CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON stripe_identity.verification_sessions FOR EACH ROW EXECUTE FUNCTION refuse()`)
				bad := session.Processing(at(10)).Body
				got := tell(t, store, bad, newSession(2, "vs_good").Created(at(0)).Body, bad)
				if diff := cmp.Diff([]events.Outcome{events.Quarantined, events.Applied, events.Duplicate}, got); diff != "" {
					t.Errorf("outcomes (-want +got):\n%s", diff)
				}
				want := []string{"vs_bad refused by PostgreSQL, SQLSTATE " + code}
				if diff := cmp.Diff(want, one(t, url, `SELECT concat_ws(' ', session_id, reason, payload) FROM stripe_identity.quarantined_events`)); diff != "" {
					t.Errorf("quarantine (-want +got):\n%s", diff)
				}
				execute(t, url, `DROP TRIGGER refuse ON stripe_identity.verification_sessions`)
				tell(t, store, session.Verified(at(20)).Body)
				refresh := one(t, url, `SELECT needs_refresh::text FROM stripe_identity.verification_sessions WHERE id = 'vs_bad'`)
				if diff := cmp.Diff([]string{"true"}, refresh); diff != "" {
					t.Errorf("needs a refresh, once its row can be written (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestADatabaseThatIsAwayIsAnErrorThatTellsNothing(t *testing.T) {
	t.Parallel()
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, address := range map[string]string{"closed port": "127.0.0.1:1", "silent host": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, "postgres://someuser:hunter2@"+address+"/somedb?sslmode=disable&connect_timeout=1")
			_, err := s.Record(t.Context(), read(t, newSession(1, "vs_1").Created(at(0)).Body))
			if err == nil || errors.Is(err, events.ErrLocked) || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error is %v, want one that blames the database", err)
			}
			for _, secret := range []string{"hunter2", "someuser", "somedb", "127.0.0.1", "INSERT", "SELECT", "user-vs_1"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error tells %q: %v", secret, err)
				}
			}
		})
	}
}

func TestOurOwnFaultsAreErrorsAndQuarantineNothing(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"no schema":      `DROP SCHEMA stripe_identity CASCADE`,
		"no table":       `DROP TABLE stripe_identity.status_transitions CASCADE`,
		"no column":      `ALTER TABLE stripe_identity.verification_sessions DROP COLUMN births`,
		"read only":      `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`,
		"another schema": `ALTER SCHEMA stripe_identity RENAME TO elsewhere`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			execute(t, url, damage)
			s := open(t, url)
			_, err := s.Record(t.Context(), read(t, newSession(1, "vs_1").Created(at(0)).Body))
			if err == nil || errors.Is(err, events.ErrLocked) || !strings.Contains(err.Error(), "SQLSTATE") {
				t.Errorf("error is %v, want one with a SQLSTATE", err)
			}
			if err != nil && strings.Contains(err.Error(), "user-vs_1") {
				t.Errorf("error tells the content: %v", err)
			}
			if name == "no schema" || name == "another schema" {
				return
			}
			if got := one(t, url, `SELECT event_id FROM stripe_identity.quarantined_events`); len(got) != 0 {
				t.Errorf("quarantined %q for our fault", got)
			}
		})
	}
}

func TestAThinRedactionThatPostgreSQLRefusesHidesItsSession(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, session := open(t, url), newSession(1, "vs_1")
	tell(t, store, session.Created(at(0)).Body)
	e := read(t, session.Thin(session.Redacted(at(10))).Body)
	e.Created = time.Unix(9_400_000_000_000, 0)
	if outcome, err := store.Record(t.Context(), e); err != nil || outcome != events.Quarantined {
		t.Errorf("it is %q, %v; want quarantined", outcome, err)
	}
	want := []string{"hidden"}
	got := one(t, url, `SELECT CASE WHEN hidden THEN 'hidden' ELSE 'shown' END FROM stripe_identity.verification_sessions`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the session (-want +got):\n%s", diff)
	}
}

// Two requests that are answered in one second, as after two thin events at once.
func TestAnAnswerInTheSameSecondIsTheSameRow(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var counted atomic.Int64
	store, session := open(t, url, func(o *repo.Options) { o.Told = func(*events.Step) { counted.Add(1) } }), newSession(1, "vs_1")
	tell(t, store, session.Created(at(0)).Body)
	failed := read(t, session.RequiresInput(at(5), "document_expired").Body).Session
	const rows = `SELECT concat_ws(' ', id, xid, status, error_code, source) FROM stripe_identity.status_transitions ORDER BY id`
	var before []string
	for i := range 3 {
		answer := &events.Answer{From: at(7 + i), Until: at(10), Session: failed}
		if _, err := store.Serve(t.Context(), &repo.Wish{Session: "vs_1"}, answer); err != nil {
			t.Fatalf("serve: %v", err)
		}
		now := one(t, url, rows)
		if i > 0 && !cmp.Equal(before, now) {
			t.Errorf("history after answer %d (-before +now):\n%s", i+1, cmp.Diff(before, now))
		}
		before = now
	}
	if n := counted.Load(); n != 1 || len(before) != 2 {
		t.Errorf("counted %d times, want once; history %q", n, before)
	}
	processing := read(t, session.Processing(at(6)).Body).Session // told later for the same second
	if err := store.Tell(t.Context(), &events.Answer{From: at(10), Until: at(10), Session: processing}); err != nil {
		t.Fatalf("tell: %v", err)
	}
	if got := one(t, url, `SELECT status FROM stripe_identity.status_transitions ORDER BY occurred_at`); !cmp.Equal(got, []string{"requires_input", "processing"}) {
		t.Errorf("another state in the same second: %q", got)
	}
}

// As after a change to a replica that had the rows and not the sequences.
func TestASequenceThatIsBehindIsNoEventsFault(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, session := open(t, url), newSession(1, "vs_1")
	tell(t, store, edit(t, session.Created(at(0)).Body, map[string]any{"data.object.metadata": map[string]any{"name": "Jenny"}}))
	for i := range 20 {
		tell(t, store, newSession(uint64(100+i), fmt.Sprintf("vs_other_%d", i)).Created(at(0)).Body)
	}
	execute(t, url, `SELECT setval(pg_get_serial_sequence('stripe_identity.status_transitions', 'id'), 1)`)
	redacted := session.Redacted(at(10)).Body
	_, err := store.Record(t.Context(), read(t, redacted))
	if err == nil || !strings.Contains(err.Error(), "sequence is behind") {
		t.Fatalf("error is %v, want one that says what to do", err)
	}
	if got := one(t, url, `SELECT event_id FROM stripe_identity.quarantined_events`); len(got) != 0 {
		t.Errorf("quarantined %q for our fault", got)
	}
	execute(t, url, `SELECT setval(pg_get_serial_sequence('stripe_identity.status_transitions', 'id'), (SELECT max(id) FROM stripe_identity.status_transitions))`)
	if diff := cmp.Diff([]events.Outcome{events.Applied}, tell(t, store, redacted)); diff != "" {
		t.Errorf("once it is mended (-want +got):\n%s", diff)
	}
	if got := one(t, url, `SELECT coalesce(metadata::text, '') FROM stripe_identity.verification_sessions WHERE id = 'vs_1'`); !cmp.Equal(got, []string{""}) {
		t.Errorf("metadata after the redaction %q", got)
	}
}

// PostgreSQL's queue of notifications is 8 GB; who listens and never ends a
// transaction fills it. Then a commit that notifies fails with 54000.
func TestAFullQueueOfNotificationsIsNoEventsFault(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	execute(t, url, `CREATE SCHEMA fake`)
	execute(t, url, `CREATE FUNCTION fake.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000'; END $$`)
	execute(t, url, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = fake, pg_catalog', current_database()); END $$`)
	var told atomic.Int64
	store := open(t, url, func(o *repo.Options) { o.Notify, o.NotifyFull = true, func() { told.Add(1) } })
	session := newSession(1, "vs_1")
	got := tell(t, store, session.Created(at(0)).Body, session.Processing(at(10)).Body, session.Verified(at(20)).Body)
	if diff := cmp.Diff([]events.Outcome{events.Applied, events.Applied, events.Applied}, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("told %d times in a minute, want once", n)
	}
}

func TestARowThatIsNotOursIsNotCalledALostConnection(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, session := open(t, url), newSession(1, "vs_1")
	tell(t, store, session.Created(at(0)).Body)
	execute(t, url, `UPDATE stripe_identity.verification_sessions SET births = 'user-vs_1'`)
	_, err := store.Record(t.Context(), read(t, session.Processing(at(10)).Body))
	if err == nil || !strings.Contains(err.Error(), "holds what webhookd never writes") || strings.Contains(err.Error(), "user-vs_1") {
		t.Errorf("error is %v", err)
	}
}

func TestDeadlineOfADelivery(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url, func(o *repo.Options) { o.Committers = 1 })
	release := busy(t, url, store)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := store.Record(ctx, verified(t, "evt_1", "vs_1")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, events.ErrLocked) {
		t.Errorf("error is %v, want DeadlineExceeded", err)
	}
	release()
}

func TestNotifyOnceForEachCommitThatAddsTransitions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		notify bool
		want   int
	}{"on": {true, 3}, "off": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			listener := connect(t, url)
			rowsOf(t, listener, `LISTEN stripe_identity`)
			store, session := open(t, url, func(o *repo.Options) { o.Notify = test.notify }), newSession(1, "vs_1")
			created, processing, verified := session.Created(at(0)), session.Processing(at(10)), session.Verified(at(20))
			tell(t, store, created.Body, verified.Body, processing.Body, // applied, applied, stale
				created.Body, session.Twin(verified).Body, session.Thin(verified).Body) // nothing new
			execute(t, url, `SELECT pg_notify('stripe_identity', 'the end')`)
			got := -1
			for payload := ""; payload != "the end"; got++ {
				n, err := listener.WaitForNotification(t.Context())
				if err != nil {
					t.Fatalf("listen: %v", err)
				}
				if payload = n.Payload; payload != "" && payload != "the end" {
					t.Errorf("payload %q, want none", payload)
				}
			}
			if got != test.want {
				t.Errorf("%d notifications, want %d", got, test.want)
			}
			if err := listener.Close(t.Context()); err != nil {
				t.Errorf("disconnect: %v", err)
			}
		})
	}
}

// TestAConsumerMissesNothing reads as README tells, while writers commit in
// another order than that of their rows' ids.
func TestAConsumerMissesNothing(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	const writers, each = 4, 60
	var wg sync.WaitGroup
	for w := range writers {
		store := open(t, url)
		wg.Go(func() {
			for i := range each {
				session := newSession(uint64(w*each+i), fmt.Sprintf("vs_%d_%d", w, i))
				tellAtOnce(t, store, session.Created(at(0)).Body, session.Verified(at(10)).Body)
			}
		})
	}
	wg.Go(func() { // a slow one, which ids alone would pass by
		conn := connect(t, url)
		for i := range 20 {
			err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `
INSERT INTO stripe_identity.status_transitions (event_id, session_id, event_type, occurred_at, source, rank)
VALUES ($1, 'vs_slow', 'identity.verification_session.created', now(), 'webhook', 0)`, fmt.Sprintf("evt_slow_%d", i))
				time.Sleep(10 * time.Millisecond)
				return err
			})
			if err != nil {
				t.Errorf("slow writer: %v", err)
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Errorf("disconnect: %v", err)
		}
	})
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	seen := map[int64]int{}
	xid, id := "0", int64(0)
	conn := connect(t, url)
	for last := false; ; {
		rows := rowsOf(t, conn, `
SELECT t.xid::text, t.id
FROM stripe_identity.status_transitions t
WHERE (t.xid, t.id) > ($1::text::xid8, $2) AND t.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY t.xid, t.id -- not the text of that name
LIMIT 50`, xid, id)
		for _, row := range rows {
			xid, id = row[0].(string), row[1].(int64)
			seen[id]++
		}
		if len(rows) > 0 {
			continue
		}
		if last {
			break
		}
		select {
		case <-done:
			// Transactions of other tests hold the horizon back for a moment.
			last = len(seen) == writers*each*2+20
		default:
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("transition %d was seen %d times", id, n)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Errorf("disconnect: %v", err)
	}
}
