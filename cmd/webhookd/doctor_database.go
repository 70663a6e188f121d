package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"webhookd/internal/jobs"
	"webhookd/internal/repo"
	"webhookd/internal/signature"
)

// databaseFindings are what the database tells, by where it is printed.
type databaseFindings struct {
	server, secrets, backlog findings
}

const (
	seenWithin     = 7 * 24 * time.Hour
	clockTolerance = 5 * time.Second
	waitsLong      = 15 * time.Minute // more than a fetch takes while all is well
)

// reach is what to do where there is no way to the database.
func reach() string {
	if len(namesDatabase()) == 0 {
		return "start 'webhookd dev' in this folder, or set WEBHOOKD_DATABASE_URL"
	}
	return "check WEBHOOKD_DATABASE_URL, and that the server takes connections from here"
}

func diagnoseDatabase(ctx context.Context, cfg *Config, now func() time.Time) (f databaseFindings) {
	if cfg.DatabaseURL == "" {
		f.secrets = configuredSecrets(cfg.Secrets)
		return f // a fault of the configuration, and told there
	}
	store, err := repo.Open(ctx, repo.Options{URL: string(cfg.DatabaseURL), Committers: cfg.Committers, Asks: cfg.hasKey})
	if err != nil {
		f.server.failf("database", reach(), "%s", reason("the database", err))
		f.secrets = configuredSecrets(cfg.Secrets)
		return f
	}
	defer store.Close()
	server, err := store.Inspect(ctx, now)
	if err != nil {
		f.server.failf("database", reach()+"; the rest of the database is not looked at until then", "%s", reason("the database", err))
		f.secrets = configuredSecrets(cfg.Secrets)
		return f
	}
	f.server = serverFindings(server, cfg.MigrateDatabaseURL == cfg.DatabaseURL)

	version, err := store.Schema(ctx)
	if err != nil {
		f.server.failf("schema", "run 'webhookd migrate up' as the owner of the schema, then doctor again", "%s", reason("the database", err))
	} else {
		f.server.okf("schema", "version %d", version)
	}
	f.server.rights(store.MissingRights(ctx))
	if version == 0 {
		f.secrets = configuredSecrets(cfg.Secrets)
		return f // there are no tables to look into
	}

	since := now().Add(-seenWithin)
	if seen, err := store.SecretsSeen(ctx, since); err != nil {
		f.secrets = configuredSecrets(cfg.Secrets)
		f.secrets.failf("secrets seen", "see what 'table rights' and 'schema' say", "cannot tell: %s", reason("the database", err))
	} else {
		f.secrets = secretFindings(cfg.Secrets, seen, now())
	}
	if b, err := store.Backlog(ctx); err != nil {
		f.backlog.failf("backlog", "see what 'table rights' and 'schema' say", "%s", reason("the database", err))
	} else {
		f.backlog = backlogFindings(b, cfg, now())
	}
	return f
}

