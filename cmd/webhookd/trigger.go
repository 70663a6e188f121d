package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// triggering is what trigger and its story have in common: whom to tell of, in
// which way, and where to.
type triggering struct {
	target target
	out    io.Writer
	err    io.Writer

	options scenario.SessionOptions
	at      int64
	seed    uint64
	count   int

	duplicates    int
	twin, thin    bool
	expanded      bool
	shuffle       bool
	print, asJSON bool
}

func (t *triggering) add(f *pflag.FlagSet) {
	f.StringVar(&t.target.URL, "url", "", "the endpoint (default: the one of 'webhookd dev')")
	f.StringVar(&t.target.Secret, "secret", "", "its signing `secret` (likewise)")
	f.StringVar(&t.options.ID, "session", "", "go on with the session of this `id` (vs_…), taken to be verified")
	f.StringVar(&t.options.Status, "status", "", "the `status` that the session of --session is in, if another")
	f.StringVar(&t.options.Type, "type", "", "of the session: document, id_number, verification_flow or any other (default: what fits the code)")
	f.BoolVar(&t.options.Livemode, "livemode", false, "live events instead of test events")
	f.StringVar(&t.options.Account, "account", "", "the `id` of a connected account (acct_…)")
	f.StringVar(&t.options.ClientReferenceID, "client-reference-id", "", "whom the session is about (default: drawn)")
	f.StringToStringVar(&t.options.Metadata, "metadata", nil, "as `key=value`, may be repeated (default: drawn)")
	f.Lookup("metadata").DefValue = "" // pflag would show []
	f.StringVar(&t.options.APIVersion, "api-version", scenario.APIVersion, "the `version` that the events tell")
	f.Int64Var(&t.at, "at", 0, "when the last event was created, in `unix` seconds (default: now)")
	f.IntVar(&t.count, "count", 1, "so many sessions")
	f.IntVar(&t.duplicates, "duplicates", 0, "send each event so many times more")
	f.BoolVar(&t.twin, "twin", false, "send each change also as another event")
	f.BoolVar(&t.thin, "thin", false, "send the thin notification of each event too")
	f.BoolVar(&t.expanded, "expanded", false, "put outputs into the events, which Stripe never does: they must reach no log")
	f.BoolVar(&t.shuffle, "shuffle", false, "send in any order")
	f.Uint64Var(&t.seed, "seed", 0, "draw the same ids again (default: others each time)")
	f.BoolVar(&t.print, "print", false, "print each delivery as a call of curl, and send nothing")
	f.BoolVar(&t.asJSON, "json", false, "a line of JSON for each delivery")
}

// begin looks at the flags together, once they are parsed.
func (t *triggering) begin(cmd *cobra.Command) error {
	t.out, t.err = cmd.OutOrStdout(), cmd.ErrOrStderr()
	f := cmd.Flags()
	if t.count < 1 || t.duplicates < 0 {
		return usagef("--count is at least 1, --duplicates at least 0")
	}
	if t.options.Status != "" && t.options.ID == "" {
		return usagef("--status says where the session of --session stands: give both")
	}
	if t.options.ID != "" {
		if t.count > 1 {
			return usagef("--session is one session: --count makes no sense with it")
		}
		t.options.Status = cmp.Or(t.options.Status, events.StatusVerified)
	}
	if !f.Changed("at") {
		t.at = time.Now().Unix()
	}
	if !f.Changed("seed") {
		t.seed = rand.Uint64()
	}
	return t.target.complete()
}

// session draws the session of one seed.
func (t *triggering) session(seed uint64, code string) (*scenario.Source, scenario.SessionOptions) {
	o := t.options
	o.Type = cmp.Or(o.Type, scenario.SessionType(code))
	return scenario.New(seed), o
}

