# Two commands for a newcomer: `make run` (the demo) and `make test` (every check and test).
# Each sets up what it needs and works on its own.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test check bench bench-brokers clean

run: $(VENV)/.installed
	$(BIN)/mqttprov demo

test: check
	@tools/test-programs.sh
	@tools/vendor-venvs.sh $(PYTHON)
	@# Three on two cores: much of a test is waiting for brokers and vendors' clients.
	$(BIN)/python -m pytest -n 3 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python bench/registration.py

bench-brokers: $(VENV)/.dev
	$(BIN)/python bench/brokers.py

$(VENV)/bin/python:
	@tools/ensure-venv.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

clean:
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis
