package jobs

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// The results of a fetch of outputs.
const (
	fetchStored    = "stored"
	fetchPartial   = "partial"   // some of them: the key may not read the others
	fetchForbidden = "forbidden" // none: the key may not read them
	fetchNotFound  = "not_found"
	fetchRedacted  = "redacted"
	fetchRetried   = "retried" // Stripe could not, and is asked again
	fetchExpired   = "expired" // given up
)

type metrics struct {
	enabled *prometheus.GaugeVec
	fetches *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		enabled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "webhookd_outputs_enabled",
			Help: "1 if there is an API key for the mode.",
		}, []string{"livemode"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhookd_outputs_fetches_total",
			Help: "Fetches of verified outputs by what became of them.",
		}, []string{"result"}),
	}
	for _, result := range []string{
		fetchStored, fetchPartial, fetchForbidden, fetchNotFound, fetchRedacted, fetchRetried, fetchExpired,
	} {
		m.fetches.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.enabled, m.fetches)
	}
	return m
}

func (m *metrics) fetched(result string) { m.fetches.WithLabelValues(result).Inc() }

func (m *metrics) show(keyed func(live bool) bool) {
	for _, live := range []bool{false, true} {
		value := 0.0
		if keyed(live) {
			value = 1
		}
		m.enabled.WithLabelValues(strconv.FormatBool(live)).Set(value)
	}
}
