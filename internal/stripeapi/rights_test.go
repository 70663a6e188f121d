package stripeapi_test

import (
	"testing"
	"time"

	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// As after an outage or a restore, when the longest waiting are asked for first.
func TestASessionTooOldForTheKeyIsReadFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripefake.Rights{Sensitive: true})
	old := w.src.Session(scenario.SessionOptions{})
	w.Tell(old, old.Verified(time.Now().Add(-72*time.Hour)))
	w.Age(stripeapi.Place{}, old.ID, 72*time.Hour)
	a, err := w.Session(t.Context(), stripeapi.Place{}, old.ID, true, true)
	if err != nil || len(a.Unreadable) != 5 {
		t.Fatalf("old: unreadable %q, %v", a.Unreadable, err)
	}
	a, err = w.Session(t.Context(), stripeapi.Place{}, w.verified().ID, true, true)
	if err != nil || len(a.Unreadable) != 0 {
		t.Errorf("young: unreadable %q, %v", a.Unreadable, err)
	}
}
