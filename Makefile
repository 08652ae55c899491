# Everything runs in .venv/, which the first target that needs it sets up (.ci/setup_env.py).
#   PYTHON=python3.13   which Python makes .venv (3.11 or newer); `make clean` first to change it
#   ARGS="..."          handed on to the command, as in `make read ARGS=--no-browser`
#   NB=chapters/x.ipynb the chapters that run-nb, check-nb and environments look at (default: all)
#   LOOPS=4             how many endless loops `make busy` sets beside the tests
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
LOOPS ?= 4
NB ?= $(wildcard chapters/*.ipynb chapters/*/*.ipynb)

PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# The book opens at its index.
DOOR := $(firstword $(wildcard chapters/index.ipynb) chapters)
ROOT_USER := $(if $(filter 0,$(shell id -u)),--allow-root)
# Chapters are stored with their outputs, but without what differs from run to run.
NORMALISE := $(PY) -m nbstripout --keep-output --keep-count --keep-id \
	--extra-keys "metadata.widgets metadata.language_info.version cell.metadata.execution"

.DEFAULT_GOAL := help
.PHONY: help setup read test environments spread evidence busy mutants demo bench lint format run-nb check-nb clean

help: ## this list
	@echo "make TARGET [ARGS=...]"
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'

# Written last by the set-up: after an interruption the set-up runs again.
$(READY): pyproject.toml .ci/setup_env.py
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no '$(PYTHON)'; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" .ci/setup_env.py "$(VENV)"

setup: $(READY) ## create .venv and install everything (the other targets do so by themselves)

read: $(READY) ## open the book in JupyterLab (ARGS=--no-browser)
	$(PY) -m jupyterlab $(ROOT_USER) --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url="/lab/tree/$(DOOR)" $(ARGS)

test: lint check-nb ## run everything: style, tests, every cell of every chapter
	$(PY) -m pytest $(ARGS)

# A verdict must not hang on the order in which a processor adds, nor on who else uses the machine.
environments: $(READY) ## the chapters (NB=...) once in each of four numeric environments
	PYTHON=$(PY) .ci/environments $(PY) -m pytest -q $(NB) $(ARGS)

# What the claims' measurements spread over, beside the seeds. Only where a chapter or what it uses has changed.
spread: $(READY) ## the chapters (NB=...) in each numeric environment, what they measure kept in data/measured/
	set -e; for nb in $(filter-out %/index.ipynb %/ledger.ipynb %/references.ipynb,$(NB)); do \
	  SAR_RECORD=$$(basename "$$nb" .ipynb) PYTHON=$(PY) .ci/environments $(PY) -m pytest -q "$$nb" $(ARGS); \
	done
	$(VENV)/bin/sar ledger

# The second tier: longer training, more seeds. What is there and not older than its code is not run again.
evidence: $(READY) ## the chapters at full size, one job each, kept in data/measured/full/ (hours; Ctrl-C, go on later)
	$(VENV)/bin/sar measure --full $(ARGS)
	$(VENV)/bin/sar ledger

busy: $(READY) ## run everything while LOOPS=4 endless loops compete for the processors
	.ci/busy $(LOOPS) $(MAKE) test

mutants: $(READY) ## small mistakes in the core, one at a time: do the laws notice? (ARGS="100 0": how many, seed)
	$(PY) tests/mutants.py $(ARGS)

demo: $(READY) ## train SAR and AR on pinyin to hanzi, compare, then type your own (under 5 minutes)
	$(VENV)/bin/sar demo $(ARGS)

bench: $(READY) ## speed and memory beside other libraries
	$(VENV)/bin/sar bench $(ARGS)

lint: $(READY) ## check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY) ## repair style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# What a chapter measures for its claims goes into the ledger, and from there onto the ledger's page.
run-nb: $(READY) ## execute the chapters in place, normalise them, keep what they measured
	set -e; for nb in $(filter-out %/ledger.ipynb %/references.ipynb,$(NB)); do \
	  case "/$$nb" in */chapters/[0-9][0-9]_*) chapter=$$(basename "$$nb" .ipynb) ;; *) chapter= ;; esac; \
	  SAR_RECORD=$$chapter $(PY) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	    --ExecutePreprocessor.timeout=1200 --KernelManager.transport_encryption=auto "$$nb"; \
	  $(NORMALISE) "$$nb"; \
	done
	$(VENV)/bin/sar ledger

check-nb: $(READY) ## fail if a stored chapter is not normalised
	$(if $(NB),$(NORMALISE) --verify $(NB),@echo "no chapters yet")

clean: ## remove .venv and caches
	rm -rf "$(VENV)" .pytest_cache .ruff_cache *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
