package repo_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"webhookd/internal/events"
	"webhookd/internal/jobs"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
)

const (
	// stuck is after how long a schedule is said to hang.
	stuck = 30 * time.Second
	// most is more steps than any party has.
	most = 400
	// late marks what a writer itself brings, apart from what stood before.
	late = scenario.Marker + "-late"
	// beside marks the sessions that nobody redacts.
	beside = "NEIGHBOR"
	// inLane is how many steps an event has taken when it waits in the slow lane:
	// BEGIN and lock, ROLLBACK, a look at who is held, BEGIN, the lane's own timeout and lock.
	inLane = 7
)

// One party is held before a statement, the other runs until it has ended or waits
// for a lock, and then the held one goes on: every schedule with one preemption.
func TestARedactionWinsHoweverItInterleavesWithAWriter(t *testing.T) {
	t.Parallel()
	var all tally
	places := make(chan struct{}, 4)
	t.Run("writer", func(t *testing.T) {
		for name, w := range writers() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				places <- struct{}{}
				defer func() { <-places }()
				for _, found := range newRace(t, w).everySchedule(&all) {
					t.Error(found)
				}
			})
		}
	})
	t.Logf("%d writers with %d steps, %d redactions with %d steps, %d schedules",
		len(writers()), all.writers.Load(), len(redactions()), all.redactions.Load(), all.schedules.Load())
}

// What reads, decides and writes in transactions of its own is what no writer
// may be.
func TestTheInterleavingsFindAWriterThatLocksNothing(t *testing.T) {
	t.Parallel()
	found := newRace(t, writer{
		stands: func(s *stage) write {
			s.tell(s.personal(s.session.Created(at(0))))
			return func(ctx context.Context, p *party) (string, error) {
				conn, err := pgx.Connect(ctx, p.url)
				if err != nil {
					return "", err
				}
				defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
				var redacted bool
				err = conn.QueryRow(ctx, `SELECT redacted FROM stripe_identity.verification_sessions WHERE id = $1`, s.id).Scan(&redacted)
				if err != nil || redacted {
					return "left alone", err
				}
				_, err = conn.Exec(ctx, `
INSERT INTO stripe_identity.provided_details (session_id, email, told_at, told_rank) VALUES ($1, $2, now(), 0)
ON CONFLICT (session_id) DO UPDATE SET email = excluded.email`, s.id, late)
				return "written", err
			}
		},
		outcomes: []string{"written", "left alone"}, free: true,
	}).everySchedule(new(tally))
	for _, held := range []string{"the writer is held", "redaction by an operator is held", "redaction by an event is held"} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, held) && strings.Contains(f, "personal data stand") }) {
			t.Errorf("nothing is found where %s; all that is found:\n%s", held, strings.Join(found, "\n"))
		}
	}
}

// write does a party's work, and answers in a word what became of it.
type write func(context.Context, *party) (outcome string, err error)

type writer struct {
	stands   func(*stage) write // makes what stands before
	outcomes []string
	again    []string // outcomes when it comes again; nil: the same, and duplicate
	does     string   // a query of the session's id, true once the writer alone has written; "": what is late stands
	stays    string   // a query of the session's id, true in the end; "": nothing to see to
	free     bool     // no redaction ever waits for it
	url      string   // parameters of its connections
	waits    int64    // steps before it counts that it waits for a lock
	every    bool     // every kind of redaction, or else the first two
	long     bool     // it takes so long that an operator's redaction has to do while it is held

	// lead prepares the ground before the writer begins. What it answers, if anything,
	// is called afterwards, and arms the writer's gate: steps count anew from then on.
	lead func(*stage) (begun func(arm func()))
}

// stage is the session of one schedule.
type stage struct {
	*race
	id      string
	session *scenario.Session
	held    bool // it is the writer who is held
}

// personal is an event with something personal in every place, and such that
// its history has to hold a part of it.
func (s *stage) personal(e scenario.Event) []byte {
	return edit(s, withPerson(s, s.session, e), map[string]any{
		"data.object.metadata": map[string]any{"user": "metadata " + scenario.Marker, "url": "https://crm.example/" + scenario.Marker},
	})
}

// late is likewise, told by the writer.
func (s *stage) late(e scenario.Event) []byte { return mark(s.personal(e), late) }

func mark(body []byte, as string) []byte {
	return bytes.ReplaceAll(body, []byte(scenario.Marker), []byte(as))
}

// named gives an event an id whose place in the order is known.
func (s *stage) named(letter string, body []byte) []byte {
	return edit(s, body, map[string]any{"id": "evt_" + letter + "_" + s.id})
}

func (s *stage) tell(bodies ...[]byte) { tell(s, s.direct, bodies...) }

func (s *stage) execute(sql string, args ...any) {
	s.Helper()
	if _, err := s.observer.Exec(s.Context(), sql, args...); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
}

