package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"webhookd/internal/events"
	"webhookd/internal/repo"
	"webhookd/internal/stripeapi"
)

// comparison is one run.
type comparison struct {
	*Reconciler
	ReconcileRequest
	report Report
	modes  []bool // that are read

	eventsSince   time.Time
	sessionsSince time.Time // may be before the report's Since: who was not known by then is left alone
	isDaily       bool

	younger  map[string]bool     // sessions with an event that may be under way
	expected map[string]expected // what a dry run would have recorded, by session
	refused  map[stripeapi.Place]error
	lost     []string // sessions that Stripe does not know, by their ids
	read     int      // lists and sessions that could be read
	failures int      // writes in a row that failed
}

// expected is the newest missing event of a session.
type expected struct {
	events.Key
	events.State
}

func newComparison(r *Reconciler, q ReconcileRequest) *comparison {
	return &comparison{
		Reconciler: r, ReconcileRequest: q, modes: r.modes(),
		younger: map[string]bool{}, expected: map[string]expected{}, refused: map[stripeapi.Place]error{},
		report: Report{
			DryRun: q.DryRun, AfterRestore: q.AfterRestore, StartedAt: r.opt.Now().UTC(),
			Places: []string{}, Unread: []string{}, Notes: []string{},
		},
	}
}

// plan settles how far back to look.
func (c *comparison) plan(p past) {
	now, r := c.report.StartedAt, &c.report
	oldest := now.Add(-eventsKept)
	r.Since = c.Since.UTC()
	if c.Since.IsZero() {
		r.Since = later(oldest, p.covered.Add(-overlap)).UTC()
	}
	c.eventsSince, c.sessionsSince = later(oldest, r.Since), r.Since
	if oldest.Sub(r.Since) > time.Minute { // 30 days that were asked for began a moment ago
		c.notef("Stripe lists events for 30 days: events since %s, sessions since %s", oldest.Format(time.RFC3339), r.Since.Format(time.RFC3339))
	}
	if c.isDaily = now.Sub(p.daily) >= daily; c.isDaily {
		c.sessionsSince = earlier(c.sessionsSince, now.Add(-lively))
	}
}

func (c *comparison) notef(format string, args ...any) {
	c.report.Notes = append(c.report.Notes, fmt.Sprintf(format, args...))
}

// unread notes what could not be read or written.
func (c *comparison) unread(what string, err error) {
	if len(c.report.Unread) == mostTold {
		c.report.UnreadMore++
		return
	}
	c.report.Unread = append(c.report.Unread, what+": "+err.Error())
}

// conclude gives the run its result.
func (c *comparison) conclude(err error) {
	c.report.FinishedAt = c.opt.Now().UTC()
	ended := errors.Is(err, context.Canceled)
	switch {
	case ended:
		c.unread("the run", errBrokenOff)
	case err != nil:
		c.unread("the run", err)
	}
	switch {
	case len(c.report.Unread) == 0:
		c.report.Result = RunOK
	case c.read == 0 || err != nil && !ended:
		c.report.Result = RunFailed
	default:
		c.report.Result = RunPartial
	}
}

var errBrokenOff = errors.New("broken off")

// databaseError ends a run, whatever else it could still read.
type databaseError struct{ error }

func (e databaseError) Unwrap() error { return e.error }

// compare reads everything. Its error is the database's, or that ctx ended.
func (c *comparison) compare(ctx context.Context) error {
	if err := c.hide(ctx); err != nil {
		return err
	}
	places, err := c.places(ctx)
	if err != nil {
		return err
	}
	for _, p := range places {
		if err := c.lists(ctx, p); err != nil {
			return err
		}
	}
	c.judgeRefused()
	return c.readAgain(ctx)
}

// hide hides outputs after a restore, and widens the list of sessions so far
// that it shows a redaction of each of them.
func (c *comparison) hide(ctx context.Context) (err error) {
	if c.AfterRestore {
		hide := c.opt.Store.Unconfirm
		if c.DryRun {
			hide = c.opt.Store.WithOutputs
		}
		if c.report.OutputsHidden, err = hide(ctx); err != nil {
			return err
		}
	}
	oldest := c.opt.Store.OldestUnconfirmed
	if c.AfterRestore {
		oldest = c.opt.Store.OldestUnredacted
	}
	created, err := oldest(ctx)
	if err == nil && !created.IsZero() {
		c.sessionsSince = earlier(c.sessionsSince, created)
	}
	return err
}

