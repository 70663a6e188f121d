package main

import (
	"github.com/spf13/cobra"

	"webhookd/internal/repo"
)

func newExportCommand() *cobra.Command {
	var who string
	cmd := &cobra.Command{
		Use:   "export ID",
		Short: "Prints everything that is held about a session, as JSON",
		Long: `Prints one JSON document with every row that is held about a session, of every
table: for a person who asks what is known of them. Most of it is personal: who
exports is recorded in the table pii_reads first, and what cannot be recorded is
not shown.`,
		Example: `  webhookd export vs_1NuN3kLkdIwHu7ixk5OvTq3b > session.json
  webhookd export vs_1NuN3kLkdIwHu7ixk5OvTq3b --who jenny@privacy | jq .verified_outputs`,
		Args: cobra.ExactArgs(1),
	}
	addWho(cmd, &who)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		reader, err := readerFor(cmd, who)
		if err != nil {
			return err
		}
		return withStore(cmd, func(_ *Config, store *repo.Store) error {
			all, err := store.Export(cmd.Context(), args[0], reader)
			if err != nil {
				return unknownSession(args[0], err)
			}
			return printJSON(cmd.OutOrStdout(), all)
		})
	}
	return cmd
}
