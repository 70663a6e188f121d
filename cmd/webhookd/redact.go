package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

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
sessions, and leaves a tombstone that no later event brings back to life. Ids,
status, codes and times stay. A line for each session tells in which tables
something was erased, and in how many rows.

Also ids that were never seen are taken, and said to be: later events of them
will store nothing personal. What does not look like an id (vs_ and letters or
digits) and was never seen is refused before anything is erased. A client
reference that no session has makes the exit code 1, after the others are done.

It does not redact at Stripe: do that in the Dashboard or by the API.`,
		Example: `  webhookd redact vs_1NuN3kLkdIwHu7ixk5OvTq3b
  webhookd redact --client-reference user-7f3a`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if len(ids) == 0 && len(references) == 0 {
				return usagef("which sessions? Give ids (vs_…) or --client-reference")
			}
			for _, id := range ids {
				switch {
				case strings.Contains(id, "_secret_"): // not to be shown
					return usagef("a client_secret is no session id: leave out what begins with _secret_")
				case !strings.HasPrefix(id, "vs_") || len(id) > events.MaxID:
					return usagef("%q is no session id (vs_…): for a client reference use --client-reference", id)
				}
			}
			cfg, err := loadOrDev(cmd, needDatabase)
			if err != nil {
				return err
			}
			store, err := repo.Open(cmd.Context(), repo.Options{URL: string(cfg.DatabaseURL), Notify: cfg.Notify})
			if err != nil {
				return err
			}
			defer store.Close()
			if err := refuseSlips(cmd.Context(), store, ids); err != nil {
				return err
			}
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
				before, err := store.Erasable(cmd.Context(), id)
				if err != nil {
					return err
				}
				if err := store.Redact(cmd.Context(), id); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "redacted %s (%s)\n", id, erased(before))
			}
			return errors.Join(missing...)
		},
	}
	redact.Flags().StringArrayVar(&references, "client-reference", nil, "all sessions with this client_reference_id; may be repeated")
	return redact
}

var sessionID = regexp.MustCompile(`^vs_[\w-]+$`)

// refuseSlips refuses what does not look like an id, unless something is held under it.
func refuseSlips(ctx context.Context, store *repo.Store, ids []string) error {
	for _, id := range ids {
		if sessionID.MatchString(id) {
			continue
		}
		held, err := store.Erasable(ctx, id)
		switch {
		case err != nil:
			return err
		case !held.Seen:
			return usagef("%q is no session id (vs_ and letters or digits), and nothing is held under it", id)
		}
	}
	return nil
}

// erased says what a redaction took, by the number of rows in each table.
func erased(e repo.Erasable) string {
	var parts []string
	for _, table := range []struct {
		name string
		rows int64
	}{
		{"verified_outputs", e.Outputs},
		{"provided_details", e.Details},
		{"events", e.Payloads},
		{"quarantined_events", e.Quarantined},
		{"status_transitions", e.Transitions},
		{"verification_sessions", e.Session},
	} {
		if table.rows > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", table.name, table.rows))
		}
	}
	what := "erased: " + strings.Join(parts, ", ")
	if len(parts) == 0 {
		what = "nothing personal was held"
	}
	switch {
	case !e.Seen:
		return "never seen here: check the id. A tombstone is left: later events of it store nothing personal"
	case e.Redacted && !e.ToldAt.IsZero():
		return what + "; redacted before, Stripe says at " + e.ToldAt.UTC().Format(time.RFC3339)
	case e.Redacted:
		return what + "; redacted before"
	}
	return what
}
