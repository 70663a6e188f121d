package jobs_test

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
