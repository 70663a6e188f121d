package events_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

// mark stands for what must reach no row, log, metric or error.
const mark = "MARK-7f3a"

func TestWithheldIsWhatPayloadsLeaveOut(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(withheld, events.Withheld()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestSecretsAreInNoPlaceOfTheEvent(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]string{
		"as documented":       `"client_secret":"vs_1_secret_` + mark + `","url":"https://verify.stripe.com/` + mark + `"`,
		"the key escaped":     `"client\u005fsecret":"` + mark + `","\u0075rl":"` + mark + `","\u0063\u006c\u0069\u0065\u006e\u0074\u005f\u0073\u0065\u0063\u0072\u0065\u0074":"` + mark + `"`,
		"the key doubled":     `"url":"` + mark + `","url":null,"client_secret":null,"client_secret":"` + mark + `"`,
		"of another type":     `"client_secret":{"a":["` + mark + `"]},"url":["` + mark + `"]`,
		"deeper":              `"x":{"y":[[{"client_secret":"` + mark + `","url":{"z":"` + mark + `"}}]]}`,
		"in every object":     `"last_error":{"url":"` + mark + `"},"redaction":{"client_secret":"` + mark + `","status":null},"related_person":{"url":"` + mark + `"}`,
		"in outputs":          `"verified_outputs":{"email":"a","url":"` + mark + `","client_secret":"` + mark + `","x":{"url":"` + mark + `"},"dob":{"x":[{"client_secret":"` + mark + `"}]}}`,
		"in provided details": `"provided_details":{"email":"a","url":"` + mark + `","x":"` + mark + `"}`,
		"in a report":         `"last_verification_report":{"id":"vr_1","url":"` + mark + `","document":{"number":"` + mark + `"},"email":{"email":"` + mark + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unmarked(t, understood(t, snapshot("verified", `{"id":"vs_1",`+members+`}`)))
			unmarked(t, broken(t, snapshot("verified", `{"id":"vs_1","status":5,`+members+`}`), "status"))
			unmarked(t, broken(t, snapshot("paused", `{"id":[],`+members+`}`), "unknown"))
			unmarked(t, broken(t, snapshot("verified", `[[{`+members+`}]]`), "data.object is no object"))
			unmarked(t, broken(t, envelope(`"type":"v1.identity.verification_session.verified",`+members), ""))
			unmarked(t, parse(t, `{"id":"evt_1","type":"ping",`+members+`}`))
		})
	}
}

func TestOutputsAndDocumentsAreInNoPayloadAndNotInABrokenEvent(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]string{
		"outputs":                  `"verified_outputs":{"first_name":"` + mark + `","x":"` + mark + `","address":{"city":"` + mark + `","x":"` + mark + `"}}`,
		"outputs, escaped":         `"verified\u005foutputs":{"first_name":"` + mark + `"}`,
		"details":                  `"provided_details":{"email":"` + mark + `","x":"` + mark + `"}`,
		"outputs elsewhere":        `"x":[{"verified_outputs":{"a":"` + mark + `"},"provided_details":"` + mark + `"}]`,
		"what is read from papers": `"x":{"document":{"number":"` + mark + `"},"selfie":"` + mark + `","id_number":{"id_number":"` + mark + `"},"dob":["` + mark + `"]}`,
		"an expanded report":       `"last_verification_report":{"id":"vr_1","email":{"email":"` + mark + `"},"x":"` + mark + `"}`,
		"a report, without id":     `"last_verification_report":{"x":"` + mark + `"}`,
		"a report elsewhere":       `"x":{"last_verification_report":{"id":"vr_1","x":"` + mark + `"},"y":{"last_verification_report":[{"x":"` + mark + `"}]}}`,
		"a report by another name": `"x":{"phone":{"phone":"` + mark + `"},"object":"identity.verification_report"}`,
		"reports in a list":        `"x":[{"object":"\u0069dentity.verification_report","email":"` + mark + `","sub":{"a":1}}]`,
		"outputs in metadata":      `"metadata":{"dob":"` + mark + `"},"options":{"x":{"object":"identity.verification_report","y":"` + mark + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := understood(t, snapshot("verified", `{"id":"vs_1",`+members+`}`))
			checkPayload(t, e.Payload)
			if strings.Contains(string(e.Payload), mark) {
				t.Errorf("payload %s", e.Payload)
			}
			unmarked(t, broken(t, snapshot("verified", `{"id":"vs_1","status":5,`+members+`}`), "status"))
			if !strings.Contains(members, "metadata") {
				unmarked(t, broken(t, snapshot("verified", `[{`+members+`}]`), "data.object is no object"))
				unmarked(t, broken(t, envelope(`"type":"v1.identity.verification_session.verified",`+members), ""))
			}
		})
	}
	for _, wrong := range []string{`"` + mark + `"`, `["` + mark + `"]`, `[{"email":"` + mark + `"}]`} {
		for _, field := range []string{"verified_outputs", "provided_details"} {
			unmarked(t, broken(t, snapshot("verified", `{"id":"vs_1","`+field+`":`+wrong+`}`), field))
		}
	}
	unmarked(t, broken(t, snapshot("verified", `{"id":"vs_1","last_verification_report":[{"email":"`+mark+`"}]}`), "last_verification_report"))
	unmarked(t, broken(t, snapshot("verified", `{"id":"vs_1","verified_outputs":{"dob":{"day":"`+mark+`"},"email":{"a":"`+mark+`"}}}`), "verified_outputs"))
}

