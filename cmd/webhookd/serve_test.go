package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"webhookd/internal/events"
	"webhookd/internal/pgdev"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
	"webhookd/migrations"
)

func TestADeliveryBecomesARowAMetricAndALine(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := begin(t, database)
	e := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_1"}).RequiresInput(time.Now(), "document_expired")

	a := s.deliver(e.Body)
	if a.Status != 200 || a.Body != `{"outcome":"applied","event":"`+e.ID+`"}` || a.Closes {
		t.Errorf("answer is %d %s", a.Status, a.Body)
	}
	expectModel(t, database, [][]byte{e.Body})

	moved := s.metrics()
	for series, want := range map[string]float64{
		`webhookd_deliveries_total{event_type="identity.verification_session.requires_input",outcome="applied"}`:   1,
		`webhookd_verification_failures_total{code="document_expired",livemode="false",type="document"}`:           1,
		`webhookd_status_transitions_total{livemode="false",status="requires_input"}`:                              1,
		`webhookd_signature_matches_total{secret="main"}`:                                                          1,
		`webhookd_delivery_duration_seconds_count{outcome="applied"}`:                                              1,
		`webhookd_event_lag_seconds_count{event_type="identity.verification_session.requires_input"}`:              1,
		`webhookd_time_to_decision_seconds_count{status="requires_input"}`:                                         1,
		`webhookd_commit_duration_seconds_count`:                                                                   1,
		`webhookd_deliveries_total{event_type="identity.verification_session.requires_input",outcome="duplicate"}`: 0,
	} {
		if got, ok := moved[series]; !ok || got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}

	var line map[string]any
	for text := range strings.Lines(s.log.String()) {
		if strings.Contains(text, e.ID) {
			if line != nil {
				t.Errorf("a second line: %s", text)
			}
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	duration, _ := line["duration"].(float64)
	delete(line, "duration")
	delete(line, "time")
	want := map[string]any{
		"level": "debug", "msg": "delivery", "outcome": "applied", "event_id": e.ID, "type": events.TypeRequiresInput,
		"session_id": "vs_1", "status": "requires_input", "error_code": "document_expired",
	}
	if diff := cmp.Diff(want, line); diff != "" || duration <= 0 {
		t.Errorf("line of the log (-want +got):\n%s", diff)
	}
	if a := s.deliver(e.Body); a.Outcome != "duplicate" {
		t.Errorf("the same again is %s", a.Body)
	}
}

func TestReadinessTellsOfSchemaAndDatabase(t *testing.T) {
	t.Parallel()
	server, err := pgdev.Start(t.Context(), pgdev.Options{Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) }) // this one owns the folder
	database := server.URL("webhookd")
	s := begin(t, database)
	e := scenario.New(1).Session(scenario.SessionOptions{}).Verified(time.Now())
	readyz := func() (r readiness, status int) {
		a := s.get("/readyz")
		if err := json.Unmarshal([]byte(a.Body), &r); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(a.Body, "127.0.0.1") || s.get("/livez").Status != 200 {
			t.Errorf("%s, or not alive", a.Body)
		}
		return r, a.Status
	}
	unavailable := func() {
		t.Helper()
		a := s.deliver(e.Body)
		if a.Status != 503 || a.Code != "database" || a.Header.Get("Retry-After") == "" {
			t.Errorf("delivery: %d %s, Retry-After %q", a.Status, a.Body, a.Header.Get("Retry-After"))
		}
	}

	eventually(t, "see the database", func() bool { r, _ := readyz(); return r.Database == "up" })
	r, status := readyz()
	if status != 503 || r.Ready || r.Schema != 0 || !strings.Contains(r.Problem, "run webhookd migrate up") {
		t.Errorf("without a schema: %d %+v", status, r)
	}
	unavailable()
	if m := s.metrics(); m["webhookd_schema_version"] != 0 || m["webhookd_schema_required"] != float64(migrations.Version()) {
		t.Errorf("schema %v of %v", m["webhookd_schema_version"], m["webhookd_schema_required"])
	}

	if _, err := repo.Migrate(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	s.ready()
	if r, _ := readyz(); r.Problem != "" || r.Schema != migrations.Version() || r.Database != "up" || s.metrics()["webhookd_database_up"] != 1 {
		t.Errorf("after migrate up: %+v", r)
	}
	s.take(e)

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "miss the database", func() bool { r, _ := readyz(); return r.Database == "down" })
	if r, status := readyz(); status != 200 || !r.Ready || r.Problem == "" || r.Schema != migrations.Version() || s.metrics()["webhookd_database_up"] != 0 {
		t.Errorf("without a database: %d %+v", status, r)
	}
	unavailable()

	again, err := pgdev.Start(t.Context(), pgdev.Options{Ephemeral: true, Dir: server.Dir(), Port: server.Port()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Kill() })
	eventually(t, "see the database again", func() bool { return s.metrics()["webhookd_database_up"] == 1 })
	if a := s.deliver(e.Body); a.Outcome != "duplicate" {
		t.Errorf("delivered again: %s", a.Body)
	}

	var told []string
	for line := range strings.Lines(s.log.String()) {
		var l struct {
			Level, Msg, Problem string
			Up                  bool
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Msg == "database" {
			told = append(told, fmt.Sprint(l.Level, " ", l.Up))
			if (l.Problem != "") != (l.Level == "warn") || strings.Contains(line, "127.0.0.1") {
				t.Errorf("line %s", line)
			}
		}
	}
	if diff := cmp.Diff([]string{"warn true", "info true", "warn false", "info true"}, told); diff != "" {
		t.Errorf("the log tells of the database (-want +got):\n%s", diff)
	}
}

func TestReadinessSurvivesAStartWithoutADatabase(t *testing.T) {
	t.Parallel()
	s := begin(t, "postgres://webhookd:"+canary+"@127.0.0.1:9/x?sslmode=disable")
	eventually(t, "look at the database", func() bool { return strings.Contains(s.get("/readyz").Body, `"down"`) })
	if a := s.get("/readyz"); a.Status != 503 || strings.Contains(a.Body, canary) || strings.Contains(s.log.String(), canary) {
		t.Errorf("%d %s\n%s", a.Status, a.Body, s.log)
	}
}

func TestAnAddressThatIsTakenIsToldByItsVariable(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for variable, edit := range map[string]func(*environment){
		"WEBHOOKD_LISTEN_ADDR": func(e *environment) { e.ListenAddr.force(taken.Addr().String()) },
		"WEBHOOKD_ADMIN_ADDR":  func(e *environment) { e.AdminAddr.force(taken.Addr().String()) },
	} {
		cfg, err := LoadConfig(needDatabase|needSecrets, func(e *environment) {
			e.DatabaseURL.force(databaseURL)
			e.StripeWebhookSecrets.force(whsec)
			e.ListenAddr.force("127.0.0.1:0")
			e.AdminAddr.force("127.0.0.1:0")
		}, edit)
		if err != nil {
			t.Fatal(err)
		}
		on, err := listen(t.Context(), cfg)
		if err == nil {
			on.close()
		}
		if err == nil || !strings.Contains(err.Error(), variable) || !strings.HasSuffix(err.Error(), ": set it to another address") {
			t.Errorf("%s is taken: %v", variable, err)
		}
	}
}

func TestServeEndsIfNobodyCanBeToldThatItIsReady(t *testing.T) {
	t.Parallel()
	cfg, err := LoadConfig(needDatabase|needSecrets, func(e *environment) {
		e.DatabaseURL.force(pgtest.Database(t))
		e.StripeWebhookSecrets.force(whsec)
		e.ListenAddr.force("127.0.0.1:0")
		e.AdminAddr.force("127.0.0.1:0")
	})
	if err != nil {
		t.Fatal(err)
	}
	on, err := listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	ended := make(chan error, 1)
	go func() {
		ended <- serve(t.Context(), cfg, newLogger(new(buffer), cfg.LogLevel, cfg.LogFormat), on, func() error { return full })
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, full) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it did not end")
	}
}

// TestDrainLosesNoDelivery is not parallel: goleak looks at every goroutine.
func TestDrainLosesNoDelivery(t *testing.T) {
	database := pgtest.Database(t)
	lock := connect(t, database)
	before := goleak.IgnoreCurrent()
	s := begin(t, database, func(e *environment) { e.DrainDelay.force("2s") }).ready()
	session := scenario.New(1).Session(scenario.SessionOptions{ID: "vs_locked"})
	first, second := session.Created(time.Now()), session.Processing(time.Now())
	other := scenario.New(2).Session(scenario.SessionOptions{}).Created(time.Now())
	s.take(first)

	execute(t, lock, "BEGIN")
	execute(t, lock, "SELECT FROM stripe_identity.verification_sessions WHERE id = 'vs_locked' FOR UPDATE")
	slow := make(chan answer, 1)
	go func() { slow <- s.deliver(second.Body) }()
	time.Sleep(100 * time.Millisecond)

	begun := time.Now()
	s.stop()
	eventually(t, "turn unready", func() bool {
		a := s.get("/readyz")
		return a.Status == 503 && strings.Contains(a.Body, `"draining":true`)
	})
	if a := s.deliver(other.Body); a.Status != 200 || a.Outcome != "applied" || !a.Closes {
		t.Errorf("in the drain delay: %d %s, connection closes: %v", a.Status, a.Body, a.Closes)
	}
	address, err := url.Parse(s.public)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "close the listener", func() bool {
		conn, err := net.Dial("tcp", address.Host)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("the listener closed after %v", took)
	}
	if a := s.get("/livez"); a.Status != 200 {
		t.Errorf("not alive while a delivery is open: %d", a.Status)
	}
	select {
	case a := <-slow:
		t.Errorf("answered under the lock: %d %s", a.Status, a.Body)
	case <-s.ended:
		t.Error("ended while a delivery was open")
	default:
	}
	execute(t, lock, "ROLLBACK")
	if a := <-slow; a.Status != 200 || a.Outcome != "applied" || !a.Closes {
		t.Errorf("the delivery in flight: %d %s, connection closes: %v", a.Status, a.Body, a.Closes)
	}
	if <-s.ended; s.err != nil {
		t.Errorf("serve: %v", s.err)
	}
	expectModel(t, database, [][]byte{first.Body, second.Body, other.Body})
	if !strings.Contains(s.log.String(), `"stopped"`) {
		t.Errorf("the log does not tell the end:\n%s", s.log)
	}
	s.client.CloseIdleConnections()
	goleak.VerifyNone(t, before)
}

func TestSecretsRollWhileServing(t *testing.T) {
	t.Parallel()
	const next = whsec + "next"
	file := writeFile(t, filepath.Join(t.TempDir(), "secrets"), "old="+whsec)
	s := begin(t, pgtest.Database(t), func(e *environment) {
		e.StripeWebhookSecrets.set, e.StripeWebhookSecrets.forced = false, false
		e.StripeWebhookSecretsFile.force(file)
	})
	session := scenario.New(1).Session(scenario.SessionOptions{})
	deliver := func(secret string) string {
		body := session.Processing(time.Now()).Body
		a := s.post(body, signature.Sign(body, secret, time.Now()))
		return a.Outcome + a.Code
	}
	if got := deliver(next); got != "no_match" {
		t.Errorf("before the roll the next secret is %s", got)
	}

	// For a day Stripe signs with both, each delivery with all.
	writeFile(t, file, "old="+whsec+"\nnew="+next+"\n")
	eventually(t, "accept the next secret", func() bool { return deliver(next) != "no_match" })
	body := session.Verified(time.Now()).Body
	if a := s.post(body, signature.SignAll(body, time.Now(), next, whsec)); a.Status != 200 {
		t.Errorf("signed with both: %d %s", a.Status, a.Body)
	}
	if got := deliver(whsec); got == "no_match" {
		t.Error("during the roll the old secret does not count")
	}
	if m := s.metrics(); m[`webhookd_signature_matches_total{secret="old"}`] != 2 || m[`webhookd_signature_matches_total{secret="new"}`] != 1 {
		t.Errorf("matches: %v of old, %v of new", m[`webhookd_signature_matches_total{secret="old"}`], m[`webhookd_signature_matches_total{secret="new"}`])
	}

	writeFile(t, file, "new="+next)
	eventually(t, "refuse the old secret", func() bool { return deliver(whsec) == "no_match" })
	if got := deliver(next); got == "no_match" || s.metrics()["webhookd_secrets_reload_failed"] != 0 {
		t.Errorf("after the roll the next secret is %s", got)
	}
	if strings.Contains(s.log.String(), canary) {
		t.Errorf("the log shows a secret:\n%s", s.log)
	}
}

// TestMetricsAreThoseOfTheContract compares names and label sets with its page.
func TestMetricsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	var (
		outcomes = []string{"applied", "stale", "twin", "duplicate", "queued", "ignored", "quarantined", "refused", "unavailable"}
		modes    = []string{"true", "false"}
		codes    = append(events.Codes(), "other", "none")
		types    = []string{"other"}
		none     = [][]string{}
	)
	for _, word := range []string{"created", "processing", "requires_input", "verified", "canceled", "redacted"} {
		types = append(types, "identity.verification_session."+word, "v1.identity.verification_session."+word)
	}
	label := func(name string, values ...string) []string { return append([]string{name}, values...) }
	zero := map[string][][]string{ // labels in the order of their names
		"webhookd_verification_failures_total":               {label("code", codes...), label("livemode", modes...), label("type", "document", "id_number", "verification_flow", "other")},
		"webhookd_status_transitions_total":                  {label("livemode", modes...), label("status", "canceled", "processing", "requires_input", "verified", "other")},
		"webhookd_deliveries_total":                          {label("event_type", append(types, "unknown")...), label("outcome", outcomes...)},
		"webhookd_signature_failures_total":                  {label("reason", "missing_header", "malformed_header", "no_v1_signature", "no_match", "too_old", "too_new", "wrong_mode")},
		"webhookd_signature_matches_total":                   {label("secret", "main", "second")},
		"webhookd_unavailable_total":                         {label("reason", "database", "queue_full", "deadline", "locked", "draining")},
		"webhookd_delivery_duration_seconds_count":           {label("outcome", outcomes...)},
		"webhookd_event_lag_seconds_count":                   {label("event_type", types...)},
		"webhookd_time_to_decision_seconds_count":            {label("status", "verified", "requires_input", "canceled")},
		"webhookd_redactions_total":                          {label("status", "processing", "redacted", "validated", "other")},
		"webhookd_commit_duration_seconds_count":             none,
		"webhookd_commit_events_count":                       none,
		"webhookd_queue_length":                              none,
		"webhookd_rejected_batches_total":                    none,
		"webhookd_secrets_reload_failed":                     none,
		"webhookd_quarantined_events":                        none,
		"webhookd_sessions_needing_refresh":                  none,
		"webhookd_thin_events_pending":                       none,
		"webhookd_outputs_pending":                           none,
		"webhookd_outputs_oldest_pending_seconds":            none,
		"webhookd_outputs_enabled":                           {label("livemode", modes...)},
		"webhookd_outputs_fetches_total":                     {label("result", "stored", "partial", "forbidden", "not_found", "redacted", "retried", "expired")},
		"webhookd_reconciled_events":                         none,
		"webhookd_reconcile_last_complete_timestamp_seconds": none,
	}
	notZero := []string{
		"webhookd_database_up", "webhookd_schema_version", "webhookd_schema_required", "webhookd_build_info{",
		"webhookd_pool_", // collectors of the connection pool
	}

	s := begin(t, pgtest.Database(t), func(e *environment) {
		e.StripeWebhookSecrets.force("main=" + whsec + ",second=" + whsec + "2")
	}).ready()
	found := s.metrics()
	want := map[string]float64{}
	for name, labels := range zero {
		all := []string{""}
		for _, l := range labels {
			var longer []string
			for _, have := range all {
				for _, v := range l[1:] {
					longer = append(longer, have+","+l[0]+`="`+v+`"`)
				}
			}
			all = longer
		}
		for _, series := range all {
			if series != "" {
				series = "{" + series[1:] + "}"
			}
			want[name+series] = 0
		}
	}
	got := maps.Clone(found)
	for _, prefix := range notZero {
		maps.DeleteFunc(got, func(series string, _ float64) bool { return strings.HasPrefix(series, prefix) })
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series at the start (-contract +got):\n%s", diff)
	}
	for _, prefix := range notZero {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(series string) bool { return strings.HasPrefix(series, prefix) }) {
			t.Errorf("no series %s", prefix)
		}
	}
	page := s.get("/metrics").Body
	for _, collector := range []string{"\ngo_goroutines ", "\nprocess_cpu_seconds_total "} {
		if !strings.Contains(page, collector) {
			t.Errorf("no series %s", collector)
		}
	}

	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}

	// Whoever cannot sign makes no series; what is signed makes none either.
	body := scenario.New(1).Session(scenario.SessionOptions{Type: "STRANGE", APIVersion: "STRANGE"}).RequiresInput(time.Now(), "STRANGE").Body
	strange := []byte(strings.NewReplacer(`"identity.verification_session.requires_input"`, `"identity.verification_session.STRANGE"`,
		`"status": "requires_input"`, `"status": "STRANGE"`).Replace(string(body)))
	foreign := []byte(`{"id":"evt_STRANGE","type":"STRANGE"}`)
	for _, b := range [][]byte{body, strange, foreign} {
		s.post(b, signature.Sign(b, "whsec_STRANGE", time.Now()))
		s.post(b, "t=STRANGE,STRANGE=STRANGE")
		s.deliver(b)
	}
	for _, method := range []string{"STRANGE", http.MethodGet, http.MethodPut} {
		for _, path := range []string{"", "/STRANGE", "?STRANGE"} {
			if a, err := exchange(s.client, method, s.public+path, "", nil); err != nil || a.Status/100 == 2 {
				t.Errorf("%s %s: %d, %v", method, path, a.Status, err)
			}
		}
	}
	after := s.metrics()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(after))); diff != "" {
		t.Errorf("series after strange deliveries (-before +after):\n%s", diff)
	}
	if after[`webhookd_verification_failures_total{code="other",livemode="false",type="other"}`] != 1 {
		t.Error("a strange code and type are not counted as other")
	}
	if strings.Contains(s.get("/metrics").Body, "STRANGE") {
		t.Error("a strange word is in /metrics")
	}
}
