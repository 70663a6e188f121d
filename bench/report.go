package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The names of what is measured.
const (
	nameRawHTTP    = "raw HTTP"
	nameRawWrites  = "raw writes"
	nameRawIndexed = "raw writes, our indexes"
	nameRawOne     = "raw write of one event"
	nameWebhookd   = "webhookd"
	nameForged     = "webhookd, bad signatures"
	nameEmpty      = "webhookd, empty tables"
	nameFull       = "webhookd, full tables"
)

func nameByHand(pool int) string { return fmt.Sprintf("by hand, pool of %d", pool) }

func nameReplicas(n int) string { return fmt.Sprintf("webhookd, replicas: %d", n) }

func nameSlow(name string, delay time.Duration) string {
	return fmt.Sprintf("%s, commit_delay %v", name, delay)
}

// measurement is one subject under one load. A zero is what was not measured:
// CPU where there is no /proc, say.
type measurement struct {
	Name            string  `json:"name"`
	Round           int     `json:"round"`
	Connections     int     `json:"connections"`
	PerSecond       float64 `json:"per_second"`
	P50             float64 `json:"p50_ms"`
	P90             float64 `json:"p90_ms"`
	P99             float64 `json:"p99_ms"`
	P999            float64 `json:"p99_9_ms"`
	ServerCPU       float64 `json:"server_cpu_us,omitempty"` // of an event, user and system
	PostgresCPU     float64 `json:"postgresql_cpu_us,omitempty"`
	GeneratorCPU    float64 `json:"generator_cpu_us,omitempty"`
	RSS             int64   `json:"rss_bytes,omitempty"`
	Allocations     float64 `json:"allocations,omitempty"` // of an event
	EventsPerCommit float64 `json:"events_per_commit,omitempty"`
	Transactions    int64   `json:"transactions,omitempty"` // of webhookd's database, while it refused, beyond those of an idle one
}

// results are all that was measured.
type results struct {
	Machine      machine       `json:"machine"`
	Rounds       int           `json:"rounds"`
	Seconds      float64       `json:"seconds"`
	Measurements []measurement `json:"measurements"`
	Idle         *idle         `json:"idle,omitempty"`
}

// idle is what connections cost that do nothing.
type idle struct {
	Connections   int     `json:"connections"`
	ConnectionKB  float64 `json:"connection_kb"` // heap and stack of one
	ResidentMB    float64 `json:"resident_mb"`   // of the process with all of them
	ResidentAlone float64 `json:"resident_without_mb"`
}

// rounds is a figure by round.
type byRound map[int]float64

func (r *results) figures(name string, connections int, of func(*measurement) float64) byRound {
	all := byRound{}
	for i := range r.Measurements {
		if m := &r.Measurements[i]; m.Name == name && m.Connections == connections {
			if value := of(m); value > 0 {
				all[m.Round] = value
			}
		}
	}
	return all
}

// with combines two figures of each round that has both.
func (a byRound) with(b byRound, do func(a, b float64) float64) byRound {
	all := byRound{}
	for round, value := range a {
		if other, ok := b[round]; ok {
			all[round] = do(value, other)
		}
	}
	return all
}

func ratio(a, b float64) float64 { return a / b }

func (a byRound) sorted() []float64 { return slices.Sorted(maps.Values(a)) }

