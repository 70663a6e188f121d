package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"webhookd/internal/events"
	"webhookd/internal/signature"
)

// canary stands in every secret of these tests; where it shows, a secret leaks.
const (
	canary      = "S3CRETcanary"
	databaseURL = "postgres://webhookd:" + canary + "@db:5432/webhookd"
	whsec       = "whsec_" + canary
)

type env map[string]string

// serving is the least with which serve starts, and more.
func serving(more env) env {
	all := env{"WEBHOOKD_DATABASE_URL": databaseURL, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": whsec}
	maps.Copy(all, more)
	return all
}

func diff(tb testing.TB, want, got any, opts ...cmp.Option) {
	tb.Helper()
	if d := cmp.Diff(want, got, opts...); d != "" {
		tb.Errorf("want -, got +:\n%s", d)
	}
}

// setenv makes the environment hold these variables of ours and no other.
func setenv(tb testing.TB, vars env) {
	tb.Helper()
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "WEBHOOKD_") || strings.HasPrefix(name, "PG") || name == "DATABASE_URL" {
			tb.Setenv(name, "") // is put back at the end
			if err := os.Unsetenv(name); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for name, text := range vars {
		tb.Setenv(name, text)
	}
}

// load also fails the test when an error shows a secret.
func load(tb testing.TB, need needs, vars env, edits ...func(*environment)) (*Config, error) {
	tb.Helper()
	setenv(tb, vars)
	cfg, err := LoadConfig(need, edits...)
	if err == nil {
		return cfg, nil
	}
	if !errors.Is(err, errConfig) || cfg != nil {
		tb.Errorf("a fault gives %v and error %q, want no Config and errConfig", cfg, err)
	}
	if strings.Contains(err.Error(), canary) {
		tb.Errorf("error shows a secret: %v", err)
	}
	return nil, err
}

func mustLoad(tb testing.TB, vars env, edits ...func(*environment)) *Config {
	tb.Helper()
	cfg, err := load(tb, needDatabase|needSecrets, vars, edits...)
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// faults are the lines of the error without its heading.
func faults(tb testing.TB, need needs, vars env) []string {
	tb.Helper()
	_, err := load(tb, need, vars)
	if err == nil {
		tb.Fatal("no fault is found")
	}
	heading, rest, _ := strings.Cut(err.Error(), "\n")
	if heading != "configuration:" {
		tb.Errorf("heading is %q", heading)
	}
	return strings.Split(rest, "\n")
}

func writeFile(tb testing.TB, path, text string) string {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func names(secrets []signature.Secret) []string {
	var names []string
	for _, s := range secrets {
		name := s.Name()
		if s.Test() {
			name = "test:" + name
		}
		names = append(names, name)
	}
	return names
}

func TestConfigNeedsOnlyADatabaseURLAndOneSecret(t *testing.T) {
	cfg := mustLoad(t, serving(nil))
	diff(t, &Config{
		APIRate:            5,
		ListenAddr:         ":8080",
		AdminAddr:          ":9090",
		WebhookPath:        "/webhooks/stripe",
		SignatureTolerance: 5 * time.Minute,
		MaxBodyBytes:       1 << 20,
		DeliveryTimeout:    10 * time.Second,
		Livemode:           "any",
		OutputFields:       OutputFields{All: true, Names: events.OutputFields()},
		OutputsWindow:      48 * time.Hour,
		RetainPayloads:     Retention(30 * 24 * time.Hour),
		RetainQuarantine:   Retention(90 * 24 * time.Hour),
		RetainOutputs:      Forever,
		RetainHistory:      Forever,
		ReconcileEvery:     time.Hour,
		Notify:             true,
		Committers:         2,
		BatchMax:           256,
		QueueLength:        4096,
		DrainDelay:         5 * time.Second,
		ShutdownTimeout:    20 * time.Second,
		LogLevel:           zapcore.InfoLevel,
		LogFormat:          "json",
	}, cfg, cmpopts.IgnoreFields(Config{}, "Credentials"), cmpopts.IgnoreUnexported(Config{}))

	if cfg.DatabaseURL != databaseURL || cfg.MigrateDatabaseURL != databaseURL {
		t.Error("the database URLs are not the one that was given")
	}
	if got := names(cfg.Secrets); len(got) != 1 || !strings.HasPrefix(got[0], "sha256:") {
		t.Errorf("an unnamed secret is called %q, want a fingerprint", got)
	}
	body, now := []byte(`{}`), time.Now()
	if _, err := cfg.Verifier.Verify(body, signature.Sign(body, whsec, now), now); err != nil {
		t.Errorf("the configured secret does not verify: %v", err)
	}
	if len(cfg.APIKeys) != 0 {
		t.Error("there are API keys")
	}
}

func TestConfigReads(t *testing.T) {
	tests := map[string]struct {
		variable, text string
		get            func(*Config) any
		want           any
	}{
		"DATABASE_URL as key=value":                {"DATABASE_URL", "host=db user=u password='a b'", func(c *Config) any { return string(c.DatabaseURL) }, "host=db user=u password='a b'"},
		"DATABASE_URL for a pooler":                {"DATABASE_URL", "postgresql://u@db/x?default_query_exec_mode=cache_describe&pool_max_conns=7", func(c *Config) any { return string(c.DatabaseURL) }, "postgresql://u@db/x?default_query_exec_mode=cache_describe&pool_max_conns=7"},
		"DATABASE_URL with a line break behind it": {"DATABASE_URL", "postgres://db/x\n", func(c *Config) any { return string(c.DatabaseURL) }, "postgres://db/x"},
		"MIGRATE_DATABASE_URL of its own":          {"MIGRATE_DATABASE_URL", "postgres://owner@db/x", func(c *Config) any { return string(c.DatabaseURL + " " + c.MigrateDatabaseURL) }, databaseURL + " postgres://owner@db/x"},
		"STRIPE_WEBHOOK_SECRETS of all forms":      {"STRIPE_WEBHOOK_SECRETS", "a=whsec_1, test:b.2 = whsec_2\r\n\tc-3=whsec_3\n", func(c *Config) any { return names(c.Secrets) }, []string{"a", "test:b.2", "c-3"}},
		"STRIPE_API_KEYS, one per mode":            {"STRIPE_API_KEYS", "rk_live_" + canary + ",rk_test_" + canary + "2", func(c *Config) any { return string(c.APIKeys[true] + " " + c.APIKeys[false]) }, "rk_live_" + canary + " rk_test_" + canary + "2"},
		"STRIPE_API_KEYS of one mode":              {"STRIPE_API_KEYS", "rk_test_x\n", func(c *Config) any { return len(c.APIKeys[true]) + 10*len(c.APIKeys[false]) }, 90},
		"STRIPE_API_KEYS, set and empty, as none":  {"STRIPE_API_KEYS", "", func(c *Config) any { return len(c.APIKeys) }, 0},
		"STRIPE_API_BASE":                          {"STRIPE_API_BASE", "http://127.0.0.1:12111/", func(c *Config) any { return c.APIBase }, "http://127.0.0.1:12111"},
		"STRIPE_ACCOUNTS":                          {"STRIPE_ACCOUNTS", "acct_1,acct_2", func(c *Config) any { return c.Accounts }, []string{"acct_1", "acct_2"}},
		"STRIPE_ACCOUNTS, set and empty, as none":  {"STRIPE_ACCOUNTS", "", func(c *Config) any { return len(c.Accounts) }, 0},
		"API_RATE":                {"API_RATE", "0.5", func(c *Config) any { return c.APIRate }, 0.5},
		"API_RATE up to 25":       {"API_RATE", "25", func(c *Config) any { return c.APIRate }, 25.0},
		"LISTEN_ADDR":             {"LISTEN_ADDR", "[::1]:0", func(c *Config) any { return c.ListenAddr }, "[::1]:0"},
		"ADMIN_ADDR":              {"ADMIN_ADDR", "127.0.0.1:9091", func(c *Config) any { return c.AdminAddr }, "127.0.0.1:9091"},
		"WEBHOOK_PATH":            {"WEBHOOK_PATH", "/in/stripe-v1", func(c *Config) any { return c.WebhookPath }, "/in/stripe-v1"},
		"PUBLIC_URL":              {"PUBLIC_URL", "https://example.com/webhooks/stripe", func(c *Config) any { return c.PublicURL }, "https://example.com/webhooks/stripe"},
		"SIGNATURE_TOLERANCE":     {"SIGNATURE_TOLERANCE", "90s", func(c *Config) any { return c.SignatureTolerance }, 90 * time.Second},
		"MAX_BODY_BYTES in bytes": {"MAX_BODY_BYTES", "65536", func(c *Config) any { return c.MaxBodyBytes }, int64(65536)},
		"MAX_BODY_BYTES in KiB":   {"MAX_BODY_BYTES", "512KiB", func(c *Config) any { return c.MaxBodyBytes }, int64(512 << 10)},
		"MAX_BODY_BYTES in MiB, as docs write it":    {"MAX_BODY_BYTES", "64 MiB", func(c *Config) any { return c.MaxBodyBytes }, int64(64 << 20)},
		"DELIVERY_TIMEOUT":                           {"DELIVERY_TIMEOUT", "1m30s", func(c *Config) any { return c.DeliveryTimeout }, 90 * time.Second},
		"LIVEMODE live":                              {"LIVEMODE", "live", func(c *Config) any { return []bool{c.Livemode.Takes(true), c.Livemode.Takes(false)} }, []bool{true, false}},
		"LIVEMODE test":                              {"LIVEMODE", "test", func(c *Config) any { return []bool{c.Livemode.Takes(true), c.Livemode.Takes(false)} }, []bool{false, true}},
		"LIVEMODE any":                               {"LIVEMODE", "any", func(c *Config) any { return []bool{c.Livemode.Takes(true), c.Livemode.Takes(false)} }, []bool{true, true}},
		"OUTPUT_FIELDS all, with those of tomorrow":  {"OUTPUT_FIELDS", "all", func(c *Config) any { return c.OutputFields.Wants("tomorrow") }, true},
		"OUTPUT_FIELDS none":                         {"OUTPUT_FIELDS", "none", func(c *Config) any { return c.OutputFields }, OutputFields{}},
		"OUTPUT_FIELDS as a list":                    {"OUTPUT_FIELDS", "dob, first_name", func(c *Config) any { return c.OutputFields }, OutputFields{Names: []string{"first_name", "dob"}}},
		"OUTPUTS_WINDOW 0":                           {"OUTPUTS_WINDOW", "0", func(c *Config) any { return c.OutputsWindow }, time.Duration(0)},
		"RETAIN_PAYLOADS in days and hours":          {"RETAIN_PAYLOADS", "1d12h", func(c *Config) any { return c.RetainPayloads }, Retention(36 * time.Hour)},
		"RETAIN_QUARANTINE forever":                  {"RETAIN_QUARANTINE", "forever", func(c *Config) any { return c.RetainQuarantine }, Forever},
		"RETAIN_OUTPUTS":                             {"RETAIN_OUTPUTS", "1.5d", func(c *Config) any { return c.RetainOutputs }, Retention(36 * time.Hour)},
		"RETAIN_HISTORY":                             {"RETAIN_HISTORY", "3650d", func(c *Config) any { return c.RetainHistory }, Retention(3650 * 24 * time.Hour)},
		"RECONCILE_EVERY 0":                          {"RECONCILE_EVERY", "0", func(c *Config) any { return c.ReconcileEvery }, time.Duration(0)},
		"RECONCILE_EVERY 1s, the least":              {"RECONCILE_EVERY", "1s", func(c *Config) any { return c.ReconcileEvery }, time.Second},
		"NOTIFY":                                     {"NOTIFY", "false", func(c *Config) any { return c.Notify }, false},
		"COMMITTERS":                                 {"COMMITTERS", "4", func(c *Config) any { return c.Committers }, 4},
		"BATCH_MAX":                                  {"BATCH_MAX", "1", func(c *Config) any { return c.BatchMax }, 1},
		"QUEUE_LENGTH":                               {"QUEUE_LENGTH", "65536", func(c *Config) any { return c.QueueLength }, 65536},
		"DRAIN_DELAY 0":                              {"DRAIN_DELAY", "0s", func(c *Config) any { return c.DrainDelay }, time.Duration(0)},
		"SHUTDOWN_TIMEOUT":                           {"SHUTDOWN_TIMEOUT", "1m", func(c *Config) any { return c.ShutdownTimeout }, time.Minute},
		"LOG_LEVEL":                                  {"LOG_LEVEL", "debug", func(c *Config) any { return c.LogLevel }, zapcore.DebugLevel},
		"LOG_FORMAT":                                 {"LOG_FORMAT", "console", func(c *Config) any { return c.LogFormat }, "console"},
		"a number with blanks and a line break here": {"BATCH_MAX", " 64\n", func(c *Config) any { return c.BatchMax }, 64},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := mustLoad(t, serving(env{"WEBHOOKD_" + test.variable: test.text}))
			diff(t, test.want, test.get(cfg))
			diff(t, []string(nil), cfg.Warnings)
		})
	}
}

func TestConfigRefuses(t *testing.T) {
	var many []string
	for i := range 17 {
		many = append(many, fmt.Sprintf("whsec_%s%d", canary, i))
	}
	// Each text is refused with an error that begins with the variable's name and holds the words.
	tests := map[string]struct {
		variable string
		texts    []string
		words    string
	}{
		"a database URL that is set and empty":   {"DATABASE_URL", []string{"", " \n"}, "is set and empty"},
		"a database URL of another kind":         {"DATABASE_URL", []string{"mysql://u:" + canary + "@db/x?a=b", canary, "jdbc:postgresql://db/x?password=" + canary}, "no PostgreSQL URL"},
		"a database URL with a bad port":         {"DATABASE_URL", []string{"postgres://u:" + canary + "@db:port/x", "postgres://u:p@db:" + canary + "@x/y"}, "not understood by pgx: invalid port;"},
		"a database URL that pgx does not parse": {"DATABASE_URL", []string{"postgres://u:" + canary + "@db:port/x", "postgres://u:a/" + canary + ":b@db/x", "host=db password=a " + canary, "postgres://u:%zz" + canary + "@db/x", "postgres://u:" + canary + "@db/x?sslmode=" + canary, "postgres://u:" + canary + "@db/x?pool_max_conns=" + canary, "host=db port=1 password='" + canary}, "not understood by pgx"},
		"a database URL with a mode that fails":  {"DATABASE_URL", []string{"postgres://u@db/x?default_query_exec_mode=exec", "postgres://u@db/x?default_query_exec_mode=simple_protocol"}, "want cache_describe"},
		"a migration URL that is set and empty":  {"MIGRATE_DATABASE_URL", []string{""}, "is set and empty"},
		"a migration URL of another kind":        {"MIGRATE_DATABASE_URL", []string{"mysql://" + canary}, "no PostgreSQL URL"},

		"secrets that are set and empty":          {"STRIPE_WEBHOOK_SECRETS", []string{"", "  ", "\n"}, "is set and empty"},
		"a comma behind the last secret":          {"STRIPE_WEBHOOK_SECRETS", []string{whsec + ",", whsec + ",\n", whsec + ", "}, "entry 2 is blank: remove the comma or line break too many"},
		"a comma before the first secret":         {"STRIPE_WEBHOOK_SECRETS", []string{"," + whsec}, "entry 1 is blank"},
		"a blank line among the secrets":          {"STRIPE_WEBHOOK_SECRETS", []string{"a=" + whsec + "\n\nb=whsec_2", whsec + ",,whsec_2", whsec + ", \t,whsec_2"}, "entry 2 is blank"},
		"a secret without its prefix":             {"STRIPE_WEBHOOK_SECRETS", []string{canary, "sk_live_" + canary, "WHSEC_" + canary, `"` + canary + `"`}, "entry 1 does not begin with whsec_"},
		"a named secret without its prefix":       {"STRIPE_WEBHOOK_SECRETS", []string{"a=" + canary, "a=", "test:a=", "test:a=" + canary}, "entry 1 has no whsec_ after the ="},
		"a secret that is only the prefix":        {"STRIPE_WEBHOOK_SECRETS", []string{"whsec_", "a=whsec_", "test:a=whsec_ "}, "entry 1 has nothing after whsec_"},
		"a test secret without a name":            {"STRIPE_WEBHOOK_SECRETS", []string{"test:" + whsec}, "entry 1 is a test secret without a name: write test:name=whsec_…"},
		"a secret with a bad name":                {"STRIPE_WEBHOOK_SECRETS", []string{"=" + whsec, "test:=" + whsec, "a b=" + whsec, "live:a=" + whsec, "é=" + whsec, strings.Repeat("n", 65) + "=" + whsec}, "entry 1 has no proper name"},
		"a secret as a name":                      {"STRIPE_WEBHOOK_SECRETS", []string{"test:" + whsec + "=whsec_2"}, "entry 1 has a name with whsec_ in it"},
		"two secrets without a separator":         {"STRIPE_WEBHOOK_SECRETS", []string{whsec + " " + whsec, whsec + whsec, whsec + ";" + whsec}, "entry 1 holds two secrets"},
		"a secret with a blank or an odd sign":    {"STRIPE_WEBHOOK_SECRETS", []string{whsec + " x", whsec + "\x7fx", whsec + "…"}, "entry 1 has a blank, or a sign that no secret has"},
		"the same secret twice":                   {"STRIPE_WEBHOOK_SECRETS", []string{whsec + "," + whsec, "a=" + whsec + ",test:b=" + whsec}, "entry 2 is the same secret as entry 1"},
		"the same name twice":                     {"STRIPE_WEBHOOK_SECRETS", []string{"a=" + whsec + ",a=whsec_2", "a=" + whsec + ",test:a=whsec_2"}, "entry 2 has the name of entry 1"},
		"more than 16 secrets":                    {"STRIPE_WEBHOOK_SECRETS", []string{strings.Join(many, ",")}, "has 17 entries: want at most 16"},
		"a blank API key":                         {"STRIPE_API_KEYS", []string{"rk_live_" + canary + ","}, "entry 2 is blank"},
		"an API key that is none":                 {"STRIPE_API_KEYS", []string{canary, "pk_live_" + canary, whsec, "name=rk_live_" + canary}, "entry 1 does not begin with rk_"},
		"an API key without a mode":               {"STRIPE_API_KEYS", []string{"rk_" + canary, "rk_live_", "rk_test" + canary}, "entry 1 has neither _live_ nor _test_"},
		"an API key with a blank":                 {"STRIPE_API_KEYS", []string{"rk_live_" + canary + " x"}, "entry 1 has a blank"},
		"two API keys of one mode":                {"STRIPE_API_KEYS", []string{"rk_live_" + canary + ",rk_live_2", "rk_test_" + canary + ",sk_test_2"}, "entry 2 is of the same mode as entry 1"},
		"an API base that is no URL":              {"STRIPE_API_BASE", []string{"api.stripe.com", "ftp://x", "https://", "https:// x" + canary}, "is no URL"},
		"an API base with a password or a query":  {"STRIPE_API_BASE", []string{"https://u:" + canary + "@x", "https://x?key=" + canary, "https://x#" + canary}, "has a user, a query or a fragment"},
		"accounts that are none":                  {"STRIPE_ACCOUNTS", []string{"rk_live_" + canary, "acct_", "acct_1 acct_2"}, "entry 1 is not of the form acct_…"},
		"a blank account":                         {"STRIPE_ACCOUNTS", []string{"acct_1,"}, "entry 2 is blank"},
		"the same account twice":                  {"STRIPE_ACCOUNTS", []string{"acct_1,acct_1"}, "entry 2 stands there twice"},
		"a rate of 0, less, or over Stripe's 25":  {"API_RATE", []string{"0", "-1", "25.1", "NaN", "Inf", "fast"}, "more than 0 and at most 25"},
		"a listen address without a port":         {"LISTEN_ADDR", []string{"8080", "localhost", ":http", ":65536", "::1"}, "want host:port"},
		"an admin address without a port":         {"ADMIN_ADDR", []string{"9090", "127.0.0.1:"}, "want host:port"},
		"an admin address that is the public one": {"ADMIN_ADDR", []string{":8080"}, "is the address of WEBHOOKD_LISTEN_ADDR"},
		"a path that is a pattern or not clean":   {"WEBHOOK_PATH", []string{"stripe", "/a/", "//a", "/a/../b", "/a?b", "/{x}", "/a b", "https://x/a", "/%41"}, "want a plain path"},
		"a public URL that is none":               {"PUBLIC_URL", []string{"example.com/x"}, "is no URL"},
		"a tolerance of 0 or less":                {"SIGNATURE_TOLERANCE", []string{"0", "0s", "-5m", "0d"}, "want at least 1s"},
		"a tolerance that rounds to 0":            {"SIGNATURE_TOLERANCE", []string{"999ms", "1ns"}, "want at least 1s"},
		"a tolerance for ever":                    {"SIGNATURE_TOLERANCE", []string{"forever"}, "want a duration with its units"},
		"a body limit of 0, less, or too much":    {"MAX_BODY_BYTES", []string{"0", "-1", "65MiB", "1GB", "1.5MiB", "9223372036854775807MiB", "MiB"}, "want a number of bytes from 1 to 64MiB"},
		"a delivery timeout of 0":                 {"DELIVERY_TIMEOUT", []string{"0"}, "want at least 10ms"},
		"a delivery timeout that none can meet":   {"DELIVERY_TIMEOUT", []string{"1ns", "9ms"}, "want at least 10ms"},
		"a third livemode":                        {"LIVEMODE", []string{"true", "Live", "live,test"}, "want one of any, live, test"},
		"an output field that is none":            {"OUTPUT_FIELDS", []string{"name", "all,dob", "dob.day"}, "want all or none alone, or some of first_name,"},
		"a blank output field":                    {"OUTPUT_FIELDS", []string{"dob,"}, "entry 2 is blank"},
		"the same output field twice":             {"OUTPUT_FIELDS", []string{"dob,dob"}, "stands there twice"},
		"a window of less than 0":                 {"OUTPUTS_WINDOW", []string{"-1h"}, "want 0 or more"},
		"keeping payloads 0 or less":              {"RETAIN_PAYLOADS", []string{"0", "-1d", "0d0h"}, "want more than 0, or forever"},
		"keeping quarantine 0 or less":            {"RETAIN_QUARANTINE", []string{"0s"}, "want more than 0, or forever"},
		"keeping outputs 0 or less":               {"RETAIN_OUTPUTS", []string{"-1ns"}, "want more than 0, or forever"},
		"keeping history 0 or less":               {"RETAIN_HISTORY", []string{"0d"}, "want more than 0, or forever"},
		"a retention that is no duration":         {"RETAIN_HISTORY", []string{"30", "d", "1h2d", "1d-2h", "1d1", "1dd", "106752d", "1e9d", "2562047h48m", "106751d24h", "one day", "30 d"}, "want a duration"},
		"reconciling in the past":                 {"RECONCILE_EVERY", []string{"-1h"}, "want 0, or at least 1s"},
		"reconciling without a pause":             {"RECONCILE_EVERY", []string{"1ns", "999ms"}, "want 0, or at least 1s"},
		"notify as a word":                        {"NOTIFY", []string{"maybe"}, "want true or false"},
		"committers without sense":                {"COMMITTERS", []string{"0", "17", "-1", "two", "2.0"}, "want a number from 1 to 16"},
		"batches without sense":                   {"BATCH_MAX", []string{"0", "1025"}, "want a number from 1 to 1024"},
		"a queue without sense":                   {"QUEUE_LENGTH", []string{"0", "65537", "0x10"}, "want a number from 1 to 65536"},
		"a drain of less than 0":                  {"DRAIN_DELAY", []string{"-1s"}, "want 0 or more"},
		"a shutdown without time":                 {"SHUTDOWN_TIMEOUT", []string{"0"}, "want more than 0"},
		"a level that is none":                    {"LOG_LEVEL", []string{"verbose", "fatal"}, "want one of debug, info, warn, error"},
		"a format that is none":                   {"LOG_FORMAT", []string{"text"}, "want one of json, console"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, text := range test.texts {
				variable := "WEBHOOKD_" + test.variable
				got := faults(t, needDatabase|needSecrets, serving(env{variable: text}))
				if len(got) != 1 || !strings.HasPrefix(got[0], variable+" ") || !strings.Contains(got[0], test.words) {
					t.Errorf("%q gives %q, want only %s … %s", text, got, variable, test.words)
				}
			}
		})
	}
}

