package events_test

import (
	"encoding/json"
	"strings"
	"testing"

	"webhookd/internal/events"
)

// schema is a node of testdata/identity_schema.json.
type schema struct {
	Type  string
	Props map[string]schema
}

// wrongTypes are the values that a field of a type must not have.
var wrongTypes = map[string][]string{
	"string":  {`5`, `true`, `[]`, `["x"]`, `{}`},
	"integer": {`"5"`, `1.5`, `1e3`, `true`, `[]`, `{}`, `9223372036854775808`},
	"boolean": {`"true"`, `1`, `0`, `[]`, `{}`},
	"object":  {`5`, `"x"`, `""`, `true`, `[]`, `[{}]`},
	"map":     {`5`, `"x"`, `""`, `true`, `[]`, `[{}]`},
}

// unread are the fields whose types are nobody's business: dropped whatever
// they hold, kept whole whatever they hold, or replaced by an id.
var unread = []string{"client_secret", "url", "options.", "last_verification_report."}

func TestAKnownFieldOfAWrongTypeBreaksTheEvent(t *testing.T) {
	t.Parallel()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(fixture(t, "../identity_schema"), &all); err != nil {
		t.Fatal(err)
	}
	var session schema
	if err := json.Unmarshal(all["identity.verification_session"], &session); err != nil {
		t.Fatal(err)
	}
	checked := 0
	var walk func(path string, props map[string]schema)
	walk = func(path string, props map[string]schema) {
		for name, of := range props {
			field := path + name
			if hasPrefix(field, unread) {
				continue
			}
			values := wrongTypes[of.Type]
			if field == "last_verification_report" { // an id, or expanded
				values = []string{`5`, `true`, `[]`, `[{"id":"vr_1"}]`, `{"id":5}`}
			}
			if len(values) == 0 {
				t.Errorf("%s: no wrong values for type %q", field, of.Type)
			}
			for _, value := range values {
				checked++
				broken(t, snapshot("verified", nest(`"id":"vs_1"`, field, value)), field)
			}
			walk(field+".", of.Props)
		}
	}
	walk("", session.Props)
	if checked < 200 {
		t.Errorf("only %d values were tried", checked)
	}
}

func TestTheUnreadFieldsMayHaveAnyType(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"client_secret", "url", "options.document", "options.tomorrow", "metadata.a", "last_verification_report.document", "last_error.tomorrow", "tomorrow"} {
		for _, value := range []string{`5`, `"x"`, `true`, `null`, `[1]`, `{"a":{}}`} {
			understood(t, snapshot("verified", nest(`"id":"vs_1"`, field, value)))
		}
	}
}

func TestAWrongTypeInTheEnvelopeBreaksTheEvent(t *testing.T) {
	t.Parallel()
	for field, typ := range map[string]string{
		"account": "string", "context": "string", "api_version": "string", "snapshot_event": "string", "livemode": "boolean",
		"created": "integer", "data": "object", "data.object": "object", "related_object": "object", "request": "object", "request.id": "string",
	} {
		for _, value := range wrongTypes[typ] {
			if field == "request" && value[0] == '"' { // an id, of old API versions
				continue
			}
			valid := `"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}},`
			e := broken(t, envelope(valid+inner(nest(``, field, value))), field)
			if e.Created.IsZero() != (field == "created") {
				t.Errorf("%s %s: created %v", field, value, e.Created)
			}
		}
	}
}

func TestNumbersThatNoColumnHoldsBreakTheEvent(t *testing.T) {
	t.Parallel()
	digits := strings.Repeat("7", 5000)
	for _, number := range []string{"1e400000", "-1e400000", "1E+400000", "1e-400000", digits, "-" + digits, "0." + digits, "1e99999999999999999999"} {
		for _, place := range []string{"tomorrow", "metadata.a", "options.a", "verified_outputs.tomorrow", "verified_outputs.dob.tomorrow", "last_error.tomorrow", "url", "last_verification_report.x"} {
			e := broken(t, snapshot("verified", nest(`"id":"vs_1"`, place, number)), "number out of range")
			if e.SessionID != "vs_1" || e.Created.Unix() != second {
				t.Errorf("session %q, created %v", e.SessionID, e.Created)
			}
		}
		broken(t, envelope(`"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}},"x":[{"y":`+number+`}]`), "number out of range")
	}
}