// answer is what Stripe's API tells of the session in one second.
func (s *stage) answer(body []byte, second int) *events.Answer {
	return &events.Answer{From: at(second), Until: at(second), Session: read(s, body).Session, Outputs: true}
}

// delivery records a body.
func delivery(body []byte, changes ...func(*events.Event)) write {
	return func(ctx context.Context, p *party) (string, error) {
		e, err := events.Parse(body)
		if err != nil {
			return "", err
		}
		e.ReceivedAt = time.Now()
		for _, change := range changes {
			change(e)
		}
		outcome, err := p.store.Record(ctx, e)
		return string(outcome), err
	}
}

// telling writes an answer that nobody wished for.
func telling(a *events.Answer) write {
	return func(ctx context.Context, p *party) (string, error) { return "told", p.store.Tell(ctx, a) }
}

type redaction struct {
	by       string
	outcomes []string
	do       func(*stage) write
}

func redactions() []redaction {
	return []redaction{
		{"an operator", []string{"redacted"}, func(s *stage) write {
			return func(ctx context.Context, p *party) (string, error) { return "redacted", p.store.Redact(ctx, s.id) }
		}},
		{"an event", []string{"applied", "stale", "twin"}, func(s *stage) write { return delivery(s.session.Redacted(at(40)).Body) }},
		{"a thin event", []string{"queued"}, func(s *stage) write { return delivery(s.session.Thin(s.session.Redacted(at(40))).Body) }},
		{"a word in an event", []string{"applied"}, func(s *stage) write { return delivery(s.session.Redacting(at(40)).Body) }},
	}
}

