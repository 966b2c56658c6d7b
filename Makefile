# One command each; `.venv` is made from nothing and reused.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: train test test-all lint format bench docs clean help

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,tensorboard]"
	@touch $@

train: $(VENV)/.installed  ## train a deep LSTM on movie reviews
	$(BIN)/rnnlab train $(ARGS)

test: $(VENV)/.installed  ## run the tests
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-all: $(VENV)/.installed  ## run every test, slow ones included
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(VENV)/.installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## measure the kernels against torch.nn on this machine
	$(BIN)/rnnlab bench cpu $(ARGS)

docs: $(VENV)/.installed  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove what the other commands made, but not runs/
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
