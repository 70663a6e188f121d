package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// process is the program as its users run it.
type process struct {
	testing.TB
	cmd         *exec.Cmd
	stdout, log *buffer
	ended       chan struct{}
}

// launch runs the program in a folder, with these variables of ours and no
// other, until it ends or the test does.
func launch(tb testing.TB, dir string, vars env, args ...string) *process {
	tb.Helper()
	p := &process{TB: tb, cmd: exec.Command(program(tb), args...), stdout: new(buffer), log: new(buffer), ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.stdout, p.log
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); !strings.HasPrefix(name, "WEBHOOKD_") && !strings.HasPrefix(name, "PG") && name != "DATABASE_URL" {
			p.cmd.Env = append(p.cmd.Env, entry)
		}
	}
	for name, text := range vars {
		p.cmd.Env = append(p.cmd.Env, name+"="+text)
	}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState tells
		close(p.ended)
	}()
	tb.Cleanup(func() { p.signal(syscall.SIGKILL); <-p.ended })
	return p
}

// signal may come too late.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// exits waits for the end with an exit code.
func (p *process) exits(want int) *process {
	p.Helper()
	eventually(p, "see the program end", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	if got := p.cmd.ProcessState.ExitCode(); got != want {
		p.Errorf("%s: exit code %d, want %d\n%s%s", strings.Join(p.cmd.Args, " "), got, want, p.stdout, p.log)
	}
	return p
}

// serves waits until the program serves.
func (p *process) serves() *process {
	p.Helper()
	eventually(p, "see the program serve", func() bool {
		select {
		case <-p.ended:
			p.Fatalf("%s ended\n%s%s", strings.Join(p.cmd.Args, " "), p.stdout, p.log)
		default:
		}
		return strings.Contains(p.log.String(), `"serving"`)
	})
	return p
}
