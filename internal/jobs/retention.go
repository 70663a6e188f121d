package jobs

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"go.uber.org/zap"

	"webhookd/internal/repo"
)

const (
	// Looking for what is old reads a lot: once a day for what is kept for weeks,
	// and at most once an hour.
	pruneMost, pruneLeast = 24 * time.Hour, time.Hour
	pruneLook             = 5 * time.Minute
)

// pruneEvery is how often to prune: a tenth of the shortest retention.
func pruneEvery(r repo.Retention) time.Duration {
	every := pruneMost
	for _, kept := range []time.Duration{r.Payloads, r.Quarantine, r.Outputs, r.History} {
		if kept > 0 {
			every = min(every, max(kept/10, pruneLeast))
		}
	}
	return every
}

// PruneRegularly takes away what is older than retention says, on one replica
// at a time, until ctx ends.
func PruneRegularly(ctx context.Context, store *repo.Store, r repo.Retention, log *zap.Logger) {
	tick := time.NewTicker(pruneLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Nobody gives it back: it is free again when the next run is due.
		holder := rand.Text()
		due, err := store.Lease(ctx, "prune", holder, pruneEvery(r))
		var pruned repo.Pruned
		if err == nil && due {
			if pruned, err = store.Prune(ctx, r, nil); err != nil { // somebody is to go on with it
				end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				err = errors.Join(err, store.Release(end, "prune", holder))
				cancel()
			}
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Warn("prune", zap.String("problem", err.Error()))
		case due:
			log.Info("pruned", zap.Int64("rows", pruned.Rows()), zap.Int64("held", pruned.Held))
		}
	}
}
