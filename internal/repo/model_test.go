package repo_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
)

// history draws the events of a few sessions as the worst of worlds would
// send them: retries, overrides both ways, several states in one second, twins
// in one second and across two, redactions at any place, events without what
// is fixed at birth, thin twins, and events that cannot be understood.
type history struct {
	events  []*events.Event
	answers map[string][]events.Answer
	erased  []string
}

func (h history) rows() events.Rows {
	return events.History{Events: h.events, Answers: h.answers, Erased: h.erased}.Rows()
}

const start = 1_700_000_000

func drawHistory(t *rapid.T, prefix string) history {
	h := history{answers: map[string][]events.Answer{}}
	n := 0
	for s := range rapid.IntRange(1, 3).Draw(t, "sessions") {
		session := fmt.Sprintf("vs_%s%d", prefix, s)
		count := rapid.IntRange(1, 7).Draw(t, "events")
		for range count {
			n++
			e := drawEvent(t, fmt.Sprintf("evt_%s%d%03d", prefix, rapid.IntRange(0, 9).Draw(t, "id"), n), session)
			h.events = append(h.events, e)
			if e.Kind == events.Snapshot && rapid.IntRange(0, 3).Draw(t, "twin") == 0 {
				h.events = append(h.events, drawTwin(t, e, fmt.Sprintf("evt_%s%d_%03d", prefix, rapid.IntRange(0, 9).Draw(t, "twin id"), n)))
			}
			if e.Kind == events.Snapshot && rapid.IntRange(0, 9).Draw(t, "thin") == 0 {
				h.events = append(h.events, thin(e))
			}
		}
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "answers") {
			a := drawAnswer(t, session)
			// Two answers of one second are one moment to Stripe: they tell the same.
			if !slices.ContainsFunc(h.answers[session], func(b events.Answer) bool { return b.Until.Equal(a.Until) }) {
				h.answers[session] = append(h.answers[session], a)
			}
		}
		if rapid.IntRange(0, 19).Draw(t, "erased") == 0 {
			h.erased = append(h.erased, session)
		}
	}
	return h
}

func parse(t interface{ Fatalf(string, ...any) }, body map[string]any) *events.Event {
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatalf("encode event: %v", err)
	}
	e, err := events.Parse(b)
	if err != nil {
		t.Fatalf("parse event: %v", err)
	}
	e.ReceivedAt = time.Now()
	return e
}

func drawEvent(t *rapid.T, id, session string) *events.Event {
	pick := func(label string, of ...any) any { return of[rapid.IntRange(0, len(of)-1).Draw(t, label)] }
	kind := rapid.SampledFrom([]string{"created", "processing", "requires_input", "requires_input", "verified", "verified", "canceled", "redacted"}).Draw(t, "type")
	status := map[string]string{"created": "requires_input", "redacted": "verified"}[kind]
	if status == "" {
		status = kind
	}
	object := map[string]any{
		"id": session, "object": "identity.verification_session", "status": status,
		"type":     pick("session type", "document", "document", "id_number"),
		"livemode": true, "metadata": map[string]any{"user": pick("user", "PIIMARK-1", "PIIMARK-2")},
		"options":                  map[string]any{"document": map[string]any{"require_matching_selfie": pick("selfie", true, false)}},
		"last_verification_report": pick("report", nil, "vr_1", "vr_2"),
		"client_secret":            "SECRETMARK", "url": "https://example.com/URLMARK",
	}
	if rapid.Bool().Draw(t, "with birth") {
		object["created"] = start - rapid.IntRange(0, 3).Draw(t, "born")
		object["client_reference_id"] = pick("reference", nil, "user-1", "user-2", "[redacted]")
		object["related_customer"] = pick("customer", nil, "cus_1", "cus_2")
		object["verification_flow"] = pick("flow", nil, "vf_1")
		object["related_person"] = pick("person", nil, map[string]any{"person": "person_1", "account": "acct_p"})
	}
	if kind == "requires_input" {
		object["last_error"] = pick("error", nil, map[string]any{"code": "document_expired", "reason": "PIIMARK reason"},
			map[string]any{"code": "abandoned", "reason": nil}, map[string]any{"code": nil, "reason": nil})
	}
	switch {
	case kind == "redacted":
		object["redaction"] = pick("redaction", nil, map[string]any{"status": "redacted"}, map[string]any{"status": "validated"})
		object["metadata"] = map[string]any{}
	case rapid.IntRange(0, 24).Draw(t, "redacting") == 0:
		object["redaction"] = map[string]any{"status": pick("word", "processing", "frobnicated")}
	}
	if kind == "verified" && rapid.IntRange(0, 4).Draw(t, "expanded") == 0 {
		object["verified_outputs"] = map[string]any{"first_name": "PIIMARK " + id, "dob": map[string]any{"day": 29, "month": 2, "year": 1992}, "tomorrow": "PIIMARK"}
		object["provided_details"] = map[string]any{"email": id + "@PIIMARK.example"}
	}
	if rapid.IntRange(0, 24).Draw(t, "broken") == 0 {
		object["status"] = 5
	}
	return parse(t, map[string]any{
		"id": id, "object": "event", "type": "identity.verification_session." + kind, "livemode": true,
		"created": start + rapid.IntRange(0, 5).Draw(t, "second"), "api_version": "2026-10-28.endive",
		"account": pick("account", nil, "acct_1"), "request": map[string]any{"id": "req_1"},
		"data": map[string]any{"object": object},
	})
}

