package k8s_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := os.RemoveAll(built.dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// program is the path of webhookd, built for the first test that asks.
func program(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "webhookd-program-"); built.err != nil { //nolint:usetesting // it outlives the test that asks first
			return
		}
		out, err := exec.Command("go", "-C", repository, "build", "-o", built.dir, "./cmd/webhookd").CombinedOutput()
		if err != nil {
			built.err = errors.New(string(out))
		}
	})
	if built.err != nil {
		tb.Fatalf("go build: %v", built.err)
	}
	return filepath.Join(built.dir, "webhookd")
}

// defaults are the variables that the program reads, with their defaults: the
// README's table, which the program's own test compares with its code.
func defaults(tb testing.TB) map[string]string {
	tb.Helper()
	table := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(WEBHOOKD_\\w+)` \\| `?(.*?)`? \\|").FindAllStringSubmatch(document(tb, "README.md"), -1) {
		table[row[1]] = row[2]
	}
	if len(table) < 20 {
		tb.Fatalf("README.md has a table of %d variables", len(table))
	}
	return table
}

func document(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// keyOf is the key of a Secret that holds a variable's value.
func keyOf(variable string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(variable, "WEBHOOKD_"), "_FILE")
	return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
}

// ours are the containers that run webhookd, by pod and name.
func ours(c *cluster) map[string]corev1.Container {
	found := map[string]corev1.Container{}
	for name, pod := range c.pods() {
		for _, container := range containers(pod) {
			if image, _, _ := strings.Cut(path.Base(container.Image), ":"); image == "webhookd" {
				found[name+", container "+container.Name] = container
			}
		}
	}
	return found
}

// environment is what a container of ours is given.
func (c *cluster) environment(container corev1.Container) map[string]string {
	c.Helper()
	env := map[string]string{}
	for _, source := range container.EnvFrom {
		maps.Copy(env, one[*corev1.ConfigMap](c, source.ConfigMapRef.Name).Data)
	}
	for _, v := range container.Env {
		env[v.Name] = v.Value
	}
	return env
}

func TestVariablesAndSecretKeysAreTheProgramsOwn(t *testing.T) {
	t.Parallel()
	known := defaults(t)
	eachVariant(t, func(t *testing.T, c *cluster) {
		for name, container := range ours(c) {
			mounts := []string{}
			for _, m := range container.VolumeMounts {
				mounts = append(mounts, m.MountPath)
			}
			for variable, value := range c.environment(container) {
				if _, ok := known[variable]; !ok {
					t.Errorf("%s: %s is no variable of webhookd", name, variable)
				}
				if !strings.HasSuffix(variable, "_FILE") {
					continue
				}
				dir, key := path.Split(value)
				if key != keyOf(variable) || !slices.Contains(mounts, path.Clean(dir)) {
					t.Errorf("%s: %s is %s: want %s in one of %v", name, variable, value, keyOf(variable), mounts)
				}
			}
		}
		for _, secret := range all[*corev1.Secret](c) {
			if !strings.HasPrefix(secret.Name, "webhookd") {
				continue
			}
			for key := range secret.Data {
				variable := "WEBHOOKD_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_")) + "_FILE"
				if _, ok := known[variable]; !ok {
					t.Errorf("Secret %s has a key %s, and webhookd no %s", secret.Name, key, variable)
				}
			}
		}
	})
}

// TestDocumentedSecretsAreThoseOfTheManifests looks at what docs/kubernetes.md
// tells people to create.
func TestDocumentedSecretsAreThoseOfTheManifests(t *testing.T) {
	t.Parallel()
	want := map[string]bool{}
	for variable := range defaults(t) {
		if strings.HasSuffix(variable, "_FILE") {
			want[keyOf(variable)] = true
		}
	}
	got := map[string]bool{}
	for _, m := range regexp.MustCompile(`create secret generic webhookd(?:-migrate)? (?:[^\n\\]|\\\n)*`).FindAllString(document(t, "docs/kubernetes.md"), -1) {
		for _, key := range regexp.MustCompile(`--from-(?:file|literal)=([\w-]+)=`).FindAllStringSubmatch(m, -1) {
			got[key[1]] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys of secrets (-webhookd +docs/kubernetes.md):\n%s", diff)
	}
}

// run is a container of ours, run here with what the cluster would give it:
// files of secrets that lead to no database, and addresses of its own.
func (c *cluster) run(container corev1.Container) (*exec.Cmd, *bytes.Buffer) {
	c.Helper()
	secrets := map[string]string{
		"database-url":           "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1",
		"migrate-database-url":   "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1",
		"stripe-webhook-secrets": "main=whsec_example",
		"stripe-api-keys":        "rk_live_example",
	}
	dir := c.TempDir()
	cmd := exec.Command(program(c), container.Args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	env := c.environment(container)
	for variable, value := range env {
		if strings.HasSuffix(variable, "_FILE") {
			key := path.Base(value)
			if secrets[key] == "" {
				c.Fatalf("%s names %s, of which this test knows no value", variable, key)
			}
			value = filepath.Join(dir, key)
			if err := os.WriteFile(value, []byte(secrets[key]), 0o600); err != nil {
				c.Fatal(err)
			}
		}
		cmd.Env = append(cmd.Env, variable+"="+value)
	}
	cmd.Env = append(cmd.Env, "WEBHOOKD_LISTEN_ADDR=127.0.0.1:0", "WEBHOOKD_ADMIN_ADDR=127.0.0.1:0")
	log := new(bytes.Buffer)
	cmd.Stderr = log
	return cmd, log
}

// TestProgramTakesWhatItsContainersAreGiven runs each command to its end, which
// is that there is no database (1), and never wrong usage or configuration (2).
func TestProgramTakesWhatItsContainersAreGiven(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		for name, container := range ours(c) {
			if container.Args[0] == "serve" {
				continue // TestProbesAskTheProgram
			}
			cmd, log := c.run(container)
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Contains(log.String(), "no variable of webhookd") {
				t.Errorf("%s: %v: %v\n%s", name, container.Args, err, log)
			}
		}
	})
}

// TestProbesAskTheProgram starts the service as its container would, and asks it
// what the cluster asks.
func TestProbesAskTheProgram(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		_, container := c.webhookd()
		cmd, _ := c.run(container)
		reader, writer := io.Pipe()
		cmd.Stderr = writer
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it is killed
			_ = writer.Close()
			close(ended)
		}()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })

		var serving struct{ Msg, Listen, Admin, Path string }
		var log strings.Builder
		for lines := json.NewDecoder(io.TeeReader(reader, &log)); serving.Msg != "serving"; {
			if err := lines.Decode(&serving); err != nil {
				t.Fatalf("webhookd serve: %v\n%s", err, log.String())
			}
		}
		if strings.Contains(log.String(), "no variable of webhookd") {
			t.Errorf("webhookd serve: %s", log.String())
		}
		go func() { _, _ = io.Copy(io.Discard, reader) }() // it must not wait for this test

		ask := func(method, address, where string, want int) string {
			q, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+where, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			client := http.Client{Timeout: time.Minute}
			answer, err := client.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			text, err := io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != want {
				t.Errorf("%s %s: %d %s (%v), want %d", method, where, answer.StatusCode, text, err, want)
			}
			return string(text)
		}
		ask(http.MethodGet, serving.Admin, container.StartupProbe.HTTPGet.Path, http.StatusOK)
		ask(http.MethodGet, serving.Admin, container.LivenessProbe.HTTPGet.Path, http.StatusOK)
		if text := ask(http.MethodGet, serving.Admin, container.ReadinessProbe.HTTPGet.Path, http.StatusServiceUnavailable); !strings.Contains(text, `"ready":false`) {
			t.Errorf("the readiness probe is told %s", text)
		}
		ask(http.MethodGet, serving.Admin, "/metrics", http.StatusOK)
		for _, i := range all[*networkingv1.Ingress](c) {
			for _, where := range i.Spec.Rules[0].HTTP.Paths {
				ask(http.MethodPost, serving.Listen, where.Path, http.StatusBadRequest) // not signed
			}
		}
	})
}

// setting is a value of the ConfigMap, or the program's default.
func (c *cluster) setting(variable string) string {
	c.Helper()
	if text, ok := c.settings()[variable]; ok {
		return text
	}
	text, ok := defaults(c)[variable]
	if !ok {
		c.Fatalf("webhookd has no %s", variable)
	}
	return text
}

func (c *cluster) duration(variable string) time.Duration {
	c.Helper()
	d, err := time.ParseDuration(c.setting(variable))
	if err != nil {
		c.Fatal(err)
	}
	return d
}

func TestPortsAreTheProgramsOwn(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		_, container := c.webhookd()
		got := map[string]string{}
		for name, port := range portNames(container) {
			got[name] = ":" + strconv.Itoa(int(port))
		}
		want := map[string]string{"http": c.setting("WEBHOOKD_LISTEN_ADDR"), "admin": c.setting("WEBHOOKD_ADMIN_ADDR")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ports (-webhookd +manifest):\n%s", diff)
		}
		for what, probe := range map[string]*corev1.Probe{
			"startup": container.StartupProbe, "readiness": container.ReadinessProbe, "liveness": container.LivenessProbe,
		} {
			if port := probe.HTTPGet.Port; port != intstr.FromString("admin") {
				t.Errorf("the %s probe asks port %s", what, port.String())
			}
		}
		service := one[*corev1.Service](c, "webhookd")
		if len(service.Spec.Ports) != 1 || service.Spec.Ports[0].TargetPort != intstr.FromString("http") {
			t.Errorf("the Service leads to %v", service.Spec.Ports)
		}
	})
}

func TestPodsHaveTimeToDrain(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		pod, container := c.webhookd()
		want := c.duration("WEBHOOKD_DRAIN_DELAY") + c.duration("WEBHOOKD_SHUTDOWN_TIMEOUT") + 5*time.Second
		if got := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second; got != want {
			t.Errorf("terminationGracePeriodSeconds is %v, want DRAIN_DELAY + SHUTDOWN_TIMEOUT + 5 = %v", got, want)
		}
		// A replica that drains is unready before it stops taking deliveries.
		probe := container.ReadinessProbe
		if notice := time.Duration(probe.PeriodSeconds*probe.FailureThreshold) * time.Second; notice >= c.duration("WEBHOOKD_DRAIN_DELAY") {
			t.Errorf("it takes %v to see that a replica drains", notice)
		}
	})
}

// TestReplicasStayUnderStripesRate counts everything that may read at once: all
// replicas, those that come while others go, and each CronJob.
func TestReplicasStayUnderStripesRate(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		d := one[*appsv1.Deployment](c, "webhookd")
		replicas := *d.Spec.Replicas
		if h := all[*autoscalingv2.HorizontalPodAutoscaler](c)["webhookd"]; h != nil {
			replicas = h.Spec.MaxReplicas
			if replicas > 4 || *h.Spec.MinReplicas != *d.Spec.Replicas {
				t.Errorf("scales from %d to %d", *h.Spec.MinReplicas, replicas)
			}
		}
		readers := int(replicas) + d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue() + len(all[*batchv1.CronJob](c))
		rate, err := strconv.ParseFloat(c.setting("WEBHOOKD_API_RATE"), 64)
		if err != nil {
			t.Fatal(err)
		}
		if sum := rate * float64(readers); sum >= 25 {
			t.Errorf("%d processes read %v times a second: Stripe allows 25", readers, sum)
		}
	})
}

func TestProductionTakesLiveEventsOnly(t *testing.T) {
	t.Parallel()
	c := build(t, manifests+"/overlays/production")
	if mode := c.setting("WEBHOOKD_LIVEMODE"); mode != "live" {
		t.Errorf("WEBHOOKD_LIVEMODE is %s", mode)
	}
	if n := len(all[*corev1.Secret](c)); n > 0 {
		t.Errorf("%d secrets stand in the repository", n)
	}
}

func TestReconcileRunsOnce(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		_, job := all[*batchv1.CronJob](c)["webhookd-reconcile"]
		if off := c.setting("WEBHOOKD_RECONCILE_EVERY") == "0"; off != job {
			t.Errorf("the periodic job is off: %v; a CronJob is there: %v", off, job)
		}
	})
}

// A CronJob that failed for longer than a fixed --since would never read what
// came meanwhile.
func TestReconcileLooksBackToTheLastCompleteRun(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		job, there := all[*batchv1.CronJob](c)["webhookd-reconcile"]
		if !there {
			return
		}
		if got := job.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args; !slices.Equal(got, []string{"reconcile"}) {
			t.Errorf("the CronJob runs %q", got)
		}
	})
}

func TestIngressTakesWhatTheProgramTakes(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		for name, i := range all[*networkingv1.Ingress](c) {
			for _, rule := range i.Spec.Rules {
				if len(i.Spec.TLS) == 0 || !slices.Contains(i.Spec.TLS[0].Hosts, rule.Host) {
					t.Errorf("Ingress %s: %s is served without TLS", name, rule.Host)
				}
				for _, where := range rule.HTTP.Paths {
					if where.Path != c.setting("WEBHOOKD_WEBHOOK_PATH") || *where.PathType != networkingv1.PathTypeExact {
						t.Errorf("Ingress %s lets %s (%s) in", name, where.Path, *where.PathType)
					}
				}
				if url := c.settings()["WEBHOOKD_PUBLIC_URL"]; url != "" && url != "https://"+rule.Host+rule.HTTP.Paths[0].Path {
					t.Errorf("WEBHOOKD_PUBLIC_URL is %s, Ingress %s is https://%s%s", url, name, rule.Host, rule.HTTP.Paths[0].Path)
				}
			}
			limits := 0
			for annotation, size := range i.Annotations {
				if !strings.HasSuffix(annotation, "body-size") {
					continue
				}
				limits++
				if want := strings.ToLower(strings.TrimSuffix(c.setting("WEBHOOKD_MAX_BODY_BYTES"), "iB")); size != want {
					t.Errorf("Ingress %s: %s is %s, WEBHOOKD_MAX_BODY_BYTES %s", name, annotation, size, c.setting("WEBHOOKD_MAX_BODY_BYTES"))
				}
			}
			if limits == 0 {
				t.Errorf("Ingress %s does not limit bodies", name)
			}
		}
	})
}
