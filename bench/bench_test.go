package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bench builds the command and returns how to call it.
func bench(tb testing.TB, ctx context.Context, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		tb.Fatalf("go build: %v\n%s", err, out)
	}
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd = exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

func TestEveryRowOfTheTableGetsAFigure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, stdout, stderr := bench(t, t.Context(), "--quick", "--seconds", "0.5", "--out", dir)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	table, medians, _ := strings.Cut(stdout.String(), "\n\n| |")
	for _, row := range []string{
		"by hand, 16 connections", "by hand, 64 connections", "by hand, 256 connections",
		"batched limit, 64 connections", "batched limit, 256 connections",
		"p99 against by hand, 64 connections", "p99 against by hand, 256 connections",
		"p50 of one connection against by hand", "above the floor", "CPU per event", "an idle connection", "(RSS)",
		"allocations per event", "full tables", "refused/s", "transactions per refused delivery",
	} {
		if !strings.Contains(table, row) {
			t.Errorf("no row of %q in\n%s", row, table)
		}
	}
	if rows := strings.Count(table, "\n| ") - 1; rows != 16 || strings.Contains(table, "n/a") || strings.Contains(table, "NaN") || strings.Contains(table, "Inf") {
		t.Errorf("%d rows:\n%s", rows, table)
	}
	for _, subject := range []string{"raw HTTP | 1 |", "raw writes, our indexes | 2 |", "by hand, pool of 32 | 256 |", "webhookd, full tables | 64 |"} {
		if !strings.Contains(medians, subject) {
			t.Errorf("no line of %q in\n%s", subject, medians)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("raw figures: %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil || !json.Valid(text) {
		t.Errorf("raw figures: %v\n%s", err, text)
	}
}

func TestAnInterruptLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd, _, stderr := bench(t, ctx, "--quick", "--ingest", "--out", t.TempDir())
	temporary := t.TempDir()
	if err := os.Chmod(temporary, 0o777); err != nil { // PostgreSQL may run as somebody else
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = read.Close() }()
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	for chunk := make([]byte, 4096); !strings.Contains(stderr.String(), "round 1"); {
		n, err := read.Read(chunk)
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
		stderr.Write(chunk[:n])
	}
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupt is taken for success")
	}
	left, err := filepath.Glob(filepath.Join(temporary, "webhookd-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
