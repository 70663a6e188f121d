package main

import "strings"

const (
	green, yellow, orange, red, blue, purple, gray = "green", "yellow", "orange", "red", "blue", "purple", "text"

	minute, hour = 60.0, 3600.0
)

// prometheus is whatever the variable says.
func prometheus() source { return source{"prometheus", "${datasource}"} }

// q fills in what every selector has: SEL the job and namespace, LIVE the
// mode too, and RATE Grafana's interval.
func q(expr string) string {
	return strings.NewReplacer(
		"LIVE", `job=~"$job",namespace=~"$namespace",livemode=~"$livemode"`,
		"SEL", `job=~"$job",namespace=~"$namespace"`,
		"RATE", "$__rate_interval",
	).Replace(expr)
}

func mainDashboard() dashboard {
	from := prometheus()
	d := dashboard{
		UID: "webhookd", Title: "webhookd", Tags: []string{"webhookd"}, SchemaVersion: 41, Version: 1,
		Editable: true, GraphTooltip: 1, Refresh: "30s", Timezone: "browser",
		Description: "Stripe Identity's webhooks: are users failing, or are we; since when; why; what to do.",
	}
	d.Time.From, d.Time.To = "now-6h", "now"
	d.Links = []link{
		page("Runbook", "doc", "runbook.md", "What to do"),
		page("Alerts", "bell", "alerts/README.md", "A page for each"),
		board("Sessions and reasons in PostgreSQL", "webhookd-postgres", "Which sessions failed"),
	}
	d.Annotations.List = []annotation{{
		Name: "Alerts that page", Datasource: from, Enable: true, IconColor: red, Step: "60s",
		Expr: q(`ALERTS{alertstate="firing",severity="page",alertname=~"Webhookd.+"}`), TitleFmt: "{{alertname}}", TextFmt: "{{job}} {{namespace}}",
	}}
	d.Templating.List = []variable{
		{Name: "datasource", Label: "Prometheus", Type: "datasource", Query: "prometheus"},
		labels(from, "job", "Job", "label_values(webhookd_build_info, job)", false),
		labels(from, "namespace", "Namespace", `label_values(webhookd_build_info{job=~"$job"}, namespace)`, false),
		{
			Name: "livemode", Label: "Mode", Type: "custom", Query: "Live : true, Test : false", IncludeAll: true, AllValue: ".*",
			Description: "Of what is counted by mode: failures and statuses.", Current: &option{Text: "All", Value: "$__all", Selected: true},
			Options: []option{{"All", "$__all", true}, {"Live", "true", false}, {"Test", "false", false}},
		},
		labels(from, "code", "Code", "label_values(webhookd_verification_failures_total, code)", true),
		{
			Name: "docs", Type: "constant", Hide: 2, Description: "Where the runbook is.", SkipURLSync: true,
			Query: "https://github.com/webhookd/webhookd/blob/main/docs",
		},
	}
	d.strip(from)
	d.users(from)
	d.service(from)
	d.completeness(from)
	return d
}

func labels(from source, name, label, query string, multi bool) variable {
	return variable{
		Name: name, Label: label, Type: "query", Datasource: &from,
		Query:   map[string]any{"query": query, "refId": "StandardVariableQuery", "qryType": 1},
		Refresh: 2, Sort: 1, IncludeAll: true, AllValue: ".*", Multi: multi,
		Current: &option{Text: "All", Value: "$__all", Selected: true},
	}
}

