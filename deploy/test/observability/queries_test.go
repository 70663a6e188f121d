package observability_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func newParser() parser.Parser { return parser.NewParser(parser.Options{}) }

// query is an expression and where it stands.
type query struct{ at, expr string }

func ruleGroups(tb testing.TB) []rulefmt.RuleGroup {
	tb.Helper()
	groups, errs := rulefmt.Parse(read(tb, "deploy", "prometheus", "rules.yaml"), false, model.UTF8Validation, newParser(), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		tb.Error(err)
	}
	if tb.Failed() {
		tb.FailNow()
	}
	return groups.Groups
}

func rules(tb testing.TB) (all []rulefmt.Rule) {
	tb.Helper()
	for _, g := range ruleGroups(tb) {
		all = append(all, g.Rules...)
	}
	return all
}

// queries are all of them, with Grafana's variables replaced.
func queries(tb testing.TB) (all []query) {
	tb.Helper()
	for _, r := range rules(tb) {
		all = append(all, query{"rule " + r.Record + r.Alert, r.Expr})
	}
	d := dashboard(tb, "webhookd.json")
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$namespace", ".*", "$livemode", ".*", "$code", ".*")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all = append(all, query{fmt.Sprintf("panel %q, %s", p.Title, target.RefID), grafana.Replace(target.Expr)})
		}
	}
	for _, a := range d.Annotations.List {
		all = append(all, query{"annotation " + a.Name, grafana.Replace(a.Expr)})
	}
	return all
}

// judge tells what is wrong with a query: metrics, labels and values that do
// not exist.
func judge(q string, metrics map[string]values) (faults []string) {
	expr, err := newParser().ParseExpr(q)
	if err != nil {
		return []string{err.Error()}
	}
	var used []string // labels that are grouped or joined by
	known := map[string]bool{}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			has, ok := metrics[n.Name]
			if !ok {
				faults = append(faults, fmt.Sprintf("there is no metric %q", n.Name))
				return nil
			}
			for l := range has {
				known[l] = true
			}
			for _, m := range n.LabelMatchers {
				of, ok := has[m.Name]
				switch {
				case m.Name == labels.MetricName:
				case !ok:
					faults = append(faults, fmt.Sprintf("%s has no label %q", n.Name, m.Name))
				case of != nil && m.Value != ".*" && !slices.ContainsFunc(of, func(v string) bool {
					return m.Matches(v) == (m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp)
				}):
					faults = append(faults, fmt.Sprintf("%s: no value of %s is %s", n.Name, m.Name, m))
				}
			}
		case *parser.AggregateExpr:
			used = append(used, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				used = append(used, n.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	for _, l := range used {
		if !known[l] {
			faults = append(faults, fmt.Sprintf("no metric in it has the label %q", l))
		}
	}
	return faults
}

// metrics are the program's, those of the recording rules, and Prometheus's own of alerts.
func metrics(tb testing.TB) map[string]values {
	tb.Helper()
	all := map[string]values{}
	for name, has := range registry(tb) {
		all[name] = has
	}
	ofAlerts := values{"job": nil, "namespace": nil, "severity": {"page", "ticket", "info"}, "alertstate": {"firing", "pending"}, "alertname": nil}
	for _, r := range rules(tb) {
		if r.Alert != "" {
			ofAlerts["alertname"] = append(ofAlerts["alertname"], r.Alert)
			continue
		}
		has := values{}
		expr, err := newParser().ParseExpr(r.Expr)
		if err != nil {
			tb.Fatal(err)
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.AggregateExpr:
				for _, l := range n.Grouping {
					has[l] = nil
				}
			case *parser.VectorSelector:
				for l := range all[n.Name] {
					if strings.HasPrefix(n.Name, "job:") {
						has[l] = nil
					}
				}
			}
			return nil
		})
		all[r.Record] = has
	}
	all["ALERTS"], all["ALERTS_FOR_STATE"] = ofAlerts, ofAlerts
	return all
}

func TestQueriesUseOnlyMetricsLabelsAndValuesThatExist(t *testing.T) {
	t.Parallel()
	known := metrics(t)
	all := queries(t)
	if len(all) < 60 {
		t.Fatalf("only %d queries were found", len(all))
	}
	for _, q := range all {
		for _, fault := range judge(q.expr, known) {
			t.Errorf("%s: %s\n%s", q.at, fault, q.expr)
		}
	}
}

func TestTheJudgeOfQueriesSeesFaults(t *testing.T) {
	t.Parallel()
	known := metrics(t)
	for name, expr := range map[string]string{
		"that do not parse":                 `sum(rate(webhookd_deliveries_total[5m])`,
		"with a metric that does not exist": `webhookd_delivery_total`,
		"with a label that does not exist":  `webhookd_deliveries_total{result="applied"}`,
		"with a value that does not exist":  `webhookd_deliveries_total{outcome="aplied"}`,
		"that leave out no value":           `webhookd_deliveries_total{outcome!="aplied"}`,
		"that match no value":               `webhookd_deliveries_total{outcome=~"aplied|refuse"}`,
		"grouped by what does not exist":    `sum by (result) (webhookd_deliveries_total)`,
		"of a summary's base name":          `webhookd_commit_duration_seconds`,
	} {
		if len(judge(expr, known)) == 0 {
			t.Errorf("a query %s passes: %s", name, expr)
		}
	}
}

// A rate over a fixed window shorter than an hour shows nothing where Grafana's
// step is longer, or where few events come.
func TestRatesOfPanelsUseGrafanasIntervalOrAWholeHour(t *testing.T) {
	t.Parallel()
	for _, p := range dashboard(t, "webhookd.json").Panels {
		for _, target := range p.Targets {
			text := strings.ReplaceAll(target.Expr, "$__rate_interval", "57s") // nobody writes that
			text = strings.NewReplacer("$job", "", "$namespace", "", "$livemode", "", "$code", "").Replace(text)
			expr, err := newParser().ParseExpr(text)
			if err != nil {
				t.Errorf("%q: %v", p.Title, err)
				continue
			}
			parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
				if m, ok := node.(*parser.MatrixSelector); ok && m.Range != 57*time.Second && m.Range < time.Hour && p.Title != "Error budget" {
					t.Errorf("%q, %s: a window of %v", p.Title, target.RefID, m.Range)
				}
				return nil
			})
		}
	}
}
