package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// sides is what stands here and what Stripe knows, with one clock for both
// that goes a second with every look at it.
type sides struct {
	*stripefake.Fake
	url   string
	pool  *pgxpool.Pool // of the test's own
	store *repo.Store
	src   *scenario.Source
	keys  map[bool]string
	opt   jobs.ReconcileOptions
	logs  *observer.ObservedLogs

	mu   sync.Mutex
	now  time.Time
	told []scenario.Event // everything that Stripe has events of
}

func newSides(tb testing.TB) *sides {
	tb.Helper()
	s := &sides{Fake: stripefake.InMemory(), url: pgtest.Database(tb), src: scenario.New(1), now: time.Now().UTC().Truncate(time.Second)}
	s.Set(func(set *stripefake.Settings) { set.Limit, set.Now = 0, s.clock })
	s.keys = map[bool]string{true: s.Key(true, full), false: s.Key(false, full)}
	var err error
	if s.store, err = repo.Open(tb.Context(), repo.Options{URL: s.url}); err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(s.store.Close)
	if s.pool, err = pgxpool.New(tb.Context(), s.url); err != nil {
		tb.Fatalf("open a pool: %v", err)
	}
	tb.Cleanup(s.pool.Close)
	core, logs := observer.New(zapcore.InfoLevel)
	s.logs = logs
	s.opt = jobs.ReconcileOptions{
		Store: s.store, API: s.client(tb, s.Fake), Log: zap.New(core), Now: s.clock,
		Keyed: func(live bool) bool { return s.keys[live] != "" },
		Wait:  func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	return s
}

func (s *sides) client(tb testing.TB, transport http.RoundTripper) *stripeapi.Client {
	tb.Helper()
	api := stripeapi.New(stripeapi.Options{
		Rate: 1e6, Transport: transport, Now: s.clock,
		Key: func(live bool) (string, bool) { return s.keys[live], s.keys[live] != "" },
	})
	tb.Cleanup(api.Close)
	return api
}

func (s *sides) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(time.Second)
	return s.now
}

func (s *sides) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// happens is what a session does at Stripe, some time ago; it answers the events.
func (s *sides) happens(tb testing.TB, ago time.Duration, o scenario.SessionOptions, story string) (*scenario.Session, []scenario.Event) {
	tb.Helper()
	at := s.clock().Add(-ago)
	o.CreatedAt = at
	session := s.src.Session(o)
	return session, s.goesOn(tb, session, at, story)
}

func (s *sides) goesOn(tb testing.TB, session *scenario.Session, at time.Time, story string) (told []scenario.Event) {
	tb.Helper()
	for step := range strings.FieldsSeq(story) {
		what, code, _ := strings.Cut(step, ":")
		e, err := session.Happen(what, code, at)
		if err != nil {
			tb.Fatal(err)
		}
		s.Tell(session, e)
		told, at = append(told, e), at.Add(10*time.Second)
	}
	s.told = append(s.told, told...)
	return told
}

// silently is happens with no event of it at Stripe: the session alone is known.
func (s *sides) silently(tb testing.TB, session *scenario.Session, at stripeapi.Place, what, code string, ago time.Duration) {
	tb.Helper()
	e, err := session.Happen(what, code, s.clock().Add(-ago))
	if err != nil {
		tb.Fatal(err)
	}
	var told struct {
		Data struct {
			Object json.RawMessage `json:"object"`
		} `json:"data"`
	}
	if err := json.Unmarshal(session.Expanded(e).Body, &told); err != nil {
		tb.Fatal(err)
	}
	s.AddSession(at, told.Data.Object)
}

func (s *sides) parse(tb testing.TB, body []byte) *events.Event {
	tb.Helper()
	e, err := events.Parse(body)
	if err != nil {
		tb.Fatalf("parse: %v", err)
	}
	e.Source, e.ReceivedAt = events.SourceWebhook, s.clock()
	return e
}

func (s *sides) deliver(tb testing.TB, told ...scenario.Event) {
	tb.Helper()
	for _, t := range told {
		if _, err := s.store.Record(tb.Context(), s.parse(tb, t.Body)); err != nil {
			tb.Fatalf("record: %v", err)
		}
	}
}

func (s *sides) try(tb testing.TB, q jobs.ReconcileRequest) (jobs.Report, error) {
	tb.Helper()
	return jobs.NewReconciler(s.opt).Run(tb.Context(), q)
}

// run is try for what must be complete.
func (s *sides) run(tb testing.TB, q jobs.ReconcileRequest) jobs.Report {
	tb.Helper()
	r, err := s.try(tb, q)
	if err != nil || r.Result != jobs.RunOK {
		tb.Fatalf("reconcile: %v\n%+v", err, r)
	}
	return r
}

func (s *sides) column(tb testing.TB, sql string, args ...any) []string {
	tb.Helper()
	rows, _ := s.pool.Query(tb.Context(), sql, args...)
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (string, error) {
		var v *string
		err := r.Scan(&v)
		if v == nil {
			v = new(string)
		}
		return *v, err
	})
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return all
}

func (s *sides) expect(tb testing.TB, sql string, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(append([]string{}, want...), s.column(tb, sql)); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", sql, diff)
	}
}

// dump is every row of ours but those of some tables, with the transaction
// that wrote it: also what is written as it was shows.
func (s *sides) dump(tb testing.TB, but ...string) string {
	tb.Helper()
	var b strings.Builder
	for _, table := range s.column(tb, `
SELECT relname::text FROM pg_class WHERE relnamespace = 'stripe_identity'::regnamespace AND relkind = 'r' ORDER BY 1`) {
		if !slices.Contains(but, table) {
			rows := s.column(tb, `SELECT xmin::text || ' ' || t::text FROM stripe_identity.`+table+` t ORDER BY t::text`)
			fmt.Fprintf(&b, "%s\n%s\n", table, strings.Join(rows, "\n"))
		}
	}
	return b.String()
}

