package jobs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"webhookd/internal/repo"
	"webhookd/internal/stripeapi"
)

const (
	// eventsKept is how long Stripe lists events (docs.stripe.com/api/events/list).
	eventsKept = 30 * 24 * time.Hour
	// overlap is how far a run looks back behind the last complete one: clocks
	// differ, and what Stripe lists may come late.
	overlap = time.Hour
	// underWay is how long Stripe's own delivery may take: a run that nobody told
	// how far back to go leaves younger events, and their sessions, to the next.
	underWay = 30 * time.Second
	// stuck is how long a session may be processing before it is read again.
	stuck = 15 * time.Minute
	// lively is how long something that was told keeps a session in
	// requires_input among those that are read again once a day.
	lively = 7 * 24 * time.Hour
	daily  = 24 * time.Hour

	// Of a request that may succeed later: at most so often, with so long a
	// pause between. A periodic run comes again anyway.
	attempts     = 4
	longestPause = time.Minute

	// mostTold bounds how many faults a report names.
	mostTold = 20
	// mostFailures is after how many failed writes in a row it is the database.
	mostFailures = 3
	pageSize     = 100
	writers      = 32 // events at a time; the store commits them in groups
)

// The results of a run, as in reconcile_runs.
const (
	RunOK      = "ok"      // everything was read
	RunPartial = "partial" // not everything; what was read is repaired
	RunFailed  = "failed"  // nothing was read, or the database was not at hand
)

// ErrIncomplete says that a run could not read or write everything.
var ErrIncomplete = errors.New("the comparison is not complete")

// ReconcileOptions is what a Reconciler needs.
type ReconcileOptions struct {
	Store *repo.Store
	API   *stripeapi.Client
	// Keyed reports whether there is a key for a mode at present.
	Keyed func(live bool) bool
	// Takes reports whether events of a mode are taken at all; nil for both.
	Takes func(live bool) bool
	// Accounts are connected accounts to read beside those already seen.
	Accounts []string
	Log      *zap.Logger

	Now  func() time.Time                           // time.Now if nil
	Wait func(context.Context, time.Duration) error // of the pauses between attempts; nil for real ones
}

// Reconciler compares with Stripe's API what stands, and repairs what is
// missing. It lists events and sessions, everybody's who was seen or is
// configured; missing events go the normal way with source reconcile, and of
// a session whose state no event explains the answer itself is recorded. What
// a list may not show, because the session is older, is read one by one:
// sessions that are processing for too long and, once a day, those in
// requires_input. Two runs at once do no harm, and a second one changes nothing.
//
// It holds a page at a time. A request that fails is tried again; what cannot
// be read in the end makes the run partial, and the rest is repaired.
type Reconciler struct {
	opt    ReconcileOptions
	holder string // of the lease, by which one replica at a time runs by itself
}

