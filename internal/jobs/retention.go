package jobs

import (
	"context"
	"crypto/rand"
	"time"

	"go.uber.org/zap"

	"webhookd/internal/repo"
)

const (
	// pruneEvery is how often what is older than retention says is taken away.
	pruneEvery = time.Hour
	pruneLook  = 5 * time.Minute
)

// PruneEveryHour takes away what is older than retention says, on one replica
// at a time, until ctx ends.
func PruneEveryHour(ctx context.Context, store *repo.Store, r repo.Retention, log *zap.Logger) {
	tick := time.NewTicker(pruneLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Nobody gives it back: it is free again when the next run is due.
		due, err := store.Lease(ctx, "prune", rand.Text(), pruneEvery)
		var pruned repo.Pruned
		if err == nil && due {
			pruned, err = store.Prune(ctx, r, func(repo.Pruned) {})
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
