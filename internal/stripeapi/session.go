package stripeapi

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/stripe/stripe-go/v85"

	"webhookd/internal/events"
)

const (
	sessionsPath = "/v1/identity/verification_sessions"
	outputsPath  = "verified_outputs"
	detailsPath  = "provided_details"

	// window is how long Stripe shows sensitive fields to a key without an IP
	// restriction (docs.stripe.com/identity/access-verification-results).
	window = 48 * time.Hour
)

// pathOfOutput is what has to be expanded for an output: all of them, but for
// a sensitive one, which is absent unless it is named.
func pathOfOutput(name string) string {
	switch name {
	case "dob", "id_number", "sex", "unparsed_place_of_birth", "unparsed_sex":
		return outputsPath + "." + name
	}
	return outputsPath
}

// Answer is what Stripe's API tells of a session.
type Answer struct {
	// Session has only those outputs and details that are wanted.
	Session events.Session
	// The state held at some moment between From, the request's start, and
	// Until, the answer's Date: whole seconds, From never after Until.
	From, Until time.Time
	// Unreadable are the wanted outputs that this key may not read, by the
	// names of OUTPUT_FIELDS, and provided_details.
	Unreadable []string
	// Expanded says that outputs were asked for, as far as the key may read them.
	Expanded bool
	// Closed says that it may read none of them.
	Closed bool
}

// Session reads one session. With outputs it asks for what OUTPUT_FIELDS wants
// and the key may read; without sensitive, for sessions that are too old for
// it, it does not ask for date of birth, ID number, sex, unparsed sex and
// place of birth, which then count as unreadable.
func (c *Client) Session(ctx context.Context, p Place, id string, withOutputs, sensitive bool) (Answer, error) {
	path, err := pathOf(sessionsPath, id)
	if err != nil {
		return Answer{}, fmt.Errorf("read session: %w", err)
	}
	a, err := c.session(ctx, p, path, withOutputs, sensitive)
	if !a.Expanded { // what was not asked for is not taken
		a.Session.Outputs, a.Session.Details = nil, nil
	}
	if err == nil && a.Session.ID != id {
		err = &RetryError{Reason: "the answer is not what was asked for"}
	}
	if err != nil {
		return Answer{}, fmt.Errorf("read session %s: %w", id, err)
	}
	return a, nil
}

func (c *Client) session(ctx context.Context, p Place, path string, withOutputs, sensitive bool) (Answer, error) {
	key, err := c.keyOf(p)
	if err != nil {
		return Answer{}, err
	}
	s := &sessionRead{c: c, key: key, place: p, path: path}
	wanted := c.wanted()
	if !withOutputs || len(wanted) == 0 {
		return s.expanding(ctx, nil)
	}
	allowed := wanted
	if !sensitive {
		allowed = slices.DeleteFunc(slices.Clone(wanted), isSensitive)
	}
	a, readable, err := s.readable(ctx, allowed)
	if err != nil {
		return Answer{}, err
	}
	a.Expanded, a.Unreadable, a.Closed = true, c.unreadable(wanted, readable), !slices.Contains(readable, outputsPath)
	return a, nil
}

// wanted is what to expand for the wanted outputs. What the person typed in,
// an e-mail address and a phone number, is wanted with these.
func (c *Client) wanted() []string {
	var paths []string
	for _, field := range events.OutputFields() {
		if !c.wants(field) {
			continue
		}
		if len(paths) == 0 {
			paths = append(paths, outputsPath)
		}
		if path := pathOfOutput(field); path != outputsPath {
			paths = append(paths, path)
		}
	}
	if c.wants("email") || c.wants("phone") {
		paths = append(paths, detailsPath)
	}
	return paths
}

// unreadable names the fields for which not all of the paths could be read.
func (c *Client) unreadable(paths, readable []string) []string {
	var names []string
	for _, field := range events.OutputFields() {
		if c.wants(field) && !slices.Contains(readable, pathOfOutput(field)) {
			names = append(names, field)
		}
	}
	if slices.Contains(paths, detailsPath) && !slices.Contains(readable, detailsPath) {
		names = append(names, detailsPath)
	}
	return names
}

// sessionRead is one session, to be read with one key.
type sessionRead struct {
	c     *Client
	key   string
	place Place
	path  string
}

func (s *sessionRead) expanding(ctx context.Context, paths []string) (Answer, error) {
	query := url.Values{}
	if len(paths) > 0 {
		query["expand[]"] = paths
	}
	r, err := s.c.getWith(ctx, s.key, s.place, s.path, query)
	if err != nil {
		return Answer{}, err
	}
	return s.c.answer(r.body, r)
}

// answer decodes a session and drops what is not wanted.
func (c *Client) answer(raw []byte, r reply) (Answer, error) {
	session, err := events.ParseSession(raw)
	if err != nil {
		return Answer{}, fmt.Errorf("understand the session: %w", err)
	}
	if session.Outputs != nil {
		session.Outputs = new(session.Outputs.Only(c.wants))
	}
	if session.Details != nil {
		session.Details = new(session.Details.Only(c.wants))
	}
	return Answer{Session: session, From: r.from, Until: r.until}, nil
}

