#!/usr/bin/env bash
# The proof of alerts and dashboards: promtool runs the tests of the rules, then
# a real Prometheus scrapes a real webhookd to which everything happens, and
# every panel and rule is asked what it shows. Some four minutes.
#
# With a folder of npm packages (npm ci in scripts/preview) the dashboards are
# also held against the types of @grafana/schema.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/ensure-package.sh promtool prometheus
promtool check rules deploy/prometheus/rules.yaml
promtool check config --syntax-only deploy/prometheus/prometheus.yaml
promtool test rules deploy/prometheus/rules_test.yaml deploy/prometheus/rules_days_test.yaml
go test -tags prometheus ./cmd/webhookd -run '^TestEveryPanelAndRule' -count=1
if [[ -d scripts/preview/node_modules ]]; then
	node scripts/preview/check.mjs
else
	echo "not checked against @grafana/schema: npm ci in scripts/preview fetches it"
fi