func (s *sides) expectModel(tb testing.TB, told []scenario.Event) {
	tb.Helper()
	var set []*events.Event
	for _, e := range told {
		set = append(set, s.parse(tb, e.Body))
	}
	want, got := repotest.Canonical(tb, events.Model(set)), repotest.Rows(tb, s.url)
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("rows differ from the model (-model +rows):\n%.5000s", diff)
	}
}

const day = 24 * time.Hour

func TestReconcileBringsLostEventsAndASecondRunChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	for i := range 40 { // more than a page in the test mode
		o := []scenario.SessionOptions{
			{}, {}, {Livemode: true}, {Account: "acct_1"}, {Livemode: true, Context: "org_1/acct_2"},
		}[i%5]
		story := []string{
			"created processing verified", "created processing requires_input:document_expired", "created canceled",
			"created", "created processing requires_input:selfie_face_mismatch processing verified",
			"created processing verified redacted", "created requires_input:abandoned requires_input:consent_declined verified processing verified",
		}[i%7]
		_, told := s.happens(t, 29*day-time.Duration(i)*6*time.Hour, o, story)
		for n, e := range told {
			if (i+n)%3 == 0 || n == 0 && (i < 5 || o.Account+o.Context != "" || o.Livemode) { // somebody is seen of each account
				s.deliver(t, e)
			}
		}
	}
	lost := len(s.told) - len(s.column(t, `SELECT event_id FROM stripe_identity.events`))
	before := s.column(t, `SELECT event_id FROM stripe_identity.events`)

	found := map[string]int{}
	r := s.run(t, jobs.ReconcileRequest{Found: func(f jobs.Finding) { found[f.What]++ }})
	s.expectModel(t, s.told)
	if r.EventsListed != int64(len(s.told)) || r.EventsRecovered != int64(lost) || lost < 30 || r.SessionsListed != 40 || r.SessionsRepaired != 0 {
		t.Errorf("%d lost of %d, report %+v", lost, len(s.told), r)
	}
	if diff := cmp.Diff(map[string]int{"missing": lost}, found); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	want := []string{"test", "test acct_1", "live", "live org_1/acct_2"}
	if diff := cmp.Diff(want, r.Places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if got := s.column(t, `SELECT event_id FROM stripe_identity.events WHERE source = 'webhook'`); len(got) != len(before) {
		t.Errorf("%d events of source webhook, want %d", len(got), len(before))
	}
	s.expect(t, `SELECT DISTINCT source FROM stripe_identity.status_transitions ORDER BY 1`, "reconcile", "webhook")

	once := s.dump(t, "reconcile_runs")
	if r = s.run(t, jobs.ReconcileRequest{Since: s.clock().Add(-30 * day)}); r.Recovered() != 0 {
		t.Errorf("the second run: %+v", r)
	}
	if diff := cmp.Diff(once, s.dump(t, "reconcile_runs")); diff != "" {
		t.Errorf("the second run changes rows:\n%s", diff)
	}
	s.expect(t, `SELECT concat_ws(' ', result, listed, recovered, finished_at > started_at) FROM stripe_identity.reconcile_runs ORDER BY id`,
		fmt.Sprintf("ok %d %d t", len(s.told)+40, lost), fmt.Sprintf("ok %d 0 t", len(s.told)+40))
}

func TestADryRunWritesNothingAndSaysWhatTheRunThenDoes(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	_, told := s.happens(t, day, scenario.SessionOptions{}, "created processing verified")
	s.deliver(t, told[0])
	s.happens(t, day, scenario.SessionOptions{}, "created processing requires_input:document_expired canceled")
	redacted, told := s.happens(t, day, scenario.SessionOptions{}, "created processing verified")
	s.deliver(t, told...)
	s.goesOn(t, redacted, s.clock().Add(-time.Hour), "redacted")
	quiet, told := s.happens(t, 2*day, scenario.SessionOptions{}, "created processing")
	s.deliver(t, told...)
	s.silently(t, quiet, stripeapi.Place{}, "verified", "", time.Hour)
	s.silently(t, s.src.Session(scenario.SessionOptions{}), stripeapi.Place{}, "requires_input", "abandoned", time.Hour)
	broken := bytes.Replace(told[1].Body, []byte(`"status": "processing"`), []byte(`"status": 5`), 1)
	s.AddEvent(bytes.Replace(broken, []byte(told[1].ID), []byte("evt_broken"), 1))

	observe := func(q jobs.ReconcileRequest) (r jobs.Report, found []jobs.Finding) {
		q.Found = func(f jobs.Finding) { found = append(found, f) }
		r = s.run(t, q)
		r.StartedAt, r.FinishedAt, r.Since = time.Time{}, time.Time{}, time.Time{}
		return r, found
	}
	before := s.dump(t)
	dry, wouldFind := observe(jobs.ReconcileRequest{DryRun: true})
	if diff := cmp.Diff(before, s.dump(t)); diff != "" {
		t.Errorf("a dry run writes:\n%s", diff)
	}
	wet, found := observe(jobs.ReconcileRequest{})
	dry.DryRun = false
	if diff := cmp.Diff(dry, wet); diff != "" {
		t.Errorf("report (-dry +wet):\n%s", diff)
	}
	if diff := cmp.Diff(wouldFind, found); diff != "" {
		t.Errorf("found (-dry +wet):\n%s", diff)
	}
	if wet.EventsRecovered != 7 || wet.EventsQuarantined != 1 || wet.SessionsRepaired != 2 {
		t.Errorf("report %+v", wet)
	}
}

