package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// What happens to sessions and why they fail, in parts of a hundred: about
// three events a session.
const (
	usualStories = "happy=60,retry=12,abandoned=15,canceled=5,failing=3,override=2,redacted=2,redacted-unverified=1"
	usualCodes   = "abandoned=20,document_unverified_other=18,document_expired=12,selfie_face_mismatch=10," +
		"selfie_unverified_other=6,document_type_not_supported=6,consent_declined=5,id_number_mismatch=4," +
		"id_number_unverified_other=3,id_number_insufficient_document_data=3,selfie_document_missing_photo=3," +
		"phone_verification_declined=2,email_verification_declined=2,selfie_manipulated=1,country_not_supported=1," +
		"device_not_supported=1,under_supported_age=1,email_unverified_other=1,phone_unverified_other=1"
)

// simulation is what simulate was asked to do.
type simulation struct {
	target      target
	url         *url.URL
	mix         *mix
	connections int
	rate        float64 // events a second; 0 is as fast as they are answered
	duration    time.Duration
	events      int64 // 0 is without end
	duplicates  float64
	shuffle     float64
	forged      float64
	seed        uint64

	taken atomic.Int64 // of events
	acked atomic.Int64
	other atomic.Int64 // refused, or failed
}

func newSimulateCommand() *cobra.Command {
	var (
		s              = &simulation{}
		stories, codes string
		size           int
		asJSON         bool
	)
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Sends a continuous, realistic mix of events",
		Long: `Sends signed events of many sessions, with ids that are new in every run, to an
endpoint on this machine, by default that of 'webhookd dev' in this folder, until
Ctrl-C, --duration or --events ends it, and sums up what became of them.

Each connection sends its next event when the last one is answered. With --rate
events are due at fixed times instead, and what is late counts as slow: latency
is from when an event was due to its answer.

Shares are parts of one. A story that fails fails with one of --codes, where none
is no error. A share of --bad-signatures comes beside the mix and must be refused.

Exit code 0 if every delivery was answered with 2xx, and no forged one; 1 if not;
2 for wrong usage.`,
		Example: `  webhookd simulate --rate 20
  webhookd simulate --connections 64 --duration 10s --json
  webhookd simulate --duplicates 0.1 --shuffle 0.2 --bad-signatures 0.05
  webhookd simulate --stories failing --codes selfie_face_mismatch=3,document_expired=1,none=1`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&s.target.URL, "url", "", "the endpoint (default: the one of 'webhookd dev')")
	f.StringVar(&s.target.Secret, "secret", "", "its signing `secret` (likewise)")
	f.IntVar(&s.connections, "connections", 4, "how many deliver at the same time")
	f.Float64Var(&s.rate, "rate", 0, "`events` a second (default: as fast as they are answered)")
	f.DurationVar(&s.duration, "duration", 0, "how long (default: until Ctrl-C)")
	f.Int64Var(&s.events, "events", 0, "end after so many deliveries")
	f.StringVar(&stories, "stories", usualStories, "what happens to sessions, as `name=weight,...` (names as for 'trigger story')")
	f.StringVar(&codes, "codes", usualCodes, "why they fail, as `code=weight,...`")
	f.Float64Var(&s.duplicates, "duplicates", 0, "the `share` of deliveries that repeat an event")
	f.Float64Var(&s.shuffle, "shuffle", 0, "the `share` of events that change places within their session")
	f.Float64Var(&s.forged, "bad-signatures", 0, "the `share` of deliveries with a wrong signature")
	f.IntVar(&size, "size", 2700, "about so many `bytes` a body, by more metadata")
	f.Uint64Var(&s.seed, "seed", 0, "draw the same mix again (default: another each time)")
	f.BoolVar(&asJSON, "json", false, "the summary as JSON")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !f.Changed("seed") {
			s.seed = rand.Uint64()
		}
		if err := s.check(stories, codes, size); err != nil {
			return err
		}
		progress := io.Discard
		if isTerminal(cmd.ErrOrStderr()) {
			progress = cmd.ErrOrStderr()
		}
		sum, err := s.run(cmd.Context(), progress)
		if err != nil {
			return err
		}
		if asJSON {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(sum)
		} else {
			err = sum.print(cmd.OutOrStdout())
		}
		return errors.Join(err, sum.verdict())
	}
	return cmd
}

