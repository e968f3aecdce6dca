# Every command that a person needs.
PYTHON ?= python3
BIN := .venv/bin

run: .venv/run ## Start on port 10000; without a key, the demonstration
	@$(BIN)/python run.py

test: .venv/dev ## Run all the tests
	@$(BIN)/python -m pytest

check: .venv/dev ## Format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: .venv/dev ## Measure; prints tables of ratios
	@$(BIN)/python -m bench

format: .venv/dev ## Put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.venv/run: requirements.txt
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --requirement requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt requirements.txt
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --requirement requirements-dev.txt
	@touch $@ .venv/run

.PHONY: run test check bench format
