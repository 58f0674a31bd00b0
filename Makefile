# Every target makes .venv by itself, once, and again when pyproject.toml or constraints.txt change.
# make PYTHON=python3.12 ...   which Python .venv is made with (3.11 to 3.13)
# make RUN=runs/second train   where the run goes

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
RUN ?= runs/first
JOBS ?= 2

BIN := .venv/bin
INSTALLED := .venv/.installed
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
# Threads that spin while they wait cost a busy machine far more than they give.
TEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

# $(call pip,WHAT,ARGUMENTS): install quietly, and say every 15 seconds that it is still going on.
define pip
	@echo "recollect: installing $(1)"; seconds=0; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(2) & pip=$$!; \
	trap 'kill $$pip 2>/dev/null || true' EXIT; \
	while kill -0 $$pip 2>/dev/null; do \
		sleep 1; \
		if (( ++seconds % 15 == 0 )); then echo "recollect: ... $$seconds s"; fi; \
	done; \
	wait $$pip
endef

.PHONY: help install train test test-slow bench check lint format

help:  ## this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## make .venv with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
		echo "recollect needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>/dev/null || echo not there)." \
			"Name one that is: make PYTHON=python3.12 install"; \
		exit 1; }
	@if [ ! -x $(BIN)/pip ]; then \
		echo "recollect: making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; fi
	$(call pip,$(TORCH): the largest part and maybe minutes long,$(TORCH))
	$(call pip,everything else,-e .[dev])
	@touch $@
	@echo "recollect: installed in .venv"

train: $(INSTALLED)  ## a first agent that remembers, in runs/first (or RUN=...)
	@if [ -e "$(RUN)" ]; then \
		echo "There is a run in $(RUN) already. If it was stopped, go on:  $(BIN)/recollect resume $(RUN)"; \
		echo "or score it:  $(BIN)/recollect evaluate $(RUN)"; \
		echo "or start another one beside it:  make train RUN=runs/second"; \
		echo "or remove it and start afresh:  rm -r $(RUN)"; \
		exit 1; fi
	@$(BIN)/recollect train r2d2 --env recollect/PositionCartPole-v0 --run-dir "$(RUN)"

test: check  ## what must pass before a change goes in
	$(TEST) -m "not slow" -n $(JOBS)

test-slow: $(INSTALLED)  ## the tests that take minutes: learning, faults, many restarts
	$(TEST) -m slow -n $(JOBS) --dist worksteal --timeout 1800

bench: $(INSTALLED)  ## measure speed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks $(ARGS)

lint: check

check: $(INSTALLED)  ## format, lint, types and the floors of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST) -q tests/test_floors.py

format: $(INSTALLED)  ## put the sources in the formatter's shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
