package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
	"go.uber.org/zap/zapcore"

	"webhookd/internal/events"
	"webhookd/internal/signature"
)

// errConfig is wrapped by what LoadConfig returns: exit code 2.
var errConfig = errors.New("configuration")

// Config is what the environment says, checked. Nothing else reads a WEBHOOKD_ variable.
type Config struct {
	Credentials // as they were at the start: a secretWatcher has the present ones

	APIBase  string   // without a slash at its end; empty: Stripe's own
	Accounts []string // acct_…
	APIRate  float64  // reads per second, in (0, 25]

	ListenAddr  string
	AdminAddr   string
	WebhookPath string
	PublicURL   string // empty: unknown

	SignatureTolerance time.Duration // at least 1s: ages are whole seconds
	MaxBodyBytes       int64
	DeliveryTimeout    time.Duration // at least 10ms

	Livemode      Livemode
	OutputFields  OutputFields
	OutputsWindow time.Duration // 0: no window

	RetainPayloads   Retention
	RetainQuarantine Retention
	RetainOutputs    Retention
	RetainHistory    Retention

	ReconcileEvery time.Duration // at least 1s, or 0: off
	Notify         bool

	Committers  int
	BatchMax    int
	QueueLength int

	DrainDelay      time.Duration // 0: none
	ShutdownTimeout time.Duration // positive, counted from the end of DrainDelay

	LogLevel  zapcore.Level
	LogFormat string // json or console

	files []*secretFile

	// Warnings are sentences to log at the start: what is odd, and works.
	Warnings []string
}

// Livemode says which events are taken: any, live or test.
type Livemode string

// Takes tells whether an event of that mode is taken.
func (l Livemode) Takes(live bool) bool {
	return l == "any" || (l == "live") == live
}

// OutputFields says which outputs are asked for and stored.
type OutputFields struct {
	All   bool     // also fields that Stripe adds one day
	Names []string // each known and once; empty: none are stored
}

// Wants tells whether the field of that name is asked for and stored.
func (o OutputFields) Wants(name string) bool {
	return o.All || slices.Contains(o.Names, name)
}

// None tells whether outputs are not stored at all.
func (o OutputFields) None() bool { return !o.All && len(o.Names) == 0 }

// Retention is how long something is kept: positive, or Forever.
type Retention time.Duration

// Forever is no limit.
const Forever Retention = 0

func (r Retention) String() string {
	if r == Forever {
		return "forever"
	}
	return time.Duration(r).String()
}

// needs says which variables a command cannot do without.
type needs uint

const (
	needDatabase        needs = 1 << iota
	needMigrateDatabase       // DATABASE_URL will do as well
	needSecrets
)

