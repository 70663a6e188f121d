package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/scenario"
)

// noise is text that does not compress.
func noise(n int) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = digits[rng.IntN(len(digits))]
	}
	return string(b)
}

// hostile lists what somebody who may sign could say, as changes of a good
// event: the text of a field's value, or any text.
func hostile() map[string][2]string {
	long, deep := noise(5000), strings.Repeat(`[`, 10_000)+strings.Repeat(`]`, 10_000)
	shallow := strings.Repeat(`{"a":`, 60) + `1` + strings.Repeat(`}`, 60)
	const (
		tenant, report, status = `"acme"`, `"last_verification_report": null`, `"status": "requires_input"`
		reference, id, kind    = `"client_reference_id": "user-1"`, `"id": "evt_`, `"type": "identity.verification_session.requires_input"`
		customer, created      = `"related_customer": null`, `"created": 1`
		options, livemode      = `"options": {`, `"livemode": false`
		lastError, code        = `"last_error": {`, `"code": "abandoned"`
		object, request        = `"data": {`, `"request": {`
		redaction, sessionType = `"redaction": null`, `"type": "document"`
		session, version       = `"object": "identity.verification_session"`, `"api_version": "2026-10-28.endive"`
	)
	table := map[string][2]string{
		"NUL in metadata":               {tenant, `"a\u0000b"`},
		"NUL as a key":                  {`"tenant"`, `"\u0000"`},
		"NUL in the reference":          {reference, `"client_reference_id": "\u0000"`},
		"NUL in the code":               {code, `"code": "aban\u0000doned"`},
		"NUL in the event id":           {id, `"id": "evt_\u0000`},
		"NUL in the type":               {kind, `"type": "identity.verification_session.\u0000"`},
		"a lone surrogate":              {tenant, `"\ud800"`},
		"a lone low surrogate":          {reference, `"client_reference_id": "\udc00x"`},
		"a surrogate pair":              {tenant, `"\ud83d\ude00"`},
		"invalid UTF-8":                 {tenant, "\"\xff\xfe\""},
		"invalid UTF-8 in the status":   {status, "\"status\": \"\xc3\x28\""},
		"an overlong encoding":          {reference, "\"client_reference_id\": \"\xc0\x80\""},
		"10,000 levels":                 {tenant, deep},
		"10,000 levels around":          {options, `"deep": ` + deep + `, "options": {`},
		"60 levels":                     {tenant, shallow},
		"70 levels":                     {tenant, strings.Repeat(`[`, 70) + strings.Repeat(`]`, 70)},
		"a number beyond jsonb":         {tenant, `1e999999`},
		"a number with 200,000 digits":  {tenant, strings.Repeat("9", 200_000)},
		"a number beyond the column":    {created, `"created": 1000000000000000000, "was": 1`},
		"a time beyond the calendar":    {created, `"created": 9223372036854775807, "was": 1`},
		"the year 300000":               {created, `"created": 9400000000000, "was": 1`},
		"a negative time":               {created, `"created": -9223372036854775808, "was": 1`},
		"a time before Christ":          {created, `"created": -99999999999999, "was": 1`},
		"half a second":                 {created, `"created": 1.5, "was": 1`},
		"a time as text":                {created, `"created": "now", "was": 1`},
		"a status that is a number":     {status, `"status": 5`},
		"a status that is an object":    {status, `"status": {"a": [1]}`},
		"no status":                     {status, `"status": null`},
		"metadata that is text":         {`"metadata": {`, `"metadata": "x", "was": {`},
		"metadata that is a list":       {`"metadata": {`, `"metadata": [1], "was": {`},
		"an error that is text":         {lastError, `"last_error": "x", "was": {`},
		"a code that is a list":         {code, `"code": ["abandoned"]`},
		"a mode that is text":           {livemode, `"livemode": "yes"`},
		"no mode":                       {livemode, `"livemode": null`},
		"a report that is true":         {report, `"last_verification_report": true`},
		"an expanded report":            {report, `"last_verification_report": {"id": "vr_1", "document": {"number": 1}}`},
		"an event id of 5 KB":           {id, `"id": "evt_` + long},
		"a session id of 5 KB":          {session, session + `, "id": "vs_` + long + `"`},
		"an empty session id":           {session, session + `, "id": ""`},
		"a reference of 5 KB":           {reference, `"client_reference_id": "` + long + `"`},
		"a customer of 5 KB":            {customer, `"related_customer": "` + long + `"`},
		"a report id of 5 KB":           {report, `"last_verification_report": "` + long + `"`},
		"a status of 5 KB":              {status, `"status": "` + long + `"`},
		"a code of 5 KB":                {code, `"code": "` + long + `"`},
		"a session type of 5 KB":        {sessionType, `"type": "` + long + `"`},
		"a version of 5 KB":             {version, `"api_version": "` + long + `"`},
		"an account of 5 KB":            {version, `"account": "` + long + `"`},
		"a context of 5 KB":             {version, `"context": "` + long + `"`},
		"a request id of 5 KB":          {request, `"request": {"id": "` + long + `"}, "was": {`},
		"an event type of 5 KB":         {kind, `"type": "identity.verification_session.` + long + `"`},
		"an unknown redaction":          {redaction, `"redaction": {"status": "` + long + `"}`},
		"a redaction that is text":      {redaction, `"redaction": "redacted"`},
		"no data":                       {object, `"was": {`},
		"data that is null":             {object, `"data": null, "was": {`},
		"an unknown event type":         {kind, `"type": "identity.verification_session.expired"`},
		"a thin type, not a thin event": {kind, `"type": "v1.identity.verification_session.verified"`},
		"an unknown thin type":          {kind, `"type": "v1.identity.verification_session.expired"`},
		"doubled keys":                  {status, `"status": 7, "status": "verified"`},
		"two sessions in one event":     {object, `"data": {"object": {"id": "vs_1decoy", "status": 1}}, "data": {`},
		"a birthday of no calendar":     {status, status + `, "verified_outputs": {"dob": {"day": 31, "month": 2, "year": 99999999999}}`},
		"outputs that are a list":       {status, status + `, "verified_outputs": [1, 2]`},
		"an output that is 5 KB":        {status, status + `, "verified_outputs": {"first_name": "` + long + `", "id_number": "\u0000"}`},
		"20,000 keys":                   {tenant, `{"a` + strings.Join(strings.Fields(strings.Repeat(`":1,"a `, 20_000)), "") + `":1}`},
		"unknown everything":            {options, `"tomorrow": {"x": [{}]}, "options": {"retina": {"a": 0.5},`},
	}
	var pairs []string
	for i := range 50 {
		pairs = append(pairs, fmt.Sprintf(`"key%02d": "%s"`, i, noise(500)))
	}
	table["33 KB of metadata"] = [2]string{`"metadata": {`, `"metadata": {` + strings.Join(pairs, ",") + `}, "was": {`}
	return table
}

