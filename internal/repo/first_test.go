package repo_test

import (
	"context"
	"fmt"
	"testing"
)

// A session without a row cannot be locked before it is looked at. Whoever is
// held before any of its statements, while somebody else brings something of the
// same session, comes to the same rows.
func TestTwoWhoAreFirstToKnowASessionBothCount(t *testing.T) {
	t.Parallel()
	broken := func(s *stage) []byte {
		return edit(s, s.session.Processing(at(5)).Body, map[string]any{"data.object.status": 5})
	}
	hiding := func(s *stage) []byte {
		return edit(s, broken(s), map[string]any{"data.object.redaction": map[string]any{"status": "redacted"}})
	}
	for name, c := range map[string]struct {
		one, other func(*stage) write
		outcomes   map[[2]string]bool
		stands     string // true of the session's id in the end
	}{
		"an event in quarantine, and the first event": {
			one:      func(s *stage) write { return delivery(broken(s)) },
			other:    func(s *stage) write { return delivery(s.session.Created(at(0)).Body) },
			outcomes: map[[2]string]bool{{"quarantined", "applied"}: true},
			stands:   `SELECT needs_refresh AND NOT hidden AND status = 'requires_input' FROM stripe_identity.verification_sessions WHERE id = $1`,
		},
		"a redaction in quarantine, and the first event": {
			one:      func(s *stage) write { return delivery(hiding(s)) },
			other:    func(s *stage) write { return delivery(s.session.Created(at(0)).Body) },
			outcomes: map[[2]string]bool{{"quarantined", "applied"}: true},
			stands:   `SELECT needs_refresh AND hidden FROM stripe_identity.verification_sessions WHERE id = $1`,
		},
		"an event in quarantine, and an operator's redaction": {
			one: func(s *stage) write { return delivery(broken(s)) },
			other: func(s *stage) write {
				return func(ctx context.Context, p *party) (string, error) { return "redacted", p.store.Redact(ctx, s.id) }
			},
			outcomes: map[[2]string]bool{{"quarantined", "redacted"}: true},
			stands: `
SELECT redacted AND needs_refresh
   AND NOT EXISTS (SELECT FROM stripe_identity.quarantined_events WHERE session_id = $1 AND payload IS NOT NULL)
FROM stripe_identity.verification_sessions WHERE id = $1`,
		},
		"an event in quarantine, and itself": {
			one:      func(s *stage) write { return delivery(s.named("q", broken(s))) },
			other:    func(s *stage) write { return delivery(s.named("q", broken(s))) },
			outcomes: map[[2]string]bool{{"quarantined", "duplicate"}: true, {"duplicate", "quarantined"}: true},
			stands: `
SELECT (SELECT count(*) FROM stripe_identity.quarantined_events WHERE session_id = $1) = 1
   AND NOT EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = $1)`,
		},
		"a thin event, and its snapshot": {
			one: func(s *stage) write {
				thin := s.session.Thin(s.session.Created(at(0))).Body
				return delivery(edit(s, thin, map[string]any{"snapshot_event": "evt_s_" + s.id}))
			},
			other:    func(s *stage) write { return delivery(s.named("s", s.session.Created(at(0)).Body)) },
			outcomes: map[[2]string]bool{{"queued", "applied"}: true},
			stands: `
SELECT bool_and(resolved_at IS NOT NULL OR type NOT LIKE 'v1.%') AND count(*) = 2
   AND NOT EXISTS (SELECT FROM stripe_identity.verification_sessions WHERE id = $1 AND needs_refresh)
FROM stripe_identity.events WHERE session_id = $1`,
		},
		"the first event, and the second": {
			one:      func(s *stage) write { return delivery(s.session.Created(at(0)).Body) },
			other:    func(s *stage) write { return delivery(s.session.Processing(at(5)).Body) },
			outcomes: map[[2]string]bool{{"applied", "applied"}: true, {"stale", "applied"}: true},
			stands: `
SELECT status = 'processing' AND last_event_created_at = (SELECT max(occurred_at) FROM stripe_identity.status_transitions WHERE session_id = $1)
   AND (SELECT count(*) FROM stripe_identity.status_transitions WHERE session_id = $1 AND (previous_status IS NULL) = (event_type LIKE '%created')) = 2
FROM stripe_identity.verification_sessions WHERE id = $1`,
		},
		"the first event, and an answer": {
			one: func(s *stage) write { return delivery(s.session.Created(at(0)).Body) },
			other: func(s *stage) write {
				return telling(s.answer(s.session.Processing(at(5)).Body, 6))
			},
			outcomes: map[[2]string]bool{{"applied", "told"}: true, {"stale", "told"}: true},
			stands: `
SELECT status = 'processing' AND (SELECT count(*) FROM stripe_identity.status_transitions WHERE session_id = $1) = 2
FROM stripe_identity.verification_sessions WHERE id = $1`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRace(t, writer{})
			for _, swapped := range []bool{false, true} {
				for step := 0; ; step++ {
					s := r.stage(false)
					one := &actor{party: r.writer, name: "the one", do: c.one(s)}
					other := &actor{party: r.redactor, name: "the other", do: c.other(s)}
					held, free := one, other
					if swapped {
						held, free = other, one
					}
					r.schedule = fmt.Sprintf("%s is held before step %d", held.name, step)
					held.begin(s, step)
					reached := held.stops(s)
					free.begin(s, most)
					free.settles(s)
					close(held.hold.opened)
					held.ends(s)
					free.ends(s)
					if one.ended.err != nil || other.ended.err != nil || !c.outcomes[[2]string{one.ended.outcome, other.ended.outcome}] {
						t.Errorf("%s: %q %v, %q %v", r.schedule, one.ended.outcome, one.ended.err, other.ended.outcome, other.ended.err)
					}
					if !r.holds(c.stands, s.id) {
						t.Errorf("%s: the rows are not those of both", r.schedule)
					}
					if !reached {
						break
					}
				}
			}
		})
	}
}
