package repo

import (
	"maps"
	"slices"
	"strings"
	"time"

	"webhookd/internal/events"
)

// writes is what a decision puts into the database.
type writes struct {
	events      []*events.Event
	sessions    []*session // by id
	quarantined []*order
	outputs     map[string]*carried // by session
	details     map[string]*carried
	moved       []string // sessions whose history has other neighbours
	gone        []string // sessions to erase
	momentary   []string // sessions whose row stands only as long as the transaction
	doubted     []string // event ids that are in quarantine
	released    []string // event ids that leave quarantine
	arrived     []string // event ids that thin events waited for
	wishes      []string // sessions of which something new is wanted from the API
	served      []*Wish
	told        []*events.Step // rows that only the API told
	advanced    bool           // there are new transitions
	notifies    bool           // and whoever listens is told

	isGone        func(sessionID string) bool
	snapshotKnown func(thin *events.Event) bool
}

// carried is content with outputs or provided details, and who brought it.
type carried struct {
	*events.Session
	events.Carrier
	source     string // event or api
	at         time.Time
	unreadable []string
}

// unexplained are the new rows of a session that no event tells.
func unexplained(standing *session) (steps []*events.Step) {
	for i := range standing.Steps {
		if t := &standing.Steps[i]; t.Answer && t.Shown && t.Row == 0 {
			steps = append(steps, t)
		}
	}
	return steps
}

// isReconciles reports whether reconcile brought it.
func (o *order) isReconciles() bool {
	return o.answer != nil && o.wish == nil || o.event != nil && o.event.Source == events.SourceReconcile
}

// decide folds the orders, one after the other, into what stands.
func (s *Store) decide(orders []*order, v *view) *writes {
	w := &writes{outputs: map[string]*carried{}, details: map[string]*carried{}}
	var thin []*events.Event
	for _, o := range orders {
		e, standing := o.event, v.sessions[o.session()]
		if standing != nil {
			standing.Suspect = v.suspects(standing)
		}
		switch {
		case o.answer != nil:
			a := o.answer
			standing.Hear(a)
			standing.Suspect = v.suspects(standing)
			standing.Settle()
			if o.redacted = standing.Redacted; o.wish != nil {
				w.served = append(w.served, o.wish)
			}
			s.carry(&carried{
				&a.Session, events.Carrier{Key: events.Key{Second: a.Until.Unix(), Rank: events.AnswerRank}},
				"api", a.Until, a.Unreadable,
			}, v, w)
		case e == nil:
			standing.Redact()
		case v.known[e.ID]:
			o.outcome = events.Duplicate
			continue
		case e.Kind == events.Broken:
			if _, again := v.quarantined[e.ID]; again {
				o.outcome = events.Duplicate
				continue
			}
			o.outcome = events.Quarantined
			v.quarantined[e.ID] = doubt{e.SessionID, e.ReceivedAt}
			w.quarantined = append(w.quarantined, o)
			if standing == nil {
				continue
			}
			standing.Doubt(e.Hides)
		default:
			if _, released := v.quarantined[e.ID]; released {
				delete(v.quarantined, e.ID)
				w.released = append(w.released, e.ID)
				standing.Suspect = v.suspects(standing)
			}
			o.outcome = s.take(standing, e, v, w)
			v.known[e.ID] = true
			w.events = append(w.events, e)
			if v.waiting[e.ID] {
				w.arrived = append(w.arrived, e.ID)
			}
			if e.Kind == events.Thin && s.asks(e.Livemode) {
				thin = append(thin, e)
			}
		}
		standing.touched = true
		standing.counted = standing.counted || !o.isReconciles()
	}
	for id, standing := range v.sessions {
		switch {
		case !standing.touched:
		case standing.unseen && len(standing.Steps) == 0 && !standing.Redacted:
			// Nothing is known of the session yet. The row keeps out whoever comes to
			// know more at the same time.
			w.sessions, w.momentary = append(w.sessions, standing), append(w.momentary, id)
		default:
			if s.opt.NoOutputs {
				standing.OutputsWantedSince = time.Time{}
			}
			w.sessions = append(w.sessions, standing)
			if standing.counted {
				w.told = append(w.told, unexplained(standing)...)
			}
			if s.wishes(&standing.Standing, standing.wanted) {
				w.wishes = append(w.wishes, id)
			}
			w.advanced = w.advanced || slices.ContainsFunc(standing.Steps, func(t events.Step) bool { return t.Changed })
			if !appended(standing) {
				w.moved = append(w.moved, id)
			}
			if standing.Redacted && !standing.wasGone {
				w.gone = append(w.gone, id)
			}
		}
	}
	slices.SortFunc(w.sessions, func(a, b *session) int { return strings.Compare(a.ID, b.ID) })
	w.doubted = slices.Collect(maps.Keys(v.quarantined))
	w.isGone = func(id string) bool { return v.sessions[id] != nil && v.sessions[id].Redacted }
	w.snapshotKnown = func(e *events.Event) bool { return v.known[e.SnapshotEvent.Value] }
	for _, e := range thin {
		if !w.snapshotKnown(e) && !v.sessions[e.SessionID].Hidden {
			w.wishes = append(w.wishes, e.SessionID)
		}
	}
	slices.Sort(w.wishes)
	w.wishes = slices.Compact(w.wishes)
	return w
}

func (s *Store) take(standing *session, e *events.Event, v *view, w *writes) events.Outcome {
	if e.Kind == events.Snapshot {
		if e.Session.Outputs != nil || e.Session.Details != nil {
			s.carry(&carried{&e.Session, events.Carrier{Key: e.Key(), Twin: e.Twin()}, "event", e.ReceivedAt, nil}, v, w)
		}
		outcome := standing.Take(e)
		e.Filled = slices.Contains(standing.Filled, e.ID)
		return outcome
	}
	if e.Type == events.ThinType(events.TypeRedacted) {
		// Stripe has erased it: what is ours to erase does not wait for the API.
		standing.Redact()
	}
	return events.Queued
}

// carry notes content that has outputs or provided details, if it is the
// newest that does.
func (s *Store) carry(c *carried, v *view, w *writes) {
	for _, kind := range []struct {
		told bool
		now  map[string]events.Carrier
		out  map[string]*carried
	}{
		{c.Outputs != nil && !s.opt.NoOutputs, v.outputs, w.outputs},
		{c.Details != nil && !s.opt.NoOutputs, v.details, w.details},
	} {
		before, stands := kind.now[c.ID]
		if kind.told && (!stands || c.Supersedes(before)) {
			kind.now[c.ID], kind.out[c.ID] = c.Carrier, c
		}
	}
}
