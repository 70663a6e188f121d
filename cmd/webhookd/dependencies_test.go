package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// licences are told by a sentence that only their text has.
var licences = []struct{ name, sentence string }{
	{"Apache-2.0", "Apache License"},
	{"MPL-2.0", "Mozilla Public License"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"BSD-3-Clause", "Neither the name of"},
	{"BSD-2-Clause", "Redistribution and use in source and binary forms"},
}

// dependencyTable lists the modules that are compiled into the program, with
// the licences that lie beside them.
func dependencyTable(tb testing.TB) string {
	tb.Helper()
	list := exec.Command("go", "list", "-deps", "-f",
		"{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}\t{{.Indirect}}{{end}}{{end}}", "./cmd/webhookd")
	list.Dir = repository
	out, err := list.Output()
	if err != nil {
		tb.Fatalf("go list: %v", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		field := strings.Split(strings.TrimSpace(line), "\t")
		if len(field) != 4 {
			continue // a package of ours or of the standard library
		}
		chosen := ""
		if field[3] == "false" {
			chosen = "yes"
		}
		lines = append(lines, fmt.Sprintf("| `%s` | %s | %s | %s |\n", field[0], field[1], licenceIn(tb, field[2]), chosen))
	}
	slices.Sort(lines)
	return "| module | version | licence | chosen by us |\n|---|---|---|---|\n" + strings.Join(slices.Compact(lines), "")
}

func licenceIn(tb testing.TB, dir string) string {
	tb.Helper()
	// A module inside a repository has its licence at the repository's root or in itself.
	for _, pattern := range []string{"LICENSE*", "LICENCE*", "COPYING*", "License*"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is well formed
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				tb.Fatal(err)
			}
			for _, l := range licences {
				if strings.Contains(strings.Join(strings.Fields(string(text)), " "), l.sentence) {
					return l.name
				}
			}
		}
	}
	tb.Errorf("%s has no licence that is known here", filepath.Base(dir))
	return "unknown"
}
