# Targets that look for what tests do not think of; the Makefile includes this file.
SECONDS ?= 600

.PHONY: soak fuzz

soak: packages ## A sky-proxy under mixed and hostile traffic, churn and kills for SECONDS=600: nothing grows, spins or leaks.
	swift build -c release --product sky-proxy
	python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds $(SECONDS)

fuzz: packages ## Random bytes for every parser, TLS and the engine, for SECONDS=600 in all.
	Tests/Fuzz/fuzz.sh $(SECONDS)

.PHONY: sanitize sanitize-short

# What a worker holds at the end of the process is no leak: its memory lives as long as it does.
ASAN = ASAN_OPTIONS=detect_leaks=0
TSAN = SKY_THREAD_SANITIZER=1 TSAN_OPTIONS=suppressions=$(CURDIR)/Tests/thread-sanitizer.txt:halt_on_error=0

sanitize: packages ## Every test with the address sanitizer, then with the thread sanitizer.
	$(ASAN) swift test --no-parallel --sanitize=address --scratch-path .build-address
	$(TSAN) swift test --no-parallel --sanitize=thread --scratch-path .build-thread

sanitize-short: packages
	$(ASAN) swift test --no-parallel --sanitize=address --scratch-path .build-address --filter 'Proxy(Core|Wire)Tests'
	$(TSAN) swift test --no-parallel --sanitize=thread --scratch-path .build-thread --filter 'Proxy(Core|Wire)Tests'

.PHONY: prove-short

# What `make test` has time for: a few seconds of each.
prove-short: packages
	Tests/Fuzz/fuzz.sh 24
	python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds 20