func writers() map[string]writer {
	advances := []string{"applied", "stale"} // stale: behind the redaction's event
	const outputs = `SELECT EXISTS (SELECT FROM stripe_identity.verified_outputs WHERE session_id = $1 AND unconfirmed)`
	birth := func(s *stage) { s.tell(s.personal(s.session.Created(at(0)))) }
	verified := func(s *stage) []byte { return s.late(s.session.Verified(at(30))) }
	failed := func(s *stage) []byte { return s.late(s.session.RequiresInput(at(10), "document_expired")) }
	wished := func(s *stage) {
		s.tell(s.personal(s.session.Created(at(0))), s.session.Verified(at(30)).Body)
	}
	broken := func(s *stage, body []byte) []byte { return edit(s, body, map[string]any{"data.object.status": 5}) }
	return map[string]writer{
		"an event with metadata and a reason": {outcomes: advances, stands: func(s *stage) write {
			birth(s)
			return delivery(failed(s))
		}},
		"the first event of a session": {outcomes: advances, stands: func(s *stage) write {
			return delivery(s.late(s.session.Created(at(0))))
		}},
		"an event with outputs and provided details": {outcomes: advances, every: true, stands: func(s *stage) write {
			birth(s)
			s.tell(s.personal(s.session.RequiresInput(at(10), "document_expired")))
			return delivery(verified(s))
		}},
		"an event of reconcile's": {outcomes: advances, stands: func(s *stage) write {
			birth(s)
			return delivery(verified(s), func(e *events.Event) { e.Source = events.SourceReconcile })
		}},
		"an event behind a pooler": {outcomes: advances, url: "&default_query_exec_mode=cache_describe", stands: func(s *stage) write {
			birth(s)
			return delivery(verified(s))
		}},
		"an event with an unknown redaction word": {outcomes: advances, stands: func(s *stage) write {
			birth(s)
			return delivery(edit(s, verified(s), map[string]any{"data.object.redaction": map[string]any{"status": "frobnicated"}}))
		}},
		"an event that comes late into the history": {outcomes: []string{"stale"}, stands: func(s *stage) write {
			birth(s)
			body := failed(s)
			s.tell(s.personal(s.session.Verified(at(30))))
			return delivery(body)
		}},
		"a twin that takes a row of history over": {outcomes: []string{"twin"}, stands: func(s *stage) write {
			birth(s)
			body := s.personal(s.session.RequiresInput(at(10), "document_expired"))
			s.tell(s.named("z", body))
			return delivery(s.named("a", mark(body, late)))
		}},
		"a twin after which older content counts again": {
			outcomes: []string{"twin"},
			does:     `SELECT metadata::text LIKE '%the older%' FROM stripe_identity.verification_sessions WHERE id = $1`,
			stands: func(s *stage) write {
				body := s.personal(s.session.Verified(at(30)))
				newer := edit(s, body, map[string]any{"data.object.last_verification_report": "vr_2"})
				older := edit(s, body, map[string]any{"data.object.last_verification_report": "vr_1"})
				s.tell(s.named("b", mark(older, "the older "+scenario.Marker)), s.named("c", newer))
				return delivery(s.named("a", newer))
			},
		},
		"an event that an answer was ahead of": {
			outcomes: []string{"stale"},
			stands: func(s *stage) write {
				birth(s)
				body := failed(s)
				if err := s.direct.Tell(s.Context(), s.answer(mark(body, scenario.Marker), 20)); err != nil {
					s.Fatalf("tell: %v", err)
				}
				return delivery(body)
			},
		},
		"a thin event": {outcomes: []string{"queued"}, stands: func(s *stage) write {
			birth(s)
			return delivery(edit(s, s.session.Thin(s.session.Verified(at(30))).Body, map[string]any{"data": map[string]any{"user": late}}))
		}},
		"a thin event of a session never seen": {outcomes: []string{"queued"}, stands: func(s *stage) write {
			return delivery(edit(s, s.session.Thin(s.session.Created(at(0))).Body, map[string]any{"data": map[string]any{"user": late}}))
		}},
		"the snapshot that a thin event waits for": {outcomes: advances, stands: func(s *stage) write {
			birth(s)
			e := s.session.Verified(at(30))
			s.tell(s.session.Thin(e).Body)
			return delivery(s.late(e))
		}},
		"an event that PostgreSQL refuses": {outcomes: []string{"quarantined"}, stands: func(s *stage) write {
			birth(s)
			return delivery(verified(s), func(e *events.Event) { e.Session.Options = []byte("{") })
		}},
		"an event whose payload PostgreSQL refuses": {
			// Without the payload, which a redacted session has not, nothing is wrong with it.
			outcomes: []string{"quarantined", "applied", "stale"},
			does:     `SELECT EXISTS (SELECT FROM stripe_identity.quarantined_events WHERE session_id = $1 AND payload IS NULL)`,
			stands: func(s *stage) write {
				birth(s)
				return delivery(verified(s), func(e *events.Event) { e.Payload = []byte(`{"` + late) })
			},
		},
		"an event that is not understood": {outcomes: []string{"quarantined"}, stands: func(s *stage) write {
			birth(s)
			return delivery(broken(s, failed(s)))
		}},
		"an event that is not understood of a session never seen": {outcomes: []string{"quarantined"}, stands: func(s *stage) write {
			return delivery(broken(s, s.late(s.session.Created(at(0)))))
		}},
		"an event that was in quarantine": {outcomes: advances, stands: func(s *stage) write {
			birth(s)
			body := verified(s)
			s.tell(broken(s, mark(body, scenario.Marker)))
			return delivery(body)
		}},
		"a replay of the quarantine": {
			outcomes: []string{"applied", "stale", "stays"},
			again:    []string{"duplicate", "stays"},
			does: `
SELECT EXISTS (SELECT FROM stripe_identity.events WHERE session_id = $1 AND payload::text LIKE '%` + late + `%')`,
			stands: func(s *stage) write {
				birth(s)
				id, body := "evt_q_"+s.id, s.named("q", verified(s))
				s.tell(edit(s, body, map[string]any{"data.object.related_customer": 5}))
				s.execute(`
UPDATE stripe_identity.quarantined_events SET payload = jsonb_set(payload, '{data,object,related_customer}', '"cus_1"')
WHERE event_id = $1`, id)
				return func(ctx context.Context, p *party) (string, error) {
					r, err := p.store.Replay(ctx, id)
					if r[0].Why != "" {
						return "stays", err
					}
					return string(r[0].Outcome), err
				}
			},
		},
		"an answer of Stripe's API": {outcomes: []string{"told"}, stands: func(s *stage) write {
			birth(s)
			return telling(s.answer(verified(s), 35))
		}},
		"an answer about a session never seen": {outcomes: []string{"told"}, stands: func(s *stage) write {
			return telling(s.answer(verified(s), 35))
		}},
		"an answer that takes another's place": {outcomes: []string{"told"}, stands: func(s *stage) write {
			birth(s)
			a := s.answer(s.personal(s.session.RequiresInput(at(20), "document_expired")), 35)
			a.From = at(31)
			if err := s.direct.Tell(s.Context(), a); err != nil {
				s.Fatalf("tell: %v", err)
			}
			return telling(s.answer(verified(s), 35))
		}},
		"a worker with an answer that was wished for": {
			outcomes: []string{"stored", "erased", "no wish"},
			again:    []string{"no wish"},
			stands: func(s *stage) write {
				wished(s)
				a := s.answer(verified(s), 35)
				return func(ctx context.Context, p *party) (string, error) {
					wish, err := p.store.Claim(ctx, s.id, time.Minute)
					if err != nil || wish == nil {
						return "no wish", err
					}
					if err := p.store.Renew(ctx, wish, time.Minute); err != nil {
						return "", err
					}
					served, err := p.store.Serve(ctx, wish, a)
					if served.Redacted {
						return "erased", err
					}
					return "stored", err
				}
			},
		},
		"a worker that gives its wish back": {
			outcomes: []string{"given up", "no wish"}, free: true,
			does: `SELECT EXISTS (SELECT FROM stripe_identity.wishes WHERE session_id = $1 AND due_at = 'infinity')`,
			stands: func(s *stage) write {
				wished(s)
				return func(ctx context.Context, p *party) (string, error) {
					for _, back := range []func(context.Context, *repo.Wish) error{
						func(ctx context.Context, w *repo.Wish) error { return p.store.Postpone(ctx, w, 0) },
						p.store.Settle,
						p.store.GiveUp,
					} {
						wish, err := p.store.Claim(ctx, s.id, time.Minute)
						if err != nil || wish == nil {
							return "no wish", err
						}
						if err := back(ctx, wish); err != nil {
							return "", err
						}
					}
					return "given up", nil
				}
			},
		},
		"the sweep that makes forgotten wishes": {
			outcomes: []string{"swept"}, free: true,
			does: `SELECT EXISTS (SELECT FROM stripe_identity.wishes WHERE session_id = $1)`,
			stands: func(s *stage) write {
				wished(s)
				s.execute(`DELETE FROM stripe_identity.wishes WHERE session_id = $1`, s.id)
				return func(ctx context.Context, p *party) (string, error) {
					_, err := p.store.Due(ctx, []bool{true, false}, 1000)
					return "swept", err
				}
			},
		},
		"retention": {
			outcomes: []string{"pruned"}, long: true,
			does: `SELECT NOT EXISTS (SELECT FROM stripe_identity.verified_outputs WHERE session_id = $1)`,
			stands: func(s *stage) write {
				var all []scenario.Event
				s.session, all = long(s, s.id, 100*day)
				shelved := func(letter string) []byte { return broken(s, s.named(letter, s.personal(all[0]))) }
				tellAtOnce(s, s.direct, s.personal(all[0]), s.personal(all[2]), s.personal(all[6]), shelved("q"), shelved("r"))
				for _, column := range []string{
					"events.received_at", "status_transitions.recorded_at", "quarantined_events.received_at", "verified_outputs.fetched_at", "provided_details.told_at",
				} {
					table, name, _ := strings.Cut(column, ".")
					s.execute(fmt.Sprintf(`UPDATE stripe_identity.%s SET %s = %s - interval '90 days' WHERE session_id = $1`, table, name, name), s.id)
				}
				// Its payload goes, and its id stays.
				s.execute(`UPDATE stripe_identity.quarantined_events SET received_at = now() - interval '25 days' WHERE event_id = $1`, "evt_r_"+s.id)
				return func(ctx context.Context, p *party) (string, error) {
					_, err := p.store.Prune(ctx, repo.Retention{Payloads: 20 * day, Quarantine: 20 * day, Outputs: 20 * day, History: 20 * day}, nil)
					return "pruned", err
				}
			},
		},
		"outputs that are hidden after a restore": {
			outcomes: []string{"hidden"}, free: true, does: outputs,
			stands: func(s *stage) write {
				s.tell(s.personal(s.session.Verified(at(30))))
				return func(ctx context.Context, p *party) (string, error) {
					_, err := p.store.Unconfirm(ctx)
					return "hidden", err
				}
			},
		},
		"outputs that are shown again": {
			outcomes: []string{"shown"},
			does:     `SELECT NOT (` + outputs[len("SELECT "):] + `)`,
			stands: func(s *stage) write {
				s.tell(s.personal(s.session.Verified(at(30))))
				s.execute(`UPDATE stripe_identity.verified_outputs SET unconfirmed = true WHERE session_id = $1`, s.id)
				s.execute(`UPDATE stripe_identity.provided_details SET unconfirmed = true WHERE session_id = $1`, s.id)
				return func(ctx context.Context, p *party) (string, error) {
					return "shown", p.store.Confirm(ctx, []string{s.id})
				}
			},
		},
		"a reader who is recorded": {
			outcomes: []string{"personal", "nothing personal"},
			again:    []string{"nothing personal"}, free: true,
			does: `SELECT EXISTS (SELECT FROM stripe_identity.pii_reads WHERE session_id = $1)`,
			stands: func(s *stage) write {
				s.tell(s.personal(s.session.Verified(at(30))))
				return func(ctx context.Context, p *party) (string, error) {
					view, err := p.store.SessionWithOutputs(ctx, s.id, repo.Reader{Who: "somebody", Command: "session"})
					if err != nil {
						return "", err
					}
					export, err := p.store.Export(ctx, s.id, repo.Reader{Who: "somebody", Command: "export"})
					if err != nil {
						return "", err
					}
					told, err := json.Marshal([]any{view, export})
					if bytes.Contains(told, []byte(scenario.Marker)) {
						return "personal", err
					}
					return "nothing personal", err
				}
			},
		},
		"an event whose session somebody else holds": {
			outcomes: advances, waits: inLane, long: true,
			lead: func(s *stage) func(func()) {
				if !s.held { // the redaction holds it
					return nil
				}
				s.writer.gate.arm(most)
				release := hold(s, s.url, s.id)
				return func(arm func()) {
					s.until("the event waits in the slow lane", func() bool { return s.writer.gate.steps.Load() == inLane && s.waiting(s.writer) })
					arm()
					release()
				}
			},
			stands: func(s *stage) write {
				birth(s)
				return delivery(verified(s))
			},
		},
		"a batch of several sessions": batch(inLane, func(s *stage) [][]byte { return [][]byte{verified(s)} }),
		"a batch with several events of one session": batch(0, func(s *stage) [][]byte {
			return [][]byte{verified(s), failed(s), broken(s, s.named("q", s.late(s.session.Created(at(1)))))}
		}),
		"a batch in which Stripe redacts the session": batch(0, func(s *stage) [][]byte {
			return [][]byte{verified(s), failed(s), s.session.Redacted(at(35)).Body}
		}),
	}
}

