package jobs_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// fact is a state of a session as Stripe tells it in an event or an answer.
type fact struct {
	kind   string
	second int64
	object map[string]any
}

// drawFact says what happened to a session, in one of few seconds so that
// things tie. Not all that is drawn can happen; all of it can be sent.
func drawFact(t *rapid.T, session string, live bool, start int64) fact {
	pick := func(label string, of ...any) any { return of[rapid.IntRange(0, len(of)-1).Draw(t, label)] }
	kind := rapid.SampledFrom([]string{"created", "processing", "requires_input", "verified", "verified", "canceled", "redacted"}).Draw(t, "type")
	status := map[string]string{"created": "requires_input", "redacted": "verified"}[kind]
	if status == "" {
		status = kind
	}
	o := map[string]any{
		"id": session, "object": "identity.verification_session", "status": status, "type": "document", "livemode": live,
		"created": start - 10, "client_reference_id": pick("reference", "user-1", nil),
		"metadata": map[string]any{"user": pick("user", "PIIMARK-1", "PIIMARK-2")}, "options": map[string]any{},
		"last_verification_report": pick("report", nil, "vr_1"), "last_error": nil, "redaction": nil,
		"client_secret": "SECRETMARK",
	}
	switch kind {
	case "requires_input":
		o["last_error"] = map[string]any{"code": pick("code", "document_expired", "abandoned"), "reason": "PIIMARK"}
	case "redacted":
		o["redaction"] = map[string]any{"status": pick("word", "redacted", "validated", "processing")}
	}
	return fact{kind, start + int64(rapid.IntRange(0, 5).Draw(t, "second")), o}
}

func (f fact) event(tb testing.TB, id string, account any) []byte {
	tb.Helper()
	body, err := json.Marshal(map[string]any{
		"id": id, "object": "event", "type": "identity.verification_session." + f.kind, "livemode": f.object["livemode"],
		"created": f.second, "api_version": "2026-10-28.endive", "account": account, "data": map[string]any{"object": f.object},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// TestAfterOneReconcileTheRowsEqualTheModel loses, doubles, shuffles and ties
// events at will, with an API whose sessions are stale or fresh: after one run
// the rows are those of everything that Stripe has said, and a second run
// changes nothing.
func TestAfterOneReconcileTheRowsEqualTheModel(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	start := s.clock().Add(-time.Hour).Unix()
	rapid.Check(t, func(rt *rapid.T) {
		s.clear(t)
		s.Fake = stripefake.InMemory()
		s.now = time.Unix(start, 0).UTC().Add(time.Duration(rapid.IntRange(-1, 8).Draw(rt, "asked at")) * time.Second)
		s.Set(func(set *stripefake.Settings) { set.Limit, set.Now = 0, s.clock })
		s.keys = map[bool]string{true: s.Key(true, full), false: s.Key(false, full)}
		s.opt.API = s.client(t, s.Fake)

		var all []*events.Event
		var deliveries []*events.Event
		objects := map[string]map[string]any{} // what the API tells
		for n := range rapid.IntRange(1, 4).Draw(rt, "sessions") {
			session, live := fmt.Sprintf("vs_%d", n), rapid.Bool().Draw(rt, "live")
			at, account := stripeapi.Place{Live: live}, any(nil)
			if rapid.Bool().Draw(rt, "connected") {
				at.Account, account = "acct_1", "acct_1"
			}
			s.opt.Accounts = []string{"acct_1"}
			s.Connect(stripeapi.Place{Live: true, Account: "acct_1"})
			s.Connect(stripeapi.Place{Account: "acct_1"})
			facts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fact { return drawFact(t, session, live, start) }), 0, 6).Draw(rt, "facts")
			gone := false
			for i, f := range facts {
				body := f.event(t, fmt.Sprintf("evt_%d%d_%d", rapid.IntRange(0, 9).Draw(rt, "id"), n, i), account)
				s.AddEvent(body)
				gone = gone || f.kind == "redacted"
				all = append(all, s.parse(t, body))
				for range rapid.IntRange(0, 2).Draw(rt, "deliveries") { // none is a loss
					deliveries = append(deliveries, s.parse(t, body))
				}
			}
			// The list of sessions tells one of the states, or another still; or it does not know it.
			object := drawFact(rt, session, live, start).object
			if i := rapid.IntRange(-2, len(facts)-1).Draw(rt, "answers"); i >= 0 {
				object = facts[i].object
			} else if i == -2 && len(facts) > 0 {
				continue
			}
			if gone && object["redaction"] == nil {
				object["redaction"] = map[string]any{"status": "redacted"}
			}
			body, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			s.AddSession(at, body)
			objects[session] = object
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 1))
		rng.Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })
		var wg sync.WaitGroup
		for _, e := range deliveries {
			wg.Go(func() {
				if _, err := s.store.Record(t.Context(), e); err != nil {
					t.Errorf("record: %v", err)
				}
			})
		}
		wg.Wait()

		s.run(t, jobs.ReconcileRequest{Since: time.Unix(start, 0).Add(-time.Hour)})
		// Events that Stripe has erased since are recorded as it tells them now.
		want := repotest.Canonical(t, events.History{Events: s.asListed(t, all, deliveries), Answers: s.answers(t, objects)}.Rows())
		got := repotest.Rows(t, s.url)
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("rows differ from the model (-model +rows):\n%s", diff)
		}

		s.pass(time.Minute) // behind everything that was drawn: now an answer is fresh
		s.run(t, jobs.ReconcileRequest{Since: time.Unix(start, 0).Add(-time.Hour)})
		for id, row := range repotest.Rows(t, s.url).Sessions {
			if o := objects[id]; o != nil && (row.Status != o["status"] || row.NeedsRefresh) {
				rt.Errorf("%s is %s, needs_refresh %v; Stripe says %s", id, row.Status, row.NeedsRefresh, o["status"])
			}
		}
		once := s.dump(t, "reconcile_runs")
		s.pass(time.Minute)
		s.run(t, jobs.ReconcileRequest{Since: time.Unix(start, 0).Add(-time.Hour)})
		if diff := cmp.Diff(once, s.dump(t, "reconcile_runs")); diff != "" {
			rt.Fatalf("a run that finds nothing changes rows:\n%s", diff)
		}
	})
}

