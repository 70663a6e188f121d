package main

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/repo"
	"webhookd/internal/stripeapi"
)

// background is what a service does beside taking deliveries: it asks Stripe
// for what they leave open, compares with it, and prunes.
type background struct {
	cfg        *Config
	log        *zap.Logger
	store      *repo.Store
	api        *stripeapi.Client
	pool       *pgxpool.Pool
	worker     *jobs.Worker
	reconciler *jobs.Reconciler
}

func newBackground(ctx context.Context, cfg *Config, options repo.Options, store *repo.Store, key func(live bool) (string, bool),
	recorded func(*events.Event, events.Outcome), reg prometheus.Registerer, log *zap.Logger,
) (*background, error) {
	b := &background{cfg: cfg, log: log, store: store, api: newStripeClient(cfg, key)}
	var err error
	if b.pool, err = repo.OpenPool(ctx, options, "webhookd jobs", jobs.Connections); err != nil {
		return nil, err
	}
	b.reconciler = jobs.NewReconciler(jobs.ReconcileOptions{
		Store: store, API: b.api, Keyed: options.Asks, Takes: cfg.Livemode.Takes, Accounts: cfg.Accounts, Log: log,
	})
	b.worker, err = jobs.New(jobs.Options{
		Store: store, Pool: b.pool, API: b.api, Keyed: options.Asks, Window: cfg.OutputsWindow,
		Recorded: recorded, Registry: reg, Log: log,
	})
	if err != nil {
		b.close()
		return nil, err
	}
	if modes := unkeyed(cfg, options.Asks); len(modes) > 0 {
		log.Warn("no API key: outputs, refresh, thin events and reconcile are off", zap.Strings("modes", modes))
	}
	return b, nil
}

// unkeyed are the modes that are taken and have no key.
func unkeyed(cfg *Config, keyed func(live bool) bool) (modes []string) {
	for mode, live := range map[string]bool{"live": true, "test": false} {
		if cfg.Livemode.Takes(live) && !keyed(live) {
			modes = append(modes, mode)
		}
	}
	slices.Sort(modes)
	return modes
}

// run adds the work to a group; it ends with ctx.
func (b *background) run(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return b.worker.Run(ctx) })
	group.Go(func() error { jobs.PruneRegularly(ctx, b.store, retention(b.cfg), b.log); return nil })
	if b.cfg.ReconcileEvery > 0 {
		group.Go(func() error { b.reconciler.Every(ctx, b.cfg.ReconcileEvery); return nil })
	}
}

func (b *background) close() {
	b.pool.Close()
	b.api.Close()
}

// newStripeClient reads Stripe's API with the present keys.
func newStripeClient(cfg *Config, key func(live bool) (string, bool)) *stripeapi.Client {
	return stripeapi.New(stripeapi.Options{Base: cfg.APIBase, Key: key, Rate: cfg.APIRate, Wants: cfg.OutputFields.Wants})
}