// strip answers in a glance whether it is us or the users.
func (d *dashboard) strip(from source) {
	d.line(4,
		number(from, "Database", "none", "Whether PostgreSQL answers every replica. While it does not, each delivery gets 503, and Stripe sends it again.\n\n`webhookd doctor`").
			query(q(`min(webhookd_database_up{SEL})`), "database").
			say(map[string]result{"0": {"DOWN", red, 0}, "1": {"up", green, 1}}).limits(red, 1.0, green).
			runbook("Database down", "runbook.md#database-down").wide(2),
		number(from, "503, last hour", "short", "Signed deliveries that were not acknowledged in the last hour. Stripe sends them again.\n\n`webhookd doctor`").
			query(q(`sum(increase(webhookd_deliveries_total{SEL,outcome="unavailable",event_type!="unknown"}[1h]))`), "503").
			whole().limits(green, 0.5, orange, 5.0, red).runbook("Not acknowledged", "alerts/WebhookdEventsNotAcknowledged.md#mitigation").wide(3),
		number(from, "200, last hour", "short", "Deliveries answered with 200 in the last hour. Few are normal where few people verify; zero where many are usual is not.\n\n`webhookd doctor`").
			query(q(`sum(increase(webhookd_deliveries_total{SEL,outcome!~"unavailable|refused"}[1h]))`), "acknowledged").
			whole().limits(blue).runbook("Silence", "alerts/WebhookdSilence.md#mitigation").wide(3),
		number(from, "Refused, last hour", "short", "Deliveries refused for their signature in the last hour. Some are strangers. Many, and none acknowledged, is a wrong secret.\n\n`webhookd verify`").
			query(q(`sum(increase(webhookd_signature_failures_total{SEL}[1h]))`), "refused").
			whole().limits(blue, 5.0, yellow).runbook("Signatures refused", "alerts/WebhookdSignaturesRefused.md#mitigation").wide(3),
		number(from, "Quarantine", "short", "Signed events that were not understood, and wait.\n\n`webhookd quarantine list`").
			query(q(`max(webhookd_quarantined_events{SEL})`), "events").
			limits(green, 1.0, orange).runbook("Quarantine", "alerts/WebhookdQuarantine.md#mitigation").wide(2),
		number(from, "Oldest data to fetch", "s", "How long the longest waiting verified user has waited for their data. At 48 hours Stripe no longer shows the sensitive ones.\n\n`webhookd doctor`").
			query(q(`max(webhookd_outputs_oldest_pending_seconds{SEL})`), "oldest").
			limits(green, 12*hour, orange, 36*hour, red).runbook("Data are late", "alerts/WebhookdOutputsLate.md#mitigation").wide(3),
		number(from, "Verified, last day", "percentunit", "Of the checks that were decided in the last day, the share that passed.\n\nPeople fail for their own reasons: compare with the week before, below.").
			query(q(`sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1d])) / (sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1d])) + sum(increase(webhookd_verification_failures_total{LIVE}[1d])) > 0)`), "verified").
			whole().limits(blue).runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(3),
		number(from, "Top reason, last hour", "none", "The error code with most failures in the last hour.\n\nWhich sessions: the dashboard of PostgreSQL, or `webhookd session ID`").
			query(q(`topk(1, sum by (code) (increase(webhookd_verification_failures_total{LIVE}[1h])) > 0)`), "{{code}}").
			named().limits(blue).runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(5),
	)
	alerts := list(from, "Firing alerts", "none", "What fires, whom it is about, and since when. Empty is good. Needs deploy/prometheus/rules.yaml in this Prometheus.\n\nThe name links to its page: meaning, impact, the first three commands, mitigation.").
		query(`(time() - ALERTS_FOR_STATE{alertname=~"Webhookd.+"}) and ignoring (alertstate) ALERTS{alertname=~"Webhookd.+",alertstate="firing"}`, "").
		columns([]string{"instance"},
			"alertname", "Alert", "severity", "Severity", "about", "About", "Value", "For", "job", "Job", "namespace", "Namespace", "livemode", "Mode", "code", "Code", "secret", "Secret").
		series("For", property{"unit", "s"}).
		series("Alert", property{"links", []dataLink{{Title: "What to do", URL: "${docs}/alerts/${__value.raw}.md", TargetBlank: true}}}).
		series("Severity", property{"mappings", []mapping{{"value", map[string]result{
			"page": {"page", red, 0}, "ticket": {"ticket", orange, 1}, "info": {"info", blue, 2},
		}}}}, property{"custom.cellOptions", map[string]any{"type": "color-background"}}).
		runbook("All alerts", "alerts/README.md").wide(12)
	alerts.FieldConfig.Defaults.NoValue = "nothing fires"
	d.line(7, alerts,
		graph(from, "Users failing, or we", "percentunit", "Of the checks decided in an hour, the share that failed (users); of the signed deliveries in an hour, the share that got 503 (we). The dashed line is the users' share a week before.\n\nUsers up, we at zero: look at *Are users verified?* We up: look at *Are we healthy?*").
			query(q(`sum(increase(webhookd_verification_failures_total{LIVE}[1h])) / (sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h])) + sum(increase(webhookd_verification_failures_total{LIVE}[1h])) > 0)`), "users").
			query(q(`sum(increase(webhookd_verification_failures_total{LIVE}[1h] offset 1w)) / (sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h] offset 1w)) + sum(increase(webhookd_verification_failures_total{LIVE}[1h] offset 1w)) > 0)`), "users, a week before").
			query(q(`sum(increase(webhookd_deliveries_total{SEL,outcome="unavailable",event_type!="unknown"}[1h])) / (sum(increase(webhookd_deliveries_total{SEL,outcome!="refused",event_type!="unknown"}[1h])) > 0)`), "we").
			bounds(0, 1).paint("users", blue, "we", red).series("users, a week before", colored(blue), dashed(), property{"custom.fillOpacity", 0}).
			runbook("Runbook", "runbook.md").wide(12),
	)
}