// NewReconciler prepares a reconciler.
func NewReconciler(o ReconcileOptions) *Reconciler {
	if o.Takes == nil {
		o.Takes = func(bool) bool { return true }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = pauseFor
	}
	return &Reconciler{o, rand.Text()}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ReconcileRequest is what a run is to do.
type ReconcileRequest struct {
	// Since is how far back: events and sessions created then or later. Zero is
	// since the last complete run, or 30 days, without the last 30 seconds. Of
	// events Stripe has 30 days.
	Since time.Time
	// DryRun writes nothing at all.
	DryRun bool
	// AfterRestore is for a database that was restored to an older state: it
	// hides all outputs, and shows them again session by session once Stripe
	// was asked. Any later run goes on where one was broken off.
	AfterRestore bool
	// Found is told of everything that was missing; nil for nobody.
	Found func(Finding)
	// Progress is told how far the run is, after each page; nil for nobody.
	Progress func(Report)
}

// Finding is something that was missing.
type Finding struct {
	Place     string `json:"place"` // live or test, then the account or context
	EventID   string `json:"event_id,omitempty"`
	SessionID string `json:"session_id"`
	Type      string `json:"type,omitempty"`   // of the event
	Status    string `json:"status,omitempty"` // of the session
	What      string `json:"what"`             // missing, quarantined: an event; unknown, differs, redacted: a session
}

// Report is what a run did; with DryRun, what it would have done.
type Report struct {
	Result       string    `json:"result"`
	DryRun       bool      `json:"dry_run"`
	AfterRestore bool      `json:"after_restore"`
	StartedAt    time.Time `json:"started_at"`
	FinishedAt   time.Time `json:"finished_at"`
	Since        time.Time `json:"since"`
	Places       []string  `json:"places"` // that were read: live or test, then the account or context

	EventsListed      int64 `json:"events_listed"`
	EventsRecovered   int64 `json:"events_recovered"`
	EventsQuarantined int64 `json:"events_quarantined"`
	SessionsListed    int64 `json:"sessions_listed"`
	SessionsReadAgain int64 `json:"sessions_read_again"`
	SessionsRepaired  int64 `json:"sessions_repaired"`
	SessionsNotFound  int64 `json:"sessions_not_found"` // read again, and not known to Stripe
	OutputsHidden     int64 `json:"outputs_hidden"`     // sessions whose outputs AfterRestore hid
	OutputsShown      int64 `json:"outputs_shown"`      // sessions whose outputs are shown again

	Unread     []string `json:"unread"`      // what could not be read or written, and why
	UnreadMore int      `json:"unread_more"` // how many that are not in it
	Notes      []string `json:"notes"`
}

// Recovered is how many events and sessions were missing.
func (r *Report) Recovered() int64 {
	return r.EventsRecovered + r.EventsQuarantined + r.SessionsRepaired
}

// Listed is how many events and sessions were read.
func (r *Report) Listed() int64 { return r.EventsListed + r.SessionsListed + r.SessionsReadAgain }

// detail is for reconcile_runs: counts, ids of accounts and events, our own words.
func (r *Report) detail() string {
	counts := fmt.Sprintf("events: %d listed, %d recovered, %d quarantined; sessions: %d listed, %d read again, %d repaired",
		r.EventsListed, r.EventsRecovered, r.EventsQuarantined, r.SessionsListed, r.SessionsReadAgain, r.SessionsRepaired)
	return strings.Join(slices.Concat([]string{counts}, r.Unread, r.Notes), "; ")
}

// Run compares once. An error that is [ErrIncomplete] says that something
// could not be read, with the report of the rest; [stripeapi.ErrNoKey], that
// nothing can be, for want of a key. A run that is not dry is a row of
// reconcile_runs.
func (r *Reconciler) Run(ctx context.Context, q ReconcileRequest) (Report, error) {
	c := newComparison(r, q)
	if len(c.modes) == 0 {
		return c.report, fmt.Errorf("reconcile: %w", stripeapi.ErrNoKey)
	}
	p, err := r.past(ctx, c.report.StartedAt)
	if err != nil {
		return c.report, fmt.Errorf("reconcile: %w", err)
	}
	c.plan(p)
	row := repo.ReconcileRun{StartedAt: c.report.StartedAt, Since: c.report.Since}
	var id int64
	if !q.DryRun {
		if id, err = r.opt.Store.BeginRun(ctx, row); err != nil {
			return c.report, fmt.Errorf("reconcile: %w", err)
		}
	}
	err = c.compare(ctx)
	c.conclude(err)
	if !q.DryRun {
		row.FinishedAt, row.Result, row.Detail = c.report.FinishedAt, c.report.Result, c.report.detail()
		row.Listed, row.Recovered, row.Daily = c.report.Listed(), c.report.Recovered(), c.isDaily
		// Also of a run that was broken off there is something to tell.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, r.opt.Store.EndRun(end, id, row))
	}
	switch {
	case err != nil:
		return c.report, fmt.Errorf("reconcile: %w", err)
	case c.report.Result != RunOK:
		return c.report, fmt.Errorf("reconcile: %w: %s", ErrIncomplete, c.report.Unread[0])
	}
	return c.report, nil
}

// modes are those that are taken and that have a key.
func (r *Reconciler) modes() (live []bool) {
	for _, mode := range []bool{false, true} {
		if r.opt.Takes(mode) && r.opt.Keyed(mode) {
			live = append(live, mode)
		}
	}
	return live
}

// past is what earlier runs did.
type past struct {
	covered time.Time // up to then nothing of the last 30 days was left out
	daily   time.Time // when what is read again once a day was, last
	begun   time.Time // when any run began last
}

// past looks at complete runs only: one with a short window closes no gap
// before it.
func (r *Reconciler) past(ctx context.Context, now time.Time) (p past, err error) {
	p.covered = now.Add(-eventsKept)
	p.begun, err = r.opt.Store.Runs(ctx, now.Add(-eventsKept-daily), func(run repo.ReconcileRun) {
		if !run.Since.After(p.covered) && run.StartedAt.After(p.covered) {
			p.covered = run.StartedAt
		}
		if run.Daily {
			p.daily = run.StartedAt
		}
	})
	return p, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
