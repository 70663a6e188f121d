package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/template"

	"github.com/spf13/cobra"

	"webhookd/internal/pgdev"
	"webhookd/internal/repo"
)

func newDevCommand() *cobra.Command {
	var reset, demo bool
	dev := &cobra.Command{
		Use:   "dev",
		Short: "Everything on this machine, no configuration",
		Long: `Starts a private PostgreSQL (kept in .webhookd/), migrates it, serves on
127.0.0.1:8080 and :9090 with a secret of its own, and prints what to try next.
Ctrl-C stops all of it. What WEBHOOKD_ variables say (but for the database)
counts here too; where they say nothing, each delivery is a line of the log
(debug, console; with --demo, errors).

With --demo it also plays Stripe: a realistic mix of events without end, live and
test, every error code among them, with duplicates, forgeries, what is lost and
what nobody understands; and the API from which outputs are fetched. It is made
up, and every name in it says so. For looking at metrics and dashboards.`,
		Example: "  webhookd dev\n  webhookd dev --demo    # with something to look at\n  webhookd dev --reset   # forget everything first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDev(cmd.Context(), reset, demo, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	dev.Flags().BoolVar(&reset, "reset", false, "remove the database of an earlier run first")
	dev.Flags().BoolVar(&demo, "demo", false, "keep a realistic mix of events going")
	return dev
}

func runDev(ctx context.Context, reset, demo bool, stdout, stderr io.Writer) (err error) {
	folder := filepath.Dir(devFile)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", folder, err)
	}
	last, err := readDevFile()
	switch {
	case reset:
		last = target{} // whatever is wrong with it
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	secret := cmp.Or(last.Secret, "whsec_dev"+rand.Text()) // what was printed stays true
	var stripe *demoStripe
	if demo {
		if stripe, err = serveDemoStripe(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stripe.close()) }()
	}
	// What is wrong with the configuration is told before anything starts.
	const pending = "postgres://127.0.0.1/"
	cfg, err := LoadConfig(needDatabase|needMigrateDatabase|needSecrets, func(e *environment) {
		e.DatabaseURL.force(pending)
		e.MigrateDatabaseURL.force(pending)
		own := "dev=" + secret
		if strings.Contains(e.StripeWebhookSecrets.text, "dev=") {
			own = secret // one of theirs may have the name
		}
		switch {
		case e.StripeWebhookSecretsFile.set:
			secret = "" // of theirs, only they know which trigger should use
		case !e.StripeWebhookSecrets.set:
			e.StripeWebhookSecrets.force(own)
		case strings.Contains(e.StripeWebhookSecrets.text, secret): // it was printed to be used
		case e.StripeWebhookSecrets.text != "": // else it is a fault, as everywhere
			e.StripeWebhookSecrets.force(e.StripeWebhookSecrets.text + "," + own)
		}
		e.ListenAddr.preset("127.0.0.1:8080")
		e.AdminAddr.preset("127.0.0.1:9090")
		e.DrainDelay.preset("0s")
		e.LogFormat.preset("console")
		e.LogLevel.preset("debug")
		if demo {
			e.StripeAPIKeys.force(demoKeys)
			e.StripeAPIBase.force(stripe.base)
			e.ReconcileEvery.preset("1m")
			e.LogLevel.preset("error") // a mix without end would hide the greeting
		}
	})
	if err == nil && demo && secret == "" {
		err = usagef("--demo signs with a secret of its own: take WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE away")
	}
	if err != nil {
		return err
	}
	on, err := listen(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%w (is another 'webhookd dev' running?)", err)
	}
	defer on.close()
	data := filepath.Join(folder, "postgres")
	if reset {
		if err := pgdev.Reset(ctx, data); err != nil {
			return err
		}
	}
	server, err := pgdev.Start(ctx, pgdev.Options{Dir: data, Log: stderr, Port: portAgain(ctx, last.DatabaseURL)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
	database := server.URL("webhookd")
	cfg.DatabaseURL, cfg.MigrateDatabaseURL = hidden(database), hidden(database)
	if _, err := repo.Migrate(ctx, database); err != nil {
		return err
	}
	log := newLogger(stderr, cfg.LogLevel, cfg.LogFormat)
	// Without its database there is nothing to try: dev ends, and says why.
	ctx, end := context.WithCancel(ctx)
	go func() {
		select {
		case <-server.Done():
			end()
		case <-ctx.Done():
		}
	}()
	var demos sync.WaitGroup
	defer demos.Wait()
	defer end()
	err = serve(ctx, cfg, log, on, func() error {
		t := target{
			URL:         "http://" + dialable(on.public.Addr()) + cfg.WebhookPath,
			Secret:      secret,
			DatabaseURL: database,
			MetricsURL:  "http://" + dialable(on.admin.Addr()) + "/metrics",
		}
		if demo {
			stripe.sendTo(t.URL)
			t.StripeBase = stripe.base
		}
		if err := writeDevFile(t); err != nil {
			return err
		}
		var greeting strings.Builder
		if err := devGreeting.Execute(&greeting, struct {
			target
			Self, Postgres, Dir, Psql string
			Demo                      bool
		}{t, os.Args[0], server.Version(), server.Dir(), psql(), demo}); err != nil {
			return err
		}
		if _, err := io.WriteString(stdout, greeting.String()); err != nil || !demo { // whole, or not at all
			return err
		}
		d, err := newDemo(t, stripe, mathrand.Uint64())
		if err == nil {
			demos.Go(func() { d.run(ctx) })
		}
		return err
	})
	return errors.Join(err, server.Err())
}

// dialable is an address as a client on this machine says it.
func dialable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err == nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return a.String()
}

// portAgain is the port of the last run's PostgreSQL if it is free, else 0.
func portAgain(ctx context.Context, databaseURL string) int {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Port() == "" {
		return 0
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", u.Port()))
	if err != nil {
		return 0
	}
	_ = l.Close() // PostgreSQL takes it over
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0
	}
	return port
}

// psql is how a shell finds it: many systems keep it off PATH, beside the server.
func psql() string {
	if _, err := exec.LookPath("psql"); err == nil {
		return "psql"
	}
	dir, err := pgdev.Find()
	if err != nil {
		return "psql"
	}
	program := filepath.Join(dir, "psql")
	if _, err := os.Stat(program); err != nil {
		return "psql"
	}
	return program
}

func writeDevFile(t target) error {
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", devFile, err)
	}
	next := devFile + ".new"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", devFile, err)
	}
	if err := os.Rename(next, devFile); err != nil {
		return fmt.Errorf("write %s: %w", devFile, err)
	}
	return nil
}

