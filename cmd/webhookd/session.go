package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"webhookd/internal/repo"
)

func newSessionCommand() *cobra.Command {
	var (
		asJSON, show bool
		who          string
	)
	cmd := &cobra.Command{
		Use:   "session ID",
		Short: "Shows a session's state and timeline",
		Long: `Shows what is held about a session: its state, and what happened to it in the
order of events. Times are UTC.

Nothing personal is read unless --show-outputs asks for it: then verified
outputs, provided details, metadata and error reasons are shown, and who looked
is recorded in the table pii_reads first. What cannot be recorded is not shown.`,
		Example: `  webhookd session vs_1NuN3kLkdIwHu7ixk5OvTq3b
  webhookd session vs_1NuN3kLkdIwHu7ixk5OvTq3b --json
  webhookd session vs_1NuN3kLkdIwHu7ixk5OvTq3b --show-outputs --who jenny@support`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document, with event ids and sources too")
	cmd.Flags().BoolVar(&show, "show-outputs", false, "also what is personal; recorded in pii_reads")
	addWho(cmd, &who)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		reader, err := readerFor(cmd, who)
		if err != nil {
			return err
		}
		return withStore(cmd, func(_ *Config, store *repo.Store) error {
			var view *repo.SessionView
			if show {
				view, err = store.SessionWithOutputs(cmd.Context(), args[0], reader)
			} else {
				view, err = store.Session(cmd.Context(), args[0])
			}
			if err != nil {
				return unknownSession(args[0], err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), view)
			}
			return writeSession(cmd.OutOrStdout(), args[0], view)
		})
	}
	return cmd
}

func writeSession(w io.Writer, id string, v *repo.SessionView) error {
	var b bytes.Buffer
	head := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(head, "session\t%s\n", cell(id, 80))
	if v.State != nil {
		for _, line := range stateLines(v.State, v.Timeline) {
			if line[1] != "" {
				fmt.Fprintf(head, "%s\t%s\n", line[0], line[1])
			}
		}
	} else {
		fmt.Fprintf(head, "status\tnot known: no event of it was understood yet\n")
	}
	if v.Quarantined > 0 {
		fmt.Fprintf(head, "quarantine\t%d of its events (webhookd quarantine list)\n", v.Quarantined)
	}
	if v.ThinPending > 0 {
		fmt.Fprintf(head, "thin events\t%d wait for Stripe's API\n", v.ThinPending)
	}
	_ = head.Flush() // a buffer takes everything

	if len(v.Timeline) > 0 {
		b.WriteByte('\n')
		steps := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(steps, "TIME (UTC)\tAFTER\tEVENT\tSTATUS\tERROR")
		for _, t := range v.Timeline {
			fmt.Fprintf(steps, "%s\t%s\t%s\t%s\t%s\n", stamp(t.OccurredAt), lasted(t.SecondsInPreviousStatus),
				cell(shortType(t.EventType), 14), cell(text(t.Status), 14), cell(text(t.ErrorCode), 36))
		}
		_ = steps.Flush()
	}
	if v.Personal != nil {
		if err := writePersonal(&b, v.Personal); err != nil {
			return err
		}
	}
	_, err := w.Write(trimLines(b.Bytes()))
	return err
}

