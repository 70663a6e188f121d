package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// metricsPageFile is what deploy/test holds dashboards and alerts against: every
// series that exists from the start, without values.
const metricsPageFile = "testdata/metrics.txt"

var (
	sampleValue = regexp.MustCompile(` [^ ]+$`)
	ofTheBuild  = regexp.MustCompile(`(commit|go|schema|version)="[^"]*"`)
)

func TestMetricsPageIsTheOneThatDashboardsAreHeldAgainst(t *testing.T) { //nolint:paralleltest // with -update it writes a file
	var lines []string
	for line := range strings.Lines(metricsPage(t)) {
		line = strings.TrimSpace(line)
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		switch {
		case !strings.HasPrefix(name, "webhookd_") && !strings.HasPrefix(name, "process_"):
			continue // Go's own differ from version to version
		case name == line:
			line = ofTheBuild.ReplaceAllString(sampleValue.ReplaceAllString(line, " 0"), `$1=""`)
		}
		lines = append(lines, line)
	}
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(metricsPageFile, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(metricsPageFile)
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(page string) []string { return slices.Sorted(strings.Lines(page)) }
	if diff := cmp.Diff(sorted(string(want)), sorted(got)); diff != "" {
		t.Errorf("%s is behind the code: run make generate (-file +page)\n%s", metricsPageFile, diff)
	}
}