func TestNumbersThatJsonbHoldsAreNormal(t *testing.T) {
	t.Parallel()
	for _, number := range []string{"0", "-0", "1e400", "1e-400", "-1.5E+300", strings.Repeat("7", 900)} {
		e := understood(t, snapshot("verified", nest(`"id":"vs_1"`, "tomorrow", number)))
		if !strings.Contains(string(e.Payload), `"tomorrow":`+number) {
			t.Errorf("payload lost %.40s: %.200s", number, e.Payload)
		}
	}
}

func TestATimeOutOfTheColumnsRangeBreaksTheEvent(t *testing.T) {
	t.Parallel()
	for _, unix := range []string{"9224318016000", "-210866803201", "9223372036854775807", "-9223372036854775808"} {
		e := broken(t, strings.Replace(snapshot("verified", `{"id":"vs_1"}`), "1700000000", unix, 1), "created is out of range")
		if !e.Created.IsZero() {
			t.Errorf("created %v", e.Created)
		}
		broken(t, snapshot("verified", `{"id":"vs_1","created":`+unix+`}`), "data.object.created is out of range")
	}
	for _, unix := range []string{"9224318015999", "-210866803200", "0", "-1"} {
		understood(t, strings.Replace(snapshot("verified", `{"id":"vs_1"}`), "1700000000", unix, 1))
		understood(t, snapshot("verified", `{"id":"vs_1","created":`+unix+`}`))
	}
}

func TestABirthdayThatIntegerCannotHoldBreaksTheEvent(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"day", "month", "year"} {
		for _, n := range []string{"2147483648", "-2147483649"} {
			broken(t, snapshot("verified", nest(`"id":"vs_1"`, "verified_outputs.dob."+part, n)), "verified_outputs.dob."+part)
		}
		for _, n := range []string{"2147483647", "-2147483648", "0", "99"} {
			understood(t, snapshot("verified", nest(`"id":"vs_1"`, "verified_outputs.dob."+part, n)))
		}
	}
}

func TestAnEventWithoutTimeOrSessionIsBroken(t *testing.T) {
	t.Parallel()
	const kind = `"type":"identity.verification_session.verified"`
	for name, c := range map[string]struct{ body, fault string }{
		"no created":            {`{"id":"evt_1",` + kind + `,"data":{"object":{"id":"vs_1"}}}`, "created is no number of seconds"},
		"created null":          {`{"id":"evt_1",` + kind + `,"created":null,"data":{"object":{"id":"vs_1"}}}`, "created is no number of seconds"},
		"created erased":        {`{"id":"evt_1",` + kind + `,"created":"[redacted]","data":{"object":{"id":"vs_1"}}}`, "created is no number of seconds"},
		"created as in thin":    {`{"id":"evt_1",` + kind + `,"created":"2026-09-30T10:11:12Z","data":{"object":{"id":"vs_1"}}}`, "created is no number of seconds"},
		"no data":               {envelope(kind), "no data.object.id"},
		"data null":             {envelope(kind + `,"data":null`), "no data.object.id"},
		"no object":             {envelope(kind + `,"data":{}`), "no data.object.id"},
		"object null":           {envelope(kind + `,"data":{"object":null}`), "no data.object.id"},
		"object erased":         {envelope(kind + `,"data":{"object":"[redacted]"}`), "no data.object.id"},
		"no session id":         {envelope(kind + `,"data":{"object":{}}`), "no data.object.id"},
		"session id null":       {envelope(kind + `,"data":{"object":{"id":null}}`), "no data.object.id"},
		"session id empty":      {envelope(kind + `,"data":{"object":{"id":""}}`), "no data.object.id"},
		"session id erased":     {envelope(kind + `,"data":{"object":{"id":"[redacted]"}}`), "no data.object.id"},
		"event id empty":        {envelope(kind + `,"id":"","data":{"object":{"id":"vs_1"}}`), "no id"},
		"event id erased":       {envelope(kind + `,"id":"[redacted]","data":{"object":{"id":"vs_1"}}`), "no id"},
		"a seventh type":        {snapshot("expired", `{"id":"vs_1"}`), "unknown event type"},
		"no type after the dot": {snapshot("", `{"id":"vs_1"}`), "unknown event type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken(t, c.body, c.fault)
		})
	}
}

