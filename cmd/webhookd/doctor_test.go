package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/pgdev"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/scenario"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
	"webhookd/migrations"
)

const publicURL = "https://hooks.example/webhooks/stripe"

// sixTypes is how an endpoint selects them, as JSON.
var sixTypes = `"` + strings.Join(events.Types(), `","`) + `"`

// clinic has the one server whose settings are well, and in it the database
// well. A patient whose database is changed has a clone of webhookd instead.
type clinic struct {
	*pgdev.Server
	clones atomic.Int64
}

func newClinic(tb testing.TB) *clinic {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "server")
	removed(tb, dir)
	server, err := pgdev.Start(tb.Context(), pgdev.Options{Dir: dir})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	if _, err := repo.Migrate(tb.Context(), server.URL("webhookd")); err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.Connect(tb.Context(), server.URL("webhookd"))
	if err != nil {
		tb.Fatal(err)
	}
	execute(tb, conn, `INSERT INTO stripe_identity.events (event_id, type, session_id, created_at, received_at, source, secret_name)
		VALUES ('evt_seen', 'identity.verification_session.created', 'vs_seen', now(), now() - interval '90 seconds', 'webhook', 'main')`)
	execute(tb, conn, `INSERT INTO stripe_identity.reconcile_runs (started_at, since, finished_at, result) VALUES (now(), now(), now() - interval '20 minutes', 'ok')`)
	if err := conn.Close(tb.Context()); err != nil { // what is in use cannot be cloned
		tb.Fatal(err)
	}
	execute(tb, connect(tb, server.URL("postgres")), `CREATE DATABASE well TEMPLATE webhookd`)
	return &clinic{Server: server}
}

// patient is a webhookd that is well, until a test does something to it.
type patient struct {
	testing.TB
	clinic  *clinic
	url     string    // of its database
	conn    *pgx.Conn // to a clone
	fake    *stripefake.Fake
	key     string // of the live mode
	session *scenario.Session
	edits   []func(*environment)
	now     func() time.Time
}

func (c *clinic) patient(tb testing.TB) *patient {
	tb.Helper()
	p := &patient{TB: tb, clinic: c, url: c.URL("well"), fake: stripefake.New(tb), now: time.Now}
	p.fake.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	p.key = p.fake.Key(true, stripefake.Rights{Sensitive: true})
	p.session = scenario.New(1).Session(scenario.SessionOptions{Livemode: true})
	p.fake.Tell(p.session, p.session.Verified(time.Now()))
	p.endpoint("we_ours", publicURL, "enabled", sixTypes)
	p.set(func(e *environment) {
		e.DatabaseURL.force(p.url)
		e.StripeWebhookSecrets.force("main=" + whsec)
		e.StripeAPIKeys.force(p.key)
		e.StripeAPIBase.force(p.fake.URL)
		e.APIRate.force("25")
		e.PublicURL.force("https://hooks.example")
		e.Livemode.force("live")
	})
	return p
}

func (p *patient) set(edit func(*environment)) { p.edits = append(p.edits, edit) }

// clone makes the patient's database one of its own, and answers the name.
func (p *patient) clone() string {
	p.Helper()
	if p.conn == nil {
		name := fmt.Sprintf("clone_%d", p.clinic.clones.Add(1))
		execute(p, connect(p, p.clinic.URL("postgres")), `CREATE DATABASE `+name+` TEMPLATE webhookd`)
		p.url = p.clinic.URL(name)
		p.conn = connect(p, p.url)
	}
	return p.conn.Config().Database
}

func (p *patient) sql(statement string) {
	p.Helper()
	p.clone()
	execute(p, p.conn, statement)
}

// endpoint adds one to those that there are, or takes the place of it.
func (p *patient) endpoint(id, url, status, types string) {
	p.fake.AddEndpoint(true, fmt.Sprintf(`{"id":%q,"object":"webhook_endpoint","url":%q,"status":%q,"enabled_events":[%s],"api_version":"2026-10-28.endive","livemode":true}`, id, url, status, types))
}

// replaced makes another fake, without an endpoint.
func (p *patient) replaced() *patient {
	p.fake = stripefake.New(p)
	p.fake.Set(func(s *stripefake.Settings) { s.Limit = 0 })
	p.key = p.fake.Key(true, stripefake.Rights{Sensitive: true})
	p.fake.Tell(p.session, p.session.Verified(time.Now()))
	p.set(func(e *environment) { e.StripeAPIKeys.force(p.key); e.StripeAPIBase.force(p.fake.URL) })
	return p
}

func unset(v *value) { *v = value{name: v.name} }

