package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// within is how long recovery may take after a fault has ended.
const within = 30 * time.Second

// rig is everything that a run needs.
type rig struct {
	*plan
	log      io.Writer
	dir      string
	disk     *disk
	programs []string
	db       *database
	proxies  []*proxy
	replicas []*replica
	stripe   *stripe

	apiRest time.Duration // from the last acknowledgment to the end of the API's work
	probed  atomic.Int64
	erased  atomic.Int64   // of the tales below, those to be erased are
	wait    sync.WaitGroup // faults that go on beside others

	mu         sync.Mutex
	recoveries map[string][]time.Duration
	felt       map[string]int // attempts that failed
}

func (r *rig) sayf(format string, args ...any) { fmt.Fprintf(r.log, format+"\n", args...) }

// open starts PostgreSQL and the replicas.
func open(ctx context.Context, p *plan, log io.Writer) (r *rig, err error) {
	r = &rig{plan: p, log: log, recoveries: map[string][]time.Duration{}, felt: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.dir, err = os.MkdirTemp("", "webhookd-torture-"); err != nil {
		return r, err
	}
	if err := os.Chmod(r.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's account must reach its folder
		return r, err
	}
	if r.programs = p.programs; r.programs == nil {
		r.sayf("building webhookd, twice")
		if r.programs, err = build(ctx, r.dir, "v0.0.1", "v0.0.2"); err != nil {
			return r, err
		}
	}
	if r.db = p.database; r.db == nil {
		r.disk = newDisk(filepath.Join(r.dir, "disk"), int64(512<<20+p.deliveries*6<<10))
		if r.db, err = openDatabase(ctx, filepath.Join(r.disk.dir, "postgres")); err != nil {
			return r, err
		}
		if err := r.command(ctx, r.db.address(), "migrate", "up"); err != nil {
			return r, err
		}
	}
	if p.plant != nil && p.plant.sql != "" {
		if err := r.db.exec(ctx, p.plant.sql); err != nil {
			return r, fmt.Errorf("plant a defect: %w", err)
		}
	}
	secret := "whsec_" + strconv.FormatUint(p.seed, 36) + "x0"
	r.stripe = newStripe(&author{seed: p.seed, now: time.Now().Truncate(time.Hour)}, nil, secret)
	if err := r.keep(secret); err != nil {
		return r, err
	}
	r.stripe.reach = min(r.stripe.reach, p.deliveries/4+1)
	r.stripe.live = 50
	if p.api {
		r.stripe.live = 20
		if p.deliveries > 50_000 { // there are 25 reads a second and replica
			r.stripe.live = 5
		}
		if r.stripe.api, err = openAPI(); err != nil {
			return r, err
		}
	}
	if p.plant != nil && p.plant.road != nil {
		r.stripe.road = p.plant.road(r.stripe.road)
	}
	for i := range p.replicas {
		if err := r.join(i); err != nil {
			return r, err
		}
	}
	for i := range r.replicas {
		if err := r.probe(ctx, i, time.Now().Add(time.Minute)); err != nil {
			return r, err
		}
	}
	return r, nil
}

// join adds a replica behind a proxy of its own.
func (r *rig) join(i int) error {
	p, err := newProxy(r.db.address())
	if err != nil {
		return err
	}
	r.proxies = append(r.proxies, p)
	one := &replica{name: fmt.Sprintf("replica %d", i+1), proxy: p, program: r.programs[0], objectf: r.stripe.objectf, forbidden: []string{"PIIMARK", "whsec_", "rk_live_"}}
	if one.listen, err = loopbackAddress(); err != nil {
		return err
	}
	if one.admin, err = loopbackAddress(); err != nil {
		return err
	}
	one.env = r.env(p.address(),
		"WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE="+r.secretFile(), "WEBHOOKD_LISTEN_ADDR="+one.listen,
		"WEBHOOKD_ADMIN_ADDR="+one.admin, "WEBHOOKD_DRAIN_DELAY=100ms")
	if api := r.stripe.api; api != nil {
		one.env = append(one.env, "WEBHOOKD_STRIPE_API_KEYS="+api.key, "WEBHOOKD_STRIPE_API_BASE="+api.URL, "WEBHOOKD_API_RATE=25",
			"WEBHOOKD_OUTPUTS_WINDOW=0", "WEBHOOKD_RECONCILE_EVERY=0")
	}
	r.replicas = append(r.replicas, one)
	r.stripe.targets = append(r.stripe.targets, one.url())
	return one.start()
}

// env is the environment of a process of webhookd's: the system's, and nothing
// of ours but what is given.
func (r *rig) env(through string, vars ...string) (env []string) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "WEBHOOKD_") && !strings.HasPrefix(name, "PG") && name != "DATABASE_URL" {
			env = append(env, v)
		}
	}
	return append(append(env, "WEBHOOKD_DATABASE_URL="+r.db.url(through)), vars...)
}

func (r *rig) secretFile() string { return filepath.Join(r.dir, "secrets") }

