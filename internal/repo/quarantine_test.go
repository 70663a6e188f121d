package repo_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
)

// shelve puts an event into quarantine with a reason of yesterday's: this build
// understands it.
func shelve(tb testing.TB, url string, s *repo.Store, e scenario.Event) {
	tb.Helper()
	broken := edit(tb, e.Body, map[string]any{"data.object.related_customer": 5})
	if got := tell(tb, s, broken); got[0] != events.Quarantined {
		tb.Fatalf("%s is %s", e.ID, got[0])
	}
	execute(tb, url, `
UPDATE stripe_identity.quarantined_events SET payload = jsonb_set(payload, '{data,object,related_customer}', '"cus_1"')
WHERE event_id = $1`, e.ID)
}

func replay(tb testing.TB, s *repo.Store, ids ...string) []repo.Replayed {
	tb.Helper()
	got, err := s.Replay(tb.Context(), ids...)
	if err != nil {
		tb.Fatalf("replay: %v", err)
	}
	return got
}

func TestQuarantineListsTheNewestFirstAndNoneThatLeft(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	var want []string
	for i := range 5 {
		e := s.Processing(at(i))
		shelve(t, url, store, e)
		execute(t, url, `UPDATE stripe_identity.quarantined_events SET received_at = now() - $1 * interval '1 hour' WHERE event_id = $2`, i, e.ID)
		want = append(want, e.ID)
	}
	replay(t, store, want[1])
	want = append(want[:1], want[2:]...)

	ids := func(list []repo.Quarantined) (ids []string) {
		for _, q := range list {
			ids = append(ids, q.EventID)
		}
		return ids
	}
	list, total, err := store.Quarantine(t.Context(), 3)
	if diff := cmp.Diff(want[:3], ids(list)); diff != "" || total != 4 || err != nil {
		t.Errorf("3 of %d, %v (-want +got):\n%s", total, err, diff)
	}
	if q := list[0]; q.Reason != "related_customer is no string" || *q.SessionID != "vs_1" || q.Type != "identity.verification_session.processing" || !*q.Livemode {
		t.Errorf("the newest is %+v", q)
	}
	all, err := store.QuarantinedIDs(t.Context())
	if diff := cmp.Diff([]string{want[3], want[2], want[1], want[0]}, all); diff != "" || err != nil {
		t.Errorf("ids: %v (-want +got):\n%s", err, diff)
	}
}

