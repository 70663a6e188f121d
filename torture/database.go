package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev"
)

// connectionsMax is PostgreSQL's max_connections: few, to be used up.
const connectionsMax = 100

// database is the PostgreSQL of a run, that can be broken and started again.
type database struct {
	dir  string
	name string

	mu     sync.Mutex
	server *pgdev.Server
}

func openDatabase(ctx context.Context, dir string) (*database, error) {
	d := &database{dir: dir, name: "webhookd"}
	return d, d.start(ctx)
}

// clone is a copy of the database on the same server, to be left alone by
// faults.
func (d *database) clone(ctx context.Context, name string) (*database, error) {
	conn, err := d.other(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	_, err = conn.Exec(ctx, `CREATE DATABASE `+name+` TEMPLATE `+d.name)
	return &database{dir: d.dir, name: name, server: d.now()}, err
}

// start starts the server where its data are, also after a crash. What is left
// of the one before may take a moment to end.
func (d *database) start(ctx context.Context) error {
	port := 0
	if d.now() != nil {
		port = d.now().Port()
	}
	for begun := time.Now(); ; {
		// It survives the death of its processes, which is all that is done to it.
		s, err := pgdev.Start(ctx, pgdev.Options{Dir: d.dir, Port: port, Ephemeral: true, Settings: map[string]string{
			"max_connections": strconv.Itoa(connectionsMax), "shared_buffers": "256MB", "max_wal_size": "192MB",
			"synchronous_commit": "off", // the operator's default must not weaken a 200
			"autovacuum":         "on", "autovacuum_naptime": "10s",
		}})
		if err == nil {
			d.mu.Lock()
			d.server = s
			d.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil || time.Since(begun) > time.Minute {
			return err
		}
	}
}

func (d *database) now() *pgdev.Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.server
}

func (d *database) address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.now().Port()))
}

// url is the way to a database through an address: the server's own, or a proxy's.
func (d *database) url(through string) string {
	return strings.Replace(d.now().URL(d.name), d.address(), through, 1)
}

// connect is past every proxy.
func (d *database) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return pgx.Connect(ctx, d.now().URL(d.name))
}

// exec runs one statement past every proxy.
func (d *database) exec(ctx context.Context, sql string, args ...any) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// kill ends the postmaster as nothing else does: its children notice and end.
func (d *database) kill() error {
	text, err := os.ReadFile(filepath.Join(d.now().Dir(), "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil || pid < 2 {
		return fmt.Errorf("postmaster.pid says %q: %w", line, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the postmaster: %w", err)
	}
	<-d.now().Done()
	return nil
}

// revive starts the server if it has ended.
func (d *database) revive(ctx context.Context) error {
	select {
	case <-d.now().Done():
		return d.start(ctx)
	default:
		return nil
	}
}

func (d *database) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := d.now().Stop(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // ended at once instead
	}
	return err
}
