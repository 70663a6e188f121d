package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

// follow runs Follow until the test ends and returns what it hands out.
func follow(tb testing.TB, url string, poll time.Duration) <-chan Transition {
	tb.Helper()
	told := make(chan Transition, 100)
	ctx, stop := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Follow(ctx, url, "test", poll, func(_ context.Context, _ pgx.Tx, t Transition) error {
			told <- t
			return nil
		})
	}()
	tb.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			tb.Errorf("follow ended with %v", err)
		}
	})
	return told
}

// receive waits for the next transition of vs_1: others are only noise.
func receive(tb testing.TB, told <-chan Transition) Transition {
	tb.Helper()
	for {
		select {
		case t := <-told:
			if t.SessionID == "vs_1" {
				return t
			}
		case <-time.After(time.Minute):
			tb.Fatal("no transition came")
		}
	}
}

func change(tb testing.TB, id, session, kind, status string, second int) *events.Event {
	tb.Helper()
	return parse(tb, map[string]any{
		"id": id, "object": "event", "type": "identity.verification_session." + kind, "livemode": true,
		"created": start + second, "api_version": "2026-10-28.endive",
		"data": map[string]any{"object": map[string]any{
			"id": session, "object": "identity.verification_session", "status": status, "type": "document",
			"created": start, "livemode": true, "client_reference_id": "user-1", "metadata": map[string]any{},
		}},
	})
}

func record(tb testing.TB, s *repo.Store, e *events.Event) {
	tb.Helper()
	e.Source = events.SourceWebhook
	if _, err := s.Record(tb.Context(), e); err != nil {
		tb.Fatalf("record: %v", err)
	}
}

func TestConsumerLearnsOfEveryTransition(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		notify bool
		poll   time.Duration
	}{
		"woken by a notification":       {notify: true, poll: time.Hour},
		"by looking, with NOTIFY=false": {notify: false, poll: 20 * time.Millisecond},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url, func(o *repo.Options) { o.Notify = tt.notify })
			record(t, store, change(t, "evt_1", "vs_1", "created", "requires_input", 0))
			told := follow(t, url, tt.poll)
			if tt.notify {
				commitElsewhere(t, store)
			}

			before := receive(t, told)
			record(t, store, change(t, "evt_3", "vs_1", "verified", "verified", 60))
			newest := receive(t, told)
			record(t, store, change(t, "evt_2", "vs_1", "processing", "processing", 30))
			late := receive(t, told)

			ptr := func(s string) *string { return &s }
			got := []*string{before.Status, before.StatusNow, newest.Status, newest.StatusNow, late.Status, late.StatusNow, late.ClientReferenceID}
			want := []*string{
				ptr("requires_input"), ptr("requires_input"), ptr("verified"), ptr("verified"),
				ptr("processing"), ptr("verified"), ptr("user-1"), // a late event is history, and says so
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("statuses (-want +got):\n%s", diff)
			}
		})
	}
}

// commitElsewhere records events of other sessions until the test ends: while
// a transaction of another test was open, the notification of a commit came
// too early, and only the next one tells.
func commitElsewhere(tb testing.TB, s *repo.Store) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context())
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			e := change(tb, fmt.Sprintf("evt_else_%d", n), fmt.Sprintf("vs_else_%d", n), "created", "requires_input", 0)
			e.Source = events.SourceWebhook
			if _, err := s.Record(ctx, e); err != nil {
				tb.Errorf("record: %v", err)
			}
		}
	}()
	tb.Cleanup(func() { close(stop); <-stopped })
}

func TestCommitsNotifyWithoutPayload(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), "LISTEN stripe_identity"); err != nil {
		t.Fatalf("listen: %v", err)
	}
	record(t, open(t, url, func(o *repo.Options) { o.Notify = false }), change(t, "evt_1", "vs_1", "created", "requires_input", 0))
	loud := open(t, url)
	record(t, loud, change(t, "evt_1", "vs_1", "created", "requires_input", 0)) // a duplicate adds nothing
	wait, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if n, err := conn.WaitForNotification(wait); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("notification %v, %v: want none", n, err)
	}
	record(t, loud, change(t, "evt_2", "vs_1", "verified", "verified", 60))
	n, err := conn.WaitForNotification(t.Context())
	if err != nil || n.Payload != "" {
		t.Errorf("notification %v, %v: want one without a payload", n, err)
	}
}

