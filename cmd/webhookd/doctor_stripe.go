package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/stripeapi"
)

// diagnosisRate is the least reads per second: a slower API_RATE is meant for
// what goes on all day.
const diagnosisRate = 2

// mostAccounts is how many of STRIPE_ACCOUNTS are tried.
const mostAccounts = 5

// stripeExam is what is asked with the key of one mode.
type stripeExam struct {
	findings

	cfg    *Config
	mode   string
	place  stripeapi.Place
	client *stripeapi.Client
	now    func() time.Time
}

const (
	howToKey = "make a restricted key as docs/stripe-api-key.md says"
	tryAgain = "try again later; if WEBHOOKD_STRIPE_API_BASE is set, check that it is Stripe's API"
)

func diagnoseStripe(ctx context.Context, cfg *Config, live bool, now func() time.Time) findings {
	x := &stripeExam{cfg: cfg, mode: "test", place: stripeapi.Place{Live: live}, now: now}
	if live {
		x.mode = "live"
	}
	key := cfg.APIKeys[live]
	switch {
	case !cfg.Livemode.Takes(live):
		return nil // events of this mode are ignored
	case key == "":
		other := "live"
		if live {
			other = "test"
		}
		x.warnf(x.name("key"), howToKey+" and set WEBHOOKD_STRIPE_API_KEYS; or set WEBHOOKD_LIVEMODE="+other+" if no "+x.mode+" events are meant to come",
			"none: outputs, refresh, reconcile and these checks are off for %s mode", x.mode)
		return x.findings
	}
	x.client = stripeapi.New(stripeapi.Options{
		Base: cfg.APIBase,
		Rate: max(cfg.APIRate, diagnosisRate),
		Now:  now,
		Key: func(bool) (string, bool) {
			return string(key), true
		},
	})
	defer x.client.Close()
	if x.clock(ctx) && x.sessions(ctx, strings.HasPrefix(string(key), "sk_")) {
		x.events(ctx)
		x.accounts(ctx)
		x.endpoints(ctx)
	}
	return x.findings
}

func (x *stripeExam) name(check string) string { return x.mode + " " + check }

// clock reports whether Stripe answers at all.
func (x *stripeExam) clock(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	asked := x.now()
	date, err := x.client.Clock(ctx, x.place.Live)
	answered := x.now()
	if err != nil {
		x.failf(x.name("API"), "check that this machine reaches https://api.stripe.com (or WEBHOOKD_STRIPE_API_BASE): DNS, firewall, proxy", "%s", reason("stripe", err))
		return false
	}
	var off time.Duration // a Date is the second in which it was answered
	switch {
	case date.After(answered):
		off = date.Sub(answered)
	case date.Add(time.Second).Before(asked):
		off = date.Add(time.Second).Sub(asked)
	}
	const do = "keep this machine's clock by NTP: a delivery over WEBHOOKD_SIGNATURE_TOLERANCE is refused"
	switch {
	case off.Abs() > x.cfg.SignatureTolerance/2:
		x.failf(x.name("clock"), do, "Stripe's %s; the tolerance is %s", offset(off), x.cfg.SignatureTolerance)
	case off.Abs() > clockTolerance:
		x.warnf(x.name("clock"), do, "Stripe's %s", offset(off))
	default:
		x.okf(x.name("clock"), "Stripe's %s", offset(off.Truncate(time.Second)))
	}
	return true
}

const (
	readSessions  = "give the key 'Verification Sessions and Reports': Read"
	readSensitive = "give the key 'Access recent sensitive verification results': Read, or leave the fields out of WEBHOOKD_OUTPUT_FIELDS"
)

// sessions reports whether the key is one at all.
func (x *stripeExam) sessions(ctx context.Context, secret bool) bool {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	may, err := x.client.Rights(ctx, x.place)
	if errors.Is(err, stripeapi.ErrUnauthorized) {
		x.failf(x.name("key"), howToKey, "Stripe does not accept it: it is wrong, expired, rolled, or not allowed from this address")
		return false
	}
	switch {
	case secret:
		x.warnf(x.name("key"), howToKey+", and take the secret key out", "it is a secret key, which may do everything, and never reads the sensitive fields")
	case err == nil || errors.Is(err, stripeapi.ErrForbidden):
		x.okf(x.name("key"), "a restricted one, and Stripe accepts it")
	default:
		x.okf(x.name("key"), "a restricted one")
	}
	switch {
	case errors.Is(err, stripeapi.ErrForbidden):
		x.failf(x.name("sessions"), readSessions, "the key may not read them: no outputs, no refresh, no reconcile")
		return true
	case err != nil:
		x.failf(x.name("sessions"), tryAgain, "%s", reason("stripe", err))
		return true
	}
	x.okf(x.name("sessions"), "the key may read them")
	x.outputs(may)
	return true
}

