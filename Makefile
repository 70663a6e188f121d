SHELL := /usr/bin/env bash
export GOFLAGS := -buildvcs=auto

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## Build bin/webhookd
	@test -e bin/webhookd || echo "building bin/webhookd (the first time takes a minute or two)"
	@go build -trimpath -o bin/webhookd ./cmd/webhookd

.PHONY: dev
dev: postgres build ## Run everything on this machine; Ctrl-C stops it
	@exec bin/webhookd dev

.PHONY: test
test: postgres ## Run the tests, with the race detector
	@go test -race -timeout 30m ./...
	@go -C internal/stripeapi/mocktest test ./...
	@go -C deploy/test test -count=1 ./... # the manifests are not Go's to see change

.PHONY: check
check: lint test fuzz-seconds ## What CI runs: lint, tests, fuzzing for seconds

.PHONY: lint
lint: | bin ## Check format, vet and the chosen linters
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these"; exit 1; }
	@go vet ./...
	@go mod verify >/dev/null
	@go -C tools build -o ../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@bin/golangci-lint run ./...

FUZZ_TARGETS := \
	internal/signature:FuzzVerify \
	internal/events:FuzzParse \
	internal/events:FuzzParseSession \
	internal/events:FuzzThin \
	internal/receiver:FuzzDelivery \
	cmd/webhookd:FuzzConfig

.PHONY: fuzz
fuzz: ## Fuzz every target for a minute
	@$(MAKE) --no-print-directory fuzz-run FUZZ_TIME=60s

.PHONY: fuzz-seconds
fuzz-seconds:
	@$(MAKE) --no-print-directory fuzz-run FUZZ_TIME=3s

.PHONY: fuzz-run
fuzz-run: | bin
	@for target in $(FUZZ_TARGETS); do \
		go test -run '^$$' -fuzz "^$${target##*:}$$" -fuzztime $(FUZZ_TIME) "./$${target%%:*}" >bin/fuzz.log 2>&1 \
			|| { cat bin/fuzz.log; exit 1; }; \
	done; echo "fuzz: $(words $(FUZZ_TARGETS)) targets, $(FUZZ_TIME) each, nothing found"

.PHONY: bench
bench: postgres ## Measure against a hand-written service (docs/performance.md); about 12 minutes
	@go run ./bench

.PHONY: torture
torture: postgres ## Break it on purpose under a million deliveries (docs/reliability.md)
	@go run ./torture

.PHONY: test-stripe
test-stripe: postgres ## Sign and verify with Stripe's own library for Node (needs npm and the network)
	@scripts/verify-with-stripe-node.sh

.PHONY: test-pgbouncer
test-pgbouncer: postgres ## The service and its jobs behind a real PgBouncer
	@scripts/test-pgbouncer

.PHONY: test-rolling
test-rolling: postgres ## Roll three replicas behind HAProxy under load: nothing is refused, lost or doubled
	@scripts/test-rolling

IMAGE ?= localhost/webhookd:dev

.PHONY: image
image: ## Build the container image
	@b=$$(command -v docker || command -v podman || command -v buildah) || { echo "install docker, podman or buildah" >&2; exit 1; }; \
		$$b build --build-arg VERSION=$$(git describe --tags --always --dirty) --build-arg REVISION=$$(git rev-parse HEAD) -t $(IMAGE) .

.PHONY: test-image
test-image: postgres ## Build the image, and let its process take an event
	@scripts/test-image

.PHONY: test-k8s
test-k8s: postgres ## Apply the manifests to a real control plane (builds one; over half an hour)
	@scripts/test-k8s

.PHONY: test-prometheus
test-prometheus: postgres ## Prove alerts and dashboards against a real Prometheus; some minutes
	@scripts/test-prometheus.sh

.PHONY: pictures
pictures: ## Draw previews of the dashboard (PROMETHEUS=http://…)
	@scripts/ensure-package.sh chromium chromium
	@cd scripts/preview && npm ci --no-audit --no-fund && node draw.mjs $(PROMETHEUS)

.PHONY: vuln
vuln: | bin ## Compare the dependencies with the Go vulnerability database (needs the network)
	@go -C tools build -o ../bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	@bin/govulncheck ./...

.PHONY: generate
generate: ## Renew the tables of README that code writes
	@go test ./cmd/webhookd -run '^(TestReadme|TestMetricsPage)' -update
	@go run ./deploy/grafana
	@go -C deploy/test test ./k8s -run '^TestPrometheusRuleIsTheRules$$' -update

.PHONY: postgres
postgres:
	@scripts/ensure-postgres.sh

bin:
	@mkdir -p bin
