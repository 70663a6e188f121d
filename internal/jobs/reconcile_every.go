package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	turnName = "reconcile"
	// turnLease is after how long the turn of a replica that was killed is over.
	turnLease = time.Minute
	// retryAfter is how long a run that was not complete is left alone at most:
	// the next one begins where that did, and may take as long.
	retryAfter = time.Hour
)

var errTurnLost = errors.New("another replica has taken over")

// Every compares whenever the last complete run is older than the period,
// until ctx ends. Of many replicas one at a time does. It logs a line per run.
// A period of zero is never.
func (r *Reconciler) Every(ctx context.Context, period time.Duration) {
	if period <= 0 {
		return
	}
	tick := time.NewTicker(min(period, time.Minute))
	defer tick.Stop()
	told := ""
	for {
		problem := ""
		if err := r.turn(ctx, period); err != nil && ctx.Err() == nil {
			problem = err.Error()
		}
		if problem != "" && problem != told {
			r.opt.Log.Warn("reconcile", zap.String("problem", problem))
		}
		told = problem
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// turn runs if it is due and nobody else does.
func (r *Reconciler) turn(ctx context.Context, period time.Duration) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a fault of webhookd's own: %T", p) // the value may quote an answer
		}
	}()
	if len(r.modes()) == 0 {
		return nil
	}
	if due, err := r.due(ctx, period); err != nil || !due {
		return err
	}
	if held, err := r.opt.Store.Lease(ctx, turnName, r.holder, turnLease); err != nil || !held {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, r.opt.Store.Release(end, turnName, r.holder))
	}()
	// Who had the lease until now may have just done it.
	if due, err := r.due(ctx, period); err != nil || !due {
		return err
	}
	held, stop := r.hold(ctx)
	defer stop()
	report, err := r.Run(held, ReconcileRequest{})
	line := []zap.Field{
		zap.String("result", report.Result), zap.Int64("listed", report.Listed()), zap.Int64("recovered", report.Recovered()),
		zap.Time("since", report.Since), zap.Duration("duration", report.FinishedAt.Sub(report.StartedAt)),
	}
	switch {
	case err == nil:
		r.opt.Log.Info("reconcile", line...)
	case report.Result != "":
		r.opt.Log.Warn("reconcile", append(line, zap.Strings("unread", report.Unread), zap.Int("unread_more", report.UnreadMore))...)
	default:
		return err // it did not begin
	}
	return nil
}

func (r *Reconciler) due(ctx context.Context, period time.Duration) (bool, error) {
	now := r.opt.Now()
	p, err := r.past(ctx, now)
	return err == nil && now.Sub(p.covered) >= period && now.Sub(p.begun) >= min(period, retryAfter), err
}

// hold keeps the lease until stop; the context ends when somebody else has it.
func (r *Reconciler) hold(ctx context.Context) (held context.Context, stop func()) {
	held, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(turnLease / 4)
		defer tick.Stop()
		for {
			select {
			case <-held.Done():
				return
			case <-tick.C:
			}
			// A database that is away ends the run anyway.
			if mine, err := r.opt.Store.Lease(held, turnName, r.holder, turnLease); err == nil && !mine {
				cancel(errTurnLost)
			}
		}
	}()
	return held, func() { cancel(nil); <-done }
}
