# `make demo` and `make test` need nothing but Python (3.11 or newer) and make: each sets up .venv first.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
PLUGINS := $(patsubst %/pyproject.toml,--editable %,$(wildcard plugins/*/pyproject.toml))

.PHONY: demo test test-quick lint bench docs clean

demo: .venv/installed
	$(BIN)/tstk train --encoder bert --head cot

test: .venv/installed-for-tests
	$(PYTEST)

test-quick: .venv/installed-for-tests
	$(PYTEST) -m 'not slow'

lint: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-for-tests
	$(PIP) --editable '.[bench]'
	$(BIN)/python -m pytest benchmarks

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tstk needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python constraints.txt $(PROJECTS)
	$(PIP) torch
	$(PIP) --editable . $(PLUGINS)
	touch $@

.venv/installed-for-tests: .venv/installed
	$(PIP) --editable '.[test,dev]' $(PLUGINS)
	touch $@

docs: .venv/installed-for-tests
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv runs