func TestWhatCannotBeReadMakesARunIncompleteAndTheRestIsRepaired(t *testing.T) {
	t.Parallel()
	failing := func(path string) func(*testing.T, *sides) {
		return func(t *testing.T, s *sides) {
			t.Helper()
			s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == path && r.Header.Get("Stripe-Account") == "" && strings.Contains(r.Header.Get("Authorization"), "_test_") {
					return nil, errors.New("a proxy is in the way")
				}
				return s.RoundTrip(r)
			}))
		}
	}
	for name, c := range map[string]struct {
		spoil  func(*testing.T, *sides)
		result string
		unread string
	}{
		"events":   {failing("/v1/events"), jobs.RunPartial, "test: list events: no answer from stripe: the connection failed"},
		"sessions": {failing("/v1/identity/verification_sessions"), jobs.RunPartial, "test: list sessions: no answer from stripe: the connection failed"},
		"an account that went away": {func(t *testing.T, s *sides) {
			t.Helper()
			s.deliver(t, s.src.Session(scenario.SessionOptions{Account: "acct_gone"}).Created(s.clock()))
		}, jobs.RunPartial, "test acct_gone: list events: stripe refused the request with status 403, account_invalid"},
		"a configured account":       {func(_ *testing.T, s *sides) { s.opt.Accounts = []string{"acct_1", "acct_none"} }, jobs.RunPartial, "test acct_none: list events: stripe refused the request with status 403, account_invalid"},
		"a mode without a key":       {func(_ *testing.T, s *sides) { delete(s.keys, true) }, jobs.RunPartial, "live: no API key for this mode, and sessions of it were seen"},
		"a right that is missing":    {func(_ *testing.T, s *sides) { s.Grant(s.keys[false], stripefake.Rights{NoEvents: true}) }, jobs.RunPartial, "test: list events: stripe refused the request with status 403"},
		"a key that is not accepted": {func(_ *testing.T, s *sides) { s.Expire(s.keys[false]); delete(s.keys, true) }, jobs.RunFailed, "test: list events: stripe does not accept the API key"},
		"a session of another shape": {func(_ *testing.T, s *sides) {
			s.AddSession(stripeapi.Place{}, fmt.Appendf(nil, `{"id":"vs_odd","object":"identity.verification_session","created":%d,"status":7}`, s.clock().Unix()))
		}, jobs.RunPartial, "test: list sessions: vs_odd: understand the session: answer is no verification session"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSides(t)
			var whole [][]scenario.Event
			for _, o := range []scenario.SessionOptions{{}, {Account: "acct_1"}, {Livemode: true}} {
				_, told := s.happens(t, day, o, "created processing verified")
				s.deliver(t, told[0])
				whole = append(whole, told)
			}
			c.spoil(t, s)
			r, err := s.try(t, jobs.ReconcileRequest{})
			if !errors.Is(err, jobs.ErrIncomplete) || r.Result != c.result || !slices.ContainsFunc(r.Unread, func(u string) bool { return strings.HasPrefix(u, c.unread) }) {
				t.Errorf("error %v, result %s, unread %q, want %q", err, r.Result, r.Unread, c.unread)
			}
			s.expect(t, `SELECT concat(result, ' ', position('`+c.unread+`' IN detail) > 0) FROM stripe_identity.reconcile_runs`, c.result+" t")
			others := whole[1:] // of the other places
			if len(s.keys) < 2 {
				others = whole[1:2]
			}
			for _, told := range others {
				if c.result == jobs.RunPartial {
					s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+told[0].SessionID+`'`, "verified")
				}
			}
		})
	}
}

func TestWithoutAKeyNothingIsCompared(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sides){
		"at all":                   func(s *sides) { clear(s.keys) },
		"for the mode that counts": func(s *sides) { delete(s.keys, true); s.opt.Takes = func(live bool) bool { return live } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSides(t)
			change(s)
			r, err := s.try(t, jobs.ReconcileRequest{})
			if !errors.Is(err, stripeapi.ErrNoKey) || r.Result != "" || len(s.Calls()) > 0 {
				t.Errorf("error %v, report %+v", err, r)
			}
			s.expect(t, `SELECT result FROM stripe_identity.reconcile_runs`)
		})
	}
}

func TestOnlyTheModeThatIsTakenIsRead(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	_, told := s.happens(t, day, scenario.SessionOptions{}, "created verified")
	s.deliver(t, told[0])
	delete(s.keys, false) // sessions of it were seen, before LIVEMODE was set
	s.opt.Takes = func(live bool) bool { return live }
	if r := s.run(t, jobs.ReconcileRequest{}); !cmp.Equal(r.Places, []string{"live"}) {
		t.Errorf("places %q", r.Places)
	}
}

func TestWhatSucceedsLaterIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	for i := range 150 {
		s.happens(t, day+time.Duration(i)*time.Hour, scenario.SessionOptions{}, "created processing requires_input:document_expired processing verified")
	}
	var waited []time.Duration
	s.opt.Wait = func(ctx context.Context, d time.Duration) error { waited = append(waited, d); return ctx.Err() }
	n := 0
	s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if n++; n%12 == 0 {
			s.Next([]stripefake.Fault{{Status: 500}, {Reset: true}, {Status: 429, RetryAfter: "0"}, {Status: 503, RetryAfter: "7"}}[n/12%4])
		}
		return s.RoundTrip(r)
	}))
	delete(s.keys, true)
	r := s.run(t, jobs.ReconcileRequest{})
	s.expectModel(t, s.told)
	if r.EventsListed != 750 || r.SessionsListed != 150 || r.SessionsRepaired != 0 {
		t.Errorf("report %+v", r)
	}
	if !slices.Contains(waited, time.Second) {
		t.Errorf("waited %v", waited)
	}
}