// batch is a writer of some events of the session and one each of two others,
// in one transaction: its committer is busy until all of them wait.
func batch(waits int64, of func(*stage) [][]byte) writer {
	plug := func(s *stage, n int) write {
		return delivery(fmt.Appendf(nil, `{"id":"evt_plug_%d_%s","type":"identity.verification_session.plug"}`, n, s.id))
	}
	bodies := 0
	return writer{
		outcomes: []string{"all recorded"}, waits: waits,
		stays: `
SELECT count(*) = 2 FROM stripe_identity.verified_outputs
WHERE session_id = ANY (ARRAY['a_' || $1, 'z_' || $1]) AND first_name LIKE '%` + beside + `%'`,
		does: `SELECT true OR $1 = ''`,
		lead: func(s *stage) func(func()) {
			p := s.writer
			p.gate.arm(most)
			s.finish(s.start(p, plug(s, 1)), "the first plug")
			n := p.gate.steps.Load()
			first := p.gate.arm(0)
			busy := s.start(p, plug(s, 2))
			s.arrival(first, "the second plug")
			return func(arm func()) {
				s.until("the batch waits for the committer", func() bool {
					return metric(s, s.registry, "webhookd_queue_length").GetGauge().GetValue() == float64(bodies)
				})
				arm()
				p.gate.steps.Store(1 - n) // what is left of the plug
				close(first.opened)
				s.finish(busy, "the second plug")
			}
		},
		stands: func(s *stage) write {
			s.tell(s.personal(s.session.Created(at(0))))
			all := of(s)
			for i, id := range []string{"a_" + s.id, "z_" + s.id} {
				other := &stage{race: s.race, id: id, session: newSession(uint64(1000*(i+1)+s.stages), id)}
				all = append(all, mark(other.personal(other.session.Verified(at(30))), beside))
			}
			bodies = len(all)
			return func(ctx context.Context, p *party) (string, error) {
				errs := make(chan error, len(all))
				for _, body := range all {
					go func() { _, err := delivery(body)(ctx, p); errs <- err }()
				}
				for range all {
					if err := <-errs; err != nil {
						return "", err
					}
				}
				return "all recorded", nil
			}
		},
	}
}

