package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"webhookd/internal/jobs"
	"webhookd/internal/repo"
)

func newReconcileCommand() *cobra.Command {
	var (
		since  string
		asJSON bool
		q      jobs.ReconcileRequest
	)
	cmd := &cobra.Command{
		Use:   "reconcile [--since D]",
		Short: "Compares with Stripe's API and repairs what is missing",
		Long: `Lists the events (of the last 30 days at most) and sessions of Stripe's API, for
the platform and every account or context that was seen or stands in
WEBHOOKD_STRIPE_ACCOUNTS, in each mode that has a key in WEBHOOKD_STRIPE_API_KEYS.
Missing events are recorded; a session whose state no event explains is recorded
as the API tells it. Sessions that are processing for more than 15 minutes are
read again and, once a day, those in requires_input of the last 7 days.

A line for each thing that was missing, then what was read. A second run changes
nothing. What could not be read makes the exit code 1; the rest is repaired.

--after-restore is for a database that was restored to an older state. It hides
all outputs, and shows them again session by session once Stripe was asked: what
was redacted since is erased. Run it before 'webhookd serve'. What was erased by
'webhookd redact' alone since the backup has to be erased again before: it would
be shown.`,
		Example: `  webhookd reconcile --since 3d --dry-run
  webhookd reconcile --after-restore`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "how far back, such as 6h or 30d (default: the last complete run, or 30d)")
	f.BoolVar(&q.DryRun, "dry-run", false, "write nothing, print what would be done")
	f.BoolVar(&q.AfterRestore, "after-restore", false, "the database was restored to an older state")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if since != "" {
			d, err := parsePositive(since)
			if err != nil {
				return usagef("--since %w", err)
			}
			q.Since = time.Now().Add(-d)
		}
		cfg, err := loadOrDev(cmd, needDatabase)
		if err != nil {
			return err
		}
		if reads := func(live bool) bool { return cfg.hasKey(live) && cfg.Livemode.Takes(live) }; !reads(true) && !reads(false) {
			return fmt.Errorf("%w: WEBHOOKD_STRIPE_API_KEYS has no API key to read with: make a restricted one (rk_…) that may read events and Identity's sessions", errConfig)
		}
		options := storeOptions(cfg)
		options.Asks = cfg.hasKey
		store, err := repo.Open(cmd.Context(), options)
		if err != nil {
			return err
		}
		defer store.Close()
		api := newStripeClient(cfg, cfg.apiKey)
		defer api.Close()
		r := jobs.NewReconciler(jobs.ReconcileOptions{
			Store: store, API: api, Keyed: cfg.hasKey, Takes: cfg.Livemode.Takes, Accounts: cfg.Accounts, Log: zap.NewNop(),
		})

		line := newProgressLine(cmd.ErrOrStderr())
		q.Progress = func(r jobs.Report) {
			line.show("%d events and %d sessions listed, %d read again, %d recovered",
				r.EventsListed, r.SessionsListed, r.SessionsReadAgain, r.Recovered())
		}
		out := reconcileOutput{asJSON: asJSON, w: cmd.OutOrStdout()}
		q.Found = func(f jobs.Finding) { line.clear(); out.found(f) }
		report, err := r.Run(cmd.Context(), q)
		line.clear()
		if report.Result == "" {
			return err // it did not begin
		}
		return errors.Join(out.print(report), err)
	}
	return cmd
}

// progressLine keeps one line of a terminal up to date. Elsewhere it prints one
// now and then.
type progressLine struct {
	w        io.Writer
	terminal bool
	every    time.Duration
	last     time.Time // when it was shown, or began
	shown    bool
}

func newProgressLine(w io.Writer) *progressLine {
	l := &progressLine{w: w, terminal: isTerminal(w), every: 10 * time.Second, last: time.Now()}
	if l.terminal {
		l.every = 500 * time.Millisecond
	}
	return l
}

func (l *progressLine) show(format string, args ...any) { //nolint:goprintffuncname // a verb, as clear is
	if time.Since(l.last) < l.every {
		return
	}
	text := fmt.Sprintf(format, args...)
	if l.last, l.shown = time.Now(), true; l.terminal {
		fmt.Fprintf(l.w, "\r%s\x1b[K", text)
		return
	}
	fmt.Fprintln(l.w, text)
}

func (l *progressLine) clear() {
	if l.terminal && l.shown {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.shown = false
	}
}

// mostFound bounds what --json holds in memory.
const mostFound = 1000

// reconcileOutput prints what was missing as it is found, or all at the end.
type reconcileOutput struct {
	asJSON bool
	w      io.Writer
	all    []jobs.Finding
	more   int
}

func (o *reconcileOutput) found(f jobs.Finding) {
	switch {
	case !o.asJSON:
		thing := "session " + f.SessionID
		if f.EventID != "" {
			thing = "event " + f.EventID + " " + strings.TrimPrefix(f.Type, "identity.verification_session.") + " of " + f.SessionID
		} else if f.Status != "" {
			thing += " " + f.Status
		}
		fmt.Fprintf(o.w, "%-11s %s (%s)\n", f.What, thing, f.Place)
	case len(o.all) < mostFound:
		o.all = append(o.all, f)
	default:
		o.more++
	}
}

func (o *reconcileOutput) print(r jobs.Report) error {
	if o.asJSON {
		return json.NewEncoder(o.w).Encode(struct {
			jobs.Report
			Found     []jobs.Finding `json:"found"`
			FoundMore int            `json:"found_more"`
		}{r, append([]jobs.Finding{}, o.all...), o.more})
	}
	result := r.Result
	if r.DryRun {
		result += ", dry run: nothing was written"
	}
	t := tabwriter.NewWriter(o.w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "result\t%s\n", result)
	fmt.Fprintf(t, "since\t%s\n", r.Since.Format(time.RFC3339))
	fmt.Fprintf(t, "read\t%s\n", strings.Join(r.Places, ", "))
	fmt.Fprintf(t, "events\t%d listed, %d recovered, %d quarantined\n", r.EventsListed, r.EventsRecovered, r.EventsQuarantined)
	fmt.Fprintf(t, "sessions\t%d listed, %d read again, %d repaired\n", r.SessionsListed, r.SessionsReadAgain, r.SessionsRepaired)
	if r.OutputsHidden+r.OutputsShown > 0 {
		fmt.Fprintf(t, "outputs\tof %d sessions hidden, of %d shown again\n", r.OutputsHidden, r.OutputsShown)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(t, "note\t%s\n", note)
	}
	for _, what := range r.Unread {
		fmt.Fprintf(t, "unread\t%s\n", what)
	}
	if r.UnreadMore > 0 {
		fmt.Fprintf(t, "unread\tand %d more\n", r.UnreadMore)
	}
	return t.Flush()
}