func TestASessionThatNoEventExplainsIsToldByTheAPI(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	account := stripeapi.Place{Account: "acct_1"}
	born, told := s.happens(t, 10*day, scenario.SessionOptions{Account: "acct_1", ClientReferenceID: "user-1"}, "created processing")
	s.deliver(t, told...)
	s.silently(t, born, account, "verified", "", time.Hour)
	never := s.src.Session(scenario.SessionOptions{Account: "acct_1", ClientReferenceID: "user-2"})
	s.silently(t, never, account, "requires_input", "document_expired", time.Hour)
	agreed, told := s.happens(t, 10*day, scenario.SessionOptions{Account: "acct_1"}, "created processing verified")
	s.deliver(t, told...)

	r := s.run(t, jobs.ReconcileRequest{})
	if r.SessionsRepaired != 2 || r.EventsRecovered != 0 {
		t.Errorf("report %+v", r)
	}
	for id, want := range map[string]string{
		born.ID:   "acct_1 verified user-1 api: processing verified",
		never.ID:  "acct_1 requires_input user-2 api: requires_input",
		agreed.ID: "acct_1 verified " + s.column(t, `SELECT client_reference_id FROM stripe_identity.verification_sessions WHERE id = $1`, agreed.ID)[0] + " webhook: processing verified",
	} {
		got := s.column(t, `
SELECT concat_ws(' ', s.account, s.status, s.client_reference_id, (array_agg(t.source ORDER BY t.occurred_at DESC))[1] || ':',
                 string_agg(t.status, ' ' ORDER BY t.occurred_at) FILTER (WHERE t.event_type NOT LIKE '%created'))
FROM stripe_identity.verification_sessions s JOIN stripe_identity.status_transitions t ON t.session_id = s.id
WHERE s.id = $1 GROUP BY s.id`, id)
		if diff := cmp.Diff([]string{want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	once := s.dump(t, "reconcile_runs")
	s.run(t, jobs.ReconcileRequest{})
	if diff := cmp.Diff(once, s.dump(t, "reconcile_runs")); diff != "" {
		t.Errorf("the second run changes rows:\n%s", diff)
	}
}

func TestTheEventsOfAConnectedAccountAreKnownByIt(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]scenario.SessionOptions{
		"an account": {Account: "acct_1"}, "a context": {Context: "org_1/acct_1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSides(t)
			_, told := s.happens(t, day, o, "created processing verified")
			s.deliver(t, told[0])
			s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
				res, err := s.RoundTrip(r)
				if err == nil { // Stripe tells an account of its own events without its name
					var b bytes.Buffer
					_, err = b.ReadFrom(res.Body)
					body := b.String()
					for _, field := range []string{`"account":"acct_1",`, `"context":"org_1/acct_1",`} {
						body = strings.ReplaceAll(body, field, "")
					}
					res.Body, res.ContentLength = http.NoBody, int64(len(body))
					res.Body = readCloser{strings.NewReader(body)}
				}
				return res, err
			}))
			s.run(t, jobs.ReconcileRequest{})
			s.expect(t, `SELECT DISTINCT coalesce(account, context) FROM stripe_identity.events`, o.Account+o.Context)
			s.expect(t, `SELECT concat_ws(' ', coalesce(account, context), status, last_event_id) FROM stripe_identity.verification_sessions`,
				o.Account+o.Context+" verified "+told[2].ID)
			if len(s.column(t, `SELECT event_id FROM stripe_identity.events WHERE payload ?| ARRAY['account', 'context']`)) != 1 {
				t.Error("Stripe has told whose the events are: the test shows nothing")
			}
		})
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestAnAccountIsReadOnce(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	s.opt.Accounts = []string{"acct_live", "acct_seen"}
	s.Connect(stripeapi.Place{Live: true, Account: "acct_live"}) // of the live mode only
	seen, told := s.happens(t, day, scenario.SessionOptions{Account: "acct_seen"}, "created verified")
	s.deliver(t, told[0], seen.Thin(told[1])) // which calls the account a context
	delete(s.keys, true)
	s.keys[true] = s.Key(true, full)
	s.Connect(stripeapi.Place{Live: true, Account: "acct_seen"})
	r := s.run(t, jobs.ReconcileRequest{})
	if diff := cmp.Diff([]string{"test", "test acct_seen", "live", "live acct_live", "live acct_seen"}, r.Places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"test acct_live is not readable, and nothing was seen of it"}, r.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func TestAnOrganizationHasNoPlaceOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	delete(s.keys, true)
	_, told := s.happens(t, day, scenario.SessionOptions{Context: "org_1/acct_1"}, "created verified")
	s.deliver(t, told[0])
	s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("Stripe-Context") == "" {
			s.Next(stripefake.Fault{Status: 400})
		}
		return s.RoundTrip(r)
	}))
	if r := s.run(t, jobs.ReconcileRequest{}); !cmp.Equal(r.Places, []string{"test org_1/acct_1"}) || len(r.Notes) != 1 {
		t.Errorf("report %+v", r)
	}
}