// place is whose lists are read.
type place struct {
	stripeapi.Place
	// guess says that nothing was seen of it in this mode. An account that was
	// configured may be of the other mode; an organization has no place of its own.
	guess bool
}

// nameOf is a place in words.
func nameOf(p stripeapi.Place) string {
	mode := "test"
	if p.Live {
		mode = "live"
	}
	return strings.TrimSpace(mode + " " + p.Account + p.Context)
}

func placeOf(o repo.Owner) stripeapi.Place {
	if o.Context != "" {
		o.Account = "" // as the header of the one supersedes that of the other
	}
	return stripeapi.Place{Live: o.Live, Account: o.Account, Context: o.Context}
}

// places lists whose events and sessions to read: the platform's, everybody's
// who was seen, and the configured accounts'.
func (c *comparison) places(ctx context.Context) ([]place, error) {
	owners, err := c.opt.Store.Owners(ctx)
	if err != nil {
		return nil, err
	}
	for _, live := range []bool{false, true} {
		seen := slices.ContainsFunc(owners, func(o repo.Owner) bool { return o.Live == live })
		if seen && c.opt.Takes(live) && !slices.Contains(c.modes, live) {
			c.unread(nameOf(stripeapi.Place{Live: live}), fmt.Errorf("%w, and sessions of it were seen", stripeapi.ErrNoKey))
		}
	}
	var places []place
	for _, live := range c.modes {
		seen := map[stripeapi.Place]bool{}
		organization := false
		for _, o := range owners {
			if o.Live == live {
				seen[placeOf(o)] = true
				organization = organization || o.Context != ""
			}
		}
		platform := stripeapi.Place{Live: live}
		places = append(places, place{platform, organization && !seen[platform]})
		for _, o := range owners {
			p := placeOf(o)
			// A thin event calls a connected account a context.
			twice := p.Context != "" && seen[stripeapi.Place{Live: live, Account: p.Context}]
			if seen[p] && p != platform && !twice {
				places = append(places, place{p, false})
			}
			delete(seen, p)
		}
		for _, account := range c.opt.Accounts {
			p := place{stripeapi.Place{Live: live, Account: account}, true}
			known := func(o place) bool { return o.Live == live && (o.Account == account || o.Context == account) }
			if !slices.ContainsFunc(places, known) {
				places = append(places, p)
			}
		}
	}
	return places, nil
}

// lists reads the events and the sessions of one place: the events first, so
// that a session differs only by what no event tells.
func (c *comparison) lists(ctx context.Context, p place) error {
	for _, list := range []func(context.Context, stripeapi.Place) error{c.listEvents, c.listSessions} {
		var ours databaseError
		err := list(ctx, p.Place)
		switch {
		case err == nil:
			c.read++
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &ours):
			return ours.error
		case p.guess && isRefusal(err):
			c.refused[p.Place] = err
			return nil
		default:
			c.unread(nameOf(p.Place), err)
		}
	}
	c.report.Places = append(c.report.Places, nameOf(p.Place))
	return nil
}

// isRefusal reports whether Stripe will not tell, rather than cannot.
func isRefusal(err error) bool {
	var again *stripeapi.RetryError
	return !errors.As(err, &again) && !errors.Is(err, stripeapi.ErrUnauthorized) && !errors.Is(err, events.ErrNotASession)
}

// judgeRefused decides on guesses: a configured account must be readable in
// one mode at least.
func (c *comparison) judgeRefused() {
	for _, account := range c.opt.Accounts {
		readable := slices.ContainsFunc(c.report.Places, func(name string) bool { return strings.HasSuffix(name, " "+account) })
		for _, live := range c.modes {
			p := stripeapi.Place{Live: live, Account: account}
			switch err := c.refused[p]; {
			case err == nil:
			case readable:
				c.notef("%s is not readable, and nothing was seen of it", nameOf(p))
			default:
				c.unread(nameOf(p), err)
			}
		}
	}
	for _, live := range c.modes {
		if p := (stripeapi.Place{Live: live}); c.refused[p] != nil {
			c.notef("%s is not readable without a context, and nothing was seen of it", nameOf(p))
		}
	}
}

