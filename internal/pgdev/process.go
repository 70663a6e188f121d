package pgdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

// supervisor runs a program as its child and sends it the signals that it reads
// from standard input, one name a line. End of input means that our parent is
// gone: the program is ended at once (which PostgreSQL recovers from, and which,
// unlike an orderly end, cannot hang) and the folder $1, if any, removed.
// Descriptor 3, the lock, is passed on to the program.
const supervisor = `
folder=$1
shift
exec 4<&0 </dev/null
orphaned=
trap 'orphaned=1' TERM
"$@" 4<&- &
program=$!
{
	while read -r signal; do kill -s "$signal" "$program"; done
	kill -s TERM $$
	kill -s QUIT "$program"
} <&4 3<&- 4<&- 2>/dev/null &
reader=$!
exec 4<&-
while :; do
	wait "$program"
	code=$?
	kill -0 "$program" 2>/dev/null || break
done
kill "$reader" 2>/dev/null
if [ -n "$orphaned" ] && [ -n "$folder" ]; then rm -rf "$folder"; fi
exit "$code"
`

// process is a supervised program.
type process struct {
	home  *home
	cmd   *exec.Cmd
	pipe  io.WriteCloser
	asked atomic.Bool // to end, by us
	done  chan struct{}
	err   error // how it ended; read after done
}

// spawn runs a program under the supervisor, as the server's account, in a
// session of its own, with its output in the log.
func (h *home) spawn(argv []string) (*process, error) {
	log, err := h.root.OpenFile(logName, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	defer func() { _ = log.Close() }() // the program has its own
	folder := ""
	if h.temporary {
		folder = h.dir
	}
	cmd := h.acct.command("/bin/sh", append([]string{"-c", supervisor, "webhookd-postgres", folder}, argv...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{h.lock}
	cmd.SysProcAttr.Setsid = true
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s as user %s: %w", argv[0], h.acct.name, err)
	}
	p := &process{home: h, cmd: cmd, pipe: pipe, done: make(chan struct{})}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// end sends a signal and waits for the program's end, with ever less patience.
func (p *process) end(ctx context.Context, signal string) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	p.asked.Store(true)
	p.send(signal)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	p.send("QUIT")
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.send("KILL")
		<-p.done
	}
	return fmt.Errorf("ended at once instead of in order: %w", context.Cause(ctx))
}

// send fails when the program has ended: that is what is waited for.
func (p *process) send(signal string) { _, _ = io.WriteString(p.pipe, signal+"\n") }

// failure is an error about a program that ended, with the end of its log.
func (p *process) failure(what string) error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	lines := p.home.tail()
	if len(lines) == 0 {
		return errors.New(what + " (" + how + "), and wrote nothing to " + p.home.path(logName))
	}
	return fmt.Errorf("%s (%s), the end of %s:\n  %s", what, how, p.home.path(logName), strings.Join(lines, "\n  "))
}
