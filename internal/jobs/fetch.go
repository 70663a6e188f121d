package jobs

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"webhookd/internal/events"
	"webhookd/internal/repo"
	"webhookd/internal/stripeapi"
)

// fulfil asks Stripe for what a wish wants and writes what it answers. Zero
// means served, as far as could be; else it is the pause before the next try.
// An error is the database's.
func (w *Worker) fulfil(ctx context.Context, wish *repo.Wish) (pause time.Duration, err error) {
	place := stripeapi.Place{Live: wish.Livemode == events.ModeLive, Account: wish.Account.Value, Context: wish.Context.Value}
	told, err := w.resolve(ctx, wish, place)
	if err != nil {
		return w.refused(wish, err, false)
	}
	if told && !wish.Refresh && wish.OutputsSince.IsZero() {
		return 0, w.Store.Settle(ctx, wish)
	}
	return w.fetch(ctx, wish, place)
}

// resolve fetches the snapshots of thin events and takes them through the
// normal path. told says that nothing is left to be told of them: an event
// that has no snapshot, or none that Stripe still knows and we understand,
// needs the session itself.
func (w *Worker) resolve(ctx context.Context, wish *repo.Wish, place stripeapi.Place) (told bool, err error) {
	told = true
	for _, thin := range wish.Thin {
		if !thin.Snapshot.Has() {
			told = false
			continue
		}
		raw, err := w.API.Event(ctx, place, thin.Snapshot.Value)
		switch {
		case errors.Is(err, stripeapi.ErrNotFound), errors.Is(err, stripeapi.ErrForbidden), errors.Is(err, stripeapi.ErrUseless):
			told = false
			continue
		case err != nil:
			return false, err
		}
		e, err := events.Parse(raw)
		if err != nil || e.SessionID != wish.Session {
			told = false
			continue
		}
		e.Source, e.ReceivedAt = events.SourceWebhook, time.Now() // a delivery brought us here
		if !e.Account.Has() && !e.Context.Has() {
			e.Account, e.Context = wish.Account, wish.Context // asked in somebody's name, Stripe does not repeat it
		}
		outcome, err := w.Store.Record(ctx, e)
		if err != nil {
			return false, err
		}
		if w.Recorded != nil {
			w.Recorded(e, outcome)
		}
		told = told && (outcome == events.Applied || outcome == events.Stale || outcome == events.Twin)
	}
	return told, nil
}

// fetch reads the session, with outputs if these are wanted.
func (w *Worker) fetch(ctx context.Context, wish *repo.Wish, place stripeapi.Place) (time.Duration, error) {
	outputs := !wish.OutputsSince.IsZero() && !wish.Redacted
	late := w.Window > 0 && time.Since(wish.OutputsSince) > w.Window
	sensitive := !late || wish.Attempt == 1 // at least one attempt, however late
	a, err := w.API.Session(ctx, place, wish.Session, outputs, sensitive)
	if err != nil {
		return w.refused(wish, err, outputs)
	}
	answer := &events.Answer{
		From: a.From, Until: a.Until, Session: a.Session, Account: wish.Account, Context: wish.Context,
		Outputs: a.Expanded, Unreadable: a.Unreadable,
	}
	closed := outputs && a.Closed
	if closed {
		answer.Outputs = false // it tells the state, and no outputs: they are wanted still
	}
	served, err := w.Store.Serve(ctx, wish, answer)
	switch {
	case err != nil:
		return 0, err
	case !outputs: // only the state was asked for
	case served.Redacted:
		w.metrics.fetched(fetchRedacted)
	case closed && served.Ended: // not verified any more
	case closed:
		return w.refused(wish, stripeapi.ErrForbidden, true)
	case len(a.Unreadable) > 0:
		w.metrics.fetched(fetchPartial)
		w.tellUnreadable(wish, a.Unreadable, late)
	default:
		w.metrics.fetched(fetchStored)
	}
	if served.Ended {
		return 0, nil
	}
	// Events within the answer's span tell another state, or Stripe's clock is not there yet.
	return max(backoff(wish), min(time.Until(wish.OutputsSince), 6*time.Hour)), nil
}

// tellUnreadable tells of outputs that were read in part. Beside others only
// sensitive ones can be missing, and what was typed in, which has no window.
func (w *Worker) tellUnreadable(wish *repo.Wish, fields []string, late bool) {
	about := []zap.Field{zap.String("session_id", wish.Session), zap.Strings("unreadable_fields", fields)}
	if late && slices.ContainsFunc(fields, func(f string) bool { return f != "provided_details" }) {
		w.Log.Error("sensitive outputs are lost: they were not read within OUTPUTS_WINDOW",
			append(about, zap.Duration("window", w.Window), zap.Time("wanted_since", wish.OutputsSince))...)
		return
	}
	w.Log.Warn("outputs are stored in part: the API key may not read all of them", about...)
}

// refused answers after what pause to try again, and counts why. Errors of the
// database go on to the caller.
func (w *Worker) refused(wish *repo.Wish, err error, outputs bool) (time.Duration, error) {
	var again *stripeapi.RetryError
	result, pause, level := fetchRetried, backoff(wish), zap.InfoLevel
	age := time.Since(wish.TriedAt)
	switch {
	case errors.As(err, &again):
		pause = max(pause, again.After)
	case errors.Is(err, stripeapi.ErrNoKey):
		return time.Minute, nil // the key went away; the start and doctor tell of it
	case errors.Is(err, stripeapi.ErrNotFound):
		result = fetchNotFound
		limit := lostAfter
		if wish.Livemode == events.ModeLive {
			limit, level = hopeless, zap.WarnLevel
		}
		if age > limit {
			pause, level = never, zap.ErrorLevel
		}
	case errors.Is(err, stripeapi.ErrForbidden), errors.Is(err, stripeapi.ErrUnauthorized):
		if result, level = fetchForbidden, zap.WarnLevel; age > hopeless {
			result, pause, level = fetchExpired, never, zap.ErrorLevel
		}
	case errors.Is(err, events.ErrNotASession), errors.Is(err, stripeapi.ErrUseless):
		if level = zap.WarnLevel; age > hopeless {
			result, pause, level = fetchExpired, never, zap.ErrorLevel
		}
	default:
		return 0, err
	}
	if outputs {
		w.metrics.fetched(result)
	}
	w.Log.Log(level, "stripe was asked in vain", zap.String("session_id", wish.Session), zap.String("result", result),
		zap.Int("attempt", wish.Attempt), zap.Duration("again_after", pause), zap.String("problem", err.Error()))
	return pause, nil
}