// check looks at the flags together and renders the mix.
func (s *simulation) check(stories, codes string, size int) error {
	storyWeights, err := weightsOf(stories)
	if err != nil {
		return usagef("--stories: %w", err)
	}
	codeWeights, err := weightsOf(codes)
	if err != nil {
		return usagef("--codes: %w", err)
	}
	share := func(x float64) bool { return x >= 0 && x <= 1 }
	switch {
	case s.connections < 1 || s.connections > 10_000:
		return usagef("--connections is from 1 to 10000")
	case !(s.rate >= 0 && s.rate <= 1e6):
		return usagef("--rate is from 0 to 1e6")
	case s.duration < 0 || s.events < 0:
		return usagef("--duration and --events are not negative")
	case !share(s.duplicates) || !share(s.shuffle) || !share(s.forged) || s.duplicates+s.forged > 1:
		return usagef("shares are from 0 to 1, those of --duplicates and --bad-signatures together too")
	case size < 0 || size > 24<<10:
		return usagef("--size is at most 24 KiB: metadata holds no more")
	}
	if err := s.target.complete(); err != nil {
		return err
	}
	if s.url, err = url.Parse(s.target.URL); err != nil {
		return usagef("--url: %w", err)
	}
	if s.url.Scheme != "http" || !isLoopback(s.url.Hostname()) {
		return usagef("simulate loads http:// endpoints of this machine only: for others there is 'webhookd trigger'")
	}
	if s.mix, err = newMix(s.seed, storyWeights, codeWeights, size); err != nil {
		return usagef("--stories: %w", err)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run sends until ctx, the duration or the number of events ends it.
func (s *simulation) run(ctx context.Context, progress io.Writer) (*summary, error) {
	first := newLink(s.url, s.target.Secret)
	if err := first.dial(ctx); err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("connect: %w (is 'webhookd dev' or 'webhookd serve' running?)", err)
	}
	defer first.close()
	if s.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.duration)
		defer cancel()
	}
	tallies := make([]*tally, s.connections)
	start := time.Now()
	var senders, watcher sync.WaitGroup
	for n := range s.connections {
		tallies[n] = newTally()
		link := first
		if n > 0 {
			link = newLink(s.url, s.target.Secret)
		}
		senders.Go(func() { s.send(ctx, n, link, start, tallies[n]) })
	}
	done := make(chan struct{})
	watcher.Go(func() { s.watch(progress, start, done) })
	senders.Wait()
	elapsed := time.Since(start)
	close(done)
	watcher.Wait()
	return summarize(s.connections, elapsed, tallies), nil
}

// send is one connection.
func (s *simulation) send(ctx context.Context, n int, l *link, start time.Time, t *tally) {
	defer l.close()
	teller := newTeller(s.mix, s.seed, n, s.connections, s.shuffle)
	attempt := context.WithoutCancel(ctx) // what was sent is waited for
	for i := n; ; i += s.connections {
		due := time.Now()
		if s.rate > 0 {
			due = start.Add(time.Duration(float64(i) / s.rate * float64(time.Second)))
			wait(ctx, time.Until(due))
		}
		if ctx.Err() != nil || s.events > 0 && s.taken.Add(1) > s.events {
			return
		}
		now := time.Now()
		m, forged := s.draw(teller, now.Unix())
		a, err := l.deliver(attempt, m, forged, now)
		if t.count(a, err, forged, time.Since(due)) {
			s.acked.Add(1)
		} else {
			s.other.Add(1)
		}
		if err != nil {
			wait(ctx, 100*time.Millisecond) // it may be starting again
		}
	}
}

