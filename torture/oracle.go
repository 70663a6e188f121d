package main

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
)

// oracle knows all that was said, and compares it with what stands.
type oracle struct {
	*author
	told   int // tales
	erased int // up to here, those that operators erase
	conn   *pgx.Conn

	verdict verdict
	gone    map[int]bool // tales that were redacted
	rows    map[string]int
}

// verdict is how the tables differ from the model. All of it must be zero.
type verdict struct {
	Lost        int // rows that must stand and do not
	Twice       int // rows that stand and must not, such as a change told by two
	Different   int // rows that say something else
	Resurrected int // personal data of somebody who was redacted
	Compared    int // rows
	Marked      int // places with personal data
	Samples     []string
}

func (v *verdict) ok() bool { return v.Lost+v.Twice+v.Different+v.Resurrected == 0 }

func (v *verdict) samplef(format string, args ...any) {
	if len(v.Samples) < 12 {
		v.Samples = append(v.Samples, fmt.Sprintf(format, args...))
	}
}

// chunk is how many tales are compared at a time.
const chunk = 500

// judge compares the tales from 0 to n, and the probes, with the tables.
func (o *oracle) judge(ctx context.Context, n int, probed int) error {
	o.gone, o.rows = map[int]bool{}, map[string]int{}
	for _, span := range [][2]int{{0, n}, {probes, probes + probed}} {
		for from := span[0]; from < span[1]; from += chunk {
			if err := o.compare(ctx, from, min(from+chunk, span[1])); err != nil {
				return err
			}
		}
	}
	if err := o.strangers(ctx); err != nil {
		return err
	}
	return o.marks(ctx)
}

func (o *oracle) compare(ctx context.Context, from, to int) error {
	var (
		set      []*events.Event
		erased   []string
		sessions []string
		tales    = map[string]*tale{}
	)
	for number := from; number < to; number++ {
		t := o.tale(number)
		sessions, tales[t.session] = append(sessions, t.session), t
		gone := t.erased && number < o.erased
		if gone {
			erased = append(erased, t.session)
		}
		if number < o.told || number >= probes {
			said, err := t.set()
			if err != nil {
				return err
			}
			set, gone = append(set, said...), gone || redacted(said)
		}
		o.gone[number] = gone
	}
	answers, err := o.answers(ctx, sessions, tales)
	if err != nil {
		return err
	}
	if err := o.receive(ctx, set); err != nil {
		return err
	}
	want, err := repotest.Canonicalize(events.History{Events: set, Erased: erased, Answers: answers}.Rows())
	if err != nil {
		return err
	}
	got, err := repotest.Read(ctx, o.conn, sessions)
	if err != nil {
		return err
	}
	difference(o, "events", want.Events, got.Events)
	difference(o, "verification_sessions", want.Sessions, got.Sessions)
	difference(o, "status_transitions", want.Transitions, got.Transitions)
	difference(o, "verified_outputs", want.Outputs, got.Outputs)
	difference(o, "provided_details", want.Details, got.Details)
	difference(o, "quarantined_events", want.Quarantined, got.Quarantined)
	return nil
}

// receive notes when events came into quarantine: an answer of the API settles
// only the doubt that was there before it was asked.
func (o *oracle) receive(ctx context.Context, set []*events.Event) error {
	broken := map[string]*events.Event{}
	for _, e := range set {
		if e.Kind == events.Broken {
			broken[e.ID] = e
		}
	}
	rows, _ := o.conn.Query(ctx, `SELECT event_id, received_at FROM stripe_identity.quarantined_events WHERE event_id = ANY ($1)`,
		slices.Collect(maps.Keys(broken))) // ForEachRow tells the error
	var (
		id string
		at time.Time
	)
	_, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error {
		broken[id].ReceivedAt = at
		return nil
	})
	return err
}

// redacted reports whether any of a session's events says that data must go.
func redacted(said []*events.Event) bool {
	for _, e := range said {
		if e.Kind == events.Snapshot && events.KnownRedaction(e.Session.Redaction.Value) || e.Kind == events.Thin && e.Type == events.ThinType(events.TypeRedacted) {
			return true
		}
	}
	return false
}

