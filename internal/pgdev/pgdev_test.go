package pgdev_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"webhookd/internal/pgdev"
)

func TestRunningServer(t *testing.T) {
	t.Parallel()
	s := start(t, pgdev.Options{Ephemeral: true, Settings: map[string]string{"shared_buffers": "1MB"}})
	tests := map[string]func(tb testing.TB, s *pgdev.Server){
		"has the settings asked for":                hasSettings,
		"says its version":                          saysVersion,
		"is opened by the password only":            passwordOpens,
		"is not reached by Ctrl-C":                  isOutOfReach,
		"logs no statement, parameter or detail":    logsLittle,
		"has no end to explain while it is alive":   explainsNothing,
		"is the only one that its folder is for":    isAlone,
		"keeps its folder from Reset while it runs": resists,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

func hasSettings(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	want := map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200", "shared_buffers": "1MB",
		"fsync": "off", "synchronous_commit": "on", "log_parameter_max_length_on_error": "0", "log_min_error_statement": "panic",
		"log_error_verbosity": "terse", "log_statement": "none", "server_encoding": "UTF8",
	}
	got := map[string]string{}
	for name := range want {
		got[name] = text(tb, s.URL("webhookd"), "SHOW "+name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("settings (-want +got):\n%s", diff)
	}
}

func saysVersion(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	if got := text(tb, s.URL("webhookd"), "SHOW server_version"); !strings.HasPrefix(got, s.Version()) {
		tb.Errorf("Version() = %q, the server says %q", s.Version(), got)
	}
}

func passwordOpens(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	u, err := url.Parse(s.URL("webhookd"))
	if err != nil {
		tb.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), "guess")
	_, err = pgx.Connect(tb.Context(), u.String())
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
		tb.Errorf("connect with a wrong password: %v, want 28P01", err)
	}
	info, err := os.Stat(filepath.Join(s.Dir(), "password"))
	if err != nil {
		tb.Fatal(err)
	}
	if info.Mode() != 0o600 {
		tb.Errorf("the password's file has mode %v, want 0600", info.Mode())
	}
}

// Ctrl-C in a terminal is sent to the foreground's process group.
func isOutOfReach(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	for what, pid := range map[string]int{"supervisor": s.SupervisorPID(), "postmaster": postmaster(tb, s.Dir())} {
		pgid, err := syscall.Getpgid(pid)
		if err != nil {
			tb.Fatal(err)
		}
		if pgid == syscall.Getpgrp() {
			tb.Errorf("the %s is in our process group", what)
		}
	}
}

func logsLittle(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	conn := connect(tb, s.URL("webhookd"))
	if _, err := conn.Exec(tb.Context(), "CREATE TABLE t (k text PRIMARY KEY)"); err != nil {
		tb.Fatal(err)
	}
	for range 2 {
		_, _ = conn.Exec(tb.Context(), "INSERT INTO t VALUES ($1)", "canary") // the second fails: its Detail names the value
	}
	log := readFile(tb, filepath.Join(s.Dir(), "postgres.log"))
	if !strings.Contains(log, "duplicate key") {
		tb.Errorf("the log misses the error:\n%s", log)
	}
	for _, secret := range []string{"canary", "STATEMENT", "DETAIL"} {
		if strings.Contains(log, secret) {
			tb.Errorf("the log holds %q:\n%s", secret, log)
		}
	}
}

func explainsNothing(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	if err := s.Err(); err != nil {
		tb.Errorf("Err() = %v, want nil", err)
	}
}

func isAlone(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	_, err := pgdev.Start(tb.Context(), pgdev.Options{Dir: s.Dir(), Ephemeral: true})
	wantError(tb, err, "already running on "+s.Dir())
}

func resists(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	wantError(tb, pgdev.Reset(tb.Context(), s.Dir()), "already running on "+s.Dir())
	if got := text(tb, s.URL("webhookd"), "SELECT 'undisturbed'"); got != "undisturbed" {
		tb.Errorf("read %q", got)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, pgdev.Options{Ephemeral: true})
	stop(t, s)
	if exists(s.Dir()) {
		t.Errorf("%s is left behind", s.Dir())
	}
	if listening(t, s.URL("webhookd")) {
		t.Error("something still listens on the port")
	}
	stop(t, s) // again is no error
	kill(t, s)
	if err := s.Err(); err != nil {
		t.Errorf("Err() after Stop = %v, want nil", err)
	}
}