// tally counts what was tried.
type tally struct{ writers, redactions, schedules atomic.Int64 }

// race is a writer and a redaction, in a database of their own.
type race struct {
	testing.TB
	w                writer
	url              string
	direct           *repo.Store // for what stands before
	writer, redactor *party
	observer         *pgx.Conn
	personalRows     string
	registry         *prometheus.Registry // of the writer
	stages           int
	schedule         string          // that is under way
	reported         map[string]bool // rows that were told of
}

// party is a store whose connections go through a gate.
type party struct {
	name  string // also its application_name
	url   string
	store *repo.Store
	gate  *gate
}

type ending struct {
	outcome string
	err     error
}

func newRace(tb testing.TB, w writer) *race {
	tb.Helper()
	wake, err := jobs.Waker()
	if err != nil {
		tb.Fatalf("waker: %v", err)
	}
	r := &race{TB: tb, w: w, url: pgtest.Database(tb), registry: prometheus.NewRegistry(), reported: map[string]bool{}}
	set := func(o *repo.Options) {
		o.Committers, o.LockTimeout, o.CommitTimeout = 1, 10*stuck, 10*stuck
		o.Wake, o.Asks = wake, func(bool) bool { return true }
	}
	r.direct = open(tb, r.url, set)
	join := func(name, parameters string, sets ...func(*repo.Options)) *party {
		p := &party{name: name, gate: newGate(tb, parsed(tb, r.url).Host)}
		through := *parsed(tb, r.url)
		through.Host = p.gate.addr
		p.url = through.String() + "&application_name=" + name + parameters
		p.store = open(tb, p.url, append(sets, set)...)
		tb.Cleanup(p.gate.close) // before the store, which waits for its connections
		return p
	}
	r.writer = join("writer", w.url, func(o *repo.Options) { o.Registry = r.registry })
	r.redactor = join("redactor", "")
	r.observer = connect(tb, r.url)
	tb.Cleanup(func() { _ = r.observer.Close(context.Background()) })
	err = r.observer.QueryRow(tb.Context(), `
SELECT string_agg(format('SELECT %L || t::text FROM %I.%I t WHERE position(%L IN t::text) > 0', relname || ' ', nspname, relname, $1::text), ' UNION ALL ')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE nspname = ANY ($2) AND relkind IN ('r', 'p')`, scenario.Marker, []string{"stripe_identity", repo.JobSchema}).Scan(&r.personalRows)
	if err != nil {
		tb.Fatalf("list the tables: %v", err)
	}
	return r
}

