package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"webhookd": main})
}

// tests is what runs unless a script has called this binary as webhookd: only
// then there is a PostgreSQL to end.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := pgtest.Main(m.M, func(ctx context.Context, url string) error {
		_, err := repo.Migrate(ctx, url)
		return err
	})
	if err := os.RemoveAll(built.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// built is the program as it is released, made for the first test that asks.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// program is the path of the program, without the race detector: for tests
// that kill it, and that look at the processes which it leaves.
func program(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "webhookd-program-") //nolint:usetesting // it outlives the test that asks first
		if built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", built.dir, ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return filepath.Join(built.dir, "webhookd")
}

// TestScripts runs the program as its users do. The command 'exits N program
// args…' is exec with the exit code that must come. One script may use
// $EMPTY_DATABASE, one $MIGRATED_DATABASE.
func TestScripts(t *testing.T) {
	t.Parallel()
	empty, migrated := pgtest.Empty(t), pgtest.Database(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("EMPTY_DATABASE", empty)
			e.Setenv("MIGRATED_DATABASE", migrated)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits N program args...")
				}
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						ts.Fatalf("%v", err)
					}
					got = exit.ExitCode()
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d\n%s", got, want, ts.ReadFile("stderr"))
				}
			},
		},
	})
}

func TestEveryCommandExplainsItself(t *testing.T) {
	t.Parallel()
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			look(c)
		}
		path := strings.Fields(cmd.CommandPath())
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			t.Parallel()
			if cmd.Short == "" || cmd.Example == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("Short %q, Example %q", cmd.Short, cmd.Example)
			}
			for line := range strings.Lines(cmd.Example) {
				if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "  ") {
					t.Errorf("example is not indented: %q", line)
				}
			}
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if value, _ := pflag.UnquoteUsage(f); len(value) != utf8.RuneCountInString(value) {
					t.Errorf("--%s %s: pflag counts bytes, and its line is shifted", f.Name, value)
				}
			})
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append(path[1:], "--help"), &stdout, &stderr)
			if code != exitDone || stderr.Len() > 0 || !strings.Contains(stdout.String(), "Examples:") {
				t.Errorf("--help: exit code %d\n%s%s", code, &stdout, &stderr)
			}
		})
	}
	look(newRootCommand())
}
