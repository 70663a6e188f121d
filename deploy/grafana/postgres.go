package main

// postgresDashboard needs a data source that logs in as a member of
// webhookd_reader. No query touches a column that role may not read.
func postgresDashboard() dashboard {
	from := source{"grafana-postgresql-datasource", "${datasource}"}
	d := dashboard{
		UID: "webhookd-postgres", Title: "webhookd, sessions", Tags: []string{"webhookd"}, SchemaVersion: 41, Version: 1,
		Editable: true, GraphTooltip: 1, Refresh: "", Timezone: "browser",
		Description: "Which sessions failed, and what happened to one. Read as webhookd_reader: nothing personal.",
	}
	d.Time.From, d.Time.To = "now-24h", "now"
	d.Links = []link{
		page("Runbook", "doc", "runbook.md", "What to do"),
		board("webhookd", "webhookd", "The service"),
	}
	d.Annotations.List = []annotation{}
	d.Templating.List = []variable{
		{Name: "datasource", Label: "PostgreSQL", Type: "datasource", Query: "grafana-postgresql-datasource"},
		{
			Name: "livemode", Label: "Mode", Type: "custom", Query: "Live : true, Test : false",
			Current: &option{Text: "Live", Value: "true", Selected: true},
			Options: []option{{"Live", "true", true}, {"Test", "false", false}},
		},
		{
			Name: "code", Label: "Code", Type: "query", Datasource: &from, Refresh: 2, Sort: 1, IncludeAll: true, AllValue: "'%'", // Grafana puts it in as it is
			Query:   "SELECT DISTINCT error_code FROM stripe_identity.failure_reasons_hourly WHERE $__timeFilter(hour) ORDER BY 1",
			Current: &option{Text: "All", Value: "$__all", Selected: true},
		},
		{Name: "session", Label: "Session", Type: "textbox", Query: "", Description: "vs_…"},
		{Name: "reference", Label: "client_reference_id", Type: "textbox", Query: ""},
		{
			Name: "docs", Type: "constant", Hide: 2, Description: "Where the runbook is.", SkipURLSync: true,
			Query: "https://github.com/webhookd/webhookd/blob/main/docs",
		},
	}
	pick := property{"links", []dataLink{{Title: "Its timeline", URL: "/d/webhookd-postgres?${datasource:queryparam}&${livemode:queryparam}&${__url_time_range}&var-session=${__value.raw}"}}}

	perHour := graph(from, "Failures per hour, by code", "short", "Exact, also across crashes, by when Stripe says that it happened.").
		sql("time_series", `
SELECT hour AS time, error_code AS metric, sum(failures) AS failures
FROM stripe_identity.failure_reasons_hourly
WHERE $__timeFilter(hour) AND livemode = $livemode AND error_code LIKE ${code:sqlstring}
GROUP BY 1, 2 ORDER BY 1`).bars().beside("sum").runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(12)
	perHour.Transformations = []transformation{{"renameByRegex", map[string]any{"regex": "failures (.*)", "renamePattern": "$1"}}}
	d.line(10, perHour,
		list(from, "Recent failures", "none", "The newest hundred. A session id leads to its timeline.\n\n`webhookd session ID`").
			sql("table", `
SELECT t.occurred_at, t.error_code, t.type, t.session_id, s.client_reference_id, s.status AS status_now, t.account
FROM stripe_identity.verification_timeline t
JOIN stripe_identity.verification_sessions s ON s.id = t.session_id
WHERE $__timeFilter(t.occurred_at) AND t.event_type = 'identity.verification_session.requires_input'
  AND t.livemode = $livemode AND coalesce(t.error_code, 'none') LIKE ${code:sqlstring}
ORDER BY t.occurred_at DESC LIMIT 100`).
			series("session_id", pick).runbook("A reason grows", "alerts/WebhookdFailureSpike.md#mitigation").wide(12))
	d.line(9,
		list(from, "Timeline of one session", "none", "Every step of the session above, in Stripe's order, with how long it stood before.\n\n`webhookd session ID`; data that were verified: `webhookd session ID --show-outputs`, which is recorded.").
			sql("table", `
SELECT occurred_at, event_type, previous_status, status, error_code, seconds_in_previous_status, redaction_status, source, recorded_at, event_id
FROM stripe_identity.verification_timeline
WHERE session_id = ${session:sqlstring}
ORDER BY occurred_at, id`).
			series("seconds_in_previous_status", property{"unit", "s"}).runbook("Runbook", "runbook.md").wide(14),
		list(from, "Where this session stands", "none", "The session above, without what is personal.\n\n`webhookd session ID`").
			sql("table", `
SELECT status, last_error_code, needs_refresh, redaction_status, client_reference_id, type, verification_flow, account,
       created_at, status_changed_at, outputs_wanted_since
FROM stripe_identity.verification_sessions
WHERE id = ${session:sqlstring}`).
			runbook("Redaction requests", "runbook.md#redaction-requests").wide(10))
	d.line(7,
		list(from, "One person", "none", "What the application knows a person by, and what became of them.").
			sql("table", `
SELECT best_status, newest_status, sessions, failures, best_session_id, newest_session_id, account
FROM stripe_identity.subject_status
WHERE client_reference_id = ${reference:sqlstring} AND livemode = $livemode`).
			series("best_session_id", pick).series("newest_session_id", pick).runbook("Runbook", "runbook.md").wide(12),
		list(from, "Sessions whose state is open", "none", "The events leave open what they are; with a key Stripe is asked.\n\n`webhookd reconcile --since 24h`").
			sql("table", `
SELECT id, status, last_event_created_at, account
FROM stripe_identity.verification_sessions
WHERE needs_refresh AND livemode = $livemode
ORDER BY last_event_created_at DESC LIMIT 50`).
			series("id", pick).runbook("Data are late", "alerts/WebhookdOutputsLate.md#mitigation").wide(12))
	d.line(7,
		list(from, "In quarantine", "none", "What was not understood, of both modes.\n\n`webhookd quarantine list`").
			sql("table", `
SELECT received_at, type, session_id, reason, hides, event_id
FROM stripe_identity.quarantined_events
WHERE resolved_at IS NULL
ORDER BY received_at DESC LIMIT 50`).
			series("session_id", pick).runbook("Quarantine", "alerts/WebhookdQuarantine.md#mitigation").wide(12),
		list(from, "Comparisons with Stripe", "none", "The newest runs of reconcile, of both modes.\n\n`webhookd reconcile --since 24h --dry-run`").
			sql("table", `
SELECT started_at, finished_at, since, result, listed, recovered, detail
FROM stripe_identity.reconcile_runs
ORDER BY started_at DESC LIMIT 20`).
			runbook("Reconcile recovers", "alerts/WebhookdReconcileRecovers.md#mitigation").wide(12))
	return d
}

func (p panel) sql(format, text string) panel {
	p.Targets = append(p.Targets, target{
		RefID: string(rune('A' + len(p.Targets))), Datasource: *p.Datasource, Format: format, RawSQL: text[1:], RawQuery: true, EditorMode: "code",
	})
	return p
}
