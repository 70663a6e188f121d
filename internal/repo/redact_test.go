package repo_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/pgdev"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
)

// withPerson makes every personal place of an event hold the marker.
func withPerson(tb testing.TB, s *scenario.Session, e scenario.Event) []byte {
	tb.Helper()
	return edit(tb, s.Expanded(e).Body, map[string]any{
		"data.object.metadata":      map[string]any{"user": "metadata " + scenario.Marker},
		"data.object.last_error":    map[string]any{"code": "document_expired", "reason": "reason " + scenario.Marker},
		"data.object.client_secret": "client_SECRET_" + scenario.Marker,
	})
}

// fullLife is a session with something personal in every place that has room
// for it, in quarantine too.
func fullLife(tb testing.TB, seed uint64, id string) (*scenario.Session, [][]byte) {
	tb.Helper()
	s := newSession(seed, id)
	failed := withPerson(tb, s, s.RequiresInput(at(10), "document_expired"))
	broken := edit(tb, failed, map[string]any{"id": "evt_broken_" + id, "data.object.status": 5})
	s.Processing(at(20))
	return s, [][]byte{withPerson(tb, s, s.Created(at(0))), failed, broken, withPerson(tb, s, s.Verified(at(30)))}
}

// lasting is all of a session that a redaction leaves as it is.
func lasting(tb testing.TB, url string) []string {
	tb.Helper()
	return one(tb, url, `
SELECT (to_jsonb(s) - '{metadata,content_digest,last_error_reason,redaction_status,redacted,outputs_wanted_since,updated_at}'::text[])::text
FROM stripe_identity.verification_sessions s
UNION ALL
SELECT (to_jsonb(t) - '{error_reason,metadata}'::text[])::text
FROM stripe_identity.status_transitions t WHERE event_type NOT LIKE '%redacted' AND redaction_status IS NULL
UNION ALL
SELECT (to_jsonb(e) - 'payload')::text
FROM stripe_identity.events e WHERE type NOT LIKE '%redacted'
UNION ALL
SELECT (to_jsonb(q) - 'payload')::text
FROM stripe_identity.quarantined_events q
ORDER BY 1`)
}

func TestRedactionErasesWhatIsPersonalAndNothingElse(t *testing.T) {
	t.Parallel()
	for name, redact := range map[string]func(testing.TB, *repo.Store, *scenario.Session){
		"by an operator": func(tb testing.TB, store *repo.Store, s *scenario.Session) {
			if err := store.Redact(tb.Context(), s.ID); err != nil {
				tb.Errorf("redact: %v", err)
			}
		},
		"by a thin event that Stripe has redacted it": func(tb testing.TB, store *repo.Store, s *scenario.Session) {
			tell(tb, store, s.Thin(s.Redacted(at(40))).Body)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url)
			session, bodies := fullLife(t, 1, "vs_1")
			tell(t, store, bodies...)
			for _, place := range []string{"verified_outputs", "provided_details", "verification_sessions", "status_transitions", "events", "quarantined_events"} {
				if got := strings.Join(one(t, url, `SELECT t::text FROM stripe_identity.`+place+` t`), "\n"); !strings.Contains(got, scenario.Marker) {
					t.Fatalf("nothing personal in %s to begin with: %s", place, got)
				}
			}
			before := lasting(t, url)
			redact(t, store, session)
			if diff := cmp.Diff(before, lasting(t, url)); diff != "" {
				t.Errorf("what should stay (-before +after):\n%s", diff)
			}
			if got := everything(t, url); strings.Contains(got, scenario.Marker) {
				t.Errorf("personal data stand:\n%s", got)
			}
			if got := state(t, url); !strings.HasPrefix(got, "verified document_expired redacted") {
				t.Errorf("session is %q", got)
			}
		})
	}
}

