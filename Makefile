# make transfer: set up and run the main job.  make test: set up, lint and run the tests.  make docs: build the pages.
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv)# installs where it is there: make UV= leaves it out
PIP := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/pip install --disable-pip-version-check) --quiet --editable
# uv finds torch without CUDA where there is no NVIDIA card, on an index of PyTorch's own, which may be out of reach
INSTALL = $(if $(UV),UV_TORCH_BACKEND=$${UV_TORCH_BACKEND:-auto} $(PIP) $(1) || )$(PIP) $(1)

.PHONY: transfer test docs
transfer: .venv/.installed
	$(BIN)/python experiments/transfer.py

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call INSTALL,.)
	touch $@

.venv/.installed-dev: .venv/.installed
	$(call INSTALL,'.[dev]')
	touch $@
