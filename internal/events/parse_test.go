package events_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

func TestWhatPostgreSQLCannotHoldBecomesU_FFFDAndIsApplied(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sent, want string }{
		"NUL":                    {`a\u0000b`, "a\uFFFDb"},
		"a high surrogate alone": {`a\ud83db`, "a\uFFFDb"},
		"a low surrogate alone":  {`a\ude00b`, "a\uFFFDb"},
		"surrogates reversed":    {`a\ude00\ud83db`, "a\uFFFD\uFFFDb"},
		"a surrogate at the end": {`a\ud83d`, "a\uFFFD"},
		"a pair is a rune":       {`a\ud83d\ude00b`, "a😀b"},
		"a stray byte":           {"a\xffb", "a\uFFFDb"},
		"a surrogate in UTF-8":   {"a\xed\xa0\x80b", "a\uFFFD\uFFFD\uFFFDb"},
		"an overlong NUL":        {"a\xc0\x80b", "a\uFFFD\uFFFDb"},
		"a rune cut short":       {"a\xe2\x82", "a\uFFFD\uFFFD"},
		"NUL and a stray byte":   {"\\u0000\xff", "\uFFFD\uFFFD"},
		"other controls stay":    {`a\u0001\u001f\u007fb`, "a\x01\x1f\x7fb"},
		"other escapes are read": {`\u0061\/\"\\\n\t`, "a/\"\\\n\t"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := understood(t, envelope(`"type":"identity.verification_session.verified","api_version":"`+c.sent+`",`+
				`"x`+c.sent+`":["`+c.sent+`"],"data":{"object":{"id":"vs_1","client_reference_id":"`+c.sent+`",`+
				`"last_error":{"code":"`+c.sent+`","reason":"`+c.sent+`"},"metadata":{"k`+c.sent+`":"`+c.sent+`"},`+
				`"verified_outputs":{"first_name":"`+c.sent+`","x`+c.sent+`":"`+c.sent+`"}}}`))
			s := e.Session
			for field, got := range map[string]events.Text{
				"api_version": e.APIVersion, "client_reference_id": s.ClientReferenceID, "last_error.code": s.ErrorCode,
				"last_error.reason": s.ErrorReason, "verified_outputs.first_name": s.Outputs.FirstName,
			} {
				if got != some(c.want) {
					t.Errorf("%s is %+v, want %q", field, got, c.want)
				}
			}
			checkPayload(t, e.Payload)
			for what, got := range map[string][]byte{"metadata": s.Metadata, "extra": s.Outputs.Extra} {
				want := map[string]any{map[string]string{"metadata": "k", "extra": "x"}[what] + c.want: c.want}
				if diff := cmp.Diff(want, decode(t, got)); diff != "" {
					t.Errorf("%s differs (-want +got):\n%s", what, diff)
				}
			}
			if got := decode(t, e.Payload).(map[string]any)["x"+c.want]; !cmp.Equal(got, []any{c.want}) {
				t.Errorf("payload has %v, want %q", got, c.want)
			}
		})
	}
}

func TestNULInAnIdentifierIsReplacedToo(t *testing.T) {
	t.Parallel()
	e := understood(t, `{"id":"evt_\u0000","type":"identity.verification_session.verified","created":1,"data":{"object":{"id":"vs_\u0000"}}}`)
	if e.ID != "evt_\uFFFD" || e.SessionID != "vs_\uFFFD" || e.Session.ID != "vs_\uFFFD" {
		t.Errorf("ids %q, %q, %q", e.ID, e.SessionID, e.Session.ID)
	}
}