func TestEveryKnownRedactionErases(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"processing": "processing", "redacted": "redacted", "validated": "validated", "": "redacted",
		"of tomorrow": "of tomorrow", // the event's type says enough
	} {
		t.Run("word "+word, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url)
			session, bodies := fullLife(t, 1, "vs_1")
			fields := map[string]any{"data.object.redaction": map[string]any{"status": word}}
			if word == "" {
				fields["data.object.redaction"] = nil
			}
			tell(t, store, append(bodies, edit(t, session.Redacted(at(40)).Body, fields))...)
			if got := everything(t, url); strings.Contains(got, scenario.Marker) {
				t.Errorf("personal data stand:\n%s", got)
			}
			if got := one(t, url, `SELECT redaction_status FROM stripe_identity.verification_sessions`); got[0] != want {
				t.Errorf("redaction_status is %q, want %q", got[0], want)
			}
			if got := one(t, url, `SELECT client_reference_id FROM stripe_identity.verification_sessions`); got[0] != "user-vs_1" {
				t.Errorf("client_reference_id is %q", got[0])
			}
		})
	}
}

func TestNothingComesBackAfterARedaction(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	session, bodies := fullLife(t, 1, "vs_1")
	if err := store.Redact(t.Context(), "vs_1"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	tell(t, store, bodies...)
	if got := state(t, url); !strings.HasPrefix(got, "verified document_expired redacted") {
		t.Errorf("status and code do not follow: %q", got)
	}
	tell(t, store, withPerson(t, session, session.RequiresInput(at(50), "document_expired")), // late, and a twin and a replay of it
		edit(t, withPerson(t, session, session.RequiresInput(at(50), "document_expired")), map[string]any{"id": "evt_0"}),
		edit(t, bodies[2], map[string]any{"data.object.status": "verified"}))
	if got := state(t, url); !strings.HasPrefix(got, "requires_input document_expired redacted") {
		t.Errorf("status and code do not follow: %q", got)
	}
	if got := everything(t, url); strings.Contains(got, scenario.Marker) {
		t.Errorf("personal data came back:\n%s", got)
	}
	if got := one(t, url, `SELECT id FROM stripe_identity.verification_sessions WHERE outputs_wanted_since IS NOT NULL`); len(got) != 0 {
		t.Errorf("outputs are wanted of %q", got)
	}
}

func TestRedactOfAnIdNeverSeenLeavesATombstone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	for range 2 {
		if err := store.Redact(t.Context(), "vs_unseen"); err != nil {
			t.Fatalf("redact: %v", err)
		}
	}
	got := one(t, url, `SELECT concat_ws('|', id, redaction_status, status, last_event_id) FROM stripe_identity.verification_sessions`)
	if diff := cmp.Diff([]string{"vs_unseen|redacted"}, got); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
}