// serverFindings judge the server. shared says that migrate uses the same URL.
func serverFindings(s repo.Server, shared bool) (f findings) {
	switch {
	case s.Number < 150000:
		f.failf("database", "upgrade to PostgreSQL 15 or newer", "PostgreSQL %s, database %s", s.Version, s.Database)
	default:
		f.okf("database", "PostgreSQL %s, database %s", s.Version, s.Database)
	}
	switch {
	case s.Standby:
		f.failf("writable", "point WEBHOOKD_DATABASE_URL at the primary (several hosts: add target_session_attrs=read-write)", "the server is a standby in recovery")
	case s.ReadOnly:
		f.failf("writable", "set default_transaction_read_only to off for this role and database, and take it out of the URL", "transactions are read-only by default")
	default:
		f.okf("writable", "the primary")
	}
	const promise = "an answer of 200 promises that the event is kept"
	if s.Fsync {
		f.okf("fsync", "on")
	} else {
		f.failf("fsync", "set it to on in postgresql.conf: "+promise, "off: a crash of the machine loses or corrupts everything")
	}
	if s.FullPageWrites {
		f.okf("full_page_writes", "on")
	} else {
		f.failf("full_page_writes", "set it to on, unless the file system never writes half a page", "off: a crash of the machine can leave torn pages")
	}
	if s.SynchronousCommit == "off" {
		f.warnf("synchronous_commit", "set it to on for other writers; or leave it, knowing this",
			"off: webhookd turns it on for its own transactions, because "+promise)
	} else {
		f.okf("synchronous_commit", "%s", s.SynchronousCommit)
	}
	if s.Clock.Abs() > clockTolerance {
		f.warnf("database clock", "keep both machines by NTP: leases, retries and recorded_at go by the database's clock", "it %s", offset(s.Clock))
	} else {
		f.okf("database clock", "it %s", offset(s.Clock.Truncate(time.Second)))
	}
	if s.NotifyQueue > 0.5 {
		f.warnf("notifications", "end the session that listens and is idle in a transaction (pg_stat_activity): once it is full, nobody is notified",
			"%.0f %% of PostgreSQL's queue is used", 100*s.NotifyQueue)
	}
	f.pooler(s, shared)
	return f
}

// pooler is about what stands between, and else about connections: behind a
// pooler the server's limits are the pooler's.
func (f *findings) pooler(s repo.Server, shared bool) {
	const mode = "cache_describe"
	each := s.PoolSize + jobs.Connections
	switch {
	case s.Pooled && s.QueryMode != mode:
		f.warnf("pooler", "in transaction mode add default_query_exec_mode="+mode+" to WEBHOOKD_DATABASE_URL",
			"there is one between here and PostgreSQL, and the mode is %s", s.QueryMode)
	case s.Pooled:
		f.okf("pooler", "there is one, and the mode is "+mode)
	case s.Most < each:
		f.failf("connections", "raise max_connections (or the limit of the role or database), or lower pool_max_conns in the URL",
			"%d are allowed, and one replica opens up to %d", s.Most, each)
	case s.Free < each:
		f.warnf("connections", "raise max_connections (or the limit of the role or database), or lower pool_max_conns in the URL",
			"%d are free, and one more replica opens up to %d", max(s.Free, 0), each)
	default:
		f.okf("connections", "%d of %d are free, a replica opens up to %d", s.Free, s.Most, each)
	}
	if s.Pooled && shared {
		f.okf("migrate", "not from here: 'webhookd migrate' would go through the pooler, where its lock does not hold; where it runs, WEBHOOKD_MIGRATE_DATABASE_URL has to reach PostgreSQL directly")
	}
}

func (f *findings) rights(missing []string, err error) {
	const check = "table rights"
	switch {
	case err != nil:
		f.failf(check, reach(), "%s", reason("the database", err))
	case len(missing) > 0:
		f.failf(check, "run deploy/sql/roles.sql again, as after each migrate up, and make the user a member of webhookd_writer", "missing: %s", some(missing, 6))
	default:
		f.okf(check, "none is missing")
	}
}