// users shows what becomes of people.
func (d *dashboard) users(from source) {
	d.row("Are users verified?")
	d.line(9,
		graph(from, "Failures by error code", "short", "Failed checks per hour, by Stripe's last_error.code. `none`: Stripe gave no code; `other`: one that this version does not know.\n\nWhich sessions: `webhookd session ID`, or the dashboard of PostgreSQL.").
			query(q(`3600 * sum by (code) (rate(webhookd_verification_failures_total{LIVE,code=~"$code"}[RATE])) > 0`), "{{code}}").
			bars().every("5m").beside("max").runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(12),
		graph(from, "Failures by error code, as a share", "percentunit", "Of all checks decided in an hour, the share that failed with each code. A code that grows here grows faster than the number of people.").
			query(q(`sum by (code) (increase(webhookd_verification_failures_total{LIVE,code=~"$code"}[1h])) / on () group_left () (sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h])) + sum(increase(webhookd_verification_failures_total{LIVE}[1h])) > 0) > 0`), "{{code}}").
			bars().every("5m").beside("lastNotNull").runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(12),
	)
	d.line(9,
		list(from, "Top reasons, now and a week ago", "short", "Failures by code in the last day, and in the same day a week ago.\n\nExact numbers: the view `failure_reasons_hourly`.").
			query(q(`sum by (code) (increase(webhookd_verification_failures_total{LIVE,code=~"$code"}[1d])) > 0`), "").
			query(q(`sum by (code) (increase(webhookd_verification_failures_total{LIVE,code=~"$code"}[1d] offset 1w)) > 0`), "").
			columns(nil, "code", "Code", "Value #A", "Last day", "Value #B", "A week ago").
			whole().sorted("Last day").
			series("Last day", property{"custom.cellOptions", map[string]any{"type": "gauge", "mode": "basic"}}, property{"color", color{Mode: "continuous-BlYlRd"}}, property{"min", 0}).
			runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(8),
		graph(from, "Verified", "percentunit", "Of the checks decided in an hour, the share that passed; dashed, a week before. A redaction of a verified session counts as verified once more. Where few people verify, one of them moves it much.").
			query(q(`sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h])) / (sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h])) + sum(increase(webhookd_verification_failures_total{LIVE}[1h])) > 0)`), "verified").
			query(q(`sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h] offset 1w)) / (sum(increase(webhookd_status_transitions_total{LIVE,status="verified"}[1h] offset 1w)) + sum(increase(webhookd_verification_failures_total{LIVE}[1h] offset 1w)) > 0)`), "a week before").
			bounds(0, 1).paint("verified", green).series("a week before", colored(green), dashed(), property{"custom.fillOpacity", 0}).
			runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(8),
		graph(from, "Statuses", "short", "Recorded steps of sessions per hour, by the status that they tell. Processing without verified or requires_input after it: Stripe takes its time.").
			query(q(`3600 * sum by (status) (rate(webhookd_status_transitions_total{LIVE}[RATE]))`), "{{status}}").
			from0().every("5m").paint("verified", green, "requires_input", orange, "processing", blue, "canceled", gray, "other", purple).
			runbook("Runbook", "runbook.md").wide(8),
	)
	d.line(8,
		graph(from, "Time to decision", "s", "From a session's creation to the event that decides it, of the decisions of an hour: the median, and what nine in ten stay under. People's time in front of the camera, Stripe's checks, reviewers.").
			query(q(`histogram_quantile(0.5, sum by (le, status) (rate(webhookd_time_to_decision_seconds_bucket{SEL}[1h])))`), "{{status}}, median").
			query(q(`histogram_quantile(0.9, sum by (le, status) (rate(webhookd_time_to_decision_seconds_bucket{SEL}[1h])))`), "{{status}}, 9 in 10").
			from0().beside("lastNotNull").runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(12),
		graph(from, "Redactions", "short", "Steps per hour that tell a redaction, by Stripe's word. `other` is a word that this version does not know: such a session is hidden until somebody decides.\n\n`webhookd redact ID`").
			query(q(`3600 * sum by (status) (rate(webhookd_redactions_total{SEL}[RATE]))`), "{{status}}").
			from0().every("5m").paint("other", red).runbook("Redaction requests", "runbook.md#redaction-requests").wide(12),
	)
}