// drawAnswer is what the API says at some moment: stale or fresh, with outputs
// or without, sometimes of a redacted session.
func drawAnswer(t *rapid.T, session string) events.Answer {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	status := pick("answered status", "requires_input", "processing", "verified", "verified", "canceled")
	body := fmt.Sprintf(`{"id":%q,"status":%q,"type":"document","livemode":true,"metadata":{"user":"PIIMARK-api"},"options":{"api":true},
		"last_verification_report":%s,"last_error":%s,"redaction":%s%s}`, session, status,
		pick("answered report", `null`, `"vr_1"`), pick("answered error", `null`, `{"code":"document_expired","reason":"PIIMARK"}`),
		pick("answered redaction", `null`, `null`, `null`, `null`, `null`, `null`, `{"status":"redacted"}`),
		pick("answered outputs", ``, `,"verified_outputs":{"first_name":"PIIMARK api"},"provided_details":{"phone":"PIIMARK"}`))
	c, err := events.ParseSession([]byte(body))
	if err != nil {
		t.Fatalf("parse answer: %v", err)
	}
	from := start + rapid.IntRange(-1, 6).Draw(t, "asked at")
	until := from + rapid.IntRange(0, 2).Draw(t, "answered after")
	return events.Answer{
		Account: events.Some("acct_1"), Context: events.Some("org_1"), From: time.Unix(int64(from), 0), Until: time.Unix(int64(until), 0), Session: c, Outputs: rapid.Bool().Draw(t, "asked for outputs"),
	}
}

// drawTwin tells the same change under another id, in the same second or the next.
func drawTwin(t *rapid.T, e *events.Event, id string) *events.Event {
	twin := *e
	twin.ID = id
	twin.Payload = []byte(strings.Replace(string(e.Payload), e.ID, id, 1))
	if rapid.IntRange(0, 2).Draw(t, "next second") == 0 {
		twin.Created = e.Created.Add(time.Second)
		twin.Payload = []byte(strings.Replace(string(twin.Payload), fmt.Sprintf(`"created":%d`, e.Created.Unix()), fmt.Sprintf(`"created":%d`, twin.Created.Unix()), 1))
	}
	if rapid.Bool().Draw(t, "other content") {
		twin.Session.Metadata = []byte(`{"user":"PIIMARK-twin"}`)
		twin.Session.Options = []byte(`{"twin":true}`)
	}
	// What the payload says must be what the session says: a reload reads it.
	return reparse(t, &twin)
}

