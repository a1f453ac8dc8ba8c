# Everything happens in .venv; stamps make the second run of a target install nothing again.
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/.stamps

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu lint fmt check bench train-tiny accuracy

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMPS)/dev  ## Set up .venv with zsclip and all that its tests need.

$(STAMPS)/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev --group demo
	mkdir -p $(STAMPS) && touch $@

demo: install  ## Classify photographs with the bundled model, as tables and as JSONL.
	$(BIN)/python tests/demo.py

test: install  ## Run the tests.
	$(BIN)/python -m pytest -m "not gpu and not slow"

test-slow: install  ## Run the tests that take minutes: kills at random moments, 20,000 damaged images.
	$(BIN)/python -m pytest -m slow

test-gpu: install  ## Run the tests that need CUDA.
	$(BIN)/python -m pytest -m gpu

lint: install  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: install  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test  ## What CI runs.

bench: install $(STAMPS)/peers  ## Time zsclip against what users would run otherwise.
	$(BIN)/python tests/bench/against_others.py
	$(BIN)/python tests/bench/queries.py
	$(BIN)/python tests/bench/planning.py
	$(BIN)/python tests/bench/actors.py

$(STAMPS)/peers:
	$(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet 'open_clip_torch>=3.3,<4' 'pybioclip>=2.1' 'transformers>=4.45' \
		'rclip>=3.3'
	touch $@

# If it is killed, run the same command again to continue. .tiny/model is what zsclip/data/tiny holds.
train-tiny: install  ## Make the bundled model: make train-tiny DATA=folder with train/ and classes.tsv.
	$(BIN)/python tests/tiny/make.py $(DATA) --work .tiny

accuracy: install  ## Measure the bundled model: make accuracy DATA=folder with val/ and photos/.
	$(BIN)/python tests/bench/accuracy.py $(DATA)
