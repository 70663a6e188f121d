package receiver

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"webhookd/internal/events"
)

// The outcomes of deliveries that are not answered with 200.
const (
	refused     events.Outcome = "refused"
	unavailable events.Outcome = "unavailable"
)

// The codes of answers beside the reasons of package signature.
const (
	notAnEvent       = "not_an_event"
	bodyTooLarge     = "body_too_large"
	contentEncoding  = "content_encoding"
	bodyTooSlow      = "body_too_slow"
	headerTooLarge   = "header_too_large"
	methodNotAllowed = "method_not_allowed"
	notFound         = "not_found"

	database  = "database"
	queueFull = "queue_full"
	deadline  = "deadline"
	locked    = "locked"
	drained   = "draining"
)

// reasons lists why webhookd can be unavailable.
func reasons() []string { return []string{database, queueFull, deadline, locked, drained} }

// Header values are shared by all answers: net/http only reads them.
var (
	contentJSON     = []string{"application/json"}
	contentProblem  = []string{"application/problem+json"}
	closeConnection = []string{"close"}
)

// refusal is an answer other than 200.
type refusal struct {
	status     int
	retryAfter int    // seconds, for a 503
	detail     string // what to do; Stripe's dashboard shows it
	// closes ends the connection, because the rest of the request is not worth reading.
	closes bool

	retry []string // retryAfter as a header
	body  []byte
}

// refusals is the one table from a code to its answer.
func refusals() map[string]*refusal {
	table := map[string]*refusal{
		"missing_header": {status: 400, detail: "The request has no Stripe-Signature header. If Stripe sent it, " +
			"make the proxy in front of this endpoint pass the header on."},
		"malformed_header": {status: 400, detail: "The Stripe-Signature header is not of the form t=…,v1=…. " +
			"If Stripe sent it, make the proxy in front of this endpoint pass the header on unchanged."},
		"no_v1_signature": {status: 400, detail: "The Stripe-Signature header has no v1 signature, the only scheme that is accepted."},
		"no_match": {status: 400, detail: "No configured secret matches: is this the signing secret of this endpoint, and of this mode? " +
			"If it is, a proxy changes the body on its way."},
		"too_old": {status: 400, detail: "The signature is too old. If Stripe has just sent it, the clock of this server is fast; " +
			"to send an event again, use Stripe's dashboard or CLI, which sign it anew."},
		"too_new":    {status: 400, detail: "The signature lies in the future: the clock of this server is slow."},
		"wrong_mode": {status: 400, detail: "A live event was signed with a secret that is configured for test events only: configure the live endpoint's secret without test:."},
		notAnEvent:   {status: 400, detail: "The signature is right, but the body is no JSON object with the strings id and type: only Stripe's events belong here."},

		bodyTooSlow:     {status: 408, closes: true, detail: "The body did not arrive whole and in time. Nothing was recorded: send it again."},
		bodyTooLarge:    {status: 413, closes: true, detail: "The body is over this endpoint's limit. If Stripe sent it, raise the limit (WEBHOOKD_MAX_BODY_BYTES)."},
		contentEncoding: {status: 415, closes: true, detail: "The body is compressed or otherwise encoded: send it as it was signed, without Content-Encoding."},
		headerTooLarge: {status: 431, closes: true, detail: "The Stripe-Signature header is over 8 KiB, or all headers together are over 16 KiB. " +
			"If Stripe sent it, make the proxy in front of this endpoint add less."},

		methodNotAllowed: {status: 405, detail: "Only POST is answered here."},
		notFound:         {status: 404, detail: "There is nothing at this path: compare the endpoint's URL in Stripe with the configured path."},

		// An outage rarely ends within seconds.
		database: {status: 503, retryAfter: 15, detail: "The event could not be recorded, because the database is not at hand. Nothing is lost: Stripe sends it again."},
		// A queue empties within a second, or the deadline passes as well.
		queueFull: {status: 503, retryAfter: 1, detail: "More deliveries are waiting than this server takes. Nothing is lost: Stripe sends it again."},
		// Who asks at once would only wait as long again.
		deadline: {status: 503, retryAfter: 10, detail: "The event was not recorded in time. Nothing is lost: Stripe sends it again."},
		// Somebody's transaction holds a row; most are short.
		locked: {status: 503, retryAfter: 5, detail: "The session of this event is locked by somebody in the database. Nothing is lost: Stripe sends it again."},
		// Another replica takes the next connection.
		drained: {status: 503, retryAfter: 1, detail: "This server is shutting down. Nothing is lost: Stripe sends it again."},
	}
	for code, f := range table {
		f.render(code)
	}
	return table
}

// render makes the body; without a type, a problem's title is that of its status.
func (f *refusal) render(code string) {
	if f.retryAfter > 0 {
		f.retry = []string{strconv.Itoa(f.retryAfter)}
	}
	f.body, _ = json.Marshal(struct { // strings and a number always marshal
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Code   string `json:"code"`
	}{http.StatusText(f.status), f.status, f.detail, code})
}

func (f *refusal) outcome() events.Outcome {
	if f.status == http.StatusServiceUnavailable {
		return unavailable
	}
	return refused
}

func (f *refusal) write(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = contentProblem
	if f.retry != nil {
		h["Retry-After"] = f.retry
	}
	if f.closes {
		h["Connection"] = closeConnection
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(f.body) // a client that has gone is told at its next attempt
}

// appendAccepted appends the body of a 200.
func appendAccepted(b []byte, o events.Outcome, id string) []byte {
	b = append(b, `{"outcome":"`...)
	b = append(b, o...)
	b = append(b, `","event":`...)
	b, _ = jsontext.AppendQuote(b, id) // an event's strings are valid UTF-8
	return append(b, '}')
}
