// Command bench measures webhookd beside what bounds it and what it competes
// with, on one machine: net/http that only reads (raw HTTP), the same rows
// written in batches without HTTP (raw writes), and the service that a team
// would write by hand. All of them take the same load from `webhookd simulate`,
// one after the other in rounds, and meet the same private PostgreSQL.
//
// Machines are noisy: only ratios of runs in one round mean something, and CPU
// per event as the operating system counts it. The table that goes to standard
// output shows medians of both, the raw figures go to bench/out.
//
//	go run ./bench                  # everything: below 20 minutes
//	go run ./bench --quick          # does it work: one round of a second each
//	go run ./bench --rounds 9 --ingest
//	go run ./bench --replicas 1,2,3 --commit-delay
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] { // what the bench starts as children
		case "serve-raw":
			return serveRaw(ctx)
		case "serve-by-hand":
			return serveByHand(ctx, args[1:])
		}
	}
	p, err := parse(args, stderr)
	if err != nil {
		return err
	}
	return p.measure(ctx, stdout, stderr)
}

// plan is what to measure.
type plan struct {
	rounds  int
	seconds float64 // of each measurement
	out     string

	ingest, idle, forged, allocs bool

	rows        float64 // millions
	idlers      int     // connections
	replicas    []int
	commitDelay bool
}

const usualSeconds = 5

func parse(args []string, stderr io.Writer) (*plan, error) {
	p := &plan{idlers: 2000}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	quick := f.Bool("quick", false, "one round, of a second each unless --seconds says so: does it work")
	f.IntVar(&p.rounds, "rounds", 5, "how often everything is measured")
	f.Float64Var(&p.seconds, "seconds", usualSeconds, "how long each measurement lasts")
	f.StringVar(&p.out, "out", "bench/out", "the `folder` for the raw figures")
	f.BoolVar(&p.ingest, "ingest", false, "only: events taken, by connections")
	f.BoolVar(&p.idle, "idle", false, "only: memory of idle connections")
	f.BoolVar(&p.forged, "bad-signatures", false, "only: refusals")
	f.BoolVar(&p.allocs, "allocs", false, "only: allocations of an event")
	f.Float64Var(&p.rows, "rows", 0, "only: full tables, of so many `million` transitions, against empty ones")
	replicas := f.String("replicas", "", "only: so many replicas on one database, as `1,2,3`")
	f.BoolVar(&p.commitDelay, "commit-delay", false, "only: commits that take longer, as on a slower disk")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	for number := range strings.SplitSeq(*replicas, ",") {
		if number == "" {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 8 {
			return nil, fmt.Errorf("--replicas %s: want numbers from 1 to 8", *replicas)
		}
		p.replicas = append(p.replicas, n)
	}
	if f.NArg() > 0 || p.rounds < 1 || p.rounds > 100 || !(p.seconds > 0 && p.seconds <= 600) || !(p.rows >= 0 && p.rows <= 100) {
		return nil, errors.New("wrong usage: see --help")
	}
	all := !p.ingest && !p.idle && !p.forged && !p.allocs && p.rows == 0 && p.replicas == nil && !p.commitDelay
	if all {
		p.ingest, p.idle, p.forged, p.rows = true, true, true, 5
	}
	if *quick {
		p.rounds, p.idlers, p.rows = 1, 200, min(p.rows, 0.03)
		if p.seconds == usualSeconds {
			p.seconds = 1
		}
	}
	return p, nil
}

// Connections: with the first everything is measured, with the second what needs
// a crowd.
const middle, many = 64, 256

// measure runs the plan and reports, also what there is after an interrupt.
func (p *plan) measure(ctx context.Context, stdout, stderr io.Writer) (err error) {
	l, err := openLab(ctx, time.Duration(p.seconds*float64(time.Second)), stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(ctx))) }()
	r := &results{Machine: l.machine, Rounds: p.rounds, Seconds: p.seconds}
	for _, phase := range []func(context.Context, *lab, *results) error{p.measureLoad, p.measureIdle, p.measureRows, p.measureReplicas, p.measureSlowDisk} {
		if err = phase(ctx, l, r); err != nil {
			break
		}
	}
	if len(r.Measurements) == 0 && r.Idle == nil {
		return err
	}
	return errors.Join(err, r.print(stdout), r.save(p.out, stderr))
}

// step is one measurement of a round.
type step struct {
	name        string
	connections int
	take        func(ctx context.Context) (measurement, error)
}

// rounds takes every step in every round, back and forth, so that none of them
// always follows the same other.
func (p *plan) runRounds(ctx context.Context, l *lab, r *results, steps []step) error {
	for round := 1; round <= p.rounds; round++ {
		for _, s := range steps {
			m, err := s.take(ctx)
			if err != nil {
				return fmt.Errorf("%s, %d connections: %w", s.name, s.connections, err)
			}
			m.Name, m.Round, m.Connections = s.name, round, s.connections
			l.sayf("round %d of %d  %-28s %4d connections  %8.0f/s  p50 %6.2f  p99 %7.2f ms", round, p.rounds, m.Name, m.Connections, m.PerSecond, m.P50, m.P99)
			r.Measurements = append(r.Measurements, m)
		}
		slices.Reverse(steps)
	}
	return nil
}

