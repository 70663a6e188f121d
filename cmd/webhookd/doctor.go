package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func newDoctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Says what is well, what is not, and what to do",
		Long: `Looks at the configuration, the database, the signing secrets, the clocks, the
rights of the API keys, the settings of the endpoint at Stripe, and what waits to
be done. Each line is ok, warning or failure; behind an arrow stands what to do.

It changes nothing and shows no secret, no address of the inside and nothing
personal. What needs Stripe's API is looked at for the modes that have a key in
WEBHOOKD_STRIPE_API_KEYS (docs/stripe-api-key.md), with at most 20 reads for
each. It takes half a minute at the most.

Exit code 0 without a failure, 1 with one, 2 with one in the configuration.`,
		Example: `  webhookd doctor
  webhookd doctor --json | jq -r '.checks[] | select(.level == "failure") | .found'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), diagnosisTimeout)
			defer cancel()
			dev, err := orDev(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			d := diagnose(ctx, time.Now, dev)
			if asJSON {
				if err := d.writeJSON(cmd.OutOrStdout()); err != nil {
					return err
				}
			} else {
				d.writeText(cmd.OutOrStdout())
			}
			return d.err()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

const (
	diagnosisTimeout = 28 * time.Second // what is not known by then is a failure
	databaseTimeout  = 10 * time.Second
	remoteTimeout    = 10 * time.Second // of each question to Stripe
)

type level string

const (
	isOK      level = "ok"
	isWarning level = "warning"
	isFailure level = "failure"
)

// finding is one line of a diagnosis.
type finding struct {
	Check string `json:"check"`
	Level level  `json:"level"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what to do; empty if it is ok
}

// findings are told in the order in which they were made.
type findings []finding

func (f *findings) okf(check, found string, args ...any) {
	*f = append(*f, finding{check, isOK, fmt.Sprintf(found, args...), ""})
}

func (f *findings) warnf(check, do, found string, args ...any) {
	*f = append(*f, finding{check, isWarning, fmt.Sprintf(found, args...), do})
}

func (f *findings) failf(check, do, found string, args ...any) {
	*f = append(*f, finding{check, isFailure, fmt.Sprintf(found, args...), do})
}

// diagnosis is all that doctor found.
type diagnosis struct {
	Failures int      `json:"failures"`
	Warnings int      `json:"warnings"`
	Checks   findings `json:"checks"`

	misconfigured bool
}

// diagnose looks at everything that can be looked at, whatever else is wrong.
func diagnose(ctx context.Context, now func() time.Time, edits ...func(*environment)) diagnosis {
	cfg, d := diagnoseConfiguration(edits)
	if cfg == nil {
		return d.counted()
	}

	var (
		wg       sync.WaitGroup
		database databaseFindings
		remote   = map[bool]findings{}
		mu       sync.Mutex
	)
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
		defer cancel()
		database = diagnoseDatabase(ctx, cfg, now)
	})
	for _, live := range []bool{true, false} {
		wg.Go(func() {
			found := diagnoseStripe(ctx, cfg, live, now)
			mu.Lock()
			defer mu.Unlock()
			remote[live] = found
		})
	}
	wg.Wait()
	d.Checks = slices.Concat(d.Checks, database.server, database.secrets, remote[true], remote[false], database.backlog)
	return d.counted()
}

func (d diagnosis) counted() diagnosis {
	for _, f := range d.Checks {
		switch f.Level {
		case isFailure:
			d.Failures++
		case isWarning:
			d.Warnings++
		}
	}
	return d
}

// diagnoseConfiguration answers what could be read of the configuration as well: what is wrong counts
// as not set. It is nil if nothing could be read.
func diagnoseConfiguration(edits []func(*environment)) (*Config, diagnosis) {
	const check = "configuration"
	var d diagnosis
	cfg, err := LoadConfig(needDatabase|needSecrets, edits...)
	var faults []string
	if err != nil {
		faults = faultsOf(err)
		again := slices.Concat(edits, []func(*environment){leaveOut(faults)})
		if cfg, err = LoadConfig(needDatabase, again...); err != nil {
			cfg, _ = LoadConfig(0, again...) // why it fails stands among the faults
		}
	}
	d.misconfigured = len(faults) > 0
	var warnings []string
	if cfg != nil {
		warnings = cfg.Warnings
	}
	for _, fault := range faults {
		if !slices.Contains(warnings, fault) {
			d.Checks.failf(check, "correct it: 'webhookd serve' does not start", "%s", fault)
		}
	}
	for _, warning := range warnings {
		d.Checks.warnf(check, "correct it, or take it out", "%s", warning)
	}
	if len(d.Checks) == 0 {
		d.Checks.okf(check, "without a fault")
	}
	return cfg, d
}

