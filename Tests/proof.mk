# Targets that look for what tests do not think of; the Makefile includes this file.
SECONDS ?= 600

.PHONY: soak

soak: packages ## A sky-proxy under mixed and hostile traffic, churn and kills for SECONDS=600: nothing grows, spins or leaks.
	swift build -c release --product sky-proxy
	python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds $(SECONDS)
