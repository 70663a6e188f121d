package pgdev

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// oldest is the oldest major version that webhookd runs on.
const oldest = 15

// usualPlaces are patterns of folders; scripts/ensure-postgres.sh has the same.
const usualPlaces = "/usr/lib/postgresql/*/bin:" + // Debian, Ubuntu
	"/usr/pgsql-*/bin:" + // Red Hat, packages of postgresql.org
	"/usr/libexec/postgresql*:" + // Alpine
	"/usr/local/pgsql/bin:" + // built from source
	"/opt/homebrew/opt/postgresql*/bin:/usr/local/opt/postgresql*/bin:/home/linuxbrew/.linuxbrew/opt/postgresql*/bin:" +
	"/Applications/Postgres.app/Contents/Versions/*/bin:" +
	"/opt/local/lib/postgresql*/bin" // MacPorts

// installation is a folder of server programs, usable by the server's account.
type installation struct {
	dir     string
	version string // 15.18, 18beta1
	major   int
}

func (i installation) bin(name string) string { return filepath.Join(i.dir, name) }

// Find returns the folder with the programs of a PostgreSQL server, 15 or
// newer: the first on PATH, else what pg_config names, else the newest at the
// usual places of Debian, Red Hat, Alpine, Homebrew, Postgres.app and MacPorts.
func Find() (bindir string, err error) {
	acct, err := serverAccount()
	if err != nil {
		return "", err
	}
	found, err := find(acct, inherited("PATH"), usualPlaces)
	if err != nil {
		return "", err
	}
	return found[0].dir, nil
}

// find returns at least one installation, the preferred one first.
func find(acct account, path, places string) ([]installation, error) {
	dirs := filepath.SplitList(path)
	var usual []string
	for _, dir := range filepath.SplitList(path) {
		if out, err := acct.command(filepath.Join(dir, "pg_config"), "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	for _, place := range filepath.SplitList(places) {
		matches, _ := filepath.Glob(place) // the patterns are constant and well formed
		usual = append(usual, matches...)
	}

	var tooOld []string
	seen := map[string]bool{}
	probe := func(dirs []string) (found []installation) {
		for _, dir := range dirs {
			inst, ok := probe(acct, dir)
			if !ok || seen[inst.dir] {
				continue
			}
			seen[inst.dir] = true
			if inst.major < oldest {
				tooOld = append(tooOld, fmt.Sprintf("%s in %s", inst.version, inst.dir))
				continue
			}
			found = append(found, inst)
		}
		return found
	}
	newest := func(a, b installation) int { return cmp.Compare(b.major, a.major) }
	first, rest := probe(dirs), probe(usual)
	slices.SortStableFunc(rest, newest)
	if found := append(first, rest...); len(found) > 0 {
		return found, nil
	}
	return nil, notFound(acct, tooOld)
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// probe tells whether dir holds a server that the account can run. Links are
// followed: a postgres on PATH is often a link to where its other files are.
func probe(acct account, dir string) (installation, bool) {
	if !filepath.IsAbs(dir) {
		return installation{}, false
	}
	program, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return installation{}, false
	}
	inst := installation{dir: filepath.Dir(program)}
	if _, err := os.Stat(inst.bin("initdb")); err != nil {
		return installation{}, false
	}
	out, err := acct.command(program, "--version").Output()
	if err != nil {
		return installation{}, false
	}
	m := versionLine.FindStringSubmatch(string(out))
	if m == nil {
		return installation{}, false
	}
	inst.version = m[1]
	inst.major, err = strconv.Atoi(m[2])
	return inst, err == nil
}

func notFound(acct account, tooOld []string) error {
	what := "found none"
	if len(tooOld) > 0 {
		what = "found only " + strings.Join(tooOld, ", ")
	}
	if acct.cred != nil {
		what += " that user " + acct.name + " can run"
	}
	return fmt.Errorf(`no PostgreSQL server, version %d or newer, on PATH, by pg_config or at the usual places (%s).
Run scripts/ensure-postgres.sh, or install it yourself; no service has to run:
  Debian, Ubuntu   apt-get install postgresql
  Fedora, Red Hat  dnf install postgresql-server
  Alpine           apk add postgresql
  macOS            brew install postgresql@16
If it is elsewhere, put the folder with postgres and initdb on PATH`, oldest, what)
}