func TestKeptFolder(t *testing.T) {
	t.Parallel()
	tests := map[string]func(tb testing.TB, s *pgdev.Server){
		"data survive a stop":  stop,
		"data survive a crash": kill,
		"a stale postmaster.pid that names a living process is no obstacle": func(tb testing.TB, s *pgdev.Server) {
			tb.Helper()
			kill(tb, s)
			// Numbers come again: now it is the process of another server.
			other := start(tb, pgdev.Options{Ephemeral: true})
			pid := strconv.Itoa(postmaster(tb, other.Dir()))
			writeFile(tb, filepath.Join(s.Dir(), "data", "postmaster.pid"), pid+"\n/nowhere\n1700000000\n20000\n", 0o600)
		},
		"an interrupted initdb is no obstacle": func(tb testing.TB, s *pgdev.Server) {
			tb.Helper()
			stop(tb, s)
			if err := os.MkdirAll(filepath.Join(s.Dir(), "initdb", "base"), 0o700); err != nil {
				tb.Fatal(err)
			}
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := pgdev.Options{Dir: folder(t), Ephemeral: true}
			first := start(t, o)
			execute(t, first.URL("webhookd"), "CREATE TABLE kept AS SELECT 'still here' AS word")
			end(t, first)

			o.Port = first.Port()
			second := start(t, o)
			if first.URL("webhookd") != second.URL("webhookd") {
				t.Error("the same folder and port make another URL")
			}
			if got := text(t, second.URL("webhookd"), "SELECT word FROM kept"); got != "still here" {
				t.Errorf("read %q", got)
			}
		})
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		break_ func(tb testing.TB, dir string)
		want   string
	}{
		"data of another major version": {
			func(tb testing.TB, dir string) {
				tb.Helper()
				writeFile(tb, filepath.Join(dir, "data", "PG_VERSION"), "14\n", 0o600)
			},
			"were made by PostgreSQL 14, and found is",
		},
		"no password": {
			func(tb testing.TB, dir string) {
				tb.Helper()
				if err := os.Remove(filepath.Join(dir, "password")); err != nil {
					tb.Fatal(err)
				}
			},
			"--reset",
		},
		"a wrong password": {
			func(tb testing.TB, dir string) {
				tb.Helper()
				writeFile(tb, filepath.Join(dir, "password"), "wrong\n", 0o600)
			},
			"--reset",
		},
		"a server that does not start": {
			func(tb testing.TB, dir string) {
				tb.Helper()
				writeFile(tb, filepath.Join(dir, "data", "postgresql.conf"), "nonsense = 1\n", 0o600)
			},
			`unrecognized configuration parameter "nonsense"`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := pgdev.Options{Dir: folder(t), Ephemeral: true}
			stop(t, start(t, o))
			tt.break_(t, o.Dir)
			_, err := pgdev.Start(t.Context(), o)
			wantError(t, err, tt.want)
		})
	}
}

func TestTakenPortSaysSo(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	o := pgdev.Options{Dir: folder(t), Ephemeral: true}
	stop(t, start(t, o))

	// This listener lets connections in and says nothing.
	o.Port = l.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	_, err = pgdev.Start(ctx, o)
	wantError(t, err, "port "+strconv.Itoa(o.Port)+" is taken")
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it took too long: %v", err)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	o := pgdev.Options{Dir: folder(t), Ephemeral: true}
	_, err := pgdev.Start(ctx, o)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Start = %v, want the context's error", err)
	}
	start(t, o)
}

func TestResetRemovesTheDataAndNothingElse(t *testing.T) {
	t.Parallel()
	o := pgdev.Options{Dir: folder(t), Ephemeral: true}
	reset := func() {
		t.Helper()
		if err := pgdev.Reset(t.Context(), o.Dir); err != nil {
			t.Fatal(err)
		}
	}
	reset() // of nothing
	stop(t, start(t, o))
	note := filepath.Join(o.Dir, "note")
	writeFile(t, note, "mine", 0o600)
	reset()
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "note" {
		t.Errorf("left are %v, want the note only", entries)
	}
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	reset()
	if exists(o.Dir) {
		t.Errorf("%s is left, though empty", o.Dir)
	}
}

func TestLinkIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	_, err := pgdev.Start(t.Context(), pgdev.Options{Dir: dir, Ephemeral: true})
	wantError(t, err, "is a link")
}