func newTriggerCommand() *cobra.Command {
	var (
		t       triggering
		code    string
		spacing time.Duration
	)
	cmd := &cobra.Command{
		Use:   "trigger KIND…",
		Short: "Sends signed events to a running endpoint",
		Long: `Sends signed events to a running endpoint, by default that of 'webhookd dev' in
this folder, and prints what became of each.

KIND is created, processing, requires_input, verified, canceled or redacted, also
by its full name (identity.verification_session.verified), or with v1. before it
for the thin notification alone. Several are one session's, in this order.

'stripe trigger' cannot do processing, verified and requires_input: in Stripe's
test mode a person has to click through them.

The codes, beside which any text will do:
` + wrapped(events.Codes()) + `

Exit code 0 if every delivery was answered with 2xx, 1 if not, 2 for wrong usage.`,
		Example: `  webhookd trigger created processing verified
  webhookd trigger requires_input --code selfie_face_mismatch
  webhookd trigger requires_input --code all          # each code, a session each
  webhookd trigger redacted --session vs_1…           # erase what an earlier call made
  webhookd trigger verified --duplicates 3 --twin --thin --shuffle
  webhookd trigger story retry
  webhookd trigger verified --print | sh              # with curl
  webhookd trigger verified --url https://example.com/webhooks/stripe --secret whsec_…`,
		Args: cobra.MinimumNArgs(1),
	}
	t.add(cmd.Flags())
	cmd.Flags().StringVar(&code, "code", "document_unverified_other",
		"of requires_input: any `code`, all (a session for each), or none for no error")
	cmd.Flags().DurationVar(&spacing, "spacing", time.Second, "how far apart the events were created, in whole seconds; 0 for ties")

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kinds, err := kindsOf(args)
		if err != nil {
			return err
		}
		fails := slices.ContainsFunc(kinds, func(k kind) bool { return k.what == "requires_input" })
		codes, err := codesOf(code)
		switch {
		case err != nil:
			return err
		case cmd.Flags().Changed("code") && !fails:
			return usagef("--code is for requires_input, which is not among the kinds")
		case len(codes) > 1 && t.options.ID != "":
			return usagef("--session is one session: --code all makes one for each code")
		case spacing < 0 || spacing%time.Second != 0:
			return usagef("--spacing is in whole seconds, and not negative")
		}
		if !fails {
			codes = []string{""}
		}
		if err := t.begin(cmd); err != nil {
			return err
		}
		if len(codes) == 1 && codes[0] != "" && !slices.Contains(events.Codes(), codes[0]) {
			fmt.Fprintf(t.err, "webhookd: %q is no code that Stripe documents: it counts as %q\n", codes[0], events.LabelOther)
		}

		var sent []scenario.Event
		for range t.count {
			for _, code := range codes {
				source, o := t.session(t.seed, code)
				t.seed++
				session := source.Session(o)
				at := time.Unix(t.at, 0).Add(-spacing * time.Duration(len(kinds)-1))
				for _, k := range kinds {
					e, err := session.Happen(k.what, code, at)
					if err != nil {
						return err
					}
					sent = append(sent, t.around(session, e, k.thin)...)
					at = at.Add(spacing)
				}
			}
		}
		return t.send(cmd.Context(), sent)
	}
	cmd.AddCommand(newTriggerStoryCommand())
	return cmd
}

func newTriggerStoryCommand() *cobra.Command {
	var (
		t    triggering
		list bool
	)
	cmd := &cobra.Command{
		Use:   "story [NAME]",
		Short: "Sends all events of a session's life",
		Long: `Sends all events of a session's life (default: happy). Their times are invented:
as far apart as in life, the last one now.

The stories: ` + strings.Join(scenario.Stories(), ", ") + `.`,
		Example: `  webhookd trigger story
  webhookd trigger story retry --count 5
  webhookd trigger story redacted --expanded --shuffle`,
		Args: cobra.MaximumNArgs(1),
	}
	t.add(cmd.Flags())
	cmd.Flags().BoolVar(&list, "list", false, "print the names of the stories")

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if list {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(scenario.Stories(), "\n"))
			return err
		}
		name := append(args, "happy")[0]
		if !slices.Contains(scenario.Stories(), name) {
			return usagef("no story %q: there are %s", name, strings.Join(scenario.Stories(), ", "))
		}
		if err := t.begin(cmd); err != nil {
			return err
		}
		var sent []scenario.Event
		for range t.count {
			start := time.Unix(t.at, 0)
			source, o := t.session(t.seed, "")
			first, err := source.Story(name, start, o)
			if err != nil {
				return err
			}
			start = start.Add(-first[len(first)-1].Created.Sub(start)) // told again, so that it ends then
			source, o = t.session(t.seed, "")
			told, err := source.Story(name, start, o)
			if err != nil {
				return err
			}
			o.ID = told[0].SessionID
			session := source.Session(o)
			for _, e := range told {
				sent = append(sent, t.around(session, e, false)...)
			}
			t.seed++
		}
		return t.send(cmd.Context(), sent)
	}
	return cmd
}

// wrapped lists words in lines for a terminal.
func wrapped(words []string) string {
	var b strings.Builder
	width := 0
	for _, w := range words {
		if width+len(w) > 76 {
			b.WriteByte('\n')
			width = 0
		}
		b.WriteString("  " + w)
		width += 2 + len(w)
	}
	return b.String()
}

