package receiver

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"webhookd/internal/events"
	"webhookd/internal/signature"
)

// typeUnknown is the event_type of what is not verified or not parsed.
const typeUnknown = "unknown"

// metrics holds what every delivery moves as made children, the rest as vectors.
type metrics struct {
	deliveries  map[events.Outcome]map[string]prometheus.Counter // by event type
	durations   map[events.Outcome]prometheus.Observer
	lag         map[string]prometheus.Observer // by event type
	signatures  map[string]prometheus.Counter  // by reason
	unavailable map[string]prometheus.Counter  // by reason
	decisions   map[string]prometheus.Observer // by event type
	matches     *prometheus.CounterVec         // by secret
	secrets     []string                       // whose series there are
	failures    *prometheus.CounterVec         // by code, type, livemode
	transitions *prometheus.CounterVec         // by status, livemode
	redactions  *prometheus.CounterVec         // by status
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const (
		minute = 60
		hour   = 60 * minute
		day    = 24 * hour
	)
	f := promauto.With(reg)
	deliveries := f.NewCounterVec(prometheus.CounterOpts{
		Name: "webhookd_deliveries_total",
		Help: "Deliveries by what became of them and the type of their event (other: signed, none of ours; unknown: not verified or not parsed).",
	}, []string{"outcome", "event_type"})
	durations := f.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "webhookd_delivery_duration_seconds",
		Help:    "Time from a delivery's headers to its answer.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"outcome"})
	lag := f.NewHistogramVec(prometheus.HistogramOpts{
		Name: "webhookd_event_lag_seconds",
		Help: "Time from an event's creation at Stripe, in whole seconds, to its commit.",
		// Fresh, late, retried; Stripe gives up after three days.
		Buckets: []float64{.5, 1, 2, 5, 10, 30, minute, 5 * minute, 30 * minute, hour, 6 * hour, day, 3 * day},
	}, []string{"event_type"})
	signatures := f.NewCounterVec(prometheus.CounterOpts{
		Name: "webhookd_signature_failures_total",
		Help: "Deliveries refused for their signature.",
	}, []string{"reason"})
	unavailables := f.NewCounterVec(prometheus.CounterOpts{
		Name: "webhookd_unavailable_total",
		Help: "Deliveries answered with 503, which Stripe sends again.",
	}, []string{"reason"})
	decisions := f.NewHistogramVec(prometheus.HistogramOpts{
		Name: "webhookd_time_to_decision_seconds",
		Help: "Time from a session's creation to an event that decides it.",
		// A person in front of a camera, one who comes back, a reviewer.
		Buckets: []float64{15, 30, minute, 2 * minute, 5 * minute, 10 * minute, 30 * minute, hour, 6 * hour, day, 3 * day, 7 * day, 28 * day},
	}, []string{"status"})

	m := &metrics{
		deliveries:  make(map[events.Outcome]map[string]prometheus.Counter),
		durations:   make(map[events.Outcome]prometheus.Observer),
		lag:         make(map[string]prometheus.Observer),
		signatures:  make(map[string]prometheus.Counter),
		unavailable: make(map[string]prometheus.Counter),
		decisions:   make(map[string]prometheus.Observer),
		matches: f.NewCounterVec(prometheus.CounterOpts{
			Name: "webhookd_signature_matches_total",
			Help: "Deliveries by the configured secret that signed them.",
		}, []string{"secret"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "webhookd_verification_failures_total",
			Help: "Recorded transitions of event type requires_input, without what reconcile brought.",
		}, []string{"code", "type", "livemode"}),
		transitions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "webhookd_status_transitions_total",
			Help: "Recorded transitions by the status that they tell, without what reconcile brought.",
		}, []string{"status", "livemode"}),
		redactions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "webhookd_redactions_total",
			Help: "Recorded transitions that tell a redaction, by its status.",
		}, []string{"status"}),
	}

	var types []string // of signed events
	for _, t := range events.Types() {
		types = append(types, t, events.ThinType(t))
	}
	types = append(types, events.LabelOther)
	for _, t := range types {
		m.lag[t] = lag.WithLabelValues(t)
	}
	for _, o := range []events.Outcome{
		events.Applied, events.Stale, events.Twin, events.Duplicate, events.Queued, events.Ignored, events.Quarantined,
		refused, unavailable,
	} {
		m.durations[o] = durations.WithLabelValues(string(o))
		m.deliveries[o] = make(map[string]prometheus.Counter)
		for _, t := range append(types, typeUnknown) {
			m.deliveries[o][t] = deliveries.WithLabelValues(string(o), t)
		}
	}
	for _, reason := range signature.Reasons() {
		m.signatures[reason] = signatures.WithLabelValues(reason)
	}
	for _, reason := range reasons() {
		m.unavailable[reason] = unavailables.WithLabelValues(reason)
	}
	for _, t := range []string{events.TypeVerified, events.TypeRequiresInput, events.TypeCanceled} {
		m.decisions[t] = decisions.WithLabelValues(t[strings.LastIndexByte(t, '.')+1:])
	}
	for _, live := range []string{events.ModeLive.Label(), events.ModeTest.Label()} {
		for _, code := range append(events.Codes(), events.LabelOther, events.LabelNone) {
			for _, t := range append(events.SessionTypes(), events.LabelOther) {
				m.failures.WithLabelValues(code, t, live)
			}
		}
		for _, status := range append(events.Statuses(), events.LabelOther) {
			m.transitions.WithLabelValues(status, live)
		}
	}
	for _, word := range append(events.RedactionWords(), events.LabelOther) {
		m.redactions.WithLabelValues(word)
	}
	return m
}