func TestReplayTakesWhatIsUnderstoodByNow(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	created, verified, late := s.Created(at(0)), s.Verified(at(20)), s.Processing(at(10))
	shelve(t, url, store, created)
	shelve(t, url, store, verified)
	shelve(t, url, store, late)
	execute(t, url, `UPDATE stripe_identity.quarantined_events SET received_at = '2026-03-02 00:00Z', secret_name = 'main', source = 'reconcile'`)
	if got := one(t, url, `SELECT id FROM stripe_identity.verification_sessions`); len(got) > 0 {
		t.Fatalf("there is a session already: %q", got)
	}
	want := []repo.Replayed{
		{EventID: created.ID, Session: "vs_1", Outcome: events.Applied},
		{EventID: verified.ID, Session: "vs_1", Outcome: events.Applied},
		{EventID: late.ID, Session: "vs_1", Outcome: events.Stale},
	}
	for i, id := range []string{created.ID, verified.ID, late.ID} {
		if diff := cmp.Diff(want[i:i+1], replay(t, store, id)); diff != "" {
			t.Errorf("replayed (-want +got):\n%s", diff)
		}
	}
	got := one(t, url, `
SELECT DISTINCT concat_ws('|', source, secret_name, received_at AT TIME ZONE 'UTC', payload->'data'->'object'->>'related_customer')
FROM stripe_identity.events`)
	if diff := cmp.Diff([]string{"reconcile|main|2026-03-02 00:00:00|cus_1"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if got := one(t, url, `SELECT concat_ws('|', status, needs_refresh) FROM stripe_identity.verification_sessions`); got[0] != "verified|f" {
		t.Errorf("the session is %q", got)
	}
	// As often as anybody likes.
	again := replay(t, store, created.ID, verified.ID, late.ID)
	for _, r := range again {
		if r.Outcome != events.Duplicate || r.Why != "" {
			t.Errorf("replayed again: %+v", r)
		}
	}
	if n := len(one(t, url, `SELECT event_id FROM stripe_identity.status_transitions`)); n != 3 {
		t.Errorf("%d transitions, want 3", n)
	}
}

func TestReplayKeepsWhatAPayloadLeavesOut(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	metadata := func(team string) map[string]any {
		return map[string]any{"data.object.metadata": map[string]any{"url": "https://crm.example/1", "document": "A 12", "team": team}}
	}
	tell(t, store, edit(t, s.Created(at(0)).Body, metadata("a")))
	const options = `SELECT (options - 'phone')::text FROM stripe_identity.verification_sessions`
	before := one(t, url, options)
	e := s.Verified(at(10))
	e.Body = edit(t, edit(t, e.Body, metadata("b")), map[string]any{"data.object.options.phone": map[string]any{"require_verification": true}})
	shelve(t, url, store, e)
	replay(t, store, e.ID)
	got := one(t, url, options+` WHERE status = 'verified' AND options ? 'phone'`)
	if diff := cmp.Diff(before, got); diff != "" || !strings.Contains(before[0], "document") {
		t.Errorf("options (-before +after):\n%s", diff)
	}
	const whole = `{"url": "https://crm.example/1", "team": "b", "document": "A 12"}`
	for _, sql := range []string{
		`SELECT metadata::text FROM stripe_identity.verification_sessions`,
		`SELECT metadata::text FROM stripe_identity.status_transitions WHERE status = 'verified'`,
	} {
		if diff := cmp.Diff([]string{whole}, one(t, url, sql)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
	}
}

func TestReplayLeavesWhatIsNotUnderstood(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	bodies := map[string][]byte{
		"status is no string":      edit(t, s.Processing(at(1)).Body, map[string]any{"data.object.status": 5}),
		"of an unknown type":       edit(t, s.Processing(at(2)).Body, map[string]any{"type": "identity.verification_session.paused"}),
		"nested too deep":          []byte(strings.Replace(string(s.Processing(at(3)).Body), `"options": {`, `"options": {"deep": `+deep+`, `, 1)),
		"a number out of range":    []byte(strings.Replace(string(s.Processing(at(4)).Body), `"options": {`, `"options": {"n": 1e9999, `, 1)),
		"its payload was erased":   edit(t, s.Processing(at(6)).Body, map[string]any{"data.object.status": 5}),
		"PostgreSQL refuses it":    s.Processing(at(7)).Body,
		"its payload is another's": s.Processing(at(8)).Body,
		"a report that is no id":   edit(t, s.Processing(at(10)).Body, map[string]any{"data.object.last_verification_report": 5}),
		"outputs that are none":    edit(t, s.Processing(at(11)).Body, map[string]any{"data.object.verified_outputs": map[string]any{"dob": "x"}}),
		"details that are none":    edit(t, s.Processing(at(12)).Body, map[string]any{"data.object.provided_details": "x"}),
	}
	// All that the session tells after it tells it too.
	bodies["a redaction is in it"] = edit(t, s.Redacted(at(9)).Body, map[string]any{"data.object.status": 5})
	want := map[string]string{
		"status is no string":      "data.object.status is no string",
		"of an unknown type":       "unknown event type",
		"nested too deep":          "its payload was cut to be stored; only Stripe can send it again",
		"a number out of range":    "its payload was cut to be stored; only Stripe can send it again",
		"a report that is no id":   "its payload was cut to be stored; only Stripe can send it again",
		"outputs that are none":    "its payload was cut to be stored; only Stripe can send it again",
		"details that are none":    "its payload was cut to be stored; only Stripe can send it again",
		"a redaction is in it":     "its payload is gone (redaction or retention); only Stripe can send it again",
		"its payload was erased":   "its payload is gone (redaction or retention); only Stripe can send it again",
		"PostgreSQL refuses it":    "refused by PostgreSQL, SQLSTATE 22023",
		"its payload is another's": "yesterday's",
	}
	execute(t, url, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22023'; END $$`)
	execute(t, url, `CREATE TRIGGER refuse BEFORE INSERT ON stripe_identity.events FOR EACH ROW EXECUTE FUNCTION refuse()`)
	got := map[string]string{}
	for name, body := range bodies {
		id := read(t, body).ID
		if outcome := tell(t, store, body); outcome[0] != events.Quarantined {
			t.Fatalf("%s: %s", name, outcome[0])
		}
		switch name {
		case "its payload was erased":
			execute(t, url, `UPDATE stripe_identity.quarantined_events SET payload = NULL WHERE event_id = $1`, id)
		case "its payload is another's":
			execute(t, url, `UPDATE stripe_identity.quarantined_events SET payload = jsonb_set(payload, '{id}', '"evt_other"'), reason = 'yesterday''s' WHERE event_id = $1`, id)
		}
		for range 2 {
			r := replay(t, store, id)[0]
			if r.Outcome != "" {
				t.Errorf("%s: %s", name, r.Outcome)
			}
			got[name] = r.Why
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("why they stay (-want +got):\n%s", diff)
	}
	if _, total, err := store.Quarantine(t.Context(), 1); total != len(bodies) || err != nil {
		t.Errorf("%d are left, %v; want %d", total, err, len(bodies))
	}
	if r := replay(t, store, "evt_unknown")[0]; r.Why != "no such event is or was in quarantine" {
		t.Errorf("unknown: %+v", r)
	}
}

func TestReplaysAtOnceRecordOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*repo.Store{open(t, url), open(t, url)}
	var set []*events.Event
	var ids []string
	for i := range 20 {
		s := newSession(uint64(i), fmt.Sprintf("vs_%02d", i))
		for _, e := range []scenario.Event{s.Created(at(0)), s.Processing(at(10)), s.RequiresInput(at(20), "document_expired")} {
			shelve(t, url, stores[0], e)
			ids = append(ids, e.ID)
			set = append(set, read(t, edit(t, e.Body, map[string]any{"data.object.related_customer": "cus_1"})))
		}
	}
	var mu sync.Mutex
	recorded := 0
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			for _, r := range replay(t, stores[n%2], ids...) {
				if r.Outcome == "" {
					t.Errorf("%s stays: %s", r.EventID, r.Why)
				}
				if r.Outcome.Recorded() {
					mu.Lock()
					recorded++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if recorded != len(ids) {
		t.Errorf("%d were recorded, want each of %d once", recorded, len(ids))
	}
	want, got := repotest.Canonical(t, events.Model(set)), repotest.Rows(t, url)
	for id, row := range want.Sessions { // a payload has no options.document
		row.Options = "{}"
		want.Sessions[id] = row
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows differ from the model (-model +rows):\n%.5000s", diff)
	}
}

func TestReplayBringsNothingBackToARedactedSession(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	for n, when := range []string{"before", "during"} {
		s := newSession(uint64(n), "vs_"+when)
		e := s.Verified(at(10))
		e.Body = withPerson(t, s, e)
		shelve(t, url, store, e)
		if got := everything(t, url); !strings.Contains(got, scenario.Marker) {
			t.Fatal("nothing personal to begin with")
		}
		if when == "during" {
			// The replay has read the payload when the redaction commits.
			conn := connect(t, url)
			if _, err := conn.Exec(t.Context(), `BEGIN; LOCK stripe_identity.verification_sessions IN ACCESS EXCLUSIVE MODE`); err != nil {
				t.Fatalf("hold: %v", err)
			}
			var wg sync.WaitGroup
			slow := open(t, url, func(o *repo.Options) { o.LockTimeout = 30 * time.Second })
			wg.Go(func() {
				if r, err := slow.Replay(t.Context(), e.ID); err != nil || r[0].Outcome != events.Applied {
					t.Errorf("replay: %+v, %v", r, err)
				}
			})
			waitFor(t, url, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
			for _, sql := range []string{
				`INSERT INTO stripe_identity.verification_sessions (id, redacted, redaction_status) VALUES ('vs_during', true, 'redacted')`,
				`UPDATE stripe_identity.quarantined_events SET payload = NULL WHERE session_id = 'vs_during'`,
				`COMMIT`,
			} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			wg.Wait()
			if err := conn.Close(t.Context()); err != nil {
				t.Errorf("disconnect: %v", err)
			}
		} else {
			if err := store.Redact(t.Context(), s.ID); err != nil {
				t.Fatalf("redact: %v", err)
			}
			if r := replay(t, store, e.ID)[0]; !strings.HasPrefix(r.Why, "its payload is gone") {
				t.Errorf("replayed: %+v", r)
			}
		}
		if got := everything(t, url); strings.Contains(got, scenario.Marker) {
			t.Errorf("redacted %s the replay: personal data stand:\n%s", when, got)
		}
	}
}

// waitFor waits until a query answers true.
func waitFor(tb testing.TB, url, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	conn := connect(tb, url)
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for yes := false; !yes; {
		if err := conn.QueryRow(ctx, sql).Scan(&yes); err != nil {
			tb.Fatalf("wait for %s: %v", sql, err)
		}
	}
}
