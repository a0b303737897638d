# Everything below creates the environment it needs; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench clean

# PyTorch goes first and by its constraint: asked for by another package, it may bring gigabytes of CUDA along. Where
# pip is to find its CPU build, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"echoembed needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot]'
	touch $@

# What tests, lint and docs need besides.
.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot,peft,eval]' --group dev
	touch $@

demo: .venv/installed  ## Embed the texts in examples/ and show what echo finds and classical misses.
	$(BIN)/python examples/demo.py

test: .venv/installed-dev  ## The whole test suite, offline.
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed-dev  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev  ## Run every example in README.md and docs/, and compare every shown output.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest docs/test_docs.py

bench: .venv/installed-dev  ## Time the engine against sentence-transformers; minutes on an idle machine.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/engine.py --quick --out benchmarks/results

clean:
	rm -rf .venv
