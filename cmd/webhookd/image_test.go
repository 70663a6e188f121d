//go:build image

// Opt-in, by make test-image: it needs buildah and root.

package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

var container = flag.String("container", "", "the buildah container of the image")

// TestImageServesARealEvent runs the image's entry point as its user in its
// files, as the manifests do: migrate up, then serve.
func TestImageServesARealEvent(t *testing.T) {
	t.Parallel()
	database := pgtest.Empty(t)
	run := func(vars env, args ...string) *process {
		t.Helper()
		buildah := []string{"run", "--isolation", "chroot"}
		for name, text := range vars {
			buildah = append(buildah, "--env", name+"="+text)
		}
		buildah = append(buildah, *container, "--", "/webhookd")
		p := &process{TB: t, cmd: exec.Command("buildah", append(buildah, args...)...), stdout: new(buffer), log: new(buffer), ended: make(chan struct{})}
		p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.log
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = p.cmd.Wait() // ProcessState tells
			close(p.ended)
		}()
		t.Cleanup(func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); <-p.ended })
		return p
	}

	version := run(nil, "version").exits(exitDone)
	if text := version.stdout.String(); !strings.HasPrefix(text, "version v0.0.0-test\n") {
		t.Errorf("the image's program is\n%s", text)
	}
	run(env{"WEBHOOKD_MIGRATE_DATABASE_URL": database}, "migrate", "up").exits(exitDone)
	public, admin := loopbackPort(t), loopbackPort(t)
	serve := run(env{
		"WEBHOOKD_DATABASE_URL": database, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "main=" + whsec,
		"WEBHOOKD_LISTEN_ADDR": public, "WEBHOOKD_ADMIN_ADDR": admin, "WEBHOOKD_DRAIN_DELAY": "0s",
	}, "serve").serves()
	client := newClient(t)
	eventually(t, "be ready", func() bool {
		a, err := exchange(client, http.MethodGet, "http://"+admin+"/readyz", "", nil)
		return err == nil && a.Status == http.StatusOK
	})

	e := scenario.New(1).Session(scenario.SessionOptions{}).RequiresInput(time.Now(), "document_expired")
	a, err := exchange(client, http.MethodPost, "http://"+public+"/webhooks/stripe", signature.Sign(e.Body, whsec, time.Now()), e.Body)
	if err != nil || a.Status != http.StatusOK || a.Outcome != "applied" {
		t.Fatalf("%v, %d %s", err, a.Status, a.Body)
	}
	expectModel(t, database, [][]byte{e.Body})
	page, err := exchange(client, http.MethodGet, "http://"+admin+"/metrics", "", nil)
	if err != nil || !strings.Contains(page.Body, `webhookd_build_info{`) || !strings.Contains(page.Body, `version="v0.0.0-test"`) {
		t.Errorf("metrics: %v\n%s", err, page.Body)
	}
	pid := within(t, "WEBHOOKD_LISTEN_ADDR="+public)
	if info, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 65532 {
		t.Errorf("it does not run as the image's user: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	serve.exits(exitDone)
	t.Logf("%d %s\n%s", a.Status, a.Body, version.stdout)
}

// within is the id of the program in the container: buildah, its parent, passes
// no signals on.
func within(tb testing.TB, variable string) int {
	tb.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range found {
		environ, _ := os.ReadFile(file) // it may have ended
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if bytes.HasPrefix(command, []byte("/webhookd\x00")) && bytes.Contains(environ, []byte(variable+"\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				tb.Fatal(err)
			}
			return pid
		}
	}
	tb.Fatal("the program is not to be found")
	return 0
}