func TestOfDoubledKeysTheLastWins(t *testing.T) {
	t.Parallel()
	session := func(members string) string { return snapshot("verified", `{"id":"vs_1",`+members+`}`) }
	for name, c := range map[string]struct{ doubled, once string }{
		"event id":                {envelope(`"id":"evt_2","type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`), strings.Replace(snapshot("verified", `{"id":"vs_1"}`), "evt_1", "evt_2", 1)},
		"event id, wrong first":   {`{"id":5,` + snapshot("verified", `{"id":"vs_1"}`)[1:], snapshot("verified", `{"id":"vs_1"}`)},
		"type, foreign first":     {`{"type":"ping",` + snapshot("verified", `{"id":"vs_1"}`)[1:], snapshot("verified", `{"id":"vs_1"}`)},
		"type, wrong first":       {`{"type":{},` + snapshot("verified", `{"id":"vs_1"}`)[1:], snapshot("verified", `{"id":"vs_1"}`)},
		"created, text first":     {`{"created":"2023-11-14T22:13:20Z",` + snapshot("verified", `{"id":"vs_1"}`)[1:], snapshot("verified", `{"id":"vs_1"}`)},
		"livemode, wrong first":   {`{"livemode":"yes",` + snapshot("verified", `{"id":"vs_1"}`)[1:], snapshot("verified", `{"id":"vs_1"}`)},
		"livemode, then null":     {snapshot("verified", `{"id":"vs_1"},"livemode":true},"livemode":null,"x":{"y":1`), `{"id":"evt_1","created":1700000000,"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}}`},
		"request, then null":      {envelope(`"request":{"id":"req_1"},"request":null,"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`), snapshot("verified", `{"id":"vs_1"}`)},
		"request, wrong first":    {envelope(`"request":[],"request":null,"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`), snapshot("verified", `{"id":"vs_1"}`)},
		"request id":              {envelope(`"request":{"id":5,"id":"req_1"},"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`), envelope(`"request":{"id":"req_1"},"type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`)},
		"data":                    {`{"data":{"object":{"id":"vs_0","status":"canceled","redaction":{"status":"redacted"}}},` + session(`"type":"document"`)[1:], session(`"type":"document"`)},
		"data, wrong first":       {`{"data":5,` + session(`"type":"document"`)[1:], session(`"type":"document"`)},
		"data.object":             {snapshot("verified", `{"id":"vs_0","last_error":{"code":"abandoned"},"created":5,"livemode":false,"verified_outputs":{"dob":{"day":3},"x":1}},"object":{"id":"vs_1"}`), snapshot("verified", `{"id":"vs_1"}`)},
		"data.object, wrong":      {snapshot("verified", `"x","object":{"id":"vs_1"}`), snapshot("verified", `{"id":"vs_1"}`)},
		"session id":              {snapshot("verified", `{"id":[],"id":"vs_0","id":"vs_1"}`), snapshot("verified", `{"id":"vs_1"}`)},
		"status":                  {session(`"status":"canceled","status":5,"status":"verified"`), session(`"status":"verified"`)},
		"status, then null":       {session(`"status":"canceled","status":null`), session(`"status":null`)},
		"session created":         {session(`"created":"x","created":1e400,"created":5`), session(`"created":5`)},
		"session livemode":        {session(`"livemode":0,"livemode":true`), session(`"livemode":true`)},
		"last_error":              {session(`"last_error":{"code":"abandoned","reason":"x"},"last_error":{"code":"other"}`), session(`"last_error":{"code":"other"}`)},
		"last_error, wrong":       {session(`"last_error":5,"last_error":{"code":"other"}`), session(`"last_error":{"code":"other"}`)},
		"last_error, then null":   {session(`"last_error":{"code":5},"last_error":null`), session(`"last_error":null`)},
		"last_error.code":         {session(`"last_error":{"code":{},"code":"abandoned"}`), session(`"last_error":{"code":"abandoned"}`)},
		"report":                  {session(`"last_verification_report":{"id":"vr_0"},"last_verification_report":"vr_1"`), session(`"last_verification_report":"vr_1"`)},
		"report, wrong":           {session(`"last_verification_report":[5],"last_verification_report":{"id":5,"id":"vr_1"}`), session(`"last_verification_report":"vr_1"`)},
		"report, then null":       {session(`"last_verification_report":{"id":"vr_0"},"last_verification_report":null`), session(`"last_verification_report":null`)},
		"redaction, then null":    {session(`"redaction":{"status":"redacted"},"redaction":null`), session(`"redaction":null`)},
		"redaction.status":        {session(`"redaction":{"status":7,"status":"validated"}`), session(`"redaction":{"status":"validated"}`)},
		"related_person":          {session(`"related_person":{"person":"p","account":5},"related_person":{"person":"q"}`), session(`"related_person":{"person":"q"}`)},
		"metadata":                {session(`"metadata":{"a":"1"},"metadata":5,"metadata":{"b":"2"}`), session(`"metadata":{"b":"2"}`)},
		"metadata, then null":     {session(`"metadata":{"a":"1"},"metadata":null`), session(`"metadata":null`)},
		"options":                 {session(`"options":[],"options":{"b":2}`), session(`"options":{"b":2}`)},
		"outputs":                 {session(`"verified_outputs":{"email":"a","dob":{"day":9},"x":1},"verified_outputs":{"phone":"b"}`), session(`"verified_outputs":{"phone":"b"}`)},
		"outputs, wrong":          {session(`"verified_outputs":{"email":5,"address":5},"verified_outputs":{"phone":"b"}`), session(`"verified_outputs":{"phone":"b"}`)},
		"outputs, then null":      {session(`"verified_outputs":{"email":"a"},"verified_outputs":null`), session(`"verified_outputs":null`)},
		"output":                  {session(`"verified_outputs":{"email":5,"email":"a"}`), session(`"verified_outputs":{"email":"a"}`)},
		"address":                 {session(`"verified_outputs":{"address":{"line1":"a","x":1},"address":{"city":"b"}}`), session(`"verified_outputs":{"address":{"city":"b"}}`)},
		"address, wrong":          {session(`"verified_outputs":{"address":{"line1":5},"address":[],"address":{"city":"b"}}`), session(`"verified_outputs":{"address":{"city":"b"}}`)},
		"dob":                     {session(`"verified_outputs":{"dob":{"day":1,"month":2,"x":1},"dob":{"year":3}}`), session(`"verified_outputs":{"dob":{"year":3}}`)},
		"dob, wrong":              {session(`"verified_outputs":{"dob":{"day":"x"},"dob":{"year":3}}`), session(`"verified_outputs":{"dob":{"year":3}}`)},
		"output of tomorrow":      {session(`"verified_outputs":{"x":1,"y":2,"x":{"z":3}}`), session(`"verified_outputs":{"y":2,"x":{"z":3}}`)},
		"tomorrow, then null":     {session(`"verified_outputs":{"email":"a","x":1,"x":null}`), session(`"verified_outputs":{"email":"a"}`)},
		"tomorrow, then erased":   {session(`"verified_outputs":{"email":"a","x":1,"x":"[redacted]"}`), session(`"verified_outputs":{"email":"a"}`)},
		"details":                 {session(`"provided_details":{"email":5},"provided_details":{"phone":"1"}`), session(`"provided_details":{"phone":"1"}`)},
		"a key spelled by escape": {session(`"\u0073tatus":5,"sta\u0074us":"verified"`), session(`"status":"verified"`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, got := understood(t, c.once), understood(t, c.doubled)
			want.Payload, got.Payload = nil, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("event differs (-once +doubled):\n%s", diff)
			}
		})
	}
}

