// Package webhookd_test keeps the layout of the repository: which package may
// know which.
package webhookd_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows lists every package and what of this module it may import. A package
// that is not here needs a sentence in the README that no other folder could
// claim, and then a line.
var arrows = map[string][]string{
	"cmd/webhookd":                  {"internal/signature", "internal/events", "internal/receiver", "internal/repo", "internal/stripeapi", "internal/stripeapi/stripefake", "internal/jobs", "internal/pgdev", "internal/scenario", "migrations"},
	"internal/signature":            {},
	"internal/events":               {},
	"internal/scenario":             {"internal/events"},
	"internal/receiver":             {"internal/signature", "internal/events"},
	"internal/repo":                 {"internal/events", "migrations"},
	"internal/stripeapi":            {"internal/events"},
	"internal/jobs":                 {"internal/repo", "internal/stripeapi", "internal/events"},
	"internal/repo/repotest":        {"internal/events"},
	"internal/stripeapi/stripefake": {"internal/events", "internal/scenario", "internal/stripeapi"},
	"internal/pgdev":                {},
	"internal/pgdev/pgtest":         {"internal/pgdev"},
	"deploy/grafana":                {},
	"torture":                       {"internal/events", "internal/pgdev", "internal/repo/repotest", "internal/scenario", "internal/signature", "internal/stripeapi", "internal/stripeapi/stripefake"},
	"bench":                         {"internal/events", "internal/pgdev", "internal/scenario", "internal/signature"},
	"migrations":                    {},
}

// leaves import nothing but the standard library and what is named here.
var leaves = map[string][]string{
	"internal/signature": {},
	"internal/events":    {"github.com/go-json-experiment/json/jsontext"},
	"internal/scenario":  {},
	"migrations":         {},
}

func TestEveryPackageImportsOnlyWhatTheLayoutAllows(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	eachFile(t, func(pkg, file string, imports []string) {
		if strings.HasSuffix(file, "_test.go") || pkg == "." {
			return
		}
		seen[pkg] = true
		allowed, ok := arrows[pkg]
		if !ok {
			t.Errorf("%s is not part of the layout", pkg)
		}
		for _, i := range imports {
			inner, ours := strings.CutPrefix(i, "webhookd/")
			external := strings.Contains(strings.Split(i, "/")[0], ".")
			switch only, leaf := leaves[pkg]; {
			case ours && !slices.Contains(allowed, inner):
				t.Errorf("%s imports %s: the layout has no such arrow", file, i)
			case external && leaf && !slices.Contains(only, i):
				t.Errorf("%s imports %s, and is a leaf", file, i)
			}
		}
	})
	for pkg := range arrows {
		if !seen[pkg] {
			t.Errorf("%s is in the layout and not in the repository", pkg)
		}
	}
}

func TestNoFolderIsNamedAfterNothing(t *testing.T) {
	t.Parallel()
	eachFile(t, func(pkg, _ string, _ []string) {
		for _, empty := range []string{"util", "utils", "common", "helpers", "types", "models", "pkg"} {
			if path.Base(pkg) == empty {
				t.Errorf("%s says nothing about what is in it", pkg)
			}
		}
	})
}

// eachFile calls do for every Go file of the product's module.
func eachFile(t *testing.T, do func(pkg, file string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() != "." && strings.HasPrefix(d.Name(), ".") || file == "bin" || isModule(file)):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(file) != ".go":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			value, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, value)
		}
		do(filepath.ToSlash(filepath.Dir(file)), file, imports)
		return nil
	})
	if err != nil {
		t.Fatalf("walk: %v", err)
	}
}

// isModule reports whether a folder is a module of its own.
func isModule(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil && folder != "."
}
