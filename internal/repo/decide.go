package repo

import (
	"slices"
	"strings"
	"time"

	"webhookd/internal/events"
)

// writes is what a decision puts into the database.
type writes struct {
	events      []*events.Event
	sessions    []*events.Standing // by id
	quarantined []*events.Event
	outputs     map[string]*events.Event // by session
	details     map[string]*events.Event
	gone        []string // sessions to erase
	bare        []string // rows that only the lock made
	released    []string // event ids that leave quarantine
	arrived     []string // event ids that thin events waited for
	advanced    bool     // there are new transitions

	isGone        func(sessionID string) bool
	snapshotKnown func(thin *events.Event) bool
}

// decide folds the orders, one after the other, into what stands.
func (s *Store) decide(orders []*order, v *view) *writes {
	w := &writes{outputs: map[string]*events.Event{}, details: map[string]*events.Event{}}
	touched := map[string]*events.Standing{}
	for _, o := range orders {
		e, standing := o.event, v.sessions[o.session()]
		switch {
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
			v.quarantined[e.ID] = e.SessionID
			w.quarantined = append(w.quarantined, e)
			if standing == nil {
				continue
			}
			standing.Doubt(e.Hides)
		default:
			if _, released := v.quarantined[e.ID]; released {
				delete(v.quarantined, e.ID)
				w.released = append(w.released, e.ID)
				standing.Suspect = v.suspects(standing.ID)
			}
			o.outcome = s.take(standing, e, v, w)
			w.advanced = w.advanced || o.outcome.Recorded()
			v.known[e.ID] = true
			w.events = append(w.events, e)
			if v.waiting[e.ID] {
				w.arrived = append(w.arrived, e.ID)
			}
		}
		touched[standing.ID] = standing
	}
	for id, standing := range v.sessions {
		switch {
		case v.bare[id] && len(standing.Steps) == 0 && !standing.Redacted:
			w.bare = append(w.bare, id)
		case touched[id] != nil:
			if s.opt.NoOutputs {
				standing.OutputsWantedSince = time.Time{}
			}
			w.sessions = append(w.sessions, standing)
			if standing.Redacted && !v.wasGone[id] {
				w.gone = append(w.gone, id)
			}
		}
	}
	slices.SortFunc(w.sessions, func(a, b *events.Standing) int { return strings.Compare(a.ID, b.ID) })
	w.isGone = func(id string) bool { return v.sessions[id] != nil && v.sessions[id].Redacted }
	w.snapshotKnown = func(e *events.Event) bool { return v.known[e.SnapshotEvent.Value] }
	return w
}

func (s *Store) take(standing *events.Standing, e *events.Event, v *view, w *writes) events.Outcome {
	if e.Kind == events.Snapshot {
		s.carry(e, v, w)
		return standing.Take(e)
	}
	if e.Type == events.ThinType(events.TypeRedacted) {
		// Stripe has erased it: what is ours to erase does not wait for the API.
		standing.Redact()
	}
	return events.Queued
}

// suspects reports whether an event of the session is in quarantine.
func (v *view) suspects(session string) bool {
	for _, s := range v.quarantined {
		if s == session {
			return true
		}
	}
	return false
}

// carry notes that an event brought outputs or provided details, if it is the
// newest that does.
func (s *Store) carry(e *events.Event, v *view, w *writes) {
	c := events.Carrier{Key: e.Key(), Twin: e.Twin()}
	for _, kind := range []struct {
		told bool
		now  map[string]events.Carrier
		out  map[string]*events.Event
	}{
		{e.Session.Outputs != nil && !s.opt.NoOutputs, v.outputs, w.outputs},
		{e.Session.Details != nil && !s.opt.NoOutputs, v.details, w.details},
	} {
		before, stands := kind.now[e.SessionID]
		if kind.told && (!stands || c.Supersedes(before)) {
			kind.now[e.SessionID], kind.out[e.SessionID] = c, e
		}
	}
}