// A transaction with the lower id may commit later: who reads by id alone
// would have passed its row already.
func TestConsumerMissesNothingThatCommitsLate(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	record(t, store, change(t, "evt_0", "vs_1", "created", "requires_input", 0))
	const insert = `
INSERT INTO stripe_identity.status_transitions (event_id, session_id, event_type, status, occurred_at, source, rank)
VALUES ($1, 'vs_1', 'identity.verification_session.processing', 'processing', now(), 'webhook', 1)`

	slow, err := connect(t, url).Begin(t.Context())
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	if _, err := slow.Exec(t.Context(), insert, "evt_slow"); err != nil {
		t.Fatalf("insert: %v", err)
	}
	execute(t, url, insert, "evt_fast")

	told := follow(t, url, 20*time.Millisecond)
	first := receive(t, told)
	select {
	case early := <-told:
		t.Fatalf("transition %d was handed out while an older transaction was open", early.ID)
	case <-time.After(200 * time.Millisecond):
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatalf("commit: %v", err)
	}
	ids := []int64{first.ID, receive(t, told).ID, receive(t, told).ID}
	if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 3 {
		t.Errorf("ids %v: want three, in the order of their transactions", ids)
	}
}

func TestConsumerWritesExactlyOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	record(t, store, change(t, "evt_1", "vs_1", "created", "requires_input", 0))
	record(t, store, change(t, "evt_2", "vs_1", "verified", "verified", 60))
	execute(t, url, "CREATE TABLE effects (transition bigint)")

	errCrash := errors.New("crash")
	crash := true
	handle := func(ctx context.Context, tx pgx.Tx, step Transition) error {
		if _, err := tx.Exec(ctx, "INSERT INTO effects VALUES ($1)", step.ID); err != nil {
			return err
		}
		if crash && step.EventType == events.TypeVerified {
			crash = false
			return errCrash
		}
		return nil
	}
	const poll = 20 * time.Millisecond
	if err := Follow(t.Context(), url, "test", poll, handle); !errors.Is(err, errCrash) {
		t.Fatalf("follow ended with %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Follow(ctx, url, "test", poll, handle) }()

	conn := connect(t, url)
	var rows, steps int
	for deadline := time.Now().Add(time.Minute); rows < 2 && time.Now().Before(deadline); time.Sleep(5 * poll) {
		if err := conn.QueryRow(t.Context(), "SELECT count(*), count(DISTINCT transition) FROM effects").Scan(&rows, &steps); err != nil {
			t.Fatalf("count effects: %v", err)
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
	if rows != 2 || steps != 2 {
		t.Errorf("%d effects of %d transitions: want 2 of 2", rows, steps)
	}
}

// What is kept is the person's best live session of the own account, whatever
// else tells of the same reference afterwards.
func TestConsumerKeepsWhereAPersonStands(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	execute(t, url, "CREATE TABLE users (id text PRIMARY KEY, verification text)")
	execute(t, url, "INSERT INTO users VALUES ('user-1')")
	record(t, store, change(t, "evt_1", "vs_verified", "verified", "verified", 0))
	record(t, store, change(t, "evt_2", "vs_abandoned", "requires_input", "requires_input", 60))
	sandbox := change(t, "evt_3", "vs_sandbox", "canceled", "canceled", 120)
	sandbox.Livemode, sandbox.Session.Livemode = events.ModeTest, events.ModeTest
	record(t, store, sandbox)
	connected := change(t, "evt_4", "vs_connected", "processing", "processing", 180)
	connected.Account = events.Some("acct_1")
	record(t, store, connected)

	var seen []string
	err := Follow(t.Context(), url, "test", 20*time.Millisecond, func(ctx context.Context, tx pgx.Tx, step Transition) error {
		if err := keepUser(ctx, tx, step); err != nil {
			return err
		}
		var kept *string
		if err := tx.QueryRow(ctx, "SELECT verification FROM users WHERE id = 'user-1'").Scan(&kept); err != nil {
			return err
		}
		seen = append(seen, fmt.Sprintf("%s: %s", step.SessionID, *kept))
		if len(seen) == 4 {
			return context.Canceled
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("follow ended with %v", err)
	}
	want := []string{"vs_verified: verified", "vs_abandoned: verified", "vs_sandbox: verified", "vs_connected: verified"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}