func (r *race) stage(held bool) *stage {
	r.stages++
	id := fmt.Sprintf("vs_%d", r.stages)
	return &stage{race: r, id: id, session: newSession(uint64(r.stages), id), held: held}
}

func (r *race) redactions() []redaction {
	all := redactions()
	if r.w.every {
		return all
	}
	return all[:2]
}

// everySchedule tries them all and tells what went wrong, each with its schedule.
func (r *race) everySchedule(all *tally) (found []string) {
	r.rehearse()
	for i, red := range r.redactions() {
		for _, held := range []bool{true, false} {
			if held && r.w.long && i > 0 {
				continue
			}
			steps, waited := 0, false
			for reached := true; reached; steps++ {
				if steps > most {
					r.Fatalf("more than %d steps", most)
				}
				t := r.try(red, held, steps)
				found, reached, waited = append(found, t.found...), t.reached, waited || t.waited
				all.schedules.Add(1)
			}
			steps-- // the last one was not reached
			switch {
			case steps == 0:
				r.Fatal("nobody was held: the gate sees no statement")
			case held && !waited && !r.w.free:
				found = append(found, "no redaction by "+red.by+" had to wait for the writer")
			case held:
				all.writers.Add(int64(steps))
			default:
				all.redactions.Add(int64(steps))
			}
		}
	}
	return found
}

// rehearse lets the parties write one after the other: their connections know
// all statements from then on, and the writer is seen to do what it is here for.
func (r *race) rehearse() {
	r.Helper()
	for _, red := range r.redactions() {
		s := r.stage(false)
		writing, redacting := r.w.stands(s), red.do(s)
		if e := r.finish(r.start(r.writer, writing), "the writer alone"); e.err != nil {
			r.Fatalf("the writer alone: %v", e.err)
		}
		if r.w.does == "" && !strings.Contains(strings.Join(r.personal(), "\n"), late) || r.w.does != "" && !r.holds(r.w.does, s.id) {
			r.Fatalf("the writer alone did not do what it is here for:\n%s", strings.Join(r.personal(), "\n"))
		}
		if e := r.finish(r.start(r.redactor, redacting), "the redaction alone"); e.err != nil {
			r.Fatalf("the redaction alone: %v", e.err)
		}
		for _, problem := range r.check(s) {
			r.Error("one after the other: " + problem)
		}
	}
}

type tried struct {
	found           []string
	reached, waited bool // the step; somebody's lock
}

// try is one schedule: who is held, and before which step.
func (r *race) try(red redaction, held bool, step int) (t tried) {
	s := r.stage(held)
	writing := r.w.stands(s)
	redacting := red.do(s)

	one := &actor{party: r.writer, name: "the writer", outcomes: r.w.outcomes, do: writing, lead: r.w.lead}
	other := &actor{party: r.redactor, name: "redaction by " + red.by, outcomes: red.outcomes, do: redacting}
	if !held {
		one, other = other, one
	}
	r.schedule = fmt.Sprintf("%s is held before step %d, against %s", one.name, step, other.name)
	one.begin(s, step)
	t.reached = one.stops(s)
	other.begin(s, most)
	t.waited = other.settles(s)
	close(one.hold.opened)
	one.ends(s)
	other.ends(s)

	how := "has ended"
	if t.waited {
		how = "waits for it"
	}
	schedule := fmt.Sprintf("%s is held before step %d, %s %s: ", one.name, step, other.name, how)
	if !t.reached {
		schedule = fmt.Sprintf("%s has ended, then %s: ", one.name, other.name)
	}
	note := func(problem string) { t.found = append(t.found, schedule+problem) }
	for _, a := range []*actor{one, other} {
		if a.ended.err != nil || !slices.Contains(a.outcomes, a.ended.outcome) {
			note(fmt.Sprintf("%s came to %q, %v", a.name, a.ended.outcome, a.ended.err))
		}
	}
	for _, problem := range r.check(s) {
		note(problem)
	}
	r.writer.gate.arm(most)
	again := r.finish(r.start(r.writer, writing), "the writer, who came again,")
	allowed := r.w.again
	if allowed == nil {
		allowed = append([]string{"duplicate"}, r.w.outcomes...)
	}
	if again.err != nil || !slices.Contains(allowed, again.outcome) {
		note(fmt.Sprintf("the writer again came to %q, %v", again.outcome, again.err))
	}
	for _, problem := range r.check(s) {
		note("after the writer came again: " + problem)
	}
	return t
}

