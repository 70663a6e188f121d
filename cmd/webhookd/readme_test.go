package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"webhookd/internal/pgdev/pgtest"
)

var update = flag.Bool("update", false, "write what code generates into the documents")

const repository = "../.."

// TestReadmeIsWhatTheCodeSays compares each part of a document between
// <!-- NAME:begin --> and <!-- NAME:end --> with what code says there.
func TestReadmeIsWhatTheCodeSays(t *testing.T) { //nolint:paralleltest // with -update it writes files that others read
	parts := map[string]struct{ file, want string }{
		"config":       {"README.md", configTable()},
		"commands":     {"README.md", commandTable(newRootCommand())},
		"metrics":      {"README.md", metricTable(metricsPage(t))},
		"dependencies": {"docs/dependencies.md", dependencyTable(t)},
		"consumer":     {"docs/consume.md", "```go\n" + region(t, "internal/repo/example_consumer_test.go") + "```\n"},
	}
	for name, part := range parts { //nolint:paralleltest // likewise
		t.Run(name, func(t *testing.T) {
			text := document(t, part.file)
			begin, end := "<!-- "+name+":begin -->\n", "<!-- "+name+":end -->"
			before, rest, ok1 := strings.Cut(text, begin)
			got, after, ok2 := strings.Cut(rest, end)
			if !ok1 || !ok2 {
				t.Fatalf("%s has no part %s", part.file, name)
			}
			if *update {
				file := filepath.Join(repository, part.file)
				if err := os.WriteFile(file, []byte(before+begin+part.want+end+after), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(part.want, got); diff != "" {
				t.Errorf("%s is behind the code: run make generate (-code +document)\n%s", part.file, diff)
			}
		})
	}
}

// metricsPage is /metrics of a service that has done nothing yet.
func metricsPage(tb testing.TB) string {
	tb.Helper()
	return begin(tb, "postgres://nobody@127.0.0.1:1/nothing").get("/metrics").Body
}

var labelName = regexp.MustCompile(`[{,](\w+)="`)

// metricTable lists the families of a page that are webhookd's own.
func metricTable(page string) string {
	type family struct {
		help, kind string
		labels     []string
	}
	families := map[string]*family{}
	of := func(name string) *family {
		if families[name] == nil {
			families[name] = &family{}
		}
		return families[name]
	}
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if help, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, text, _ := strings.Cut(help, " ")
			of(name).help = text
			continue
		}
		if kind, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, text, _ := strings.Cut(kind, " ")
			of(name).kind = text
			continue
		}
		name := line[:strings.IndexAny(line+" ", "{ ")]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); families[base] != nil {
				name = base
			}
		}
		for _, m := range labelName.FindAllStringSubmatch(line, -1) {
			label := "`" + m[1] + "`"
			if f := of(name); m[1] != "le" && !slices.Contains(f.labels, label) {
				f.labels = append(f.labels, label)
			}
		}
	}

	var b strings.Builder
	b.WriteString("| name | type | labels | counts |\n|---|---|---|---|\n")
	var names []string
	for name := range families {
		if strings.HasPrefix(name, "webhookd_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		f := families[name]
		labels := "–"
		if len(f.labels) > 0 {
			labels = strings.Join(f.labels, ", ")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, f.kind, labels, strings.TrimSuffix(f.help, "."))
	}
	return b.String()
}

// commandTable lists what can be run.
func commandTable(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("| command | does |\n|---|---|\n")
	var list func(*cobra.Command)
	list = func(c *cobra.Command) {
		if c.Runnable() {
			_, arguments, _ := strings.Cut(c.Use, " ")
			fmt.Fprintf(&b, "| `%s` | %s |\n", strings.TrimSpace(c.CommandPath()+" "+arguments), c.Short)
		}
		for _, sub := range c.Commands() {
			list(sub)
		}
	}
	list(root)
	return b.String()
}

// region is what stands between docs:begin and docs:end in a Go file.
func region(tb testing.TB, name string) string {
	tb.Helper()
	_, rest, ok1 := strings.Cut(document(tb, name), "// docs:begin\n")
	code, _, ok2 := strings.Cut(rest, "\n// docs:end\n")
	if !ok1 || !ok2 {
		tb.Fatalf("%s has no region docs", name)
	}
	return code
}