// keep writes the file of secrets as Kubernetes does: at once.
func (r *rig) keep(secrets ...string) error {
	next := r.secretFile() + ".next"
	if err := os.WriteFile(next, []byte(strings.Join(secrets, ",")), 0o600); err != nil { //nolint:gosec // in a folder of our own
		return err
	}
	return os.Rename(next, r.secretFile()) //nolint:gosec // likewise
}

// command runs webhookd to its end.
func (r *rig) command(ctx context.Context, through string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.programs[0], args...) //nolint:gosec // our own
	cmd.Env = r.env(through)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("webhookd %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// probe delivers something new to one replica until it is acknowledged.
func (r *rig) probe(ctx context.Context, i int, until time.Time, secrets ...string) error {
	if len(secrets) == 0 {
		secrets = *r.stripe.secrets.Load()
	}
	f := r.stripe.tale(probes + int(r.probed.Add(1)) - 1).events[0]
	for {
		a, err := r.stripe.post(ctx, r.replicas[i].url(), f.body, signed(f.body, secrets))
		if err == nil && a.status == 200 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s does not acknowledge: status %d %s, %w\n  %s", r.replicas[i].name, a.status, a.Code, err, r.replicas[i].end())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *rig) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, one := range r.replicas {
		one.mu.Lock()
		running := one.cmd != nil
		one.mu.Unlock()
		if running {
			errs = append(errs, one.kill(ctx))
		}
	}
	for _, p := range r.proxies {
		errs = append(errs, p.close())
	}
	if r.stripe != nil && r.stripe.api != nil {
		errs = append(errs, r.stripe.api.server.Close())
	}
	if r.disk != nil && r.db != nil && r.db.now() != nil {
		errs = append(errs, r.db.stop(ctx))
	}
	if r.disk != nil {
		errs = append(errs, r.disk.close())
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir)) //nolint:gosec // likewise
	}
	return errors.Join(errs...)
}

// torture runs the schedule, lets everything come to rest, and judges.
func (r *rig) torture(ctx context.Context) (*result, error) {
	begun := time.Now()
	schedule := r.schedule()
	r.sayf("seed %d: %d deliveries, %d replicas, %d faults of %d kinds, PostgreSQL %s",
		r.seed, r.deliveries, len(r.replicas), len(schedule), len(r.kinds), r.db.now().Version())
	stormy, calm := context.WithCancel(ctx)
	defer calm()
	var delivering sync.WaitGroup
	delivering.Go(func() { r.stripe.run(stormy) })
	delivering.Go(func() { r.watch(stormy) })
	for n, s := range schedule {
		if err := r.suffer(ctx, n, len(schedule), s); err != nil {
			return nil, err
		}
	}
	if len(schedule) == 0 {
		r.stripe.release(ctx, r.deliveries)
	}
	r.wait.Wait()
	r.stripe.rest(ctx)
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	calm()
	delivering.Wait()
	if err := r.erase(ctx, 0); err != nil {
		return nil, err
	}
	if r.stripe.api != nil {
		if err := r.read(ctx); err != nil {
			return nil, err
		}
	}
	for _, one := range r.replicas {
		if err := one.term(ctx); err != nil {
			return nil, err
		}
	}
	res := &result{
		plan: r.plan, took: time.Since(begun), counts: r.stripe.counts, recoveries: r.recoveries, felt: r.felt, apiRest: r.apiRest, faults: len(schedule),
		wrong: r.stripe.wrong, wrongs: r.stripe.wrongs,
	}
	if r.disk != nil {
		res.disk = r.disk.how
	}
	for _, p := range r.proxies {
		res.lostCommits += int(p.lost.Load())
	}
	return res, r.judge(ctx, res)
}

