package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"webhookd/internal/signature"
)

// watched runs a secretWatcher over the files of a folder, in the fake time of a synctest bubble.
type watched struct {
	*secretWatcher
	t       testing.TB
	reg     *prometheus.Registry
	logs    *observer.ObservedLogs
	changes int
}

// watch loads a Config in which each of files holds its variable.
func watch(t *testing.T, files map[string]string) *watched {
	t.Helper()
	vars := serving(nil)
	for variable, path := range files {
		delete(vars, "WEBHOOKD_"+variable)
		vars["WEBHOOKD_"+variable+"_FILE"] = path
	}
	return watching(t, mustLoad(t, vars))
}

func watching(t *testing.T, cfg *Config) *watched {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w := &watched{t: t, reg: prometheus.NewRegistry(), logs: logs}
	w.secretWatcher = newSecretWatcher(cfg, w.reg, zap.New(core), func(Credentials) { w.changes++ })

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, secretsInterval) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, line := range logs.All() {
			if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, canary) {
				t.Errorf("the log shows a secret: %s", text)
			}
		}
	})
	synctest.Wait()
	return w
}

// after lets looks happen, one every 10 s.
func (w *watched) after(looks int) *watched {
	w.t.Helper()
	time.Sleep(time.Duration(looks) * 10 * time.Second)
	synctest.Wait()
	return w
}

// failed is the value of webhookd_secrets_reload_failed.
func (w *watched) failed() float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "webhookd_secrets_reload_failed" {
		w.t.Fatalf("metrics are %v, %v", families, err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

// accepts tells whether the present verifier takes what this secret signed.
func (w *watched) accepts(secret string) bool {
	body, now := []byte(`{}`), time.Now()
	_, err := w.Current().Verifier.Verify(body, signature.Sign(body, secret, now), now)
	return err == nil
}

func (w *watched) expect(failed float64, warnings, changes int) {
	w.t.Helper()
	if got := w.failed(); got != failed {
		w.t.Errorf("webhookd_secrets_reload_failed is %v, want %v", got, failed)
	}
	if got := w.logs.FilterLevelExact(zapcore.WarnLevel).All(); len(got) != warnings {
		w.t.Errorf("%d warnings, want %d: %v", len(got), warnings, got)
	}
	if w.changes != changes {
		w.t.Errorf("%d changes were told, want %d", w.changes, changes)
	}
}

func TestSecretFilesChangeWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	secrets := writeFile(t, filepath.Join(dir, "secrets"), "a="+whsec)
	keys := writeFile(t, filepath.Join(dir, "keys"), "rk_test_"+canary)
	url := writeFile(t, filepath.Join(dir, "url"), databaseURL)
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, map[string]string{"STRIPE_WEBHOOK_SECRETS": secrets, "STRIPE_API_KEYS": keys, "DATABASE_URL": url})
		w.after(3).expect(0, 0, 0)

		// A roll: for a day Stripe signs with both.
		writeFile(t, secrets, "a="+whsec+"\nnew="+whsec+"2\n")
		w.after(1).expect(0, 0, 1)
		if !w.accepts(whsec) || !w.accepts(whsec+"2") {
			t.Error("not both secrets are accepted")
		}
		diff(t, []string{"a", "new"}, names(w.Current().Secrets))
		writeFile(t, secrets, "new="+whsec+"2\n")
		w.after(1).expect(0, 0, 2)
		if w.accepts(whsec) || !w.accepts(whsec+"2") {
			t.Error("the old secret is accepted, or the new one is not")
		}

		writeFile(t, keys, "rk_live_"+canary)
		writeFile(t, url, databaseURL+"?pool_max_conns=2")
		w.after(1).expect(0, 0, 3)
		now := w.Current()
		if string(now.APIKeys[true]) != "rk_live_"+canary || len(now.APIKeys) != 1 {
			t.Error("the API key is not the new one")
		}
		if now.DatabaseURL != databaseURL+"?pool_max_conns=2" || now.MigrateDatabaseURL != now.DatabaseURL {
			t.Error("the database URL is not the new one")
		}

		writeFile(t, keys, "rk_live_"+canary+"\n\n") // a line break is no change
		w.after(5).expect(0, 0, 3)
	})
}