// environment is the configuration as text. envconfig stops at the first value that it cannot convert
// and takes an empty one for given, so it converts nothing here. Only split_words: an envconfig tag
// would read the bare name too.
type environment struct {
	DatabaseURL              value `split_words:"true" absent:"required" desc:"PostgreSQL 15 or newer, the writable primary, as a URL or as 'key=value' pairs; bare 'DATABASE_URL' is accepted too. Behind a pooler in transaction mode with 'default_query_exec_mode=cache_describe' in it"`
	DatabaseURLFile          value `split_words:"true" absent:"none" desc:"a file that holds it; a change counts for new connections"`
	MigrateDatabaseURL       value `split_words:"true" absent:"the same" desc:"the schema owner’s, direct (not through a pooler)"`
	MigrateDatabaseURLFile   value `split_words:"true" absent:"none" desc:"a file that holds it"`
	StripeWebhookSecrets     value `split_words:"true" absent:"required" desc:"separated by commas or line breaks, each 'whsec_…', 'name=whsec_…' or 'test:name=whsec_…'. Unnamed ones are called by a short fingerprint. A live event under a 'test:' secret is refused"`
	StripeWebhookSecretsFile value `split_words:"true" absent:"none" desc:"a file that holds them; a change counts without a restart"`
	StripeAPIKeys            value `split_words:"true" absent:"none" desc:"restricted keys, separated likewise, at most one per mode (told by '_live_' and '_test_'). Without one, outputs, refresh, reconcile and the remote part of doctor are off for that mode"`
	StripeAPIKeysFile        value `split_words:"true" absent:"none" desc:"a file that holds them; a change counts without a restart"`
	StripeAPIBase            value `split_words:"true" absent:"Stripe’s" desc:"for tests and proxies"`
	StripeAccounts           value `split_words:"true" absent:"none" desc:"connected accounts ('acct_…') to reconcile beside those already seen"`
	APIRate                  value `split_words:"true" default:"5" desc:"reads per second and replica, at most 25: the sum over replicas stays under Stripe’s 25"`
	ListenAddr               value `split_words:"true" default:":8080" desc:"where deliveries come in"`
	AdminAddr                value `split_words:"true" default:":9090" desc:"'/metrics', '/livez', '/readyz'"`
	WebhookPath              value `split_words:"true" default:"/webhooks/stripe" desc:"the path of the endpoint"`
	PublicURL                value `split_words:"true" absent:"none" desc:"lets doctor compare the endpoint’s URL"`
	SignatureTolerance       value `split_words:"true" default:"5m" desc:"how far a signature’s time may be from now, both ways; at least 1s"`
	MaxBodyBytes             value `split_words:"true" default:"1MiB" desc:"the longest body: bytes, or with 'KiB' or 'MiB'"`
	DeliveryTimeout          value `split_words:"true" default:"10s" desc:"a delivery that is not committed by then is answered 503; at least 10ms"`
	Livemode                 value `split_words:"true" default:"any" desc:"'any', 'live' or 'test': events of the other mode are ignored and counted"`
	OutputFields             value `split_words:"true" default:"all" desc:"which outputs are asked for and stored: 'all', 'none', or a list of 'first_name', 'last_name', 'dob', 'address', 'id_number', 'id_number_type', 'email', 'phone', 'sex', 'unparsed_place_of_birth', 'unparsed_sex'"`
	OutputsWindow            value `split_words:"true" default:"48h" desc:"how long sensitive fields stay readable; '0' for IP-restricted keys"`
	RetainPayloads           value `split_words:"true" default:"30d" desc:"payloads of events, from 'received_at'; their rows stay"`
	RetainQuarantine         value `split_words:"true" default:"90d" desc:"quarantined events, from 'received_at'; ids at least 31 days"`
	RetainOutputs            value `split_words:"true" default:"forever" desc:"verified outputs and provided details, from 'fetched_at'"`
	RetainHistory            value `split_words:"true" default:"forever" desc:"transitions, answers and event ids, at least 31 days; what the present state follows from, sessions and tombstones stay"`
	ReconcileEvery           value `split_words:"true" default:"1h" desc:"how often to compare with Stripe’s API, at least 1s; '0': off"`
	Notify                   value `split_words:"true" default:"true" desc:"'NOTIFY stripe_identity' with each commit that adds transitions"`
	Committers               value `split_words:"true" default:"2" desc:"batches committed at the same time, 1 to 16"`
	BatchMax                 value `split_words:"true" default:"256" desc:"events in a batch, 1 to 1024"`
	QueueLength              value `split_words:"true" default:"4096" desc:"deliveries that may wait for a batch, or for a session that somebody holds, 1 to 65536; beyond that 503"`
	DrainDelay               value `split_words:"true" default:"5s" desc:"how long deliveries are still taken after SIGTERM"`
	ShutdownTimeout          value `split_words:"true" default:"20s" desc:"from the end of 'DRAIN_DELAY': how long to wait for what was taken"`
	LogLevel                 value `split_words:"true" default:"info" desc:"'debug', 'info', 'warn' or 'error'"`
	LogFormat                value `split_words:"true" default:"json" desc:"'json' or 'console'"`
}

const envPrefix = "WEBHOOKD"

// value is the text of one variable, without blanks around it.
type value struct {
	name   string // with the prefix
	text   string
	set    bool // by the environment or by force, not by default
	forced bool
}

