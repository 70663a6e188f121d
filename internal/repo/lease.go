package repo

import (
	"context"
	"time"
)

// Lease takes or prolongs, for d from now by the database's clock, what one
// holder at a time has. It is not held if somebody else has it. A holder that
// is killed loses it when d is over.
func (s *Store) Lease(ctx context.Context, name, holder string, d time.Duration) (held bool, err error) {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
INSERT INTO stripe_identity.leases (name, holder, until)
VALUES ($1, $2, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, until = clock_timestamp() + $3::interval
WHERE leases.holder = excluded.holder OR leases.until <= clock_timestamp()`, name, holder, d)
	return tag.RowsAffected() == 1, plain("take the lease "+name, err)
}

// Release gives a lease back; that of somebody else stays.
func (s *Store) Release(ctx context.Context, name, holder string) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
DELETE FROM stripe_identity.leases WHERE name = $1 AND holder = $2`, name, holder)
	return plain("release the lease "+name, err)
}