func TestASessionThatIsProcessingForTooLongIsReadAgain(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	at := stripeapi.Place{}
	old, told := s.happens(t, 60*day, scenario.SessionOptions{}, "created processing")
	s.deliver(t, told...)
	s.silently(t, old, at, "verified", "", time.Hour)
	gone, told := s.happens(t, 60*day, scenario.SessionOptions{Account: "acct_1"}, "created processing")
	s.deliver(t, told...)
	young := s.src.Session(scenario.SessionOptions{CreatedAt: s.clock().Add(-60 * day)})
	s.deliver(t, young.Processing(s.clock().Add(-5*time.Minute)))
	s.silently(t, young, at, "verified", "", time.Minute)
	s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, gone.ID) {
			s.Next(stripefake.Fault{Status: 404})
		}
		return s.RoundTrip(r)
	}))

	r := s.run(t, jobs.ReconcileRequest{})
	if r.SessionsReadAgain != 1 || r.SessionsRepaired != 1 || r.SessionsNotFound != 1 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], gone.ID) {
		t.Errorf("report %+v", r)
	}
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+old.ID+`'`, "verified")
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+young.ID+`'`, "processing")
	s.pass(15 * time.Minute)
	s.run(t, jobs.ReconcileRequest{})
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+young.ID+`'`, "verified")
}

