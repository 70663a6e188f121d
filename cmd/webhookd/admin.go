package main

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"webhookd/internal/repo"
	"webhookd/migrations"
)

// condition is what /readyz tells.
type condition struct {
	health   atomic.Pointer[repo.Health]
	draining atomic.Bool
}

// readiness is the body of /readyz.
type readiness struct {
	Ready          bool   `json:"ready"`
	Draining       bool   `json:"draining"`
	Database       string `json:"database"` // up, down, unknown
	Schema         int64  `json:"schema"`
	SchemaRequired int64  `json:"schema_required"`
	Problem        string `json:"problem,omitempty"`
}

// readiness is true while the listeners are open (this is asked through one of
// them), a sufficient schema was seen, and the service does not drain. A
// database that goes away later makes no replica unready: Stripe's retries are
// the better queue, and 503 tells it to use them.
func (c *condition) readiness() readiness {
	r := readiness{Draining: c.draining.Load(), Database: "unknown", SchemaRequired: migrations.Version()}
	h := c.health.Load()
	if h == nil {
		r.Problem = "the database was not looked at yet"
		return r
	}
	r.Schema, r.Ready = h.Schema, h.Ready && !r.Draining
	if r.Database = "down"; h.Up {
		r.Database = "up"
	}
	if h.Err != nil {
		r.Problem = h.Err.Error()
	}
	return r
}

func newAdminServer(reg *prometheus.Registry, state *condition, log *zap.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, ErrorLog: zap.NewStdLog(log)}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"live": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := state.readiness()
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, r)
	})
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: zap.NewStdLog(log),
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a prober that has gone asks again
}
