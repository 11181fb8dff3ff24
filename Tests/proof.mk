# Targets that look for what tests do not think of; the Makefile includes this file.
SECONDS ?= 600

.PHONY: soak fuzz

soak: packages ## A sky-proxy under mixed and hostile traffic, churn and kills for SECONDS=600: nothing grows, spins or leaks.
	swift build -c release --product sky-proxy
	python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds $(SECONDS)

fuzz: packages ## Random bytes for every parser, TLS and the engine, for SECONDS=600 in all.
	Tests/Fuzz/fuzz.sh $(SECONDS)

.PHONY: sanitize sanitize-short thread-proxy

# What a worker holds at the end of the process is no leak: its memory lives as long as it does.
ASAN = ASAN_OPTIONS=detect_leaks=0
TSAN = TSAN_OPTIONS=report_thread_leaks=0:suppressions=$(CURDIR)/Tests/thread-sanitizer.txt
# The sanitizer keeps a few for itself.
THREAD_SOAK = $(TSAN) python3 Tests/Soak/soak.py --proxy .build-thread/release/sky-proxy --spare-descriptors 8

thread-proxy: packages
	swift build -c release --sanitize=thread --scratch-path .build-thread --product sky-proxy

# The compiler (6.3.1) makes invalid code of ProxySim and sky-origin with the thread sanitizer's hooks, so it is the
# proxy alone that has them, under the end-to-end tests and under the soak.
sanitize: thread-proxy ## Every test with the address sanitizer, then the proxy with the thread sanitizer.
	$(ASAN) swift test --no-parallel --sanitize=address --scratch-path .build-address
	$(TSAN) SKY_PROXY_BINARY=$(CURDIR)/.build-thread/release/sky-proxy swift test --no-parallel --filter EndToEndTests
	$(THREAD_SOAK) --seconds $(SECONDS)

# The address sanitizer is in every fuzzed build already.
sanitize-short: thread-proxy
	$(THREAD_SOAK) --seconds 20

.PHONY: prove-short

# A few seconds of each of them.
prove-short: packages sanitize-short
	Tests/Fuzz/fuzz.sh 24
	python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds 20