// again repeats what may succeed later. Progress begins the count anew.
func (c *comparison) again(ctx context.Context, do func() (progressed bool, err error)) error {
	pause := time.Second
	for n := 1; ; n++ {
		progressed, err := do()
		if progressed {
			n, pause = 1, time.Second
		}
		var retry *stripeapi.RetryError
		if !errors.As(err, &retry) || n == attempts || retry.After > longestPause {
			return err
		}
		if err := c.opt.Wait(ctx, max(pause, retry.After)); err != nil {
			return err
		}
		pause *= 2
	}
}

func (c *comparison) listEvents(ctx context.Context, p stripeapi.Place) error {
	since, told := c.eventsSince, map[string]bool{} // after a failure it goes on in the last second that was told
	return c.again(ctx, func() (progressed bool, err error) {
		page := make([]*events.Event, 0, pageSize)
		take := func() error {
			err := c.takeEvents(ctx, p, page)
			page = page[:0]
			return err
		}
		q := stripeapi.EventQuery{Since: since, Types: events.Types()}
		err = c.opt.API.Events(ctx, p, q, func(raw []byte) error {
			e, err := events.Parse(raw)
			if err != nil {
				c.unread(nameOf(p), fmt.Errorf("list events: %w", err))
				return nil
			}
			if told[e.ID] {
				return nil
			}
			if e.Created.After(since) {
				since = e.Created
				clear(told)
			}
			told[e.ID], progressed = true, true
			if page = append(page, e); len(page) < pageSize {
				return nil
			}
			return take()
		})
		return progressed, errors.Join(take(), err)
	})
}

// takeEvents records those of a page that are missing.
func (c *comparison) takeEvents(ctx context.Context, p stripeapi.Place, page []*events.Event) error {
	if len(page) == 0 {
		return nil
	}
	ids := make([]string, len(page))
	for i, e := range page {
		ids[i] = e.ID
	}
	known, err := c.opt.Store.Known(ctx, ids)
	if err != nil {
		return databaseError{err}
	}
	c.report.EventsListed += int64(len(page))
	missing := slices.DeleteFunc(page, func(e *events.Event) bool {
		if known[e.ID] == repo.Recorded || known[e.ID] == repo.InQuarantine && e.Kind == events.Broken || e.Kind == events.Foreign {
			return true
		}
		if c.mayBeUnderWay(e.Created) {
			c.younger[e.SessionID] = true
		}
		return c.younger[e.SessionID]
	})
	findings := make([]Finding, len(missing))
	for i, e := range missing {
		e.Source, e.ReceivedAt = events.SourceReconcile, c.opt.Now()
		// Stripe does not tell an account of its own events whose they are.
		if !e.Account.Has() && p.Account != "" {
			e.Account = events.Some(p.Account)
		}
		if !e.Context.Has() && p.Context != "" {
			e.Context = events.Some(p.Context)
		}
		findings[i] = Finding{
			Place: nameOf(p), EventID: e.ID, SessionID: e.SessionID, Type: e.Type, Status: e.Session.Status.Value, What: "missing",
		}
		if e.Kind == events.Broken {
			findings[i].What = "quarantined"
		}
		if c.DryRun {
			c.expect(e)
		}
	}
	outcomes, err := c.record(ctx, missing)
	if err != nil {
		return err
	}
	for i, f := range findings {
		switch outcomes[i] {
		case "", events.Duplicate: // not written, or delivered meanwhile
			continue
		case events.Quarantined:
			if known[f.EventID] == repo.InQuarantine {
				continue // refused again
			}
			f.What = "quarantined"
			c.report.EventsQuarantined++
		default:
			c.report.EventsRecovered++
		}
		c.found(f)
	}
	c.progress()
	return nil
}

// mayBeUnderWay reports whether what was told at that time is left to Stripe's
// own delivery.
func (c *comparison) mayBeUnderWay(told time.Time) bool {
	return c.Since.IsZero() && !c.AfterRestore && c.opt.Now().Sub(told) < underWay
}

// expect notes what the newest missing event of a session tells.
func (c *comparison) expect(e *events.Event) {
	now, there := c.expected[e.SessionID]
	if e.Kind == events.Snapshot && (!there || now.Compare(e.Key()) < 0) {
		c.expected[e.SessionID] = expected{e.Key(), e.Session.State()}
	}
}

