package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"webhookd/internal/signature"
)

// Credentials are what may come from files and change under way. One is never written to after it is made.
type Credentials struct {
	DatabaseURL        hidden // empty if no command needs one
	MigrateDatabaseURL hidden // DatabaseURL unless it has a value of its own
	Secrets            []signature.Secret
	Verifier           *signature.Verifier // of Secrets; nil without any
	APIKeys            map[bool]hidden     // by livemode, at most one each
}

// apiKey is the key of a mode, if there is one.
func (c Credentials) apiKey(live bool) (string, bool) {
	key, ok := c.APIKeys[live]
	return string(key), ok
}

// hasKey tells whether Stripe's API can be asked about sessions of a mode.
func (c Credentials) hasKey(live bool) bool {
	_, ok := c.apiKey(live)
	return ok
}

// hidden is a text that no verb, encoder or logger shows; string(h) is the text.
type hidden string

const hiddenText = "[hidden]"

func (hidden) String() string               { return hiddenText }
func (hidden) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(hiddenText)) }
func (hidden) MarshalText() ([]byte, error) { return []byte(hiddenText), nil }

// takeCredential puts the meaning of a text into c. Its warnings and faults hold nothing of the text,
// and read on from the name of the variable.
type takeCredential func(c *Credentials, text string) (warnings []string, err error)

func takeDatabaseURL(alsoMigrate bool) takeCredential {
	return func(c *Credentials, text string) ([]string, error) {
		if err := checkDatabaseURL(text); err != nil {
			return nil, err
		}
		c.DatabaseURL = hidden(text)
		if alsoMigrate {
			c.MigrateDatabaseURL = hidden(text)
		}
		return nil, nil
	}
}

func takeMigrateDatabaseURL(c *Credentials, text string) ([]string, error) {
	if err := checkDatabaseURL(text); err != nil {
		return nil, err
	}
	c.MigrateDatabaseURL = hidden(text)
	return nil, nil
}

func takeWebhookSecrets(tolerance time.Duration) takeCredential {
	return func(c *Credentials, text string) (_ []string, err error) {
		c.Secrets, err = parseWebhookSecrets(text)
		if err != nil || tolerance <= 0 { // a fault of another variable
			return nil, err
		}
		c.Verifier, err = signature.NewVerifier(tolerance, c.Secrets...)
		return nil, err
	}
}

func takeAPIKeys(c *Credentials, text string) (warnings []string, err error) {
	c.APIKeys, warnings, err = parseAPIKeys(text)
	return warnings, err
}

var keyword = regexp.MustCompile(`^\s*\w+\s*=`)

// checkDatabaseURL says of pgx's error only its heading: what follows can quote a piece of the password.
func checkDatabaseURL(text string) error {
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") && !keyword.MatchString(text) {
		return errors.New("is no PostgreSQL URL: want postgres://user:password@host:5432/database, or key=value pairs")
	}
	cfg, err := pgxpool.ParseConfig(text)
	if err == nil {
		// Arrays go out by the types that PostgreSQL tells, which these two do not ask for.
		if mode := cfg.ConnConfig.DefaultQueryExecMode; mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol {
			return errors.New("has a default_query_exec_mode that does not work: behind a pooler want cache_describe, else none")
		}
		return nil
	}
	heading := "cannot be parsed"
	if perr, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		bare := *perr
		bare.ConnString = ""
		heading = strings.TrimPrefix(bare.Error(), "cannot parse ``: ")
		if end := strings.IndexAny(heading, "(:\"`"); end >= 0 {
			heading = heading[:end]
		}
	}
	return fmt.Errorf("is not understood by pgx: %s; signs such as @ : / %% in a password are written as %%40 and so on", strings.TrimSpace(heading))
}

var errSeparator = errors.New("remove the comma or line break too many")

// splitList parts a text at commas and line breaks; a separator too many makes a blank entry.
func splitList(text string) []string {
	entries := strings.Split(strings.ReplaceAll(text, "\n", ","), ",")
	for i := range entries {
		entries[i] = strings.TrimSpace(entries[i])
	}
	return entries
}

const (
	secretPrefix = "whsec_"
	maxSecrets   = 16 // each costs an HMAC per delivery
)