// Decode is called by envconfig with the variable's text or its default.
func (v *value) Decode(text string) error {
	v.text = strings.TrimSpace(text)
	return nil
}

// preset replaces the default.
func (v *value) preset(text string) {
	if !v.set {
		v.text = text
	}
}

// force replaces what the environment says, files included.
func (v *value) force(text string) {
	v.text, v.set, v.forced = text, true, true
}

// LoadConfig reads the environment and reports every fault at once, each naming its variable; the error
// wraps errConfig and holds no value of a secret. An edit may preset or force values, as dev does.
func LoadConfig(need needs, edits ...func(*environment)) (*Config, error) {
	env, bare, err := readEnvironment()
	if err != nil {
		return nil, err
	}
	for _, edit := range edits {
		edit(env)
	}

	var l loader
	cfg := &Config{
		APIBase:            strings.TrimRight(optional(&l, env.StripeAPIBase, parseHTTPURL), "/"),
		Accounts:           optional(&l, env.StripeAccounts, parseAccounts),
		APIRate:            required(&l, env.APIRate, parseAPIRate),
		ListenAddr:         required(&l, env.ListenAddr, parseAddr),
		AdminAddr:          required(&l, env.AdminAddr, parseAddr),
		WebhookPath:        required(&l, env.WebhookPath, parsePath),
		PublicURL:          optional(&l, env.PublicURL, parseHTTPURL),
		SignatureTolerance: required(&l, env.SignatureTolerance, parseTolerance),
		MaxBodyBytes:       required(&l, env.MaxBodyBytes, parseSize),
		DeliveryTimeout:    required(&l, env.DeliveryTimeout, parseAtLeast(10*time.Millisecond)),
		Livemode:           Livemode(required(&l, env.Livemode, oneOf("any", "live", "test"))),
		OutputFields:       required(&l, env.OutputFields, parseOutputFields),
		OutputsWindow:      required(&l, env.OutputsWindow, parseNotNegative),
		RetainPayloads:     required(&l, env.RetainPayloads, parseRetention),
		RetainQuarantine:   required(&l, env.RetainQuarantine, parseRetention),
		RetainOutputs:      required(&l, env.RetainOutputs, parseRetention),
		RetainHistory:      required(&l, env.RetainHistory, parseRetention),
		ReconcileEvery:     required(&l, env.ReconcileEvery, parseInterval),
		Notify:             required(&l, env.Notify, parseBool),
		Committers:         required(&l, env.Committers, between(1, 16)),
		BatchMax:           required(&l, env.BatchMax, between(1, 1024)),
		QueueLength:        required(&l, env.QueueLength, between(1, 65536)),
		DrainDelay:         required(&l, env.DrainDelay, parseNotNegative),
		ShutdownTimeout:    required(&l, env.ShutdownTimeout, parsePositive),
		LogLevel:           required(&l, env.LogLevel, parseLogLevel),
		LogFormat:          required(&l, env.LogFormat, oneOf("json", "console")),
	}
	if cfg.ListenAddr != "" && cfg.ListenAddr == cfg.AdminAddr && !strings.HasSuffix(cfg.AdminAddr, ":0") {
		l.fault(env.AdminAddr.name, fmt.Errorf("is the address of %s: what is for the inside needs one of its own", env.ListenAddr.name))
	}
	l.credentials(cfg, env, bare, need)

	unknown := unknownVariables(os.Environ())
	if len(l.faults) > 0 {
		for _, u := range unknown { // a wrong name is often why something is missing
			l.faults = append(l.faults, errors.New(u))
		}
		return nil, fmt.Errorf("%w:\n%w", errConfig, errors.Join(l.faults...))
	}
	if cfg.Livemode == "live" && len(cfg.Secrets) > 0 && !slices.ContainsFunc(cfg.Secrets, func(s signature.Secret) bool { return !s.Test() }) {
		l.warnings = append(l.warnings, env.Livemode.name+" is live, and every secret is a test: one: every live event is refused (wrong_mode); "+
			"take test: away from the live endpoint's secret")
	}
	cfg.Warnings = slices.Concat(l.warnings, unknown)
	return cfg, nil
}