func TestUnknownValuesAndFieldsAreNormal(t *testing.T) {
	t.Parallel()
	e := understood(t, envelope(`"type":"identity.verification_session.verified","api_version":"2031-01-01.zebra","tomorrow":{"a":[1,null]},
		"data":{"previous_attributes":null,"object":{"id":"vs_1","type":"email","status":"paused","last_error":{"code":"quantum","x":1},
		"redaction":{"status":"frobnicated"},"verification_flow":"vf_1","tomorrow":[{"b":true}]}}`))
	s := e.Session
	for field, c := range map[string]struct {
		got  events.Text
		want string
	}{
		"api_version": {e.APIVersion, "2031-01-01.zebra"}, "type": {s.Type, "email"}, "status": {s.Status, "paused"},
		"code": {s.ErrorCode, "quantum"}, "redaction": {s.Redaction, "frobnicated"}, "flow": {s.VerificationFlow, "vf_1"},
	} {
		if c.got != some(c.want) {
			t.Errorf("%s is %+v, want %q", field, c.got, c.want)
		}
	}
	for _, part := range []string{`"tomorrow":{"a":[1,null]}`, `"tomorrow":[{"b":true}]`} {
		if !bytes.Contains(e.Payload, []byte(part)) {
			t.Errorf("payload lacks %s: %s", part, e.Payload)
		}
	}
}

