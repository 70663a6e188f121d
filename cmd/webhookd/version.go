package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"webhookd/migrations"
)

// Set by builds without a checkout: -ldflags "-X main.version=v1.2.3 -X main.revision=…".
var version, revision string

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Prints version, commit, Go and schema",
		Long:    "Prints the version, the commit, the Go that built it, and the schema that it needs (compare 'webhookd migrate status').",
		Example: "  webhookd version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, commit := buildVersion()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "version %s\ncommit  %s\ngo      %s\nschema  %d\n",
				v, commit, runtime.Version(), migrations.Version())
			return err
		},
	}
}

// buildVersion is what the linker and the version control system told.
func buildVersion() (release, commit string) {
	release, commit = version, cmp.Or(revision, "unknown")
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release, commit
	}
	if release == "" {
		release = info.Main.Version // (devel) outside of a tagged build
	}
	modified := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = cmp.Or(revision, s.Value)
		case "vcs.modified":
			if s.Value == "true" {
				modified = " (modified)"
			}
		}
	}
	return release, commit + modified
}
