# Muster. `make help` lists the targets from their own comments.

SHELL := /bin/bash
BIN   := bin
KERNEL_PACKAGES ?= linux-image-6.1.0-56-cloud-amd64 linux-image-6.1.0-56-cloud-arm64
export CGO_ENABLED ?= 0
LDFLAGS := -s -w -X main.version=$(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS_BUILD := -buildvcs=false

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build muster, muster-agent and the simulator's runner into bin/
	@mkdir -p $(BIN)
	go build $(GOFLAGS_BUILD) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/muster ./cmd/muster-agent ./githubsim/actions-runner

.PHONY: demo
demo: build ## Run the main job end to end: simulator, control plane, 40 jobs, dashboard (DEMO=once exits by itself)
	$(BIN)/muster demo

.PHONY: setup
setup: ## Install what the tests need and this machine lacks (Debian, as root)
	@scripts/setup.sh

.PHONY: test
test: setup build ## Run every test, the real databases, browsers and drivers included
	go vet ./...
	go test -timeout 60m ./...
	@$(MAKE) --no-print-directory requirements-check

.PHONY: race
race: setup ## Run the concurrent packages under the race detector
	CGO_ENABLED=1 go test -race -timeout 40m . ./provider/... ./githubsim/... ./internal/agent/... ./internal/api/... ./internal/config/... ./internal/dryrun/... ./internal/fleet/... ./internal/garm/... ./internal/gateway/... ./internal/guest/... ./internal/github/... ./internal/ingress/... ./internal/archive/... ./internal/inspect/... ./internal/trace/... ./internal/metrics/... ./internal/migrate/... ./internal/schedule/... ./internal/secretbox/... ./internal/store/... ./internal/usage/... ./internal/web/...

.PHONY: cover
cover: ## Fail if the packages of the fleet tool are covered by less than 80 % (S1-117)
	@go test -cover ./internal/fleet ./internal/github . ./internal/schedule | awk '{print} /coverage:/ { sub(/%/, "", $$5); if ($$5 + 0 < 80) low = 1 } END { exit low }'

.PHONY: bench
bench: build ## Measure what the docs claim and write bench/results/
	go test -timeout 60m -count=1 -run '^$$' -bench . ./bench/... | tee bench/results/latest.txt

.PHONY: provider-table
provider-table: setup build ## Measure every provider on this machine and write the table of docs/providers/README.md
	set -o pipefail; { MUSTER_FIGURES=1 go test -json -count=1 -timeout 60m ./provider/...; MUSTER_BIN=$(CURDIR)/$(BIN) MUSTER_PROVIDER_CHAOS_RUNNERS=100 MUSTER_PROVIDER_CHAOS_KILLS=5 go test -json -count=1 -timeout 60m -run 'TestProvidersChaos|Test(Containers|Kubernetes)Chaos' ./e2e; } | go run ./internal/tools/providertable -on "$$(nproc) cores, $$(uname -sr)"

.PHONY: kernel-matrix
kernel-matrix: ## Say what the recorder records here with less and less rights, and on stock kernels (as root)
	internal/tools/kernel-matrix.sh $(KERNEL_PACKAGES)

.PHONY: trace-figures
trace-figures: ## Measure what recording costs a job (as root, on a machine with nothing else to do)
	go test -count=1 -timeout 60m -run '^$$' -bench 'Sustained|Most' -benchtime 1x ./internal/agent/bpf
	go test -count=1 -timeout 60m -run '^$$' -bench Overhead -benchtime 9x ./internal/agent/bpf

.PHONY: lint
lint: ## Run golangci-lint with the reasons in .golangci.yml
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

.PHONY: generate
generate: ## Regenerate gen/ from proto/, the CLI's pages and the recorder's programs (those need clang 14)
	internal/tools/generate.sh

.PHONY: requirements
requirements: ## List which requirements a test proves, and which none does
	@go run ./internal/tools/requirements

.PHONY: requirements-check
requirements-check:
	@go run ./internal/tools/requirements --strict --of "$$(cat docs/requirements-due.txt)" >/dev/null || go run ./internal/tools/requirements --strict --of "$$(cat docs/requirements-due.txt)"

.PHONY: clean
clean: ## Remove what the build made
	rm -rf $(BIN)
