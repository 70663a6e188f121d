package k8s_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// TestPodsAreRestricted asks the code that admits pods.
func TestPodsAreRestricted(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	eachVariant(t, func(t *testing.T, c *cluster) {
		for name, ns := range all[*corev1.Namespace](c) {
			if level := ns.Labels[api.EnforceLevelLabel]; level != string(api.LevelRestricted) {
				t.Errorf("namespace %s enforces %q", name, level)
			}
		}
		for name, pod := range c.pods() {
			for _, result := range evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec) {
				if !result.Allowed {
					t.Errorf("%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail)
				}
			}
			// What is asked for beyond the standard.
			if mounts := pod.Spec.AutomountServiceAccountToken; mounts == nil || *mounts {
				t.Errorf("%s has a service account's token", name)
			}
			if links := pod.Spec.EnableServiceLinks; links == nil || *links {
				t.Errorf("%s gets a variable for each Service", name)
			}
			for _, container := range containers(pod) {
				if readOnly := container.SecurityContext.ReadOnlyRootFilesystem; readOnly == nil || !*readOnly {
					t.Errorf("%s: container %s can write to its root", name, container.Name)
				}
				for _, amount := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					request, limit := container.Resources.Requests[amount], container.Resources.Limits[amount]
					if request.IsZero() || limit.Cmp(request) < 0 {
						t.Errorf("%s: container %s requests %v of %s, limit %v", name, container.Name, &request, amount, &limit)
					}
				}
			}
		}
	})
}

// TestSecretsRoll because they are files of a whole volume: a subPath and a
// variable keep what they had at the start.
func TestSecretsRoll(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		for name, pod := range c.pods() {
			for _, container := range containers(pod) {
				for _, m := range container.VolumeMounts {
					if m.SubPath != "" || m.SubPathExpr != "" {
						t.Errorf("%s: container %s mounts a part of %s", name, container.Name, m.Name)
					}
				}
				for _, source := range container.EnvFrom {
					if source.SecretRef != nil {
						t.Errorf("%s: container %s has secrets as variables", name, container.Name)
					}
				}
				for _, v := range container.Env {
					if v.ValueFrom != nil {
						t.Errorf("%s: container %s: %s is no plain value", name, container.Name, v.Name)
					}
				}
			}
		}
	})
}
