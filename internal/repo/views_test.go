package repo_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
)

// lines is a query's rows, each as one string; null is "-".
func lines(tb testing.TB, url, sql string, args ...any) []string {
	tb.Helper()
	all := []string{}
	for _, row := range query(tb, url, sql, args...) {
		var fields []string
		for _, v := range row {
			switch v := v.(type) {
			case nil:
				fields = append(fields, "-")
			case time.Time:
				fields = append(fields, v.UTC().Format("15:04:05"))
			default:
				fields = append(fields, fmt.Sprint(v))
			}
		}
		all = append(all, strings.Join(fields, " "))
	}
	return all
}

func shuffled(seed uint64, bodies [][]byte) [][]byte {
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
	return bodies
}

func TestTimelineTellsThePreviousStatusAndItsSeconds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("delivered in order %d", seed), func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			s := newSession(1, "vs_1")
			verified := s.Created(at(0))
			bodies := [][]byte{verified.Body, s.Processing(at(10)).Body, s.RequiresInput(at(25), "document_expired").Body}
			tie := s.Processing(at(40))
			bodies = append(bodies, tie.Body, s.Verified(at(40)).Body, s.Twin(tie).Body, s.Canceled(at(100)).Body)
			tell(t, open(t, url), shuffled(seed, bodies)...)
			got := lines(t, url, `
SELECT occurred_at, status, error_code, previous_status, seconds_in_previous_status
FROM stripe_identity.verification_timeline
ORDER BY occurred_at, CASE status WHEN 'processing' THEN 0 ELSE 1 END`)
			want := []string{
				"12:00:00 requires_input - - -",
				"12:00:10 processing - requires_input 10",
				"12:00:25 requires_input document_expired processing 15",
				"12:00:40 processing - requires_input 15",
				"12:00:40 verified - processing 0",
				"12:01:40 canceled - verified 60",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("timeline (-want +got):\n%s", diff)
			}
		})
	}
}

// What came before stands in each row: it must be what a window function finds
// there, however the events came.
func TestPreviousRowsEqualAWindowOverHistory(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store, other := open(t, url), open(t, url)
	for round := range uint64(12) {
		var bodies [][]byte
		for i := range 4 {
			s := newSession(round*100+uint64(i), fmt.Sprintf("vs_%d_%d", round, i))
			src := rand.New(rand.NewPCG(round, uint64(i)))
			for range 8 {
				kind := []string{"created", "processing", "requires_input", "verified", "verified", "canceled", "redacted"}[src.IntN(7)]
				e, err := s.Happen(kind, "", at(src.IntN(4)))
				if err != nil {
					t.Fatalf("story: %v", err)
				}
				bodies = append(bodies, e.Body, s.Twin(e).Body)
			}
		}
		bodies = shuffled(round, bodies)
		tellAtOnce(t, store, bodies[:len(bodies)/2]...)
		tellAtOnce(t, other, bodies[len(bodies)/2:]...)
	}
	wrong := lines(t, url, `
SELECT * FROM (
    SELECT session_id, occurred_at, event_id, previous_status, lag(status) OVER history AS status, previous_at,
           lag(occurred_at) OVER history AS at
    FROM stripe_identity.status_transitions
    WINDOW history AS (PARTITION BY session_id ORDER BY occurred_at, rank, event_id)
) h
WHERE (previous_status, previous_at) IS DISTINCT FROM (status, at)`)
	if diff := cmp.Diff([]string{}, wrong); diff != "" {
		t.Errorf("rows whose neighbour is another:\n%s", diff)
	}
}

