package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// made is what all tests use: two builds of the program, and a migrated database.
var made struct {
	programs []string
	database *database
}

func TestMain(m *testing.M) {
	code, err := prepared(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func prepared(m *testing.M) (code int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "webhookd-torture-test-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a folder of /tmp
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	if made.programs, err = build(ctx, dir, "v0.0.1", "v0.0.2"); err != nil {
		return 1, err
	}
	if made.database, err = openDatabase(ctx, filepath.Join(dir, "postgres")); err != nil {
		return 1, err
	}
	defer func() { err = made.database.stop(ctx) }()
	r := &rig{plan: &plan{}, programs: made.programs, db: made.database}
	if err := r.command(ctx, r.db.address(), "migrate", "up"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// programs is the flag that saves building.
func programs() string { return strings.Join(made.programs, ",") }

// calm runs a small plan on a copy of the database.
func calm(tb testing.TB, plant *defect) *result {
	tb.Helper()
	db, err := made.database.clone(tb.Context(), fmt.Sprintf("calm_%d", rand.Uint64()))
	if err != nil {
		tb.Fatal(err)
	}
	r, err := open(tb.Context(), &plan{
		seed: 11, deliveries: 800, replicas: 1, perFault: 1, patience: 3 * time.Second,
		plant: plant, api: true, programs: made.programs, database: db,
	}, io.Discard)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			tb.Error(err)
		}
	}()
	res, err := r.torture(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

func printed(res *result) string {
	var text bytes.Buffer
	res.print(&text)
	return text.String()
}

// TestNothingIsLostUnderFire is the short form: every kind of fault once.
func TestNothingIsLostUnderFire(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"--seed", "1", "--deliveries", "10000", "--program", programs()}, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s%s", err, &stderr, &stdout)
	}
	t.Logf("%s%s", &stderr, &stdout)
	for _, k := range kinds() {
		if !strings.Contains(stdout.String(), "| "+k.name+" | 1 |") {
			t.Errorf("%s was not injected", k.name)
		}
	}
}

func TestNothingIsFoundWhereNothingIsPlanted(t *testing.T) {
	t.Parallel()
	if res := calm(t, nil); !res.ok() || res.verdict.Compared < 1500 || res.verdict.Marked < 300 || res.counts.Forged == 0 || res.counts.Duplicates == 0 {
		t.Error(printed(res))
	}
}

func TestEveryPlantedDefectIsFound(t *testing.T) {
	t.Parallel()
	for _, d := range defects() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			if res := calm(t, &d); res.ok() || d.shows(res) == 0 {
				t.Error(printed(res))
			}
		})
	}
}

func TestARunThatMustFailFails(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	err := run(t.Context(), []string{"--plant", mustFail, "--deliveries", "300", "--faults", "none", "--program", programs()}, &stdout, io.Discard)
	if err == nil || !strings.Contains(stdout.String(), "different") {
		t.Errorf("%v\n%s", err, &stdout)
	}
}

// TestStrangersGetNothing is the short form of the attacks.
func TestStrangersGetNothing(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	if err := run(t.Context(), []string{"--attack", "--attack-for", "700ms", "--replicas", "1", "--program", programs()}, &stdout, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, &stdout)
	}
	for _, a := range attacks() {
		if !strings.Contains(stdout.String(), "| "+a.name+" |") {
			t.Errorf("%s was not tried", a.name)
		}
	}
}

func TestWhatGrowsIsFound(t *testing.T) {
	t.Parallel()
	samples := func(grow func(s sample, n float64)) (all []sample) {
		for n := range 60 {
			s := sample{"memory MB": 60, "goroutines": 40, "file descriptors": 50, "database connections": 27, "bytes per live row": 2000}
			grow(s, float64(n))
			all = append(all, s)
		}
		return all
	}
	if err := flat(samples(func(sample, float64) {}), io.Discard); err != nil {
		t.Error(err)
	}
	for name := range grows() {
		err := flat(samples(func(s sample, n float64) { s[name] = (s[name] + 1) * (1 + n*n) }), io.Discard)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s grows, and what is found is %v", name, err)
		}
	}
	if err := flat(nil, io.Discard); err == nil {
		t.Error("no samples are enough")
	}
}

func TestASeedRepeatsTheScheduleAndTheTales(t *testing.T) {
	t.Parallel()
	of := func(seed uint64) (all []string) {
		r := &rig{plan: &plan{seed: seed, deliveries: 300_000, replicas: 3, perFault: 4000, kinds: kinds()}}
		released := 0
		for _, s := range r.schedule() {
			released += s.deliveries
			all = append(all, fmt.Sprint(s.kind.name, s.target, s.hold, s.deliveries, s.seed))
		}
		if released != 300_000 {
			t.Errorf("%d deliveries are released", released)
		}
		a := &author{seed: seed, now: time.Unix(1_800_000_000, 0)}
		for number := range 50 {
			tale := a.tale(number)
			all = append(all, fmt.Sprint(tale.deliveries, tale.erased))
			for _, f := range tale.events {
				all = append(all, string(f.body))
			}
		}
		return all
	}
	if diff := cmp.Diff(of(1), of(1)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(of(1), of(2)) {
		t.Error("two seeds draw the same")
	}
}

func TestACommitIsSeenHoweverItsBytesArrive(t *testing.T) {
	t.Parallel()
	message := func(kind byte, rest string) []byte {
		return append([]byte{kind, 0, 0, 0, byte(4 + len(rest))}, rest...)
	}
	answer := bytes.Join([][]byte{
		message('R', "\x00\x00\x00\x00"), message('D', "CCOMMIT\x00C"), message('C', "INSERT 0 1\x00"), message('2', ""),
		message('C', "COMMIT\x00"), message('Z', "I"),
	}, nil)
	end := bytes.LastIndex(answer, []byte("COMMIT\x00")) + len("COMMIT\x00")
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s, at, seen := &sniffer{}, 0, 0
		for at < len(answer) {
			n := min(1+rng.IntN(9), len(answer)-at)
			if s.committed(answer[at : at+n]) {
				if seen++; at >= end || at+n < end {
					t.Fatalf("seed %d: seen in bytes %d to %d, and it ends at %d", seed, at, at+n, end)
				}
			}
			at += n
		}
		if seen != 1 {
			t.Fatalf("seed %d: seen %d times", seed, seen)
		}
	}
}

func TestAMarkIsFoundHoweverItsBytesArrive(t *testing.T) {
	t.Parallel()
	text := []byte(strings.Repeat("x", 100) + "PIIMARK-7-, PIIMARK-12345- and \tPIIMARK-8-\n")
	for n := 1; n < len(text); n++ {
		m := &markReader{found: map[int]bool{}}
		for at := 0; at < len(text); at += n {
			if _, err := m.Write(text[at:min(at+n, len(text))]); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(map[int]bool{7: true, 8: true, 12345: true}, m.found); diff != "" {
			t.Fatalf("%d bytes at a time:\n%s", n, diff)
		}
	}
}
