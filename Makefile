# make transfer: set up and run the main job.  make test: set up, lint and run the tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --editable

.PHONY: transfer test
transfer: .venv/.installed
	$(BIN)/python experiments/transfer.py

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2

.venv/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) '.[dev]'
	touch $@
