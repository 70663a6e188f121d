// Command webhookd takes Stripe Identity's webhooks into PostgreSQL, exactly
// once whatever Stripe repeats, and tells by metrics why verifications fail.
//
// Each command is a file of this package; the files without one read the
// environment and wire the parts. Exit codes: 0 done, 1 failed, 2 wrong usage
// or configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)

	root.InitDefaultHelpCmd() // else cobra adds its own after prepare
	root.InitDefaultCompletionCmd()
	began := false
	prepare(root, &began)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "webhookd: %v\n", err)
	var usage *usageError
	switch {
	case !began, errors.As(err, &usage): // cobra's errors are of no type, but all come before a command begins
		fmt.Fprintf(stderr, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	case errors.Is(err, errConfig):
		return exitUsage
	default:
		return exitFailed
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "webhookd",
		Short: "Takes Stripe Identity's webhooks into PostgreSQL",
		Long: `webhookd takes the webhooks of Stripe Identity into PostgreSQL: each event once,
in whatever order they come, and counts why verifications fail.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.`,
		Example: `  webhookd dev                # everything on this machine, no configuration
  webhookd trigger story      # in another terminal: a person is verified`,
		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
		CompletionOptions:     cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(
		newServeCommand(),
		newDevCommand(),
		newMigrateCommand(),
		newDoctorCommand(),
		newSessionCommand(),
		newQuarantineCommand(),
		newRedactCommand(),
		newExportCommand(),
		newPruneCommand(),
		newReconcileCommand(),
		newTriggerCommand(),
		newSimulateCommand(),
		newVerifyCommand(),
		newVersionCommand(),
	)
	return root
}

// prepare notes when a command itself begins, and makes a missing or unknown
// command an error everywhere: cobra prints the help and calls it success.
func prepare(cmd *cobra.Command, began *bool) {
	cmd.Flags().SortFlags = false
	for _, c := range cmd.Commands() {
		prepare(c, began)
	}
	switch do := cmd.RunE; {
	case do != nil:
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return do(cmd, args)
		}
	case cmd.HasSubCommands():
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			return usagef("which command? There are %s", strings.Join(subcommands(cmd), ", "))
		}
	case cmd.Name() == "help":
		cmd.Args = isCommand
	}
}

// isCommand is of the arguments of help.
func isCommand(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unknown command %q for %q", rest[0], found.CommandPath())
	}
	return err
}

func subcommands(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// usageError is a fault of the command line that only the command can see.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}
