package repo_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
)

// A write takes for granted what is almost always so. Where it is not, the
// event counts as if everything had been read, and the next writes read it.
func TestWhatIsTakenForGrantedIsMadeSureOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bodies func(testing.TB, *scenario.Session) [][]byte
		want   []events.Outcome
		wary   int // how many of the next writes take nothing for granted
		open   int // what is left in quarantine, and of thin events
	}{
		"history tells of a redelivery": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0)).Body
				return [][]byte{e, s.Processing(at(5)).Body, e}
			},
			[]events.Outcome{events.Applied, events.Applied, events.Duplicate}, 0, 0,
		},
		"a redelivery of which history does not tell": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0))
				twin := s.Twin(e).Body
				return [][]byte{e.Body, twin, twin}
			},
			[]events.Outcome{events.Applied, events.Twin, events.Duplicate}, 16, 0,
		},
		"an event of the session is in quarantine": {
			func(tb testing.TB, s *scenario.Session) [][]byte {
				broken := edit(tb, s.Processing(at(5)).Body, map[string]any{"data.object.status": 5})
				return [][]byte{s.Created(at(0)).Body, broken, s.Verified(at(9)).Body}
			},
			[]events.Outcome{events.Applied, events.Quarantined, events.Applied}, 16, 1,
		},
		"the event itself is in quarantine, and nobody knew of which session": {
			func(tb testing.TB, s *scenario.Session) [][]byte {
				e := s.Processing(at(5)).Body
				return [][]byte{s.Created(at(0)).Body, edit(tb, e, map[string]any{"data.object.id": 5}), e}
			},
			[]events.Outcome{events.Applied, events.Quarantined, events.Applied}, 16, 0,
		},
		"a thin event waits for it": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Processing(at(5))
				return [][]byte{s.Created(at(0)).Body, s.Thin(e).Body, e.Body}
			},
			[]events.Outcome{events.Applied, events.Queued, events.Applied}, 16, 0,
		},
		"where it is common, it is remembered for longer": {
			func(_ testing.TB, s *scenario.Session) [][]byte {
				e := s.Created(at(0))
				twin := s.Twin(e).Body
				all := [][]byte{e.Body, twin}
				for range 1 + 16 + 1 + 30 {
					all = append(all, twin)
				}
				return all
			},
			nil, 2, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			s := open(t, url)
			got := tell(t, s, c.bodies(t, newSession(1, "vs_1"))...)
			if diff := cmp.Diff(c.want, got); diff != "" && c.want != nil {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			if s.Caution() != c.wary {
				t.Errorf("the next %d take nothing for granted, want %d", s.Caution(), c.wary)
			}
			left := query(t, url, `
SELECT (SELECT count(*) FROM stripe_identity.quarantined_events WHERE resolved_at IS NULL)
     + (SELECT count(*) FROM stripe_identity.events WHERE type LIKE 'v1.%' AND resolved_at IS NULL)`)[0][0]
			if left != int64(c.open) {
				t.Errorf("%v events are left open, want %d", left, c.open)
			}
		})
	}
}