// expectation is one line; texts are pieces of what it says.
type expectation struct {
	check string
	level level
	found string
	do    string
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	c := newClinic(t)
	cases := map[string]struct {
		prepare func(p *patient)
		want    []expectation // every line that is not ok, in order, and some that are
	}{
		"all is well": {func(*patient) {}, []expectation{
			{"configuration", isOK, "without a fault", ""},
			{"database", isOK, "PostgreSQL " + c.Version(), ""},
			{"writable", isOK, "the primary", ""},
			{"fsync", isOK, "on", ""},
			{"full_page_writes", isOK, "on", ""},
			{"synchronous_commit", isOK, "on", ""},
			{"database clock", isOK, "agrees with ours", ""},
			{"connections", isOK, "a replica opens up to", ""},
			{"schema", isOK, fmt.Sprintf("version %d", migrations.Version()), ""},
			{"table rights", isOK, "none is missing", ""},
			{"secrets", isOK, "1 secret: main", ""},
			{"secrets seen", isOK, "main: 1 event in the last 7 days, the last ", ""},
			{"live clock", isOK, "agrees with ours", ""},
			{"live key", isOK, "restricted", ""},
			{"live sessions", isOK, "may read", ""},
			{"live outputs", isOK, "may read first_name, last_name, dob, address, id_number, id_number_type, email, phone, sex, unparsed_place_of_birth, unparsed_sex, provided_details", ""},
			{"live events", isOK, "may list", ""},
			{"live endpoint", isOK, "we_ours: enabled, snapshots of API version 2026-10-28.endive", ""},
			{"live event types", isOK, "we_ours: all six", ""},
			{"quarantine", isOK, "empty", ""},
			{"refresh", isOK, "none wait", ""},
			{"thin events", isOK, "none wait", ""},
			{"outputs", isOK, "none wait", ""},
			{"reconcile", isOK, "the last complete run ended ", ""},
		}},

		"faults of the configuration are told all at once, and the rest is looked at": {func(p *patient) {
			p.set(func(e *environment) {
				e.APIRate.force("fast")
				e.PublicURL.force(canary)
				e.AdminAddr.force(e.ListenAddr.text)
			})
		}, []expectation{
			{"configuration", isFailure, `WEBHOOKD_API_RATE is "fast"`, "serve"},
			{"configuration", isFailure, "WEBHOOKD_PUBLIC_URL is no URL", "serve"},
			{"configuration", isFailure, "WEBHOOKD_ADMIN_ADDR is the address of", "serve"},
			{"schema", isOK, "version", ""},
			{"live endpoint", isWarning, "may be we_ours at " + publicURL + ": enabled, snapshots of API version 2026-10-28.endive, all six types", "WEBHOOKD_PUBLIC_URL"},
		}},
		"without a secret there is nothing to verify with": {func(p *patient) {
			p.set(func(e *environment) { unset(&e.StripeWebhookSecrets) })
		}, []expectation{
			{"configuration", isFailure, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS is required", ""},
			{"secrets seen", isOK, "main: 1 event, the last", ""},
		}},
		"a database URL that is none leaves the rest to be looked at": {func(p *patient) {
			p.set(func(e *environment) { e.DatabaseURL.force("mysql://" + canary + "@db/x") })
		}, []expectation{
			{"configuration", isFailure, "WEBHOOKD_DATABASE_URL is no PostgreSQL URL", ""},
			{"secrets", isOK, "1 secret: main", ""},
			{"live endpoint", isOK, "we_ours", ""},
		}},
		"an odd configuration is a warning": {func(p *patient) {
			p.set(func(e *environment) {
				e.StripeAPIKeys.force(p.fake.Key(true, stripefake.Rights{Secret: true}))
			})
		}, []expectation{
			{"configuration", isWarning, "WEBHOOKD_STRIPE_API_KEYS entry 1 is a secret key", ""},
			{"live key", isWarning, "secret key", "restricted key"},
			{"live outputs", isOK, "may read first_name, last_name, address", ""},
			{"live outputs", isWarning, "may not read dob, id_number, sex, unparsed_place_of_birth, unparsed_sex: they stay empty", "'Access recent sensitive verification results'"},
		}},

		"nobody answers for the database": {func(p *patient) {
			p.set(func(e *environment) { e.DatabaseURL.force("postgres://u:" + canary + "@127.0.0.1:1/x?sslmode=disable") })
		}, []expectation{
			{"database", isFailure, "no connection to the database: refused", "WEBHOOKD_DATABASE_URL"},
			{"secrets", isOK, "main", ""},
			{"live endpoint", isOK, "we_ours", ""},
		}},
		"the database does not exist": {func(p *patient) {
			p.set(func(e *environment) { e.DatabaseURL.force(c.URL("nowhere")) })
		}, []expectation{{"database", isFailure, "there is no such database", "WEBHOOKD_DATABASE_URL"}}},
		"the database was never migrated": {func(p *patient) {
			p.sql(`DROP SCHEMA stripe_identity CASCADE`)
		}, []expectation{{"schema", isFailure, "schema is at version 0", "webhookd migrate up"}}},
		"the schema is behind": {func(p *patient) {
			p.sql(`DELETE FROM stripe_identity.schema_migrations WHERE version_id = (SELECT max(version_id) FROM stripe_identity.schema_migrations)`)
		}, []expectation{{"schema", isFailure, fmt.Sprintf("version %d, this build needs %d", migrations.Version()-1, migrations.Version()), "webhookd migrate up"}}},
		"a crash of the machine would lose events": {func(p *patient) {
			careless := pgtest.Database(t)
			p.set(func(e *environment) { e.DatabaseURL.force(careless) })
		}, []expectation{
			{"fsync", isFailure, "off", "postgresql.conf"},
			{"full_page_writes", isFailure, "off", "set it to on"},
			{"secrets seen", isWarning, "main: no event", ""},
			{"reconcile", isWarning, "never complete so far", "webhookd reconcile"},
		}},
		"commits do not wait for the disk by default": {func(p *patient) {
			p.sql(`ALTER DATABASE ` + p.clone() + ` SET synchronous_commit = off`)
		}, []expectation{{"synchronous_commit", isWarning, "off: webhookd turns it on for its own", "on"}}},
		"commits wait for another machine": {func(p *patient) {
			p.sql(`ALTER DATABASE ` + p.clone() + ` SET synchronous_commit = remote_apply`)
		}, []expectation{{"synchronous_commit", isOK, "remote_apply", ""}}},
		"somebody listens and never ends a transaction": {func(p *patient) { // for long: the queue is 8 GB
			p.sql(`CREATE SCHEMA full_queue`)
			p.sql(`CREATE FUNCTION full_queue.pg_notification_queue_usage() RETURNS double precision LANGUAGE sql AS 'SELECT 0.9::double precision'`)
			p.sql(`ALTER DATABASE ` + p.clone() + ` SET search_path = full_queue, pg_catalog`)
		}, []expectation{{"notifications", isWarning, "90 % of PostgreSQL's queue is used", "idle in a transaction"}}},
		"transactions are read-only": {func(p *patient) {
			p.sql(`ALTER DATABASE ` + p.clone() + ` SET default_transaction_read_only = on`)
		}, []expectation{{"writable", isFailure, "read-only by default", "default_transaction_read_only"}}},
		"the role may not write": {func(p *patient) {
			p.sql(roles(p))
			p.sql(`CREATE ROLE doctor_reader LOGIN PASSWORD '` + password(p, p.url) + `' IN ROLE webhookd_reader`)
			p.login("doctor_reader")
		}, []expectation{{"table rights", isFailure, "missing: DELETE on", "roles.sql"}}},
		"the role may do nothing": {func(p *patient) {
			p.sql(`CREATE ROLE doctor_stranger LOGIN PASSWORD '` + password(p, p.url) + `'`)
			p.login("doctor_stranger")
		}, []expectation{
			{"schema", isFailure, "SQLSTATE 42501 (a right is missing)", ""},
			{"table rights", isFailure, " more", "roles.sql"},
		}},
		"the role is a writer": {func(p *patient) {
			p.sql(roles(p))
			p.sql(`CREATE ROLE doctor_writer LOGIN PASSWORD '` + password(p, p.url) + `' IN ROLE webhookd_writer`)
			p.login("doctor_writer")
		}, []expectation{{"table rights", isOK, "none is missing", ""}}},
		"the database has no room for one replica": {func(p *patient) {
			p.sql(`ALTER DATABASE ` + p.clone() + ` CONNECTION LIMIT 5`)
			p.set(func(e *environment) { e.DatabaseURL.force(p.url + "&pool_max_conns=6") })
		}, []expectation{{"connections", isFailure, "5 are allowed, and one replica opens up to 10", "max_connections"}}},
		"the database has no room for one more replica": {func(p *patient) {
			p.sql(`ALTER DATABASE ` + p.clone() + ` CONNECTION LIMIT 10`)
			p.set(func(e *environment) { e.DatabaseURL.force(p.url + "&pool_max_conns=6") })
		}, []expectation{{"connections", isWarning, "8 are free, and one more replica opens up to 10", "max_connections"}}},

		"a secret was never seen, and one is not configured any more": {func(p *patient) {
			p.set(func(e *environment) { e.StripeWebhookSecrets.force("main=" + whsec + ",test:new=" + whsec + "new") })
			p.sql(`INSERT INTO stripe_identity.events (event_id, type, session_id, created_at, received_at, source, secret_name)
				SELECT 'evt_' || n, 'identity.verification_session.created', 'vs_1', now(), now() - interval '3 days', 'webhook', 'old' FROM generate_series(1, 3) n`)
		}, []expectation{
			{"secrets", isOK, "2 secrets: main, test:new", ""},
			{"secrets seen", isWarning, "new: no event in the last 7 days", "take it out"},
			{"secrets seen", isOK, "old: 3 events, the last 3 days ago; not configured here any more", ""},
		}},

		"Stripe's clock is a little ahead": {func(p *patient) {
			p.fake.Set(func(s *stripefake.Settings) { s.Skew = 20 * time.Second })
		}, []expectation{{"live clock", isWarning, "seconds ahead of ours", "NTP"}}},
		"Stripe's clock is far behind": {func(p *patient) {
			p.fake.Set(func(s *stripefake.Settings) { s.Skew = -4 * time.Minute })
		}, []expectation{{"live clock", isFailure, "minutes behind ours; the tolerance is 5m0s", "NTP"}}},
		"our clock is ahead of everybody's": {func(p *patient) {
			p.now = func() time.Time { return time.Now().Add(30 * time.Second) }
		}, []expectation{
			{"database clock", isWarning, "seconds behind ours", "NTP"},
			{"live clock", isWarning, "seconds behind ours", "NTP"},
		}},

		"there is no key": {func(p *patient) {
			p.set(func(e *environment) { unset(&e.StripeAPIKeys) })
		}, []expectation{
			{"live key", isWarning, "none: outputs, refresh, reconcile and these checks are off for live mode", "docs/stripe-api-key.md"},
			{"reconcile", isOK, "off: there is no key", ""},
		}},
		"there is no key, and somebody was verified": {func(p *patient) {
			p.set(func(e *environment) { unset(&e.StripeAPIKeys) })
			p.sql(`INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES ('vs_1', true, now() - interval '50 hours')`)
		}, []expectation{
			{"live key", isWarning, "none: outputs, refresh, reconcile and these checks are off for live mode", "docs/stripe-api-key.md"},
			{"outputs", isOK, "off: there is no key", ""},
		}},
		"somebody was verified in a mode without a key": {func(p *patient) {
			p.sql(`INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES ('vs_1', false, now() - interval '50 hours')`)
		}, []expectation{{"outputs", isOK, "none wait", ""}}},
		"there is a key for one mode of two": {func(p *patient) {
			p.set(func(e *environment) { e.Livemode.force("any") })
		}, []expectation{
			{"live key", isOK, "restricted", ""},
			{"test key", isWarning, "none: outputs, refresh, reconcile and these checks are off for test mode", "WEBHOOKD_LIVEMODE=live"},
		}},
		"each mode has a key": {func(p *patient) {
			key := p.fake.Key(false, stripefake.Rights{})
			p.set(func(e *environment) { e.Livemode.force("any"); e.StripeAPIKeys.force(p.key + "," + key) })
		}, []expectation{
			{"test clock", isOK, "agrees with ours", ""},
			{"test key", isOK, "restricted", ""},
			{"test outputs", isWarning, "nobody was verified in the last 48 hours", "let somebody be verified"},
			{"test endpoint", isFailure, "none sends to " + publicURL, "WEBHOOKD_LIVEMODE"},
		}},
		"Stripe does not accept the key": {func(p *patient) {
			p.fake.Expire(p.key)
		}, []expectation{{"live key", isFailure, "Stripe does not accept it", "restricted key"}}},
		"the key may not read sessions": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{NoSessions: true})
		}, []expectation{
			{"live sessions", isFailure, "may not read them", "'Verification Sessions and Reports'"},
			{"live endpoint", isOK, "we_ours", ""},
		}},
		"the key may not read sensitive fields": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{})
		}, []expectation{
			{"live outputs", isOK, "first_name, last_name, address, id_number_type, email, phone, provided_details", ""},
			{"live outputs", isWarning, "may not read dob, id_number, sex, unparsed_place_of_birth, unparsed_sex", "'Access recent sensitive verification results'"},
		}},
		"the key may not read one of the fields": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{Sensitive: true, Refuses: []string{"verified_outputs.sex", "provided_details"}})
		}, []expectation{
			{"live outputs", isWarning, "may not read sex: they", "WEBHOOKD_OUTPUT_FIELDS"},
			{"live outputs", isWarning, "may not read provided_details: they", "'Verification Sessions and Reports'"},
		}},
		"the key may not read what is not asked for": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{Refuses: []string{"provided_details"}})
			p.set(func(e *environment) { e.OutputFields.force("first_name,last_name") })
		}, []expectation{{"live outputs", isOK, "the key may read first_name, last_name", ""}}},
		"no outputs are asked for": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{})
			p.set(func(e *environment) { e.OutputFields.force("none") })
		}, []expectation{{"live outputs", isOK, "none are asked for", ""}}},
		"the key may not list events": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{Sensitive: true, NoEvents: true})
		}, []expectation{{"live events", isFailure, "may not list them", "'Events': Read"}}},
		"the key may not list endpoints": {func(p *patient) {
			p.fake.Grant(p.key, stripefake.Rights{Sensitive: true, NoEndpoints: true})
		}, []expectation{{"live endpoint", isWarning, "may not list", "'Webhook Endpoints'"}}},
		"the key may not list event destinations": {func(p *patient) {
			p.fake.Next(append(make([]stripefake.Fault, 11), stripefake.Fault{Status: 403})...)
		}, []expectation{
			{"live destinations", isWarning, "may not list event destinations", "'Event Destinations'"},
			{"live endpoint", isOK, "we_ours", ""},
		}},
		"the key may not list event destinations, and no endpoint is ours": {func(p *patient) {
			p.fake.Next(append(make([]stripefake.Fault, 11), stripefake.Fault{Status: 403})...)
			p.set(func(e *environment) { e.PublicURL.force("https://elsewhere.example") })
		}, []expectation{
			{"live destinations", isWarning, "may not list event destinations", ""},
			{"live endpoint", isWarning, "no webhook endpoint sends to https://elsewhere.example/webhooks/stripe; an event destination may", ""},
		}},
		"a connected account can be read": {func(p *patient) {
			p.fake.Connect(stripeapi.Place{Live: true, Account: "acct_1"})
			p.set(func(e *environment) { e.StripeAccounts.force("acct_1") })
		}, []expectation{{"live accounts", isOK, "1 of the 1", ""}}},
		"a connected account is none of ours": {func(p *patient) {
			p.fake.Connect(stripeapi.Place{Live: true, Account: "acct_1"})
			p.set(func(e *environment) { e.StripeAccounts.force("acct_1,acct_2") })
		}, []expectation{{"live accounts", isFailure, "acct_2: list events: stripe refused the request with status 403", "connected accounts"}}},

		"there is no network": {func(p *patient) {
			p.set(func(e *environment) { e.StripeAPIBase.force("http://127.0.0.1:1") })
		}, []expectation{
			{"live API", isFailure, "no answer from stripe", "firewall"},
			{"schema", isOK, "version", ""},
			{"quarantine", isOK, "empty", ""},
		}},
		"somebody else answers": {func(p *patient) {
			nobody := httptest.NewServer(http.NotFoundHandler())
			p.Cleanup(nobody.Close)
			p.set(func(e *environment) { e.StripeAPIBase.force(nobody.URL) })
		}, []expectation{
			{"live sessions", isFailure, "stripe does not know this", "WEBHOOKD_STRIPE_API_BASE"},
			{"live events", isFailure, "stripe does not know this", "WEBHOOKD_STRIPE_API_BASE"},
			{"live endpoint", isFailure, "stripe does not know this", "WEBHOOKD_STRIPE_API_BASE"},
		}},
		"Stripe answers a part of it with errors": {func(p *patient) {
			p.fake.Next(stripefake.Fault{}, stripefake.Fault{Status: 500}, stripefake.Fault{Status: 503}, stripefake.Fault{Status: 502})
		}, []expectation{
			{"live sessions", isFailure, "stripe answered with status 500", "again later"},
			{"live events", isFailure, "stripe answered with status 503", "again later"},
			{"live endpoint", isFailure, "stripe answered with status 502", "again later"},
		}},

		"the endpoint was disabled": {func(p *patient) {
			p.replaced().endpoint("we_ours", publicURL, "disabled", sixTypes)
		}, []expectation{{"live endpoint", isFailure, "we_ours: disabled", "enable it"}}},
		"the endpoint takes all events, and so no redactions": {func(p *patient) {
			p.replaced().endpoint("we_ours", publicURL, "enabled", `"*"`)
		}, []expectation{{"live event types", isFailure, "we_ours: without identity.verification_session.redacted", "'all events' leaves redacted out"}}},
		"the endpoint takes all events, and redactions by name": {func(p *patient) {
			p.replaced().endpoint("we_ours", publicURL, "enabled", `"*","identity.verification_session.redacted"`)
		}, []expectation{{"live event types", isOK, "all six", ""}}},
		"the endpoint takes some of the types": {func(p *patient) {
			p.replaced().endpoint("we_ours", publicURL, "enabled", `"identity.verification_session.verified","identity.verification_session.requires_input","identity.verification_session.redacted","charge.updated"`)
		}, []expectation{{"live event types", isFailure, "without identity.verification_session.created, identity.verification_session.processing, identity.verification_session.canceled", "all six types"}}},
		"the endpoint has another path": {func(p *patient) {
			p.replaced().endpoint("we_ours", "https://HOOKS.example:443/stripe?token="+canary, "enabled", sixTypes)
		}, []expectation{{"live endpoint", isFailure, "we_ours sends to https://HOOKS.example:443/stripe, not to " + publicURL, "WEBHOOKD_WEBHOOK_PATH"}}},
		"the endpoint has a slash too many": {func(p *patient) {
			p.replaced().endpoint("we_ours", publicURL+"/", "enabled", sixTypes)
		}, []expectation{{"live endpoint", isFailure, "not to " + publicURL, ""}}},
		"the endpoint is written in another way": {func(p *patient) {
			p.replaced().endpoint("we_ours", "https://Hooks.Example:443/webhooks/stripe", "enabled", sixTypes)
		}, []expectation{{"live endpoint", isOK, "we_ours", ""}}},
		"PUBLIC_URL is the whole URL": {func(p *patient) {
			p.set(func(e *environment) { e.PublicURL.force(publicURL) })
		}, []expectation{{"live endpoint", isOK, "we_ours", ""}}},
		"a gateway has a path of its own": {func(p *patient) {
			p.replaced().endpoint("we_ours", "https://gate.example/in/7", "enabled", sixTypes)
			p.set(func(e *environment) { e.PublicURL.force("https://gate.example/in/7") })
		}, []expectation{{"live endpoint", isOK, "we_ours", ""}}},
		"there is no endpoint": {func(p *patient) {
			p.replaced().endpoint("we_other", "https://other.example/"+canary, "enabled", sixTypes)
		}, []expectation{{"live endpoint", isFailure, "none sends to " + publicURL, "make one"}}},
		"PUBLIC_URL is not set": {func(p *patient) {
			p.endpoint("we_shop", "https://shop.example/"+canary, "disabled", `"*"`)
			p.endpoint("we_bank", "https://bank.example/"+canary, "enabled", `"charge.updated"`)
			p.set(func(e *environment) { unset(&e.PublicURL) })
		}, []expectation{
			{"live endpoint", isWarning, "may be we_ours at " + publicURL + ": enabled", "WEBHOOKD_PUBLIC_URL"},
			{"live endpoint", isWarning, "may be we_shop at shop.example: disabled, snapshots of API version 2026-10-28.endive, without identity.verification_session.redacted", "WEBHOOKD_PUBLIC_URL"},
		}},
		"PUBLIC_URL is not set, and nothing may be ours": {func(p *patient) {
			p.replaced().endpoint("we_bank", "https://bank.example/", "enabled", `"charge.updated"`)
			p.set(func(e *environment) { unset(&e.PublicURL) })
		}, []expectation{{"live endpoint", isWarning, "none is selected for any type", "WEBHOOKD_PUBLIC_URL"}}},
		"an event destination sends thin events": {func(p *patient) {
			p.replaced().destination("ed_1", "thin", `["@self"]`, "v1."+strings.Join(events.Types(), `","v1.`))
		}, []expectation{
			{"live endpoint", isOK, "ed_1: enabled, thin events from @self", ""},
			{"live event types", isOK, "ed_1: all six", ""},
		}},
		"two share the work while one moves": {func(p *patient) {
			p.replaced().destination("ed_1", "thin", `["@self"]`, "v1."+strings.Join(events.Types()[:3], `","v1.`))
			p.destination("ed_2", "snapshot", `["@self"]`, strings.Join(events.Types()[3:], `","`))
		}, []expectation{{"live event types", isOK, "ed_1, ed_2: all six", ""}}},
		"two with other sources do not share the work": {func(p *patient) {
			p.replaced().destination("ed_1", "snapshot", `["@self"]`, strings.Join(events.Types(), `","`))
			p.destination("ed_2", "snapshot", `["@accounts"]`, strings.Join(events.Types()[:5], `","`))
		}, []expectation{
			{"live event types", isFailure, "ed_2: without identity.verification_session.redacted", ""},
			{"live event types", isOK, "ed_1: all six", ""},
		}},
		"connected accounts are configured, and their events do not come": {func(p *patient) {
			p.replaced().destination("ed_1", "snapshot", `["@self"]`, strings.Join(events.Types(), `","`))
			p.fake.Connect(stripeapi.Place{Live: true, Account: "acct_1"})
			p.set(func(e *environment) { e.StripeAccounts.force("acct_1") })
		}, []expectation{{"live endpoint", isWarning, "only the account's own events come here", "connected accounts"}}},

		"something stands in quarantine": {func(p *patient) {
			p.sql(`INSERT INTO stripe_identity.quarantined_events (event_id, type, received_at, reason, source) VALUES ('evt_1', 'x', now() - interval '5 hours', 'r', 'webhook')`)
		}, []expectation{{"quarantine", isWarning, "1 event not understood, the first 5 hours ago", "quarantine replay"}}},
		"everything waits, but not for long": {func(p *patient) {
			p.sql(waits("5 minutes"))
		}, []expectation{
			{"refresh", isOK, "1 session waits, the first for ", ""},
			{"thin events", isOK, "1 event waits, the first for ", ""},
			{"outputs", isOK, "1 session waits, the first for ", ""},
		}},
		"everything waits for too long": {func(p *patient) {
			p.sql(waits("3 hours"))
		}, []expectation{
			{"refresh", isWarning, "1 session waits, the first for 3 hours", "a key for the mode"},
			{"thin events", isWarning, "1 event waits, the first for 3 hours", "a key for the mode"},
			{"outputs", isWarning, "1 session waits, the first for 3 hours", "a key for the mode"},
		}},
		"outputs wait until the window is nearly over": {func(p *patient) {
			p.sql(`INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES ('vs_1', true, now() - interval '30 hours 1 minute')`)
		}, []expectation{{"outputs", isWarning, "1 session waits, the first 30 hours ago", "readable for 17 hours more"}}},
		"outputs have waited for too long": {func(p *patient) {
			p.sql(`INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES ('vs_1', true, now() - interval '50 hours 1 minute')`)
		}, []expectation{{"outputs", isFailure, "1 session waits, the first 2 days ago: over WEBHOOKD_OUTPUTS_WINDOW", "IP-restricted"}}},
		"outputs have waited for long with a key that always may": {func(p *patient) {
			p.set(func(e *environment) { e.OutputsWindow.force("0") })
			p.sql(`INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES ('vs_1', true, now() - interval '50 hours 1 minute')`)
		}, []expectation{{"outputs", isWarning, "1 session waits, the first for 2 days", "a key for the mode"}}},
		"reconcile has stopped": {func(p *patient) {
			p.sql(`UPDATE stripe_identity.reconcile_runs SET finished_at = now() - interval '4 hours 1 minute'`)
		}, []expectation{{"reconcile", isWarning, "the last complete run ended 4 hours ago", "webhookd reconcile"}}},
		"reconcile has failed": {func(p *patient) {
			p.sql(`INSERT INTO stripe_identity.reconcile_runs (started_at, since, finished_at, result) VALUES (now(), now(), now(), 'failed')`)
		}, []expectation{{"reconcile", isWarning, " minutes ago; the last run was failed", "webhookd reconcile"}}},
		"something else reconciles": {func(p *patient) {
			p.set(func(e *environment) { e.ReconcileEvery.force("0") })
		}, []expectation{{"reconcile", isOK, "the last complete run ended ", ""}}},
		"nothing reconciles": {func(p *patient) {
			p.set(func(e *environment) { e.ReconcileEvery.force("0") })
			p.sql(`UPDATE stripe_identity.reconcile_runs SET finished_at = now() - interval '7 hours 1 minute'`)
		}, []expectation{{"reconcile", isWarning, "the last complete run ended 7 hours ago", "WEBHOOKD_RECONCILE_EVERY is 0"}}},
		"only test secrets, and live events alone are taken": {func(p *patient) {
			p.set(func(e *environment) {
				e.Livemode.force("live")
				e.StripeWebhookSecrets.force("test:main=" + whsec)
			})
		}, []expectation{{"configuration", isWarning, "every live event is refused", "correct it"}}},
		"the tables of the backlog are gone": {func(p *patient) {
			p.sql(`DROP TABLE stripe_identity.reconcile_runs, stripe_identity.events CASCADE`)
		}, []expectation{
			{"secrets seen", isFailure, "cannot tell: count events by secret: SQLSTATE 42P01", "table rights"},
			{"backlog", isFailure, "SQLSTATE 42P01", "table rights"},
		}},
	}
	for sentence, test := range cases {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			p := c.patient(t)
			test.prepare(p)
			d := diagnose(t.Context(), p.now, p.edits...)
			p.expect(d, test.want)
			p.expectDiscretion(d)
		})
	}
	t.Run("the exit code says what was found", func(t *testing.T) {
		t.Parallel()
		exitsByWhatItFound(c.patient(t))
	})
}