func TestDepth(t *testing.T) {
	t.Parallel()
	for _, n := range []int{4, 10, 63, 64} {
		understood(t, deep(n))
	}
	for _, n := range []int{65, 66, 67, 100, 9_999, 10_000, 10_001, 100_000} {
		e := broken(t, deep(n), "nested deeper than 64")
		if e.ID != "evt_1" || e.SessionID != "vs_1" || e.Created.Unix() != second {
			t.Errorf("depth %d: %+v", n, e)
		}
	}
}

func TestDepthCountsWhereverItIs(t *testing.T) {
	t.Parallel()
	for place, above := range map[string]int{
		"tomorrow": 3, "url": 3, "verified_outputs": 3, "metadata.a": 4, "options.a.b": 5, "last_error.code": 4, "status": 3,
		"verified_outputs.tomorrow": 4, "verified_outputs.address.tomorrow": 5, "provided_details.tomorrow": 4,
		"last_verification_report.document": 4,
	} {
		for _, pair := range []string{"[]", `{}`} {
			nested := func(n int) string {
				if pair == "{}" {
					return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n)
				}
				return strings.Repeat("[", n) + "1" + strings.Repeat("]", n)
			}
			body := func(depth int) string {
				return snapshot("verified", nest(`"id":"vs_1"`, place, nested(depth-above)))
			}
			broken(t, body(65), "nested deeper than 64")
			broken(t, body(20_000), "nested deeper than 64")
			if e := parse(t, body(64)); strings.Contains(e.Fault, "nested") {
				t.Errorf("%s: depth 64 is %q", place, e.Fault)
			}
		}
	}
}

func TestBracketsInStringsAreNoDepth(t *testing.T) {
	t.Parallel()
	e := broken(t, strings.Replace(deep(20_000), `"x":`, `"status":"[[\"{{","]\\":"[","x":`, 1), "nested deeper")
	if payload := decode(t, e.Payload); payload.(map[string]any)["data"].(map[string]any)["object"].(map[string]any)["status"] != `[["{{` {
		t.Errorf("payload %.300s", e.Payload)
	}
}

func TestIdentifiersOver255BytesBreakTheEvent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 128)[:255] + "x" // 256 bytes, cut inside a rune
	fits := strings.Repeat("é", 127) + "x"
	for _, field := range []string{
		"id", "last_verification_report", "last_verification_report.id", "related_customer", "related_customer_account",
		"related_person.person", "related_person.account", "verification_flow",
	} {
		name := strings.TrimSuffix(field, ".id")
		broken(t, snapshot("verified", nest(`"id":"vs_1"`, field, `"`+strings.Repeat("x", 256)+`"`)), name)
		understood(t, snapshot("verified", nest(`"id":"vs_1"`, field, `"`+fits+`"`)))
	}
	for _, field := range []string{"account", "context", "request.id", "snapshot_event"} {
		body := func(id string) string {
			return envelope(`"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}},` + inner(nest(``, field, `"`+id+`"`)))
		}
		broken(t, body(strings.Repeat("x", 256)), field+" is longer than 255 bytes")
		broken(t, body(long), field+" is longer than 255 bytes")
		understood(t, body(fits))
	}
}

func TestALongIdentifierOfABrokenEventIsHashed(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("x", 256)
	// printf %256s | tr ' ' x | sha256sum
	const hash = "sha256:85e62acd750c4eb56b7b6a1d66dca5bfaac5f062608a1a893410d0288936c09a"
	for name, got := range map[string]string{
		"event":   broken(t, envelope(`"id":"`+id+`","type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`), "id is longer than 255 bytes").ID,
		"account": broken(t, envelope(`"account":"`+id+`","type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`), "account is longer").Account.Value,
		"foreign": parse(t, `{"id":"`+id+`","type":"x"}`).ID,
	} {
		if got != hash {
			t.Errorf("%s id is %s, want %s", name, got, hash)
		}
	}
	e := broken(t, snapshot("verified", `{"id":"vs_`+id+`"}`), "data.object.id is longer than 255 bytes")
	if e.SessionID != events.StoredID("vs_"+id) || !strings.HasPrefix(e.SessionID, "sha256:") {
		t.Errorf("session id %s", e.SessionID)
	}
	if got := events.StoredID(id[:255]); got != id[:255] {
		t.Errorf("an id of 255 bytes is stored as %s", got)
	}
}

func TestTextsOfAnyLengthAreUnderstood(t *testing.T) {
	t.Parallel()
	long := `"` + strings.Repeat("x", 5000) + `"`
	for _, field := range []string{"status", "type", "client_reference_id", "last_error.code", "last_error.reason", "redaction.status", "verified_outputs.first_name", "provided_details.email"} {
		understood(t, snapshot("verified", nest(`"id":"vs_1"`, field, long)))
	}
}