func TestConfigReportsEveryFaultAtOnce(t *testing.T) {
	vars := env{"WEBHOOKD_STRIPE_WEBHOOK_SECRETS": "whsec_," + canary + ",", "WEBHOOKD_OUTPUT_FIELD": "x"}
	for _, name := range variables() {
		if _, is := vars[name]; !is && !strings.HasSuffix(name, "_FILE") {
			vars[name] = "☹"
		}
	}
	got := faults(t, needDatabase|needSecrets, vars)

	for name := range vars {
		want := 1
		if name == "WEBHOOKD_STRIPE_WEBHOOK_SECRETS" {
			want = 3
		}
		count := 0
		for _, line := range got {
			if strings.HasPrefix(line, name+" ") {
				count++
			}
		}
		if count != want {
			t.Errorf("%s is in %d lines, want %d:\n%s", name, count, want, strings.Join(got, "\n"))
		}
	}
	if want := len(vars) + 2; len(got) != want {
		t.Errorf("%d lines, want %d:\n%s", len(got), want, strings.Join(got, "\n"))
	}
}

func TestConfigRefusesEmptyWhereThereIsADefault(t *testing.T) {
	setenv(t, nil)
	environment, _, err := readEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []value{environment.LogLevel, environment.SignatureTolerance, environment.OutputFields, environment.Notify, environment.RetainHistory} {
		diff(t, []string{v.name + " is set and empty: give it a value or unset it"}, faults(t, needDatabase, serving(env{v.name: ""})))
	}
}