// expect compares the lines that are not ok with all of these, and finds the others.
func (p *patient) expect(d diagnosis, want []expectation) {
	p.Helper()
	rest := slices.Clone(d.Checks)
	failures, warnings := 0, 0
	for _, w := range want {
		switch w.level {
		case isFailure:
			failures++
		case isWarning:
			warnings++
		}
		i := slices.IndexFunc(rest, func(f finding) bool {
			return f.Check == w.check && f.Level == w.level && strings.Contains(f.Found, w.found) && strings.Contains(f.Do, w.do)
		})
		if i < 0 {
			p.Errorf("no line as %q", w)
			continue
		}
		rest = slices.Delete(rest, i, i+1)
	}
	for _, f := range rest {
		if f.Level != isOK {
			p.Errorf("a line too many: %q", f)
		}
	}
	for _, f := range d.Checks {
		if (f.Do == "") != (f.Level == isOK) || f.Found == "" || strings.Contains(f.Found+f.Do, "%!") {
			p.Errorf("not well said: %q", f)
		}
	}
	if d.Failures != failures || d.Warnings != warnings || (d.err() != nil) != (failures > 0) {
		p.Errorf("%d failures, %d warnings, error %v", d.Failures, d.Warnings, d.err())
	}
	if p.Failed() {
		var b bytes.Buffer
		d.writeText(&b)
		p.Logf("\n%s", &b)
	}
}

