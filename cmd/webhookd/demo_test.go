package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"webhookd/internal/stripeapi/stripefake"
)

// The greeting promises something in quarantine and reconcile something lost,
// whatever is drawn.
func TestADemoSoonTellsWhatNobodyUnderstandsAndLosesOne(t *testing.T) {
	t.Parallel()
	told := make(chan []byte, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		told <- body
	}))
	defer server.Close()
	for seed := range uint64(30) {
		d, err := newDemo(target{URL: server.URL, Secret: whsec}, &demoStripe{Fake: stripefake.InMemory()}, seed)
		if err != nil {
			t.Fatal(err)
		}
		for d.sent < 80 {
			s := d.begin("abandoned", "abandoned")
			for len(s.what) > 0 && d.sent < 80 {
				if err := d.step(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				var said []byte
				for len(told) > 0 {
					said = append(said, <-told...)
				}
				if d.sent == 40 && !bytes.Contains(said, []byte("of_tomorrow")) || d.sent == 80 && said != nil {
					t.Errorf("seed %d: step %d says\n%s", seed, d.sent, said)
				}
			}
		}
	}
}
