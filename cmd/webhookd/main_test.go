package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"webhookd": main})
}

// TestScripts runs the program as its users do. The command 'exits N program
// args…' is exec with the exit code that must come.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
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
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append(path[1:], "--help"), &stdout, &stderr)
			if code != exitDone || stderr.Len() > 0 || !strings.Contains(stdout.String(), "Examples:") {
				t.Errorf("--help: exit code %d\n%s%s", code, &stdout, &stderr)
			}
		})
	}
	look(newRootCommand())
}