func reparse(t interface{ Fatalf(string, ...any) }, e *events.Event) *events.Event {
	var body map[string]any
	if err := json.Unmarshal(e.Payload, &body); err != nil {
		t.Fatalf("payload: %v", err)
	}
	object := body["data"].(map[string]any)["object"].(map[string]any)
	for key, raw := range map[string][]byte{"metadata": e.Session.Metadata, "options": e.Session.Options} {
		if raw != nil {
			object[key] = json.RawMessage(raw)
		}
	}
	return parse(t, body)
}

func thin(e *events.Event) *events.Event {
	twin := *e
	twin.ID, twin.Type, twin.Kind = "evt_thin_"+e.ID, events.ThinType(e.Type), events.Thin
	twin.SnapshotEvent, twin.Session = events.Some(e.ID), events.Session{}
	twin.Payload = []byte(`{"id":"` + twin.ID + `"}`)
	return &twin
}

// TestRowsEqualTheModelInAnyOrder delivers the events of several sessions in
// random order, with duplicates, through two replicas at once.
func TestRowsEqualTheModelInAnyOrder(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	committers := func(o *repo.Options) { o.Committers = 4 }
	// One of them as behind a pooler in transaction mode.
	replicas := []*repo.Store{open(t, url, committers), open(t, url+"&default_query_exec_mode=cache_describe", committers)}
	rapid.Check(t, func(rt *rapid.T) {
		truncate(t, url)
		h := drawHistory(rt, "")
		deliver(t, replicas, h, rapid.Uint64().Draw(rt, "order"))
		want, got := repotest.Canonical(t, h.rows()), repotest.Rows(t, url)
		for id, row := range want.Sessions {
			if len(h.answers[id]) > 0 && row.NeedsRefresh {
				// An answer's content stands in the row only. Where the answer governs
				// again, because what came later came after the end, it is asked for again.
				want.Sessions[id], got.Sessions[id] = withoutContent(row), withoutContent(got.Sessions[id])
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("rows differ from the model (-model +rows):\n%s", diff)
		}
	})
}

func withoutContent(row events.SessionRow) events.SessionRow {
	row.Options, row.Metadata, row.LastErrorReason = "", "", ""
	return row
}

// deliver brings every event to one replica or several, once or more often.
func deliver(tb testing.TB, replicas []*repo.Store, h history, seed uint64) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	var todo []func(*repo.Store) error
	for _, e := range h.events {
		for range 1 + rng.IntN(2) {
			again := *e // deliveries share nothing
			todo = append(todo, func(s *repo.Store) error {
				_, err := s.Record(tb.Context(), &again)
				return err
			})
		}
	}
	for _, answers := range h.answers {
		for _, a := range answers {
			todo = append(todo, func(s *repo.Store) error { return s.Tell(tb.Context(), &a) })
		}
	}
	for _, id := range h.erased {
		todo = append(todo, func(s *repo.Store) error { return s.Redact(tb.Context(), id) })
	}
	rng.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	work := make(chan func(*repo.Store) error)
	var wg sync.WaitGroup
	for w := range 24 {
		wg.Go(func() {
			for do := range work {
				if err := do(replicas[w%len(replicas)]); err != nil {
					tb.Errorf("deliver: %v", err)
				}
			}
		})
	}
	for _, do := range todo {
		work <- do
	}
	close(work)
	wg.Wait()
}

func truncate(tb testing.TB, url string) {
	tb.Helper()
	execute(tb, url, `TRUNCATE stripe_identity.events, stripe_identity.verification_sessions, stripe_identity.status_transitions,
		stripe_identity.verified_outputs, stripe_identity.provided_details, stripe_identity.quarantined_events, stripe_identity.answers`)
}

func execute(tb testing.TB, url, sql string, args ...any) {
	tb.Helper()
	conn := connect(tb, url)
	if _, err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	if err := conn.Close(tb.Context()); err != nil {
		tb.Fatalf("disconnect: %v", err)
	}
}

func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatalf("connect: %v", err)
	}
	return conn
}
