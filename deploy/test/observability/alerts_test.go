package observability_test

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	pagesAt   = "https://github.com/webhookd/webhookd/blob/main/"
	grafanaAt = "https://grafana.example.com/d/webhookd/webhookd?var-job={{ $labels.job | urlquery }}&var-namespace={{ $labels.namespace | urlquery }}"
)

func TestAlertsSayWhatBreaksAndWhereToLook(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if seen[r.Alert] {
			t.Errorf("there are two rules %s", r.Alert)
		}
		seen[r.Alert] = true
		if !slices.Contains([]string{"page", "ticket", "info"}, r.Labels["severity"]) || !slices.Contains([]string{"service", "users"}, r.Labels["about"]) {
			t.Errorf("%s: labels %v", r.Alert, r.Labels)
		}
		a := r.Annotations
		if a["summary"] == "" || !regexp.MustCompile(`\b[Uu]ser`).MatchString(a["description"]) || strings.Contains(a["summary"], "  ") {
			t.Errorf("%s does not say what it means for users: %v", r.Alert, a)
		}
		if page := "docs/alerts/" + r.Alert + ".md"; a["runbook_url"] != pagesAt+page || !leads(t, page) {
			t.Errorf("%s: runbook_url %s", r.Alert, a["runbook_url"])
		}
		if !strings.HasPrefix(a["dashboard_url"], grafanaAt) {
			t.Errorf("%s: dashboard_url %s", r.Alert, a["dashboard_url"])
		}
		if r.For == 0 {
			t.Errorf("%s fires at the first look", r.Alert)
		}
	}
	entries, err := os.ReadDir(path.Join(repository, "docs", "alerts"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".md"); name != "README" && !seen[name] {
			t.Errorf("%s is the page of no alert", e.Name())
		}
	}
}

func TestPagesOfAlertsHaveTheirParts(t *testing.T) {
	t.Parallel()
	index := string(read(t, "docs", "alerts", "README.md"))
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		text := read(t, "docs", "alerts", r.Alert+".md")
		if got := anchors(text)[1:5]; !slices.Equal(got, []string{"meaning", "impact", "diagnosis", "mitigation"}) {
			t.Errorf("%s: parts %v", r.Alert, got)
		}
		_, code, _ := strings.Cut(string(text), "```sh\n")
		code, _, _ = strings.Cut(code, "```")
		if n := len(strings.Split(strings.TrimSpace(code), "\n")); n != 3 {
			t.Errorf("%s: %d commands", r.Alert, n)
		}
		severity := map[string]string{"page": "Page: act now.", "ticket": "Ticket: ", "info": "Info: "}[r.Labels["severity"]]
		if !strings.Contains(string(text), "\n"+severity) || !strings.Contains(index, "| ["+r.Alert+"]("+r.Alert+".md) | "+r.Labels["severity"]+" | "+r.Labels["about"]+" |") {
			t.Errorf("%s: its page or the index tells another severity", r.Alert)
		}
	}
}

// promtool runs them: make test-prometheus.
func TestEachAlertHasATestThatFiresItAndOneThatMustNot(t *testing.T) {
	t.Parallel()
	type samples []struct{ Labels string }
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, file := range []string{"rules_test.yaml", "rules_days_test.yaml"} {
		var suite struct {
			Tests []struct {
				Name  string
				Exprs []struct {
					Expr    string
					Samples samples `json:"exp_samples"`
				} `json:"promql_expr_test"`
			}
		}
		if err := yaml.Unmarshal(read(t, "deploy", "prometheus", file), &suite); err != nil {
			t.Fatal(err)
		}
		for _, test := range suite.Tests {
			alert, rest, _ := strings.Cut(test.Name, " ")
			for _, e := range test.Exprs {
				if !strings.HasPrefix(e.Expr, "ALERTS{") {
					continue
				}
				named := 0
				for _, s := range e.Samples {
					for _, m := range regexp.MustCompile(`alertname="(\w+)"`).FindAllStringSubmatch(s.Labels, -1) {
						fires[m[1]] = true
						if m[1] == alert {
							named++
						}
					}
				}
				if strings.HasPrefix(rest, "is quiet") {
					quiet[alert] = true
					if named > 0 {
						t.Errorf("%s: %q, and it fires", file, test.Name)
					}
				}
			}
		}
	}
	for _, r := range rules(t) {
		if r.Alert != "" && (!fires[r.Alert] || !quiet[r.Alert]) {
			t.Errorf("%s: a test that fires it %t, one that must not %t", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
	}
}
