// Package repo keeps the truth in PostgreSQL: it records events once, and
// knows what stands of a session.
//
// Every write takes the same road. One statement locks the rows of the sessions
// concerned, in the order of their ids; the statements after it see everything
// that was committed before the lock was had; [events.Standing] decides; one more
// round trip writes and commits. A session without a row gets it before its events
// are written, and who finds that somebody else was faster begins anew.
// Because nobody commits what was decided without the lock, two replicas agree,
// and a redaction wins over every writer, whether that one comes before it, after
// it or at the same time.
//
// What PostgreSQL refuses because of an event's own content (SQLSTATE class
// 22, 23, 54) puts that event into quarantine. Where two transactions met
// (deadlock, serialization, a row that both made), the later one is tried again.
// Any other error is ours: nothing is recorded, and the caller tells Stripe to
// try again.
package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"webhookd/internal/events"
)

// Options configure a [Store]. Only URL is required.
type Options struct {
	// URL is a PostgreSQL connection string (pgx syntax).
	URL string
	// CurrentURL, if set, is asked for the URL of every new connection, so
	// that a rolled password is taken up without a restart.
	CurrentURL func() string
	// Notify sends NOTIFY stripe_identity with each commit that adds transitions.
	Notify bool
	// Outputs says which fields of verified outputs are stored, by their names in
	// Stripe's API; nil means all.
	Outputs func(field string) bool
	// NoOutputs says that verified outputs are neither stored nor wanted.
	NoOutputs bool
	// Asks says whether Stripe's API can be asked about sessions of a mode; nil for never.
	Asks func(live bool) bool
	// Told is called after COMMIT with each transition that the API told before any
	// event did, but for those that reconcile brought.
	Told func(*events.Step)
	// NotifyFull is called when PostgreSQL's queue of notifications is full: for a
	// minute commits do without. May be nil.
	NotifyFull func()
	// Wake is told, in the transaction that makes them, of wishes of these
	// sessions. The transaction is not its to end.
	Wake func(ctx context.Context, tx pgx.Tx, sessionIDs []string) error
	// LockTimeout is how long an event waits for a session that somebody else
	// holds. Default 2 s, or half of CommitTimeout if that is less.
	LockTimeout time.Duration
	// Committers is how many batches are committed at the same time. Default 2.
	Committers int
	// BatchMax is the most events in a batch. Default 256.
	BatchMax int
	// QueueLength is how many events may wait for a committer. Default 4096.
	QueueLength int
	// CommitTimeout is how long one batch may take. Default 10 s.
	CommitTimeout time.Duration
	// Registry takes the store's metrics; nil for none.
	Registry prometheus.Registerer
}

// Store is the database. It is safe for concurrent use.
type Store struct {
	pool       *pgxpool.Pool // of all but the write road
	writers    *pgxpool.Pool // their connections have settings of their own
	watch      *pgxpool.Pool // of Watch, which must not wait for others; nil: there are too few connections
	opt        Options
	metrics    *metrics
	queue      *queue
	lane       *lane
	pipelines  sync.Pool // of *pipeline
	orders     sync.Pool // of *order, that carry events
	committers sync.WaitGroup
	caution    caution
	batchLock  time.Duration // how long a batch waits for a session
	patience   time.Duration // how long anything waits for a database that is silent
	answering  chan struct{} // held by who writes an answer of the API
	silent     atomic.Int64  // no NOTIFY until then, unix: its queue is full
}