var devGreeting = template.Must(template.New("dev").Parse(`
webhookd is ready. Ctrl-C stops it and its PostgreSQL {{.Postgres}} (data in {{.Dir}}).

  endpoint   {{.URL}}
  secret     {{or .Secret "(what WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE holds)"}}
  metrics    {{.MetricsURL}}
  database   {{.DatabaseURL}}

{{if .Demo}}The demo runs until you press Ctrl-C: some three made-up events a second, live and
test. It begins with one failure of each error code.

{{end}}Try, in another terminal, in this folder:

{{if .Demo}}  curl -s {{.MetricsURL}} | grep verification_failures_total | grep -v ' 0$'
  export DATABASE_URL='{{.DatabaseURL}}'
  {{.Psql}} "$DATABASE_URL" -c 'SELECT * FROM stripe_identity.failure_reasons_hourly ORDER BY hour DESC, failures DESC'
  {{.Psql}} "$DATABASE_URL" -c 'SELECT id, status, last_error_code FROM stripe_identity.verification_sessions ORDER BY updated_at DESC LIMIT 5'
  {{.Self}} quarantine list                                  what nobody understands
  {{.Self}} session vs_…                                     what happened to one of them

The dashboards are in deploy/grafana: let your Prometheus scrape {{.MetricsURL}}.

{{else}}  {{.Self}} trigger story                                    a person is verified
  {{.Self}} trigger requires_input --code document_expired   a check fails
  {{.Self}} trigger story redacted                           verified, then erased
  export DATABASE_URL='{{.DatabaseURL}}'
  {{.Psql}} "$DATABASE_URL" -c 'SELECT session_id, occurred_at, status, previous_status FROM stripe_identity.verification_timeline ORDER BY occurred_at'
  curl -s {{.MetricsURL}} | grep verification_failures_total | grep -v ' 0$'

With real events of your Stripe sandbox, by Stripe's CLI: stop this, and start it
again with the CLI's secret (ours stays valid beside it); then, elsewhere, listen.

  WEBHOOKD_STRIPE_WEBHOOK_SECRETS=$(stripe listen --print-secret) {{.Self}} dev
  stripe listen --forward-to {{.URL}}

{{end}}`))