func TestAbsentAndNullFieldsAreNormal(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"all absent": `{"id":"evt_1","type":"identity.verification_session.verified","created":1,"data":{"object":{"id":"vs_1"}}}`,
		"all null": `{"id":"evt_1","type":"identity.verification_session.verified","created":1,"account":null,"context":null,
			"api_version":null,"livemode":null,"request":null,"snapshot_event":null,"related_object":null,
			"data":{"object":{"id":"vs_1","created":null,"livemode":null,"type":null,"status":null,"last_error":null,
			"last_verification_report":null,"client_reference_id":null,"related_customer":null,"related_customer_account":null,
			"related_person":null,"verification_flow":null,"options":null,"metadata":null,"redaction":null,
			"verified_outputs":null,"provided_details":null,"client_secret":null,"url":null,"object":null}}}`,
		"null inside": `{"id":"evt_1","type":"identity.verification_session.verified","created":1,"request":{"id":null},
			"data":{"object":{"id":"vs_1","last_error":{"code":null,"reason":null},"related_person":{"person":null,"account":null},
			"redaction":{"status":null},"provided_details":{"email":null,"phone":null},"verified_outputs":{"address":null,"dob":null,
			"email":null,"first_name":null,"id_number":null,"sex":null}}}}`,
		"empty inside": `{"id":"evt_1","type":"identity.verification_session.verified","created":1,"request":{},
			"data":{"object":{"id":"vs_1","last_error":{},"last_verification_report":{},"related_person":{},"redaction":{},
			"provided_details":{},"verified_outputs":{"address":{},"dob":{}}}}}`,
		"null deeper": `{"id":"evt_1","type":"identity.verification_session.verified","created":1,
			"data":{"object":{"id":"vs_1","verified_outputs":{"address":{"city":null},"dob":{"day":null,"month":null,"year":null}}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := understood(t, body)
			if e.Livemode != events.ModeUnknown || !e.Session.Created.IsZero() || e.Session.Outputs != nil || e.Session.Details != nil ||
				e.Session.Options != nil || e.Session.Metadata != nil || e.Session.State() != (events.State{}) {
				t.Errorf("something was made of nothing: %+v", e)
			}
		})
	}
}

func TestAbsentNullRedactedAndPresentAreKeptApart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sent string
		want events.Text
	}{
		"absent": {``, absent}, "null": {`,"%s":null`, null}, "redacted": {`,"%s":"[redacted]"`, redacted},
		"redacted, escaped": {`,"%s":"\u005bredacted]"`, redacted}, "present": {`,"%s":"x"`, some("x")}, "empty": {`,"%s":""`, some("")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			field := func(name string) string { return strings.ReplaceAll(c.sent, "%s", name) }
			s := understood(t, snapshot("requires_input", `{"id":"vs_1"`+field("type")+field("status")+field("client_reference_id")+
				field("related_customer")+field("related_customer_account")+field("verification_flow")+field("last_verification_report")+
				`,"related_person":{"x":0`+field("person")+field("account")+`},"last_error":{"x":0`+field("code")+field("reason")+`},`+
				`"provided_details":{"phone":"1"`+field("email")+`},"verified_outputs":{"phone":"1"`+field("email")+field("sex")+
				`,"address":{"x":0`+field("city")+`}}}`)).Session
			for field, got := range map[string]events.Text{
				"type": s.Type, "status": s.Status, "client_reference_id": s.ClientReferenceID, "related_customer": s.RelatedCustomer,
				"related_customer_account": s.RelatedCustomerAccount, "verification_flow": s.VerificationFlow, "report": s.ReportID,
				"person": s.RelatedPerson, "account": s.RelatedPersonAccount, "code": s.ErrorCode, "reason": s.ErrorReason,
				"details.email": s.Details.Email, "outputs.email": s.Outputs.Email, "sex": s.Outputs.Sex, "city": s.Outputs.City,
			} {
				if got != c.want {
					t.Errorf("%s is %+v, want %+v", field, got, c.want)
				}
			}
		})
	}
}

func TestPlaceholdersAreNoData(t *testing.T) {
	t.Parallel()
	for name, outputs := range map[string]string{
		"a string for the whole":  `"[redacted]"`,
		"every text":              `{"first_name":"[redacted]","email":"[redacted]","address":{"city":"[redacted]"}}`,
		"a birthday of 1/1/1":     `{"dob":{"day":1,"month":1,"year":1}}`,
		"a string for an address": `{"address":"[redacted]","dob":"[redacted]"}`,
		"a string for a day":      `{"dob":{"day":"[redacted]","month":"[redacted]","year":"[redacted]"}}`,
		"a field of tomorrow":     `{"tomorrow":"[redacted]"}`,
		"escaped":                 `{"tomorrow":"\u005bredacted\u005D","email":"[red\u0061cted]"}`,
		"tomorrow, deep":          `{"tomorrow":{"a":["[redacted]"]},"dob":{"tomorrow":"[redacted]"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := understood(t, snapshot("verified", `{"id":"vs_1","verified_outputs":`+outputs+`,"provided_details":{"email":"[redacted]"},
				"metadata":"[redacted]","options":"[redacted]","last_error":"[redacted]","related_person":"[redacted]"}`))
			if s := e.Session; s.Outputs != nil || s.Details != nil || s.Metadata != nil || s.Options != nil {
				t.Errorf("a placeholder became data: %+v %+v", s.Outputs, s)
			}
		})
	}
}