// outputs tells field by field what the key may read of what is wanted.
func (x *stripeExam) outputs(may map[string]bool) {
	check := x.name("outputs")
	var readable, sensitive, plain []string
	for _, field := range append(slices.Clone(x.cfg.OutputFields.Names), "provided_details") {
		switch {
		case field == "provided_details" && !x.cfg.OutputFields.Wants("email") && !x.cfg.OutputFields.Wants("phone"):
		case may[field]:
			readable = append(readable, field)
		case may["verified_outputs"] && field != "provided_details":
			sensitive = append(sensitive, field)
		default:
			plain = append(plain, field)
		}
	}
	switch {
	case len(x.cfg.OutputFields.Names) == 0:
		x.okf(check, "none are asked for: WEBHOOKD_OUTPUT_FIELDS is none")
		return
	case may == nil:
		x.warnf(check, "let somebody be verified, then run doctor again", "cannot tell what the key may read: nobody was verified in the last 48 hours")
		return
	}
	if len(readable) > 0 {
		x.okf(check, "the key may read %s", strings.Join(readable, ", "))
	}
	if len(sensitive) > 0 {
		x.warnf(check, readSensitive, "the key may not read %s: they stay empty", strings.Join(sensitive, ", "))
	}
	if len(plain) > 0 {
		x.warnf(check, readSessions, "the key may not read %s: they stay empty", strings.Join(plain, ", "))
	}
}

func (x *stripeExam) listEvents(ctx context.Context, p stripeapi.Place) error {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	return x.client.Events(ctx, p, stripeapi.EventQuery{Since: x.now(), Types: events.Types()}, func([]byte) error { return nil })
}

func (x *stripeExam) events(ctx context.Context) {
	switch err := x.listEvents(ctx, x.place); {
	case err == nil:
		x.okf(x.name("events"), "the key may list them")
	case errors.Is(err, stripeapi.ErrForbidden):
		x.failf(x.name("events"), "give the key 'Events': Read", "the key may not list them: reconcile cannot find lost events")
	default:
		x.failf(x.name("events"), tryAgain, "%s", reason("stripe", err))
	}
}

// accounts tries the connected accounts that are configured.
func (x *stripeExam) accounts(ctx context.Context) {
	if len(x.cfg.Accounts) == 0 {
		return
	}
	tried := x.cfg.Accounts[:min(len(x.cfg.Accounts), mostAccounts)]
	failed := 0
	for _, account := range tried {
		if err := x.listEvents(ctx, stripeapi.Place{Live: x.place.Live, Account: account}); err != nil {
			failed++
			x.failf(x.name("accounts"), "give the key these rights for connected accounts too, and check WEBHOOKD_STRIPE_ACCOUNTS", "%s: %s", account, reason("stripe", err))
		}
	}
	if failed == 0 {
		x.okf(x.name("accounts"), "the key may read %d of the %d in WEBHOOKD_STRIPE_ACCOUNTS that were tried", len(tried), len(x.cfg.Accounts))
	}
}

func (x *stripeExam) endpoints(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	all, err := x.client.Endpoints(ctx, x.place.Live)
	switch {
	case errors.Is(err, stripeapi.ErrForbidden) && len(all) == 0:
		x.warnf(x.name("endpoint"), "give the key 'Webhook Endpoints' and 'Event Destinations': Read, or look yourself: enabled, the URL, all six types by name",
			"the key may not list where Stripe sends events to")
		return
	case errors.Is(err, stripeapi.ErrForbidden):
		x.warnf(x.name("destinations"), "give the key 'Event Destinations': Read, if there are any", "the key may not list event destinations, only webhook endpoints")
	case err != nil:
		x.failf(x.name("endpoint"), tryAgain, "%s", reason("stripe", err))
		return
	}
	if x.cfg.PublicURL == "" {
		x.candidates(all)
		return
	}
	x.endpoint(all, err == nil)
}

// endpoint judges what sends to PUBLIC_URL. complete says that all is known.
func (x *stripeExam) endpoint(all []stripeapi.Endpoint, complete bool) {
	check := x.name("endpoint")
	ours := slices.DeleteFunc(slices.Clone(all), func(e stripeapi.Endpoint) bool { return !x.sendsHere(e) })
	if len(ours) == 0 {
		x.missing(all, complete)
		return
	}
	for _, e := range ours {
		if e.Status == "enabled" {
			x.okf(check, "%s: enabled, %s", e.ID, kindOf(e))
			continue
		}
		x.failf(check, "find out why in the Dashboard (Workbench, Webhooks), enable it, and bring in what was missed by 'webhookd reconcile'",
			"%s: disabled, Stripe sends nothing to it", e.ID)
	}

	// Several may share the work, as while one moves from snapshots to thin events.
	byOrigin := make(map[string][]stripeapi.Endpoint)
	for _, e := range ours {
		origin := strings.Join(slices.Sorted(slices.Values(e.From)), " ")
		byOrigin[origin] = append(byOrigin[origin], e)
	}
	for _, origin := range slices.Sorted(maps.Keys(byOrigin)) {
		x.types(byOrigin[origin])
	}
	if connected := slices.ContainsFunc(ours, fromAccounts); !connected && complete && len(x.cfg.Accounts) > 0 {
		x.warnf(check, "add an endpoint for the events of connected accounts, with the same URL", "WEBHOOKD_STRIPE_ACCOUNTS is set, and only the account's own events come here")
	}
}

