package repo_test

import (
	"context"
	neturl "net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/migrations"
)

// watched is a store whose database is looked at.
type watched struct {
	store  *repo.Store
	reg    *prometheus.Registry
	health atomic.Pointer[repo.Health]
}

func watch(tb testing.TB, url string, options ...func(*repo.Options)) *watched {
	tb.Helper()
	w := &watched{reg: prometheus.NewRegistry()}
	w.store = open(tb, url, append(options, func(o *repo.Options) { o.Registry = w.reg })...)
	ctx, stop := context.WithCancel(tb.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.store.Watch(ctx, &w.health, func(repo.Health) {}) }()
	tb.Cleanup(func() { stop(); <-done })
	return w
}

// sees waits for a look that finds what is wanted.
func (w *watched) sees(tb testing.TB, what string, is func(repo.Health) bool) repo.Health {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if h := w.health.Load(); h != nil && is(*h) {
			return *h
		}
	}
	tb.Fatalf("never sees %s: %+v", what, w.health.Load())
	return repo.Health{}
}

func (w *watched) expect(tb testing.TB, want map[string]float64) {
	tb.Helper()
	got := map[string]float64{}
	for end := time.Now().Add(30 * time.Second); !cmp.Equal(want, got) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		families, err := w.reg.Gather()
		if err != nil {
			tb.Fatalf("gather: %v", err)
		}
		for _, f := range families {
			if _, asked := want[f.GetName()]; asked {
				got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("gauges (-want +got):\n%s", diff)
	}
}

func TestADatabaseThatDoesNotLetUsInIsDown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ refuse, problem string }{
		"the password was changed": {`ALTER ROLE USER PASSWORD 'another'`, "28P01"},
		"the user is gone":         {`ALTER ROLE USER RENAME TO test_health_gone`, "28P01"},
		"the user may not log in":  {`ALTER ROLE USER NOLOGIN`, "28000"},
		"no right to connect":      {`DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM public', current_database()); END $$`, "42501"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			user := "test_health_" + strings.ReplaceAll(name, " ", "_")
			execute(t, url, `DROP ROLE IF EXISTS test_health_gone`)
			w := watch(t, login(t, url, user, "SUPERUSER"))
			w.sees(t, "the database", func(h repo.Health) bool { return h.Ready })
			execute(t, url, `ALTER ROLE `+user+` NOSUPERUSER`)
			execute(t, url, strings.ReplaceAll(c.refuse, "USER", user))
			execute(t, url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			h := w.sees(t, "the refusal", func(h repo.Health) bool { return h.Err != nil && strings.Contains(h.Err.Error(), c.problem) })
			if h.Up || !h.Ready || h.Schema != migrations.Version() {
				t.Errorf("health %+v", h)
			}
			w.expect(t, map[string]float64{"webhookd_database_up": 0, "webhookd_schema_version": float64(migrations.Version())})
		})
	}
	t.Run("no such database", func(t *testing.T) {
		t.Parallel()
		url, err := neturl.Parse(pgtest.Database(t))
		if err != nil {
			t.Fatal(err)
		}
		url.Path = "/test_health_none"
		w := watch(t, url.String())
		if h := w.sees(t, "the refusal", func(h repo.Health) bool { return h.Err != nil }); h.Up || !strings.Contains(h.Err.Error(), "3D000") {
			t.Errorf("health %+v", h)
		}
		w.expect(t, map[string]float64{"webhookd_database_up": 0})
	})
}