// check is what holds whenever a redaction has been committed.
func (r *race) check(s *stage) (problems []string) {
	for _, row := range r.personal() {
		if !r.reported[row] { // by an earlier schedule
			r.reported[row] = true
			problems = append(problems, fmt.Sprintf("personal data stand: %.200s", row))
		}
	}
	if !r.holds(`
SELECT coalesce(bool_and(redacted AND redaction_status IS NOT NULL), false) FROM stripe_identity.verification_sessions WHERE id = $1`, s.id) {
		problems = append(problems, "the session is not redacted")
	}
	if r.w.stays != "" && !r.holds(r.w.stays, s.id) {
		problems = append(problems, "what is beside it is gone")
	}
	return problems
}

// personal is every row of every table that has something personal in it.
func (r *race) personal() (all []string) {
	r.Helper()
	for _, row := range rowsOf(r, r.observer, r.personalRows) {
		all = append(all, fmt.Sprint(row[0]))
	}
	return all
}

func (r *race) holds(sql string, args ...any) (yes bool) {
	r.Helper()
	if err := r.observer.QueryRow(r.Context(), sql, args...).Scan(&yes); err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
	return yes
}

// waiting reports whether a party waits for a lock that somebody of this
// database has. Those of other databases are NOTIFY's, and short.
func (r *race) waiting(p *party) bool {
	r.Helper()
	return r.holds(`
SELECT EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE datname = current_database() AND application_name = $1 AND wait_event_type = 'Lock'
      AND EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid = ANY (pg_blocking_pids(a.pid))))`, p.name)
}

func (r *race) start(p *party, do write) <-chan ending {
	ended := make(chan ending, 1)
	go func() {
		outcome, err := do(r.Context(), p)
		ended <- ending{outcome, err}
	}()
	return ended
}

func (r *race) finish(ended <-chan ending, who string) ending {
	r.Helper()
	select {
	case e := <-ended:
		return e
	case <-time.After(stuck):
		r.hang(who + " does not end")
		return ending{}
	}
}

func (r *race) arrival(h *stop, who string) {
	r.Helper()
	select {
	case <-h.arrived:
	case <-time.After(stuck):
		r.hang(who + " does not get to its step")
	}
}

func (r *race) until(what string, holds func() bool) {
	r.Helper()
	for begun := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > stuck {
			r.hang("not: " + what)
		}
	}
}

// hang ends the test and tells who waits for whom.
func (r *race) hang(what string) {
	r.Helper()
	var b strings.Builder
	for _, row := range rowsOf(r, r.observer, `
SELECT format('%s (pid %s, blocked by %s) %s, %s %s: %s', application_name, pid, pg_blocking_pids(pid), state, wait_event_type, wait_event, left(query, 100))
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`) {
		fmt.Fprintf(&b, "\n%v", row[0])
	}
	r.Fatalf("%s: after %v %s; the writer has begun %d steps, the redaction %d%s",
		cmp.Or(r.schedule, "one after the other"), stuck, what, r.writer.gate.steps.Load(), r.redactor.gate.steps.Load(), b.String())
}

// actor is a party in one schedule.
type actor struct {
	*party
	name     string
	outcomes []string
	do       write
	lead     func(*stage) func(func())
	hold     *stop
	doing    <-chan ending
	ended    *ending
}

// begin starts an actor, who is to be held before a step.
func (a *actor) begin(s *stage, step int) {
	s.Helper()
	arm := func() { a.hold = a.gate.arm(step) }
	arm() // before the first step
	var begun func(func())
	if a.lead != nil {
		begun = a.lead(s)
	}
	a.doing = s.start(a.party, a.do)
	if begun != nil {
		begun(arm)
	}
}

// stops waits until an actor is held, or has ended without.
func (a *actor) stops(s *stage) bool {
	s.Helper()
	select {
	case <-a.hold.arrived:
		return true
	case e := <-a.doing:
		a.ended = &e
		return false
	case <-time.After(stuck):
		s.hang(a.name + " neither ends nor gets to the step before which it is to be held")
		return false
	}
}

