# Every command that a person needs.
PYTHON ?= python3
BIN := .venv/bin
# How many files of tests are run beside each other: some of them wait.
BESIDE ?= $$(($$(getconf _NPROCESSORS_ONLN) + 1))

# With it, each start of a server would compile the server anew.
unexport PYTHONDONTWRITEBYTECODE

run: .venv/run ## Start on port 10000; without a model key, the demonstration
	@if $(BIN)/python -c '$(NOTHING_SET)' 2> /dev/null; then \
		export UPSTREAM=scripted; \
		echo "=============================== DEMONSTRATION ==============================="; \
		echo "No model key is set, so no model is asked: replies are scripted, and say so."; \
		echo "For real replies, put one of these into a file named .env and start again:"; \
		echo "  OPENAI_API_KEY=sk-...                       for OpenAI"; \
		echo "  OPENAI_BASE_URL=http://localhost:11434/v1   for any OpenAI-compatible server"; \
		echo "============================================================================="; \
	fi; \
	exec $(BIN)/python run.py

chat: .venv/chat ## Talk with the running server, in this terminal; PORT=8000 if it is on another port
	@exec $(BIN)/python -m terminal chat

test: .venv/dev redis chromium fonts litellm tests/node/node_modules scripts/postman/node_modules ## Run all the tests
	@$(BIN)/python -m pytest --numprocesses $(BESIDE) --dist loadfile --no-loadscope-reorder

check: .venv/dev ## Format, lint, types and the Dockerfile
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile

audit: .venv/audit/done ## Ask PyPI for known vulnerabilities of the packages in use; needs the network
	@$(PYTHON) scripts/audit.py .venv/audit/bin/pip-audit

chaos: .venv/dev redis ## Kill servers, and Redis, again and again, and look for what was lost
	@$(BIN)/python -m tests.chaos \
		$(if $(SEED),--seed $(SEED)) \
		$(if $(SQLITE_KILLS),--sqlite $(SQLITE_KILLS)) \
		$(if $(REDIS_KILLS),--redis $(REDIS_KILLS))

soak: .venv/dev ## 1,000 clients ask for twelve minutes, while workers are killed and somebody floods
	@$(BIN)/python -m tests.soak

bench: .venv/dev ## Measure; prints tables of ratios
	@$(BIN)/python -m bench

bench-litellm: .venv/dev .venv/litellm/done ## Measure beside LiteLLM's proxy, which takes a minute to install
	@$(BIN)/python -m bench litellm

format: .venv/dev ## Put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

vendor: ## Fetch the files of others that the pages use again, and check them; needs npm
	@$(PYTHON) scripts/fetch_vendor.py

postman: scripts/postman/node_modules ## Write docs/postman_collection.json anew from the OpenAPI documents; needs npm
	@$(PYTHON) -m scripts.generate_postman

screenshots: .venv/dev chromium fonts ## Take the pictures of the page and the terminal that README and docs/ show
	@$(BIN)/python -m scripts.screenshots

redis:
	@command -v valkey-server > /dev/null || { $(call DEBIAN,redis-server,redis-server); }

chromium:
	@$(call DEBIAN,chromium,chromium)

fonts:
	@test -e /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc || { $(call APT,fonts-noto-cjk); }
	@test -e /usr/share/fonts/truetype/noto/NotoSansMono-Regular.ttf || { $(call APT,fonts-noto-mono); }

# The tests tell what they miss where it cannot be installed. `make`, since with -n a $(MAKE) would be run.
litellm:
	@make --silent .venv/litellm/done || true

tests/node/node_modules: $(wildcard tests/node/package-lock.json)
scripts/postman/node_modules: $(wildcard scripts/postman/package-lock.json)
tests/node/node_modules scripts/postman/node_modules:
	@$(call DEBIAN,npm,nodejs npm)
	@! command -v npm > /dev/null || npm ci --silent --no-audit --no-fund --prefix $(@D) && touch -c $@ || true

.venv/run: requirements.txt
	@$(INSTALL) requirements.txt
	@touch $@

.venv/chat: requirements-terminal.txt
	@$(INSTALL) requirements-terminal.txt
	@touch $@

.venv/dev: requirements-dev.txt requirements.txt requirements-terminal.txt
	@$(INSTALL) requirements-dev.txt
	@touch $@ .venv/run .venv/chat

.venv/litellm/done:
	@echo "Installing LiteLLM's proxy into .venv/litellm; this takes a minute, once."
	@$(PYTHON) -m venv .venv/litellm && .venv/litellm/bin/pip install --quiet --disable-pip-version-check 'litellm[proxy]==1.108.7'
	@touch $@

.venv/audit/done:
	@echo "Installing pip-audit into .venv/audit; this takes a minute, once."
	@$(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

# Succeeds where neither the environment nor .env says who is to write the replies.
define NOTHING_SET
import os, sys, dotenv; known = {**dotenv.dotenv_values(".env", encoding="utf-8-sig"), **os.environ}; \
sys.exit(any(known.get(name) for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LLM_SERVER_URL", "UPSTREAM")))
endef

# Installs Debian's package $(2) where its command $(1) is missing and who runs this may. Where not, the tests tell.
define DEBIAN
command -v $(1) > /dev/null || { $(call APT,$(2)); }
endef

define APT
sudo=$$(test "$$(id -u)" = 0 || echo sudo -n); \
	{ command -v apt-get > /dev/null && $$sudo true 2> /dev/null && echo "Installing $(1)." \
	&& $$sudo apt-get -qq update \
	&& $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $(1) > /dev/null; } || true
endef

define INSTALL
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")' \
	&& echo "Installing into .venv; this takes a minute, once." \
	&& $(PYTHON) -m venv .venv \
	&& $(BIN)/pip install --quiet --disable-pip-version-check --requirement
endef

.PHONY: run chat test check audit chaos soak bench bench-litellm format vendor postman screenshots redis chromium fonts litellm