// some lists the first few.
func some(all []string, most int) string {
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

// configuredSecrets lists the names; nothing is listed where there is none,
// which is a fault of the configuration.
func configuredSecrets(secrets []signature.Secret) (f findings) {
	var names []string
	for _, s := range secrets {
		name := s.Name()
		if s.Test() {
			name = "test:" + name
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		f.okf("secrets", "%s: %s", count(len(names), "secret"), strings.Join(names, ", "))
	}
	return f
}

func secretFindings(secrets []signature.Secret, seen []repo.SecretUse, now time.Time) findings {
	const check = "secrets seen"
	f := configuredSecrets(secrets)
	for _, s := range secrets {
		i := slices.IndexFunc(seen, func(u repo.SecretUse) bool { return u.Name == s.Name() })
		if i < 0 {
			f.warnf(check, "a new one: send a test event. An old one, rolled more than a day ago: take it out of WEBHOOKD_STRIPE_WEBHOOK_SECRETS",
				"%s: no event in the last %s", s.Name(), roughly(seenWithin))
			continue
		}
		f.okf(check, "%s: %s in the last %s, the last %s ago", s.Name(), count(seen[i].Events, "event"), roughly(seenWithin), roughly(now.Sub(seen[i].Last)))
	}
	for _, u := range seen {
		if !slices.ContainsFunc(secrets, func(s signature.Secret) bool { return s.Name() == u.Name }) {
			f.okf(check, "%s: %s, the last %s ago; not configured here any more", u.Name, count(u.Events, "event"), roughly(now.Sub(u.Last)))
		}
	}
	return f
}

func backlogFindings(b repo.Backlog, cfg *Config, now time.Time) (f findings) {
	since := func(w repo.Waiting) time.Duration { return now.Sub(w.Since) }
	if n := b.Quarantined.Count; n > 0 {
		f.warnf("quarantine", "upgrade webhookd, then 'webhookd quarantine replay --all'", "%s not understood, the first %s ago", count(n, "event"), roughly(since(b.Quarantined)))
	} else {
		f.okf("quarantine", "empty")
	}

	const ask = "a key for the mode has to be set and accepted (see above), and 'webhookd serve' to run"
	const settle = ask + "; what Stripe no longer knows (not_found in the log) goes on waiting"
	f.waiting("refresh", settle, "session", b.Refresh, now)
	f.waiting("thin events", settle, "event", b.Thin, now)
	switch w := cfg.OutputsWindow; {
	case len(cfg.APIKeys) == 0:
		f.okf("outputs", "off: there is no key")
	case b.Outputs.Count > 0 && w > 0 && since(b.Outputs) > w:
		f.failf("outputs", ask+"; only an IP-restricted key still reads the sensitive fields (WEBHOOKD_OUTPUTS_WINDOW=0)",
			"%s, the first %s ago: over WEBHOOKD_OUTPUTS_WINDOW", waitFor(b.Outputs.Count, "session"), roughly(since(b.Outputs)))
	case b.Outputs.Count > 0 && w > 0 && since(b.Outputs) > w/2:
		f.warnf("outputs", ask+": the sensitive fields are readable for "+roughly(w-since(b.Outputs))+" more",
			"%s, the first %s ago", waitFor(b.Outputs.Count, "session"), roughly(since(b.Outputs)))
	default:
		f.waiting("outputs", ask, "session", b.Outputs, now)
	}
	f.reconcile(b, cfg, now)
	return f
}

func waitFor[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun + " waits"
	}
	return count(n, noun) + " wait"
}

// waiting is a warning once it takes longer than it should.
func (f *findings) waiting(check, do, noun string, w repo.Waiting, now time.Time) {
	switch age := now.Sub(w.Since); {
	case w.Count == 0:
		f.okf(check, "none wait")
	case age > waitsLong:
		f.warnf(check, do, "%s, the first for %s", waitFor(w.Count, noun), roughly(age))
	default:
		f.okf(check, "%s, the first for %s", waitFor(w.Count, noun), roughly(age))
	}
}

func (f *findings) reconcile(b repo.Backlog, cfg *Config, now time.Time) {
	const check = "reconcile"
	run, often := "run 'webhookd reconcile' and see what it says", 3*cfg.ReconcileEvery
	if cfg.ReconcileEvery == 0 {
		run, often = "WEBHOOKD_RECONCILE_EVERY is 0: "+run+", see why nothing else does (a CronJob?), or set it to 1h", 6*time.Hour
	}
	last := ""
	if b.LastRun == "partial" || b.LastRun == "failed" {
		last = "; the last run was " + b.LastRun
	}
	switch age := now.Sub(b.Reconciled); {
	case len(cfg.APIKeys) == 0:
		f.okf(check, "off: there is no key")
	case b.Reconciled.IsZero():
		f.warnf(check, run, "never complete so far%s", last)
	case age > often, last != "":
		f.warnf(check, run, "the last complete run ended %s ago%s", roughly(age), last)
	default:
		f.okf(check, "the last complete run ended %s ago", roughly(age))
	}
}
