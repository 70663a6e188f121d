// Package observability_test holds dashboards, alerts and their documents
// against the metrics and the commands that webhookd has.
package observability_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const repository = "../../.."

func read(tb testing.TB, path ...string) []byte {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{repository}, path...)...))
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// page is /metrics of a webhookd that has done nothing yet, which a test of
// cmd/webhookd keeps true.
func page(tb testing.TB) []byte {
	tb.Helper()
	return read(tb, "cmd", "webhookd", "testdata", "metrics.txt")
}

// values are those of a metric's labels; nil for any.
type values map[string][]string

// registry lists metrics by the names that a query uses.
func registry(tb testing.TB) map[string]values {
	tb.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page(tb)))
	if err != nil {
		tb.Fatal(err)
	}
	open := []string{"job", "namespace", "instance", "secret", "version", "commit", "go", "schema"}
	all := map[string]values{}
	for name, family := range families {
		known := values{"job": nil, "namespace": nil, "instance": nil}
		for _, metric := range family.GetMetric() {
			for _, pair := range metric.GetLabel() {
				l, v := pair.GetName(), pair.GetValue()
				if slices.Contains(open, l) {
					known[l] = nil
				} else if !slices.Contains(known[l], v) {
					known[l] = append(known[l], v)
				}
			}
		}
		if family.GetType() != dto.MetricType_HISTOGRAM {
			all[name] = known
			continue
		}
		all[name+"_sum"], all[name+"_count"] = known, known
		buckets := values{"le": nil}
		for l, v := range known {
			buckets[l] = v
		}
		all[name+"_bucket"] = buckets
	}
	return all
}

func TestMetricsFollowPrometheusConventions(t *testing.T) {
	t.Parallel()
	problems, err := promlint.New(bytes.NewReader(page(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