func TestARealBirthdayNextToPlaceholdersStays(t *testing.T) {
	t.Parallel()
	for _, dob := range []string{`{"day":1,"month":1,"year":2001}`, `{"day":2,"month":1,"year":1}`, `{"day":1,"month":1,"year":null}`} {
		o := understood(t, snapshot("verified", `{"id":"vs_1","verified_outputs":{"dob":`+dob+`}}`)).Session.Outputs
		if o == nil || o.DobMonth == nil || *o.DobMonth != 1 {
			t.Errorf("%s became %+v", dob, o)
		}
	}
}

func TestDobIsADayOfTheCalendarOrNothing(t *testing.T) {
	t.Parallel()
	day := func(y, m, d int32) *events.Outputs {
		return &events.Outputs{DobYear: &y, DobMonth: &m, DobDay: &d}
	}
	for name, c := range map[string]struct {
		of   *events.Outputs
		want time.Time
	}{
		"leap day":          {day(1992, 2, 29), time.Date(1992, 2, 29, 0, 0, 0, 0, time.UTC)},
		"no leap year":      {day(1993, 2, 29), time.Time{}},
		"thirteenth month":  {day(1992, 13, 1), time.Time{}},
		"day zero":          {day(1992, 1, 0), time.Time{}},
		"year zero":         {day(0, 1, 1), time.Time{}},
		"year 10000":        {day(10000, 1, 1), time.Time{}},
		"a part is missing": {&events.Outputs{DobYear: new(int32(1992))}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := c.of.Dob()
			if (got == nil) != c.want.IsZero() || got != nil && !got.Equal(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestOutputsOfTomorrowAreKeptAsExtra(t *testing.T) {
	t.Parallel()
	e := understood(t, snapshot("verified", `{"id":"vs_1","verified_outputs":{"nationality":"FR","first_name":"A",
		"scores":{"face":[0.5,1e3],"dob":{"day":1}},"address":{"county":"Kent","city":"B"},"dob":{"calendar":"gregorian","day":3},"gone":null}}`))
	want := map[string]any{
		"nationality": "FR", "scores": map[string]any{"face": []any{0.5, 1e3}, "dob": map[string]any{"day": 1.0}},
		"address.county": "Kent", "dob.calendar": "gregorian",
	}
	if diff := cmp.Diff(want, decode(t, e.Session.Outputs.Extra)); diff != "" {
		t.Errorf("extra differs (-want +got):\n%s", diff)
	}
}

func TestMetadataAndOptionsAreKeptInTheSessionAndSanitisedInThePayload(t *testing.T) {
	t.Parallel()
	whole := `{"dob":"MARK","url":"MARK","deep":[{"id_number":"MARK","keep":1,"last_verification_report":{"x":"MARK"}}],"report":{"object":"identity.verification_report","x":"MARK"}}`
	e := understood(t, snapshot("verified", `{"id":"vs_1","metadata": `+whole+` ,"options":`+whole+`}`))
	// The names in metadata are the operator's own; in options they would be Stripe's.
	options := strings.Replace(whole, `"url":"MARK",`, "", 1)
	if string(e.Session.Metadata) != whole || string(e.Session.Options) != options {
		t.Errorf("metadata %s\noptions %s\nwant %s", e.Session.Metadata, e.Session.Options, whole)
	}
	checkPayload(t, e.Payload)
	if bytes.Contains(e.Payload, []byte("MARK")) || bytes.Count(e.Payload, []byte(`"keep":1`)) != 2 {
		t.Errorf("payload %s", e.Payload)
	}
}

func TestARedactionIsRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, redaction string
		want            events.Text
	}{
		"processing":                          {"verified", `{"status":"processing"}`, some("processing")},
		"redacted":                            {"verified", `{"status":"redacted"}`, some("redacted")},
		"validated":                           {"verified", `{"status":"validated"}`, some("validated")},
		"an unknown word":                     {"verified", `{"status":"frobnicated"}`, some("frobnicated")},
		"a redacted event without one":        {"redacted", `null`, some("redacted")},
		"a redacted event, status null":       {"redacted", `{"status":null}`, some("redacted")},
		"a redacted event, status empty":      {"redacted", `{"status":""}`, some("redacted")},
		"a redacted event with a word":        {"redacted", `{"status":"validated"}`, some("validated")},
		"a placeholder for the word":          {"verified", `{"status":"[redacted]"}`, some("redacted")},
		"a placeholder for the whole":         {"verified", `"[redacted]"`, some("redacted")},
		"none":                                {"verified", `null`, absent},
		"none, though the outputs are erased": {"verified", `null,"verified_outputs":{"email":"[redacted]"}`, absent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := understood(t, snapshot(c.kind, `{"id":"vs_1","redaction":`+c.redaction+`}`))
			if e.Session.Redaction != c.want {
				t.Errorf("redaction %+v, want %+v", e.Session.Redaction, c.want)
			}
		})
	}
}

func TestThinEvents(t *testing.T) {
	t.Parallel()
	thin := func(members string) string {
		return `{"id":"evt_1","type":"v1.identity.verification_session.verified",` + members + `}`
	}
	for name, c := range map[string]struct {
		body    string
		created time.Time
		fault   string
	}{
		"milliseconds":         {thin(`"created":"2026-09-30T10:11:12.345Z","related_object":{"id":"vs_1"}`), time.Date(2026, 9, 30, 10, 11, 12, 345e6, time.UTC), ""},
		"whole seconds":        {thin(`"created":"2026-09-30T10:11:12Z","related_object":{"id":"vs_1"}`), time.Date(2026, 9, 30, 10, 11, 12, 0, time.UTC), ""},
		"nanoseconds are cut":  {thin(`"created":"2026-09-30T10:11:12.123456789Z","related_object":{"id":"vs_1"}`), time.Date(2026, 9, 30, 10, 11, 12, 123456e3, time.UTC), ""},
		"another zone":         {thin(`"created":"2026-09-30T12:11:12+02:00","related_object":{"id":"vs_1"}`), time.Date(2026, 9, 30, 10, 11, 12, 0, time.UTC), ""},
		"with data":            {thin(`"created":"2026-09-30T10:11:12Z","related_object":{"id":"vs_1"},"data":{"object":{"id":"vs_0","status":5}}`), time.Date(2026, 9, 30, 10, 11, 12, 0, time.UTC), ""},
		"no related object":    {thin(`"created":"2026-09-30T10:11:12Z"`), time.Time{}, "no related_object.id"},
		"null related object":  {thin(`"created":"2026-09-30T10:11:12Z","related_object":null`), time.Time{}, "no related_object.id"},
		"wrong related object": {thin(`"created":"2026-09-30T10:11:12Z","related_object":"vs_1"`), time.Time{}, "related_object is no object"},
		"wrong id":             {thin(`"created":"2026-09-30T10:11:12Z","related_object":{"id":1}`), time.Time{}, "related_object.id is no string"},
		"empty id":             {thin(`"created":"2026-09-30T10:11:12Z","related_object":{"id":""}`), time.Time{}, "no related_object.id"},
		"long id":              {thin(`"created":"2026-09-30T10:11:12Z","related_object":{"id":"vs_` + strings.Repeat("1", 253) + `"}`), time.Time{}, "related_object.id is longer"},
		"wrong snapshot_event": {thin(`"created":"2026-09-30T10:11:12Z","related_object":{"id":"vs_1"},"snapshot_event":{}`), time.Time{}, "snapshot_event is no string"},
		"seconds":              {thin(`"created":1700000000,"related_object":{"id":"vs_1"}`), time.Time{}, "created is no RFC 3339 time"},
		"no time":              {thin(`"related_object":{"id":"vs_1"}`), time.Time{}, "created is no RFC 3339 time"},
		"nonsense":             {thin(`"created":"yesterday","related_object":{"id":"vs_1"}`), time.Time{}, "created is no RFC 3339 time"},
		"out of range":         {thin(`"created":"2026-13-30T10:11:12Z","related_object":{"id":"vs_1"}`), time.Time{}, "created is no RFC 3339 time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.fault != "" {
				broken(t, c.body, c.fault)
				return
			}
			e := parse(t, c.body)
			if e.Kind != events.Thin || e.Fault != "" || e.SessionID != "vs_1" || !e.Created.Equal(c.created) || e.Created.Location() != time.UTC {
				t.Errorf("got %+v, want created %v", e, c.created)
			}
		})
	}
}

