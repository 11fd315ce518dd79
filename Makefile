# Every target does its own set-up; nothing is needed but make and a Python of at least 3.11 with pip and venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The packages of development with their hashes; empty: the newest that fit.
LOCK   ?= .ci/requirements-dev.txt
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Tocsin needs Python 3.11 or newer; this is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $@"; exit 1; }

.PHONY: help install demo quick check test lint format fuzz chaos bench docs schema pictures matrix release clean

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort

install: $(VENV)/.installed  ## make .venv with Tocsin and what its development needs

$(VENV)/.installed: pyproject.toml .ci/requirements-dev.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCK),--require-hashes -r $(LOCK),--editable '.[dev]')
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# The demo needs no development tools: where there is no .venv yet, it gets an environment of its own.
DEMO   := $(if $(wildcard $(VENV)/.installed),$(VENV),.venv-demo)

demo: $(DEMO)/.installed  ## an emulated DSS, the daemon and local inboxes for mail, Slack and PagerDuty, all on this machine
	@$(DEMO)/bin/tocsin demo $(ARGS)

.venv-demo/.installed: pyproject.toml
	@$(CHECK_PYTHON)
	@echo "Installing what the demo needs into .venv-demo: about 90 MB, once."
	@$(PYTHON) -m venv .venv-demo
	@.venv-demo/bin/python -m pip install --disable-pip-version-check --no-compile --editable . | sed -un 's/^Collecting \([^ (]*\).*/  \1/p; s/^Installing.*/  installing …/p; /^ERROR/p'
	@.venv-demo/bin/tocsin --version && touch $@

quick: install   ## the unit tests, in under a minute: nothing that starts a process or waits
	$(if $(wildcard /dev/shm),TMPDIR=/dev/shm) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not e2e and not slow" $(ARGS)

check: lint quick  ## what must hold before every commit: lint and the unit tests

test: install    ## all tests
	$(BIN)/python -m pytest $(ARGS)

lint: install    ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=daemon $(BIN)/lint-imports --no-cache

format: install  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: install    ## routing against amtool on thousands of random trees; nonsense at the HTTP API for ten minutes
	TOCSIN_FUZZ_TREES=5000 TOCSIN_FUZZ_SECONDS=600 $(BIN)/python -m pytest --timeout 3600 \
	  tests/routing/test_routing_amtool.py tests/e2e/test_e2e_fuzz.py $(ARGS)

chaos: install   ## kills and faults at random; then the node's ledger and what was told must agree (--seed, --minutes)
	$(BIN)/python -m tests.e2e.chaos $(ARGS)

bench: install   ## the figures of bench/README.md
	$(BIN)/python -m bench

matrix:          ## the tests on Python 3.11, 3.12 and 3.13 where they are, and on SQLite and PostgreSQL
	.ci/matrix $(ARGS)

release:         ## dist/: wheel, sdist, bill of materials, chart, image context, notes; and the wheel tried
	.ci/release

clean:           ## remove what the targets made
	rm -rf $(VENV) .venv-demo .venv-matrix .venv-release .pytest_cache .mypy_cache .ruff_cache .coverage* htmlcov dist

docs: install    ## the references, from the code
	$(BIN)/python docs/generate.py

pictures: install  ## the messages of docs/messages.md as each service shows them, and the console, drawn by Chromium
	PYTHONPATH=daemon $(BIN)/python docs/images/make.py

schema: install  ## the JSON Schemas beside the reference configuration
	$(BIN)/python -c 'from tocsin.config.schema import *; print(json_schema_text(json_schema()), end="")' > config/tocsin.schema.json
	$(BIN)/python deploy/helm/config_schema.py
	$(BIN)/python -c 'from tocsin.config.schema import *; print(json_schema_text(included_json_schema()), end="")' > config/include.schema.json