// Open prepares a store. It does not need the database to be there: a delivery
// that finds it away is answered with 503, not with a crash.
func Open(ctx context.Context, o Options) (*Store, error) {
	cfg, err := poolConfig(o, "webhookd")
	if err != nil {
		return nil, err
	}
	o.CommitTimeout = cmp.Or(o.CommitTimeout, 10*time.Second)
	o.LockTimeout = cmp.Or(o.LockTimeout, min(2*time.Second, o.CommitTimeout/2))
	o.Committers = cmp.Or(o.Committers, 2)
	o.BatchMax = cmp.Or(o.BatchMax, 256)
	o.QueueLength = cmp.Or(o.QueueLength, 4096)
	writing := cfg.Copy()
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	if strings.Contains(o.URL, "pool_max_conns") {
		cfg.MaxConns = min(readers, max(1, cfg.MaxConns/3))
		writing.MaxConns = max(1, writing.MaxConns-cfg.MaxConns)
	} else {
		cfg.MaxConns, writing.MaxConns = readers, int32(o.Committers)+laneWorkers+1 // one for answers
	}
	prepares, words := cfg.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement, vocabulary()
	s := &Store{
		opt: o, queue: newQueue(o.QueueLength), caution: caution{length: leastCaution},
		batchLock: min(batchLockTimeout, o.CommitTimeout/4), patience: max(o.CommitTimeout, 10*time.Second),
		answering: make(chan struct{}, 1),
	}
	if prepares {
		writing.AfterConnect = s.setForWrites
	}
	watching := cfg.Copy()
	if watching.MaxConns = min(1, cfg.MaxConns-1); watching.MaxConns > 0 {
		cfg.MaxConns--
	}
	for _, p := range []struct {
		of  **pgxpool.Pool
		cfg *pgxpool.Config
	}{{&s.pool, cfg}, {&s.writers, writing}, {&s.watch, watching}} {
		if p.cfg.MaxConns == 0 {
			continue
		}
		if *p.of, err = pgxpool.NewWithConfig(ctx, p.cfg); err != nil {
			s.closePools()
			return nil, fmt.Errorf("database pool: %w", err)
		}
	}
	s.metrics = newMetrics(o.Registry, s.pools(), func() float64 { return float64(s.queue.length()) })
	s.lane = newLane(s, int(writing.MaxConns)-o.Committers-1)
	s.orders.New = func() any {
		timer := time.NewTimer(time.Hour)
		timer.Stop()
		return &order{done: make(chan error, 1), timer: timer}
	}
	s.pipelines.New = func() any {
		return &pipeline{prepares: prepares, words: words, names: map[string]string{}}
	}
	for range o.Committers {
		s.committers.Go(s.commitLoop)
	}
	return s, nil
}

// patiently bounds what is no delivery: a host that vanished would keep it for as
// long as TCP tries, a quarter of an hour.
func (s *Store) patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.patience)
}

// readers is how many connections there are for all but writes, that of Watch
// among them.
const readers = 3

func (s *Store) pools() []*pgxpool.Pool {
	return slices.DeleteFunc([]*pgxpool.Pool{s.pool, s.writers, s.watch}, func(p *pgxpool.Pool) bool { return p == nil })
}

func (s *Store) closePools() {
	for _, p := range s.pools() {
		p.Close()
	}
}

// OpenPool opens connections of their own to the database of o, at most n at a
// time: for the job queue, which then neither waits for deliveries nor makes
// them wait.
func OpenPool(ctx context.Context, o Options, name string, n int32) (*pgxpool.Pool, error) {
	cfg, err := poolConfig(o, name)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = n
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	return pool, nil
}

func poolConfig(o Options, name string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = name
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if o.CurrentURL != nil {
		cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			now, err := pgx.ParseConfig(o.CurrentURL())
			if err != nil {
				return fmt.Errorf("database URL: %w", err)
			}
			c.Host, c.Port, c.User, c.Password, c.Database = now.Host, now.Port, now.User, now.Password, now.Database
			c.TLSConfig, c.Fallbacks = now.TLSConfig, now.Fallbacks
			return nil
		}
	}
	return cfg, nil
}

// The SQLSTATE codes on which the store acts.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	uniqueViolation      = "23505"
	divisionByZero       = "22012"
	lockNotAvailable     = "55P03"
)

// transitionsKey is the primary key of status_transitions: a sequence gives it.
const transitionsKey = "status_transitions_pkey"

// panicError is a fault of this program that an event brought out. It names
// the type of the panic and its place; the value may quote the event.
type panicError struct{ what string }

func (e *panicError) Error() string { return "a fault of webhookd's own: " + e.what }

// panickedAt is the line of ours that a panic, which is being recovered, came from.
func panickedAt() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for panicked := false; ; {
		f, more := frames.Next()
		if panicked = panicked || f.Function == "runtime.gopanic"; panicked && strings.HasPrefix(f.Function, "webhookd/") {
			return fmt.Sprintf("%s:%d", filepath.Base(f.File), f.Line)
		}
		if !more {
			return "an unknown place"
		}
	}
}