// draw decides what a delivery is.
func (s *simulation) draw(t *teller, now int64) (m *message, forged bool) {
	if s.forged+s.duplicates == 0 {
		return t.next(now), false
	}
	switch draw := t.rng.Float64(); {
	case draw < s.forged:
		return t.again(now), true
	case draw < s.forged+s.duplicates:
		return t.again(now), false
	}
	return t.next(now), false
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// watch keeps one line up to date.
func (s *simulation) watch(w io.Writer, start time.Time, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := int64(0); ; {
		select {
		case <-done:
			fmt.Fprint(w, "\r\x1b[K")
			return
		case <-tick.C:
		}
		acked := s.acked.Load()
		fmt.Fprintf(w, "\r%v  %d acked, %d/s, %d others\x1b[K", time.Since(start).Round(time.Second), acked, acked-last, s.other.Load())
		last = acked
	}
}

// tally is what one connection saw.
type tally struct {
	answered            latencies
	sent, acked         int64
	forged, forgedTaken int64
	outcomes, why       map[string]int64
	statuses            map[int]int64
}

func newTally() *tally {
	return &tally{outcomes: map[string]int64{}, why: map[string]int64{}, statuses: map[int]int64{}}
}

// count reports whether a delivery was taken.
func (t *tally) count(a reply, err error, forged bool, took time.Duration) bool {
	t.sent++
	if forged {
		t.forged++
	}
	if err != nil {
		t.why[cause(err)]++
		return false
	}
	t.answered.add(took)
	t.statuses[a.status]++
	if len(a.word) > 0 {
		t.outcomes[string(a.word)]++
	}
	taken := a.status/100 == 2
	switch {
	case taken && forged:
		t.forgedTaken++
	case taken:
		t.acked++
	}
	return taken
}

func (t *tally) merge(o *tally) {
	t.answered.merge(&o.answered)
	t.sent += o.sent
	t.acked += o.acked
	t.forged += o.forged
	t.forgedTaken += o.forgedTaken
	for word, n := range o.outcomes {
		t.outcomes[word] += n
	}
	for status, n := range o.statuses {
		t.statuses[status] += n
	}
	for why, n := range o.why {
		t.why[why] += n
	}
}

// summary is the answer of simulate.
type summary struct {
	Seconds       float64          `json:"seconds"`
	Connections   int              `json:"connections"`
	Sent          int64            `json:"sent"`
	Acked         int64            `json:"acked"` // 2xx, and rightly signed
	AcksPerSecond float64          `json:"acks_per_second"`
	BadSignatures int64            `json:"bad_signatures"` // of what was sent
	ForgedTaken   int64            `json:"bad_signatures_taken"`
	Latency       quantiles        `json:"latency_ms"` // of every answer
	Outcomes      map[string]int64 `json:"outcomes"`
	Statuses      map[int]int64    `json:"statuses"`
	Errors        map[string]int64 `json:"errors"` // deliveries without an answer
}

type quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

func summarize(connections int, elapsed time.Duration, tallies []*tally) *summary {
	all := newTally()
	for _, t := range tallies {
		all.merge(t)
	}
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	h := &all.answered
	return &summary{
		Seconds: elapsed.Seconds(), Connections: connections,
		Sent: all.sent, Acked: all.acked, AcksPerSecond: float64(all.acked) / elapsed.Seconds(),
		BadSignatures: all.forged, ForgedTaken: all.forgedTaken,
		Latency: quantiles{
			millis(h.quantile(.5)), millis(h.quantile(.9)), millis(h.quantile(.99)), millis(h.quantile(.999)), millis(h.max),
		},
		Outcomes: all.outcomes, Statuses: all.statuses, Errors: all.why,
	}
}

func (s *summary) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f s, %d connections: %d sent, %d acked, %.0f/s\n", s.Seconds, s.Connections, s.Sent, s.Acked, s.AcksPerSecond)
	l := s.Latency
	fmt.Fprintf(&b, "ms        p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f\n", l.P50, l.P90, l.P99, l.P999, l.Max)
	statuses := map[string]int64{}
	for status, n := range s.Statuses {
		statuses[strconv.Itoa(status)] = n
	}
	for _, row := range []struct {
		name   string
		counts map[string]int64
	}{{"outcomes", s.Outcomes}, {"statuses", statuses}, {"errors", s.Errors}} {
		if len(row.counts) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%-8s", row.name)
		for _, word := range slices.Sorted(maps.Keys(row.counts)) {
			fmt.Fprintf(&b, "  %s %d", word, row.counts[word])
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict is an error unless everything went as it must.
func (s *summary) verdict() error {
	var faults []error
	if signed := s.Sent - s.BadSignatures; s.Acked < signed {
		faults = append(faults, fmt.Errorf("%d of %d signed deliveries were not taken", signed-s.Acked, signed))
	}
	if s.ForgedTaken > 0 {
		faults = append(faults, fmt.Errorf("%d of %d forged deliveries were taken", s.ForgedTaken, s.BadSignatures))
	}
	return errors.Join(faults...)
}