// settle waits until all is acknowledged. Backoff is short: whatever takes
// longer without any progress is stuck.
func (r *rig) settle(ctx context.Context) error {
	since, last := time.Now(), int64(-1)
	for !r.stripe.told.Load() || r.stripe.open.Load() > 0 {
		if now := r.stripe.open.Load() + r.stripe.unsent.Load(); now != last {
			since, last = time.Now(), now
		}
		if time.Since(since) > r.patience {
			r.stripe.objectf("%d deliveries are not acknowledged %v after all faults have ended", last, r.patience)
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// read waits until nothing is left to be asked of the API.
func (r *rig) read(ctx context.Context) error {
	conn, err := r.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	begun := time.Now()
	for since, last := time.Now(), -1; ; {
		n, err := unread(ctx, conn)
		switch {
		case err != nil:
			return err
		case n == 0:
			r.apiRest = time.Since(begun)
			return nil
		case n != last:
			since, last = time.Now(), n
		case time.Since(since) > 2*r.patience: // a pause after failures is longer than Stripe's
			r.stripe.objectf("of %d sessions something is still wanted from the API", n)
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// watch reads all metrics now and then, for what dies with a process.
func (r *rig) watch(ctx context.Context) {
	for ctx.Err() == nil {
		for _, one := range r.replicas {
			one.look(ctx)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// erase orders what operators order: the erasure of some sessions, also of a
// few that were never seen yet.
func (r *rig) erase(ctx context.Context, ahead int) error {
	from, to := r.erased.Load(), r.stripe.begun.Load()+int64(ahead)
	var ids []string
	for number := from; number < to; number++ {
		if t := r.stripe.tale(int(number)); t.erased {
			ids = append(ids, t.session)
		}
	}
	if len(ids) > 0 {
		if err := r.command(ctx, r.db.address(), append([]string{"redact"}, ids...)...); err != nil {
			return err
		}
	}
	r.erased.Store(max(from, to))
	return nil
}

// judge asks the oracle.
func (r *rig) judge(ctx context.Context, res *result) error {
	conn, err := r.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	told, erased := int(r.stripe.begun.Load()), int(r.erased.Load())
	o := &oracle{author: r.stripe.author, told: told, erased: erased, conn: conn}
	if err := o.judge(ctx, max(told, erased), int(r.probed.Load())); err != nil {
		return err
	}
	res.verdict = o.verdict
	counted := series{}
	for _, one := range r.replicas {
		one.counted(counted)
	}
	if r.plant != nil && r.plant.count != nil {
		r.plant.count(counted)
	}
	wrong, err := o.failures(ctx, counted, len(r.kinds) == 0, r.api)
	res.wrong, res.wrongs = append(res.wrong, wrong...), res.wrongs+len(wrong)
	return err
}

// slot is one fault of the schedule.
type slot struct {
	kind       kind
	target     int // a replica
	hold       time.Duration
	deliveries int
	seed       uint64
}

// schedule draws all that will be done from the seed: every kind in every round.
func (r *rig) schedule() (all []slot) {
	if len(r.kinds) == 0 {
		return nil
	}
	rng := rand.New(rand.NewPCG(r.seed, 2))
	number := max(len(r.kinds), (r.deliveries+r.perFault-1)/r.perFault)
	for n := range number {
		if n%len(r.kinds) == 0 {
			rng.Shuffle(len(r.kinds), func(i, j int) { r.kinds[i], r.kinds[j] = r.kinds[j], r.kinds[i] })
			// What goes on beside others goes first.
			lasts := func(k kind) int {
				if k.beside || k.name == "replica killed" {
					return 0
				}
				return 1
			}
			slices.SortStableFunc(r.kinds, func(a, b kind) int { return lasts(a) - lasts(b) })
		}
		k := r.kinds[n%len(r.kinds)]
		all = append(all, slot{
			kind: k, target: rng.IntN(r.plan.replicas), hold: k.least + time.Duration(rng.Int64N(int64(k.most-k.least)+1)),
			deliveries: (n+1)*r.deliveries/number - n*r.deliveries/number, seed: rng.Uint64(),
		})
	}
	return all
}

// suffer injects a fault under load, ends it, and waits for recovery.
func (r *rig) suffer(ctx context.Context, n, of int, s slot) error {
	releasing, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { // spread over the fault
		const parts = 40
		for i := range parts {
			r.stripe.release(ctx, (i+1)*s.deliveries/parts-i*s.deliveries/parts)
			select {
			case <-time.After((s.hold + time.Second/5) / parts):
			case <-releasing.Done(): // the rest at once
			}
		}
	})
	before := r.stripe.failed()
	end, err := s.kind.inject(ctx, r, s)
	if err != nil {
		return fmt.Errorf("%s: %w", s.kind.name, err)
	}
	select {
	case <-time.After(s.hold):
	case <-ctx.Done():
		return ctx.Err()
	}
	over := time.Now()
	if end != nil {
		if err := end(); err != nil {
			return fmt.Errorf("end of %s: %w", s.kind.name, err)
		}
	}
	took, err := r.recover(ctx, over)
	if err != nil {
		return err
	}
	if !s.kind.beside {
		r.recovered(s.kind.name, took)
	}
	felt := r.stripe.failed() - before
	if s.kind.name == apiAway {
		felt = r.stripe.api.vain(over.Add(-s.hold))
	}
	r.felt[s.kind.name] += felt
	r.sayf("%3d/%d  %-30s replica %d  held %4d ms  %5d attempts failed, recovered in %v",
		n+1, of, s.kind.name, s.target+1, s.hold.Milliseconds(), felt, took.Round(time.Millisecond))
	stop()
	beside.Wait()
	for r.stripe.unsent.Load() > int64(s.deliveries) && ctx.Err() == nil { // the machine is slower than the schedule
		time.Sleep(10 * time.Millisecond)
	}
	return r.erase(ctx, 20)
}

func (r *rig) recovered(kind string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recoveries[kind] = append(r.recoveries[kind], took)
}

// recover waits until every replica takes what is new, and until what failed
// during the fault is acknowledged.
func (r *rig) recover(ctx context.Context, over time.Time) (time.Duration, error) {
	errs := make([]error, len(r.replicas))
	var all sync.WaitGroup
	for i := range r.replicas {
		all.Go(func() { errs[i] = r.probe(ctx, i, over.Add(within)) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		r.stripe.objectf("not recovered within %v: %v", within, err)
		return time.Since(over), ctx.Err()
	}
	for r.stripe.failingSince(over) > 0 {
		if time.Since(over) > within {
			r.stripe.objectf("%d deliveries that failed are not acknowledged within %v", r.stripe.failingSince(over), within)
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return time.Since(over), nil
}