func TestConfigNamesWhatACommandCannotDoWithout(t *testing.T) {
	const noDatabase = "WEBHOOKD_DATABASE_URL is required: set it, or WEBHOOKD_DATABASE_URL_FILE to the path of a file that holds it"
	const noSecrets = "WEBHOOKD_STRIPE_WEBHOOK_SECRETS is required: set it, or WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE to the path of a file that holds it"
	owner := env{"WEBHOOKD_MIGRATE_DATABASE_URL": "postgres://owner@db/x"}
	tests := map[string]struct {
		need needs
		vars env
		want []string
	}{
		"serve, with nothing":                {needDatabase | needSecrets, nil, []string{noDatabase, noSecrets}},
		"serve, with the owner's URL":        {needDatabase | needSecrets, owner, []string{noDatabase, noSecrets}},
		"redact, with nothing":               {needDatabase, nil, []string{noDatabase}},
		"migrate, with nothing":              {needMigrateDatabase, nil, []string{noDatabase}},
		"migrate, with the owner's URL":      {needMigrateDatabase, owner, nil},
		"migrate, with the service's":        {needMigrateDatabase, env{"WEBHOOKD_DATABASE_URL": databaseURL}, nil},
		"migrate, with the bare one":         {needMigrateDatabase, env{"DATABASE_URL": databaseURL}, nil},
		"verify, with nothing":               {0, nil, nil},
		"verify, with somebody's bare URL":   {0, env{"DATABASE_URL": "mysql://db"}, nil},
		"verify, with a fault it could bear": {0, env{"WEBHOOKD_API_RATE": "x"}, []string{`WEBHOOKD_API_RATE is "x": want reads per second, more than 0 and at most 25`}},
		"serve, with a bare empty URL":       {needDatabase, env{"DATABASE_URL": ""}, []string{"DATABASE_URL is set and empty: give it a value or unset it"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if len(test.want) > 0 {
				diff(t, test.want, faults(t, test.need, test.vars))
				return
			}
			if _, err := load(t, test.need, test.vars); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConfigReadsOnlyDatabaseURLWithoutThePrefix(t *testing.T) {
	want := mustLoad(t, serving(nil))

	bare := serving(nil)
	delete(bare, "WEBHOOKD_DATABASE_URL")
	for _, name := range variables() {
		bare[strings.TrimPrefix(name, "WEBHOOKD_")] = "☹"
	}
	bare["DATABASE_URL"] = databaseURL
	got := mustLoad(t, bare)
	diff(t, want, got, cmpopts.IgnoreFields(Config{}, "Secrets", "Verifier"), cmpopts.IgnoreUnexported(Config{}))

	got = mustLoad(t, serving(env{"DATABASE_URL": "postgres://other/x"}))
	if got.DatabaseURL != databaseURL {
		t.Error("the bare variable wins over the prefixed one")
	}
	if got := faults(t, needDatabase, env{"WEBHOOKD_DATABASE_URL": "", "DATABASE_URL": databaseURL}); len(got) != 1 {
		t.Errorf("an empty prefixed variable gives way to the bare one: %q", got)
	}
}

func TestConfigTakesEachCredentialFromAFile(t *testing.T) {
	dir := t.TempDir()
	migrate := "postgres://owner:" + canary + "@db/x"
	cfg := mustLoad(t, env{
		"DATABASE_URL":                         "postgres://the-file-wins/x",
		"WEBHOOKD_DATABASE_URL_FILE":           writeFile(t, filepath.Join(dir, "url"), databaseURL+"\n"),
		"WEBHOOKD_MIGRATE_DATABASE_URL_FILE":   writeFile(t, filepath.Join(dir, "migrate"), migrate),
		"WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE": writeFile(t, filepath.Join(dir, "secrets"), "a="+whsec+"\r\nb=whsec_2\r\n"),
		"WEBHOOKD_STRIPE_API_KEYS_FILE":        writeFile(t, filepath.Join(dir, "keys"), "rk_live_"+canary+"\n"),
	})
	if cfg.DatabaseURL != databaseURL || string(cfg.MigrateDatabaseURL) != migrate || string(cfg.APIKeys[true]) != "rk_live_"+canary {
		t.Error("a credential is not the one in its file")
	}
	diff(t, []string{"a", "b"}, names(cfg.Secrets))
}

func TestConfigRefusesFiles(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, filepath.Join(dir, "good"), databaseURL)
	empty := writeFile(t, filepath.Join(dir, "empty"), " \n")
	long := writeFile(t, filepath.Join(dir, "long"), strings.Repeat("x", maxSecretFile+1))
	slip := writeFile(t, filepath.Join(dir, "slip"), whsec+",")
	absent := filepath.Join(dir, "absent")
	const url, secrets = "WEBHOOKD_DATABASE_URL", "WEBHOOKD_STRIPE_WEBHOOK_SECRETS"
	tests := map[string]struct {
		vars env
		want string
	}{
		"a value and a file":              {env{url: databaseURL, url + "_FILE": good}, url + " and " + url + "_FILE are both set: keep one of them"},
		"an empty value and a file":       {env{url: "", url + "_FILE": good}, url + " and " + url + "_FILE are both set: keep one of them"},
		"no path":                         {env{url + "_FILE": ""}, url + "_FILE is set and empty: give it a value or unset it"},
		"a file that is not there":        {env{url + "_FILE": absent}, url + "_FILE (" + absent + ") cannot be read: no such file or directory"},
		"a folder":                        {env{url + "_FILE": dir}, url + "_FILE (" + dir + ") is not a regular file"},
		"an empty file":                   {env{url + "_FILE": empty}, url + "_FILE (" + empty + ") is empty"},
		"an endless file":                 {env{url + "_FILE": long}, url + "_FILE (" + long + ") is longer than 65536 bytes"},
		"a file with a fault":             {env{url: databaseURL, secrets + "_FILE": slip}, secrets + "_FILE (" + slip + ") entry 2 is blank: remove the comma or line break too many"},
		"a secret where a path is wanted": {env{url: databaseURL, secrets + "_FILE": whsec}, secrets + "_FILE (a relative path) cannot be read: no such file or directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			diff(t, []string{test.want}, faults(t, needDatabase, test.vars))
		})
	}
}

func TestConfigWarnsOfASecretKey(t *testing.T) {
	cfg := mustLoad(t, serving(env{"WEBHOOKD_STRIPE_API_KEYS": "rk_live_1,sk_test_" + canary}))
	diff(t, []string{
		"WEBHOOKD_STRIPE_API_KEYS entry 2 is a secret key, which may do everything: use a restricted one (rk_…)",
	}, cfg.Warnings)
}

func TestConfigWarnsWhereEveryLiveEventWouldBeRefused(t *testing.T) {
	for secrets, warns := range map[string]bool{"test:a=whsec_1,test:b=whsec_2": true, "test:a=whsec_1,b=whsec_2": false} {
		for mode, live := range map[string]bool{"live": true, "any": false, "test": false} {
			cfg := mustLoad(t, env{"WEBHOOKD_DATABASE_URL": databaseURL, "WEBHOOKD_STRIPE_WEBHOOK_SECRETS": secrets, "WEBHOOKD_LIVEMODE": mode})
			if got := len(cfg.Warnings) == 1 && strings.Contains(cfg.Warnings[0], "wrong_mode"); got != (warns && live) {
				t.Errorf("%s, %s: warnings %q", secrets, mode, cfg.Warnings)
			}
		}
	}
}

func TestConfigWarnsOfVariablesThatNothingReads(t *testing.T) {
	slips := env{"WEBHOOKD_STRIPE_API_KEY": "x", "WEBHOOKD_PORT": "8080", "WEBHOOKD_LOGLEVEL": "debug"}
	want := []string{
		"WEBHOOKD_LOGLEVEL is no variable of webhookd: did you mean WEBHOOKD_LOG_LEVEL?",
		"WEBHOOKD_PORT is no variable of webhookd",
		"WEBHOOKD_STRIPE_API_KEY is no variable of webhookd: did you mean WEBHOOKD_STRIPE_API_KEYS?",
	}
	diff(t, want, mustLoad(t, serving(slips)).Warnings)

	got := faults(t, needSecrets, env{"WEBHOOKD_STRIPE_WEBHOOK_SECRET": whsec})
	if len(got) != 2 || !strings.HasSuffix(got[1], "did you mean WEBHOOKD_STRIPE_WEBHOOK_SECRETS?") {
		t.Errorf("a missing variable with a slip in its name gives %q", got)
	}
}

func TestConfigIgnoresWhatKubernetesInjects(t *testing.T) {
	vars := serving(nil)
	for _, service := range []string{"WEBHOOKD", "WEBHOOKD_ADMIN"} {
		links := env{
			"PORT": "tcp://10.0.0.1:8080", "PORT_8080_TCP": "tcp://10.0.0.1:8080", "PORT_8080_TCP_PROTO": "tcp",
			"PORT_8080_TCP_PORT": "8080", "PORT_8080_TCP_ADDR": "10.0.0.1",
			"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "8080", "SERVICE_PORT_HTTP": "8080",
		}
		for name, text := range links {
			vars[service+"_"+name] = text
		}
	}
	diff(t, []string(nil), mustLoad(t, vars).Warnings)
}

func TestConfigCanBePresetAndForced(t *testing.T) {
	dev := func(e *environment) {
		e.DatabaseURL.force("postgres://dev/x")
		e.MigrateDatabaseURL.force("postgres://dev/x")
		e.StripeWebhookSecrets.force("dev=whsec_dev")
		e.ListenAddr.preset("127.0.0.1:8080")
		e.AdminAddr.preset("127.0.0.1:9090")
		e.DrainDelay.preset("0")
	}
	got := mustLoad(t, serving(env{
		"DATABASE_URL":                       "postgres://somebody/x",
		"WEBHOOKD_MIGRATE_DATABASE_URL_FILE": "/absent",
		"WEBHOOKD_LISTEN_ADDR":               ":8081",
	}), dev)
	if got.DatabaseURL != "postgres://dev/x" || got.MigrateDatabaseURL != "postgres://dev/x" {
		t.Error("the environment wins over what was forced")
	}
	diff(t, []string{"dev"}, names(got.Secrets))
	diff(t, ":8081", got.ListenAddr)
	diff(t, "127.0.0.1:9090", got.AdminAddr)
	diff(t, time.Duration(0), got.DrainDelay)
}

func TestConfigHidesItsSecrets(t *testing.T) {
	cfg := mustLoad(t, serving(env{"WEBHOOKD_STRIPE_API_KEYS": "rk_live_" + canary}))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, shown := range []any{cfg, *cfg, cfg.Credentials, cfg.DatabaseURL, cfg.APIKeys} {
			text := fmt.Sprintf(verb, shown)
			if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
				t.Errorf("%s shows a secret: %s", verb, text)
			}
		}
	}
	text, err := json.Marshal(cfg.DatabaseURL)
	if err != nil || string(text) != `"[hidden]"` {
		t.Errorf("JSON is %s, %v", text, err)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	zap.New(core).Info("x", zap.Any("url", cfg.DatabaseURL), zap.Stringer("url2", cfg.DatabaseURL))
	if line := fmt.Sprint(logs.All()[0].ContextMap()); strings.Contains(line, canary) {
		t.Errorf("the log shows a secret: %s", line)
	}
}

func TestConfigTableHasEveryVariableOfTheContract(t *testing.T) {
	t.Parallel()
	contract := []string{ // name and default, in the order of the contract
		"DATABASE_URL required", "MIGRATE_DATABASE_URL the same", "STRIPE_WEBHOOK_SECRETS required",
		"STRIPE_API_KEYS none", "STRIPE_API_BASE Stripe’s", "STRIPE_ACCOUNTS none", "API_RATE `5`",
		"LISTEN_ADDR `:8080`", "ADMIN_ADDR `:9090`", "WEBHOOK_PATH `/webhooks/stripe`", "PUBLIC_URL none",
		"SIGNATURE_TOLERANCE `5m`", "MAX_BODY_BYTES `1MiB`", "DELIVERY_TIMEOUT `10s`", "LIVEMODE `any`",
		"OUTPUT_FIELDS `all`", "OUTPUTS_WINDOW `48h`", "RETAIN_PAYLOADS `30d`", "RETAIN_QUARANTINE `90d`",
		"RETAIN_OUTPUTS `forever`", "RETAIN_HISTORY `forever`", "RECONCILE_EVERY `1h`", "NOTIFY `true`",
		"COMMITTERS `2`", "BATCH_MAX `256`", "QUEUE_LENGTH `4096`", "DRAIN_DELAY `5s`", "SHUTDOWN_TIMEOUT `20s`",
		"LOG_LEVEL `info`", "LOG_FORMAT `json`",
	}
	var got, files []string
	for i, line := range strings.Split(strings.TrimSuffix(configTable(), "\n"), "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 && i != 1 || strings.Count(line, "`")%2 != 0 {
			t.Errorf("not a row of three cells: %s", line)
		}
		if name, ok := strings.CutPrefix(cells[0], "| `WEBHOOKD_"); ok {
			name = strings.TrimSuffix(name, "`")
			if base, ok := strings.CutSuffix(name, "_FILE"); ok {
				files = append(files, base)
				continue
			}
			got = append(got, name+" "+cells[1])
		}
	}
	diff(t, contract, got)
	diff(t, []string{"DATABASE_URL", "MIGRATE_DATABASE_URL", "STRIPE_WEBHOOK_SECRETS", "STRIPE_API_KEYS"}, files)
}

