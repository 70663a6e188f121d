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

.PHONY: vuln
vuln: | bin ## Compare the dependencies with the Go vulnerability database (needs the network)
	@go -C tools build -o ../bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	@bin/govulncheck ./...

.PHONY: generate
generate: ## Renew the tables of README that code writes
	@go test ./cmd/webhookd -run '^TestReadme' -update

.PHONY: postgres
postgres:
	@scripts/ensure-postgres.sh

bin:
	@mkdir -p bin
