package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webhookd/internal/events"
	"webhookd/internal/signature"
)

func newVerifyCommand() *cobra.Command {
	var (
		v         verification
		body      string
		secrets   []string
		at        int64
		tolerance string
	)
	cmd := &cobra.Command{
		Use:   "verify --body FILE --header H",
		Short: "Explains why a signature is accepted or refused",
		Long: `Judges a body and its Stripe-Signature header as the service would, and says
why. The answer on stdout is one word: accepted, or the reason for which the
delivery is refused. The explanation on stderr names secrets, and never shows one.

Exit code 0 if accepted, 1 if refused, 2 for wrong usage.`,
		Example: `  # with the configured secrets, as of now
  webhookd verify --body event.json --header 't=1700000000,v1=…'

  # a delivery of last week, with a secret at hand
  webhookd verify --body event.json --header "$(cat header)" --secret whsec_… --at 1700000000

  # the body from a pipe
  webhookd trigger verified --print --json > sent
  jq -j .body sent | webhookd verify --body - --header "$(jq -r .header sent)"`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&body, "body", "", "`file` with the exact bytes of the request's body, - for stdin")
	f.StringVar(&v.header, "header", "", "the value of the Stripe-Signature header")
	f.StringArrayVar(&secrets, "secret", nil, "a signing `secret` (may be repeated; default: the configured ones, else that of 'webhookd dev')")
	f.Int64Var(&at, "at", 0, "judge the age as of this `unix` time (default: now)")
	f.StringVar(&tolerance, "tolerance", "", "how far the signature may be from then, both ways, a `duration` of at least 1s (default: as configured, 5m)")
	_ = cmd.MarkFlagRequired("body") // the flags stand above
	_ = cmd.MarkFlagRequired("header")

	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if len(secrets) > 0 {
			err = v.judgeBy(secrets, f.Changed("tolerance"))
		} else {
			err = v.judgeAsConfigured()
		}
		if err != nil {
			return err
		}
		if f.Changed("tolerance") {
			if v.tolerance, err = parseTolerance(tolerance); err != nil {
				return usagef("--tolerance %w", err)
			}
		}
		v.now = time.Now()
		if f.Changed("at") {
			v.now, v.given = time.Unix(at, 0), true
		}
		if v.body, err = readBody(cmd.InOrStdin(), body); err != nil {
			return usagef("read body: %w", err)
		}
		return v.explain(cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func readBody(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// verification is one delivery and what to judge it by.
type verification struct {
	body      []byte
	header    string
	secrets   []signature.Secret
	tolerance time.Duration
	now       time.Time
	given     bool // now, by --at
}

// judgeAsConfigured takes the configured secrets, else that of dev, and the
// configured tolerance.
func (v *verification) judgeAsConfigured() error {
	dev, unread := readDevFile()
	cfg, err := LoadConfig(needSecrets, dev.lendSecret)
	switch {
	case err != nil && unread != nil && !errors.Is(unread, fs.ErrNotExist):
		return usagef("%w", unread)
	case err != nil:
		return err
	}
	v.secrets, v.tolerance = cfg.Secrets, cfg.SignatureTolerance
	return nil
}

// judgeBy takes the given secrets, and of the configuration at most the
// tolerance: it may be the rest of it that is looked into.
func (v *verification) judgeBy(given []string, toleranceGiven bool) (err error) {
	if !toleranceGiven {
		if v.tolerance, err = loadTolerance(); err != nil {
			return err
		}
	}
	for _, value := range given {
		secret, err := signature.NewSecret("", value, false)
		if err != nil {
			return usagef("--secret: %w", err)
		}
		v.secrets = append(v.secrets, secret)
	}
	return nil
}

// explain prints the verdict. The error says that the delivery is refused.
func (v *verification) explain(stdout, stderr io.Writer) error {
	verifier, err := signature.NewVerifier(v.tolerance, v.secrets...)
	if err != nil {
		return usagef("%w", err)
	}
	secret, err := verifier.Verify(v.body, v.header, v.now)
	event, fault := events.Parse(v.body)
	if err == nil && fault == nil && event.Livemode == events.ModeLive && secret.Test() {
		err = signature.ErrWrongMode
	}

	v.describe(stderr)
	if err == nil {
		fmt.Fprintf(stderr, "secret:  %s matches\n", secret.Name())
		switch {
		case fault != nil:
			fmt.Fprintf(stderr, "note:    webhookd would still answer 400: %v\n", fault)
		default:
			fmt.Fprintf(stderr, "event:   %s, %s\n", event.ID, event.Type)
		}
		_, err = fmt.Fprintln(stdout, "accepted")
		return err
	}

	if _, err := fmt.Fprintln(stdout, signature.Reason(err)); err != nil {
		return err
	}
	if advice := v.advice(err, verifier); advice != "" {
		fmt.Fprintf(stderr, "advice:  %s\n", advice)
	}
	return fmt.Errorf("refused: %w", err)
}

// describe says what was judged by what.
func (v *verification) describe(w io.Writer) {
	fmt.Fprintf(w, "body:    %s\n", count(len(v.body), "byte"))
	var t string
	v1, others := 0, 0
	for element := range strings.SplitSeq(v.header, ",") {
		switch key, value, _ := strings.Cut(strings.Trim(element, " \t"), "="); key {
		case "t":
			t = value
		case "v1":
			v1++
		case "":
		default:
			others++
		}
	}
	fmt.Fprintf(w, "header:  %s, %s, %s besides t\n", count(len(v.header), "byte"), count(v1, "v1 signature"), count(others, "other element"))
	if at, err := strconv.ParseInt(t, 10, 64); err == nil {
		age, side := v.now.Unix()-at, "before"
		if age < 0 {
			age, side = -age, "after"
		}
		fmt.Fprintf(w, "age:     signed at %s, %s %s %s; the tolerance is %s both ways\n",
			time.Unix(at, 0).UTC().Format(time.RFC3339), span(age), side, v.now.UTC().Format(time.RFC3339), span(int64(v.tolerance/time.Second)))
	}
	names := make([]string, len(v.secrets))
	for i, s := range v.secrets {
		names[i] = s.Name()
	}
	fmt.Fprintf(w, "secrets: %s\n", strings.Join(names, ", "))
}

// span is a number of seconds to a reader: in days if it is that many.
func span(seconds int64) string {
	if days := seconds / (24 * 60 * 60); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	return fmt.Sprintf("%d s", seconds)
}

// advice is what to do about a refusal.
func (v *verification) advice(err error, verifier *signature.Verifier) string {
	switch {
	case errors.Is(err, signature.ErrMissingHeader):
		return "give the header's value; a proxy that drops Stripe-Signature must be told to pass it on"
	case errors.Is(err, signature.ErrMalformedHeader) && strings.HasPrefix(strings.ToLower(v.header), "stripe-signature:"):
		return "give the value only, without 'Stripe-Signature:'"
	case errors.Is(err, signature.ErrMalformedHeader):
		return "the form is t=<unix time>,v1=<64 hex digits>: t exactly once, nothing empty, up to 16 v1, at most 8 KiB"
	case errors.Is(err, signature.ErrNoV1Signature):
		return "v1 is the only scheme that Stripe signs with; v0 is a fake one for tests"
	case errors.Is(err, signature.ErrNoMatch):
		for name, body := range v.repairs() {
			if _, err := verifier.Verify(body, v.header, v.now); !errors.Is(err, signature.ErrNoMatch) {
				return "it would match " + name
			}
		}
		return "take the secret of this very endpoint and mode (the CLI has one of its own), and the body's bytes as received: not parsed, formatted or cut"
	case errors.Is(err, signature.ErrTooOld):
		return "each attempt of Stripe's is signed anew: this one was kept, or this clock is fast. For an old one give --at"
	case errors.Is(err, signature.ErrTooNew) && v.given:
		return "--at lies before the signature: give the time of the delivery, or leave it out"
	case errors.Is(err, signature.ErrTooNew):
		return "set this clock: it is slow"
	case errors.Is(err, signature.ErrWrongMode):
		return "a live event must not come in under a test secret: configure the live endpoint's secret too"
	}
	return ""
}

// repairs undoes what editors and shells do to a body.
func (v *verification) repairs() map[string][]byte {
	return map[string][]byte{
		"without the line break at the body's end":       bytes.TrimRight(v.body, "\r\n"),
		"with a line break at the body's end":            append(bytes.Clone(v.body), '\n'),
		"with line breaks of one byte (this has CRLF)":   bytes.ReplaceAll(v.body, []byte("\r\n"), []byte("\n")),
		"without the byte order mark at the body's head": bytes.TrimPrefix(v.body, []byte("\ufeff")),
	}
}