// expectDiscretion looks for what must not be shown.
func (p *patient) expectDiscretion(d diagnosis) {
	p.Helper()
	var text, asJSON bytes.Buffer
	d.writeText(&text)
	if err := d.writeJSON(&asJSON); err != nil {
		p.Fatal(err)
	}
	for where, shown := range map[string]string{"the text": text.String(), "the JSON": asJSON.String(), "the error": fmt.Sprint(d.err())} {
		expectNone(p, where, shown, canary, password(p, p.url), p.key, "127.0.0.1", p.session.ID, scenario.Marker, "doctor_")
	}
}

func (p *patient) destination(id, payload, from, types string) {
	p.fake.AddDestination(true, fmt.Sprintf(`{"id":%q,"object":"v2.core.event_destination","status":"enabled","enabled_events":["%s"],"event_payload":%q,"events_from":%s,"livemode":true,"type":"webhook_endpoint","webhook_endpoint":{"url":%q}}`, id, types, payload, from, publicURL))
}

// login makes webhookd another user of its database.
func (p *patient) login(user string) {
	as := strings.Replace(p.url, "//webhookd:", "//"+user+":", 1)
	p.set(func(e *environment) { e.DatabaseURL.force(as) })
}

// waits makes one of everything that has waited so long.
func waits(ago string) string {
	return strings.ReplaceAll(`
INSERT INTO stripe_identity.verification_sessions (id, needs_refresh, updated_at) VALUES ('vs_1', true, now() - interval 'AGO 1 second');
INSERT INTO stripe_identity.verification_sessions (id, livemode, outputs_wanted_since) VALUES ('vs_2', true, now() - interval 'AGO 1 second');
INSERT INTO stripe_identity.events (event_id, type, session_id, created_at, received_at, source)
VALUES ('evt_1', 'v1.identity.verification_session.created', 'vs_1', now(), now() - interval 'AGO 1 second', 'webhook')`, "AGO", ago)
}