func TestSessionsThatWaitForInputAreReadAgainOnceADay(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	at := stripeapi.Place{}
	live, told := s.happens(t, 60*day, scenario.SessionOptions{}, "created")
	s.deliver(t, told...)
	s.deliver(t, s.goesOn(t, live, s.clock().Add(-5*day), "processing requires_input:document_expired")...)
	quiet, told := s.happens(t, 60*day, scenario.SessionOptions{}, "created")
	s.deliver(t, told...)
	s.silently(t, quiet, at, "canceled", "", time.Hour)

	again := func(want int64) {
		t.Helper()
		if r := s.run(t, jobs.ReconcileRequest{}); r.SessionsReadAgain != want {
			t.Errorf("%d sessions read again, want %d", r.SessionsReadAgain, want)
		}
	}
	again(1)
	s.silently(t, live, at, "canceled", "", 0)
	s.pass(23 * time.Hour)
	again(0)
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+live.ID+`'`, "requires_input")
	s.pass(time.Hour)
	again(1)
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+live.ID+`'`, "canceled")
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions WHERE id = '`+quiet.ID+`'`, "requires_input")
}

// withOutputs gives a session what a fetch stores.
func (s *sides) withOutputs(tb testing.TB, session *scenario.Session, at stripeapi.Place) {
	tb.Helper()
	a, err := s.opt.API.Session(tb.Context(), at, session.ID, true, true)
	if err != nil {
		tb.Fatal(err)
	}
	answer := &events.Answer{From: a.From, Until: a.Until, Session: a.Session, Outputs: true}
	if at.Account != "" {
		answer.Account = events.Some(at.Account)
	}
	if err := s.store.Tell(tb.Context(), answer); err != nil {
		tb.Fatal(err)
	}
}

const shown = `SELECT session_id FROM stripe_identity.verified_identities WHERE first_name IS NOT NULL ORDER BY session_id`

func TestAfterARestoreOutputsShowAgainOnceStripeWasAsked(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	delete(s.keys, true)
	var kept, all []string
	redacted := map[string]bool{}
	account := stripeapi.Place{Account: "acct_1"}
	for i, ago := range []time.Duration{day, 10 * day, 100 * day, 400 * day, 100 * day, 3 * day} {
		at, o := stripeapi.Place{}, scenario.SessionOptions{ID: fmt.Sprintf("vs_%d", i)}
		if i > 3 {
			at, o.Account = account, "acct_1"
		}
		session, told := s.happens(t, ago, o, "created processing verified")
		s.deliver(t, told...)
		s.withOutputs(t, session, at)
		switch i % 3 {
		case 0:
			s.goesOn(t, session, s.clock().Add(-ago+time.Hour), "redacted") // after the backup; the event may be out of reach
			redacted[session.ID] = true
		case 1:
			kept = append(kept, session.ID)
		default:
			kept = append(kept, session.ID)
			s.silently(t, session, at, "verified", "", 0)
		}
		all = append(all, session.ID)
	}
	// A session without outputs holds metadata, which goes as well.
	other, told := s.happens(t, 100*day, scenario.SessionOptions{ID: "vs_other"}, "created requires_input:abandoned")
	s.deliver(t, told...)
	s.goesOn(t, other, s.clock().Add(-90*day), "redacted")
	s.expect(t, shown, all...)

	// The account cannot be read: what is its stays hidden.
	s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("Stripe-Account") != "" {
			return nil, errors.New("broken")
		}
		s.expect(t, shown) // not one before the first answer
		return s.RoundTrip(r)
	}))
	r, err := s.try(t, jobs.ReconcileRequest{AfterRestore: true})
	if !errors.Is(err, jobs.ErrIncomplete) || r.OutputsHidden != 6 || r.Result != jobs.RunPartial {
		t.Errorf("error %v, report %+v", err, r)
	}
	ofPlatform := slices.DeleteFunc(slices.Clone(kept), func(id string) bool { return id > "vs_3" })
	s.expect(t, shown, ofPlatform...)

	// Any later run goes on.
	s.opt.API = s.client(t, s.Fake)
	s.run(t, jobs.ReconcileRequest{})
	s.expect(t, shown, kept...)
	for id := range redacted {
		s.expect(t, `SELECT session_id FROM stripe_identity.verified_outputs WHERE session_id = '`+id+`'`)
	}
	s.expect(t, `SELECT concat(redacted, metadata) FROM stripe_identity.verification_sessions WHERE id = 'vs_other'`, "t")
	s.expect(t, `SELECT session_id FROM stripe_identity.verified_outputs WHERE unconfirmed`)
	s.expect(t, `SELECT session_id FROM stripe_identity.provided_details WHERE unconfirmed`)
}

func TestAfterARestoreWhatStripeDoesNotKnowStaysHidden(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	delete(s.keys, true)
	good, told := s.happens(t, day, scenario.SessionOptions{}, "created verified")
	s.deliver(t, told...)
	s.withOutputs(t, good, stripeapi.Place{})
	lost, told := s.happens(t, day, scenario.SessionOptions{}, "created verified")
	s.deliver(t, told...)
	s.withOutputs(t, lost, stripeapi.Place{})
	other := stripefake.InMemory() // in which the lost one never was
	other.Set(func(set *stripefake.Settings) { set.Limit, set.Now = 0, s.clock })
	s.keys[false] = other.Key(false, full)
	for _, e := range s.told {
		if e.SessionID == good.ID {
			other.Tell(good, e)
		}
	}
	s.opt.API = s.client(t, other)

	before := s.dump(t)
	if r := s.run(t, jobs.ReconcileRequest{AfterRestore: true, DryRun: true}); r.OutputsHidden != 2 {
		t.Errorf("dry: %+v", r)
	}
	if diff := cmp.Diff(before, s.dump(t)); diff != "" {
		t.Errorf("a dry run writes:\n%s", diff)
	}
	r, err := s.try(t, jobs.ReconcileRequest{AfterRestore: true})
	if !errors.Is(err, jobs.ErrIncomplete) || len(r.Unread) != 1 || !strings.Contains(r.Unread[0], lost.ID) || !strings.Contains(r.Unread[0], "webhookd redact") {
		t.Errorf("error %v, unread %q", err, r.Unread)
	}
	s.expect(t, shown, good.ID)
	if err := s.store.Redact(t.Context(), lost.ID); err != nil {
		t.Fatal(err)
	}
	s.run(t, jobs.ReconcileRequest{})
	s.expect(t, `SELECT session_id FROM stripe_identity.verified_outputs`, good.ID)
}

func TestARedactionAtStripeBringsNothingBack(t *testing.T) {
	t.Parallel()
	for name, deliver := range map[string]func(told []scenario.Event) []scenario.Event{
		"nothing was delivered":                   func([]scenario.Event) []scenario.Event { return nil },
		"all but the redaction was":               func(told []scenario.Event) []scenario.Event { return told[:4] },
		"the birth was":                           func(told []scenario.Event) []scenario.Event { return told[:1] },
		"the redaction was and nothing else":      func(told []scenario.Event) []scenario.Event { return told[4:] },
		"a step between and the redaction were":   func(told []scenario.Event) []scenario.Event { return []scenario.Event{told[2], told[4]} },
		"all was delivered":                       func(told []scenario.Event) []scenario.Event { return told },
		"the birth is older than Stripe's events": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSides(t)
			ago := 10 * day
			if deliver == nil {
				ago = 40 * day
				deliver = func(told []scenario.Event) []scenario.Event { return told[:1] }
			}
			session, told := s.happens(t, ago, scenario.SessionOptions{
				ClientReferenceID: "user-1", Metadata: map[string]string{"name": scenario.Marker},
			}, "created processing requires_input:document_expired verified")
			told = append(told, s.goesOn(t, session, s.clock().Add(-time.Hour), "redacted")...)
			delivered := deliver(told)
			s.deliver(t, delivered...)
			if len(delivered) == 4 {
				s.withOutputs(t, session, stripeapi.Place{})
			}
			s.run(t, jobs.ReconcileRequest{})
			if rows := s.dump(t); strings.Contains(rows, scenario.Marker) || strings.Contains(rows, stripefake.Placeholder) {
				t.Errorf("personal data or a placeholder:\n%s", rows)
			}
			reference := ""
			if len(delivered) > 0 && delivered[0].ID == told[0].ID || len(delivered) == 2 {
				reference = "user-1" // a placeholder does not take its place
			}
			s.expect(t, `SELECT concat_ws(',', status, redaction_status, redacted, client_reference_id) FROM stripe_identity.verification_sessions`,
				strings.TrimSuffix("verified,redacted,t,"+reference, ","))
		})
	}
}

func TestARedactionCountsWhateverCameLater(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	session, told := s.happens(t, day, scenario.SessionOptions{}, "created")
	s.deliver(t, told...)
	s.deliver(t, session.RequiresInput(s.clock().Add(day), "document_expired")) // clocks differ
	s.silently(t, session, stripeapi.Place{}, "redacted", "", time.Hour)
	var found []jobs.Finding
	s.run(t, jobs.ReconcileRequest{Found: func(f jobs.Finding) { found = append(found, f) }})
	if diff := cmp.Diff([]jobs.Finding{{Place: "test", SessionID: session.ID, Status: "canceled", What: "redacted"}}, found); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	s.expect(t, `SELECT concat(redacted, metadata, last_error_reason) FROM stripe_identity.verification_sessions`, "t")
	s.expect(t, `SELECT event_id FROM stripe_identity.events WHERE payload IS NOT NULL`)
}

func TestPlaceholdersDoNotTakeTheRowsOfAnEarlierDelivery(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	_, told := s.happens(t, day, scenario.SessionOptions{ClientReferenceID: "user-1"}, "created processing requires_input:document_expired")
	s.deliver(t, told...)
	want := repotest.Rows(t, s.url)
	// Stripe's events have placeholders by now, as after a redaction, under the
	// ids that are known and under a twin's; the session is not redacted yet.
	twin := bytes.ReplaceAll(told[2].Body, []byte(told[2].ID), []byte("evt_zz"))
	twin = bytes.ReplaceAll(twin, []byte("user-1"), []byte(stripefake.Placeholder))
	s.AddEvent(twin)
	s.opt.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		res, err := s.RoundTrip(r)
		if err == nil && r.URL.Path == "/v1/events" {
			var b bytes.Buffer
			_, err = b.ReadFrom(res.Body)
			body := strings.ReplaceAll(strings.ReplaceAll(b.String(), "user-1", stripefake.Placeholder), "acme", stripefake.Placeholder)
			res.Body = readCloser{strings.NewReader(body)}
		}
		return res, err
	}))
	if r := s.run(t, jobs.ReconcileRequest{}); r.EventsRecovered != 1 {
		t.Errorf("report %+v", r)
	}
	got := repotest.Rows(t, s.url)
	delete(got.Events, "evt_zz")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-before +after):\n%s", diff)
	}
}

func TestAnEventThatIsNotUnderstoodGoesIntoQuarantineOnce(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	delete(s.keys, true)
	e := s.src.Session(scenario.SessionOptions{ID: "vs_1"}).Verified(s.clock().Add(-time.Hour))
	s.AddEvent(bytes.Replace(e.Body, []byte(`"status": "verified"`), []byte(`"status": 5`), 1))
	if r := s.run(t, jobs.ReconcileRequest{}); r.EventsQuarantined != 1 || r.EventsRecovered != 0 {
		t.Errorf("report %+v", r)
	}
	s.expect(t, `SELECT event_id || ' ' || source FROM stripe_identity.quarantined_events`, e.ID+" reconcile")
	once := s.dump(t, "reconcile_runs")
	if r := s.run(t, jobs.ReconcileRequest{}); r.Recovered() != 0 {
		t.Errorf("the second run: %+v", r)
	}
	if diff := cmp.Diff(once, s.dump(t, "reconcile_runs")); diff != "" {
		t.Errorf("the second run changes rows:\n%s", diff)
	}
	// An upgrade understands what this build does not.
	fixed := stripefake.InMemory()
	fixed.Set(func(set *stripefake.Settings) { set.Limit, set.Now = 0, s.clock })
	fixed.AddEvent(e.Body)
	s.keys[false] = fixed.Key(false, full)
	s.opt.API = s.client(t, fixed)
	if r := s.run(t, jobs.ReconcileRequest{Since: s.clock().Add(-day)}); r.EventsRecovered != 1 {
		t.Errorf("after the upgrade: %+v", r)
	}
	s.expect(t, `SELECT event_id FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL`)
	s.expect(t, `SELECT status FROM stripe_identity.verification_sessions`, "verified")
}

func TestARunBeginsWhereTheLastCompleteOneDid(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	ago := func(r jobs.Report) time.Duration { return r.StartedAt.Sub(r.Since).Round(time.Hour) }
	if r := s.run(t, jobs.ReconcileRequest{Since: s.clock().Add(-time.Hour)}); ago(r) != time.Hour {
		t.Errorf("asked for an hour, got %v", ago(r))
	}
	// A short window closes no gap.
	if r := s.run(t, jobs.ReconcileRequest{DryRun: true}); ago(r) != 30*day {
		t.Errorf("after a short run: %v", ago(r))
	}
	s.Next(stripefake.Fault{Status: 403})
	if r, err := s.try(t, jobs.ReconcileRequest{}); err == nil || ago(r) != 30*day {
		t.Errorf("error %v, %v", err, ago(r))
	}
	if r := s.run(t, jobs.ReconcileRequest{}); ago(r) != 30*day {
		t.Errorf("after an incomplete run: %v", ago(r))
	}
	s.pass(5 * time.Hour)
	if r := s.run(t, jobs.ReconcileRequest{}); ago(r) != 6*time.Hour { // and an hour, because clocks differ
		t.Errorf("5 hours after a complete run: %v", ago(r))
	}
	s.pass(40 * day)
	if r := s.run(t, jobs.ReconcileRequest{}); ago(r) != 30*day {
		t.Errorf("after a long pause: %v", ago(r))
	}
	r := s.run(t, jobs.ReconcileRequest{Since: s.clock().Add(-90 * day)})
	if ago(r) != 90*day || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "30 days") {
		t.Errorf("asked for 90 days: %v, notes %q", ago(r), r.Notes)
	}
	for _, c := range s.Calls()[len(s.Calls())-4:] {
		var since int64
		if _, err := fmt.Sscan(c.Query.Get("created[gte]"), &since); err != nil {
			t.Fatal(err)
		}
		want := 90 * day
		if c.Path == "/v1/events" {
			want = 30 * day
		}
		if got := r.StartedAt.Sub(time.Unix(since, 0)).Round(time.Hour); got != want {
			t.Errorf("%s lists %v, want %v", c.Path, got, want)
		}
	}
}

func TestWhatMayStillBeUnderWayIsLeftToTheNextRun(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	_, old := s.happens(t, time.Hour, scenario.SessionOptions{Livemode: true}, "created")
	known, told := s.happens(t, time.Hour, scenario.SessionOptions{Livemode: true}, "created processing")
	s.deliver(t, told...)
	s.goesOn(t, known, s.clock().Add(-2*time.Second), "verified")
	s.happens(t, 10*time.Second, scenario.SessionOptions{Livemode: true}, "created")
	var found []string
	run := func(q jobs.ReconcileRequest) []string {
		found = nil
		q.Found = func(f jobs.Finding) { found = append(found, f.What+" "+f.Type) }
		s.run(t, q)
		slices.Sort(found)
		return found
	}
	if diff := cmp.Diff([]string{"missing " + old[0].Type}, run(jobs.ReconcileRequest{})); diff != "" {
		t.Errorf("at once (-want +got):\n%s", diff)
	}
	if got := run(jobs.ReconcileRequest{Since: s.clock().Add(-time.Hour), DryRun: true}); len(got) != 2 {
		t.Errorf("an operator who says how far back sees %q, want both", got)
	}
	s.pass(time.Minute)
	if diff := cmp.Diff([]string{"missing " + events.TypeCreated, "missing " + events.TypeVerified}, run(jobs.ReconcileRequest{})); diff != "" {
		t.Errorf("a minute later (-want +got):\n%s", diff)
	}
}

// The delivery that is under way may tell of a redaction.
func TestHiddenOutputsAreNotShownWhileAnEventIsUnderWay(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	session, told := s.happens(t, time.Hour, scenario.SessionOptions{Livemode: true}, "created verified")
	s.deliver(t, told...)
	s.withOutputs(t, session, stripeapi.Place{Live: true})
	if _, err := s.store.Unconfirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.goesOn(t, session, s.clock().Add(-2*time.Second), "redacted")
	if r := s.run(t, jobs.ReconcileRequest{}); r.OutputsShown != 0 {
		t.Errorf("the outputs of %d sessions were shown", r.OutputsShown)
	}
	s.expect(t, `SELECT session_id FROM stripe_identity.verified_identities`)
	s.expect(t, `SELECT session_id FROM stripe_identity.verified_outputs WHERE unconfirmed`, session.ID)
	s.pass(time.Minute)
	s.run(t, jobs.ReconcileRequest{})
	s.expect(t, `SELECT session_id FROM stripe_identity.verified_outputs`)
}

func TestARunThatIsBrokenOffSaysSo(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	for range 60 {
		s.happens(t, day, scenario.SessionOptions{}, "created verified")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := jobs.NewReconciler(s.opt).Run(ctx, jobs.ReconcileRequest{Progress: func(r jobs.Report) {
		if r.EventsListed > 0 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || r.Result == jobs.RunOK {
		t.Errorf("error %v, report %+v", err, r)
	}
	s.expect(t, `SELECT concat(finished_at IS NOT NULL, ' ', result IN ('partial', 'failed'), ' ', position('broken off' IN detail) > 0) FROM stripe_identity.reconcile_runs`, "t t t")
	s.run(t, jobs.ReconcileRequest{})
	s.expectModel(t, s.told)
}

func TestOneReplicaAtATimeComparesAndOnlyWhenItIsDue(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	_, told := s.happens(t, day, scenario.SessionOptions{}, "created verified")
	s.deliver(t, told[0])
	var mu sync.Mutex
	inside, most := map[string]bool{}, 0
	ctx, cancel := context.WithCancel(t.Context())
	var replicas sync.WaitGroup
	for n := range 4 {
		o, name := s.opt, fmt.Sprint(n)
		o.API = s.client(t, roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			inside[name] = true
			most = max(most, len(inside))
			mu.Unlock()
			return s.RoundTrip(r)
		}))
		replicas.Go(func() { jobs.NewReconciler(o).Every(ctx, 3*time.Hour) })
	}
	runs := func() int {
		return len(s.column(t, `SELECT result FROM stripe_identity.reconcile_runs WHERE finished_at IS NOT NULL`))
	}
	eventually(t, "a run is complete", func() bool { return runs() == 1 })
	cancel()
	replicas.Wait()
	if most != 1 || runs() != 1 {
		t.Errorf("%d replicas ran at a time, %d runs", most, runs())
	}
	s.expectModel(t, s.told)
	if lines := s.logs.FilterMessage("reconcile").All(); len(lines) != 1 || lines[0].Level != zapcore.InfoLevel || lines[0].ContextMap()["recovered"] != int64(1) {
		t.Errorf("log %+v", lines)
	}
	s.expect(t, `SELECT name FROM stripe_identity.leases`) // given back

	// It is due again after the period, or an hour after an incomplete run.
	due := func(want bool) {
		t.Helper()
		before := runs()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); jobs.NewReconciler(s.opt).Every(ctx, 3*time.Hour) }()
		if want {
			eventually(t, "a run is complete", func() bool { return runs() > before })
		} else {
			time.Sleep(100 * time.Millisecond)
		}
		cancel()
		<-done
		if got := runs() > before; got != want {
			t.Errorf("ran: %v, want %v", got, want)
		}
	}
	s.pass(2 * time.Hour)
	due(false)
	s.pass(time.Hour)
	s.Next(stripefake.Fault{Status: 403})
	due(true)
	if last := s.logs.All()[s.logs.Len()-1]; last.Level != zapcore.WarnLevel || last.ContextMap()["result"] != jobs.RunPartial {
		t.Errorf("log %+v", last)
	}
	due(false)
	s.pass(time.Hour)
	due(true)
	clear(s.keys)
	s.pass(day)
	due(false)
}

func TestAReplicaWaitsForTheOneThatHasTheTurn(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	if held, err := s.store.Lease(t.Context(), "reconcile", "somebody", time.Hour); err != nil || !held {
		t.Fatalf("held %v, %v", held, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); jobs.NewReconciler(s.opt).Every(ctx, 50*time.Millisecond) }()
	time.Sleep(200 * time.Millisecond)
	if n := len(s.Calls()); n > 0 {
		t.Errorf("%d calls while somebody else has the lease", n)
	}
	if err := s.store.Release(t.Context(), "reconcile", "somebody"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool {
		return len(s.column(t, `SELECT id::text FROM stripe_identity.reconcile_runs WHERE result = 'ok'`)) >= 2
	})
	cancel()
	<-done
}
