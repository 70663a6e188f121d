package scenario

import (
	"fmt"
	"strings"
	"time"
)

// stories are what happens to a session, in words that Happen knows.
func stories() [][2]string {
	return [][2]string{
		{"happy", "created processing verified"},
		{"retry", "created processing requires_input:document_expired processing verified"},
		{"failing", "created processing requires_input:document_unverified_other processing requires_input:selfie_face_mismatch requires_input:abandoned canceled"},
		{"override", "created processing requires_input:document_unverified_other verified requires_input"}, // by a reviewer, both ways
		{"abandoned", "created requires_input:abandoned"},
		{"canceled", "created canceled"},
		{"redacted", "created processing verified redacted"},
		{"redacted-unverified", "created redacting redacted"},
	}
}

// Stories lists the names that Story knows.
func Stories() []string {
	var names []string
	for _, story := range stories() {
		names = append(names, story[0])
	}
	return names
}

// Story tells a whole story of one session: its events in their order from
// start on, as far apart as such things are. The error names an unknown story.
func (s *Source) Story(name string, start time.Time, o SessionOptions) ([]Event, error) {
	for _, story := range stories() {
		if story[0] != name {
			continue
		}
		if o.CreatedAt.IsZero() {
			o.CreatedAt = start
		}
		session, at, told := s.Session(o), start, []Event(nil)
		for step := range strings.FieldsSeq(story[1]) {
			what, code, _ := strings.Cut(step, ":")
			at = at.Add(session.pause(what, code)).Truncate(time.Second)
			e, err := session.Happen(what, code, at)
			if err != nil {
				return nil, fmt.Errorf("story %s: %w", name, err)
			}
			told = append(told, e)
		}
		return told, nil
	}
	return nil, fmt.Errorf("no story %q: there are %s", name, strings.Join(Stories(), ", "))
}

// pause is how long a session waits for what happens next.
func (s *Session) pause(what, code string) time.Duration {
	switch {
	case what == "created":
		return 0
	case what == "redacted":
		return s.src.between(24*time.Hour, 96*time.Hour)
	case what == "processing":
		return s.src.between(time.Minute, 5*time.Minute)
	case s.submitted: // the checks
		return s.src.between(5*time.Second, 40*time.Second)
	case code != "" || what == "canceled" || what == "redacting": // somebody gave up
		return s.src.between(10*time.Minute, time.Hour)
	default: // a reviewer
		return s.src.between(time.Hour, 3*time.Hour)
	}
}

// Happen calls the method of what is said: created, processing, requires_input
// (with a code or ""), verified, canceled, redacting or redacted.
func (s *Session) Happen(what, code string, at time.Time) (Event, error) {
	switch what {
	case "created":
		return s.Created(at), nil
	case "processing":
		return s.Processing(at), nil
	case "requires_input":
		return s.RequiresInput(at, code), nil
	case "verified":
		return s.Verified(at), nil
	case "canceled":
		return s.Canceled(at), nil
	case "redacting":
		return s.Redacting(at), nil
	case "redacted":
		return s.Redacted(at), nil
	}
	return Event{}, fmt.Errorf("nothing called %q happens to a session", what)
}