var secretName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// parseWebhookSecrets reports every fault at once, by the position of the entry.
func parseWebhookSecrets(text string) ([]signature.Secret, error) {
	entries := splitList(text)
	if len(entries) > maxSecrets {
		return nil, fmt.Errorf("has %d entries: want at most %d", len(entries), maxSecrets)
	}

	var (
		secrets []signature.Secret
		faults  []error
		values  = make(map[string]int)
		names   = make(map[string]int)
	)
	for i, entry := range entries {
		secret, value, err := parseWebhookSecret(entry)
		if err != nil {
			faults = append(faults, fmt.Errorf("entry %d %w", i+1, err))
			continue
		}
		if first, twice := values[value]; twice {
			faults = append(faults, fmt.Errorf("entry %d is the same secret as entry %d", i+1, first))
			continue
		}
		if first, twice := names[secret.Name()]; twice {
			faults = append(faults, fmt.Errorf("entry %d has the name of entry %d", i+1, first))
		}
		values[value], names[secret.Name()] = i+1, i+1
		secrets = append(secrets, secret)
	}
	return secrets, errors.Join(faults...)
}

// parseWebhookSecret reads whsec_…, name=whsec_… or test:name=whsec_….
func parseWebhookSecret(entry string) (_ signature.Secret, value string, _ error) {
	var (
		none signature.Secret
		name string
		test bool
	)
	value = entry
	if !strings.HasPrefix(entry, secretPrefix) {
		var named bool
		name, value, named = strings.Cut(entry, "=")
		name, test = strings.CutPrefix(strings.TrimSpace(name), "test:")
		value = strings.TrimSpace(value)
		switch {
		case entry == "":
			return none, "", fmt.Errorf("is blank: %w", errSeparator)
		case !named && strings.HasPrefix(entry, "test:"+secretPrefix):
			return none, "", errors.New("is a test secret without a name: write test:name=whsec_…")
		case !named:
			return none, "", errors.New("does not begin with whsec_: write whsec_…, name=whsec_… or test:name=whsec_…")
		case !secretName.MatchString(name):
			return none, "", errors.New("has no proper name: want 1 to 64 letters, digits, dots, hyphens or underscores before the =")
		case strings.Contains(name, secretPrefix): // names are shown
			return none, "", errors.New("has a name with whsec_ in it: write test:name=whsec_…")
		case !strings.HasPrefix(value, secretPrefix):
			return none, "", errors.New("has no whsec_ after the =")
		}
	}

	switch rest := value[len(secretPrefix):]; {
	case rest == "":
		return none, "", errors.New("has nothing after whsec_")
	case strings.Contains(rest, secretPrefix):
		return none, "", errors.New("holds two secrets: put a comma or a line break between them")
	case !plain(rest):
		return none, "", errors.New("has a blank, or a sign that no secret has, after whsec_")
	}
	secret, err := signature.NewSecret(name, value, test)
	return secret, value, err
}

// parseAPIKeys reports every fault at once, by the position of the entry.
func parseAPIKeys(text string) (keys map[bool]hidden, warnings []string, _ error) {
	var faults []error
	keys = make(map[bool]hidden)
	first := make(map[bool]int)
	for i, entry := range splitList(text) {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("entry %d "+format, append([]any{i + 1}, args...)...))
		}
		live, ok := modeOf(entry)
		switch {
		case entry == "":
			fault("is blank: %w", errSeparator)
		case !strings.HasPrefix(entry, "rk_") && !strings.HasPrefix(entry, "sk_"):
			fault("does not begin with rk_: want a restricted key")
		case !ok:
			fault("has neither _live_ nor _test_ with a key behind it")
		case !plain(entry):
			fault("has a blank, or a sign that no key has, inside")
		case first[live] != 0:
			fault("is of the same mode as entry %d: want at most one key per mode", first[live])
		default:
			if strings.HasPrefix(entry, "sk_") {
				warnings = append(warnings, fmt.Sprintf("entry %d is a secret key, which may do everything: use a restricted one (rk_…)", i+1))
			}
			keys[live], first[live] = hidden(entry), i+1
		}
	}
	return keys, warnings, errors.Join(faults...)
}