func TestAReportIsReducedToItsId(t *testing.T) {
	t.Parallel()
	e := understood(t, snapshot("verified", `{"id":"vs_1","last_verification_report":{"x":1,"id":"vr_\u0041\"","y":{"id":"vr_0"}},"z":1}`))
	if want := `{"object":{"id":"vs_1","last_verification_report":"vr_A\"","z":1}}`; !strings.Contains(string(e.Payload), want) {
		t.Errorf("payload %s, want %s in it", e.Payload, want)
	}
	if e.Session.ReportID != some(`vr_A"`) {
		t.Errorf("report %+v", e.Session.ReportID)
	}
}

func TestThePayloadIsTheBodyCompactedButForWhatIsWithheld(t *testing.T) {
	t.Parallel()
	e := understood(t, ` { "url" : 1 , "id":"evt_1",  "client_secret":2, "type" : "identity.verification_session.verified", "created":1,
		"a" : [ 1 , -2.50e+3, true,false , null, "<&>\u2028\u00e9\/" , {} , [] , {"url":1} , {"url":1,"b":2,"dob":3} ] , "url":{},
		"data":{"object":{"id":"vs_1","selfie":0,"metadata":{ "k" : " v " }},"dob":1},"document":[]}`)
	want := `{"id":"evt_1","type":"identity.verification_session.verified","created":1,` +
		`"a":[1,-2.50e+3,true,false,null,"<&>` + "\u2028é" + `/",{},[],{},{"b":2}],"data":{"object":{"id":"vs_1","metadata":{"k":" v "}}}}`
	if string(e.Payload) != want {
		t.Errorf("payload\n%s\nwant\n%s", e.Payload, want)
	}
}

func TestAFaultTellsNothingOfTheContent(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		snapshot("verified", `{"id":"vs_1","status":["`+mark+`"],"`+mark+`":5}`),
		snapshot(mark, `{"id":"vs_1"}`),
		snapshot("verified", `{"id":"vs_1","created":"`+mark+`"}`),
		envelope(`"type":"v1.identity.verification_session.verified","created":"` + mark + `","related_object":{"id":"vs_1"}`),
	} {
		if e := broken(t, body, ""); strings.Contains(e.Fault, mark) {
			t.Errorf("fault %q", e.Fault)
		}
	}
}

func unmarked(tb testing.TB, e *events.Event) {
	tb.Helper()
	texts(reflect.ValueOf(e), func(s string) {
		if strings.Contains(s, mark) {
			tb.Errorf("found the mark in %q", s)
		}
	})
}