func TestAWordOfStripesReplacesTheOperators(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	session, bodies := fullLife(t, 1, "vs_1")
	tell(t, store, bodies...)
	if err := store.Redact(t.Context(), "vs_1"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	word := func() string {
		return one(t, url, `SELECT redaction_status FROM stripe_identity.verification_sessions`)[0]
	}
	if word() != "redacted" {
		t.Errorf("by the operator: %q", word())
	}
	tell(t, store, edit(t, session.Redacted(at(40)).Body, map[string]any{"data.object.redaction.status": "validated"}))
	if word() != "validated" {
		t.Errorf("after Stripe's word: %q", word())
	}
	if err := store.Redact(t.Context(), "vs_1"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	tell(t, store, session.Canceled(at(50)).Body) // with a redaction in it that says redacted
	tell(t, store, edit(t, session.Canceled(at(60)).Body, map[string]any{"data.object.redaction": nil}))
	if word() != "redacted" {
		t.Errorf("after a later event without a word: %q", word())
	}
}

func TestAnUnknownRedactionWordHidesTheSession(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	session, bodies := fullLife(t, 1, "vs_1")
	shown := func() []string {
		return one(t, url, `
SELECT 'verified_identities' FROM stripe_identity.verified_identities
UNION ALL SELECT 'subject_status' FROM stripe_identity.subject_status
UNION ALL SELECT 'outputs wanted' FROM stripe_identity.verification_sessions WHERE outputs_wanted_since IS NOT NULL
ORDER BY 1`)
	}
	tell(t, store, bodies[0], bodies[1], bodies[3])
	if diff := cmp.Diff([]string{"outputs wanted", "subject_status", "verified_identities"}, shown()); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	tell(t, store, edit(t, session.Verified(at(40)).Body, map[string]any{"data.object.redaction": map[string]any{"status": "frobnicated"}}))
	if diff := cmp.Diff([]string{}, shown()); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	tell(t, store, session.Verified(at(50)).Body)
	if diff := cmp.Diff([]string{}, shown()); diff != "" {
		t.Errorf("after a later event without the word (-want +got):\n%s", diff)
	}
	if err := store.Redact(t.Context(), "vs_1"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	if got := everything(t, url); strings.Contains(got, scenario.Marker) {
		t.Errorf("personal data stand after redact:\n%s", got)
	}
}

func TestARedactionInQuarantineHidesTheSessionAndKeepsNoPayload(t *testing.T) {
	t.Parallel()
	session, bodies := fullLife(t, 1, "vs_1")
	broken := edit(t, session.Redacted(at(40)).Body, map[string]any{
		"data.object.status": 5, "data.object.metadata": map[string]any{"user": scenario.Marker + " in quarantine"},
	})
	for name, order := range map[string][][]byte{
		"after": {bodies[0], bodies[3], broken}, "before": {broken, bodies[0], bodies[3]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			tell(t, open(t, url), order...)
			if got := one(t, url, `SELECT session_id FROM stripe_identity.quarantined_events WHERE payload IS NULL`); len(got) != 1 {
				t.Errorf("quarantine without a payload: %q", got)
			}
			if got := one(t, url, `SELECT session_id FROM stripe_identity.verified_identities`); len(got) != 0 {
				t.Errorf("still shown: %q", got)
			}
			if got := state(t, url); !strings.HasSuffix(got, "needs refresh") {
				t.Errorf("session is %q", got)
			}
		})
	}
}

// waitForLock returns when somebody waits for a lock in this database.
func waitForLock(tb testing.TB, url string) {
	tb.Helper()
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if len(one(tb, url, `SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)) > 0 {
			return
		}
		if time.Since(begun) > 20*time.Second {
			tb.Fatal("nobody waits for the lock")
		}
	}
}

// A statement sees what was committed before it began, not before it got its
// lock: a writer that decides in the statement that waits brings the outputs back.
func TestAWriterThatWaitedSeesTheRedactionOfAnother(t *testing.T) {
	t.Parallel()
	const erase = `
UPDATE stripe_identity.verification_sessions
SET redacted = true, redaction_status = 'redacted', metadata = NULL, last_error_reason = NULL WHERE id = 'vs_1'`
	for name, test := range map[string]struct {
		known  bool
		redact string
	}{
		"of a session that stands":  {true, erase},
		"of a session never seen":   {false, `INSERT INTO stripe_identity.verification_sessions (id, redacted, redaction_status) VALUES ('vs_1', true, 'redacted')`},
		"of a session made by both": {false, `INSERT INTO stripe_identity.verification_sessions (id) VALUES ('vs_1');` + erase},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url, func(o *repo.Options) { o.LockTimeout = time.Minute })
			session, bodies := fullLife(t, 1, "vs_1")
			if test.known {
				tell(t, store, session.Created(at(0)).Body)
			}
			other := connect(t, url)
			if _, err := other.Exec(t.Context(), "BEGIN; "+test.redact); err != nil {
				t.Fatalf("redact: %v", err)
			}
			answered := make(chan error, 1)
			e := read(t, bodies[3])
			go func() {
				_, err := store.Record(t.Context(), e)
				answered <- err
			}()
			waitForLock(t, url)
			if _, err := other.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatalf("commit: %v", err)
			}
			if err := <-answered; err != nil {
				t.Errorf("record: %v", err)
			}
			if got := everything(t, url); strings.Contains(got, scenario.Marker) {
				t.Errorf("the writer brought personal data back:\n%s", got)
			}
			if got := state(t, url); !strings.HasPrefix(got, "verified document_expired redacted") {
				t.Errorf("session is %q", got)
			}
		})
	}
}

// TestRedactAgainstRecordManyTimes lets two replicas race, and looks on: what
// is marked as redacted never holds anything, not for a moment.
func TestRedactAgainstRecordManyTimes(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	one, other := open(t, url), open(t, url)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		conn := connect(t, url)
		for {
			select {
			case <-stop:
				if err := conn.Close(t.Context()); err != nil {
					t.Errorf("disconnect: %v", err)
				}
				return
			default:
			}
			half := rowsOf(t, conn, `
SELECT s.id FROM stripe_identity.verification_sessions s
WHERE s.redacted
  AND (EXISTS (SELECT FROM stripe_identity.verified_outputs o WHERE o.session_id = s.id)
       OR EXISTS (SELECT FROM stripe_identity.events e WHERE e.session_id = s.id AND e.payload IS NOT NULL)
       OR EXISTS (SELECT FROM stripe_identity.quarantined_events q WHERE q.session_id = s.id AND q.payload IS NOT NULL))`)
			if len(half) > 0 {
				t.Errorf("half redacted: %v", half)
			}
		}
	}()
	for round := range 40 {
		_, bodies := fullLife(t, uint64(round), fmt.Sprintf("vs_%d", round))
		var wg sync.WaitGroup
		wg.Go(func() { tellAtOnce(t, one, bodies...) })
		wg.Go(func() {
			if err := other.Redact(t.Context(), fmt.Sprintf("vs_%d", round)); err != nil {
				t.Errorf("redact: %v", err)
			}
		})
		wg.Wait()
	}
	close(stop)
	<-stopped
	if got := everything(t, url); strings.Contains(got, scenario.Marker) {
		t.Errorf("personal data stand:\n%s", got)
	}
}

// TestADumpAfterRedactionsHoldsNothingPersonal also proves that no other table
// or column was forgotten.
func TestADumpAfterRedactionsHoldsNothingPersonal(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url)
	for i, how := range []string{"stripe", "operator", "operator first"} {
		session, bodies := fullLife(t, uint64(i), fmt.Sprintf("vs_%d", i))
		redact := func() {
			if err := store.Redact(t.Context(), session.ID); err != nil {
				t.Fatalf("redact: %v", err)
			}
		}
		if how == "operator first" {
			redact()
		}
		tellAtOnce(t, store, bodies...)
		if how == "operator" {
			if !strings.Contains(dump(t, url), scenario.Marker) {
				t.Fatal("the dump sees nothing personal to begin with")
			}
			redact()
		}
		if how == "stripe" {
			tell(t, store, session.Redacted(at(40)).Body)
		}
	}
	text := dump(t, url)
	for _, secret := range []string{scenario.Marker, "SECRET", "1904-02-29", `"year": 1904`, "verify.stripe.com", "Jenny", "Rosen"} {
		if strings.Contains(text, secret) {
			t.Errorf("the dump holds %q", secret)
		}
	}
	for _, stays := range []string{"vs_0", "vs_1", "vs_2", "document_expired", "verified", "user-vs_1", "require_matching_selfie"} {
		if !strings.Contains(text, stays) {
			t.Errorf("the dump has lost %q", stays)
		}
	}
}

func dump(tb testing.TB, url string) string {
	tb.Helper()
	bindir, err := pgdev.Find()
	if err != nil {
		tb.Fatalf("find PostgreSQL: %v", err)
	}
	out, err := exec.CommandContext(tb.Context(), filepath.Join(bindir, "pg_dump"), "--data-only", "--dbname="+url).Output()
	if err != nil {
		tb.Fatalf("pg_dump: %v", err)
	}
	return string(out)
}

func TestRedactOfALockedSessionIsAnError(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	store := open(t, url, func(o *repo.Options) { o.LockTimeout = 100 * time.Millisecond })
	tell(t, store, newSession(1, "vs_1").Created(at(0)).Body)
	release := hold(t, url, "vs_1")
	if err := store.Redact(t.Context(), "vs_1"); err == nil || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("error is %v, want 55P03", err)
	}
	release()
	if err := store.Redact(t.Context(), "vs_1"); err != nil {
		t.Errorf("redact: %v", err)
	}
}