// clear empties the tables.
func (s *sides) clear(tb testing.TB) {
	tb.Helper()
	if _, err := s.pool.Exec(tb.Context(), `
TRUNCATE stripe_identity.events, stripe_identity.verification_sessions, stripe_identity.status_transitions, stripe_identity.verified_outputs,
         stripe_identity.provided_details, stripe_identity.quarantined_events, stripe_identity.answers, stripe_identity.wishes,
         stripe_identity.reconcile_runs`); err != nil {
		tb.Fatal(err)
	}
}

// asListed is every event as it was delivered, or else as Stripe tells it now.
func (s *sides) asListed(tb testing.TB, all, delivered []*events.Event) (set []*events.Event) {
	tb.Helper()
	for _, e := range all {
		known := false
		for _, d := range delivered {
			known = known || d.ID == e.ID
		}
		if !known {
			raw, err := s.opt.API.Event(tb.Context(), stripeapi.Place{Live: e.Livemode == events.ModeLive, Account: e.Account.Value}, e.ID)
			if err != nil {
				tb.Fatal(err)
			}
			e = s.parse(tb, raw)
		}
		set = append(set, e)
	}
	return set
}

// answers is what the API was heard to tell.
func (s *sides) answers(tb testing.TB, objects map[string]map[string]any) map[string][]events.Answer {
	tb.Helper()
	rows, _ := s.pool.Query(tb.Context(), `SELECT session_id, told_from, told_until, account, outputs FROM stripe_identity.answers`)
	told := map[string][]events.Answer{}
	var (
		id      string
		a       events.Answer
		account *string
	)
	_, err := pgx.ForEachRow(rows, []any{&id, &a.From, &a.Until, &account, &a.Outputs}, func() error {
		body, err := json.Marshal(objects[id])
		if err != nil {
			return err
		}
		a.Account = events.TextOf(account)
		a.Session, err = events.ParseSession(body)
		told[id] = append(told[id], a)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return told
}