// blame says whose fault an error of PostgreSQL's is.
type blame uint8

const (
	ours      blame = iota // schema, grants, disk, network: nothing is recorded
	theEvents              // the content of one event
	chance                 // two transactions met: try again
	someones               // somebody else holds the row
)

func blameFor(err error) (blame, string) {
	if own := new(panicError); errors.As(err, &own) {
		return theEvents, ""
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ours, ""
	}
	switch pg.Code {
	case serializationFailure, deadlockDetected:
		return chance, pg.Code
	case lockNotAvailable:
		return someones, pg.Code
	}
	if pg.ConstraintName == transitionsKey || pg.SchemaName == JobSchema {
		return ours, pg.Code // no event says which number a sequence gives, or what stands in the job queue
	}
	switch pg.Code {
	case uniqueViolation, divisionByZero:
		// Somebody else made the session, or told something of it, at the same time;
		// or what was taken for granted was not so; or one event id came under two
		// sessions. The next try sees it.
		return chance, pg.Code
	}
	for _, class := range []string{"22", "23", "54"} {
		if strings.HasPrefix(pg.Code, class) {
			return theEvents, pg.Code
		}
	}
	return ours, pg.Code
}

// databaseError is an error of PostgreSQL's in our own words: its message,
// detail and parameters may quote somebody's data and stay behind.
type databaseError struct {
	code, table, constraint string
	cause                   error // reachable by errors.Is only for contexts
}

func (e *databaseError) Error() string {
	var b strings.Builder
	b.WriteString("SQLSTATE " + e.code)
	words := inWords(e.code)
	if e.constraint == transitionsKey {
		words = "its sequence is behind, as after a restore without it: SELECT setval(pg_get_serial_sequence('stripe_identity.status_transitions', 'id'), (SELECT max(id) FROM stripe_identity.status_transitions))"
	}
	if words != "" {
		b.WriteString(" (" + words + ")")
	}
	if e.table != "" {
		b.WriteString(", table " + e.table)
	}
	if e.constraint != "" {
		b.WriteString(", constraint " + e.constraint)
	}
	return b.String()
}

func (e *databaseError) Unwrap() error { return e.cause }

// inWords says what an operator can do something about.
func inWords(code string) string {
	switch code {
	case "3D000":
		return "there is no such database"
	case "28P01", "28000":
		return "the user or the password is refused"
	case "42501":
		return "a right is missing"
	case "3F000", "42P01":
		return "the schema is missing or behind: run webhookd migrate up"
	case "25006":
		return "read-only: is this not the primary?"
	case "53300":
		return "too many connections"
	}
	return ""
}

// noConnection says why there is none, and neither to whom nor as whom.
func noConnection(err error) string {
	why := ""
	dns, unknown := errors.AsType[*net.DNSError](err)
	slow, isNet := errors.AsType[net.Error](err)
	switch {
	case unknown && !dns.IsTimeout:
		why = ": its host is unknown"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = ": refused"
	case isNet && slow.Timeout(), errors.Is(err, context.DeadlineExceeded):
		why = ": no answer in time"
	case strings.Contains(err.Error(), "tls error"): // the driver has no type for it
		why = ": TLS failed (sslmode or certificate)"
	}
	return "no connection to the database" + why
}

// Plain puts an error of the database's into words that may be logged: for
// the job queue, which has the same database.
func Plain(doing string, err error) error { return plain(doing, err) }

// plain puts an error into words that may be logged.
func plain(doing string, err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		e := &databaseError{code: pg.Code, table: pg.TableName, constraint: pg.ConstraintName}
		if pg.Code == lockNotAvailable {
			e.cause = events.ErrLocked
		}
		return fmt.Errorf("%s: %w", doing, e)
	}
	if own, ok := errors.AsType[*panicError](err); ok {
		return fmt.Errorf("%s: %w", doing, own)
	}
	if errors.Is(err, errForm) {
		return fmt.Errorf("%s: %w", doing, errForm)
	}
	// Before the contexts: a connection has a deadline of its own.
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return fmt.Errorf("%s: %s", doing, noConnection(err))
	}
	for _, ended := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, ended) {
			return fmt.Errorf("%s: %w", doing, ended)
		}
	}
	return fmt.Errorf("%s: lost the connection to the database", doing)
}
