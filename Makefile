# Everything below creates the environment it needs; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench clean

# PyTorch goes first and by its constraint: asked for by another package, it may bring gigabytes of CUDA along.
.venv.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"echoembed needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot,peft]' --group dev
	touch .venv.stamp

demo: .venv.stamp  ## Embed the texts in examples/ and show what echo finds and classical misses.
	$(BIN)/python examples/demo.py

test: .venv.stamp  ## The whole test suite, offline.
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv.stamp  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv.stamp  ## Run every example in README.md and docs/, and compare every shown output.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest docs/test_docs.py

clean:
	rm -rf .venv .venv.stamp
