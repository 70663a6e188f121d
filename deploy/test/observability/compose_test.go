package observability_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"sigs.k8s.io/yaml"
)

func TestTheComposeFileIsOneAndMountsWhatExists(t *testing.T) {
	t.Parallel()
	options, err := cli.NewProjectOptions([]string{filepath.Join(repository, "deploy", "compose.yaml")},
		cli.WithEnv([]string{"WEBHOOKD_STRIPE_WEBHOOK_SECRETS=whsec_x"}))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	variables := string(read(t, "README.md"))
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if _, err := os.Stat(volume.Source); volume.Type == "bind" && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for variable := range service.Environment {
			if strings.HasPrefix(variable, "WEBHOOKD_") && !strings.Contains(variables, "| `"+variable+"` |") {
				t.Errorf("%s: there is no variable %s", name, variable)
			}
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s can be reached from elsewhere: %+v", name, port)
			}
		}
		if service.Build != nil {
			if _, err := os.Stat(filepath.Join(service.Build.Context, "Dockerfile")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Grafana finds the data sources of the dashboards by their types.
func TestProvisionedDataSourcesAreThoseOfTheDashboards(t *testing.T) {
	t.Parallel()
	var provisioned struct {
		Datasources []struct{ Name, Type string }
	}
	if err := yaml.Unmarshal(read(t, "deploy", "grafana", "provisioning", "datasources", "webhookd.yaml"), &provisioned); err != nil {
		t.Fatal(err)
	}
	types := map[string]bool{}
	for _, d := range provisioned.Datasources {
		types[d.Type] = true
	}
	for name, kind := range kinds {
		if !types[kind] {
			t.Errorf("%s has no data source of type %s", name, kind)
		}
	}
}
