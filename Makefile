# Every target installs what it needs into .venv, once. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LIST := requirements/cpu.txt
INSTALLED = $(VENV)/installed-$(notdir $(LIST))
SYSTEM := $(VENV)/system-packages
PROCESSES ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder
BENCHMARKS := driver http_client resume growth memory audit planted metrics engine prefix guided tokens train evaluation graph \
  backfill pages verdicts release
.PHONY: help install demo ui test test-fast bench lint clean

help:
	@echo "make install     install everything into .venv; the other targets do so by themselves"
	@echo "make demo        run the complete experiment on a small scale, and print the leaderboard"
	@echo "make ui          serve the web pages of Dagster and MLflow on this machine (127.0.0.1)"
	@echo "make test        run all tests; in one process: make test PROCESSES="
	@echo "make test-fast   run the tests that finish in two minutes"
	@echo "make bench       run the benchmarks; the last line of each is one JSON object"
	@echo "make lint        check style, types, and that every imported library is declared"
	@echo "make clean       delete .venv"

install: $(INSTALLED)

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
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed. Install Python 3.11, or name its program: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^uv==' $(LIST))"
	@# uv does not read pip's settings, so it gets the folder or page where pip looks for wheels.
	links="$${UV_FIND_LINKS:-$$($(BIN)/pip config get :env:.find-links 2>/dev/null || $(BIN)/pip config get global.find-links 2>/dev/null)}"; \
	  UV_FIND_LINKS="$$links" VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps -r $(LIST)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@# Python compiles a module when it is imported first. For these it takes half a minute: here, not in the demo.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -W ignore -c "import finephrase_dagster.definitions, finephrase_dagster.train.trainer, mlflow, \
	  vllm.entrypoints.openai.api_server, vllm.v1.engine.core, vllm.v1.worker.cpu_worker" >/dev/null 2>&1 || true
	@touch $@

# The system packages that the tests use: a browser, PostgreSQL and nginx. As root on Debian they are installed; otherwise
# the missing ones are named.
$(SYSTEM): $(INSTALLED) Makefile
	@missing=; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	test -x /usr/sbin/nginx || missing="$$missing nginx"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "The tests need these system packages:$$missing. Install them, then run the same command again."; exit 2; fi; fi
	@touch $@

clean:
	rm -rf $(VENV)
