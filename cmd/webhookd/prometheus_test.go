//go:build prometheus

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
	"webhookd/internal/stripeapi/stripefake"
)

// bounds is what a series must show.
type bounds struct{ low, high float64 }

func about(n float64) bounds   { return bounds{n * 0.9, n * 1.2} } // increase() extrapolates
func exactly(n float64) bounds { return bounds{n, n} }

var present, whatever = bounds{1e-6, 1e12}, bounds{0, 1e12} // whatever: of what no scenario can make surely

// panelsShow is what every panel of webhookd.json shows after happens. A series that
// is not named must not be there, or be zero. Of a graph the newest value counts.
func panelsShow(instance string) map[string]map[string]bounds {
	perHour, perMinute := func(n float64) bounds { return about(n * 12) }, func(n float64) bounds { return about(n / 5) } // within five minutes
	byCode := func(of func(float64) bounds) map[string]bounds {
		return map[string]bounds{"document_expired": of(4), "abandoned": of(2), "consent_declined": of(1), "selfie_face_mismatch": of(1)}
	}
	lastWeek := 1.0 / 3
	return map[string]map[string]bounds{
		"Database":                           {"database": exactly(1)},
		"503, last hour":                     {"503": about(6)},
		"200, last hour":                     {"acknowledged": about(48)},
		"Refused, last hour":                 {"refused": about(6)},
		"Quarantine":                         {"events": exactly(2)},
		"Oldest data to fetch":               {"oldest": present},
		"Verified, last day":                 {"verified": about(0.5)},
		"Top reason, last hour":              {"document_expired": about(4)},
		"Firing alerts":                      {"A WebhookdQuarantine": present, "A WebhookdReconcileRecovers": present, "A WebhookdSecretsReloadFailed": present, "A WebhookdEventsNotAcknowledged": present},
		"Users failing, or we":               {"users": {0.5, 1}, "users, a week before": about(lastWeek), "we": {0.1, 1}},
		"Failures by error code":             byCode(perHour),
		"Failures by error code, as a share": byCode(func(n float64) bounds { return bounds{n / 16, 1} }),
		"Top reasons, now and a week ago": {
			"A document_expired": about(4), "A abandoned": about(2), "A consent_declined": about(1), "A selfie_face_mismatch": about(1),
			"B document_expired": about(24),
		},
		"Verified": {"verified": {0.5, 1}, "a week before": about(1 - lastWeek)},
		"Statuses": {"requires_input": perHour(22), "processing": perHour(11), "verified": perHour(8), "canceled": perHour(1)},
		"Time to decision": {
			"verified, median": present, "verified, 9 in 10": present, "requires_input, median": present, "requires_input, 9 in 10": present,
			"canceled, median": present, "canceled, 9 in 10": present,
		},
		"Redactions": {"redacted": perHour(1)},

		"Deliveries by outcome": {
			"applied": perMinute(41), "stale": perMinute(1), "twin": perMinute(1), "duplicate": perMinute(1), "queued": perMinute(1), "ignored": perMinute(1),
			"quarantined": perMinute(2), "refused": perMinute(6), "unavailable": perMinute(6),
		},
		"Not acknowledged, by reason":   {"database": perMinute(6)},
		"Refused signatures, by reason": {"no_match": perMinute(5), "missing_header": perMinute(1)},
		"Error budget":                  {"5 minutes": {0.1, 1}, "1 hour": {0.1, 1}, "6 hours": {0.1, 1}},
		"Time to answer":                {"median": present, "9 in 10": present, "99 in 100": present},
		"Age of events when recorded":   {"median": present, "9 in 10": present, "99 in 100": present},
		"Queue and batch":               {"waiting": whatever, "events a commit": {1, 50}},
		"Commits":                       {"median": present, "99 in 100": present},
		"Connections":                   {"idle": present, "acquired": whatever, "connecting": whatever, "most": {2, 100}},
		"Waiting for a connection":      {"waited": present, "waits a second": present},
		"Quarantine and split batches":  {"in quarantine": exactly(2), "split batches per hour": whatever},
		"Memory":                        {instance: {1e6, 1e9}},
		"CPU":                           {instance: present},
		"Replicas":                      {"A *": exactly(1), "B ": exactly(0), "C ": exactly(1)},

		"Waiting for Stripe's API":             {"data of verified users": {1, 3}, "sessions to refresh": {1, 4}, "thin events": exactly(1)},
		"Oldest data to fetch, over time":      {"oldest": present},
		"Fetches by result":                    {"stored": perHour(3), "not_found": perHour(1), "retried": {12, 1e4}, "redacted": whatever},
		"Signing secrets in use":               {"A main": about(54), "B main": about(54), "C main": about(54)},
		"Reading Stripe's API":                 {"livemode true": exactly(1), "livemode false": exactly(1)},
		"Last comparison with Stripe":          {"ago": {0, 300}},
		"Recovered by reconcile, within a day": {"recovered": exactly(1)},
	}
}

