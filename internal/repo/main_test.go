package repo_test

import (
	"context"
	"os"
	"testing"

	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, func(ctx context.Context, url string) error {
		_, err := repo.Migrate(ctx, url)
		return err
	}))
}

func open(tb testing.TB, url string, options ...func(*repo.Options)) *repo.Store {
	tb.Helper()
	o := repo.Options{URL: url, Notify: true}
	for _, set := range options {
		set(&o)
	}
	s, err := repo.Open(tb.Context(), o)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(s.Close)
	return s
}
