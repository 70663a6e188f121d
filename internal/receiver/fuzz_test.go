package receiver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"webhookd/internal/events"
)

// Neither what Stripe signed nor what a stranger sends is answered with a 5xx,
// and every answer is a whole one.
func FuzzDelivery(f *testing.F) {
	for _, name := range []string{"verified", "requires_input", "redacted", "thin", "foreign"} {
		body := fixture(f, name)
		f.Add(body, "", "")
		f.Add(body, signed(body).Get("Stripe-Signature"), "identity")
	}
	f.Add([]byte(`{"id":"evt_\ud800","type":"identity.verification_session.verified","data":[]}`), "", "")
	f.Add([]byte("{}"), "t=1,v1=", "gzip")
	svc := newService(f, answers(events.Applied))

	f.Fuzz(func(t *testing.T, body []byte, header, encoding string) {
		if header == "" { // most bodies are worth a look only when they are signed
			header = signed(body).Get("Stripe-Signature")
		}
		q := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
		q.Header = http.Header{"Stripe-Signature": {header}}
		if encoding != "" {
			q.Header["Content-Encoding"] = []string{encoding}
		}
		w := httptest.NewRecorder()
		svc.ServeHTTP(w, q)

		var got struct{ Outcome, Event, Code string }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("answer %q: %v", w.Body, err)
		}
		switch {
		case w.Code >= 500:
			t.Errorf("answer %d %s", w.Code, w.Body)
		case w.Code == 200 && (got.Outcome == "" || got.Code != ""), w.Code != 200 && got.Code == "":
			t.Errorf("answer %d %s is not whole", w.Code, w.Body)
		}
		svc.logs.TakeAll()
	})
}