// median is 0 of nothing.
func (a byRound) median() float64 {
	all := a.sorted()
	if len(all) == 0 {
		return 0
	}
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func perSecond(m *measurement) float64 { return m.PerSecond }
func p50(m *measurement) float64       { return m.P50 }
func p99(m *measurement) float64       { return m.P99 }

// cpuPerEvent is zero unless both are known.
func cpuPerEvent(m *measurement) float64 {
	if m.ServerCPU == 0 || m.PostgresCPU == 0 {
		return 0
	}
	return m.ServerCPU + m.PostgresCPU
}

// byHand is the name of the pool that was better with so many connections.
func (r *results) byHand(connections int) string {
	return slices.MaxFunc([]string{nameByHand(16), nameByHand(32)}, func(a, b string) int {
		return cmp.Compare(r.figures(a, connections, perSecond).median(), r.figures(b, connections, perSecond).median())
	})
}

// goal is a row of the table.
type goal struct {
	name      string
	unit      string // "x" for ratios
	less      bool   // is better
	must, aim float64
	reached   byRound
}

// goals are the targets. Each says which figures it needs.
func (r *results) goals() []goal {
	var all []goal
	for _, g := range []struct {
		connections int
		must, aim   float64
	}{{16, 3, 4}, {middle, 5, 7}, {many, 6, 8}} {
		n := g.connections
		all = append(all, goal{fmt.Sprintf("acked events/s against by hand, %d connections", n), "x", false, g.must, g.aim,
			r.figures(nameWebhookd, n, perSecond).with(r.figures(r.byHand(n), n, perSecond), ratio)})
	}
	limit := r.figures(nameRawWrites, 2, perSecond)
	all = append(all,
		goal{"share of the raw batched limit, 64 connections", "x", false, 0.33, 0.45, r.figures(nameWebhookd, middle, perSecond).with(limit, ratio)},
		goal{"share of the raw batched limit, 256 connections", "x", false, 0.50, 0.60, r.figures(nameWebhookd, many, perSecond).with(limit, ratio)},
	)
	for _, n := range []int{middle, many} {
		all = append(all, goal{fmt.Sprintf("p99 against by hand, %d connections", n), "x", true, 1. / 3, 1. / 5,
			r.figures(nameWebhookd, n, p99).with(r.figures(r.byHand(n), n, p99), ratio)})
	}
	one := r.figures(nameWebhookd, 1, p50)
	floor := r.figures(nameRawHTTP, 1, p50).with(r.figures(nameRawOne, 1, p50), func(http, write float64) float64 { return http + write })
	connection, resident, connections := byRound{}, byRound{}, 0
	if r.Idle != nil {
		connection[1], resident[1], connections = r.Idle.ConnectionKB, r.Idle.ResidentMB, r.Idle.Connections
	}
	transactions := byRound{}
	for _, m := range r.Measurements {
		if m.Name == nameForged {
			transactions[m.Round] = float64(m.Transactions) / (m.PerSecond * r.Seconds)
		}
	}
	return append(all,
		goal{"p50 of one connection against by hand", "x", true, 0.6, 0.5, one.with(r.figures(nameByHand(16), 1, p50), ratio)},
		goal{"p50 of one connection above the floor (raw HTTP and a raw write)", " ms", true, 0.20, 0.10,
			one.with(floor, func(ours, floor float64) float64 { return ours - floor })},
		goal{"server and PostgreSQL CPU per event against by hand, 64 connections", "x", true, 1. / 5, 1. / 8,
			r.figures(nameWebhookd, middle, cpuPerEvent).with(r.figures(r.byHand(middle), middle, cpuPerEvent), ratio)},
		goal{"heap and stack of an idle connection", " KB", true, 32, 20, connection},
		goal{fmt.Sprintf("memory (RSS) with %d idle connections", connections), " MB", true, 100, 80, resident},
		goal{"allocations per event", "", true, 45, 30, r.figures(nameWebhookd, middle, func(m *measurement) float64 { return m.Allocations })},
		goal{"acked events/s with full tables against empty ones", "x", false, 0.95, 1, r.figures(nameFull, middle, perSecond).with(r.figures(nameEmpty, middle, perSecond), ratio)},
		goal{"bad signatures refused/s against raw HTTP", "x", false, 0.75, 0.9, r.figures(nameForged, middle, perSecond).with(r.figures(nameRawHTTP, middle, perSecond), ratio)},
		goal{"transactions per refused delivery, beyond those of an idle service", "", true, 0.001, 0.001, transactions},
	)
}

// verdict says which of the two marks the median reaches.
func (g *goal) verdict() string {
	median := g.reached.median()
	if len(g.reached) == 0 {
		return "n/a"
	}
	reaches := func(mark float64) bool { return !g.less && median >= mark || g.less && median <= mark }
	switch {
	case reaches(g.aim):
		return "ok, aim"
	case reaches(g.must):
		return "ok"
	}
	return "**no**"
}

func (g *goal) format(value float64) string {
	switch {
	case g.unit == " KB" || g.unit == " MB" || value >= 10:
		return fmt.Sprintf("%.1f%s", value, g.unit)
	case g.unit == "":
		return fmt.Sprintf("%.4g", value)
	}
	return fmt.Sprintf("%.2f%s", value, g.unit)
}

func (g *goal) row() string {
	sign := "≥ "
	if g.less {
		sign = "≤ "
	}
	reached := "n/a"
	if all := g.reached.sorted(); len(all) > 0 {
		reached = g.format(g.reached.median())
		if len(all) > 1 {
			reached += fmt.Sprintf(" (%s to %s)", g.format(all[0]), g.format(all[len(all)-1]))
		}
	}
	return fmt.Sprintf("| %s | %s%s | %s%s | %s | %s |\n", g.name, sign, g.format(g.must), sign, g.format(g.aim), reached, g.verdict())
}

// print writes the table of targets, and all medians.
func (r *results) print(w io.Writer) error {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%d cores, %.0f GB, %s, PostgreSQL %s, a disk that keeps 8 KiB in %.0f us; medians of %d rounds (lowest to highest), %v s each.\n\n",
		m.CPUs, m.MemoryGB, m.Go, m.PostgreSQL, m.SyncMicros, r.Rounds, r.Seconds)
	b.WriteString("| target | must | aim | reached | |\n|---|---|---|---|---|\n")
	for _, g := range r.goals() {
		if len(g.reached) > 0 {
			b.WriteString(g.row())
		}
	}
	r.printMedians(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *results) printMedians(b *strings.Builder) {
	if len(r.Measurements) == 0 {
		return
	}
	b.WriteString("\n| | connections | events/s | p50 ms | p90 | p99 | p99.9 | server us | PostgreSQL us | generator us | RSS MB | events a commit |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	type subject struct {
		name        string
		connections int
	}
	var subjects []subject
	for _, m := range r.Measurements {
		if s := (subject{m.Name, m.Connections}); !slices.Contains(subjects, s) {
			subjects = append(subjects, s)
		}
	}
	slices.SortStableFunc(subjects, func(a, b subject) int { return cmp.Compare(a.connections, b.connections) })
	for _, s := range subjects {
		fmt.Fprintf(b, "| %s | %d |", s.name, s.connections)
		for _, column := range []struct {
			format string
			of     func(*measurement) float64
		}{
			{"%.0f", perSecond},
			{"%.2f", p50},
			{"%.2f", func(m *measurement) float64 { return m.P90 }},
			{"%.2f", p99},
			{"%.2f", func(m *measurement) float64 { return m.P999 }},
			{"%.0f", func(m *measurement) float64 { return m.ServerCPU }},
			{"%.0f", func(m *measurement) float64 { return m.PostgresCPU }},
			{"%.0f", func(m *measurement) float64 { return m.GeneratorCPU }},
			{"%.0f", func(m *measurement) float64 { return float64(m.RSS) / (1 << 20) }},
			{"%.1f", func(m *measurement) float64 { return m.EventsPerCommit }},
		} {
			if all := r.figures(s.name, s.connections, column.of); len(all) > 0 {
				fmt.Fprintf(b, " "+column.format+" |", all.median())
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteByte('\n')
	}
}

// save keeps the figures of every round.
func (r *results) save(dir string, log io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // figures are no secret
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, time.Now().Format("2006-01-02T150405")+".json")
	if err := os.WriteFile(name, append(text, '\n'), 0o644); err != nil { //nolint:gosec // likewise
		return err
	}
	fmt.Fprintf(log, "raw figures in %s\n", name)
	return nil
}