// faultsOf takes joined errors apart, without the word that heads them.
func faultsOf(err error) (faults []string) {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case ok:
		for _, err := range joined.Unwrap() {
			faults = append(faults, faultsOf(err)...)
		}
		return faults
	case err == errConfig: //nolint:errorlint // the heading itself
		return nil
	}
	return []string{err.Error()}
}

// leaveOut makes the variables that a fault begins with as if they were not set.
func leaveOut(faults []string) func(*environment) {
	return func(e *environment) {
		fields := reflect.ValueOf(e).Elem()
		for i := range fields.NumField() {
			v := fields.Field(i).Addr().Interface().(*value)
			faulty := func(fault string) bool { return strings.HasPrefix(fault, v.name+" ") }
			if slices.ContainsFunc(faults, faulty) {
				*v = value{name: v.name, text: fields.Type().Field(i).Tag.Get("default")}
			}
		}
		e.ListenAddr.force(":0") // nothing here listens, and two that are the same would be a fault again
	}
}

// err says what the exit code is.
func (d diagnosis) err() error {
	switch {
	case d.misconfigured:
		return fmt.Errorf("%w is at fault: %s in all", errConfig, count(d.Failures, "failure"))
	case d.Failures > 0:
		return errors.New(count(d.Failures, "failure"))
	}
	return nil
}

func (d diagnosis) writeJSON(w io.Writer) error {
	return json.NewEncoder(w).Encode(d)
}

// textWidth is what a terminal shows at the least.
const textWidth = 80

// writeText writes three columns: level, check, and what was found.
func (d diagnosis) writeText(w io.Writer) {
	longest := slices.MaxFunc(d.Checks, func(a, b finding) int { return cmp.Compare(len(a.Check), len(b.Check)) })
	column := len(longest.Check)
	margin := strings.Repeat(" ", len(isFailure)+column+4)
	for _, f := range d.Checks {
		fmt.Fprintf(w, "%-*s  %-*s  ", len(isFailure), f.Level, column, f.Check)
		paragraph(w, f.Found, margin)
		if f.Do != "" {
			fmt.Fprint(w, margin)
			paragraph(w, "→ "+f.Do, margin+"  ")
		}
	}
	fmt.Fprintf(w, "\n%d ok, %s, %s\n", len(d.Checks)-d.Warnings-d.Failures, count(d.Warnings, "warning"), count(d.Failures, "failure"))
}

// paragraph breaks lines at blanks; a word that is too long stands alone.
func paragraph(w io.Writer, text, margin string) {
	width := textWidth - utf8.RuneCountInString(margin)
	used := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i > 0 && used+1+n > width:
			fmt.Fprint(w, "\n", margin, word)
			used = n
		case i > 0:
			fmt.Fprint(w, " ", word)
			used += 1 + n
		default:
			fmt.Fprint(w, word)
			used = n
		}
	}
	fmt.Fprintln(w)
}

// reason puts an error in words; repo and stripeapi have taken out what must not be shown.
func reason(whose string, err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer from " + whose + " in time"
	}
	return err.Error()
}

// count is a number with its noun.
func count[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// roughly is a duration in its largest unit.
func roughly(d time.Duration) string {
	d = d.Abs()
	switch {
	case d >= 48*time.Hour:
		return count(int(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return count(int(d/time.Hour), "hour")
	case d >= 2*time.Minute:
		return count(int(d/time.Minute), "minute")
	default:
		return count(int(d/time.Second), "second")
	}
}

// offset says how far another clock is from ours.
func offset(d time.Duration) string {
	switch {
	case d > 0:
		return "is " + roughly(d) + " ahead of ours"
	case d < 0:
		return "is " + roughly(d) + " behind ours"
	}
	return "agrees with ours"
}