func TestABrokenEventFindsItsSession(t *testing.T) {
	t.Parallel()
	const kind = `"type":"identity.verification_session.verified",`
	for name, c := range map[string]struct{ body, want string }{
		"where it belongs":          {snapshot("verified", `{"status":5,"previous":"vs_0","id":"vs_1"}`), "vs_1"},
		"data is an array":          {envelope(kind + `"data":[{"object":{"id":"vs_1"}}]`), "vs_1"},
		"the object is an array":    {envelope(kind + `"data":{"object":["vs_1"]}`), "vs_1"},
		"the object is the id":      {envelope(kind + `"data":{"object":"vs_1"}`), "vs_1"},
		"the id has another name":   {envelope(kind + `"data":{"object":{"session":"vs_1"}}`), "vs_1"},
		"a related object":          {envelope(kind + `"related_object":{"id":"vs_1"}`), "vs_1"},
		"deep in what is unknown":   {envelope(kind + `"x":[[{"y":[1,"vs_1"]}]]`), "vs_1"},
		"in metadata":               {snapshot("verified", `{"metadata":{"a":"vs_1"}}`), "vs_1"},
		"the first of two":          {envelope(kind + `"x":["vs_1","vs_2"]`), "vs_1"},
		"of an unknown type":        {snapshot("paused", `{"id":"vs_1"}`), "vs_1"},
		"no id of a session":        {snapshot("verified", `{"id":"vr_1","status":5,"x":"vs_1"}`), "vs_1"},
		"nowhere":                   {envelope(kind + `"x":"vsx","y":"/vs_1","z":"vs_ 1","data":5`), ""},
		"not a client_secret":       {snapshot("verified", `{"client_secret":"vs_1_secret_x","x":"vs_1_secret_x","metadata":{"client_secret":"vs_1_secret_y"}}`), ""},
		"not what a person is told": {snapshot("verified", `{"verified_outputs":{"first_name":"vs_1","x":"vs_2"},"provided_details":{"email":"vs_3"},"dob":"vs_4","verified_outputs":"vs_5"}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e := broken(t, c.body, ""); e.SessionID != c.want {
				t.Errorf("session %q, want %q", e.SessionID, c.want)
			}
		})
	}
}

func TestABrokenEventHidesItsSessionWhenARedactionCanBeRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		want bool
	}{
		"none":                    {snapshot("verified", `{"id":"vs_1","status":5}`), false},
		"null":                    {snapshot("verified", `{"id":"vs_1","status":5,"redaction":null}`), false},
		"a redaction":             {snapshot("verified", `{"id":"vs_1","status":5,"redaction":{"status":"processing"}}`), true},
		"of a wrong type":         {snapshot("verified", `{"id":"vs_1","redaction":["redacted"]}`), true},
		"with a wrong status":     {snapshot("verified", `{"id":"vs_1","redaction":{"status":5}}`), true},
		"an erased one":           {snapshot("verified", `{"id":"vs_1","status":5,"redaction":"[redacted]"}`), true},
		"elsewhere":               {envelope(`"type":"identity.verification_session.verified","data":[{"object":{"redaction":{"status":"redacted"}}}]`), true},
		"of an unknown type":      {snapshot("paused", `{"id":"vs_1","redaction":{"status":"redacted"}}`), true},
		"a redacted event":        {snapshot("redacted", `{"id":"vs_1","status":5}`), true},
		"a thin redacted event":   {envelope(`"type":"v1.identity.verification_session.redacted","related_object":{"id":"vs_1"}`), true},
		"a thin event of another": {envelope(`"type":"v1.identity.verification_session.verified","related_object":{"id":"vs_1"}`), false},
		"in metadata it is none":  {snapshot("verified", `{"id":"vs_1","status":5,"metadata":{"redaction":"x"}}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e := broken(t, c.body, ""); e.Hides != c.want {
				t.Errorf("hides %t, want %t", e.Hides, c.want)
			}
		})
	}
}

func TestAnUnderstoodEventDoesNotHide(t *testing.T) {
	t.Parallel()
	if e := understood(t, snapshot("redacted", `{"id":"vs_1","redaction":{"status":"redacted"}}`)); e.Hides {
		t.Error("hides, though its redaction is understood")
	}
}
