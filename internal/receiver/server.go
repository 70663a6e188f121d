package receiver

import (
	"log"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
)

// NewServer is the public server around h. What never becomes a request is
// answered by net/http or closed: headers that take longer than 5 s or 64 KiB.
// What has not arrived of a request after half of deliveryTimeout is not waited
// for. A request that takes longer than deliveryTimeout, by some seconds, is cut off.
// What net/http has to say is logged at warn, at most ten lines a second.
func NewServer(h http.Handler, deliveryTimeout time.Duration, logger *zap.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    64 << 10,
		// It also bounds how long net/http drains a body that nobody has read.
		ReadTimeout: deliveryTimeout / 2,
		// The handler answers at its deadline; a client that does not read holds nothing.
		WriteTimeout: deliveryTimeout + 5*time.Second,
		// Longer than the 60 s of most balancers: who closes first never loses a request.
		IdleTimeout: 2 * time.Minute,
		// OPTIONS * is another path as well.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(&serverLog{logger, newLimit(logger, "server")}, "", 0),
	}
}

// serverLog takes net/http's lines, a write each.
type serverLog struct {
	log   *zap.Logger
	limit *limit
}

func (s *serverLog) Write(p []byte) (int, error) {
	if s.limit.allow(time.Now()) {
		s.log.Warn("http server", zap.String("error", printable(strings.TrimSpace(string(p)), maxError)))
	}
	return len(p), nil
}
