# Everything happens in .venv; stamps make the second run of a target install nothing again.
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/.stamps

.DEFAULT_GOAL := help
.PHONY: help install demo test lint fmt check bench

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMPS)/dev  ## Set up .venv with zsclip and all that its tests need.

$(STAMPS)/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[heic,hf,parquet,train]' --group dev
	mkdir -p $(STAMPS) && touch $@

demo: install  ## Classify pictures with a small model, as table and as JSONL.
	$(BIN)/python tests/demo.py

test: install  ## Run the tests.
	$(BIN)/python -m pytest -m "not gpu"

lint: install  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: install  ## Put the code into its standard form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test  ## What CI runs.

bench: install  ## Time zsclip against a plain open_clip script.
	$(BIN)/python tests/bench/against_open_clip.py
