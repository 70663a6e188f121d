package main

import (
	"errors"
	"fmt"
	"strings"

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
ids that were never seen are taken. Ids, status, codes and times stay. A client
reference that no session has makes the exit code 1, after the others are done.

It does not redact at Stripe: do that in the Dashboard or by the API.`,
		Example: `  webhookd redact vs_1NuN3kLkdIwHu7ixk5OvTq3b
  webhookd redact --client-reference user-7f3a`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if len(ids) == 0 && len(references) == 0 {
				return usagef("which sessions? Give ids (vs_…) or --client-reference")
			}
			for _, id := range ids {
				if !strings.HasPrefix(id, "vs_") || len(id) > events.MaxID {
					return usagef("%q is no session id (vs_…): for a client reference use --client-reference", id)
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
			var missing []error
			for _, reference := range references {
				found, err := store.SessionsOf(cmd.Context(), reference)
				if err != nil {
					return err
				}
				if len(found) == 0 {
					missing = append(missing, fmt.Errorf("no session has the client reference %q", reference))
				}
				ids = append(ids, found...)
			}
			for _, id := range ids {
				seen, err := store.Seen(cmd.Context(), id)
				if err != nil {
					return err
				}
				if err := store.Redact(cmd.Context(), id); err != nil {
					return err
				}
				note := ""
				if !seen {
					note = " (never seen here: a tombstone keeps it out)"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "redacted %s%s\n", id, note)
			}
			return errors.Join(missing...)
		},
	}
	redact.Flags().StringArrayVar(&references, "client-reference", nil, "all sessions with this client_reference_id; may be repeated")
	return redact
}