// record writes events, some at a time. The outcome of what could not be
// written is empty; an error is that the database is not at hand.
func (c *comparison) record(ctx context.Context, all []*events.Event) ([]events.Outcome, error) {
	outcomes, faults := make([]events.Outcome, len(all)), make([]error, len(all))
	ids := make([]string, len(all))
	var group errgroup.Group
	group.SetLimit(writers)
	for i, e := range all {
		ids[i] = e.ID // the store owns what it was given
		if c.DryRun {
			outcomes[i] = events.Applied
			if e.Kind == events.Broken {
				outcomes[i] = events.Quarantined
			}
			continue
		}
		group.Go(func() error {
			outcomes[i], faults[i] = c.recordOne(ctx, e)
			return nil
		})
	}
	_ = group.Wait() // the faults are told below
	for i, err := range faults {
		if err := c.wrote(ctx, "event "+ids[i], err); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// recordOne waits for deliveries, which come first.
func (c *comparison) recordOne(ctx context.Context, e *events.Event) (outcome events.Outcome, err error) {
	for n := 1; ; n++ {
		outcome, err = c.opt.Store.Record(ctx, e)
		if !errors.Is(err, events.ErrQueueFull) || n == attempts {
			return outcome, err
		}
		if err := c.opt.Wait(ctx, time.Second); err != nil {
			return "", err
		}
	}
}

// wrote takes note of a write. One that fails may be that session's fault;
// several in a row are the database's, and an error.
func (c *comparison) wrote(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		c.failures = 0
	case ctx.Err() != nil:
		return databaseError{context.Cause(ctx)}
	case errors.Is(err, events.ErrLocked):
		c.unread(what, err)
	default:
		if c.failures++; c.failures >= mostFailures {
			return databaseError{err}
		}
		c.unread(what, err)
	}
	return nil
}

func (c *comparison) found(f Finding) {
	if c.Found != nil {
		c.Found(f)
	}
}

func (c *comparison) progress() {
	if c.Progress != nil {
		c.Progress(c.report)
	}
}

func (c *comparison) listSessions(ctx context.Context, p stripeapi.Place) error {
	before := c.report.SessionsListed
	return c.again(ctx, func() (bool, error) {
		c.report.SessionsListed = before // it begins anew
		page := make([]stripeapi.Answer, 0, pageSize)
		take := func() error {
			c.report.SessionsListed += int64(len(page))
			err := c.takeSessions(ctx, p, page, true)
			page = page[:0]
			c.progress()
			return err
		}
		err := c.opt.API.Sessions(ctx, p, c.sessionsSince, func(a stripeapi.Answer) error {
			if page = append(page, a); len(page) < pageSize {
				return nil
			}
			return take()
		})
		return false, errors.Join(take(), err)
	})
}

// takeSessions records the answers that tell something new, and shows the
// outputs of those that Stripe was asked about for that.
func (c *comparison) takeSessions(ctx context.Context, p stripeapi.Place, page []stripeapi.Answer, listed bool) error {
	ids := make([]string, len(page))
	for i, a := range page {
		ids[i] = a.Session.ID
	}
	states, err := c.opt.Store.States(ctx, ids)
	if err != nil {
		return databaseError{err}
	}
	var confirmed []string
	for i := range page {
		a := &page[i]
		state := states[a.Session.ID]
		what := c.news(a, state, listed)
		if what != "" {
			told, err := c.tell(ctx, p, a)
			if err != nil {
				return err
			}
			if !told {
				continue
			}
			c.report.SessionsRepaired++
			c.found(Finding{Place: nameOf(p), SessionID: a.Session.ID, Status: a.Session.Status.Value, What: what})
		}
		if state.Unconfirmed && !c.younger[a.Session.ID] { // it may have told of a redaction
			confirmed = append(confirmed, a.Session.ID)
		}
	}
	if len(confirmed) == 0 || c.DryRun {
		return nil
	}
	if err := c.opt.Store.Confirm(ctx, confirmed); err != nil {
		return databaseError{err}
	}
	c.report.OutputsShown += int64(len(confirmed))
	return nil
}

// news says what an answer tells that is not known, in a word; empty for nothing.
func (c *comparison) news(a *stripeapi.Answer, ours repo.SessionState, listed bool) string {
	theirs := a.Session.State()
	if e, ok := c.expected[a.Session.ID]; ok && e.Second >= ours.LastEvent.Unix() {
		if e.Redaction == "" {
			e.Redaction = ours.State.Redaction
		}
		ours.Known, ours.State, ours.NeedsRefresh, ours.LastEvent = true, e.State, false, time.Unix(e.Second, 0)
	}
	if theirs.Redaction == "" {
		theirs.Redaction = ours.State.Redaction // a redaction is not taken back
	}
	switch {
	case c.younger[a.Session.ID], !ours.Known && c.mayBeUnderWay(a.Session.Created):
		return "" // the next run sees whether the delivery came
	case !ours.Known && listed && !c.AfterRestore && a.Session.Created.Before(c.report.Since.Truncate(time.Second)):
		return "" // before what was asked for; a restore has lost any of those listed
	case !ours.Known:
		return "unknown"
	case theirs.Redaction != ours.State.Redaction:
		return "redacted"
	case ours.LastEvent.After(a.Until):
		return "" // something newer came meanwhile
	case theirs != ours.State || ours.NeedsRefresh:
		return "differs"
	}
	return ""
}

// tell records an answer. told is false if it could not be written.
func (c *comparison) tell(ctx context.Context, p stripeapi.Place, a *stripeapi.Answer) (told bool, err error) {
	if c.DryRun {
		return true, nil
	}
	answer := &events.Answer{From: a.From, Until: a.Until, Session: a.Session, Outputs: a.Expanded, Unreadable: a.Unreadable}
	if p.Account != "" {
		answer.Account = events.Some(p.Account)
	}
	if p.Context != "" {
		answer.Context = events.Some(p.Context)
	}
	fault := c.opt.Store.Tell(ctx, answer)
	return fault == nil, c.wrote(ctx, "session "+a.Session.ID, fault)
}

// readAgain reads one by one what the lists did not show.
func (c *comparison) readAgain(ctx context.Context) error {
	now := c.report.StartedAt
	q := repo.Again{Livemodes: c.modes, Processing: now.Add(-stuck), Before: c.sessionsSince}
	if c.isDaily {
		q.Active = now.Add(-lively)
	}
	down := map[stripeapi.Place]error{} // where a session could not be read
	for behind := ""; ; {
		page, err := c.opt.Store.ToReadAgain(ctx, q, behind)
		if err != nil {
			return err
		}
		for _, s := range page {
			if err := c.readOne(ctx, s, down); err != nil {
				return err
			}
			behind = s.ID
		}
		if len(page) == 0 {
			break
		}
	}
	if len(c.lost) > 0 {
		c.notef("Stripe does not know %d sessions, such as %s", c.report.SessionsNotFound, strings.Join(c.lost, ", "))
	}
	return nil
}

func (c *comparison) readOne(ctx context.Context, s repo.OwnedSession, down map[stripeapi.Place]error) error {
	p := placeOf(s.Owner)
	what := nameOf(p) + ": session " + s.ID
	if err := down[p]; err != nil {
		c.unread(what, err)
		return nil
	}
	var a stripeapi.Answer
	err := c.again(ctx, func() (_ bool, err error) {
		a, err = c.opt.API.Session(ctx, p, s.ID, false, false)
		return false, err
	})
	switch {
	case err == nil:
		c.read++
		c.report.SessionsReadAgain++
		err = c.takeSessions(ctx, p, []stripeapi.Answer{a}, false)
		c.progress()
		if ours, ok := errors.AsType[databaseError](err); ok {
			return ours.error
		}
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, stripeapi.ErrNotFound):
		c.report.SessionsNotFound++
		if len(c.lost) < mostTold {
			c.lost = append(c.lost, s.ID)
		}
		if c.AfterRestore && s.Unconfirmed {
			c.unread(what, errors.New("Stripe does not know it, and its outputs stay hidden: webhookd redact erases them")) //nolint:staticcheck // a name
		}
	case errors.Is(err, events.ErrNotASession):
		c.unread(what, err)
	default:
		down[p] = err
		c.unread(what, err)
	}
	return nil
}
