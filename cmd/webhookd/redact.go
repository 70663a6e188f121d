package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"webhookd/internal/events"
	"webhookd/internal/repo"
)

func newRedactCommand() *cobra.Command {
	var references []string
	redact := &cobra.Command{
		Use:   "redact [ID…]",
		Short: "Erases what is held about a session, for good",
		Long: `Erases outputs, provided details, metadata, error reasons and payloads of the
sessions, and leaves a tombstone that no later event brings back to life. Also
ids that were never seen are taken. Ids, status, codes and times stay.

It does not redact at Stripe: do that in the Dashboard or by the API.`,
		Example: `  webhookd redact vs_1NuN3kLkdIwHu7ixk5OvTq3b
  webhookd redact --client-reference user-7f3a`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if len(ids) == 0 && len(references) == 0 {
				return usagef("which sessions? Give ids (vs_…) or --client-reference")
			}
			for _, id := range ids {
				if id == "" || len(id) > events.MaxID {
					return usagef("%q is no session id", id)
				}
			}
			cfg, err := LoadConfig(needDatabase)
			if err != nil {
				return err
			}
			store, err := repo.Open(cmd.Context(), repo.Options{URL: string(cfg.DatabaseURL), Notify: cfg.Notify})
			if err != nil {
				return err
			}
			defer store.Close()
			for _, reference := range references {
				found, err := store.SessionsOf(cmd.Context(), reference)
				if err != nil {
					return err
				}
				if len(found) == 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "no session has the client reference %q\n", reference)
				}
				ids = append(ids, found...)
			}
			if len(ids) == 0 {
				return errors.New("nothing to redact")
			}
			for _, id := range ids {
				if err := store.Redact(cmd.Context(), id); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "redacted %s\n", id)
			}
			return nil
		},
	}
	redact.Flags().StringArrayVar(&references, "client-reference", nil, "all sessions with this client_reference_id; may be repeated")
	return redact
}