// service shows what we do.
func (d *dashboard) service(from source) {
	d.row("Are we healthy?")
	d.line(8,
		graph(from, "Deliveries by outcome", "cpm", "Deliveries per minute, by what became of them.").
			query(q(`60 * sum by (outcome) (rate(webhookd_deliveries_total{SEL}[RATE]))`), "{{outcome}}").
			bars().paint("applied", green, "unavailable", red, "refused", yellow, "quarantined", orange, "duplicate", gray, "ignored", "semi-dark-blue", "stale", blue, "twin", purple, "queued", "light-blue").
			runbook("Runbook", "runbook.md").wide(12),
		graph(from, "Not acknowledged, by reason", "cpm", "503s per minute, by their reason. Zero is normal. Stripe sends each again.\n\n`webhookd doctor`").
			query(q(`60 * sum by (reason) (rate(webhookd_unavailable_total{SEL}[RATE]))`), "{{reason}}").
			bars().paint("database", red, "queue_full", orange, "deadline", purple, "locked", yellow, "draining", gray).
			runbook("Not acknowledged", "alerts/WebhookdEventsNotAcknowledged.md#mitigation").wide(6),
		graph(from, "Refused signatures, by reason", "cpm", "Refused deliveries per minute, by their reason. Beside accepted ones they are strangers.\n\n`webhookd verify`").
			query(q(`60 * sum by (reason) (rate(webhookd_signature_failures_total{SEL}[RATE]))`), "{{reason}}").
			bars().runbook("Signatures refused", "alerts/WebhookdSignaturesRefused.md#mitigation").wide(6),
	)
	d.line(8,
		graph(from, "Error budget", "percentunit", "The share of signed deliveries that got 503, within five minutes, an hour and six. The objective is 0.1 %; an hour over the line at 1.44 % (and five minutes over it) pages.").
			query(q(`sum(rate(webhookd_deliveries_total{SEL,outcome="unavailable",event_type!="unknown"}[5m])) / (sum(rate(webhookd_deliveries_total{SEL,outcome!="refused",event_type!="unknown"}[5m])) > 0)`), "5 minutes").
			query(q(`sum(rate(webhookd_deliveries_total{SEL,outcome="unavailable",event_type!="unknown"}[1h])) / (sum(rate(webhookd_deliveries_total{SEL,outcome!="refused",event_type!="unknown"}[1h])) > 0)`), "1 hour").
			query(q(`sum(rate(webhookd_deliveries_total{SEL,outcome="unavailable",event_type!="unknown"}[6h])) / (sum(rate(webhookd_deliveries_total{SEL,outcome!="refused",event_type!="unknown"}[6h])) > 0)`), "6 hours").
			from0().limits(green, 0.0144, red).marks().paint("5 minutes", "light-orange", "1 hour", red, "6 hours", purple).
			runbook("Not acknowledged", "alerts/WebhookdEventsNotAcknowledged.md#mitigation").wide(8),
		graph(from, "Time to answer", "s", "How long acknowledged deliveries took. Stripe wants an answer within seconds; DELIVERY_TIMEOUT ends it at 10.").
			query(q(`histogram_quantile(0.5, sum by (le) (rate(webhookd_delivery_duration_seconds_bucket{SEL,outcome!~"unavailable|refused"}[RATE])))`), "median").
			query(q(`histogram_quantile(0.9, sum by (le) (rate(webhookd_delivery_duration_seconds_bucket{SEL,outcome!~"unavailable|refused"}[RATE])))`), "9 in 10").
			query(q(`histogram_quantile(0.99, sum by (le) (rate(webhookd_delivery_duration_seconds_bucket{SEL,outcome!~"unavailable|refused"}[RATE])))`), "99 in 100").
			from0().every("1m").runbook("Capacity", "runbook.md#capacity").wide(8),
		graph(from, "Age of events when recorded", "s", "From an event's creation at Stripe to its commit here, of an hour's events. Seconds are normal; hours are Stripe's retries after an outage.").
			query(q(`histogram_quantile(0.5, sum by (le) (rate(webhookd_event_lag_seconds_bucket{SEL}[1h])))`), "median").
			query(q(`histogram_quantile(0.9, sum by (le) (rate(webhookd_event_lag_seconds_bucket{SEL}[1h])))`), "9 in 10").
			query(q(`histogram_quantile(0.99, sum by (le) (rate(webhookd_event_lag_seconds_bucket{SEL}[1h])))`), "99 in 100").
			from0().runbook("Database down", "runbook.md#database-down").wide(8),
	)
	d.line(8,
		graph(from, "Queue and batch", "short", "Events that wait for a committer, of the fullest replica, and events in a commit. A queue that stays long: PostgreSQL is slower than Stripe.").
			query(q(`max(webhookd_queue_length{SEL})`), "waiting").
			query(q(`sum(rate(webhookd_commit_events_sum{SEL}[RATE])) / (sum(rate(webhookd_commit_events_count{SEL}[RATE])) > 0)`), "events a commit").
			from0().paint("waiting", orange, "events a commit", blue).runbook("Capacity", "runbook.md#capacity").wide(6),
		graph(from, "Commits", "s", "How long PostgreSQL takes for a batch, to the answer to COMMIT.").
			query(q(`histogram_quantile(0.5, sum by (le) (rate(webhookd_commit_duration_seconds_bucket{SEL}[RATE])))`), "median").
			query(q(`histogram_quantile(0.99, sum by (le) (rate(webhookd_commit_duration_seconds_bucket{SEL}[RATE])))`), "99 in 100").
			from0().every("1m").runbook("Capacity", "runbook.md#capacity").wide(6),
		graph(from, "Connections", "short", "Connections to PostgreSQL of all replicas, by state, and the most there may be.").
			query(q(`sum by (state) (webhookd_pool_connections{SEL})`), "{{state}}").
			query(q(`sum(webhookd_pool_max_connections{SEL})`), "most").
			from0().series("most", colored(red), dashed(), property{"custom.fillOpacity", 0}).runbook("Capacity", "runbook.md#capacity").wide(6),
		graph(from, "Waiting for a connection", "percentunit", "Share of the time in which somebody waited for a connection. Over 1: several waited all the time.").
			query(q(`sum(rate(webhookd_pool_wait_seconds_total{SEL}[RATE]))`), "waited").
			query(q(`sum(rate(webhookd_pool_waits_total{SEL}[RATE]))`), "waits a second").
			from0().series("waits a second", property{"unit", "short"}).runbook("Capacity", "runbook.md#capacity").wide(6),
	)
	d.line(8,
		graph(from, "Quarantine and split batches", "short", "Events in quarantine, and batches per hour that PostgreSQL refused because of one event.\n\n`webhookd quarantine list`").
			query(q(`max(webhookd_quarantined_events{SEL})`), "in quarantine").
			query(q(`3600 * sum(rate(webhookd_rejected_batches_total{SEL}[RATE]))`), "split batches per hour").
			from0().every("5m").paint("in quarantine", orange).runbook("Quarantine", "alerts/WebhookdQuarantine.md#mitigation").wide(6),
		graph(from, "Memory", "bytes", "Resident memory of each replica. 2,000 idle connections take some 100 MB.").
			query(q(`process_resident_memory_bytes{SEL} and on (job, instance) webhookd_build_info{SEL}`), "{{instance}}").
			from0().runbook("Capacity", "runbook.md#capacity").wide(6),
		graph(from, "CPU", "short", "Cores that each replica uses.").
			query(q(`rate(process_cpu_seconds_total{SEL}[RATE]) and on (job, instance) webhookd_build_info{SEL}`), "{{instance}}").
			from0().runbook("Capacity", "runbook.md#capacity").wide(6),
		list(from, "Replicas", "none", "What runs, and whether its schema suffices and its files of secrets are good.\n\n`webhookd version`, `webhookd migrate status`").
			query(q(`sum by (instance, version, schema) (webhookd_build_info{SEL})`), "").
			query(q(`sum by (instance) (webhookd_schema_version{SEL}) - sum by (instance) (webhookd_schema_required{SEL})`), "").
			query(q(`sum by (instance) (webhookd_secrets_reload_failed{SEL})`), "").
			columns([]string{"Value #A"}, "instance", "Replica", "version", "Version", "schema", "Schema", "Value #B", "Schema behind", "Value #C", "Secrets").
			series("Schema behind", property{"mappings", []mapping{{"value", map[string]result{"0": {"no", green, 0}}}}}).
			series("Secrets", property{"mappings", []mapping{{"value", map[string]result{"0": {"good", green, 0}, "1": {"BAD FILE", red, 1}}}}}).
			runbook("Upgrade and roll back", "runbook.md#upgrade-and-roll-back").wide(6),
	)
}

