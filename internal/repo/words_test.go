package repo_test

import (
	"context"
	"net"
	neturl "net/url"
	"strings"
	"testing"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

// TestErrorsSayWhatIsWrong and nothing from inside: they reach logs and /readyz.
func TestErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	url := pgtest.Database(t)
	execute(t, url, `DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM public', current_database()); END $$`)
	full := pgtest.Database(t)
	execute(t, full, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 0', current_database()); END $$`)
	readOnly := pgtest.Database(t)
	execute(t, readOnly, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	stranger := login(t, url, "test_stranger", "")

	with := func(url string, edit func(*neturl.URL)) string {
		u, err := neturl.Parse(url)
		if err != nil {
			t.Fatalf("URL: %v", err)
		}
		edit(u)
		return u.String()
	}
	look := func(ctx context.Context, s *repo.Store) error {
		_, err := s.Erasable(ctx, "vs_1")
		return err
	}
	write := func(ctx context.Context, s *repo.Store) error { return s.Redact(ctx, "vs_1") }
	for name, tt := range map[string]struct {
		url  string
		do   func(context.Context, *repo.Store) error
		want string
	}{
		"nobody listens":       {"postgres://someuser:hunter2@127.0.0.1:1/somedb?sslmode=disable", look, "no connection to the database: refused"},
		"an unknown host":      {"postgres://someuser:hunter2@" + strings.Repeat("x", 64) + "/somedb", look, "no connection to the database: its host is unknown"},
		"a silent host":        {"postgres://someuser:hunter2@" + silent.Addr().String() + "/somedb?sslmode=disable&connect_timeout=1", look, "no connection to the database: no answer in time"},
		"no TLS":               {with(url, func(u *neturl.URL) { u.RawQuery = "sslmode=require" }), look, "no connection to the database: TLS failed (sslmode or certificate)"},
		"another database":     {with(url, func(u *neturl.URL) { u.Path = "/somedb" }), look, "SQLSTATE 3D000 (there is no such database)"},
		"a wrong password":     {with(url, func(u *neturl.URL) { u.User = neturl.UserPassword(u.User.Username(), "hunter2") }), look, "SQLSTATE 28P01 (the user or the password is refused)"},
		"no right to connect":  {stranger, look, "SQLSTATE 42501 (a right is missing)"},
		"no schema":            {pgtest.Empty(t), look, "SQLSTATE 42P01 (the schema is missing or behind: run webhookd migrate up)"},
		"a standby":            {readOnly, write, "SQLSTATE 25006 (read-only: is this not the primary?)"},
		"too many connections": {as(t, full, "test_stranger"), look, "SQLSTATE 53300 (too many connections)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tt.do(t.Context(), open(t, tt.url))
			if err == nil || !strings.HasSuffix(err.Error(), ": "+tt.want) {
				t.Fatalf("error is %v, want %s", err, tt.want)
			}
			for _, inside := range []string{"hunter2", "someuser", "somedb", "127.0.0.1", "xxx", "test_stranger", "SELECT", "INSERT"} {
				if strings.Contains(err.Error(), inside) {
					t.Errorf("error tells %q: %v", inside, err)
				}
			}
		})
	}
}

func TestSeenIsWhatAnythingIsHeldAbout(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	thin, broken := newSession(2, "vs_thin"), newSession(3, "vs_broken")
	tell(t, s, newSession(1, "vs_event").Created(at(0)).Body, thin.Thin(thin.Created(at(0))).Body,
		edit(t, broken.Created(at(0)).Body, map[string]any{"data.object.status": 5}))
	if err := s.Redact(t.Context(), "vs_tombstone"); err != nil {
		t.Fatalf("redact: %v", err)
	}
	for id, want := range map[string]bool{"vs_event": true, "vs_thin": true, "vs_broken": true, "vs_tombstone": true, "vs_other": false} {
		if got, err := s.Erasable(t.Context(), id); err != nil || got.Seen != want {
			t.Errorf("%s: %+v, %v", id, got, err)
		}
	}
}
