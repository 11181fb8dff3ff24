# Targets that look for what tests do not think of; the Makefile includes this file.
SECONDS ?= 600

.PHONY: soak fuzz

soak: packages ## A sky-proxy under mixed and hostile traffic, churn and kills for SECONDS=600: nothing grows, spins or leaks.
	swift build -c release --product sky-proxy
	python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds $(SECONDS)

fuzz: packages ## Random bytes for every parser, TLS and the engine, for SECONDS=600 in all.
	Tests/Fuzz/fuzz.sh $(SECONDS)