// stateLines are what a person wants to know first. Empty ones are left out.
func stateLines(s *repo.SessionRow, steps []repo.SessionStep) [][2]string {
	status := text(s.Status)
	switch {
	case status == "" && s.RedactionStatus != nil && s.LastEventID == nil:
		status = "none: only a tombstone"
	case s.StatusChangedAt != nil:
		status = cell(status, 40) + " since " + stamp(*s.StatusChangedAt)
	}
	if s.NeedsRefresh {
		status += " (in doubt: needs a refresh)"
	}
	mode := ""
	if s.Livemode != nil {
		mode = map[bool]string{true: "live", false: "test"}[*s.Livemode]
	}
	outputs := ""
	switch {
	case s.OutputsWantedSince != nil:
		outputs = "wanted since " + stamp(*s.OutputsWantedSince)
	case s.FetchedUntil != nil:
		outputs = "none wanted; Stripe's API answered last at " + stamp(*s.FetchedUntil)
	}
	redaction := cell(text(s.RedactionStatus), 40)
	told := func(t repo.SessionStep) bool { return t.RedactionStatus != nil }
	if redaction != "" && !slices.ContainsFunc(steps, told) {
		redaction += " here; Stripe has told of no redaction"
	}
	if s.Hidden {
		redaction = cmp.Or(redaction, "one that was not understood") + " (hidden from the views until webhookd redact)"
	}
	last := ""
	if s.LastEventID != nil && s.LastEventCreatedAt != nil {
		last = cell(*s.LastEventID, 60) + " of " + stamp(*s.LastEventCreatedAt)
	}
	born := ""
	if s.CreatedAt != nil {
		born = stamp(*s.CreatedAt)
	}
	return [][2]string{
		{"status", status},
		{"error", cell(text(s.LastErrorCode), 60)},
		{"type", strings.Trim(cell(text(s.Type), 40)+", "+mode, ", ")},
		{"reference", cell(text(s.ClientReferenceID), 60)},
		{"account", cell(text(s.Account), 60)},
		{"created", born},
		{"report", cell(text(s.LastVerificationReportID), 60)},
		{"last event", last},
		{"redaction", redaction},
		{"outputs", outputs},
	}
}

// writePersonal shows values whole: that is what was asked for.
func writePersonal(b *bytes.Buffer, p *repo.PersonalParts) error {
	whole := func(s string) string { return cell(s, 1<<20) }
	b.WriteString("\nPERSONAL (this look stands in pii_reads)\n")
	lines := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	if p.Withheld == "hidden" {
		b.WriteString("not shown until webhookd redact: a redaction was told that is not understood\n")
		return nil
	}
	for _, part := range []struct {
		name string
		json []byte
	}{{"verified_outputs", p.VerifiedOutputs}, {"provided_details", p.ProvidedDetails}, {"metadata", p.Metadata}} {
		found := false
		err := eachMember(part.json, func(name, value string) {
			found = true
			fmt.Fprintf(lines, "%s.%s\t%s\n", part.name, whole(name), whole(value))
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", part.name, err)
		}
		if !found {
			fmt.Fprintf(lines, "%s\tnone\n", part.name)
		}
	}
	if p.Withheld == "unconfirmed" {
		fmt.Fprintln(lines, "not shown\tuntil webhookd reconcile --after-restore: a backup brought it back")
	}
	for _, t := range p.Steps {
		if t.ErrorReason != nil {
			fmt.Fprintf(lines, "error reason %s\t%s\n", stamp(t.OccurredAt), whole(*t.ErrorReason))
		}
	}
	return lines.Flush()
}

// eachMember calls do for the members of a JSON object that are not null, in
// their order; a string comes without its quotes.
func eachMember(object []byte, do func(name, value string)) error {
	if len(object) == 0 {
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewReader(object))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		key := name.String() // stands until the next read
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		switch value.Kind() {
		case 'n':
		case '"':
			unquoted, err := jsontext.AppendUnquote(nil, value)
			if err != nil {
				return err
			}
			do(key, string(unquoted))
		default:
			do(key, string(value))
		}
	}
	return nil
}

// lasted is a time between two events, in its two largest units.
func lasted(seconds *float64) string {
	if seconds == nil {
		return ""
	}
	s := int64(*seconds)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s%86400/3600)
}

// shortType is an event's type without what all of ours begin with.
func shortType(t string) string {
	thin, short := "", t
	if rest, ok := strings.CutPrefix(t, "v1."); ok {
		thin, short = "thin ", rest
	}
	if short, ok := strings.CutPrefix(short, "identity.verification_session."); ok {
		return thin + short
	}
	return t
}
