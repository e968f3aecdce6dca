# Every command that a person needs.
PYTHON ?= python3
BIN := .venv/bin

run: .venv/run ## Start on port 10000; without a key, the demonstration
	@if $(BIN)/python -c '$(NOTHING_SET)'; then \
		export UPSTREAM=scripted; \
		echo "=============================== DEMONSTRATION ==============================="; \
		echo "No key is set, so no model is asked: every reply is scripted, and says so."; \
		echo "For real replies, put one of these into a file named .env and start again:"; \
		echo "  OPENAI_API_KEY=sk-...                       for OpenAI"; \
		echo "  OPENAI_BASE_URL=http://localhost:11434/v1   for any OpenAI-compatible server"; \
		echo "============================================================================="; \
	fi; \
	exec $(BIN)/python run.py

test: .venv/dev ## Run all the tests
	@$(REDIS)
	@$(BIN)/python -m pytest

check: .venv/dev ## Format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

chaos: .venv/dev ## Kill servers, and Redis, again and again, and look for what was lost
	@$(REDIS)
	@$(BIN)/python -m tests.chaos \
		$(if $(SEED),--seed $(SEED)) \
		$(if $(SQLITE_KILLS),--sqlite $(SQLITE_KILLS)) \
		$(if $(REDIS_KILLS),--redis $(REDIS_KILLS))

bench: .venv/dev ## Measure; prints tables of ratios
	@$(BIN)/python -m bench

format: .venv/dev ## Put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.venv/run: requirements.txt
	@$(INSTALL) requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt requirements.txt
	@$(INSTALL) requirements-dev.txt
	@touch $@ .venv/run

# Succeeds where neither the environment nor .env says who is to write the replies.
define NOTHING_SET
import os, sys, dotenv; known = {**dotenv.dotenv_values(".env"), **os.environ}; \
sys.exit(any(known.get(name) for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "UPSTREAM")))
endef

# Debian's package of Redis, where there is none and this user may install it. The tests start their own servers.
define REDIS
command -v redis-server > /dev/null || command -v valkey-server > /dev/null || { \
	echo "Installing redis-server for the tests."; \
	if [ "$$(id -u)" = 0 ]; then may=; else may="sudo -n"; fi; \
	{ $$may apt-get update && $$may apt-get install --yes --no-install-recommends redis-server; } > /dev/null 2>&1 \
		|| echo "It cannot be installed here: the tests that need it are skipped, and fail where CI=true."; \
}
endef

define INSTALL
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")' \
	&& echo "Installing into .venv; this takes a minute, once." \
	&& $(PYTHON) -m venv .venv \
	&& $(BIN)/pip install --quiet --disable-pip-version-check --requirement
endef

.PHONY: run test check chaos bench format
