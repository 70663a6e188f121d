package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// defect is something that webhookd could do wrong, planted outside it: into
// the database, or into the road of the deliveries. The rig must find it.
type defect struct {
	name  string
	sql   string
	road  func(http.RoundTripper) http.RoundTripper
	count func(series)
	shows func(*result) int // where it must show
}

func lost(r *result) int        { return r.verdict.Lost }
func twice(r *result) int       { return r.verdict.Twice }
func different(r *result) int   { return r.verdict.Different }
func resurrected(r *result) int { return r.verdict.Resurrected }
func missing(r *result) int     { return r.verdict.Lost + r.verdict.Different }
func wrongs(r *result) int      { return r.wrongs }

// mustFail is the defect of the run that always fails.
const mustFail = "every code is wrong"

func defects() []defect {
	return []defect{
		{name: "the answer comes before COMMIT", shows: lost, road: func(next http.RoundTripper) http.RoundTripper {
			return every(13, next, func(q *http.Request) (*http.Response, error) { // as if the process died between the two
				return reply(q, 200, `{"outcome":"applied","event":"`+eventID(q)+`"}`)
			})
		}},
		{name: "a row is taken away", shows: lost, sql: trigger("AFTER INSERT ON stripe_identity.events", `
			IF hashtext(NEW.event_id) % 29 = 0 THEN DELETE FROM stripe_identity.events WHERE event_id = NEW.event_id; END IF; RETURN NULL;`)},
		{name: "stale events leave no history", shows: lost, sql: trigger("BEFORE INSERT ON stripe_identity.status_transitions", `
			IF EXISTS (SELECT FROM stripe_identity.status_transitions t WHERE t.session_id = NEW.session_id AND t.occurred_at > NEW.occurred_at)
			THEN RETURN NULL; END IF; RETURN NEW;`)},
		{name: "redaction forgets history", shows: lost, sql: trigger("AFTER UPDATE ON stripe_identity.verification_sessions", `
			IF NEW.redacted THEN DELETE FROM stripe_identity.status_transitions WHERE session_id = NEW.id; END IF; RETURN NULL;`)},
		{name: "twins are counted", shows: twice, sql: trigger("BEFORE INSERT ON stripe_identity.status_transitions", `
			NEW.twin := decode(md5(NEW.event_id), 'hex'); RETURN NEW;`)},
		{name: "a change is written twice", shows: twice, sql: `DROP INDEX stripe_identity.status_transitions_answer; ` +
			trigger("AFTER INSERT ON stripe_identity.status_transitions", `
			IF NEW.event_id IS NOT NULL AND hashtext(NEW.event_id) % 17 = 0 THEN
				INSERT INTO stripe_identity.status_transitions (session_id, event_type, status, occurred_at, source, rank)
				VALUES (NEW.session_id, NEW.event_type, NEW.status, NEW.occurred_at, 'api', 9);
			END IF; RETURN NULL;`)},
		{name: "an event is new twice", shows: wrongs, road: func(next http.RoundTripper) http.RoundTripper {
			return rewrite(next, `"duplicate"`, `"applied"`)
		}},
		{name: "every delivery is counted", shows: wrongs, count: func(s series) {
			s[`webhookd_status_transitions_total{livemode="false",status="processing"}`] +=
				s[`webhookd_deliveries_total{event_type="identity.verification_session.processing",outcome="duplicate"}`]
		}},
		{name: "nothing is counted", shows: wrongs, count: func(s series) {
			for name := range s {
				if strings.HasPrefix(name, "webhookd_status_transitions_total") {
					s[name] = 0
				}
			}
		}},
		{name: "the second event of a second is dropped", shows: different, sql: trigger("BEFORE UPDATE ON stripe_identity.verification_sessions", `
			IF NEW.last_event_created_at = OLD.last_event_created_at AND NEW.last_event_id <> OLD.last_event_id
			THEN NEW.status := OLD.status; NEW.last_event_id := OLD.last_event_id; END IF; RETURN NEW;`)},
		{name: "the last to arrive wins", shows: different, sql: trigger("AFTER INSERT ON stripe_identity.status_transitions", `
			UPDATE stripe_identity.verification_sessions SET status = NEW.status WHERE id = NEW.session_id; RETURN NULL;`, "deferred")},
		{name: "the reference is overwritten", shows: different, sql: trigger("BEFORE UPDATE ON stripe_identity.verification_sessions", `
			IF NEW.redacted THEN NEW.client_reference_id := NULL; END IF; RETURN NEW;`)},
		{name: "doubt is forgotten", shows: different, sql: trigger("BEFORE UPDATE ON stripe_identity.verification_sessions", `
			NEW.needs_refresh := false; RETURN NEW;`)},
		{name: "outputs are not wanted", shows: different, sql: trigger("BEFORE UPDATE ON stripe_identity.verification_sessions", `
			NEW.outputs_wanted_since := NULL; RETURN NEW;`)},
		{name: "there is no tombstone", shows: resurrected, sql: `
			ALTER TABLE stripe_identity.verification_sessions DROP CONSTRAINT redacted_holds_nothing; ` +
			trigger("BEFORE UPDATE ON stripe_identity.verification_sessions", `NEW.redacted := false; RETURN NEW;`)},
		{name: "the payload is kept", shows: resurrected, sql: trigger("BEFORE UPDATE ON stripe_identity.events", `
			NEW.payload := coalesce(NEW.payload, OLD.payload); RETURN NEW;`)},
		{name: "the payload in quarantine is kept", shows: resurrected, sql: trigger("BEFORE UPDATE ON stripe_identity.quarantined_events", `
			NEW.payload := coalesce(NEW.payload, OLD.payload); RETURN NEW;`)},
		{name: "the reason is kept", shows: resurrected, sql: trigger("BEFORE UPDATE ON stripe_identity.status_transitions", `
			NEW.error_reason := coalesce(NEW.error_reason, OLD.error_reason); RETURN NEW;`)},
		{name: "metadata are kept", shows: resurrected, sql: `ALTER TABLE stripe_identity.verification_sessions DROP CONSTRAINT redacted_holds_nothing; ` +
			trigger("BEFORE UPDATE ON stripe_identity.verification_sessions", `NEW.metadata := coalesce(NEW.metadata, OLD.metadata); RETURN NEW;`)},
		{name: "outputs are kept", shows: resurrected, sql: trigger("BEFORE DELETE ON stripe_identity.verified_outputs", `RETURN NULL;`)},
		{name: "details are kept", shows: resurrected, sql: trigger("BEFORE DELETE ON stripe_identity.provided_details", `RETURN NULL;`)},
		{name: "a job was not canceled", shows: resurrected, sql: trigger("AFTER UPDATE ON stripe_identity.verification_sessions", `
			IF NEW.redacted AND NOT OLD.redacted THEN -- what it fetched before comes after
				INSERT INTO stripe_identity.verified_outputs (session_id, first_name, source, fetched_at, told_at, told_rank)
				SELECT NEW.id, 'PIIMARK-' || ltrim(substr(NEW.id, 12), '0') || '-', 'api', now(), now(), 9 ON CONFLICT DO NOTHING;
			END IF; RETURN NULL;`, "deferred")},
		{name: "nobody asks the API", shows: wrongs, sql: trigger("BEFORE INSERT ON stripe_identity.wishes", `RETURN NULL;`)},
		{name: "what the API tells is not kept", shows: missing, sql: trigger("BEFORE INSERT ON stripe_identity.verified_outputs", `
			IF NEW.source = 'api' THEN RETURN NULL; END IF; RETURN NEW;`)},
		{name: "a copy stands elsewhere", shows: resurrected, sql: `CREATE TABLE stripe_identity.copy (payload jsonb); ` +
			trigger("AFTER INSERT ON stripe_identity.events", `INSERT INTO stripe_identity.copy VALUES (NEW.payload); RETURN NULL;`)},
		{name: "some events are refused for ever", shows: wrongs, road: func(next http.RoundTripper) http.RoundTripper {
			return roadFunc(func(q *http.Request) (*http.Response, error) {
				if id := eventID(q); strings.HasSuffix(id, "a") {
					return reply(q, 500, `{}`)
				}
				return next.RoundTrip(q)
			})
		}},
		{name: "forged signatures are taken", shows: wrongs, road: func(next http.RoundTripper) http.RoundTripper {
			return roadFunc(func(q *http.Request) (*http.Response, error) {
				resp, err := next.RoundTrip(q)
				if err == nil && resp.StatusCode == http.StatusBadRequest {
					_ = resp.Body.Close() // another takes its place
					return reply(q, 200, `{"outcome":"applied"}`)
				}
				return resp, err
			})
		}},
		{name: mustFail, shows: different, sql: trigger("BEFORE INSERT ON stripe_identity.status_transitions", `
			NEW.error_code := 'wrong'; RETURN NEW;`)},
	}
}