func difference[R any](o *oracle, table string, want, got map[string]R) {
	o.rows[table] += len(want)
	o.verdict.Compared += len(want)
	for id, w := range want {
		g, ok := got[id]
		switch {
		case !ok:
			o.verdict.Lost++
			o.verdict.samplef("%s: %s is lost", table, id)
		case !cmp.Equal(w, g):
			o.verdict.Different++
			o.verdict.samplef("%s: %s is different (-must +is):\n%s", table, id, cmp.Diff(w, g))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			o.verdict.Twice++
			o.verdict.samplef("%s: %s must not stand", table, id)
		}
	}
}

// strangers counts whole tables: what belongs to no session that was told, and
// rows that one key hides behind another.
func (o *oracle) strangers(ctx context.Context) error {
	for table, want := range o.rows {
		filter := ""
		if table == "quarantined_events" {
			filter = " WHERE resolved_at IS NULL"
		}
		var got int
		if err := o.conn.QueryRow(ctx, `SELECT count(*) FROM stripe_identity.`+table+filter).Scan(&got); err != nil {
			return fmt.Errorf("count %s: %w", table, err)
		}
		if got > want && o.verdict.Twice == 0 {
			o.verdict.Twice += got - want
			o.verdict.samplef("%s has %d rows, and must have %d", table, got, want)
		}
	}
	return nil
}

// marks looks into every column of every table for personal words of somebody
// who was redacted.
func (o *oracle) marks(ctx context.Context) error {
	rows, err := o.conn.Query(ctx, `
SELECT oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'p', 'm') AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'planted')`)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		found := map[int]bool{}
		if _, err := o.conn.PgConn().CopyTo(ctx, &markReader{found: found}, "COPY "+table+" TO STDOUT"); err != nil {
			return fmt.Errorf("copy %s: %w", table, err)
		}
		o.verdict.Marked += len(found)
		for number := range maps.Keys(found) {
			if o.gone[number] {
				o.verdict.Resurrected++
				o.verdict.samplef("%s holds personal data of %s, who was redacted", table, o.tale(number).session)
			}
		}
	}
	if o.verdict.Marked == 0 {
		o.verdict.samplef("no personal data was found at all: nothing was looked for")
		o.verdict.Different++
	}
	return nil
}

// markReader notes the numbers of tales whose personal words pass by.
type markReader struct {
	found map[int]bool
	rest  []byte
}

var mark = regexp.MustCompile(scenario.Marker + `-(\d+)-`)

func (m *markReader) Write(b []byte) (int, error) {
	text := append(m.rest, b...)
	for _, hit := range mark.FindAllSubmatch(text, -1) {
		number, err := strconv.Atoi(string(hit[1]))
		if err != nil {
			return 0, err
		}
		m.found[number] = true
	}
	m.rest = append(m.rest[:0:0], text[max(0, len(text)-40):]...)
	return len(b), nil
}

// failures compares what the replicas counted with the rows: never more, and
// exactly as many where nobody was killed. Of sessions that the API tells of it
// compares nothing: such a row is counted when it is made, and can go again
// when an event comes to tell more.
func (o *oracle) failures(ctx context.Context, counted series, exact, api bool) (wrong []string, err error) {
	stand := series{}
	rows, _ := o.conn.Query(ctx, `
SELECT format('webhookd_verification_failures_total{code="%s",livemode="%s",type="%s"}', error_code, coalesce(livemode, false)::text, type), sum(failures)::float8
FROM stripe_identity.failure_reasons_hourly GROUP BY 1
UNION ALL
SELECT format('webhookd_status_transitions_total{livemode="%s",status="%s"}', coalesce(livemode, false)::text, status), count(*)::float8
FROM stripe_identity.status_transitions GROUP BY 1`) // ForEachRow tells the error
	var (
		metric string
		n      float64
	)
	_, err = pgx.ForEachRow(rows, []any{&metric, &n}, func() error {
		stand[metric] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count failures and changes: %w", err)
	}
	for name := range stand {
		if api && strings.Contains(name, `livemode="true"`) {
			delete(stand, name)
			delete(counted, name)
		}
	}
	for name, n := range counted {
		if !strings.HasPrefix(name, "webhookd_verification_failures_total") && !strings.HasPrefix(name, "webhookd_status_transitions_total") {
			continue
		}
		if stands := stand[name]; n > stands || exact && n != stands {
			wrong = append(wrong, fmt.Sprintf("%s is %.0f, and %.0f are recorded", name, n, stands))
		}
		delete(stand, name)
	}
	for name, n := range stand {
		wrong = append(wrong, fmt.Sprintf("%s is no series, and %.0f are recorded", name, n))
	}
	return wrong, nil
}
