// Package k8s_test judges what deploy/k8s becomes: by the types of Kubernetes'
// own API, by its own pod security standard, and by the program that the
// manifests are to run.
package k8s_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	repository = "../../.."
	manifests  = repository + "/deploy/k8s"
)

// variants are the kustomizations that somebody applies, and one of everything.
func variants(tb testing.TB) map[string]string {
	tb.Helper()
	found := map[string]string{"everything": "testdata/everything"}
	overlays, err := os.ReadDir(manifests + "/overlays")
	if err != nil {
		tb.Fatal(err)
	}
	for _, o := range overlays {
		found[o.Name()] = manifests + "/overlays/" + o.Name()
	}
	return found
}

// eachVariant runs a test for each of them.
func eachVariant(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Helper()
	for name, dir := range variants(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, build(t, dir))
		})
	}
}

// cluster is what a kustomization makes.
type cluster struct {
	testing.TB
	objects []runtime.Object
}

// builds keeps what was decoded, for the tests to read.
var builds struct {
	sync.Mutex
	objects map[string][]runtime.Object
}

// build runs kustomize, once, and decodes what it made. A field that Kubernetes
// does not know, or that stands there twice, ends the test.
func build(tb testing.TB, dir string) *cluster {
	tb.Helper()
	builds.Lock()
	defer builds.Unlock()
	if builds.objects == nil {
		builds.objects = map[string][]runtime.Object{}
	}
	if _, done := builds.objects[dir]; !done {
		builds.objects[dir] = decode(tb, dir)
	}
	return &cluster{TB: tb, objects: builds.objects[dir]}
}

func decode(tb testing.TB, dir string) (objects []runtime.Object) {
	tb.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		tb.Fatalf("kustomize build %s: %v", dir, err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, autoscalingv2.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme,
		networkingv1.AddToScheme, policyv1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			tb.Fatal(err)
		}
	}
	strict := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, resource := range made.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			tb.Fatal(err)
		}
		object, _, err := strict.Decode(text, nil, nil)
		if err != nil {
			tb.Fatalf("%s: %v", resource.CurId(), err)
		}
		objects = append(objects, object)
	}
	return objects
}

// all are the objects of a kind, by their names.
func all[T metav1.Object](c *cluster) map[string]T {
	found := map[string]T{}
	for _, o := range c.objects {
		if object, ok := o.(T); ok {
			found[object.GetName()] = object
		}
	}
	return found
}

// one is the object of a kind with that name.
func one[T metav1.Object](c *cluster, name string) T {
	c.Helper()
	object, ok := all[T](c)[name]
	if !ok {
		c.Fatalf("there is no %T %s", object, name)
	}
	return object
}

// settings are the ConfigMap that webhookd's containers take over.
func (c *cluster) settings() map[string]string {
	c.Helper()
	for name, m := range all[*corev1.ConfigMap](c) {
		if strings.HasPrefix(name, "webhookd-") && m.Data["WEBHOOKD_DRAIN_DELAY"] != "" {
			return m.Data
		}
	}
	c.Fatal("there is no ConfigMap of webhookd's")
	return nil
}

// pods are what the cluster would start, by kind and name.
func (c *cluster) pods() map[string]corev1.PodTemplateSpec {
	found := map[string]corev1.PodTemplateSpec{}
	for name, o := range all[*appsv1.Deployment](c) {
		found["Deployment "+name] = o.Spec.Template
	}
	for name, o := range all[*appsv1.StatefulSet](c) {
		found["StatefulSet "+name] = o.Spec.Template
	}
	for name, o := range all[*batchv1.CronJob](c) {
		found["CronJob "+name] = o.Spec.JobTemplate.Spec.Template
	}
	return found
}

// webhookd is the container that takes deliveries.
func (c *cluster) webhookd() (corev1.PodTemplateSpec, corev1.Container) {
	c.Helper()
	pod := one[*appsv1.Deployment](c, "webhookd").Spec.Template
	for _, container := range pod.Spec.Containers {
		if container.Name == "webhookd" {
			return pod, container
		}
	}
	c.Fatal("the Deployment has no container webhookd")
	return corev1.PodTemplateSpec{}, corev1.Container{}
}

func containers(pod corev1.PodTemplateSpec) []corev1.Container {
	return slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
}

func portNames(container corev1.Container) map[string]int32 {
	names := map[string]int32{}
	for _, p := range container.Ports {
		names[p.Name] = p.ContainerPort
	}
	return names
}

func TestOnlyTheVariantsNameTheirNamespace(t *testing.T) {
	t.Parallel()
	for _, o := range build(t, manifests+"/base").objects {
		if object := o.(metav1.Object); object.GetNamespace() != "" {
			t.Errorf("base: %T %s stands in a namespace", o, object.GetName())
		}
	}
	eachVariant(t, func(t *testing.T, c *cluster) {
		for _, o := range c.objects {
			_, isNamespace := o.(*corev1.Namespace)
			if object := o.(metav1.Object); object.GetNamespace() == "" && !isNamespace {
				t.Errorf("%T %s stands in no namespace", o, object.GetName())
			}
		}
	})
}

func TestEveryComponentIsBuilt(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/everything/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	components, err := filepath.Glob(manifests + "/components/*")
	if err != nil || len(components) == 0 {
		t.Fatalf("components: %v", err)
	}
	for _, dir := range components {
		if !strings.Contains(string(text), "k8s/components/"+filepath.Base(dir)+"\n") {
			t.Errorf("%s is not in testdata/everything", dir)
		}
	}
}