// kind is one argument of trigger.
type kind struct {
	what string // as scenario says it
	thin bool   // only the notification
}

func kindsOf(args []string) ([]kind, error) {
	var kinds []kind
	for _, arg := range args {
		full, thin := strings.CutPrefix(arg, "v1.")
		if !strings.Contains(full, ".") {
			full = "identity.verification_session." + full
		}
		if !slices.Contains(events.Types(), full) {
			return nil, usagef("no kind %q: there are created, processing, requires_input, verified, canceled, redacted, and the command story", arg)
		}
		kinds = append(kinds, kind{full[strings.LastIndex(full, ".")+1:], thin})
	}
	return kinds, nil
}

func codesOf(flag string) ([]string, error) {
	switch flag {
	case "":
		return nil, usagef("--code is empty: for no error say none")
	case "all":
		return events.Codes(), nil
	case events.LabelNone:
		return []string{""}, nil
	}
	return []string{flag}, nil
}

// around is an event with all that is sent because of it, or only the notification.
func (t *triggering) around(session *scenario.Session, e scenario.Event, thinAlone bool) []scenario.Event {
	if t.expanded {
		e = session.Expanded(e)
	}
	var all []scenario.Event
	if !thinAlone {
		all = append(all, e)
		if t.twin {
			all = append(all, session.Twin(e))
		}
	}
	if t.thin || thinAlone {
		all = append(all, session.Thin(e))
	}
	return slices.Concat(slices.Repeat([][]scenario.Event{all}, 1+t.duplicates)...)
}

// send delivers one after the other. The error says that some were not taken.
func (t *triggering) send(ctx context.Context, all []scenario.Event) error {
	if t.shuffle {
		rand.New(rand.NewPCG(t.seed, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	refused, unwritten := 0, false
	for _, e := range all {
		header := signature.Sign(e.Body, t.target.Secret, time.Now())
		if t.print {
			if err := t.show(e, header); err != nil {
				return err
			}
			continue
		}
		got, err := t.target.deliver(ctx, e, header)
		if err != nil {
			return err
		}
		if got.Status/100 != 2 {
			refused++
		}
		unwritten = unwritten || got.Outcome == "database"
		if told, err := events.Parse(e.Body); err == nil {
			got.Error = told.Session.ErrorCode.Value
		}
		if err := t.report(got); err != nil {
			return err
		}
	}
	if unwritten {
		fmt.Fprintln(t.err, "webhookd: the service's log says what is wrong with its database. If the schema is missing or behind: 'webhookd migrate up'")
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d deliveries were not taken", refused, len(all))
	}
	if !t.print && !t.asJSON {
		t.hint(all)
	}
	return nil
}

// hint says how to see what was made of the sessions. A few will do: all ids
// stand in the lines above.
func (t *triggering) hint(all []scenario.Event) {
	const most = 3
	var sessions []string
	for _, e := range all {
		if !slices.Contains(sessions, e.SessionID) {
			sessions = append(sessions, e.SessionID)
		}
	}
	where := ""
	if !t.target.ours {
		where = ", where its database is configured"
	}
	fmt.Fprintf(t.err, "\nWhat was made of it%s:\n", where)
	for _, id := range sessions[:min(most, len(sessions))] {
		fmt.Fprintf(t.err, "  %s session %s\n", os.Args[0], id)
	}
	if more := len(sessions) - most; more > 0 {
		fmt.Fprintf(t.err, "  and %d more\n", more)
	}
}

func (t *triggering) show(e scenario.Event, header string) (err error) {
	if t.asJSON {
		return json.NewEncoder(t.out).Encode(map[string]string{"url": t.target.URL, "header": header, "body": string(e.Body)})
	}
	_, err = fmt.Fprintf(t.out, "curl -sS -H 'Content-Type: application/json' -H %s --data-raw %s %s; echo\n",
		quoted("Stripe-Signature: "+header), quoted(string(e.Body)), quoted(t.target.URL))
	return err
}

// quoted is one word to a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (t *triggering) report(d delivered) error {
	if t.asJSON {
		return json.NewEncoder(t.out).Encode(d)
	}
	line := fmt.Sprintf("%d  %-11s  %s  %-46s  %s  %.1f ms  %s", d.Status, cmp.Or(d.Outcome, "-"), d.Event, d.Type, d.Session, d.Millis, d.Error)
	_, err := fmt.Fprintln(t.out, strings.TrimRight(line, " "))
	if err == nil && d.Detail != "" {
		_, err = fmt.Fprintf(t.err, "     %s\n", d.Detail)
	}
	return err
}