// types judges what is selected by endpoints that take the same events.
func (x *stripeExam) types(ours []stripeapi.Endpoint) {
	var ids []string
	for _, e := range ours {
		ids = append(ids, e.ID)
	}
	missing := slices.DeleteFunc(events.Types(), func(t string) bool {
		return slices.ContainsFunc(ours, func(e stripeapi.Endpoint) bool { return selects(e, t) })
	})
	if len(missing) == 0 {
		x.okf(x.name("event types"), "%s: all six", strings.Join(ids, ", "))
		return
	}
	do := "select all six types identity.verification_session.* by their names"
	if slices.Contains(missing, events.TypeRedacted) {
		do += ": 'all events' leaves redacted out, and without it a redaction at Stripe erases nothing here"
	}
	x.failf(x.name("event types"), do, "%s: without %s", strings.Join(ids, ", "), strings.Join(missing, ", "))
}

// missing says what comes near when nothing sends to PUBLIC_URL.
func (x *stripeExam) missing(all []stripeapi.Endpoint, complete bool) {
	check, want := x.name("endpoint"), x.urls()[0]
	for _, e := range all {
		if u, err := url.Parse(e.URL); err == nil && e.URL != "" && hostOf(u) == hostOf(want) {
			x.failf(check, "change its URL, or WEBHOOKD_PUBLIC_URL and WEBHOOKD_WEBHOOK_PATH",
				"%s sends to %s, not to %s", e.ID, shown(u), shown(want))
			return
		}
	}
	if !complete {
		x.warnf(check, "let the key read event destinations, and run doctor again", "no webhook endpoint sends to %s; an event destination may", shown(want))
		return
	}
	x.failf(check, "make one with the six types identity.verification_session.* (or set WEBHOOKD_LIVEMODE, if no "+x.mode+" events are meant to come)",
		"none sends to %s", shown(want))
}

// candidates lists what may be ours.
func (x *stripeExam) candidates(all []stripeapi.Endpoint) {
	const do = "set WEBHOOKD_PUBLIC_URL to what Stripe sends to, so that it can be judged"
	found := false
	for _, e := range all {
		var without []string
		for _, t := range events.Types() {
			if !selects(e, t) {
				without = append(without, t)
			}
		}
		u, err := url.Parse(e.URL)
		if len(without) == len(events.Types()) || err != nil || e.URL == "" {
			continue
		}
		found = true
		lacks := "all six types"
		if len(without) > 0 {
			lacks = "without " + strings.Join(without, ", ")
		}
		at := u.Host // the rest of a stranger's URL may be a secret
		if u.Path == x.cfg.WebhookPath {
			at = shown(u)
		}
		x.warnf(x.name("endpoint"), do, "may be %s at %s: %s, %s, %s", e.ID, at, cmp.Or(e.Status, "unknown"), kindOf(e), lacks)
	}
	if !found {
		x.warnf(x.name("endpoint"), do, "none is selected for any type of identity.verification_session")
	}
}

// selects reports whether an endpoint is sent a type, as a snapshot or thin.
func selects(e stripeapi.Endpoint, t string) bool {
	if slices.Contains(e.EnabledEvents, "*") && t != events.TypeRedacted {
		return true
	}
	return slices.Contains(e.EnabledEvents, t) || slices.Contains(e.EnabledEvents, events.ThinType(t))
}

func fromAccounts(e stripeapi.Endpoint) bool {
	return e.From == nil || slices.Contains(e.From, "@accounts") || slices.Contains(e.From, "other_accounts")
}

// kindOf says what is sent.
func kindOf(e stripeapi.Endpoint) string {
	kind := "thin events"
	if e.Payload == "snapshot" {
		kind = "snapshots of API version " + cmp.Or(e.APIVersion, "the account's default")
	}
	if len(e.From) > 0 {
		kind += " from " + strings.Join(e.From, " and ")
	}
	return kind
}

// urls are what PUBLIC_URL can mean: where the endpoint is, or what is before
// WEBHOOK_PATH.
func (x *stripeExam) urls() []*url.URL {
	public, err := url.Parse(x.cfg.PublicURL)
	if err != nil {
		panic(fmt.Sprintf("PUBLIC_URL was checked: %v", err))
	}
	whole := *public
	whole.Path = strings.TrimRight(public.Path, "/") + x.cfg.WebhookPath
	if strings.HasSuffix(public.Path, x.cfg.WebhookPath) {
		return []*url.URL{public, &whole}
	}
	return []*url.URL{&whole, public}
}

func (x *stripeExam) sendsHere(e stripeapi.Endpoint) bool {
	u, err := url.Parse(e.URL)
	return err == nil && slices.ContainsFunc(x.urls(), func(want *url.URL) bool {
		return strings.EqualFold(u.Scheme, want.Scheme) && hostOf(u) == hostOf(want) && u.Path == want.Path
	})
}

// hostOf is without a port that goes without saying.
func hostOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch strings.ToLower(u.Scheme) {
	case "https":
		return strings.TrimSuffix(host, ":443")
	case "http":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// shown is without what may be a password.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