func TestWhatANameMeansIsThere(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		pods := c.pods()
		selected := func(what string, selector labels.Selector) {
			for _, pod := range pods {
				if selector.Matches(labels.Set(pod.Labels)) {
					return
				}
			}
			t.Errorf("%s selects no pod", what)
		}
		portOf := func(what string, selector labels.Selector, port string) {
			for _, pod := range pods {
				for _, container := range pod.Spec.Containers {
					if _, ok := portNames(container)[port]; ok && selector.Matches(labels.Set(pod.Labels)) {
						return
					}
				}
			}
			t.Errorf("%s: no pod that it selects has a port %s", what, port)
		}
		by := func(s *metav1.LabelSelector) labels.Selector {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			return selector
		}

		services := all[*corev1.Service](c)
		for name, s := range services {
			for _, p := range s.Spec.Ports {
				if port := p.TargetPort.StrVal; port != "" {
					portOf("Service "+name, labels.SelectorFromSet(s.Spec.Selector), port)
				}
			}
		}
		for name, b := range all[*policyv1.PodDisruptionBudget](c) {
			selected("PodDisruptionBudget "+name, by(b.Spec.Selector))
		}
		for name, m := range all[*monitoringv1.PodMonitor](c) {
			for _, e := range m.Spec.PodMetricsEndpoints {
				portOf("PodMonitor "+name, by(&m.Spec.Selector), *e.Port)
			}
		}
		for name, p := range all[*networkingv1.NetworkPolicy](c) {
			selected("NetworkPolicy "+name, by(&p.Spec.PodSelector))
			for _, rule := range p.Spec.Ingress {
				for _, port := range rule.Ports {
					portOf("NetworkPolicy "+name, by(&p.Spec.PodSelector), port.Port.StrVal)
				}
			}
			if len(p.Spec.PolicyTypes) != 2 {
				t.Errorf("NetworkPolicy %s leaves a direction open", name)
			}
		}
		for name, h := range all[*autoscalingv2.HorizontalPodAutoscaler](c) {
			if ref := h.Spec.ScaleTargetRef; ref.Kind != "Deployment" || all[*appsv1.Deployment](c)[ref.Name] == nil {
				t.Errorf("HorizontalPodAutoscaler %s scales nothing", name)
			}
		}
		for name, i := range all[*networkingv1.Ingress](c) {
			for _, rule := range i.Spec.Rules {
				for _, path := range rule.HTTP.Paths {
					service := services[path.Backend.Service.Name]
					if service == nil || service.Spec.Ports[0].Name != path.Backend.Service.Port.Name {
						t.Errorf("Ingress %s leads nowhere: %v", name, path.Backend.Service)
					}
				}
			}
		}
		for name, pod := range pods {
			probed := 0
			for _, container := range pod.Spec.Containers {
				for _, probe := range []*corev1.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe} {
					if probe == nil {
						continue
					}
					probed++
					port := ""
					switch {
					case probe.HTTPGet != nil:
						port = probe.HTTPGet.Port.StrVal
					case probe.TCPSocket != nil:
						port = probe.TCPSocket.Port.StrVal
					default:
						continue
					}
					if _, ok := portNames(container)[port]; !ok {
						t.Errorf("%s: container %s is probed at a port %s, which it does not have", name, container.Name, port)
					}
				}
			}
			if probed == 0 && !strings.HasPrefix(name, "CronJob ") {
				t.Errorf("%s is not probed", name)
			}
			for _, constraint := range pod.Spec.TopologySpreadConstraints {
				if !by(constraint.LabelSelector).Matches(labels.Set(pod.Labels)) {
					t.Errorf("%s is spread among others than itself", name)
				}
			}
			if account := pod.Spec.ServiceAccountName; account != "" {
				one[*corev1.ServiceAccount](c, account)
			}
			for _, v := range pod.Spec.Volumes {
				if v.ConfigMap != nil {
					one[*corev1.ConfigMap](c, v.ConfigMap.Name)
				}
			}
		}
	})
}

func TestDeploymentRollsWithoutAGap(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		d := one[*appsv1.Deployment](c, "webhookd")
		rolling := d.Spec.Strategy.RollingUpdate
		if *d.Spec.Replicas != 2 || rolling.MaxUnavailable.IntValue() != 0 || rolling.MaxSurge.IntValue() != 1 {
			t.Errorf("%d replicas, %v unavailable, %v more", *d.Spec.Replicas, rolling.MaxUnavailable, rolling.MaxSurge)
		}
		topologies := map[string]bool{}
		for _, constraint := range d.Spec.Template.Spec.TopologySpreadConstraints {
			topologies[constraint.TopologyKey] = true
		}
		if !topologies[corev1.LabelHostname] || !topologies[corev1.LabelTopologyZone] {
			t.Errorf("spread over %v", slices.Sorted(maps.Keys(topologies)))
		}
		if limit := one[*policyv1.PodDisruptionBudget](c, "webhookd").Spec.MaxUnavailable.IntValue(); limit != 1 {
			t.Errorf("%d pods may go at once", limit)
		}
	})
}

func TestImagesArePinned(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, c *cluster) {
		for name, pod := range c.pods() {
			for _, container := range containers(pod) {
				_, tag, ok := strings.Cut(container.Image[strings.LastIndexByte(container.Image, '/')+1:], ":")
				if !ok || tag == "latest" {
					t.Errorf("%s: container %s runs %s, whatever that is tomorrow", name, container.Name, container.Image)
				}
			}
		}
	})
}