// modeOf tells a key's mode by the first of its two marks.
func modeOf(key string) (live, ok bool) {
	before, _, hasLive := strings.Cut(key, "_live_")
	beforeTest, _, hasTest := strings.Cut(key, "_test_")
	live = hasLive && (!hasTest || len(before) < len(beforeTest))
	return live, (hasLive || hasTest) && !strings.HasSuffix(key, "_")
}

// plain says that a text has only visible ASCII.
func plain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// secretFile is a file that holds the value of one variable.
type secretFile struct {
	variable string // with _FILE
	path     string
	take     takeCredential

	seen string // what the last look found
	bad  bool   // and that it was of no use
}

const maxSecretFile = 64 << 10

// read returns the text without blanks around it. Its errors do not name the path.
func (f *secretFile) read() (string, error) {
	// A pipe would block, and says nothing at a second look.
	info, err := os.Stat(f.path)
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		return "", errors.New("is not a regular file")
	case info.Size() > maxSecretFile:
		return "", fmt.Errorf("is longer than %d bytes", maxSecretFile)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(f.path)
	}
	if perr, ok := errors.AsType[*fs.PathError](err); ok {
		err = perr.Err
	}
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return "", errors.New("is empty")
	}
	return strings.TrimSpace(string(text)), nil
}

// String names variable and path. What does not look like a path may be the secret itself, given to the wrong variable.
func (f *secretFile) String() string {
	if strings.HasPrefix(f.path, "/") || strings.HasPrefix(f.path, ".") {
		return fmt.Sprintf("%s (%s)", f.variable, f.path)
	}
	return f.variable + " (a relative path)"
}

// found is what a look found, for comparing with the next one.
func found(text string, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return "text: " + text
}

// secretsInterval is how often files are looked at. By content: Kubernetes swaps a symlink two folders up.
const secretsInterval = 10 * time.Second

// secretWatcher has the present credentials. It looks at their files again and again: what is good there
// replaces what was, what is bad changes nothing, is told once, and shows in a gauge until it is good.
type secretWatcher struct {
	current atomic.Pointer[Credentials]
	files   []*secretFile // of Run alone
	changed func(Credentials)
	failed  prometheus.Gauge
	log     *zap.Logger
}

// newSecretWatcher begins with the credentials of cfg; one watcher per Config. changed is called by Run
// after each change and may be nil.
func newSecretWatcher(cfg *Config, reg prometheus.Registerer, log *zap.Logger, changed func(Credentials)) *secretWatcher {
	w := &secretWatcher{
		files:   cfg.files,
		changed: changed,
		failed: promauto.With(reg).NewGauge(prometheus.GaugeOpts{
			Name: "webhookd_secrets_reload_failed",
			Help: "1 while a file of credentials is bad and its last good value is used.",
		}),
		log: log,
	}
	start := cfg.Credentials
	w.current.Store(&start)
	return w
}

// Current is safe for many callers at once; it never waits.
func (w *secretWatcher) Current() Credentials {
	return *w.current.Load()
}

// Run looks at the files at once and then every interval, until ctx is done. It returns nil.
func (w *secretWatcher) Run(ctx context.Context, interval time.Duration) error {
	if len(w.files) == 0 {
		return nil
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		w.look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *secretWatcher) look() {
	now := w.Current()
	news, failed := false, 0.0
	for _, f := range w.files {
		if w.lookAt(f, &now) {
			news = true
		}
		if f.bad {
			failed = 1
		}
	}
	if news {
		w.current.Store(&now)
	}
	w.failed.Set(failed)
	if news && w.changed != nil {
		w.changed(now)
	}
}

// lookAt tells whether the file brought something good into now. What was seen before is not judged again.
func (w *secretWatcher) lookAt(f *secretFile, now *Credentials) bool {
	text, err := f.read()
	seen := found(text, err)
	if seen == f.seen {
		return false
	}
	f.seen = seen

	next := *now
	var warnings []string
	if err == nil {
		warnings, err = f.take(&next, text)
	}
	f.bad = err != nil
	if f.bad {
		w.log.Warn("file of credentials is bad, its last good value is kept", zap.Stringer("file", f), zap.Error(err))
		return false
	}
	*now = next
	w.log.Info("file of credentials is read again", zap.Stringer("file", f), zap.Strings("warnings", warnings))
	return true
}
