# `make run` and `make test` do everything on a fresh Debian or Ubuntu machine with the Swift toolchain.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# System packages, and a file of each that shows whether it is there.
PACKAGES := liburing-dev:/usr/include/liburing.h libssl-dev:/usr/include/openssl/ssl.h openssl:openssl python3:python3 \
  curl:curl

.PHONY: help run test build packages clean

help: ## Show this help.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: build ## Build, serve two replicas with `sky serve up`, wait until they are ready, ask them.
	@examples/hello.sh .build/release

test: build ## Build and run every test.
	swift build
# One test at a time: most wait for processes, and there are as many threads for all of them as cores.
	swift test --no-parallel
	.build/release/sky-sim --seeds 40 --all
	.build/release/sky-control-sim --seeds 100 --all

build: packages ## Build the release binaries, installing what is missing.
	swift build -c release --product sky
	swift build -c release --product sky-controller
	swift build -c release --product sky-proxy
	swift build -c release --product sky-sim
	swift build -c release --product sky-control-sim

packages:
	@missing=""; for entry in $(PACKAGES); do \
	  name=$${entry%%:*}; sign=$${entry#*:}; \
	  case $$sign in /*) [ -e "$$sign" ] || missing="$$missing $$name";; \
	  *) command -v "$$sign" >/dev/null || missing="$$missing $$name";; esac; done; \
	if [ -n "$$missing" ]; then \
	  sudo=""; if [ "$$(id -u)" != 0 ]; then \
	    command -v sudo >/dev/null || { echo "install$$missing first (apt-get install$$missing)" >&2; exit 1; }; sudo=sudo; fi; \
	  echo "installing$$missing"; $$sudo apt-get update -qq && $$sudo apt-get install -y -qq $$missing; fi

include Benchmarks/bench.mk
include Tests/proof.mk

clean: ## Remove everything that was built.
	rm -rf .build
