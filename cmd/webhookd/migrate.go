package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"webhookd/internal/repo"
)

func newMigrateCommand() *cobra.Command {
	migrate := &cobra.Command{
		Use:   "migrate",
		Short: "Changes the schema, forward only",
		Long: `Changes the schema stripe_identity in WEBHOOKD_MIGRATE_DATABASE_URL (else
WEBHOOKD_DATABASE_URL), which must reach PostgreSQL directly and as the schema's
owner.`,
		Example: "  webhookd migrate up\n  webhookd migrate status",
	}
	migrate.AddCommand(
		&cobra.Command{
			Use:     "up",
			Short:   "Brings the schema up to what this build needs",
			Long:    "Brings the schema up to what this build needs. Many replicas may call it at once: one works, the others wait.",
			Example: "  WEBHOOKD_MIGRATE_DATABASE_URL=postgres://owner@db.internal/webhookd webhookd migrate up",
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := LoadConfig(needMigrateDatabase)
				if err != nil {
					return err
				}
				taken, err := repo.Migrate(cmd.Context(), string(cfg.MigrateDatabaseURL))
				if err != nil {
					return err
				}
				for _, step := range taken {
					fmt.Fprintf(cmd.OutOrStdout(), "applied %s\n", step.Name)
				}
				if len(taken) == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "nothing to do")
				}
				return nil
			},
		},
		&cobra.Command{
			Use:     "status",
			Short:   "Lists the steps and which are done",
			Long:    "Lists the steps that this build knows and when each was done. Exit code 1 if one is to be done.",
			Example: "  webhookd migrate status",
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := loadOrDev(cmd, needMigrateDatabase)
				if err != nil {
					return err
				}
				steps, err := repo.MigrationStatus(cmd.Context(), string(cfg.MigrateDatabaseURL))
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				pending := 0
				for _, step := range steps {
					when := "to be done"
					if !step.Applied.IsZero() {
						when = step.Applied.UTC().Format(time.RFC3339)
					} else {
						pending++
					}
					fmt.Fprintf(table, "%s\t%s\n", step.Name, when)
				}
				if err := table.Flush(); err != nil {
					return err
				}
				if pending > 0 {
					return fmt.Errorf("%d to be done: run webhookd migrate up", pending)
				}
				return nil
			},
		},
	)
	return migrate
}
