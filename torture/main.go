// Command torture breaks webhookd on purpose and counts what is lost.
//
// Replicas stand before a PostgreSQL, each with a proxy between. A Stripe
// delivers as Stripe does: shuffled, doubled, with twins, redactions and
// erasures, again whatever is not answered 2xx. Faults come one after the
// other by a seeded schedule. Then all faults end, everything must be
// acknowledged within 30 s, and an oracle that knows every event compares every
// row of every table with the model (events.History).
//
// It takes the program as it is: nothing in webhookd knows of it, and what the
// rig is itself tested with, planted defects, is done to the database and to
// the network.
//
//	go run ./torture                                # a million deliveries
//	go run ./torture --deliveries 10000 --seed 7    # the schedule of seed 7
//	go run ./torture --faults 'replica killed,disk full'
//	go run ./torture --plant 'the payload is kept'  # must fail; --plant list
//	go run ./torture --attack                       # strangers instead of faults
//	go run ./torture --soak 1h --rate 500           # steady load, nothing broken
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "torture: %v\n", err)
		os.Exit(1)
	}
}

// plan is what a run does.
type plan struct {
	seed       uint64
	deliveries int
	replicas   int
	perFault   int // deliveries
	kinds      []kind
	plant      *defect
	programs   []string // two versions of webhookd; built if there are none
	patience   time.Duration
	database   *database // nil for one of its own

	attack    bool
	attackFor time.Duration
	api       bool
	soak      time.Duration
	rate      int
}

func parse(args []string, stderr io.Writer) (*plan, error) {
	p := &plan{patience: 30 * time.Second}
	f := flag.NewFlagSet("torture", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Uint64Var(&p.seed, "seed", uint64(rand.Uint32()), "draws the tales and the schedule; equal seeds draw equally")
	f.IntVar(&p.deliveries, "deliveries", 1_000_000, "how many")
	f.IntVar(&p.replicas, "replicas", 3, "how many")
	f.IntVar(&p.perFault, "per-fault", 4000, "deliveries from one fault to the next, at most")
	only := f.String("faults", "all", "`names` of faults, parted by commas; none; list")
	plant := f.String("plant", "", "the `name` of a defect that the run must find; list")
	program := f.String("program", "", "`paths` of two builds of webhookd, parted by a comma; built here if empty")
	f.BoolVar(&p.api, "api", true, "serve Stripe's API for a share of the sessions")
	f.BoolVar(&p.attack, "attack", false, "let strangers attack one replica instead")
	// More than half of DELIVERY_TIMEOUT, after which what is slow must be gone.
	f.DurationVar(&p.attackFor, "attack-for", 12*time.Second, "how long each attack lasts")
	f.DurationVar(&p.soak, "soak", 0, "break nothing, and look for growth for so long instead")
	f.IntVar(&p.rate, "rate", 300, "deliveries a second of a soak")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 || p.attackFor <= 0 || p.deliveries < 1 || p.perFault < 1 || p.replicas < 1 || p.replicas > 9 || p.soak < 0 || p.rate < 1 {
		return nil, errors.New("wrong usage: see --help")
	}
	if *program != "" {
		if p.programs = strings.Split(*program, ","); len(p.programs) != 2 {
			return nil, errors.New("--program: want two paths")
		}
	}
	if *only == "list" || *plant == "list" {
		for _, k := range kinds() {
			fmt.Fprintf(stderr, "fault   %s\n", k.name)
		}
		for _, d := range defects() {
			fmt.Fprintf(stderr, "defect  %s\n", d.name)
		}
		return nil, flag.ErrHelp
	}
	for _, k := range kinds() {
		if (*only == "all" || contains(*only, k.name)) && (p.api || k.name != apiAway) {
			p.kinds = append(p.kinds, k)
		}
	}
	if *only != "all" && *only != "none" && len(p.kinds) != strings.Count(*only, ",")+1 {
		return nil, fmt.Errorf("--faults %s: not all of them are known: see --faults list", *only)
	}
	for _, d := range defects() {
		if d.name == *plant {
			p.plant = &d
		}
	}
	if *plant != "" && p.plant == nil {
		return nil, fmt.Errorf("--plant %s: there is none: see --plant list", *plant)
	}
	return p, nil
}

func contains(list, name string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(one) == name {
			return true
		}
	}
	return false
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	p, err := parse(args, stderr)
	if err != nil {
		return err
	}
	r, err := open(ctx, p, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	switch {
	case p.attack:
		return r.endureAll(ctx, stdout)
	case p.soak > 0:
		return r.soakFor(ctx, stdout)
	}
	result, err := r.torture(ctx)
	if err != nil {
		return err
	}
	result.print(stdout)
	if !result.ok() {
		return errors.New("webhookd broke a promise")
	}
	return nil
}
