# `make demo` and `make test` need nothing but Python (3.11 or newer) and make: each sets up .venv first.
# `make test-lowest` sets up .venv-lowest, with the lowest versions that pyproject.toml admits.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
LOWEST_PIP := .venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
# Bytecode is kept also where the environment forbids it, as those of containers do: every worker would compile all tests
# anew. pytest-benchmark asks git and hg for the commit at every start, and is for `make bench`.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -p no:benchmark \
	--numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
PLUGINS := $(patsubst %/pyproject.toml,--editable %,$(wildcard plugins/*/pyproject.toml))

.PHONY: demo test test-quick test-lowest fuzz kills compile-kernels lint bench docs site clean

demo: .venv/installed
	$(BIN)/tstk train --encoder bert --head cot

test: .venv/installed-for-tests
	$(PYTEST)

test-quick: .venv/installed-for-tests
	$(PYTEST) -m 'not slow' --durations 5 --durations-min 1

test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -p no:cacheprovider -k "not distilbert" \
		$$(grep -v '^#' .ci/lowest-tests.txt)

# Mutate files of every kind and load them; `make fuzz CASES=100000 SEED=7` tries other mutations.
fuzz: CASES ?= 20000
fuzz: SEED ?= 1
fuzz: .venv/installed-for-tests
	CASES=$(CASES) SEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s $$(find tests -name 'test_fuzz*.py')

# Kill runs of every kind at random moments and continue them; they must end with the same bytes.
kills: KILLS ?= 55
kills: SEED ?= 1
kills: .venv/installed-for-tests
	KILLS=$(KILLS) SEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/runs/test_kills.py

# Compile every tile configuration of the Triton kernels; needs no GPU.
compile-kernels: .venv/installed-for-tests
	$(BIN)/python -W ignore -m benchmarks.compile --out build/compiled.json

lint: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tstk/api.py  # which its stub hides
	$(BIN)/lint-imports --no-cache

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

constraints-lowest.txt: pyproject.toml constraints.txt .ci/lowest_versions.py | .venv/installed-for-tests
	$(BIN)/python .ci/lowest_versions.py > $@

# Recreated when the constraints change.
.venv-lowest/installed: constraints-lowest.txt $(PROJECTS)
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST_PIP) torch
	$(LOWEST_PIP) --editable '.[hf,plot,onnx,download,test]' $(PLUGINS)
	touch $@

docs: .venv/installed-for-tests
	$(BIN)/python docs/generate.py

# The pages of docs/ as a site in build/site; a link that leads nowhere fails (with --quiet, mkdocs counts no warnings).
site: .venv-site/installed
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build

.venv-site/installed: constraints.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt mkdocs-material
	touch $@

clean:
	rm -rf .venv .venv-lowest runs
