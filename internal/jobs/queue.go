package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"webhookd/internal/repo"
)

// wakeUp is the only kind of job: look whether something is wanted of a session.
type wakeUp struct {
	SessionID string `json:"session_id"`
}

// Kind implements [river.JobArgs].
func (wakeUp) Kind() string { return "session" }

const (
	workers = 8
	// Connections is how many the job queue needs: to fetch, to complete and to lead.
	Connections = 4
	// backlog is how many wake-ups may wait before the sweep adds none.
	backlog = 200
	// kept is how long River keeps what is done.
	kept = time.Hour
)

// driver is River's for pgx, without NOTIFY: it does not pass a pooler in
// transaction mode, and a commit that notifies waits for every other one.
type driver struct{ *riverpgxv5.Driver }

// SupportsListenNotify implements [riverdriver.Driver].
func (driver) SupportsListenNotify() bool { return false }

// SupportsListener implements [riverdriver.Driver].
func (driver) SupportsListener() bool { return false }

type riverClient = river.Client[pgx.Tx]

// Waker makes the function that [repo.Options] has for new wishes: it adds a
// wake-up for each session, in the transaction that makes the wish.
func Waker() (func(ctx context.Context, tx pgx.Tx, sessionIDs []string) error, error) {
	inserting, err := river.NewClient(driver{riverpgxv5.New(nil)}, &river.Config{Schema: repo.JobSchema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("prepare the job queue: %w", err)
	}
	return func(ctx context.Context, tx pgx.Tx, sessionIDs []string) error {
		_, err := inserting.InsertManyTx(ctx, tx, wakeUps(sessionIDs))
		return err // the store's caller says what failed
	}, nil
}

func wakeUps(sessionIDs []string) []river.InsertManyParams {
	jobs := make([]river.InsertManyParams, len(sessionIDs))
	for i, id := range sessionIDs {
		// What fails is woken by the sweep.
		jobs[i] = river.InsertManyParams{Args: wakeUp{id}, InsertOpts: &river.InsertOpts{MaxAttempts: 1}}
	}
	return jobs
}

func newRiver(pool *pgxpool.Pool, log *zap.Logger, w *Worker) (*riverClient, error) {
	all := river.NewWorkers()
	river.AddWorker(all, river.WorkFunc(w.work))
	client, err := river.NewClient(driver{riverpgxv5.New(pool)}, &river.Config{
		Schema:                      repo.JobSchema,
		PollOnly:                    true,
		Queues:                      map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers:                     all,
		JobTimeout:                  -1, // the lease is renewed for as long as it takes
		CompletedJobRetentionPeriod: kept,
		CancelledJobRetentionPeriod: kept,
		DiscardedJobRetentionPeriod: kept,
		ReindexerIndexNames:         []string{}, // that takes the owner's rights
		Logger:                      slog.New(riverLog{log}),
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the job queue: %w", err)
	}
	return client, nil
}

// crowded reports whether as many wake-ups wait as the workers can do with.
func (w *Worker) crowded(ctx context.Context) (bool, error) {
	list, err := w.river.JobList(ctx, river.NewJobListParams().
		States(rivertype.JobStateAvailable, rivertype.JobStateScheduled).First(backlog))
	if err != nil {
		return false, repo.Plain("look at the job queue", err)
	}
	return len(list.Jobs) == backlog, nil
}

// riverLog passes on what River warns of, by its message alone: the attributes
// may quote the database.
type riverLog struct{ log *zap.Logger }

func newRiverLog(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, 10*time.Second, 1, 0)
	}))
}

// Enabled implements [slog.Handler].
func (riverLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements [slog.Handler].
func (l riverLog) Handle(_ context.Context, r slog.Record) error {
	l.log.Warn("job queue", zap.String("message", r.Message))
	return nil
}

// WithAttrs implements [slog.Handler].
func (l riverLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements [slog.Handler].
func (l riverLog) WithGroup(string) slog.Handler { return l }
