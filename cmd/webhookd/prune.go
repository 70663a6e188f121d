package main

import (
	"bytes"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"webhookd/internal/repo"
)

func newPruneCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Takes away what is older than the RETAIN settings say",
		Long: `Does now what serve does from time to time: takes away payloads, quarantined
events, outputs and history that are older than WEBHOOKD_RETAIN_PAYLOADS,
WEBHOOKD_RETAIN_QUARANTINE, WEBHOOKD_RETAIN_OUTPUTS and WEBHOOKD_RETAIN_HISTORY
say, in small transactions. It may run beside the service and beside itself, and
be broken off. A session's present state, tombstones, and what keeps late
duplicates and twins from being counted again stay: docs/privacy.md says what
that is.`,
		Example: `  webhookd prune --dry-run
  WEBHOOKD_RETAIN_OUTPUTS=90d webhookd prune`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only count what there is to take away")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withStore(cmd, func(cfg *Config, store *repo.Store) error {
			if dry {
				would, err := store.Prunable(cmd.Context(), retention(cfg))
				if err != nil {
					return err
				}
				return writePruned(cmd.OutOrStdout(), cfg, would, "would go")
			}
			line := newProgressLine(cmd.ErrOrStderr())
			done, err := store.Prune(cmd.Context(), retention(cfg), func(p repo.Pruned) { line.show("%d rows pruned", p.Rows()) })
			line.clear()
			if printed := writePruned(cmd.OutOrStdout(), cfg, done, "gone"); err == nil {
				err = printed
			}
			return err
		})
	}
	return cmd
}

// retention is what the configuration says about keeping.
func retention(cfg *Config) repo.Retention {
	return repo.Retention{
		Payloads: time.Duration(cfg.RetainPayloads), Quarantine: time.Duration(cfg.RetainQuarantine),
		Outputs: time.Duration(cfg.RetainOutputs), History: time.Duration(cfg.RetainHistory),
	}
}

func writePruned(w io.Writer, cfg *Config, p repo.Pruned, what string) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "KEPT FOR\t%s\tWHAT\n", map[string]string{"gone": "GONE", "would go": "WOULD GO"}[what])
	for _, row := range []struct {
		keep Retention
		n    int64
		what string
	}{
		{cfg.RetainPayloads, p.Payloads, "payloads of events"},
		{cfg.RetainQuarantine, p.Quarantined, "events in quarantine"},
		{cfg.RetainQuarantine, p.QuarantinePayloads, "payloads of those whose ids stay"},
		{cfg.RetainOutputs, p.Outputs, "verified outputs"},
		{cfg.RetainOutputs, p.Details, "provided details"},
		{cfg.RetainHistory, p.Transitions, "transitions"},
		{cfg.RetainHistory, p.Answers, "answers of Stripe's API"},
		{cfg.RetainHistory, p.Reasons, "reasons of transitions that stay"},
		{cfg.RetainHistory, p.Events, "event ids"},
	} {
		fmt.Fprintf(t, "%s\t%d\t%s\n", days(row.keep), row.n, row.what)
	}
	_ = t.Flush() // a buffer takes everything
	if p.Held > 0 {
		fmt.Fprintf(&b, "left for the next run, because somebody held them: %d sessions\n", p.Held)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// days is a retention as the documentation writes it.
func days(r Retention) string {
	const day = Retention(24 * time.Hour)
	if r != Forever && r%day == 0 {
		return fmt.Sprintf("%dd", r/day)
	}
	return r.String()
}