// completeness shows what may be missing.
func (d *dashboard) completeness(from source) {
	d.row("Do we have everything?")
	d.line(8,
		graph(from, "Waiting for Stripe's API", "short", "Verified users whose data are not fetched yet, sessions whose state the events leave open, and thin events whose content is not known. Each should return to zero within minutes; without a key the last two stay.\n\n`webhookd doctor`").
			query(q(`max(webhookd_outputs_pending{SEL})`), "data of verified users").
			query(q(`max(webhookd_sessions_needing_refresh{SEL})`), "sessions to refresh").
			query(q(`max(webhookd_thin_events_pending{SEL})`), "thin events").
			from0().runbook("Data are late", "alerts/WebhookdOutputsLate.md#mitigation").wide(8),
		graph(from, "Oldest data to fetch, over time", "s", "How long the longest waiting verified user has waited. At 48 hours the sensitive fields are lost.").
			query(q(`max(webhookd_outputs_oldest_pending_seconds{SEL})`), "oldest").
			from0().limits(green, 12*hour, orange, 36*hour, red).marks().runbook("Data are late", "alerts/WebhookdOutputsLate.md#mitigation").wide(8),
		graph(from, "Fetches by result", "short", "Reads of verified data per hour, by result. `forbidden`: the key lacks rights; `expired`: too late.\n\n`webhookd doctor`").
			query(q(`3600 * sum by (result) (rate(webhookd_outputs_fetches_total{SEL}[RATE]))`), "{{result}}").
			bars().every("5m").paint("stored", green, "partial", yellow, "forbidden", red, "expired", "dark-red", "retried", orange, "not_found", purple, "redacted", gray).
			runbook("Data are late", "alerts/WebhookdOutputsLate.md#mitigation").wide(8),
	)
	d.line(6,
		list(from, "Signing secrets in use", "short", "Deliveries by the secret that signed them. A rolled secret may go when it signs nothing any more.\n\n`webhookd doctor`").
			query(q(`sum by (secret) (increase(webhookd_signature_matches_total{SEL}[1h]))`), "").
			query(q(`sum by (secret) (increase(webhookd_signature_matches_total{SEL}[1d]))`), "").
			query(q(`sum by (secret) (increase(webhookd_signature_matches_total{SEL}[1w]))`), "").
			columns(nil, "secret", "Secret", "Value #A", "Last hour", "Value #B", "Last day", "Value #C", "Last week").
			whole().runbook("Roll a secret", "runbook.md#roll-a-secret").wide(8),
		number(from, "Reading Stripe's API", "none", "Whether there is a key for each mode. Without one, verified data, refresh and reconcile are off for it.\n\n`webhookd doctor`").
			query(q(`max by (livemode) (webhookd_outputs_enabled{LIVE})`), "livemode {{livemode}}").
			say(map[string]result{"0": {"off", gray, 0}, "1": {"on", green, 1}}).limits(green).runbook("Data are late", "alerts/WebhookdOutputsLate.md#mitigation").wide(4),
		number(from, "Last comparison with Stripe", "s", "Time since reconcile last completed. No data: never.\n\n`webhookd reconcile --since 6h --dry-run`").
			query(q(`time() - (max(webhookd_reconcile_last_complete_timestamp_seconds{SEL}) > 0)`), "ago").
			limits(green, 6*hour, orange).runbook("Reconcile is stale", "alerts/WebhookdReconcileStale.md#mitigation").wide(4),
		graph(from, "Recovered by reconcile, within a day", "short", "Rows of the last 24 hours that no delivery had brought. Above zero: deliveries are being lost.\n\n`webhookd reconcile --since 24h --dry-run`").
			query(q(`max(webhookd_reconciled_events{SEL})`), "recovered").
			from0().paint("recovered", orange).runbook("Reconcile recovers", "alerts/WebhookdReconcileRecovers.md#mitigation").wide(8),
	)
}