// As root, PostgreSQL's user cannot reach what TempDir makes.
// Nobody else can make a folder under the one that is closed here.
func TestUnreachableFolder(t *testing.T) {
	t.Parallel()
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o700) }) // for TempDir's own clean-up
	var log lines
	o := pgdev.Options{Dir: filepath.Join(closed, "kept"), Ephemeral: true, Log: &log}
	if os.Geteuid() != 0 {
		_, err := pgdev.Start(t.Context(), o)
		wantError(t, err, "choose one that you can write to")
		return
	}

	first := start(t, o)
	t.Cleanup(func() {
		if err := pgdev.Reset(context.Background(), o.Dir); err != nil {
			t.Error(err)
		}
		if exists(first.Dir()) {
			t.Errorf("%s is left after Reset", first.Dir())
		}
	})
	if len(log) != 1 || !strings.Contains(log[0], o.Dir+": its data are in "+first.Dir()+"\n") {
		t.Errorf("said %q, want one line with both places", log)
	}
	execute(t, first.URL("webhookd"), "CREATE TABLE kept ()")
	stop(t, first)
	second := start(t, o)
	if first.Dir() != second.Dir() {
		t.Errorf("the second start chose %s, the first %s", second.Dir(), first.Dir())
	}
	execute(t, second.URL("webhookd"), "DROP TABLE kept")
	stop(t, second)
}

func TestNothingIsLeftWhenTheParentIsKilled(t *testing.T) {
	t.Parallel()
	t.Run("a temporary server", func(t *testing.T) {
		t.Parallel()
		cmd, supervisor, databaseURL, dir := startChild(t, "")
		pid := postmaster(t, dir)
		busy := connect(t, databaseURL)
		go func() { _, _ = busy.Exec(t.Context(), "SELECT pg_sleep(60)") }() // fails when the server ends
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the port closes", func() bool { return !listening(t, databaseURL) })
		eventually(t, "PostgreSQL ends", func() bool { return gone(pid) })
		eventually(t, "the supervisor ends", func() bool { return gone(supervisor) })
		eventually(t, "the folder is removed", func() bool { return !exists(dir) })
	})
	t.Run("a kept server, whose data can be used at once", func(t *testing.T) {
		t.Parallel()
		cmd, supervisor, databaseURL, dir := startChild(t, folder(t))
		execute(t, databaseURL, "CREATE TABLE kept AS SELECT 'still here' AS word")
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		// The lock is held by every process of the old server.
		s := start(t, pgdev.Options{Dir: dir, Ephemeral: true})
		if got := text(t, s.URL("webhookd"), "SELECT word FROM kept"); got != "still here" {
			t.Errorf("read %q", got)
		}
		eventually(t, "the old supervisor ends", func() bool { return gone(supervisor) })
	})
}

func TestServerThatEndsOnItsOwnSaysWhy(t *testing.T) {
	t.Parallel()
	s := start(t, pgdev.Options{Ephemeral: true})
	signal(t, postmaster(t, s.Dir()), syscall.SIGINT)
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("Done is still open")
	}
	wantError(t, s.Err(), "database system is shut down")
}

func TestKilledSupervisorTakesTheServerAlong(t *testing.T) {
	t.Parallel()
	o := pgdev.Options{Dir: folder(t), Ephemeral: true}
	s := start(t, o)
	pid := postmaster(t, s.Dir())
	signal(t, pid, syscall.SIGSTOP) // so that it takes its time
	signal(t, s.SupervisorPID(), syscall.SIGKILL)
	<-s.Done()
	_, err := pgdev.Start(t.Context(), o)
	wantError(t, err, "already running on "+o.Dir)
	signal(t, pid, syscall.SIGCONT)
	eventually(t, "PostgreSQL ends", func() bool { return gone(pid) })
	start(t, o)
}

func TestStopWithoutTimeEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, pgdev.Options{Ephemeral: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Stop = %v, want nil or the context's error", err)
	}
	if listening(t, s.URL("webhookd")) || exists(s.Dir()) {
		t.Error("the server or its folder is left")
	}
}

// postmaster is the process that a server's folder names.
func postmaster(tb testing.TB, dir string) int {
	tb.Helper()
	scan := bufio.NewScanner(strings.NewReader(readFile(tb, filepath.Join(dir, "data", "postmaster.pid"))))
	scan.Scan()
	pid, err := strconv.Atoi(scan.Text())
	if err != nil {
		tb.Fatal(err)
	}
	return pid
}

func signal(tb testing.TB, pid int, sig syscall.Signal) {
	tb.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		tb.Fatal(err)
	}
}

// gone also counts what has ended and waits for a parent to ask: the first
// process of a container often never does.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func wantError(tb testing.TB, err error, part string) {
	tb.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		tb.Fatalf("error %v, want one with %q", err, part)
	}
}
