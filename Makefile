# The two commands that matter: `make demo` and `make test`. `make help` lists the rest.
# Needs Python 3.11 or newer with pip; no compiler, no root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13 python,$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.fedsus-installed
PROJECTS := pyproject.toml client/pyproject.toml server/pyproject.toml simulations/pyproject.toml
PACKAGES := fedsus client/fedsus_client server/fedsus_server simulations/fedsus_simulations
INSTALL := -e '.[dev]' -e client -e server -e simulations
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv demo test test-all check lint types layers hygiene docs peers bench bench-full wheels lock clean

help: ## list the targets
	@echo "make TARGET [PYTHON=python3.11] [TORCH_INDEX=URL of a package index with CPU-only torch]"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

venv: $(STAMP) ## create .venv with all four distributions, as locked in constraints.txt
	@echo "venv: $(VENV) is up to date"

$(STAMP): $(PROJECTS) constraints.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "error: Python 3.11 or newer is needed$(if $(PYTHON), and '$(PYTHON)' is not); name one: make PYTHON=/path/to/python3.11" >&2; \
	  exit 2; fi
	@if [ ! -x $(PY) ]; then echo "venv: creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); fi
	@echo "venv: installing fedsus and its locked dependencies into $(VENV) (torch is large: some minutes the first time)"
	@$(PY) -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') -c constraints.txt $(INSTALL)
	@touch $@

demo: $(STAMP) ## four hospitals train one model: a server and four agents, separate processes, two to three minutes
	@echo "demo: a server and four hospitals on this machine"
	@$(BIN)/fedsus demo $(ARGS)

test: $(STAMP) ## the tests, without the slow ones (about ten minutes on two cores)
	@echo "test: pytest, without the slow tests"
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

test-all: $(STAMP) ## the tests, with the slow ones
	@echo "test-all: pytest, with the slow tests"
	@$(PY) -m pytest -n 2 --dist loadfile -m 'slow or not slow' $(ARGS)

check: lint types layers hygiene docs ## formatting, lint, types, layers, hygiene, docs: all that pre-commit runs, and more
	@$(PY) -m pre_commit validate-config
	@echo "check: all good"

lint: $(STAMP) ## ruff: lint and formatting
	@echo "lint: ruff check, ruff format --check"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(STAMP) ## mypy --strict over the four packages
	@echo "types: mypy --strict"
	@$(PY) -m mypy

layers: $(STAMP) ## import-linter: who may import whom
	@echo "layers: import-linter"
	@$(BIN)/lint-imports --cache-dir .import_linter_cache

hygiene: $(STAMP) ## white space, large files, private paths, hosts of package indexes
	@echo "hygiene: tracked files"
	@$(PY) scripts/hygiene.py

docs: $(STAMP) ## build the documentation into site/, warnings are errors
	@echo "docs: mkdocs build --strict"
	@said=$$($(PY) -m mkdocs build --strict 2>&1) || { echo "$$said" >&2; exit 1; }

peers: $(STAMP) ## what only the peers of the benchmarks need: Flower's simulation engine, into .venv
	@echo "peers: installing what the benchmarks compare with"
	@$(PY) -m pip install --quiet -c constraints.txt -e 'simulations[peers]'

bench: peers ## every benchmark, quick sizes; JSON into runs/bench
	@echo "bench: every benchmark, quick sizes"
	@$(BIN)/fedsus bench all --quick --into runs/bench $(ARGS)

bench-full: peers ## every benchmark, full sizes; JSON into runs/bench
	@echo "bench-full: every benchmark, full sizes"
	@$(BIN)/fedsus bench all --into runs/bench $(ARGS)

wheels: $(STAMP) ## the four wheels and a constraints file for devices, into dist/
	@echo "wheels: the four wheels and device-constraints.txt, into dist/"
	@$(PY) scripts/wheels.py dist

lock: ## re-create constraints.txt from the newest versions that the pyproject files allow
	@scripts/lock.sh $(PYTHON)

clean: ## remove what the other targets made, .venv included; runs/ stays
	@echo "clean: removing $(VENV), dist, build, site and caches"
	@rm -rf $(VENV) dist build site client/dist server/dist simulations/dist \
	  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find $(PACKAGES) tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
