package repo

import (
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	commitDuration prometheus.Histogram
	commitEvents   prometheus.Histogram
	rejected       prometheus.Counter
	up             prometheus.Gauge
	schema         prometheus.Gauge
	required       prometheus.Gauge
	quarantined    prometheus.Gauge
	needRefresh    prometheus.Gauge
	thinPending    prometheus.Gauge
	outputsPending prometheus.Gauge
	outputsOldest  prometheus.Gauge
	lastComplete   prometheus.Gauge
	reconciled     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, pools []*pgxpool.Pool, waiting func() float64) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		commitDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "webhookd_commit_duration_seconds",
			Help:    "Time from BEGIN to the answer to COMMIT.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		commitEvents: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "webhookd_commit_events",
			Help:    "Events in one commit, and answers of the API or redactions.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "webhookd_rejected_batches_total",
			Help: "Batches that PostgreSQL refused because of one event, and that were split.",
		}),
		up:             gauge("webhookd_database_up", "1 if the database let us in and answered the last check."),
		schema:         gauge("webhookd_schema_version", "Version of the schema that was read last; 0 for none."),
		required:       gauge("webhookd_schema_required", "Version of the schema that this build needs."),
		quarantined:    gauge("webhookd_quarantined_events", "Events in quarantine that are not resolved; the same from every replica."),
		needRefresh:    gauge("webhookd_sessions_needing_refresh", "Sessions whose state the events leave open; the same from every replica."),
		outputsPending: gauge("webhookd_outputs_pending", "Verified sessions whose outputs were not fetched yet; the same from every replica."),
		outputsOldest:  gauge("webhookd_outputs_oldest_pending_seconds", "Since when the one that waits the longest is verified, of modes with a key if there is any; 0 if none waits."),
		lastComplete:   gauge("webhookd_reconcile_last_complete_timestamp_seconds", "When the last complete comparison with Stripe's API ended, unix; 0 for never; the same from every replica."),
		reconciled:     gauge("webhookd_reconciled_events", "Events that reconcile brought in the last 24 hours; the same from every replica."),
		thinPending:    gauge("webhookd_thin_events_pending", "Thin events whose content is not known yet; the same from every replica."),
	}
	if reg != nil {
		reg.MustRegister(m.commitDuration, m.commitEvents, m.rejected, m.up, m.schema, m.required,
			m.quarantined, m.needRefresh, m.thinPending, m.outputsPending, m.outputsOldest, m.lastComplete, m.reconciled, poolCollector{pools},
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "webhookd_queue_length", Help: "Events that wait for a committer, or for a session that somebody holds.",
			}, waiting))
	}
	return m
}

// poolCollector reads pgxpool's own statistics at each scrape, and adds them up.
type poolCollector struct{ pools []*pgxpool.Pool }

var (
	poolConnections = prometheus.NewDesc("webhookd_pool_connections", "Connections to the database by state.", []string{"state"}, nil)
	poolMax         = prometheus.NewDesc("webhookd_pool_max_connections", "Most connections to the database.", nil, nil)
	poolWaits       = prometheus.NewDesc("webhookd_pool_waits_total", "Times that somebody had to wait for a connection.", nil, nil)
	poolWaited      = prometheus.NewDesc("webhookd_pool_wait_seconds_total", "Time spent waiting for a connection.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolConnections, poolMax, poolWaits, poolWaited} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	var idle, acquired, connecting, most int32
	var waits int64
	var waited time.Duration
	for _, pool := range c.pools {
		s := pool.Stat()
		idle, acquired, connecting = idle+s.IdleConns(), acquired+s.AcquiredConns(), connecting+s.ConstructingConns()
		most, waits, waited = most+s.MaxConns(), waits+s.EmptyAcquireCount(), waited+s.EmptyAcquireWaitTime()
	}
	for state, n := range map[string]int32{"idle": idle, "acquired": acquired, "connecting": connecting} {
		ch <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(poolMax, prometheus.GaugeValue, float64(most))
	ch <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(waits))
	ch <- prometheus.MustNewConstMetric(poolWaited, prometheus.CounterValue, waited.Seconds())
}
