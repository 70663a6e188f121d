package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// delivered is one answer. Its Outcome is the code of a problem if it was refused.
type delivered struct {
	Status  int     `json:"status"`
	Outcome string  `json:"outcome"`
	Detail  string  `json:"detail,omitempty"`
	Event   string  `json:"event"`
	Type    string  `json:"type"`
	Session string  `json:"session"`
	Error   string  `json:"error_code,omitempty"` // that the event tells; trigger fills it in
	Millis  float64 `json:"ms"`
}

// devFile is where dev says how to reach it, for its owner's eyes only.
const devFile = ".webhookd/dev.json"

// target is an endpoint, as it stands in devFile.
type target struct {
	URL         string `json:"url"`
	Secret      string `json:"secret"`
	DatabaseURL string `json:"database_url"`
	MetricsURL  string `json:"metrics_url"`
	StripeBase  string `json:"stripe_api_base,omitempty"` // of the Stripe that a demo plays

	ours bool // the endpoint is that of dev in this folder
}

// readDevFile returns what the dev command of this folder wrote; the error is
// fs.ErrNotExist if there was none.
func readDevFile() (dev target, err error) {
	text, err := os.ReadFile(devFile)
	if err != nil {
		return target{}, err
	}
	if err := json.Unmarshal(text, &dev); err != nil {
		return target{}, fmt.Errorf("read %s: %w", devFile, err)
	}
	return dev, nil
}

// complete fills from devFile what the flags do not say.
func (t *target) complete() error {
	if t.URL == "" || t.Secret == "" {
		dev, err := readDevFile()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return usagef("no endpoint is known: run 'webhookd dev' in this folder, or give --url and --secret")
		case err != nil:
			return usagef("%w", err)
		}
		t.ours = t.URL == "" || t.URL == dev.URL
		t.URL = cmp.Or(t.URL, dev.URL)
		t.Secret = cmp.Or(t.Secret, dev.Secret)
	}
	if _, err := parseHTTPURL(t.URL); err != nil {
		return usagef("--url %w", err)
	}
	if _, err := signature.NewSecret("", t.Secret, false); err != nil {
		return usagef("--secret: %w", err)
	}
	return nil
}

// orDev is an edit for the commands of operators: where no variable names a
// database, or DATABASE_URL names it as dev prints it, that of dev in this folder
// is meant, and said to be, and its secret where none is configured. Beside a demo
// the Stripe that it plays is lent too.
func orDev(ctx context.Context, stderr io.Writer) (func(*environment), error) {
	dev, err := readDevFile()
	named := len(namesDatabase()) > 0
	switch {
	case err != nil && !named && !errors.Is(err, fs.ErrNotExist):
		return nil, usagef("%w", err)
	case dev.DatabaseURL == "", named && !namesOnly(dev.DatabaseURL):
		return func(*environment) {}, nil
	}
	how := ""
	switch {
	case !dev.databaseListens(ctx):
		how = ", which does not answer (is 'webhookd dev' running?)"
	case dev.StripeBase != "":
		how = ", whose demo plays Stripe"
	}
	fmt.Fprintf(stderr, "webhookd: using the database of 'webhookd dev' in this folder%s\n", how)
	return func(e *environment) {
		e.DatabaseURL.force(dev.DatabaseURL)
		dev.lendSecret(e)
		dev.lendStripe(e)
	}, nil
}

// databaseListens tells whether somebody takes connections where dev had its
// database; where that is does not count if it cannot be read.
func (t *target) databaseListens(ctx context.Context) bool {
	u, err := url.Parse(t.DatabaseURL)
	if err != nil || u.Host == "" {
		return true
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return false
	}
	_ = conn.Close() // there was nothing to say
	return true
}

// lendSecret is for commands that need one, where none is configured.
func (t *target) lendSecret(e *environment) {
	if t.Secret != "" && !e.StripeWebhookSecrets.set && !e.StripeWebhookSecretsFile.set {
		e.StripeWebhookSecrets.force("dev=" + t.Secret)
	}
}

// lendStripe is for commands that ask Stripe, where no key is configured.
func (t *target) lendStripe(e *environment) {
	if t.StripeBase != "" && !e.StripeAPIKeys.set && !e.StripeAPIKeysFile.set {
		e.StripeAPIKeys.force(demoKeys)
		e.StripeAPIBase.force(t.StripeBase)
		e.PublicURL.preset(t.URL)
	}
}

// loadOrDev is LoadConfig for the commands of operators.
func loadOrDev(cmd *cobra.Command, need needs) (*Config, error) {
	dev, err := orDev(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	return LoadConfig(need, dev)
}

// deliver is one attempt, like Stripe's: redirects are answers.
func (t *target) deliver(ctx context.Context, e scenario.Event, header string) (delivered, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(e.Body))
	if err != nil {
		return delivered{}, fmt.Errorf("deliver %s: %w", e.ID, err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", header)
	client := http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	start := time.Now()
	resp, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		return delivered{}, fmt.Errorf("deliver %s: %w", e.ID, ctx.Err())
	case err != nil:
		return delivered{}, fmt.Errorf("deliver %s: %w (is 'webhookd dev' or 'webhookd serve' running?)", e.ID, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read; there is nothing to lose
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return delivered{}, fmt.Errorf("deliver %s: read answer: %w", e.ID, err)
	}
	took := time.Since(start)

	var answer struct{ Outcome, Code, Detail string }
	_ = json.Unmarshal(text, &answer) // another program may stand there, and its status says enough
	return delivered{
		Status: resp.StatusCode, Outcome: cmp.Or(answer.Outcome, answer.Code), Detail: answer.Detail,
		Event: e.ID, Type: e.Type, Session: e.SessionID, Millis: float64(took.Microseconds()) / 1000,
	}, nil
}