// loadTolerance reads one variable, whatever is wrong with the others.
func loadTolerance() (time.Duration, error) {
	env, _, err := readEnvironment()
	if err != nil {
		return 0, err
	}
	var l loader
	tolerance := required(&l, env.SignatureTolerance, parseTolerance)
	if len(l.faults) > 0 {
		return 0, fmt.Errorf("%w:\n%w", errConfig, errors.Join(l.faults...))
	}
	return tolerance, nil
}

// namesDatabase lists the variables that name a database, be it an empty one.
func namesDatabase() []string {
	return slices.DeleteFunc([]string{
		"DATABASE_URL", envPrefix + "_DATABASE_URL", envPrefix + "_DATABASE_URL_FILE",
		envPrefix + "_MIGRATE_DATABASE_URL", envPrefix + "_MIGRATE_DATABASE_URL_FILE",
	}, func(name string) bool { _, set := os.LookupEnv(name); return !set })
}

// namesOnly tells whether DATABASE_URL alone names a database, and this one.
func namesOnly(database string) bool {
	named, _ := os.LookupEnv("DATABASE_URL")
	return named == database && slices.Equal(namesDatabase(), []string{"DATABASE_URL"})
}

// readEnvironment also returns the bare DATABASE_URL.
func readEnvironment() (env *environment, bare value, err error) {
	env = new(environment)
	var unprefixed struct {
		DatabaseURL value `split_words:"true"`
	}
	if err := errors.Join(envconfig.Process(envPrefix, env), envconfig.Process("", &unprefixed)); err != nil {
		return nil, value{}, fmt.Errorf("read environment: %w", err)
	}

	fields := reflect.ValueOf(env).Elem()
	for i, name := range variables() {
		fields.Field(i).Addr().Interface().(*value).named(name)
	}
	unprefixed.DatabaseURL.named("DATABASE_URL")
	return env, unprefixed.DatabaseURL, nil
}

func (v *value) named(name string) {
	v.name = name
	_, v.set = os.LookupEnv(name)
}

// loader collects what is wrong and odd.
type loader struct {
	faults   []error
	warnings []string
}

// fault takes joined errors apart, so that each names the variable.
func (l *loader) fault(name string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			l.fault(name, err)
		}
		return
	}
	l.faults = append(l.faults, fmt.Errorf("%s %w", name, err))
}

var errEmpty = errors.New("is set and empty: give it a value or unset it")

// required parses what has a default, or must have a value.
func required[T any](l *loader, v value, parse func(string) (T, error)) (got T) {
	err := errEmpty
	if v.text != "" {
		got, err = parse(v.text)
	}
	if err != nil {
		l.fault(v.name, err)
	}
	return got
}

// optional parses what may be absent; set and empty is absent.
func optional[T any](l *loader, v value, parse func(string) (T, error)) (none T) {
	if v.text == "" {
		return none
	}
	return required(l, v, parse)
}

// credentials fills in the credentials, and the files that hold them.
func (l *loader) credentials(cfg *Config, env *environment, bare value, need needs) {
	database := env.DatabaseURL
	wanted := need&(needDatabase|needMigrateDatabase) != 0
	if wanted && bare.set && !database.set && !env.DatabaseURLFile.set {
		database = bare
	}
	same := !env.MigrateDatabaseURL.set && !env.MigrateDatabaseURLFile.set

	l.credential(cfg, database, env.DatabaseURLFile,
		need&needDatabase != 0 || wanted && same, takeDatabaseURL(same))
	l.credential(cfg, env.MigrateDatabaseURL, env.MigrateDatabaseURLFile, false, takeMigrateDatabaseURL)
	l.credential(cfg, env.StripeWebhookSecrets, env.StripeWebhookSecretsFile,
		need&needSecrets != 0, takeWebhookSecrets(cfg.SignatureTolerance))
	if env.StripeAPIKeys.text != "" || env.StripeAPIKeysFile.set { // set and empty is no key
		l.credential(cfg, env.StripeAPIKeys, env.StripeAPIKeysFile, false, takeAPIKeys)
	}
}