// everything is a service to which all happens that a panel shows.
type everything struct {
	testing.TB
	*process
	fake     *stripefake.Fake
	gate     *gate
	database string
	vars     env
	source   *scenario.Source
	client   *http.Client
	admin    string
}

func beginEverything(tb testing.TB) *everything {
	tb.Helper()
	x := &everything{TB: tb, fake: stripefake.New(tb), database: pgtest.Database(tb), source: scenario.New(5), client: newClient(tb)}
	x.fake.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	gate, url := newGate(tb, x.database)
	x.gate = gate
	secrets := filepath.Join(tb.TempDir(), "secrets")
	x.write(secrets, "main="+whsec)
	x.vars = env{
		"WEBHOOKD_DATABASE_URL": url, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE": secrets,
		"WEBHOOKD_LISTEN_ADDR": "127.0.0.1:0", "WEBHOOKD_ADMIN_ADDR": "127.0.0.1:0", "WEBHOOKD_DRAIN_DELAY": "0s",
		"WEBHOOKD_STRIPE_API_BASE": x.fake.URL, "WEBHOOKD_API_RATE": "25",
		"WEBHOOKD_STRIPE_API_KEYS": x.fake.Key(true, stripefake.Rights{Sensitive: true}) + "," + x.fake.Key(false, stripefake.Rights{Sensitive: true}),
	}
	x.process = launch(tb, tb.TempDir(), x.vars, "serve").serves()
	_, rest, _ := strings.Cut(x.log.String(), `"admin":"`)
	x.admin, _, _ = strings.Cut(rest, `"`)
	x.sees("the first comparison", "webhookd_reconcile_last_complete_timestamp_seconds", func(v float64) bool { return v > 0 })
	return x
}

func (x *everything) write(file, text string) {
	x.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		x.Fatal(err)
	}
}

