.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all lint bench clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One installation serves every target; it is made anew when what it is made from changes.
INSTALLED := $(VENV)/.installed

help: ## list the targets
	@grep -E "^[a-z-]+: .*##" $(MAKEFILE_LIST) | sed "s/:.*## /\t/" | expand -t 14

setup: $(INSTALLED) ## a virtual environment in .venv with everything that quickstart and test need

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[web,report,browse,scale,semantic,nlp,language,quant,tracking,dev]"
	@touch $@

quickstart: $(INSTALLED) ## the whole road on the embedded teacher and a tiny LLaMA; ends with its score
	$(BIN)/alpaca run --recipe quickstart

test: $(INSTALLED) ## what must pass before a commit (no GPU, no network)
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not slow"

test-all: $(INSTALLED) ## every test, the slow ones too
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: $(INSTALLED) ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED) ## the figures of the README, each against a named peer
	for script in quickstart generate dedup stats train chat; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean: ## caches only; never a run, never the environment
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path "./$(VENV)/*" -exec rm -rf {} +