// credential takes one from its variable or from its file.
func (l *loader) credential(cfg *Config, v, file value, needed bool, take takeCredential) {
	name, text := v.name, v.text
	switch {
	case file.set && v.set && !v.forced:
		l.fault(v.name, fmt.Errorf("and %s are both set: keep one of them", file.name))
		return
	case file.set && !v.set:
		if file.text == "" {
			l.fault(file.name, errEmpty)
			return
		}
		f := &secretFile{variable: file.name, path: file.text, take: take}
		read, err := f.read()
		if err != nil {
			l.fault(f.String(), err)
			return
		}
		cfg.files = append(cfg.files, f)
		name, text, f.seen = f.String(), read, found(read, nil)
	case !v.set:
		if needed {
			l.fault(v.name, fmt.Errorf("is required: set it, or %s to the path of a file that holds it", file.name))
		}
		return
	case text == "":
		l.fault(name, errEmpty)
		return
	}

	warnings, err := take(&cfg.Credentials, text)
	if err != nil {
		l.fault(name, err)
	}
	for _, warning := range warnings {
		l.warnings = append(l.warnings, name+" "+warning)
	}
}

// parseDuration reads Go's durations, which may begin with a number of days: 30d, 1d12h.
func parseDuration(text string) (time.Duration, error) {
	errForm := fmt.Errorf("is %q: want a duration with its units, such as 10s, 5m, 1h30m or 30d", text)
	number, rest, ok := strings.Cut(text, "d")
	if !ok {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, errForm
		}
		return d, nil
	}

	if strings.Trim(number, "+-.0123456789") != "" || strings.HasPrefix(rest, "+") || strings.HasPrefix(rest, "-") {
		return 0, errForm
	}
	days, err := time.ParseDuration(number + "h")
	if err != nil || days.Abs() > math.MaxInt64/24 {
		return 0, errForm
	}
	d := 24 * days
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || d.Abs() > math.MaxInt64-more {
		return 0, errForm
	}
	if strings.HasPrefix(number, "-") {
		return d - more, nil
	}
	return d + more, nil
}

func parsePositive(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d <= 0 {
		return 0, fmt.Errorf("is %q: want more than 0", text)
	}
	return d, err
}

func parseNotNegative(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d < 0 {
		return 0, fmt.Errorf("is %q: want 0 or more", text)
	}
	return d, err
}

func parseAtLeast(least time.Duration) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		d, err := parseDuration(text)
		if err == nil && d < least {
			return 0, fmt.Errorf("is %q: want at least %v", text, least)
		}
		return d, err
	}
}

var parseTolerance = parseAtLeast(time.Second) // ages are whole seconds

// parseInterval is of what asks Stripe each time.
func parseInterval(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d != 0 && d < time.Second {
		return 0, fmt.Errorf("is %q: want 0, or at least 1s", text)
	}
	return d, err
}

func parseRetention(text string) (Retention, error) {
	if text == "forever" {
		return Forever, nil
	}
	d, err := parseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("is %q: want a duration with its units, such as 12h or 30d, or forever", text)
	case d <= 0:
		return 0, fmt.Errorf("is %q: want more than 0, or forever", text)
	}
	return Retention(d), nil
}

func parseSize(text string) (int64, error) {
	number, unit := text, int64(1)
	for suffix, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = strings.TrimSpace(n), bytes
		}
	}
	const most = 64 << 20
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > most/unit {
		return 0, fmt.Errorf("is %q: want a number of bytes from 1 to 64MiB, such as 65536, 512KiB or 1MiB", text)
	}
	return n * unit, nil
}

func parseAPIRate(text string) (float64, error) {
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !(rate > 0 && rate <= 25) { // NaN is neither
		return 0, fmt.Errorf("is %q: want reads per second, more than 0 and at most 25", text)
	}
	return rate, nil
}

func parseBool(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("is %q: want true or false", text)
	}
	return b, nil
}

func between(least, most int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("is %q: want a number from %d to %d", text, least, most)
		}
		return n, nil
	}
}