func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"whsec_a", "whsec_a,", "a=whsec_a\ntest:b=whsec_b", "test:whsec_a", "whsec_", ",", "=", "test:=", "\x00",
		"rk_live_1,rk_test_2", "5m", "30d", "1d12h", "-1.5d2h", "forever", "1MiB", "host=db password='x", "postgres://u:p@h:p/x",
		"dob,first_name", "acct_1", "/a/b", ":80", "https://x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		body, now := []byte("{}"), time.Unix(1_800_000_000, 0)
		if secrets, err := parseWebhookSecrets(text); err == nil {
			entries := splitList(text)
			if len(secrets) != len(entries) || slices.Contains(entries, "") {
				t.Errorf("%d secrets of %q", len(secrets), entries)
			}
			v, err := signature.NewVerifier(time.Minute, secrets...)
			if err != nil {
				t.Fatal(err)
			}
			for _, weak := range []string{"", " ", "whsec_", "\x00"} {
				if _, err := v.Verify(body, signature.Sign(body, weak, now), now); err == nil {
					t.Errorf("%q accepts a signature made with the key %q", text, weak)
				}
			}
		}
		const marker = "zq9X7marker"
		if _, err := parseWebhookSecrets(text + "," + marker + "=" + marker); err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("error %v shows a secret, or there is none", err)
		}
		if _, _, err := parseAPIKeys(text + "," + marker); err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("error %v shows a key, or there is none", err)
		}

		if d, err := parseDuration(text); err == nil {
			if again, err := parseDuration(d.String()); err != nil || again != d {
				t.Errorf("%q is %v, and that is %v, %v", text, d, again, err)
			}
		}
		if r, err := parseRetention(text); err == nil && (r < 0 || r == Forever && text != "forever") {
			t.Errorf("%q is kept %v", text, r)
		}
		if d, err := parsePositive(text); err == nil && d <= 0 {
			t.Errorf("%q is %v", text, d)
		}
		if n, err := parseSize(text); err == nil && (n < 1 || n > 64<<20) {
			t.Errorf("%q is %d", text, n)
		}
		_, _ = parseAddr(text)
		_, _ = parseHTTPURL(text)
		_, _ = parseAccounts(text)
		_, _ = parseOutputFields(text)
		_ = checkDatabaseURL(text)
		if text != "" {
			if p, err := parsePath(text); err == nil && p[0] != '/' {
				t.Errorf("%q is a path", text)
			}
		}
	})
}