func roles(tb testing.TB) string {
	tb.Helper()
	return document(tb, "deploy/sql/roles.sql")
}

func TestDoctorTellsAStandby(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "server")
	removed(t, dir)
	start := func() *pgdev.Server {
		t.Helper()
		server, err := pgdev.Start(t.Context(), pgdev.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Stop(context.Background()) })
		return server
	}
	server := start()
	if _, err := repo.Migrate(t.Context(), server.URL("webhookd")); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.Dir(), "data", "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server = start()
	cfg := &Config{Committers: 2, Credentials: Credentials{DatabaseURL: hidden(server.URL("webhookd"))}}
	found := diagnoseDatabase(t.Context(), cfg, time.Now).server
	i := slices.IndexFunc(found, func(f finding) bool { return f.Level != isOK })
	if i < 0 || found[i].Check != "writable" || found[i].Level != isFailure || !strings.Contains(found[i].Found, "standby") {
		t.Errorf("findings %q", found)
	}
}

// TestServersThatCannotBeHadHere are judged by what they would say.
func TestServersThatCannotBeHadHere(t *testing.T) {
	t.Parallel()
	well := repo.Server{
		Version: "15.1", Number: 150001, Fsync: true, FullPageWrites: true, SynchronousCommit: "on",
		QueryMode: "cache_statement", PoolSize: 10, Most: 100, Free: 50,
	}
	cases := map[string]struct {
		change func(*repo.Server)
		shared bool
		want   []string
	}{
		"well":                        {func(*repo.Server) {}, true, nil},
		"too old":                     {func(s *repo.Server) { s.Version, s.Number = "14.9", 140009 }, true, []string{"failure database"}},
		"behind a pooler":             {func(s *repo.Server) { s.Pooled = true }, true, []string{"warning pooler"}},
		"behind a pooler, rightly":    {func(s *repo.Server) { s.Pooled, s.QueryMode = true, "cache_describe" }, false, nil},
		"where migrate does not run":  {func(s *repo.Server) { s.Pooled, s.QueryMode = true, "cache_describe" }, true, nil},
		"a pooler's limits are its":   {func(s *repo.Server) { s.Pooled, s.QueryMode, s.Free = true, "cache_describe", 0 }, false, nil},
		"more in use than allowed":    {func(s *repo.Server) { s.Free = -3 }, true, []string{"warning connections"}},
		"with a clock that goes wild": {func(s *repo.Server) { s.Clock = -time.Hour }, true, []string{"warning database clock"}},
		"with a clock a little off":   {func(s *repo.Server) { s.Clock = 5 * time.Second }, true, nil},
	}
	for sentence, test := range cases {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			s := well
			test.change(&s)
			var got []string
			for _, f := range serverFindings(s, test.shared) {
				if f.Level != isOK {
					got = append(got, string(f.Level)+" "+f.Check)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDoctorDoesNotWaitForWhoIsSilent(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	d := diagnose(ctx, time.Now, func(e *environment) {
		e.DatabaseURL.force("postgres://u@" + silent.Addr().String() + "/x?sslmode=disable")
		e.StripeWebhookSecrets.force(whsec)
		e.StripeAPIKeys.force("rk_live_" + canary)
		e.StripeAPIBase.force("http://" + silent.Addr().String())
		e.Livemode.force("live")
	})
	if took := time.Since(began); took > databaseTimeout {
		t.Errorf("it took %s", took)
	}
	got := make(map[string]string)
	for _, f := range d.Checks {
		if f.Level == isFailure {
			got[f.Check] = f.Found
		}
	}
	want := map[string]string{"database": "no answer from the database in time", "live API": "no answer from stripe in time"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if total := diagnosisTimeout; total > 30*time.Second || databaseTimeout > total || remoteTimeout > total {
		t.Errorf("it may take %s", total)
	}
}

func TestADiagnosisFitsATerminal(t *testing.T) {
	t.Parallel()
	var f findings
	f.okf("fsync", "on")
	f.warnf("synchronous_commit", strings.Repeat("word ", 40)+"https://"+strings.Repeat("long", 30), "“%s”", strings.Repeat("wörter ", 30))
	f.failf("live event types", "do it", "found it")
	d := diagnosis{Checks: f}.counted()
	var b bytes.Buffer
	d.writeText(&b)
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > textWidth && !strings.Contains(line, "https://") || strings.HasSuffix(line, " \n") {
			t.Errorf("%d wide: %q", n, line)
		}
	}
	words := strings.Fields(b.String())
	if n := len(slices.DeleteFunc(words, func(w string) bool { return w != "word" && !strings.Contains(w, "wörter") })); n != 70 {
		t.Errorf("%d words of 70:\n%s", n, &b)
	}
	for _, want := range []string{
		"ok       fsync               on\n",
		"failure  live event types    found it\n                             → do it\n",
		"\n\n1 ok, 1 warning, 1 failure\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

// exitsByWhatItFound runs the program, whose configuration is the environment.
func exitsByWhatItFound(p *patient) {
	p.Helper()
	p.clone()
	vars := env{
		"WEBHOOKD_DATABASE_URL": p.url, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "main=" + whsec, "WEBHOOKD_STRIPE_API_KEYS": p.key,
		"WEBHOOKD_STRIPE_API_BASE": p.fake.URL, "WEBHOOKD_PUBLIC_URL": publicURL, "WEBHOOKD_LIVEMODE": "live",
	}
	well := launch(p, p.TempDir(), vars, "doctor").exits(exitDone)
	if text := well.stdout.String(); !strings.HasSuffix(text, " ok, 0 warnings, 0 failures\n") || well.log.String() != "" {
		p.Errorf("%s%s", text, well.log)
	}

	vars["WEBHOOKD_STRIPE_API_KEYS"], vars["WEBHOOKD_LIFEMODE"] = "", "x"
	warned := launch(p, p.TempDir(), vars, "doctor", "--json").exits(exitDone)
	if got := decoded(p, warned); got.Failures != 0 || got.Warnings != 2 || !strings.Contains(got.Checks[0].Found, "did you mean WEBHOOKD_LIVEMODE?") {
		p.Errorf("%s", warned.stdout)
	}

	p.sql(`DELETE FROM stripe_identity.schema_migrations WHERE version_id > 1`)
	failed := launch(p, p.TempDir(), vars, "doctor", "--json").exits(exitFailed)
	if got := decoded(p, failed); got.Failures != 1 || failed.log.String() != "webhookd: 1 failure\n" {
		p.Errorf("%s%s", failed.stdout, failed.log)
	}

	vars["WEBHOOKD_COMMITTERS"] = "many"
	faulty := launch(p, p.TempDir(), vars, "doctor", "--json").exits(exitUsage)
	if got := decoded(p, faulty); got.Failures != 2 || got.Warnings != 2 || faulty.log.String() != "webhookd: configuration is at fault: 2 failures in all\n" {
		p.Errorf("%s%s", faulty.stdout, faulty.log)
	}
}

func decoded(tb testing.TB, p *process) (d diagnosis) {
	tb.Helper()
	if err := json.Unmarshal([]byte(p.stdout.String()), &d); err != nil {
		tb.Fatalf("%v: %s%s", err, p.stdout, p.log)
	}
	return d
}