func oneOf(words ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(words, text) {
			return "", fmt.Errorf("is %q: want one of %s", text, strings.Join(words, ", "))
		}
		return text, nil
	}
}

func parseLogLevel(text string) (zapcore.Level, error) {
	word, err := oneOf("debug", "info", "warn", "error")(text)
	if err != nil {
		return 0, err
	}
	return zapcore.ParseLevel(word)
}

func parseAddr(text string) (string, error) {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("is %q: want host:port or :port, with a number as the port", text)
	}
	return text, nil
}

// parsePath refuses what http.ServeMux would redirect, or take for a pattern.
func parsePath(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.EscapedPath() != text || path.Clean(text) != text || text[0] != '/' || strings.ContainsAny(text, "{}%") {
		return "", fmt.Errorf("is %q: want a plain path such as /webhooks/stripe, without a slash at its end", text)
	}
	return text, nil
}

// parseHTTPURL never shows the text, in which there may be a password.
func parseHTTPURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return "", errors.New("is no URL of the form https://host/path")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("has a user, a query or a fragment: want only https://host/path")
	}
	return text, nil
}

var accountID = regexp.MustCompile(`^acct_[A-Za-z0-9]+$`)

func parseAccounts(text string) ([]string, error) {
	accounts := splitList(text)
	var faults []error
	for i, account := range accounts {
		switch {
		case account == "":
			faults = append(faults, fmt.Errorf("entry %d is blank: %w", i+1, errSeparator))
		case !accountID.MatchString(account):
			faults = append(faults, fmt.Errorf("entry %d is not of the form acct_…", i+1))
		case slices.Contains(accounts[:i], account):
			faults = append(faults, fmt.Errorf("entry %d stands there twice", i+1))
		}
	}
	return accounts, errors.Join(faults...)
}

func parseOutputFields(text string) (OutputFields, error) {
	switch text {
	case "all":
		return OutputFields{All: true, Names: events.OutputFields()}, nil
	case "none":
		return OutputFields{}, nil
	}

	given := splitList(text)
	var faults []error
	for i, name := range given {
		switch {
		case name == "":
			faults = append(faults, fmt.Errorf("entry %d is blank: %w", i+1, errSeparator))
		case !slices.Contains(events.OutputFields(), name):
			faults = append(faults, fmt.Errorf("entry %d is %q: want all or none alone, or some of %s", i+1, name, strings.Join(events.OutputFields(), ", ")))
		case slices.Contains(given[:i], name):
			faults = append(faults, fmt.Errorf("entry %d, %q, stands there twice", i+1, name))
		}
	}
	unwanted := func(name string) bool { return !slices.Contains(given, name) }
	return OutputFields{Names: slices.DeleteFunc(events.OutputFields(), unwanted)}, errors.Join(faults...)
}

// serviceLink matches what Kubernetes sets for a Service whose name begins with webhookd.
var serviceLink = regexp.MustCompile(`^WEBHOOKD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_[A-Z]+_(PROTO|PORT|ADDR)|PORT(_\d+_[A-Z]+)?=[a-z]+://.*)(=|$)`)

// unknownVariables has a sentence for each variable of ours that nothing reads: probably a slip.
func unknownVariables(environ []string) []string {
	known := variables()
	var sentences []string
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix+"_") || slices.Contains(known, name) || serviceLink.MatchString(entry) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		sentence := name + " is no variable of webhookd"
		if distance(name, nearest) <= 4 {
			sentence += ": did you mean " + nearest + "?"
		}
		sentences = append(sentences, sentence)
	}
	return sentences
}

// distance counts the letters to add, drop or change to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// variables are the names of all variables, in the order of environment's fields.
func variables() []string {
	return strings.Fields(usage(`{{range .}}{{.Key}} {{end}}`))
}

// usage renders a template over envconfig's own view of the variables.
func usage(template string) string {
	var b strings.Builder
	if err := envconfig.Usagef(envPrefix, new(environment), &b, template); err != nil {
		panic(err) // the templates and the struct stand in this file
	}
	return b.String()
}