func TestADatabaseThatIsReadOnlyIsDown(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	readOnly := func(word string) {
		execute(t, url, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = `+word+`', current_database()); END $$`)
		conn := connect(t, url)
		rowsOf(t, conn, `SET default_transaction_read_only = off`)
		rowsOf(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	}
	readOnly("on")
	w := watch(t, url)
	h := w.sees(t, "that it is read-only", func(h repo.Health) bool { return h.Err != nil && strings.Contains(h.Err.Error(), "read-only") })
	if h.Up || !h.Ready { // its schema is sufficient
		t.Errorf("health %+v", h)
	}
	w.expect(t, map[string]float64{"webhookd_database_up": 0, "webhookd_schema_version": float64(migrations.Version())})
	if _, err := w.store.Lease(t.Context(), "lease", "holder", time.Minute); err == nil {
		t.Error("wrote into a database that is read-only")
	}
	conn := connect(t, url)
	rowsOf(t, conn, `SET default_transaction_read_only = off`)
	rowsOf(t, conn, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$`)
	w.sees(t, "that it can be written", func(h repo.Health) bool { return h.Up && h.Err == nil }) // with no connection cut
	if held, err := w.store.Lease(t.Context(), "lease", "holder", time.Minute); !held || err != nil {
		t.Errorf("afterwards: held %v, %v", held, err)
	}
}

func TestGaugesThatCannotBeCountedAreSaidToBeStale(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	user := login(t, url, "test_health_gauges", "")
	grant := func(tables string) {
		execute(t, url, `GRANT USAGE ON SCHEMA stripe_identity TO test_health_gauges; GRANT SELECT ON `+tables+` TO test_health_gauges`)
	}
	grant("stripe_identity.schema_migrations")
	w := watch(t, user)
	h := w.sees(t, "that they are stale", func(h repo.Health) bool { return h.Stale != nil })
	if !h.Up || !h.Ready || h.Err != nil || !strings.Contains(h.Stale.Error(), "42501") {
		t.Errorf("health %+v", h)
	}
	grant("ALL TABLES IN SCHEMA stripe_identity")
	w.sees(t, "that they are counted", func(h repo.Health) bool { return h.Stale == nil })
}

func TestReadersThatAreBusyAreNoDatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	reg := prometheus.NewRegistry()
	s := open(t, url, func(o *repo.Options) { o.Registry = reg })
	conn := connect(t, url)
	rowsOf(t, conn, `BEGIN`)
	rowsOf(t, conn, `LOCK TABLE stripe_identity.pii_reads IN ACCESS EXCLUSIVE MODE`)
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for range 5 {
		busy.Go(func() { _, _ = s.Export(ctx, "vs_1", repo.Reader{Who: "x", Command: "export"}) })
	}
	time.Sleep(100 * time.Millisecond)
	var health atomic.Pointer[repo.Health]
	busy.Go(func() { s.Watch(ctx, &health, func(repo.Health) {}) })
	time.Sleep(3 * time.Second) // longer than a look may take
	if h := health.Load(); h == nil || !h.Up || h.Err != nil {
		t.Errorf("found %+v", h)
	}
	rowsOf(t, conn, `ROLLBACK`)
	stop()
	busy.Wait()
}

func TestASchemaThatCannotBeReadIsNotAnOldOne(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	user := login(t, url, "test_health_reader", "")
	execute(t, url, `GRANT USAGE ON SCHEMA stripe_identity TO test_health_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA stripe_identity TO test_health_reader`)
	w := watch(t, user)
	w.sees(t, "the schema", func(h repo.Health) bool { return h.Ready })
	execute(t, url, `REVOKE USAGE ON SCHEMA stripe_identity FROM test_health_reader`)
	h := w.sees(t, "the right that is missing", func(h repo.Health) bool { return h.Err != nil })
	if !h.Up || h.Schema != migrations.Version() || !strings.Contains(h.Err.Error(), "42501") {
		t.Errorf("health %+v", h)
	}
	w.expect(t, map[string]float64{"webhookd_database_up": 1, "webhookd_schema_version": float64(migrations.Version())})
}

// Nobody fetches them, so an alert that they are late would never end.
func TestOutputsOfAModeWithoutAKeyAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	execute(t, url, `
INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES
    ('vs_live', true, now() + interval '1 hour'), ('vs_test', false, now() - interval '10 days'), ('vs_unknown', null, now() - interval '10 days')`)
	w := watch(t, url, func(o *repo.Options) { o.Asks = func(live bool) bool { return live } })
	w.expect(t, map[string]float64{"webhookd_outputs_pending": 3, "webhookd_outputs_oldest_pending_seconds": 0})
}