// settles waits until an actor has ended or waits for a lock.
func (a *actor) settles(s *stage) (waits bool) {
	s.Helper()
	for begun := time.Now(); ; {
		select {
		case e := <-a.doing:
			a.ended = &e
			return false
		case <-time.After(3 * time.Millisecond):
		}
		if (a.party == s.redactor || a.gate.steps.Load() >= s.w.waits) && s.waiting(a.party) {
			return true
		}
		if time.Since(begun) > stuck {
			s.hang(a.name + " neither ends nor waits for a lock")
		}
	}
}

func (a *actor) ends(s *stage) {
	s.Helper()
	if a.ended == nil {
		e := s.finish(a.doing, a.name)
		a.ended = &e
	}
}

// gate stands before PostgreSQL and lets statements in one by one, also those that
// are sent together: others get between them too.
type gate struct {
	addr, server string
	steps        atomic.Int64 // since it was armed
	mu           sync.Mutex
	now          *stop
	listener     net.Listener
	closed       chan struct{}
	conns        sync.WaitGroup
}

// stop is one place where a gate stops who comes.
type stop struct {
	step    int64
	arrived chan struct{} // closed when somebody has come to it
	opened  chan struct{} // closed to let them go on
}

func newGate(tb testing.TB, server string) *gate {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	g := &gate{addr: l.Addr().String(), server: server, listener: l, closed: make(chan struct{})}
	g.arm(most)
	g.conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			g.conns.Go(func() { g.pass(client) })
		}
	})
	return g
}

// arm counts steps from zero, and stops whoever comes to one of them.
func (g *gate) arm(step int) *stop {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.steps.Store(0)
	g.now = &stop{int64(step), make(chan struct{}), make(chan struct{})}
	return g.now
}

func (g *gate) close() {
	_ = g.listener.Close()
	close(g.closed)
	g.conns.Wait()
}

// step counts a statement, and waits if it is to be held.
func (g *gate) step() {
	g.mu.Lock()
	h := g.now
	here := g.steps.Add(1) == h.step+1
	g.mu.Unlock()
	if here {
		close(h.arrived)
		select {
		case <-h.opened:
		case <-g.closed:
		}
	}
}

// pass is one connection. It knows as much of the protocol as it takes to tell
// statements apart (postgresql.org/docs/current/protocol-message-formats.html).
func (g *gate) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", g.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	answers := make(chan byte, 16) // the types of those that end a statement, a batch or a start
	g.conns.Go(func() {
		<-g.closed
		_ = client.Close()
		_ = server.Close()
	})
	g.conns.Go(func() {
		defer close(answers)
		defer func() { _ = client.Close() }()
		from, to := bufio.NewReader(server), bufio.NewWriter(client)
		for {
			m, err := message(from, 1)
			if err != nil {
				return
			}
			_, _ = to.Write(m)
			if from.Buffered() == 0 && to.Flush() != nil {
				return
			}
			if bytes.IndexByte([]byte("CIsEZ"), m[0]) >= 0 {
				answers <- m[0]
			}
		}
	})
	// until answers how what was sent last has ended.
	until := func(ends string) (byte, bool) {
		for kind := range answers {
			if strings.IndexByte(ends, kind) >= 0 {
				return kind, true
			}
		}
		return 0, false
	}
	from := bufio.NewReader(client)
	hello, err := message(from, 0)
	if err != nil {
		return
	}
	if _, err := server.Write(hello); err != nil {
		return
	}
	var waiting []byte
	ready, failed := false, false
	for {
		m, err := message(from, 1)
		if err != nil {
			return
		}
		kind := m[0]
		waiting = append(waiting, m...)
		if bytes.IndexByte([]byte("PBDC"), kind) >= 0 {
			continue // parts of a statement
		}
		if kind != 'p' && !ready {
			if _, ok := until("Z"); !ok {
				return
			}
			ready = true
		}
		ends := ""
		switch {
		case kind == 'E' && !failed:
			g.step()
			waiting, ends = append(waiting, 'H', 0, 0, 0, 4), "CIsE" // Flush: answer now
		case kind == 'Q' && !bytes.Contains(m, []byte("-- ping")):
			g.step()
			ends = "Z"
		case kind == 'Q', kind == 'S':
			ends = "Z"
		}
		if _, err := server.Write(waiting); err != nil {
			return
		}
		waiting = waiting[:0]
		if ends == "" {
			continue
		}
		answer, ok := until(ends)
		if !ok {
			return
		}
		failed = answer == 'E' // what follows is left out until Sync
	}
}

// message reads one, whose length stands after so many bytes.
func message(from *bufio.Reader, before int) ([]byte, error) {
	head, err := from.Peek(before + 4)
	if err != nil {
		return nil, err
	}
	m := make([]byte, before+int(binary.BigEndian.Uint32(head[before:])))
	_, err = io.ReadFull(from, m)
	return m, err
}
