# Every target sets up what it needs, once, into .venv. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LIST := requirements/cpu.txt
INSTALLED = $(VENV)/installed-$(notdir $(LIST))
SYSTEM := $(VENV)/system-packages
PROCESSES ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder
BENCHMARKS := driver http_client resume memory metrics engine prefix tokens train graph backfill pages
.PHONY: help demo ui test test-fast bench lint clean

help:
	@echo "make demo       run the whole lineage graph on the embedded study"
	@echo "make ui         Dagster's and MLflow's web pages on 127.0.0.1"
	@echo "make test       all tests; make test-fast: those that finish in two minutes"
	@echo "make bench      the benchmarks, each prints one JSON object last"
	@echo "make lint       lint, format and types"

demo: $(INSTALLED)
	@$(BIN)/finephrase materialize --study studies/demo.yaml

ui: $(INSTALLED)
	@$(BIN)/finephrase ui

test: $(INSTALLED) $(SYSTEM)
	$(BIN)/pytest $(PROCESSES)

test-fast: $(INSTALLED)
	$(BIN)/pytest $(PROCESSES) -m "not slow"

bench: $(INSTALLED)
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python benchmarks/$$benchmark.py; done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .
	DAGSTER_HOME=$(CURDIR)/dagster_home $(BIN)/dg check defs

$(INSTALLED): $(LIST) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^uv==' $(LIST))"
	@# uv knows nothing of pip's settings: where pip looks for wheels, it shall look too.
	links="$${UV_FIND_LINKS:-$$($(BIN)/pip config get :env:.find-links 2>/dev/null || $(BIN)/pip config get global.find-links 2>/dev/null)}"; \
	  UV_FIND_LINKS="$$links" VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --no-deps -r $(LIST)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What the tests need of the system: a browser, PostgreSQL and nginx. Installed where that is allowed, else named.
$(SYSTEM): $(INSTALLED) Makefile
	@missing=; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	test -x /usr/sbin/nginx || missing="$$missing nginx"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "The tests need packages of the system:$$missing. Install them and run this again."; exit 2; fi; fi
	@touch $@

clean:
	rm -rf $(VENV)
