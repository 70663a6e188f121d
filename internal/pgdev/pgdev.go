// Package pgdev runs a private PostgreSQL: for `webhookd dev`, and through
// pgtest for every test that needs a database.
//
// A server owns one folder: data, password, log, and a lock that every process
// of the server holds. So the lock is free exactly when nothing of it runs, and
// whoever holds it may clear up what a killed server left. The server listens
// on 127.0.0.1 only, on no socket file, and asks for a random password.
//
// It never outlives its parent: a small shell (see supervisor) stands between
// them and ends the server when the pipe to the parent closes, which the kernel
// does however the parent ends. It runs in a session of its own, so that Ctrl-C
// in a terminal reaches the parent, which may drain first, and not PostgreSQL.
//
// PostgreSQL refuses to run as root. Started by root, it runs as the user
// postgres or else nobody, by the same code otherwise.
package pgdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	owner    = "webhookd" // the superuser, and the database that stands ready
	loopback = "127.0.0.1"
)

// Options says how to run a server. The zero value is a temporary one.
type Options struct {
	Dir       string            // keeps the data between runs; "" is a temporary folder, removed by Stop
	Ephemeral bool              // survives the death of PostgreSQL but not of the machine; for tests only
	Settings  map[string]string // further settings of postgresql.conf, which win over ours
	Log       io.Writer         // is told, in whole lines, what the user should know; may be nil
	Port      int               // 0 is any free one
}

// Server is a running PostgreSQL.
type Server struct {
	home     *home
	proc     *process
	port     int
	password string
	version  string
}

// Start runs a server and returns when it takes connections and has a database
// named webhookd. Data in o.Dir are used again, also after a crash.
// ctx bounds the start only. Errors say what the user can do.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	found, err := find(acct, inherited("PATH"), usualPlaces)
	if err != nil {
		return nil, err
	}
	h, err := openHome(ctx, acct, o)
	if err != nil {
		return nil, err
	}
	s, err := h.serve(ctx, found, o)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	if err := h.letGo(); err != nil {
		return nil, errors.Join(fmt.Errorf("leave the folder to the server: %w", err), s.Stop(ctx))
	}
	return s, nil
}

// serve makes the data where there are none and runs a server on them.
func (h *home) serve(ctx context.Context, found []installation, o Options) (*Server, error) {
	inst, password, err := h.prepare(ctx, found, o)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		s := &Server{home: h, port: o.Port, password: password, version: inst.version}
		if s.port == 0 {
			if s.port, err = freePort(ctx); err != nil {
				return nil, err
			}
		}
		argv := append([]string{inst.bin("postgres"), "-D", h.path("data")}, settings(s.port, o)...)
		if s.proc, err = h.spawn(argv); err != nil {
			return nil, err
		}
		err = s.ready(ctx)
		if err == nil {
			return s, nil
		}
		_ = s.proc.end(ctx, "QUIT")
		if !h.lostPort() {
			return nil, err
		}
		if o.Port != 0 {
			return nil, fmt.Errorf("port %d is taken: choose another, or end what listens there: %w", o.Port, err)
		}
		if attempt == 5 {
			return nil, err
		}
	}
}

// settings are arguments, not a file: nothing to rewrite when they change.
func settings(port int, o Options) []string {
	all := []string{
		"listen_addresses=" + loopback,
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=",
		"max_connections=200",
		"shared_buffers=128MB",
		"timezone=UTC",
		"log_timezone=UTC",
		// The log is a file beside the data, and must not hold what was sent.
		"logging_collector=off",
		"log_destination=stderr",
		"log_statement=none",
		"log_parameter_max_length=0",
		"log_parameter_max_length_on_error=0",
		"log_min_error_statement=panic",
		"log_error_verbosity=terse",
	}
	if o.Ephemeral {
		// synchronous_commit stays on: what was committed must survive Kill.
		all = append(all, "fsync=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0",
			"max_wal_size=256MB") // of memory
	}
	for name, value := range o.Settings {
		all = append(all, name+"="+value)
	}
	args := make([]string, 0, 2*len(all))
	for _, setting := range all {
		args = append(args, "-c", setting)
	}
	return args
}

// ready waits until the server answers and has its database.
func (s *Server) ready(ctx context.Context) error {
	attempts, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // what took our port may accept a connection and say nothing
		select {
		case <-s.proc.done:
			cancel()
		case <-attempts.Done():
		}
	}()
	for {
		err := s.createDatabase(attempts)
		if err == nil {
			return nil
		}
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && strings.HasPrefix(pgErr.Code, "28") {
			return fmt.Errorf("the password kept in %s does not fit the data (remove both with --reset): %w", s.home.dir, err)
		}
		select {
		case <-s.proc.done:
			return s.proc.failure("PostgreSQL ended while starting")
		case <-ctx.Done():
			return fmt.Errorf("wait for PostgreSQL: %w: %w", context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) createDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // its work is done or has failed
	var exists bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)`, owner).Scan(&exists)
	if err == nil && !exists {
		_, err = conn.Exec(ctx, `CREATE DATABASE `+owner)
	}
	return err
}

// URL is a connection string for one database of the server. It holds the
// password: print it only where the user is meant to use it.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(owner, s.password),
		Host:     net.JoinHostPort(loopback, strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Dir is the folder in use, absolute: Options.Dir, or the place it moved to.
func (s *Server) Dir() string { return s.home.dir }

// Port is the port on 127.0.0.1.
func (s *Server) Port() int { return s.port }

// Version is PostgreSQL's own, such as 15.18.
func (s *Server) Version() string { return s.version }

// Done is closed when the server has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} { return s.proc.done }

// Err says why a server ended on its own, with the last lines of its log. It is
// nil while the server runs and after Stop or Kill.
func (s *Server) Err() error {
	select {
	case <-s.proc.done:
	default:
		return nil
	}
	if s.proc.asked.Load() {
		return nil
	}
	return s.proc.failure("PostgreSQL ended on its own")
}

// Stop shuts the server down in order, breaking connections off, waits for its
// end, and removes a temporary folder. When ctx ends first, the server is ended
// at once, as by Kill, and ctx's error returned. It may be called again.
func (s *Server) Stop(ctx context.Context) error {
	if err := errors.Join(s.proc.end(ctx, "INT"), s.home.remove()); err != nil {
		return fmt.Errorf("stop the private PostgreSQL: %w", err)
	}
	return nil
}

// Kill ends the server at once, without a checkpoint, as a crash would, and
// waits for its end. The folder stays, also a temporary one (until Stop), so
// that Start on the same Dir recovers what was committed.
func (s *Server) Kill() error {
	if err := s.proc.end(context.Background(), "QUIT"); err != nil {
		return fmt.Errorf("kill the private PostgreSQL: %w", err)
	}
	return nil
}

// freePort keeps below the ports that systems give to outgoing connections:
// one of these, retrying while a server is down, could take its port.
func freePort(ctx context.Context) (int, error) {
	var errs []error
	for range 50 {
		port := 20000 + rand.IntN(12000)
		l, err := new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort(loopback, strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("find a free port on %s: %w", loopback, errs[len(errs)-1])
}

// lostPort tells from the log that somebody else took the port meanwhile.
func (h *home) lostPort() bool {
	return slices.ContainsFunc(h.tail(), func(line string) bool {
		return strings.Contains(line, "could not bind") || strings.Contains(line, "could not create any TCP/IP sockets")
	})
}