// TestNothingSignedGetsA5xxForWhatItContains delivers hostile events amid good
// ones of other clients, so that they share batches.
func TestNothingSignedGetsA5xxForWhatItContains(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := begin(t, database).ready()
	type delivery struct {
		name string
		body []byte
		good bool
	}
	var all []delivery
	source := scenario.New(1)
	for name, change := range hostile() {
		for range 2 {
			session := source.Session(scenario.SessionOptions{ClientReferenceID: "user-1"})
			session.Processing(time.Now())
			body := session.RequiresInput(time.Now(), "abandoned").Body
			changed := bytes.Replace(body, []byte(change[0]), []byte(change[1]), 1)
			if bytes.Equal(body, changed) {
				t.Fatalf("%s: no %s in\n%s", name, change[0], body)
			}
			all = append(all, delivery{name, changed, false})
			for _, e := range story(t, source, "retry", scenario.SessionOptions{}) {
				all = append(all, delivery{"a good event", e.Body, true})
			}
		}
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })

	work := make(chan delivery)
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for d := range work {
				switch a := s.deliver(d.body); {
				case a.Status != http.StatusOK:
					t.Errorf("%s: %d %s", d.name, a.Status, a.Body)
				case d.good && a.Outcome != "applied" && a.Outcome != "stale":
					t.Errorf("%s is %s", d.name, a.Outcome)
				}
			}
		})
	}
	for _, d := range all {
		work <- d
	}
	close(work)
	clients.Wait()

	conn := connect(t, database)
	var bodies [][]byte
	for _, d := range all {
		bodies = append(bodies, d.body)
		e, err := events.Parse(d.body)
		if err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		kept := valueOf[int](t, conn, `SELECT (SELECT count(*) FROM stripe_identity.events WHERE event_id = $1) +
			(SELECT count(*) FROM stripe_identity.quarantined_events WHERE event_id = $1)`, e.ID)
		if kept != 1 {
			t.Errorf("%s: kept %d times as %s", d.name, kept, e.ID)
		}
	}
	expectModel(t, database, bodies)
	for series, n := range s.metrics() {
		if n > 0 && (strings.HasPrefix(series, "webhookd_unavailable_total") || strings.Contains(series, `outcome="refused"`)) {
			t.Errorf("%s is %v", series, n)
		}
	}
}

func TestSignedBytesThatAreNoEventAreRefused(t *testing.T) {
	t.Parallel()
	s := begin(t, pgtest.Database(t))
	for _, body := range []string{
		"", " ", "null", "5", `"evt_1"`, "[]", "{}", `{"id":"evt_1"}`, `{"type":"x"}`, `{"id":1,"type":"x"}`, `{"id":"evt_1","type":{}}`,
		`{"id":"evt_1","type":"x"`, `{"id":"evt_1","type":"x"}{}`, `{"id":"evt_1","type":"x"}x`, "\xef\xbb\xbf" + `{"id":"evt_1","type":"x"}`,
		"\x00", strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000),
	} {
		if a := s.deliver([]byte(body)); a.Status != 400 || a.Code != "not_an_event" || !json.Valid([]byte(a.Body)) {
			t.Errorf("%.40q: %d %s", body, a.Status, a.Body)
		}
	}
}