func TestVerifiedIdentitiesAreThoseThatAreVerifiedNow(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	_, full := fullLife(t, 1, "vs_a")
	tell(t, store, full[0], full[3])
	tell(t, store, newSession(2, "vs_b").Verified(at(50)).Body) // its outputs are not told yet
	failed := newSession(3, "vs_c")
	tell(t, store, failed.Verified(at(10)).Body, failed.RequiresInput(at(20), "document_expired").Body)
	redacted := newSession(4, "vs_d")
	tell(t, store, redacted.Verified(at(10)).Body, redacted.Redacted(at(20)).Body)
	erased := newSession(5, "vs_e")
	tell(t, store, erased.Verified(at(10)).Body)
	if err := store.Redact(t.Context(), "vs_e"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	again := newSession(6, "vs_f") // since when, not when last told
	tell(t, store, again.Verified(at(10)).Body, again.Verified(at(60)).Body)
	got := lines(t, url, `
SELECT session_id, livemode, account, client_reference_id, type, verified_at, first_name, dob::text, id_number
FROM stripe_identity.verified_identities ORDER BY session_id`)
	want := []string{
		"vs_a true - user-vs_a document 12:00:30 Jenny PIIMARK 1904-02-29 1234 PIIMARK",
		"vs_b true - user-vs_b document 12:00:50 - - -",
		"vs_f true - user-vs_f document 12:00:10 - - -",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identities (-want +got):\n%s", diff)
	}
}

func TestSubjectStatusIsTheBestOfASubjectsSessions(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	seed := uint64(0)
	// session tells one whole story of a subject: a line of things that happen.
	session := func(id, subject string, born int, account string, live bool, story string) {
		seed++
		s := scenario.New(seed).Session(scenario.SessionOptions{
			ID: id, Account: account, Livemode: live, ClientReferenceID: subject, CreatedAt: at(born),
		})
		for i, what := range strings.Fields(story) {
			what, code, _ := strings.Cut(what, ":")
			e, err := s.Happen(what, code, at(born+i))
			if err != nil {
				t.Fatalf("story: %v", err)
			}
			tell(t, store, e.Body)
		}
	}
	session("vs_verified", "best", 0, "", true, "created processing requires_input:abandoned processing verified")
	session("vs_processing", "best", 100, "", true, "created processing requires_input: processing")
	session("vs_canceled", "best", 200, "", true, "created canceled")
	session("vs_p1", "half way", 0, "", true, "created processing")
	session("vs_p2", "half way", 10, "", true, "created requires_input:abandoned")
	session("vs_p3", "half way", 20, "", true, "created canceled")
	session("vs_r1", "input", 0, "", true, "created")
	session("vs_r2", "input", 10, "", true, "created canceled")
	session("vs_old", "same", 0, "", true, "created verified")
	session("vs_new", "same", 10, "", true, "created verified")
	session("vs_kept", "unredacted", 0, "", true, "created verified")
	session("vs_gone", "unredacted", 10, "", true, "created verified redacted")
	session("vs_live", "modes", 0, "", true, "created verified")
	session("vs_test", "modes", 0, "", false, "created canceled")
	session("vs_other", "modes", 0, "acct_1", true, "created processing")
	session("vs_only_gone", "gone", 0, "", true, "created canceled redacted")

	got := lines(t, url, `
SELECT client_reference_id, account, livemode, best_status, best_session_id, newest_session_id, newest_status, sessions, failures
FROM stripe_identity.subject_status
ORDER BY client_reference_id, account NULLS FIRST, livemode`)
	want := []string{
		"best - true verified vs_verified vs_canceled canceled 3 2",
		"gone - true canceled vs_only_gone vs_only_gone canceled 1 0",
		"half way - true processing vs_p1 vs_p3 canceled 3 1",
		"input - true requires_input vs_r1 vs_r2 canceled 2 0",
		"modes - false canceled vs_test vs_test canceled 1 0",
		"modes - true verified vs_live vs_live verified 1 0",
		"modes acct_1 true processing vs_other vs_other processing 1 0",
		"same - true verified vs_new vs_new verified 2 0",
		"unredacted - true verified vs_kept vs_gone verified 2 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
}

func TestFailureReasonsCountFailuresAndNoBirths(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	s := newSession(1, "vs_1")
	failed := s.RequiresInput(at(10), "document_expired")
	tell(t, store, s.Created(at(0)).Body, failed.Body, s.Twin(failed).Body, failed.Body,
		s.RequiresInput(at(3599), "document_expired").Body, s.RequiresInput(at(3600), "document_expired").Body,
		s.RequiresInput(at(3700), "").Body, // last_error is null
		edit(t, s.RequiresInput(at(3800), "abandoned").Body, map[string]any{"data.object.last_error.code": nil}),
		s.RequiresInput(at(3900), "too_shiny").Body, s.Verified(at(4000)).Body)
	tell(t, store, scenario.New(2).Session(scenario.SessionOptions{ID: "vs_2", Account: "acct_1", Type: "id_number"}).RequiresInput(at(10), "id_number_mismatch").Body)
	got := lines(t, url, `
SELECT hour, account, livemode, type, error_code, failures
FROM stripe_identity.failure_reasons_hourly
ORDER BY hour, account NULLS FIRST, error_code`)
	want := []string{
		"12:00:00 - true document document_expired 2",
		"12:00:00 acct_1 false id_number id_number_mismatch 1",
		"13:00:00 - true document document_expired 1",
		"13:00:00 - true document none 2",
		"13:00:00 - true document too_shiny 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
}

// date_trunc would move the hours of a session in Kathmandu by a quarter.
func TestHoursDoNotDependOnTheTimeZone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := newSession(1, "vs_1")
	tell(t, open(t, url), s.RequiresInput(at(-1), "abandoned").Body, s.RequiresInput(at(0), "abandoned").Body)
	for _, zone := range []string{"UTC", "Asia/Kathmandu", "America/St_Johns"} {
		conn := connect(t, url)
		rowsOf(t, conn, `SELECT set_config('TimeZone', $1, false)`, zone)
		var got []time.Time
		for _, row := range rowsOf(t, conn, `SELECT hour FROM stripe_identity.failure_reasons_hourly ORDER BY hour`) {
			got = append(got, row[0].(time.Time).UTC())
		}
		if diff := cmp.Diff([]time.Time{at(-3600), at(0)}, got); diff != "" {
			t.Errorf("hours in %s (-want +got):\n%s", zone, diff)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Errorf("disconnect: %v", err)
		}
	}
}

// TestViewsFindTheirRowsByIndex loads enough transitions, a small part of them
// in the last day, for a scan of all to be the worse plan, and looks at the plans.
func TestViewsFindTheirRowsByIndex(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	const sessions, part = 20_000, 2_000 // a long transaction would hold other tests up
	for from := 0; from < sessions; from += part {
		execute(t, url, `
INSERT INTO stripe_identity.verification_sessions (id, livemode, type, status, client_reference_id, created_at, status_changed_at)
SELECT 'vs_' || g, true, 'document', CASE g % 2 WHEN 0 THEN 'verified' ELSE 'requires_input' END, 'user-' || g / 2,
       now() - g * interval '2 minutes', now() - g * interval '2 minutes'
FROM generate_series($1::int, $2) g`, from, from+part-1)
		execute(t, url, `
INSERT INTO stripe_identity.status_transitions (event_id, session_id, livemode, type, event_type, status, error_code, occurred_at, source, rank)
SELECT 'evt_' || g || '_' || k, 'vs_' || g, true, 'document',
       'identity.verification_session.' || (ARRAY['created', 'processing', 'requires_input', 'processing', 'verified'])[k + 1],
       (ARRAY['requires_input', 'processing', 'requires_input', 'processing', 'verified'])[k + 1],
       CASE k WHEN 2 THEN 'abandoned' END, now() - g * interval '2 minutes' + k * interval '10 seconds', 'webhook', 0
FROM generate_series($1::int, $2) g, generate_series(0, 4) k`, from, from+part-1)
	}
	execute(t, url, `
INSERT INTO stripe_identity.verified_outputs (session_id, source, fetched_at, told_at, told_rank)
SELECT id, 'api', now(), now(), 3 FROM stripe_identity.verification_sessions WHERE status = 'verified'`)
	execute(t, url, `ANALYZE`)
	const session = "vs_1000"
	for name, sql := range map[string]string{
		"the timeline of a day":         `SELECT * FROM stripe_identity.verification_timeline WHERE occurred_at >= now() - interval '24 hours'`,
		"the failures of a day":         `SELECT * FROM stripe_identity.failure_reasons_hourly WHERE hour >= now() - interval '24 hours'`,
		"the timeline of a session":     `SELECT * FROM stripe_identity.verification_timeline WHERE session_id = '` + session + `'`,
		"the identity of a session":     `SELECT * FROM stripe_identity.verified_identities WHERE session_id = '` + session + `'`,
		"the identities of a reference": `SELECT * FROM stripe_identity.verified_identities WHERE client_reference_id = 'user-500'`,
		"the status of a reference":     `SELECT * FROM stripe_identity.subject_status WHERE client_reference_id = 'user-500'`,
		"what a consumer has not read":  `SELECT * FROM stripe_identity.status_transitions WHERE (xid, id) > ('9223372036854775807', 0) ORDER BY xid, id LIMIT 100`,
	} {
		plan := strings.Join(one(t, url, `EXPLAIN (ANALYZE, TIMING OFF) `+sql), "\n")
		if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "rows=0 loops=1)\n") && !strings.Contains(name, "consumer") {
			t.Errorf("%s is not found by an index:\n%s", name, plan)
		}
	}
}
