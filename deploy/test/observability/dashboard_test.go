package observability_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type board struct {
	UID, Title, Description string
	SchemaVersion           int
	Links                   []link
	Templating              struct {
		List []struct{ Name, Type string }
	}
	Annotations struct {
		List []struct {
			Name, Expr string
			Datasource source
		}
	}
	Panels []boardPanel
}

type boardPanel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               source
	Targets                  []struct {
		RefID, Expr, LegendFormat, RawSQL string
		Datasource                        source
	}
	FieldConfig struct {
		Defaults  struct{ Unit string }
		Overrides []json.RawMessage
	}
	Links []link
}

type (
	source struct{ Type, UID string }
	link   struct{ Title, URL string }
)

func dashboard(tb testing.TB, name string) (d board) {
	tb.Helper()
	if err := json.Unmarshal(read(tb, "deploy", "grafana", name), &d); err != nil {
		tb.Fatal(err)
	}
	return d
}

var kinds = map[string]string{"webhookd.json": "prometheus", "postgres.json": "grafana-postgresql-datasource"}

func TestDashboardsCanBeImportedAnywhereAndExplainThemselves(t *testing.T) {
	t.Parallel()
	uids := map[string]bool{}
	for name, kind := range kinds {
		d := dashboard(t, name)
		if d.UID == "" || uids[d.UID] || d.SchemaVersion < 39 || d.SchemaVersion > 41 || d.Description == "" {
			t.Errorf("%s: uid %q, schemaVersion %d, description %q", name, d.UID, d.SchemaVersion, d.Description)
		}
		uids[d.UID] = true
		sources, variables := 0, []string{}
		for _, v := range d.Templating.List {
			variables = append(variables, v.Name)
			if v.Type == "datasource" {
				sources++
			}
		}
		if want := []string{"datasource", "livemode"}; sources != 1 || slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(variables, w) }) {
			t.Errorf("%s: variables %v, %d of them data sources", name, variables, sources)
		}
		if name == "webhookd.json" && (!slices.Contains(variables, "job") || !slices.Contains(variables, "namespace")) {
			t.Errorf("%s: variables %v", name, variables)
		}
		for _, used := range regexp.MustCompile(`\$\{?([a-z]\w*)`).FindAllStringSubmatch(string(read(t, "deploy", "grafana", name)), -1) {
			if !slices.Contains(variables, used[1]) {
				t.Errorf("%s: there is no variable %s", name, used[0])
			}
		}
		ids, titles, taken := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			if p.ID == 0 || ids[p.ID] || titles[p.Title] || p.Title == "" {
				t.Errorf("%s: panel %d %q is not the only one of that id and title", name, p.ID, p.Title)
			}
			ids[p.ID], titles[p.Title] = true, true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
						t.Fatalf("%s: %q lies on %q or off the grid", name, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if !slices.Contains([]string{"timeseries", "stat", "table"}, p.Type) {
				t.Errorf("%s: %q is a %s", name, p.Title, p.Type)
			}
			if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Links) == 0 || len(p.Targets) == 0 {
				t.Errorf("%s: %q has no description, unit, link or query", name, p.Title)
			}
			refs := map[string]bool{}
			for _, q := range p.Targets {
				if q.Datasource != (source{kind, "${datasource}"}) || q.Datasource != p.Datasource || refs[q.RefID] {
					t.Errorf("%s: %q, %s: %+v", name, p.Title, q.RefID, q.Datasource)
				}
				refs[q.RefID] = true
			}
		}
		for _, a := range d.Annotations.List {
			if a.Datasource != (source{kind, "${datasource}"}) {
				t.Errorf("%s: annotation %q: %+v", name, a.Name, a.Datasource)
			}
		}
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	inLink  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// anchors are those that GitHub makes of a page's headings.
func anchors(text []byte) (all []string) {
	for _, m := range heading.FindAllSubmatch(text, -1) {
		a := strings.ToLower(string(m[1]))
		a = regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(a, "")
		all = append(all, strings.ReplaceAll(a, " ", "-"))
	}
	return all
}

// leads reports whether a page of the repository, and its part, exist.
func leads(tb testing.TB, to string) bool {
	tb.Helper()
	file, part, _ := strings.Cut(to, "#")
	info, err := os.Stat(path.Join(repository, file))
	if err != nil {
		return false
	}
	return info.IsDir() || part == "" || slices.Contains(anchors(read(tb, file)), part)
}

func TestLinksOfPanelsLeadSomewhere(t *testing.T) {
	t.Parallel()
	for name := range kinds {
		d := dashboard(t, name)
		all := slices.Clone(d.Links)
		for _, p := range d.Panels {
			all = append(all, p.Links...)
		}
		for _, l := range all {
			page, ok := strings.CutPrefix(l.URL, "${docs}/")
			board, here := strings.CutPrefix(l.URL, "/d/")
			switch {
			case ok && leads(t, path.Join("docs", page)):
			case here && (board == "webhookd" || board == "webhookd-postgres"):
			default:
				t.Errorf("%s: %q leads to %s", name, l.Title, l.URL)
			}
		}
	}
}

func TestPagesOfTheOperatorLinkOnlyToWhatExists(t *testing.T) {
	t.Parallel()
	for _, page := range operatorPages(t) {
		text := read(t, page)
		for _, m := range inLink.FindAllSubmatch(text, -1) {
			to := string(m[1])
			if strings.Contains(to, "://") {
				continue
			}
			if strings.HasPrefix(to, "#") {
				to = path.Base(page) + to
			}
			if !leads(t, path.Join(path.Dir(page), to)) {
				t.Errorf("%s links to %s", page, m[1])
			}
		}
	}
}

// operatorPages are the runbook and the pages of alerts.
func operatorPages(tb testing.TB) []string {
	tb.Helper()
	entries, err := os.ReadDir(path.Join(repository, "docs", "alerts"))
	if err != nil {
		tb.Fatal(err)
	}
	pages := []string{"docs/runbook.md", "docs/night.md"}
	for _, e := range entries {
		pages = append(pages, "docs/alerts/"+e.Name())
	}
	return pages
}

// Commands are told by the README, which a test of cmd/webhookd keeps true.
func TestPagesOfTheOperatorNameOnlyCommandsThatExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `webhookd ([a-z]+)").FindAllSubmatch(read(t, "README.md"), -1) {
		known[string(m[1])] = true
	}
	command := regexp.MustCompile("(?m)(?:^|`|&& |-- |bin/)webhookd ([a-z-]+)")
	pages := operatorPages(t)
	for name := range kinds {
		pages = append(pages, "deploy/grafana/"+name)
	}
	for _, page := range pages {
		var code []byte // prose may say what webhookd does
		for i, part := range bytes.Split(read(t, page), []byte("```")) {
			if i%2 == 1 {
				code = append(code, part...)
				continue
			}
			for _, m := range regexp.MustCompile("`[^`\n]+`").FindAll(part, -1) {
				code = append(append(code, '\n'), m...)
			}
		}
		for _, m := range command.FindAllSubmatch(code, -1) {
			if !known[string(m[1])] {
				t.Errorf("%s: there is no webhookd %s", page, m[1])
			}
		}
	}
}
