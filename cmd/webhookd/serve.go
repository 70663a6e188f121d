package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/receiver"
	"webhookd/internal/repo"
	"webhookd/internal/signature"
	"webhookd/migrations"
)

func newServeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Takes deliveries: the service",
		Long: `Takes deliveries of Stripe's on WEBHOOKD_LISTEN_ADDR and answers 2xx once they
are committed; serves /metrics, /livez and /readyz on WEBHOOKD_ADMIN_ADDR.

It needs a database whose schema 'webhookd migrate up' has made, and one signing
secret of the endpoint (Stripe's Dashboard shows it). README lists every variable.

SIGTERM: /readyz turns false, deliveries are taken for WEBHOOKD_DRAIN_DELAY more,
then the listeners close and what was taken is answered.`,
		Example: `  export WEBHOOKD_DATABASE_URL=postgres://webhookd@db.internal/webhookd
  export WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE=/run/secrets/stripe
  webhookd migrate up && webhookd serve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(needDatabase | needSecrets)
			if err != nil {
				return err
			}
			on, err := listen(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			tuneMemory()
			on.via = useFewProcessors
			log := newLogger(cmd.ErrOrStderr(), cfg.LogLevel, cfg.LogFormat)
			return serve(cmd.Context(), cfg, log, on, func() error { return nil })
		},
	}
}

// listeners are where a service listens, and what deliveries pass first.
type listeners struct {
	public, admin net.Listener
	via           func(http.Handler) http.Handler
}

// listen opens both before anything starts: a port that is taken is told at once.
func listen(ctx context.Context, cfg *Config) (on listeners, err error) {
	on.via = func(h http.Handler) http.Handler { return h }
	on.public, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.ListenAddr)
	if err != nil {
		return listeners{}, fmt.Errorf("listen on WEBHOOKD_LISTEN_ADDR: %w: set it to another address", err)
	}
	on.admin, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.AdminAddr)
	if err != nil {
		_ = on.public.Close() // nobody has come yet
		return listeners{}, fmt.Errorf("listen on WEBHOOKD_ADMIN_ADDR: %w: set it to another address", err)
	}
	return on, nil
}

// close is for who does not get to serve: a server closes its own.
func (on listeners) close() {
	_ = on.public.Close()
	_ = on.admin.Close()
}

// serve runs the service until ctx ends and what was taken is answered, and
// closes the listeners. ready is called once they are served; its error ends
// the service.
func serve(ctx context.Context, cfg *Config, log *zap.Logger, on listeners, ready func() error) (err error) {
	defer on.close()
	for _, warning := range cfg.Warnings {
		log.Warn("configuration", zap.String("warning", warning))
	}
	reg := prometheus.NewRegistry()
	observeProcess(reg)

	var rcv *receiver.Receiver
	var verifier atomic.Pointer[signature.Verifier]
	verifier.Store(cfg.Verifier)
	secrets := newSecretWatcher(cfg, reg, log, func(c Credentials) {
		verifier.Store(c.Verifier)
		rcv.ExpectSecrets(secretNames(c.Secrets)...)
		log.Info("secrets changed", zap.Strings("webhook_secrets", secretNames(c.Secrets)))
	})
	wake, err := jobs.Waker()
	if err != nil {
		return err
	}
	key := func(live bool) (string, bool) { return secrets.Current().apiKey(live) } // the present one
	options := repo.Options{
		URL:        string(cfg.DatabaseURL),
		CurrentURL: func() string { return string(secrets.Current().DatabaseURL) },
		Notify:     cfg.Notify,
		Committers: cfg.Committers, BatchMax: cfg.BatchMax, QueueLength: cfg.QueueLength, CommitTimeout: cfg.DeliveryTimeout,
		Outputs:   cfg.OutputFields.Wants,
		NoOutputs: cfg.OutputFields.None(),
		Asks:      func(live bool) bool { return secrets.Current().hasKey(live) },
		Wake:      wake,
		Told:      func(t *events.Step) { rcv.CountTold(t) },
		NotifyFull: func() {
			log.Warn("PostgreSQL's queue of notifications is full: for a minute commits do not notify, and consumers learn when they poll; " +
				"end the session that listens and is idle in a transaction (SELECT pg_notification_queue_usage())")
		},
		Registry: reg,
	}
	store, err := repo.Open(ctx, options)
	if err != nil {
		return err
	}
	defer store.Close()
	rcv, err = receiver.New(receiver.Options{
		Store: store, Verifier: verifier.Load, Path: cfg.WebhookPath, Livemode: cfg.Livemode.mode(),
		MaxBodyBytes: cfg.MaxBodyBytes, DeliveryTimeout: cfg.DeliveryTimeout, Log: log, Registry: reg,
	})
	if err != nil {
		return err
	}
	rcv.ExpectSecrets(secretNames(cfg.Secrets)...)

	background, err := newBackground(ctx, cfg, options, store, key, rcv.Count, reg, log)
	if err != nil {
		return err
	}
	defer background.close()

	state := &condition{}
	server := receiver.NewServer(on.via(rcv), cfg.DeliveryTimeout, log)
	admin := newAdminServer(reg, state, log)

	// Work that ends with the last answer, not with the signal.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	running, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(running)
	group.Go(func() error { return served(server.Serve(on.public)) })
	group.Go(func() error { return served(admin.Serve(on.admin)) })
	group.Go(func() error { store.Watch(work, &state.health, tellHealth(log, background.pool)); return nil })
	group.Go(func() error { return secrets.Run(work, secretsInterval) })
	background.run(ctx, group) // ends with the signal: nobody waits for it
	log.Info("serving", zap.Stringer("listen", on.public.Addr()), zap.Stringer("admin", on.admin.Addr()),
		zap.String("path", cfg.WebhookPath), zap.Strings("webhook_secrets", secretNames(cfg.Secrets)))
	if err := ready(); err != nil {
		stop()
		stopWork()
		return errors.Join(err, server.Close(), admin.Close(), group.Wait())
	}
	group.Go(func() error {
		<-ctx.Done()
		defer stopWork()
		return drain(context.WithoutCancel(ctx), cfg, log, state, rcv, server, admin)
	})
	return group.Wait()
}

// drain ends a service without losing a delivery: balancers are told first,
// then the listeners close, then what was taken is answered.
func drain(ctx context.Context, cfg *Config, log *zap.Logger, state *condition, rcv *receiver.Receiver, server, admin *http.Server) error {
	log.Info("draining", zap.Duration("for", cfg.DrainDelay))
	state.draining.Store(true)
	rcv.Drain()
	time.Sleep(cfg.DrainDelay)
	rcv.Close()
	ctx, cancel := context.WithTimeout(ctx, cfg.ShutdownTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	rcv.Close() // flushes what the log left out since
	if err != nil {
		err = fmt.Errorf("deliveries were still open after WEBHOOKD_SHUTDOWN_TIMEOUT: %w", errors.Join(err, server.Close()))
	}
	log.Info("stopped")
	return errors.Join(err, admin.Close())
}

func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

func secretNames(secrets []signature.Secret) []string {
	names := make([]string, len(secrets))
	for i, s := range secrets {
		names[i] = s.Name()
	}
	return names
}

// mode is the only mode whose events are taken; ModeUnknown takes both.
func (l Livemode) mode() events.Mode {
	switch {
	case !l.Takes(false):
		return events.ModeLive
	case !l.Takes(true):
		return events.ModeTest
	}
	return events.ModeUnknown
}

// tellHealth logs the first look at the database and each change. Connections of
// the jobs are made anew once it is up: they keep the defaults of their time.
func tellHealth(log *zap.Logger, pool *pgxpool.Pool) func(repo.Health) {
	return func(h repo.Health) {
		if h.Up {
			pool.Reset()
		}
		switch {
		case h.Err != nil:
			log.Warn("database", zap.Bool("up", h.Up), zap.String("problem", h.Err.Error()))
		case h.Stale != nil:
			log.Warn("gauges of the database are stale", zap.String("problem", h.Stale.Error()))
		default:
			log.Info("database", zap.Bool("up", true), zap.Int64("schema", h.Schema))
		}
	}
}

func observeProcess(reg prometheus.Registerer) {
	release, commit := buildVersion()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "webhookd_build_info", Help: "Always 1; the labels tell what runs.",
		ConstLabels: prometheus.Labels{
			"version": release, "commit": commit, "go": runtime.Version(),
			"schema": strconv.FormatInt(migrations.Version(), 10),
		},
	})
	info.Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
