package events_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"webhookd/internal/events"
)

// second is a time that no test depends on.
const second = 1_700_000_000

func fixture(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "fixtures", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// snapshot is an event of one of the six types about a session, both as JSON.
func snapshot(kind, session string) string {
	return envelope(`"type":"identity.verification_session.` + kind + `","data":{"object":` + session + `}`)
}

// envelope is an event with further members, which come last and so win.
func envelope(members string) string {
	return `{"id":"evt_1","object":"event","created":1700000000,"livemode":true,` + members + `}`
}

func parse(tb testing.TB, body string) *events.Event {
	tb.Helper()
	e, err := events.Parse([]byte(body))
	if err != nil {
		tb.Fatalf("parse %.300s: %v", body, err)
	}
	return e
}

// understood is parse for what must not be quarantined.
func understood(tb testing.TB, body string) *events.Event {
	tb.Helper()
	e := parse(tb, body)
	if e.Kind != events.Snapshot || e.Fault != "" {
		tb.Fatalf("kind %d, fault %q, want a snapshot: %.300s", e.Kind, e.Fault, body)
	}
	return e
}

// broken is parse for what must be quarantined for a fault that has these words.
func broken(tb testing.TB, body, fault string) *events.Event {
	tb.Helper()
	e := parse(tb, body)
	if e.Kind != events.Broken || !strings.Contains(e.Fault, fault) {
		tb.Fatalf("kind %d, fault %q, want a broken event with fault %q: %.300s", e.Kind, e.Fault, fault, body)
	}
	if !reflect.ValueOf(e.Session).IsZero() {
		tb.Errorf("a broken event has a session: %+v", e.Session)
	}
	checkPayload(tb, e.Payload)
	return e
}

// withheld are the names that the contract bans from every payload.
var withheld = []string{
	"client_secret", "url", "verified_outputs", "provided_details", "document", "selfie", "id_number", "dob",
}

// checkPayload holds a payload to what a jsonb column takes and may hold.
func checkPayload(tb testing.TB, payload []byte) {
	tb.Helper()
	if !json.Valid(payload) {
		tb.Fatalf("payload is no JSON: %.300s", payload)
	}
	dec := json.NewDecoder(strings.NewReader(string(payload)))
	dec.UseNumber()
	checkValue(tb, dec, 0)
}

// checkValue reads token by token: a map would hide the first of doubled keys.
func checkValue(tb testing.TB, dec *json.Decoder, depth int) {
	tb.Helper()
	if depth > events.MaxDepth {
		tb.Fatalf("payload nests deeper than %d", events.MaxDepth)
	}
	token := next(tb, dec)
	if token != json.Delim('{') && token != json.Delim('[') {
		return
	}
	for dec.More() {
		if token == json.Delim('{') {
			name := next(tb, dec).(string)
			if slices.Contains(withheld, name) {
				tb.Errorf("payload has %q", name)
			}
		}
		checkValue(tb, dec, depth+1)
	}
	next(tb, dec)
}

func next(tb testing.TB, dec *json.Decoder) json.Token {
	tb.Helper()
	token, err := dec.Token()
	if err != nil {
		tb.Fatalf("payload: %v", err)
	}
	switch v := token.(type) {
	case string:
		if strings.Contains(v, "\x00") {
			tb.Errorf("payload has NUL in %q", v)
		}
	case json.Number:
		if len(v) > 1000 {
			tb.Errorf("payload has a number of %d digits", len(v))
		}
	}
	return token
}

// texts calls f with every string and byte slice in a value, whatever holds it.
func texts(v reflect.Value, f func(string)) {
	switch v.Kind() {
	case reflect.String:
		f(v.String())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			texts(v.Elem(), f)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			texts(field, f)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			f(string(v.Bytes()))
			return
		}
		for i := range v.Len() {
			texts(v.Index(i), f)
		}
	}
}

func decode(tb testing.TB, b []byte) any {
	tb.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		tb.Fatalf("decode %.300q: %v", b, err)
	}
	return v
}

// nest is an object with the given members and, last, a value at a dotted path.
func nest(members, path, value string) string {
	name, rest, deeper := strings.Cut(path, ".")
	if deeper {
		value = nest("", rest, value)
	}
	if members != "" {
		members += ","
	}
	return "{" + members + `"` + name + `":` + value + "}"
}

// inner is an object without its braces.
func inner(object string) string { return object[1 : len(object)-1] }

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
