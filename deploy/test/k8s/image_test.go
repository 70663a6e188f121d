package k8s_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// instructions are those of the Dockerfile's final stage, by their names.
func instructions(tb testing.TB) map[string][]string {
	tb.Helper()
	text := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(document(tb, "Dockerfile"), "")
	stages := regexp.MustCompile(`(?m)^FROM `).Split(text, -1)
	found := map[string][]string{}
	for line := range strings.Lines("FROM " + stages[len(stages)-1]) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			found[name] = append(found[name], rest)
		}
	}
	return found
}

func TestImageIsWhatTheManifestsRun(t *testing.T) {
	t.Parallel()
	image := instructions(t)
	eachVariant(t, func(t *testing.T, c *cluster) {
		pod, container := c.webhookd()
		if diff := cmp.Diff([]string{fmt.Sprintf("%d:%d", *pod.Spec.SecurityContext.RunAsUser, *pod.Spec.SecurityContext.RunAsGroup)}, image["USER"]); diff != "" {
			t.Errorf("user (-manifest +Dockerfile):\n%s", diff)
		}
		var ports []string
		for _, port := range slices.Sorted(maps.Values(portNames(container))) {
			ports = append(ports, fmt.Sprint(port))
		}
		if diff := cmp.Diff([]string{strings.Join(ports, " ")}, image["EXPOSE"]); diff != "" {
			t.Errorf("ports (-manifest +Dockerfile):\n%s", diff)
		}
		if diff := cmp.Diff([]string{fmt.Sprintf("[%q]", container.Args[0])}, image["CMD"]); diff != "" {
			t.Errorf("command (-manifest +Dockerfile):\n%s", diff)
		}
		for name, container := range ours(c) {
			if len(container.Command) > 0 {
				t.Errorf("%s runs %v, not the image's entry point", name, container.Command)
			}
		}
	})
}

func TestImageHoldsTheProgramAndNothingElse(t *testing.T) {
	t.Parallel()
	image := instructions(t)
	if diff := cmp.Diff([]string{"scratch"}, image["FROM"]); diff != "" {
		t.Errorf("base (-want +Dockerfile):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"--from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"--from=build /out/webhookd /webhookd",
	}, image["COPY"]); diff != "" {
		t.Errorf("files (-want +Dockerfile):\n%s", diff)
	}
	if pinned := regexp.MustCompile(`(?m)^ARG GO_IMAGE=\S+:(\d+\.\d+\.\d+)\S*@sha256:[0-9a-f]{64}$`).FindStringSubmatch(document(t, "Dockerfile")); pinned == nil {
		t.Error("the image that compiles is not pinned")
	} else if least := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(document(t, "go.mod")); pinned[1] < least[1] {
		t.Errorf("the image has Go %s, go.mod wants %s", pinned[1], least[1])
	}
}