func TestARequestCanBeAString(t *testing.T) {
	t.Parallel()
	e := understood(t, envelope(`"request":"req_old","type":"identity.verification_session.verified","data":{"object":{"id":"vs_1"}}`))
	if e.RequestID != some("req_old") {
		t.Errorf("request %+v", e.RequestID)
	}
}

func TestLivemodeIsTakenFromTheSessionWhereTheEnvelopeHasNone(t *testing.T) {
	t.Parallel()
	for session, want := range map[string]events.Mode{
		`{"id":"vs_1"}`: events.ModeUnknown, `{"id":"vs_1","livemode":null}`: events.ModeUnknown,
		`{"id":"vs_1","livemode":true}`: events.ModeLive, `{"id":"vs_1","livemode":false}`: events.ModeTest,
	} {
		e := understood(t, `{"id":"evt_1","created":1,"type":"identity.verification_session.verified","data":{"object":`+session+`}}`)
		if e.Livemode != want || e.Session.Livemode != want {
			t.Errorf("%s: livemode %d and %d, want %d", session, e.Livemode, e.Session.Livemode, want)
		}
	}
}

func TestWhatIsNoObjectWithTheStringsIdAndTypeIsNoEvent(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty":                "",
		"blank":                " \n",
		"null":                 "null",
		"a string":             `"evt_1"`,
		"an array":             `[{"id":"evt_1","type":"x"}]`,
		"an empty object":      "{}",
		"no id":                `{"type":"identity.verification_session.verified"}`,
		"no type":              `{"id":"evt_1"}`,
		"id null":              `{"id":null,"type":"x"}`,
		"id a number":          `{"id":1,"type":"x"}`,
		"type an object":       `{"id":"evt_1","type":{}}`,
		"type wrong at last":   `{"id":"evt_1","type":"x","type":5}`,
		"id in another case":   `{"ID":"evt_1","type":"x"}`,
		"cut short":            `{"id":"evt_1","type":"x"`,
		"a comma too many":     `{"id":"evt_1","type":"x",}`,
		"trailing garbage":     `{"id":"evt_1","type":"x"}x`,
		"two objects":          `{"id":"evt_1","type":"x"}{}`,
		"a byte order mark":    "\ufeff" + `{"id":"evt_1","type":"x"}`,
		"a raw control":        "{\"id\":\"evt_1\n\",\"type\":\"x\"}",
		"a bad escape":         `{"id":"evt_1","type":"\x"}`,
		"a bad number":         `{"id":"evt_1","type":"x","n":01}`,
		"an unquoted key":      `{id:"evt_1","type":"x"}`,
		"garbage, deep":        `{"id":"evt_1","type":"x","a":` + strings.Repeat("[", 100) + "!" + strings.Repeat("]", 100) + "}",
		"garbage after depth":  deep(100_000) + "x",
		"cut short, very deep": deep(100_000)[:150_000],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e, err := events.Parse([]byte(body)); !errors.Is(err, events.ErrNotAnEvent) || e != nil {
				t.Errorf("got %+v, %v, want ErrNotAnEvent", e, err)
			}
		})
	}
}

