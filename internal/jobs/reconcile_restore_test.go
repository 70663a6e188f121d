package jobs_test

import (
	"testing"

	"webhookd/internal/jobs"
	"webhookd/internal/scenario"
)

// Stripe lists no events of it, and the backup is older than it.
func TestAfterARestoreASessionOfAnyAgeIsFound(t *testing.T) {
	t.Parallel()
	s := newSides(t)
	delete(s.keys, true)
	_, told := s.happens(t, 60*day, scenario.SessionOptions{ID: "vs_1"}, "created processing verified")
	s.deliver(t, told...)
	s.happens(t, 40*day, scenario.SessionOptions{ID: "vs_2"}, "created processing verified")
	s.happens(t, 90*day, scenario.SessionOptions{ID: "vs_0"}, "created processing verified") // before our time
	const sessions = `SELECT id FROM stripe_identity.verification_sessions ORDER BY id`
	s.run(t, jobs.ReconcileRequest{})
	s.expect(t, sessions, "vs_1")
	if r := s.run(t, jobs.ReconcileRequest{AfterRestore: true}); r.SessionsRepaired != 1 {
		t.Errorf("%d sessions repaired, want 1", r.SessionsRepaired)
	}
	s.expect(t, sessions, "vs_1", "vs_2")
}