// readable reads the session with those of the paths that the key may read.
func (s *sessionRead) readable(ctx context.Context, paths []string) (Answer, []string, error) {
	k := s.c.rights.of(s.key, s.place)
	if ask, sure := k.recall(paths, s.c.now()); sure {
		a, err := s.expanding(ctx, ask)
		if len(ask) == 0 || !mayNameField(err) {
			if err == nil {
				k.learn(ask, ask, true, s.c.now())
			}
			return a, ask, err
		}
	}
	// Not known, or not true any more: one finds out, the others wait for it.
	if err := k.take(ctx); err != nil {
		return Answer{}, nil, err
	}
	defer k.pass()
	ask, _ := k.recall(paths, s.c.now())
	a, readable, err := s.probe(ctx, ask)
	if err != nil {
		return Answer{}, nil, err
	}
	recent := a.Until.Sub(a.Session.Created) <= window
	k.learn(ask, readable, recent, s.c.now())
	return a, readable, nil
}

// mayNameField reports whether an error can be about one expanded field.
func mayNameField(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.code != string(stripe.ErrorCodeAccountInvalid)
}

// probe finds the paths that can be read. Every request settles at least one:
// those that the refusal names, or else, field by field, the next. That makes
// six after the refusal if it is the five sensitive ones, nine at the worst,
// and two if the key may not read sessions at all.
func (s *sessionRead) probe(ctx context.Context, paths []string) (Answer, []string, error) {
	a, err := s.expanding(ctx, paths)
	for mayNameField(err) {
		var r *refusal
		errors.As(err, &r)
		named := r.names(paths)
		if len(named) == 0 {
			break
		}
		paths = slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
			return slices.Contains(named, path) || isSensitive(path) && slices.Contains(named, outputsPath)
		})
		a, err = s.expanding(ctx, paths)
	}
	if len(paths) == 0 || !mayNameField(err) {
		return a, paths, err
	}

	var readable []string
	known := false // that the session can be read at all
	units := unitsOf(paths)
	for len(units) > 0 {
		unit := units[0]
		units = units[1:]
		if isSensitive(unit[0]) && !slices.Contains(readable, outputsPath) {
			continue
		}
		more := slices.Concat(readable, unit)
		next, err := s.expanding(ctx, more)
		switch {
		case err == nil:
			a, readable, known = next, more, true
			continue
		case !mayNameField(err):
			return Answer{}, nil, err
		case len(unit) > 1: // the outputs first, and the details last: they hold less
			units = slices.Concat([][]string{unit[:1]}, units, [][]string{unit[1:]})
		}
		if !known {
			if a, err = s.expanding(ctx, nil); err != nil {
				return Answer{}, nil, err
			}
			known = true
		}
	}
	return a, readable, nil
}

// unitsOf puts what the least key may read first, in one. There is always some:
// no sensitive path goes without the outputs that it is in.
func unitsOf(paths []string) [][]string {
	var plain []string
	var units [][]string
	for _, path := range paths {
		if isSensitive(path) {
			units = append(units, []string{path})
		} else {
			plain = append(plain, path)
		}
	}
	return append([][]string{plain}, units...)
}

// Sessions calls each with every session created since then, newest first, as
// a list tells it: without outputs. It goes on after a session that it does not
// understand and answers an error at the end; any other error ends it, with
// the sessions before it told.
func (c *Client) Sessions(ctx context.Context, p Place, since time.Time, each func(Answer) error) error {
	query := url.Values{"created[gte]": {strconv.FormatInt(seconds(since), 10)}}
	var odd error
	for {
		l, err := c.page(ctx, p, sessionsPath, query)
		if err != nil {
			return fmt.Errorf("list sessions: %w", err)
		}
		for _, raw := range l.Data {
			a, err := c.answer(raw, l.reply)
			if err != nil {
				odd = fmt.Errorf("list sessions: %s: %w", idOf(raw), err)
				continue
			}
			if err := each(a); err != nil {
				return err
			}
		}
		if !l.HasMore || len(l.Data) == 0 {
			return odd
		}
		if err := l.advance(query, "starting_after"); err != nil {
			return fmt.Errorf("list sessions: %w", err)
		}
	}
}

// Rights says field by field what the key may read, for doctor: the outputs
// by the names of OUTPUT_FIELDS, verified_outputs and provided_details. Nil
// means that it cannot be told, because in the last 48 hours nobody was
// verified. The values are read and thrown away.
func (c *Client) Rights(ctx context.Context, p Place) (map[string]bool, error) {
	l, err := c.page(ctx, p, sessionsPath, url.Values{
		"limit": {"1"}, "status": {events.StatusVerified},
		"created[gte]": {strconv.FormatInt(seconds(c.now().Add(-window)), 10)},
	})
	if err != nil {
		return nil, fmt.Errorf("find a session to read: %w", err)
	}
	if len(l.Data) == 0 {
		return nil, nil //nolint:nilnil // documented: it cannot be told
	}
	key, err := c.keyOf(p)
	if err != nil {
		return nil, err
	}
	path, err := pathOf(sessionsPath, idOf(l.Data[0]))
	if err != nil {
		return nil, err
	}
	s := &sessionRead{c: c, key: key, place: p, path: path}
	may := make(map[string]bool)
	try := func(name string, paths ...string) error {
		_, err := s.expanding(ctx, paths)
		may[name] = err == nil
		if err != nil && !mayNameField(err) {
			return fmt.Errorf("try to read %s: %w", name, err)
		}
		return nil
	}
	if err := errors.Join(try(detailsPath, detailsPath), try(outputsPath, outputsPath)); err != nil {
		return nil, err
	}
	for _, field := range events.OutputFields() {
		path := pathOfOutput(field)
		if path == outputsPath || !may[outputsPath] {
			may[field] = may[outputsPath]
			continue
		}
		if err := try(field, outputsPath, path); err != nil {
			return nil, err
		}
	}
	return may, nil
}