func TestSecretFilesAreSeenThroughSwappedSymlinks(t *testing.T) {
	dir := t.TempDir()
	// Kubernetes: secrets → ..data/secrets, ..data → a folder that is replaced by a rename.
	publish := func(folder, text string) {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, folder, "secrets"), text)
		if err := os.Symlink(folder, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("..1", whsec)
	secrets := filepath.Join(dir, "secrets")
	if err := os.Symlink(filepath.Join("..data", "secrets"), secrets); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, map[string]string{"STRIPE_WEBHOOK_SECRETS": secrets})
		publish("..2", whsec+"2")
		if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
			t.Fatal(err)
		}
		w.after(1).expect(0, 0, 1)
		if w.accepts(whsec) || !w.accepts(whsec+"2") {
			t.Error("the secrets are not those of the new folder")
		}
	})
}

func TestABadSecretFileKeepsTheLastGoodSet(t *testing.T) {
	bad := map[string]func(tb testing.TB, path string){
		"a blank secret":   func(tb testing.TB, path string) { writeFile(tb, path, whsec+"2,") },
		"no secret at all": func(tb testing.TB, path string) { writeFile(tb, path, canary) },
		"an empty file":    func(tb testing.TB, path string) { writeFile(tb, path, "\n") },
		"a removed file": func(tb testing.TB, path string) {
			if err := os.Remove(path); err != nil {
				tb.Fatal(err)
			}
		},
	}
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			secrets := writeFile(t, filepath.Join(t.TempDir(), "secrets"), whsec)
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, map[string]string{"STRIPE_WEBHOOK_SECRETS": secrets})
				spoil(t, secrets)
				w.after(1).expect(1, 1, 0)
				w.after(100).expect(1, 1, 0) // told once, not every 10 s
				if !w.accepts(whsec) {
					t.Error("the last good secret is not accepted")
				}

				writeFile(t, secrets, "other "+canary)
				w.after(10).expect(1, 2, 0) // bad in another way

				writeFile(t, secrets, whsec+"3")
				w.after(1).expect(0, 2, 1)
				if w.accepts(whsec) || !w.accepts(whsec+"3") {
					t.Error("the secret of the mended file is not the one in use")
				}
			})
		})
	}
}

func TestOneBadSecretFileDoesNotHoldTheOthersBack(t *testing.T) {
	dir := t.TempDir()
	secrets := writeFile(t, filepath.Join(dir, "secrets"), whsec)
	url := writeFile(t, filepath.Join(dir, "url"), databaseURL)
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, map[string]string{"STRIPE_WEBHOOK_SECRETS": secrets, "DATABASE_URL": url})
		writeFile(t, url, "mysql://u:"+canary+"@db/x")
		writeFile(t, secrets, whsec+"2")
		w.after(1).expect(1, 1, 1)
		if !w.accepts(whsec+"2") || w.Current().DatabaseURL != databaseURL {
			t.Error("the good file does not count, or the bad one does")
		}

		writeFile(t, secrets, whsec+"3")
		w.after(1).expect(1, 1, 2) // still bad, and not told again
		writeFile(t, url, databaseURL)
		w.after(1).expect(0, 1, 3)
	})
}

func TestASecretFileThatChangedBeforeTheWatchIsSeenAtOnce(t *testing.T) {
	secrets := writeFile(t, filepath.Join(t.TempDir(), "secrets"), whsec)
	cfg := mustLoad(t, env{"WEBHOOKD_DATABASE_URL": databaseURL, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE": secrets})
	writeFile(t, secrets, whsec+"2")
	synctest.Test(t, func(t *testing.T) {
		if w := watching(t, cfg); !w.accepts(whsec + "2") {
			t.Error("the changed secret is not accepted")
		}
	})
	if body, now := []byte(`{}`), time.Now(); cfg.Verifier == nil {
		t.Error("no verifier")
	} else if _, err := cfg.Verifier.Verify(body, signature.Sign(body, whsec, now), now); err != nil {
		t.Errorf("the watch changed its Config: %v", err)
	}
}

func TestWithoutSecretFilesTheGaugeStandsAtZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, nil)
		w.after(2).expect(0, 0, 0)
		if !w.accepts(whsec) {
			t.Error("the configured secret is not accepted")
		}
	})
}