func document(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// filesWith lists the files of the product with an extension, as paths with slashes.
func filesWith(tb testing.TB, extension string) (names []string) {
	tb.Helper()
	err := fs.WalkDir(os.DirFS(repository), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || name != "." && strings.HasPrefix(d.Name(), ".") || name == "tools" || name == "bin"):
			return fs.SkipDir
		case path.Ext(name) == extension:
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

func TestReadmeMapHasEveryPackage(t *testing.T) {
	t.Parallel()
	readme := document(t, "README.md")
	for _, name := range filesWith(t, ".go") {
		folder := path.Dir(name)
		if folder != "." && !strings.Contains(readme, "| `"+folder+"/` |") {
			t.Errorf("the map has no line for %s/", folder)
		}
	}
	for _, line := range regexp.MustCompile("(?m)^\\| `([a-z/]+)/` \\|").FindAllStringSubmatch(readme, -1) {
		if info, err := os.Stat(filepath.Join(repository, line[1])); err != nil || !info.IsDir() {
			t.Errorf("the map has a line for %s/, which is not there", line[1])
		}
	}
}

func TestReadmeHasEveryOutcomeAndCode(t *testing.T) {
	t.Parallel()
	readme := document(t, "README.md")
	words := []string{"not_an_event", "body_too_large", "content_encoding", "body_too_slow", "header_too_large", "method_not_allowed", "not_found"}
	for _, m := range regexp.MustCompile(`(?m)^webhookd_(?:deliveries|signature_failures|unavailable)_total{.*(?:outcome|reason)="(\w+)"`).FindAllStringSubmatch(metricsPage(t), -1) {
		words = append(words, m[1])
	}
	_, responses, _ := strings.Cut(readme, "\n## Responses\n")
	responses, _, _ = strings.Cut(responses, "\n## ")
	for _, word := range slices.Compact(slices.Sorted(slices.Values(words))) {
		if word != "refused" && word != "unavailable" && !strings.Contains(responses, "`"+word+"`") {
			t.Errorf("Responses does not have %s", word)
		}
	}
}

var (
	codeBlock  = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	inlineCode = regexp.MustCompile("`([^`\n]+)`")
	mdLink     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, name := range filesWith(t, ".md") {
		for _, m := range mdLink.FindAllStringSubmatch(codeBlock.ReplaceAllString(document(t, name), ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") {
				continue
			}
			to := name
			if target != "" {
				to = path.Join(path.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(repository, to)); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			} else if anchor != "" && !slices.Contains(anchors(document(t, to)), anchor) {
				t.Errorf("%s links to %s: there is no such heading", name, m[1])
			}
		}
	}
}

// anchors are the names of a document's headings, as hosts of repositories make them.
func anchors(text string) (names []string) {
	for line := range strings.Lines(codeBlock.ReplaceAllString(text, "")) {
		if marks := strings.TrimLeft(line, "#"); len(marks) < len(line) && strings.HasPrefix(marks, " ") {
			names = append(names, strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
					return unicode.ToLower(r)
				}
				return -1
			}, strings.TrimSpace(marks)))
		}
	}
	return names
}

// TestDocumentsNameWhatCanBeRun looks at what stands in code: blocks of sh and
// console, and words in backquotes.
func TestDocumentsNameWhatCanBeRun(t *testing.T) {
	t.Parallel()
	makefile, root := document(t, "Makefile"), newRootCommand()
	target := regexp.MustCompile(`(?m)(?:^|[;&|] *)make ([a-z][a-z0-9-]*)`)
	command := regexp.MustCompile(`(?m)(?:^|[;&|$] *)(?:bin/)?webhookd ([a-z]+)(?: ([a-z]+))?`)
	for _, name := range filesWith(t, ".md") {
		text := document(t, name)
		var code []string
		for _, m := range codeBlock.FindAllStringSubmatch(text, -1) {
			if m[1] == "sh" || m[1] == "console" {
				code = append(code, m[2])
			}
		}
		for _, m := range inlineCode.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			code = append(code, m[1])
		}
		for _, c := range code {
			for _, m := range target.FindAllStringSubmatch(c, -1) {
				if !strings.Contains(makefile, "\n"+m[1]+":") {
					t.Errorf("%s names make %s, which is no target", name, m[1])
				}
			}
			for _, m := range command.FindAllStringSubmatch(c, -1) {
				found, _, err := root.Find(m[1:2])
				if err == nil && found.HasSubCommands() && !found.Runnable() && m[2] != "" {
					found, _, err = found.Find(m[2:3])
				}
				if err != nil || !found.Runnable() {
					t.Errorf("%s names %q, which is no command", name, strings.TrimSpace(m[0]))
				}
			}
		}
	}
}