// delivery counts one delivery.
func (m *metrics) delivery(v *verdict) {
	t := typeUnknown
	if v.event != nil && v.outcome != refused {
		t = events.TypeLabel(v.event.Type)
	}
	m.deliveries[v.outcome][t].Inc()
	m.durations[v.outcome].Observe(v.took.Seconds())
	if c, ok := m.signatures[v.code]; ok {
		c.Inc()
	}
	if c, ok := m.unavailable[v.code]; ok {
		c.Inc()
	}
}

// told counts a transition that only Stripe's API told.
func (m *metrics) told(t *events.Step) {
	live := t.Livemode.Label()
	m.transitions.WithLabelValues(events.StatusLabel(events.Some(t.State.Status)), live).Inc()
	if t.Type == events.TypeRequiresInput {
		code := events.Text{}
		if t.State.ErrorCode != "" {
			code = events.Some(t.State.ErrorCode)
		}
		m.failures.WithLabelValues(events.CodeLabel(code), events.SessionTypeLabel(t.Session), live).Inc()
	}
	if t.State.Redaction != "" {
		m.redactions.WithLabelValues(events.RedactionLabel(t.State.Redaction)).Inc()
	}
}

// recorded counts what an event tells that was committed at now.
func (m *metrics) recorded(e *events.Event, o events.Outcome, now time.Time) {
	if e.Source == events.SourceReconcile {
		return // hours late by its nature: it has gauges of its own
	}
	if o != events.Duplicate && o != events.Ignored && !e.Created.IsZero() {
		m.lag[events.TypeLabel(e.Type)].Observe(max(0, now.Sub(e.Created).Seconds()))
	}
	if !o.Recorded() || e.Kind != events.Snapshot || e.Filled {
		return
	}

	s, live := &e.Session, e.Livemode.Label()
	m.transitions.WithLabelValues(events.StatusLabel(s.Status), live).Inc()
	if e.Type == events.TypeRequiresInput {
		m.failures.WithLabelValues(events.CodeLabel(s.ErrorCode), events.SessionTypeLabel(s.Type), live).Inc()
	}
	if d, ok := m.decisions[e.Type]; ok && !s.Created.IsZero() && !e.Created.Before(s.Created) {
		d.Observe(e.Created.Sub(s.Created).Seconds())
	}
	if s.Redaction.Has() {
		m.redactions.WithLabelValues(events.RedactionLabel(s.Redaction.Value)).Inc()
	}
}
