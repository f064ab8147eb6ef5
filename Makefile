# `make help` lists the targets. Needed: make, Python 3.11 or newer with venv, and an index for pip.
# Everything is installed into $(VENV); nothing outside this folder is touched.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
WORLD_SIZE ?= 2
DATA ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
DONE := $(VENV)/.done
SMOKE := runs/bench-smoke
PINS := requirements/torch.txt requirements/cpu.txt requirements/dev.txt
HEAL := $(PY) requirements/check_install.py heal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-fast test-dist check format docs bench-smoke clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(DONE)/verified ## create $(VENV) with everything pinned in requirements/

demo: setup ## data -> plans at one budget -> training -> table and picture (DATA=train.txt for a Criteo file)
	$(VENV)/bin/compactrec demo $(if $(DATA),--data "$(DATA)") --out runs/demo

test: setup ## every test (WORKERS=2 processes)
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup

test-fast: setup ## the tests without those marked slow or dist
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not dist"

test-dist: setup ## the tests of several processes (WORLD_SIZE=2 of them)
	$(PY) -m pytest -m dist --world-size $(WORLD_SIZE)

check: setup ## format, lint and types; changes nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy -p compactrec

format: setup ## format the code and fix what lint can fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: setup ## write the derived parts of README.md and of the method cards
	$(PY) docs/generate.py

bench-smoke: setup ## every benchmark at a toy size, some minutes
	@mkdir -p $(SMOKE)
	$(PY) -m compactrec.benchmarks.bench_tables --batch 256 --rounds 2 --out $(SMOKE)/tables.json
	$(PY) -m compactrec.benchmarks.bench_table_parts --batch 256 --rounds 2 --out $(SMOKE)/table_parts.json
	$(PY) -m compactrec.benchmarks.bench_training --quick --out $(SMOKE)/training.json
	$(PY) -m compactrec.benchmarks.bench_models --quick --rounds 1 --steps 1 --out $(SMOKE)/models.json
	$(PY) -m compactrec.benchmarks.bench_sharded --quick --out $(SMOKE)/sharded.json
	$(PY) -m compactrec.benchmarks.bench_kernels --batch 256 --cap 10000 --threads 1 2 --rounds 2 --out $(SMOKE)/kernels.json
	$(PY) -m compactrec.benchmarks.bench_loader --rows 50000 --batch 2048 --rounds 1 --out $(SMOKE)/loader.json
	$(PY) -m compactrec.benchmarks.bench_prepare --rows 20000 --rounds 1 --out $(SMOKE)/prepare.json

clean: ## remove caches, build outputs and the runs of demo and bench-smoke
	rm -rf build dist src/*.egg-info runs/demo $(SMOKE) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove $(VENV)
	rm -rf $(VENV)

# Each step leaves a stamp when it has ended well. A step that was cut off runs again: `heal` makes pip
# forget half-installed packages first. With all stamps in place nothing is asked of the network.

$(DONE)/venv:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: $(PYTHON) is not there; install Python 3.11 or newer, or name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$($(PYTHON) --version 2>&1) is too old, 3.11 or newer is needed; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(DONE) && touch $@

$(DONE)/torch: requirements/torch.txt $(DONE)/venv
	@$(HEAL)
	$(PIP) install --requirement requirements/torch.txt --constraint requirements/cpu.txt
	@touch $@

$(DONE)/packages: requirements/cpu.txt requirements/dev.txt $(DONE)/torch
	@$(HEAL)
	$(PIP) install --no-deps --only-binary :all: --requirement requirements/cpu.txt --requirement requirements/dev.txt
	@touch $@

$(DONE)/project: pyproject.toml $(DONE)/packages
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DONE)/verified: $(DONE)/project $(PINS) requirements/check_install.py
	$(PY) requirements/check_install.py verify
	@touch $@