// trigger is a function in a schema of its own, and its trigger.
func trigger(when, body string, deferred ...string) string {
	kind, how := "TRIGGER", ""
	if len(deferred) > 0 {
		kind, how = "CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED "
	}
	return `CREATE SCHEMA planted; CREATE FUNCTION planted.defect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + body + ` END $$;
		CREATE ` + kind + ` zz_defect ` + when + ` ` + how + `FOR EACH ROW EXECUTE FUNCTION planted.defect()`
}

type roadFunc func(*http.Request) (*http.Response, error)

func (f roadFunc) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// every hands each n-th delivery of something new to somebody else.
func every(n int64, next http.RoundTripper, other roadFunc) http.RoundTripper {
	var count atomic.Int64
	return roadFunc(func(q *http.Request) (*http.Response, error) {
		if count.Add(1)%n == 0 {
			return other(q)
		}
		return next.RoundTrip(q)
	})
}

// rewrite changes answers.
func rewrite(next http.RoundTripper, from, to string) http.RoundTripper {
	return roadFunc(func(q *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(q)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }() // another takes its place
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		return reply(q, resp.StatusCode, strings.Replace(string(text), from, to, 1))
	})
}

func reply(q *http.Request, status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: q}, nil
}

// eventID is the first id of a body.
func eventID(q *http.Request) string {
	body, err := q.GetBody()
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return ""
	}
	_, rest, _ := bytes.Cut(text, []byte(`"id": "`))
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(id)
}
