package main

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"webhookd/internal/repo"
)

func newQuarantineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "Shows events that were not understood, and tries them again",
		Long: `Shows the events that Stripe signed and that were not understood, and takes them
through the normal path once more, after an upgrade.`,
		Example: "  webhookd quarantine list\n  webhookd quarantine replay --all",
	}
	cmd.AddCommand(newQuarantineListCommand(), newQuarantineReplayCommand())
	return cmd
}

func newQuarantineListCommand() *cobra.Command {
	var (
		asJSON bool
		limit  int
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists events in quarantine, the newest first",
		Long: `Lists events in quarantine, the newest first: id, when it was received, its
session if one was found, its type, and why it was not understood. Times are
UTC. Never shows what is in them.`,
		Example: "  webhookd quarantine list\n  webhookd quarantine list --limit 1000 --json",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most `n` events")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 {
			return usagef("--limit wants 1 or more")
		}
		return withStore(cmd, func(_ *Config, store *repo.Store) error {
			list, total, err := store.Quarantine(cmd.Context(), limit)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"total": total, "events": list})
			}
			_, err = cmd.OutOrStdout().Write(quarantineTable(list, total))
			return err
		})
	}
	return cmd
}

// quarantineTable has two lines for each event: reasons are sentences.
func quarantineTable(list []repo.Quarantined, total int) []byte {
	var b bytes.Buffer
	for _, q := range list {
		hides := ""
		if q.Hides {
			hides = " (tells a redaction: see webhookd redact)"
		}
		fmt.Fprintf(&b, "%s  %-28s  %s\n    %s: %s%s\n", stamp(q.ReceivedAt), cell(q.EventID, 40), cell(text(q.SessionID), 40),
			cell(shortType(q.Type), 40), cell(q.Reason, 60), hides)
	}
	switch {
	case total == 0:
		b.WriteString("nothing is in quarantine\n")
	case len(list) < total:
		fmt.Fprintf(&b, "%d of %d; more with --limit\n", len(list), total)
	default:
		fmt.Fprintf(&b, "%d in quarantine\n", total)
	}
	return trimLines(b.Bytes())
}

func newQuarantineReplayCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "replay [ID…]",
		Short: "Takes events out of quarantine that are understood by now",
		Long: `Takes events through the normal path once more, from what was kept of them, and
says what became of each. One that is still not understood stays. It may be run
any number of times, also by several people at once; a session that was redacted
gets nothing back. Metrics do not count what a replay records; SQL does.

Exit code 1 if one that was asked for did not leave quarantine.`,
		Example: "  webhookd quarantine replay evt_1NuN3kLkdIwHu7ixk5OvTq3b\n  webhookd quarantine replay --all",
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything that is in quarantine")
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		switch {
		case all && len(ids) > 0:
			return usagef("either ids or --all")
		case !all && len(ids) == 0:
			return usagef("which events? Give ids (evt_…) or --all")
		}
		return withStore(cmd, func(_ *Config, store *repo.Store) error {
			if all {
				var err error
				if ids, err = store.QuarantinedIDs(cmd.Context()); err != nil {
					return err
				}
				if len(ids) == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "nothing is in quarantine")
				}
			}
			stayed := 0
			for some := range slices.Chunk(ids, 64) { // they share a commit
				replayed, err := store.Replay(cmd.Context(), some...)
				if err != nil {
					return err
				}
				for _, r := range replayed {
					what := string(r.Outcome)
					if r.Outcome == "" {
						stayed++
						what = "stays: " + r.Why
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%-28s  %s  %s\n", cell(r.EventID, 80), cell(r.Session, 40), what)
				}
			}
			if stayed > 0 {
				return fmt.Errorf("%d of %d did not leave quarantine", stayed, len(ids))
			}
			return nil
		})
	}
	return cmd
}