func TestAnyOtherSignedEventIsForeign(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"the least":              ` {"id":"evt_1","type":"x"} `,
		"empty strings":          `{"id":"","type":""}`,
		"placeholders":           `{"id":"[redacted]","type":"[redacted]"}`,
		"another object":         string(fixture(t, "stripe/event")),
		"a prefix of ours":       `{"id":"evt_1","type":"identity.verification_session"}`,
		"a report":               `{"id":"evt_1","type":"identity.verification_report.verified"}`,
		"wrong types everywhere": `{"id":"evt_1","type":"x","created":"x","livemode":5,"data":5,"account":[],"n":1e400000}`,
		"another case":           `{"id":"evt_1","type":"Identity.verification_session.verified"}`,
		"deep":                   strings.Replace(deep(100_000), "identity.", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e := parse(t, body); e.Kind != events.Foreign || e.Fault != "" || e.Payload != nil {
				t.Errorf("got %+v, want a foreign event", e)
			}
		})
	}
}

// deep is an event of ours that nests n deep.
func deep(n int) string {
	// The envelope, data and object are three.
	return snapshot("verified", `{"id":"vs_1","x":`+strings.Repeat("[", n-3)+strings.Repeat("]", n-3)+`}`)
}

func TestTheEventSharesNoMemoryWithTheBody(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"crafted/verified.expanded", "crafted/verified.expanded_report", "crafted/thin.v1.identity.verification_session.verified", "crafted/payment_intent.succeeded"} {
		body := fixture(t, name)
		body = bytes.Replace(body, []byte(`"first_name"`), []byte(`"tomorrow":"x","first_name"`), 1)
		want := parse(t, string(body))
		mutable := bytes.Clone(body)
		got, err := events.Parse(mutable)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(mutable, body) {
			t.Errorf("%s: Parse wrote to the body", name)
		}
		for i := range mutable {
			mutable[i] = '#'
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the event changed with the body:\n%s", name, diff)
		}
	}
}

func TestEventsShareNoMemoryWithOneAnother(t *testing.T) {
	t.Parallel()
	body := string(fixture(t, "crafted/verified.expanded"))
	other := strings.NewReplacer("Jenny", "Mario", "acme", "emca", "user_id", "id_user", "1CRAFTED", "2CRAFTED").Replace(body)
	first, want := parse(t, body), parse(t, body)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := events.Parse([]byte(other)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("a later event changed an earlier one:\n%s", diff)
	}
}
