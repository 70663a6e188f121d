package k8s_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the PrometheusRule out of the rules")

const prometheusRule = "deploy/prometheus/prometheusrule.yaml"

// TestPrometheusRuleIsTheRules compares what the Prometheus Operator is given
// with what everybody else is: rules.yaml is the truth.
func TestPrometheusRuleIsTheRules(t *testing.T) { //nolint:paralleltest // with -update it writes a file that others read
	var rules any
	if err := yaml.Unmarshal([]byte(document(t, "deploy/prometheus/rules.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
		"metadata": map[string]any{"name": "webhookd", "labels": map[string]string{"app.kubernetes.io/name": "webhookd"}},
		"spec":     rules,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `# Written out of rules.yaml by make generate. Its links are placeholders: the
# line at the head of rules.yaml gives both files your addresses.
` + string(text)
	if *update {
		if err := os.WriteFile(filepath.Join(repository, prometheusRule), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, document(t, prometheusRule)); diff != "" {
		t.Errorf("%s is behind rules.yaml: run make generate (-rules.yaml +it)\n%s", prometheusRule, diff)
	}
}

// TestLinksOfAlertsBecomeOnesOwn runs the line that rules.yaml and the steps give.
func TestLinksOfAlertsBecomeOnesOwn(t *testing.T) {
	t.Parallel()
	_, line, found := strings.Cut(document(t, "deploy/prometheus/rules.yaml"), "#   sed -i ")
	line, _, _ = strings.Cut(line, "\n")
	if steps := document(t, "docs/kubernetes.md"); !found || !strings.Contains(steps, "(cd deploy/prometheus && sed -i "+line+")\n") {
		t.Errorf("docs/kubernetes.md does not say: sed -i %s", line)
	}
	dir, files := filepath.Join(t.TempDir(), "prometheus"), []string{"rules.yaml", "prometheusrule.yaml"}
	dashboards, err := filepath.Glob(repository + "/deploy/grafana/*.json")
	if err != nil || len(dashboards) == 0 {
		t.Fatalf("dashboards %q, %v", dashboards, err)
	}
	for _, d := range dashboards {
		files = append(files, "../grafana/"+filepath.Base(d))
	}
	for _, name := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(document(t, filepath.Join("deploy/prometheus", name))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh := exec.CommandContext(t.Context(), "sh", "-c", "sed -i "+strings.ReplaceAll(line, "https://…", "https://ours.test"))
	sh.Dir = dir
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(text); strings.Contains(got, "example.com") || strings.Contains(got, "github.com") || !strings.Contains(got, "https://ours.test/") {
			t.Errorf("%s still has a link to nobody", name)
		}
	}
}

func TestProductionHasTheRules(t *testing.T) {
	t.Parallel()
	c := build(t, manifests+"/overlays/production")
	var rules monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict([]byte(document(t, "deploy/prometheus/rules.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rules, one[*monitoringv1.PrometheusRule](c, "webhookd").Spec); diff != "" || len(rules.Groups) == 0 {
		t.Errorf("PrometheusRule (-rules.yaml +production):\n%s", diff)
	}
}

func TestProductionHasEveryDashboard(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	files, err := filepath.Glob(repository + "/deploy/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("deploy/grafana: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want[filepath.Base(file)] = string(text)
	}
	c := build(t, manifests+"/overlays/production")
	got := map[string]string{}
	for name, m := range all[*corev1.ConfigMap](c) {
		if !strings.HasPrefix(name, "webhookd-dashboards") {
			continue
		}
		if m.Labels["grafana_dashboard"] != "1" {
			t.Errorf("ConfigMap %s: Grafana's sidecar does not look at it", name)
		}
		maps.Copy(got, m.Data)
		if text, err := json.Marshal(m); err != nil || len(text) > 1<<20 {
			t.Errorf("ConfigMap %s has %d bytes (%v): etcd keeps one MiB", name, len(text), err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dashboards (-deploy/grafana +production):\n%s", diff)
	}
	for name, text := range got {
		if !json.Valid(bytes.TrimSpace([]byte(text))) {
			t.Errorf("%s is no JSON", name)
		}
	}
}