// measureLoad is what stands in most of the table.
func (p *plan) measureLoad(ctx context.Context, l *lab, r *results) error {
	if !p.ingest && !p.forged && !p.allocs {
		return nil
	}
	raw, err := l.startRaw(ctx)
	if err != nil {
		return err
	}
	ours, err := l.startWebhookd(ctx, mainDatabase)
	if err != nil {
		return err
	}
	var steps []step
	take := func(name string, connections int, s *server) {
		steps = append(steps, step{name, connections, func(ctx context.Context) (measurement, error) {
			return l.load(ctx, connections, nil, s)
		}})
	}
	forged := step{nameForged, middle, func(ctx context.Context) (measurement, error) { return l.refuse(ctx, ours) }}
	if p.ingest {
		byHand := map[int]*server{}
		for _, pool := range []int{16, 32} {
			if byHand[pool], err = l.startByHand(ctx, pool); err != nil {
				return err
			}
		}
		for _, connections := range []int{1, 16, middle, many} {
			take(nameRawHTTP, connections, raw)
			if connections == middle {
				steps = append(steps, forged)
			}
			take(nameByHand(16), connections, byHand[16])
			if connections > 16 { // with fewer a larger pool is the same
				take(nameByHand(32), connections, byHand[32])
			}
			take(nameWebhookd, connections, ours)
		}
		for _, w := range rawWrites() {
			if err := l.copyTables(ctx, w.schema, w.indexed); err != nil {
				return err
			}
			steps = append(steps, step{w.name, w.connections, func(ctx context.Context) (measurement, error) { return l.write(ctx, w) }})
		}
	} else {
		if p.forged {
			take(nameRawHTTP, middle, raw)
			steps = append(steps, forged)
		}
		if p.allocs {
			take(nameWebhookd, middle, ours)
		}
	}
	return p.runRounds(ctx, l, r, steps)
}

// measureRows compares full tables with empty ones, each in a database of its own.
func (p *plan) measureRows(ctx context.Context, l *lab, r *results) error {
	if p.rows == 0 {
		return nil
	}
	const full = "filled"
	if err := l.createDatabase(ctx, full); err != nil {
		return err
	}
	if err := l.fill(ctx, full, int(p.rows*1e6)); err != nil {
		return err
	}
	empty, err := l.startWebhookd(ctx, mainDatabase)
	if err != nil {
		return err
	}
	filled, err := l.startWebhookd(ctx, full)
	if err != nil {
		return err
	}
	filled.schema = "" // is not cleared
	// PostgreSQL's processes map shared buffers page by page, as they first touch
	// them. Empty tables stay within a few; a service that has run for a while has
	// touched what it needs.
	for range 3 {
		for _, s := range []*server{empty, filled} {
			if _, err := l.load(ctx, middle, nil, s); err != nil {
				return err
			}
		}
	}
	return p.runRounds(ctx, l, r, []step{
		{nameEmpty, middle, func(ctx context.Context) (measurement, error) { return l.load(ctx, middle, nil, empty) }},
		{nameFull, middle, func(ctx context.Context) (measurement, error) { return l.load(ctx, middle, nil, filled) }},
	})
}

// measureReplicas lets several replicas share the connections and a database.
func (p *plan) measureReplicas(ctx context.Context, l *lab, r *results) error {
	if p.replicas == nil {
		return nil
	}
	var all []*server
	for range slices.Max(p.replicas) {
		s, err := l.startWebhookd(ctx, mainDatabase)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	var steps []step
	for _, n := range p.replicas {
		steps = append(steps, step{nameReplicas(n), middle, func(ctx context.Context) (measurement, error) {
			return l.load(ctx, middle, nil, all[:n]...)
		}})
	}
	return p.runRounds(ctx, l, r, steps)
}

// measureSlowDisk makes every commit wait before it flushes, as a slower disk
// would. PostgreSQL does so by commit_delay, by default only while five other
// transactions are open, of which few committers have none: commit_siblings is
// 0 here. It shows that batches grow with the wait, while transactions of single
// events share a flush with at most as many others as the pool has connections.
// It does not show a disk on which checkpoints and reads are slow too.
func (p *plan) measureSlowDisk(ctx context.Context, l *lab, r *results) error {
	if !p.commitDelay {
		return nil
	}
	byHand, err := l.startByHand(ctx, 32)
	if err != nil {
		return err
	}
	ours, err := l.startWebhookd(ctx, mainDatabase)
	if err != nil {
		return err
	}
	var steps []step
	for _, delay := range []time.Duration{0, 2 * time.Millisecond, 10 * time.Millisecond} {
		for _, s := range []struct {
			name   string
			server *server
		}{{nameByHand(32), byHand}, {nameWebhookd, ours}} {
			steps = append(steps, step{nameSlow(s.name, delay), many, func(ctx context.Context) (measurement, error) {
				if err := l.setCommitDelay(ctx, delay); err != nil {
					return measurement{}, err
				}
				return l.load(ctx, many, nil, s.server)
			}})
		}
	}
	return cmp.Or(p.runRounds(ctx, l, r, steps), l.setCommitDelay(ctx, 0))
}
