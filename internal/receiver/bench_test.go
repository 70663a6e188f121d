package receiver_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"

	"webhookd/internal/receiver"
)

// blank is a ResponseWriter that costs nothing.
type blank struct{ header http.Header }

func (b blank) Header() http.Header         { return b.header }
func (b blank) Write(p []byte) (int, error) { return len(p), nil }
func (b blank) WriteHeader(int)             {}

// BenchmarkDelivery is the receiver's own work, without net/http and a database.
func BenchmarkDelivery(b *testing.B) {
	body := fixture(b, "verified")
	for name, header := range map[string]http.Header{
		"applied":  signed(body),
		"no_match": signedBy(body, "whsec_other"),
	} {
		b.Run(name, func(b *testing.B) {
			svc := newService(b, nopStore, func(o *receiver.Options) { o.Log = zap.NewNop() })
			r := bytes.NewReader(body)
			q := httptest.NewRequest(http.MethodPost, path, r)
			q.Header, q.Body = header, io.NopCloser(r)
			w := blank{make(http.Header)}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = r.Seek(0, io.SeekStart)
				svc.ServeHTTP(w, q)
			}
		})
	}
}
