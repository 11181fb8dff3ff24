# Targets of the benchmarks; the Makefile includes this file. SWIFT_FLAGS may name another scratch path.
SWIFT_FLAGS ?=
BENCH_ARGS ?=
BENCH_BIN = $(shell swift build -c release $(SWIFT_FLAGS) --show-bin-path)

.PHONY: bench bench-full bench-build micro alloc-gate

bench-build:
	swift build -c release $(SWIFT_FLAGS) --product sky-proxy
	swift build -c release $(SWIFT_FLAGS) --product sky-origin
	swift build -c release $(SWIFT_FLAGS) --product sky-load
	swift build -c release $(SWIFT_FLAGS) --product sky-floor
	swift build -c release $(SWIFT_FLAGS) --product sky-micro

# Two minutes: every scenario, three rounds. BENCH_ARGS=--install gets the peers that are missing.
bench: bench-build
	python3 Benchmarks/compare/compare.py --bin $(BENCH_BIN) $(BENCH_ARGS)

# Figures to publish.
bench-full: bench-build
	python3 Benchmarks/compare/compare.py --full --bin $(BENCH_BIN) $(BENCH_ARGS)

micro: bench-build
	$(BENCH_BIN)/sky-micro

alloc-gate: bench-build
	python3 Benchmarks/alloc-gate/alloc_gate.py --bin $(BENCH_BIN)
