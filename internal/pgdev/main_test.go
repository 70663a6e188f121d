package pgdev_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/pgdev"
)

// childDir set: this process is a parent to be killed, see startChild.
const childDir = "PGDEV_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(childDir); ok {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// child runs a server, tells where, and waits to be killed.
func child(dir string) int {
	s, err := pgdev.Start(context.Background(), pgdev.Options{Dir: dir, Ephemeral: true, Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, s.SupervisorPID(), s.URL("webhookd"), s.Dir())
	<-s.Done()
	return 0
}

// startChild runs this test binary as a process that owns a server.
func startChild(tb testing.TB, dir string) (cmd *exec.Cmd, supervisor int, databaseURL, where string) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead already, which is what it is for
		_ = cmd.Wait()
	})
	if _, err := fmt.Fscan(out, &supervisor, &databaseURL, &where); err != nil {
		tb.Fatalf("read what the child says: %v", err)
	}
	return cmd, supervisor, databaseURL, where
}

func start(tb testing.TB, o pgdev.Options) *pgdev.Server {
	tb.Helper()
	s, err := pgdev.Start(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func stop(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	if err := s.Stop(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

func kill(tb testing.TB, s *pgdev.Server) {
	tb.Helper()
	if err := s.Kill(); err != nil {
		tb.Fatal(err)
	}
}

// folder is a place for data. Unlike TempDir's, every user can reach it.
func folder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "pgdev-test-") //nolint:usetesting // TempDir is closed to PostgreSQL's user
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, "kept")
}

func connect(tb testing.TB, databaseURL string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) }) // its server may be gone
	return conn
}

func execute(tb testing.TB, databaseURL, statement string) {
	tb.Helper()
	conn := connect(tb, databaseURL)
	if _, err := conn.Exec(tb.Context(), statement); err != nil {
		tb.Fatal(err)
	}
}

func text(tb testing.TB, databaseURL, query string) string {
	tb.Helper()
	var value string
	if err := connect(tb, databaseURL).QueryRow(tb.Context(), query).Scan(&value); err != nil {
		tb.Fatal(err)
	}
	return value
}

// eventually waits for what another process is about to do.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited 20 s in vain: %s", what)
		}
	}
}

func listening(tb testing.TB, databaseURL string) bool {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := net.Dial("tcp4", u.Host)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func writeFile(tb testing.TB, name, content string, mode os.FileMode) {
	tb.Helper()
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		tb.Fatal(err)
	}
}

func readFile(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// lines is a log.
type lines []string

func (l *lines) Write(b []byte) (int, error) {
	*l = append(*l, string(b))
	return len(b), nil
}
