# On a fresh clone run `make demo`: it builds .venv once, then runs the demonstration.

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Stamp files: the time of each is that of the last install of its kind.
DEMO := $(VENV)/.installed-demo
TEST := $(VENV)/.installed-test
DOCS := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## fit a mixture to the Old Faithful eruptions and explain its likelihood
	$(BIN)/mdn demo --out mdn-demo --force

test: lint ## lint, then run every test, docstring example and code block of the docs
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(TEST) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS) ## build the documentation as HTML in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean: ## remove all build products except .venv
	rm -rf build dist *.egg-info docs/_build mdn-demo
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find mdn tests docs experiments benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "mdn needs Python 3.11 or later; name one: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mdn and its dependencies into $(VENV) (once; a few minutes)"
	$(PIP) -e .
	@touch $@

# The extras include the plain install, so each of these stamps also counts for the demo.
$(TEST): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mdn and its test tools into $(VENV) (once; a few minutes)"
	$(PIP) -e ".[test]"
	@touch $(DEMO) $@

$(DOCS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mdn and its documentation tools into $(VENV) (once; a few minutes)"
	$(PIP) -e ".[docs]"
	@touch $(DEMO) $@
