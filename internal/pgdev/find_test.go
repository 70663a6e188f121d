package pgdev_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"webhookd/internal/pgdev"
)

func TestFind(t *testing.T) {
	t.Parallel()
	dir, err := pgdev.Find()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		if !exists(filepath.Join(dir, name)) {
			t.Errorf("no %s in %s", name, dir)
		}
	}
}

func TestFindOrder(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		path, places []string // names of fake installations
		want         string
	}{
		"PATH comes first":                       {[]string{"15.3"}, []string{"17.1"}, "15.3"},
		"too old ones on PATH are passed over":   {[]string{"14.9", "16.2"}, []string{"17.1"}, "16.2"},
		"the newest of the usual places is best": {nil, []string{"9.6.2", "15.18", "18beta1", "16.2"}, "18beta1"},
		"pg_config is asked before the places":   {[]string{"config-15.4"}, []string{"17.1"}, "15.4"},
		"a link leads to where the programs are": {[]string{"link-16.2"}, nil, "16.2"},
		"a server without initdb is none":        {[]string{"bare-17.1"}, []string{"15.18"}, "15.18"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := filepath.Dir(folder(t))
			got, err := pgdev.FindIn(fakes(t, base, tt.path), fakes(t, base, tt.places))
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(got) != tt.want {
				t.Errorf("found %s, want %s", got, tt.want)
			}
		})
	}
}

func TestMissingPostgreSQLSaysWhatToDo(t *testing.T) {
	t.Parallel()
	base := filepath.Dir(folder(t))
	tests := map[string]struct {
		path  string
		wants []string
	}{
		"nothing found": {"/nonexistent", []string{"version 15 or newer", "found none", "scripts/ensure-postgres.sh", "apt-get", "brew"}},
		"only old ones": {fakes(t, base, []string{"14.9"}), []string{"found only 14.9 in " + filepath.Join(base, "14.9"), "scripts/ensure-postgres.sh"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := pgdev.FindIn(tt.path, "/nonexistent/*/bin")
			for _, want := range tt.wants {
				wantError(t, err, want)
			}
		})
	}
}

// fakes makes folders that look like installations and returns them as a list.
// A prefix makes a folder that leads to one: config-, link-; bare- lacks initdb.
func fakes(tb testing.TB, base string, names []string) string {
	tb.Helper()
	var dirs []string
	for _, name := range names {
		kind, version, ok := strings.Cut(name, "-")
		if !ok {
			kind, version = "", name
		}
		real, dir := filepath.Join(base, version), filepath.Join(base, name)
		for _, d := range []string{real, dir} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		writeFile(tb, filepath.Join(real, "postgres"), "#!/bin/sh\necho 'postgres (PostgreSQL) "+version+" (Fake)'\n", 0o755)
		if kind != "bare" {
			writeFile(tb, filepath.Join(real, "initdb"), "", 0o755)
		}
		switch kind {
		case "config":
			writeFile(tb, filepath.Join(dir, "pg_config"), "#!/bin/sh\necho "+real+"\n", 0o755)
		case "link":
			if err := os.Symlink(filepath.Join(real, "postgres"), filepath.Join(dir, "postgres")); err != nil {
				tb.Fatal(err)
			}
		}
		dirs = append(dirs, dir)
	}
	return strings.Join(dirs, ":")
}