// sees waits for a gauge.
func (x *everything) sees(what, name string, is func(float64) bool) {
	x.Helper()
	value := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`)
	eventually(x.TB, "see "+what, func() bool {
		page, err := exchange(x.client, http.MethodGet, "http://"+x.admin+"/metrics", "", nil)
		m := value.FindStringSubmatch(page.Body)
		var v float64
		if err != nil || m == nil {
			return false
		}
		_, err = fmt.Sscan(m[1], &v)
		return err == nil && is(v)
	})
}

// deliver posts a body that must be answered with a status.
func (x *everything) deliver(want int, body []byte, header string) {
	x.Helper()
	a, err := exchange(x.client, http.MethodPost, x.endpoint(), header, body)
	if err != nil || a.Status != want {
		x.Errorf("deliver: %v, %d %s", err, a.Status, a.Body)
	}
}

func (x *everything) take(all ...scenario.Event) {
	x.Helper()
	for _, e := range all {
		x.deliver(http.StatusOK, e.Body, signature.Sign(e.Body, whsec, time.Now()))
	}
}

// session tells Stripe and webhookd what happens to a new session, a second apart.
func (x *everything) session(o scenario.SessionOptions, code string, what ...string) (*scenario.Session, []scenario.Event) {
	x.Helper()
	s, told := x.source.Session(o), []scenario.Event(nil)
	at := time.Now().Add(-time.Minute)
	for _, w := range what {
		e, err := s.Happen(w, code, at)
		if err != nil {
			x.Fatal(err)
		}
		x.fake.Tell(s, e)
		told, at = append(told, e), at.Add(time.Second)
	}
	x.take(told...)
	return s, told
}

// happens is the scenario: 48 signed deliveries that are acknowledged, 6
// that are not, 6 forged ones.
func (x *everything) happens() {
	x.Helper()
	live := scenario.SessionOptions{Livemode: true}
	var told []scenario.Event
	var s *scenario.Session
	for range 3 { // 9 applied
		s, told = x.session(live, "", "created", "processing", "verified")
	}
	twin := s.Twin(told[2])
	x.take(told[0], twin)                                                         // a duplicate, a twin
	x.take(renamed(s.Twin(told[2]), "customer.updated"))                          // ignored
	x.take(renamed(s.Twin(told[2]), "identity.verification_session.of_tomorrow")) // quarantined
	for range 4 {                                                                 // 12 applied
		x.session(live, "document_expired", "created", "processing", "requires_input")
	}
	for range 2 { // 4
		x.session(live, "abandoned", "created", "requires_input")
	}
	x.session(scenario.SessionOptions{}, "consent_declined", "created", "processing", "requires_input") // 3
	x.session(live, "", "created", "canceled")                                                          // 2
	x.sees("the outputs stored", `webhookd_outputs_fetches_total\{result="stored"\}`, func(v float64) bool { return v >= 3 })
	x.session(live, "", "created", "processing", "verified", "redacted") // 4

	// Strangers.
	for range 5 {
		x.deliver(http.StatusBadRequest, told[0].Body, signature.Sign(told[0].Body, "whsec_of_a_stranger", time.Now()))
	}
	x.deliver(http.StatusBadRequest, told[0].Body, "")

	// What PostgreSQL refuses because of its content.
	poison := x.source.Session(live)
	conn := connect(x.TB, x.database)
	execute(x.TB, conn, "ALTER TABLE stripe_identity.events ADD CONSTRAINT poison CHECK (session_id <> '"+poison.ID+"')")
	x.take(poison.Created(time.Now()))
	execute(x.TB, conn, "ALTER TABLE stripe_identity.events DROP CONSTRAINT poison")

	// The database goes and comes.
	x.gate.close()
	x.sees("the database gone", "webhookd_database_up", func(v float64) bool { return v == 0 })
	for range 6 {
		x.deliver(http.StatusServiceUnavailable, told[0].Body, signature.Sign(told[0].Body, whsec, time.Now()))
	}
	x.gate.open()
	x.sees("the database back", "webhookd_database_up", func(v float64) bool { return v == 1 })

	// A session that Stripe has and nobody delivered.
	lost := x.source.Session(live)
	x.fake.Tell(lost, lost.Created(time.Now().Add(-time.Minute)))
	launch(x.TB, x.TempDir(), x.vars, "reconcile", "--since", "1h").exits(exitDone)

	// One that Stripe does not know; then Stripe fails, and all of this stays open.
	unknown := x.source.Session(live)
	x.take(unknown.Verified(time.Now()))
	x.sees("the unknown session not found", `webhookd_outputs_fetches_total\{result="not_found"\}`, func(v float64) bool { return v >= 1 })
	x.fake.Next(slices.Repeat([]stripefake.Fault{{Status: http.StatusInternalServerError}}, 1000)...)
	x.session(live, "", "created", "processing", "verified") // 3
	tie := x.source.Session(live)
	now := time.Now()
	x.take(tie.Created(now.Add(-2*time.Second)), tie.Processing(now.Add(-time.Second)), tie.Verified(now), tie.RequiresInput(now, "selfie_face_mismatch")) // 4
	x.take(poison.Thin(poison.Created(time.Now())))                                                                                                        // queued
	x.write(x.vars["WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE"], "main=")

	x.sees("the gauges of what waits", "webhookd_outputs_oldest_pending_seconds", func(v float64) bool { return v > 0 })
	x.sees("the recovered row", "webhookd_reconciled_events", func(v float64) bool { return v == 1 })
	x.sees("the quarantine", "webhookd_quarantined_events", func(v float64) bool { return v == 2 })
	x.sees("the thin event", "webhookd_thin_events_pending", func(v float64) bool { return v == 1 })
	x.sees("the bad file", "webhookd_secrets_reload_failed", func(v float64) bool { return v == 1 })
}

// aWeekAgo is three days of history: an expired document and two verified
// people an hour.
func aWeekAgo(now time.Time) string {
	var b strings.Builder
	series := []struct {
		name, help, labels string
		perHour            float64
	}{
		{"webhookd_verification_failures", "x", `code="document_expired",livemode="true",type="document"`, 1},
		{"webhookd_status_transitions", "x", `livemode="true",status="verified"`, 2},
	}
	for _, s := range series {
		fmt.Fprintf(&b, "# TYPE %s counter\n", s.name)
		for i := range 6 * 72 {
			at := now.Add(-9*24*time.Hour + time.Duration(i)*10*time.Minute)
			fmt.Fprintf(&b, "%s_total{job=\"webhookd\",namespace=\"identity\",instance=\"old\",%s} %.4f %d\n", s.name, s.labels, s.perHour*float64(i)/6, at.Unix())
		}
	}
	return b.String() + "# EOF\n"
}

func TestEveryPanelAndRuleAgainstARealPrometheus(t *testing.T) {
	t.Parallel()
	x := beginEverything(t)
	rules := regexp.MustCompile(`(?m)^(\s+for:) \d+\w+$`).ReplaceAllString(repositoryFile(t, "deploy/prometheus/rules.yaml"), "$1 1s")
	p := startPrometheus(t, x.admin, rules, aWeekAgo(time.Now()))
	x.happens()
	eventually(t, "see alerts fire", func() bool {
		firing := p.firing()
		return slices.Contains(firing, "WebhookdQuarantine") && slices.Contains(firing, "WebhookdSecretsReloadFailed") && slices.Contains(firing, "WebhookdReconcileRecovers")
	})
	time.Sleep(3 * time.Second) // the last scrape has seen all of it

	for _, r := range p.rules() {
		if r.Health != "ok" || r.LastError != "" {
			t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
		}
		if _, err := p.query(r.Query); err != nil {
			t.Errorf("rule %s: %v", r.Name, err)
		}
		for _, a := range r.Alerts {
			for name, text := range a.Annotations {
				if strings.Contains(text, "<error") || strings.Contains(text, "{{") || strings.Contains(text, "no value") {
					t.Errorf("%s, %s: %s", r.Name, name, text)
				}
			}
			if want := "var-job=webhookd&var-namespace=identity"; a.State == "firing" && !strings.Contains(a.Annotations["dashboard_url"], want) {
				t.Errorf("%s leads to %s", r.Name, a.Annotations["dashboard_url"])
			}
		}
	}

	var d struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ RefID, Expr, LegendFormat string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(repositoryFile(t, "deploy/grafana/webhookd.json")), &d); err != nil {
		t.Fatal(err)
	}
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$job", "webhookd", "$namespace", "identity", "$livemode", ".*", "$code", ".*")
	for _, a := range d.Annotations.List {
		if _, err := p.query(grafana.Replace(a.Expr)); err != nil {
			t.Errorf("annotation: %v", err)
		}
	}
	want := panelsShow(x.admin)
	for _, panel := range d.Panels {
		if panel.Type == "row" {
			continue
		}
		expected, ok := want[panel.Title]
		if !ok {
			t.Errorf("nobody says what %q shows", panel.Title)
			continue
		}
		delete(want, panel.Title)
		got := map[string]float64{}
		for _, target := range panel.Targets {
			expr := grafana.Replace(target.Expr)
			ask := p.query
			if panel.Type == "timeseries" {
				ask = func(expr string) ([]promSeries, error) { return p.queryRange(expr, time.Minute) }
			}
			all, err := ask(expr)
			if err != nil {
				t.Errorf("%q, %s: %v", panel.Title, target.RefID, err)
				continue
			}
			for _, s := range all {
				if n := s.numbers(); len(n) > 0 {
					got[seriesName(panel.Type, panel.Title, target.RefID, target.LegendFormat, s.Metric)] = s.last()
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(expected)) {
			value, ok := got[name]
			if of := expected[name]; !ok || value < of.low || value > of.high {
				t.Errorf("%q shows %s as %v (there: %t), want %v", panel.Title, name, value, ok, of)
			}
			delete(got, name)
		}
		for name, value := range got {
			if value != 0 && panel.Title != "Firing alerts" {
				t.Errorf("%q also shows %s as %v", panel.Title, name, value)
			}
		}
	}
	for title := range want {
		t.Errorf("there is no panel %q", title)
	}
	if t.Failed() {
		t.Logf("%s", x.log)
	}
}

// seriesName is what a series is called in a panel; a row of a table by its query.
func seriesName(kind, title, ref, legend string, metric map[string]string) string {
	switch {
	case kind != "table":
		return labeled(legend, metric)
	case title == "Firing alerts":
		return ref + " " + metric["alertname"]
	case title == "Replicas" && ref == "A":
		return "A *"
	}
	var values []string
	for _, label := range slices.Sorted(maps.Keys(metric)) {
		if label != "instance" {
			values = append(values, metric[label])
		}
	}
	return ref + " " + strings.Join(values, " ")
}