// TestDocumentsAskTheSchemaForWhatItHas prepares each statement that a block of
// sql or a psql -c holds.
func TestDocumentsAskTheSchemaForWhatItHas(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Database(t))
	command := regexp.MustCompile(`(?s)\bpsql [^\n]*?-c (?:"([^"]+)"|'([^']+)')`)
	asked := 0
	for _, name := range filesWith(t, ".md") {
		text := document(t, name)
		var all []string
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			all = append(all, m[1]+m[2])
		}
		for _, m := range codeBlock.FindAllStringSubmatch(text, -1) {
			if m[1] == "sql" {
				all = append(all, strings.Split(m[2], ";\n")...)
			}
		}
		for _, sql := range all {
			if strings.TrimSpace(sql) == "" || strings.Contains(sql, "…") {
				continue
			}
			asked++
			if _, err := conn.Prepare(t.Context(), "", sql); err != nil {
				t.Errorf("%s says %s\n%v", name, sql, err)
			}
		}
	}
	if asked < 10 {
		t.Errorf("only %d statements were found", asked)
	}
}

// What stands in a help text, or before a = in a document, is tried as it stands.
func TestVariablesAreNamedAsTheyAreRead(t *testing.T) {
	t.Parallel()
	var bare []string
	for _, name := range variables() {
		if name = strings.TrimPrefix(name, envPrefix+"_"); name != "DATABASE_URL" {
			bare = append(bare, name)
		}
	}
	named := regexp.MustCompile(`(?:^|[^A-Z_])(` + strings.Join(bare, "|") + `)(?:[^A-Z_]|$)`)
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		if m := named.FindStringSubmatch(c.Long + "\n" + c.Example + "\n" + c.Flags().FlagUsages()); m != nil {
			t.Errorf("%s --help names %s without its prefix", c.CommandPath(), m[1])
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(newRootCommand())

	assigned := regexp.MustCompile(`(?m)(?:^|[^A-Z_])(` + strings.Join(bare, "|") + `)=`)
	for _, name := range filesWith(t, ".md") {
		if m := assigned.FindStringSubmatch(document(t, name)); m != nil {
			t.Errorf("%s assigns to %s, which nothing reads", name, m[1])
		}
	}
}

func TestReadmeCallsNothingMissingThatIsThere(t *testing.T) {
	t.Parallel()
	missing := regexp.MustCompile(`(?m)^- \*\*The commands\*\* (.*?)\.`).FindStringSubmatch(document(t, "README.md"))
	if missing == nil {
		return // all are there
	}
	for _, m := range inlineCode.FindAllStringSubmatch(missing[1], -1) {
		if found, _, err := newRootCommand().Find(m[1:2]); err == nil {
			t.Errorf("README.md says that there is no command %s yet: %s", m[1], found.Short)
		}
	}
}

func TestEveryDependencyIsADecision(t *testing.T) {
	t.Parallel()
	var decisions strings.Builder
	for _, name := range filesWith(t, ".md") {
		if strings.HasPrefix(name, "docs/decisions/") {
			decisions.WriteString(document(t, name))
		}
	}
	direct := regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(document(t, "go.mod"), -1)
	if len(direct) == 0 {
		t.Fatal("go.mod has no direct requirement")
	}
	for _, m := range direct {
		if !strings.Contains(decisions.String(), "`"+m[1]+"`") {
			t.Errorf("no page of docs/decisions names %s", m[1])
		}
	}
}

// configTable is the table of all variables in README.md.
func configTable() string {
	return "| variable | default | meaning |\n|---|---|---|\n" + strings.ReplaceAll(usage(
		`{{range .}}| '{{.Key}}' | {{with usage_default .}}'{{.}}'{{else}}{{.Tags.Get "absent"}}{{end}} | {{usage_description .}} |
{{end}}`), "'", "`")
}
