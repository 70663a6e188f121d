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

// What stands between the two marks is shown in docs/consume.md; make generate
// copies it there.

// docs:begin
const sqlCursor = `
CREATE TABLE IF NOT EXISTS verification_cursor (
    name text PRIMARY KEY,
    xid  xid8 NOT NULL DEFAULT '0',
    id   bigint NOT NULL DEFAULT 0
)`

const sqlNext = `
SELECT t.xid, t.id, t.session_id, t.event_type, t.status, t.error_code, t.occurred_at,
       s.client_reference_id, s.status AS status_now
FROM stripe_identity.status_transitions t
JOIN stripe_identity.verification_sessions s ON s.id = t.session_id
WHERE (t.xid, t.id) > ($1, $2)
  AND t.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY t.xid, t.id
LIMIT 100`

// Transition is one step of a session's history, and where the session stands now.
type Transition struct {
	Xid        uint64
	ID         int64
	SessionID  string
	EventType  string  // identity.verification_session.verified and so on
	Status     *string // what this step told
	ErrorCode  *string
	OccurredAt time.Time

	ClientReferenceID *string // whom the session is about, in the application's words
	StatusNow         *string // differs from Status if something newer is known
}

// Handle acts on one transition. What it writes through tx is committed
// together with the cursor, so it is written exactly once.
type Handle func(ctx context.Context, tx pgx.Tx, t Transition) error

// Follow hands every transition to handle until ctx ends or something fails;
// call it again then. Several may run under one name: they take turns.
func Follow(ctx context.Context, url, name string, poll time.Duration, handle Handle) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("follow verifications: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // nothing is under way any more

	// Listen first: what is committed while we read wakes us afterwards.
	for _, sql := range []string{"LISTEN stripe_identity", sqlCursor} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("follow verifications: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, "INSERT INTO verification_cursor (name) VALUES ($1) ON CONFLICT DO NOTHING", name); err != nil {
		return fmt.Errorf("follow verifications: %w", err)
	}
	for {
		more, err := next(ctx, conn, name, handle)
		if err != nil {
			return fmt.Errorf("follow verifications: %w", err)
		}
		if more {
			continue
		}
		// A notification has no payload: it only says that it is worth looking.
		wait, cancel := context.WithTimeout(ctx, poll)
		_, err = conn.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("follow verifications: %w", ctx.Err())
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("follow verifications: %w", err)
		}
	}
}

// next takes up to 100 transitions and moves the cursor behind them.
func next(ctx context.Context, conn *pgx.Conn, name string, handle Handle) (more bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var (
			xid uint64
			id  int64
		)
		cursor := tx.QueryRow(ctx, "SELECT xid, id FROM verification_cursor WHERE name = $1 FOR UPDATE", name)
		if err := cursor.Scan(&xid, &id); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, sqlNext, xid, id) // CollectRows tells the error
		steps, err := pgx.CollectRows(rows, pgx.RowToStructByName[Transition])
		if err != nil || len(steps) == 0 {
			return err
		}
		for _, t := range steps {
			if err := handle(ctx, tx, t); err != nil {
				return err
			}
		}
		more = true
		last := steps[len(steps)-1]
		_, err = tx.Exec(ctx, "UPDATE verification_cursor SET xid = $2, id = $3 WHERE name = $1", name, last.Xid, last.ID)
		return err
	})
	return more, err
}

// docs:end

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
