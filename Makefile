# One command each. `.venv` is made from nothing, by python3 and pip, and made again when the pins change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes that run the tests.
JOBS ?= 2
# How long `make soak` trains, and how often.
MINUTES ?= 60
RUNS ?= 1000

.PHONY: torture soak help train test test-all fuzz lint format bench docs clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

train: $(VENV)/.installed  ## train a deep recurrent network on film reviews
	$(BIN)/rnnlab train $(ARGS)

test: $(VENV)/.installed  ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed  ## run every test, the slow ones too
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

fuzz: $(VENV)/.installed  ## hold thousands of random cells to the reference
	RNNLAB_FUZZ=3000 RNNLAB_FUZZ_COMPILED=3080 $(BIN)/python -m pytest -n 2 tests/recurrence/test_random_cells.py $(ARGS)

torture: $(VENV)/.installed  ## kill a hundred training runs, and look at their checkpoints
	RNNLAB_TORTURE=100 $(BIN)/python -m pytest -q tests/torture $(ARGS)

soak: $(VENV)/.installed  ## an hour of training and a thousand runs in one process; MINUTES=60 RUNS=1000
	$(BIN)/python tests/torture/soak.py long build/soak --minutes $(MINUTES)
	$(BIN)/python tests/torture/soak.py many build/soak --runs $(RUNS)

lint: $(VENV)/.installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## measure the CPU kernels on this machine
	$(BIN)/rnnlab bench cpu $(ARGS)

docs: $(VENV)/.installed  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove what these commands made, but not runs/
	rm -rf $(VENV) build dist site rnnlab.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "rnnlab needs Python 3.11, 3.12 or 3.13; this is %d.%d: make PYTHON=python3.12 ..." % v)'
	@echo 'making $(VENV): PyTorch and what else is needed; minutes the first time'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,tensorboard]'
	@touch $@
