// Package jobs does the work that follows a commit: it asks Stripe's API for
// what events leave open. These are the outputs of who is verified, which no
// event has; the state of a session whose events do not settle it; and the
// content of thin events.
//
// What is wanted stands in the rows of sessions and thin events. A wish
// ([repo.Wish]) says that somebody must see to a session; a job of River's
// says no more than: look now. So a job may be lost, done twice or come too
// late, and nothing depends on River's uniqueness, leader or rescuer. Who
// finds a wish due leases it, asks, and writes the answer and the end of the
// wish in one transaction, under the row lock of the session: a redaction
// that came meanwhile wins, and what came to be wanted meanwhile has given
// the wish another generation, which does not end with this one.
//
// Failures: a wish that cannot be served is due again after a pause that grows
// with its age. A worker that dies lets its lease run out. A sweep on every
// replica wakes what is due and makes the wishes that are missing, so that a
// killed replica's work is taken over within 30 seconds. Without a key for a
// mode nothing is asked, and what is wanted stays wanted.
//
// The package also compares with Stripe what stands: see [Reconciler].
package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"webhookd/internal/events"
	"webhookd/internal/repo"
	"webhookd/internal/stripeapi"
)

const (
	// sweepEvery and lease are such that what a killed replica had taken is
	// taken over within 30 seconds.
	sweepEvery = 10 * time.Second
	lease      = 18 * time.Second
	renewEvery = 6 * time.Second

	// lostAfter is how long Stripe may not know a session of the test mode, where
	// data can be deleted, before we believe it. Of a live one it says that the key
	// is another account's.
	lostAfter = 24 * time.Hour
	// hopeless is how long a refused wish is tried: as long as Stripe keeps events.
	hopeless = 30 * 24 * time.Hour
)

// Options is what a Worker needs.
type Options struct {
	Store *repo.Store
	// Pool is for the job queue alone.
	Pool *pgxpool.Pool
	API  *stripeapi.Client
	// Keyed reports whether there is a key for a mode at present.
	Keyed func(live bool) bool
	// Window is how long sensitive outputs stay readable; 0 for always.
	Window time.Duration
	// Recorded is told of each event that was fetched and recorded; nil for nobody.
	Recorded func(*events.Event, events.Outcome)
	Registry prometheus.Registerer
	Log      *zap.Logger
	// SweepEvery is how often what is due is looked for. Default 10 s.
	SweepEvery time.Duration
}

// Worker serves wishes.
type Worker struct {
	Options
	river   *riverClient
	metrics *metrics
}

// New prepares a worker; it needs no database yet.
func New(o Options) (*Worker, error) {
	w := &Worker{Options: o, metrics: newMetrics(o.Registry)}
	w.metrics.show(o.Keyed)
	var err error
	w.river, err = newRiver(o.Pool, newRiverLog(o.Log), w)
	return w, err
}

// Run works until ctx ends, and then gives back what it had taken. A database
// that is away is waited for.
func (w *Worker) Run(ctx context.Context) error {
	tick := time.NewTicker(cmp.Or(w.SweepEvery, sweepEvery))
	defer tick.Stop()
	working := false
	defer func() {
		if working {
			w.stop(context.WithoutCancel(ctx))
		}
	}()
	for {
		w.metrics.show(w.Keyed)
		if modes := w.modes(); len(modes) > 0 {
			err := error(nil)
			if !working {
				err = w.begin(ctx)
				working = err == nil
			}
			if err == nil {
				err = w.sweep(ctx, modes)
			}
			if err != nil && ctx.Err() == nil {
				w.Log.Warn("jobs", zap.String("problem", err.Error()))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// begin starts the queue. Once it works its end is stop's to give: with ctx it
// would not take back its jobs.
func (w *Worker) begin(ctx context.Context) error {
	working, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	started := context.AfterFunc(ctx, giveUp)
	defer started()
	if err := w.river.Start(working); err != nil {
		giveUp()
		return repo.Plain("start the job queue", err)
	}
	return nil
}

func (w *Worker) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := w.river.StopAndCancel(ctx); err != nil {
		w.Log.Warn("jobs: the queue did not stop in time; its leases run out", zap.Duration("after", lease))
	}
}

// modes are those with a key.
func (w *Worker) modes() (live []bool) {
	for _, mode := range []bool{false, true} {
		if w.Keyed(mode) {
			live = append(live, mode)
		}
	}
	return live
}

// sweep wakes what is due and that nobody sees to.
func (w *Worker) sweep(ctx context.Context, modes []bool) error {
	ctx, cancel := context.WithTimeout(ctx, sweepEvery)
	defer cancel()
	if full, err := w.crowded(ctx); err != nil || full {
		return err
	}
	sessions, err := w.Store.Due(ctx, modes, backlog)
	if err != nil || len(sessions) == 0 {
		return err
	}
	_, err = w.river.InsertMany(ctx, wakeUps(sessions))
	return repo.Plain("wake what is due", err)
}

// work is one wake-up: it serves the session's wish, and again while more
// came to be wanted meanwhile.
func (w *Worker) work(ctx context.Context, job *river.Job[wakeUp]) error {
	const rounds = 5 // a session that changes all the time is left to the sweep
	for range rounds {
		pause, served, err := w.serve(ctx, job.Args.SessionID)
		switch {
		case err != nil:
			w.Log.Warn("job", zap.String("session_id", job.Args.SessionID), zap.String("problem", err.Error()))
			return err
		case !served:
			return nil
		case pause > 0 && pause <= 5*time.Second: // River's scheduler, for longer ones, needs a leader
			return river.JobSnooze(pause)
		}
	}
	return nil
}

// serve sees to the wish of one session. served is false if there is none that
// is due and free; pause is after what time it is due again, if that is known.
func (w *Worker) serve(ctx context.Context, session string) (pause time.Duration, served bool, err error) {
	wish, err := w.Store.Claim(ctx, session, lease)
	if err != nil || wish == nil {
		return 0, false, err
	}
	defer w.renew(ctx, wish)()
	pause, err = w.guarded(ctx, wish)
	// Also when ctx has ended: then somebody else takes it at once.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	switch {
	case ctx.Err() != nil:
		return 0, false, w.Store.Postpone(back, wish, 0)
	case err != nil:
		return 0, false, errors.Join(err, w.Store.Postpone(back, wish, backoff(wish)))
	case pause == never:
		return 0, true, w.Store.GiveUp(back, wish)
	case pause > 0:
		return pause, true, w.Store.Postpone(back, wish, pause)
	}
	return 0, true, nil
}

// guarded fulfils a wish. A fault of ours is an error: the wish is tried again,
// and ever later, as any other that fails.
func (w *Worker) guarded(ctx context.Context, wish *repo.Wish) (pause time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a fault of webhookd's own: %T", p) // the value may quote the answer
			w.Log.Error("job", zap.String("session_id", wish.Session), zap.Error(err), zap.StackSkip("stack", 1))
		}
	}()
	return w.fulfil(ctx, wish)
}

// never is the pause of a wish that is given up.
const never = time.Duration(-1)

// renew keeps the lease of a wish until the function that it returns is called.
func (w *Worker) renew(ctx context.Context, wish *repo.Wish) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := w.Store.Renew(ctx, wish, lease); err != nil && ctx.Err() == nil {
				// Then somebody else asks too: the answers are the same.
				w.Log.Warn("job", zap.String("session_id", wish.Session), zap.String("problem", err.Error()))
			}
		}
	}()
	return func() { cancel(); <-done }
}

// backoff is the pause after an attempt that failed: 1, 2, 4 … 20 seconds,
// with the sweep's delay at most 30 apart in the first ten minutes, then a
// tenth of the wish's age, at most 6 hours. It varies by a fifth.
func backoff(wish *repo.Wish) time.Duration {
	const most = 20 * time.Second
	d := min(time.Second<<min(wish.Attempt-1, 5), most)
	if age := time.Since(wish.TriedAt); age > 10*time.Minute {
		d = min(max(age/10, most), 6*time.Hour)
	}
	return d*9/10 + rand.N(d/5)
}
