# SPDX-License-Identifier: Apache-2.0
#
# The commands of the README. Each does its own set-up: tools/provision for what pip cannot install,
# then a virtual environment in .venv with the locked versions. A second run reuses both.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell tools/provision --python)
DRIVER ?= overlay
PYTEST ?=

BIN := .venv/bin
STAMP := .venv/.complete
QUIET := -qq --no-compile

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# The tests start mountcr thousands of times; compiling it each time is most of such a start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## show this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  variables: DRIVER=vfs (or unionfs, …) for demo, PYTEST='-k word' for test, PYTHON=python3.12,"
	@echo "  MOUNTCR_PREFIX=$${MOUNTCR_PREFIX:-/opt/mountcr}, MOUNTCR_REQUIRE=all (see CONTRIBUTING.md)"

.PHONY: demo
demo: $(STAMP) ## dump a container on an overlay, rebuild it on DRIVER, restore it (root)
	@$(BIN)/mountcr demo --driver $(DRIVER)

LINT = wrong=0; $(BIN)/ruff format --check . || wrong=1; \
	$(BIN)/ruff check . || wrong=1; [ $$wrong -eq 0 ]

# Node.js comes with pyright's extra for the common machines; elsewhere mypy alone has to do.
TYPE = wrong=0; $(BIN)/mypy || wrong=1; \
	if [ -z "$$MOUNTCR_REQUIRE" ] && ! $(BIN)/pyright --version >/dev/null 2>&1; \
	then echo "make: pyright cannot start here" >&2; \
	else $(BIN)/pyright --pythonpath $(BIN)/python || wrong=1; fi; [ $$wrong -eq 0 ]

.PHONY: test
test: $(STAMP) ## run the linters, the type checkers and every test that this machine can run
	@status=0; { $(LINT); } || status=1; \
	{ $(TYPE); } || status=1; \
	$(BIN)/python -m pytest -m 'not long' $(PYTEST) || status=1; exit $$status

.PHONY: lint
lint: $(STAMP) ## run ruff, as formatter and as linter
	@$(LINT)

.PHONY: type
type: $(STAMP) ## run mypy and pyright
	@$(TYPE)

.PHONY: provision
provision: ## install what pip cannot: CRIU, runc, FUSE daemons (Debian; root)
	@PYTHON='$(PYTHON)' tools/provision || echo "make: going on without what is missing" >&2

.PHONY: venv
venv: $(STAMP) ## make the virtual environment

$(STAMP): pyproject.toml requirements.lock | provision
	@test -n '$(PYTHON)' || { echo "make: there is no Python 3.11 or newer" >&2; exit 1; }
	@echo "making .venv with $(PYTHON) and the versions of requirements.lock"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install $(QUIET) --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install $(QUIET) --no-deps --no-build-isolation --editable .
	@touch $@

LOCK := pip compile --quiet --no-config --universal --python-version 3.11 --upgrade \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' pyproject.toml

.PHONY: lock
lock: ## renew requirements.lock and requirements-tests.lock
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(PYTHON) -m venv "$$scratch" && "$$scratch/bin/pip" install $(QUIET) uv && \
	"$$scratch/bin/uv" $(LOCK) --group dev -o requirements.lock && \
	"$$scratch/bin/uv" $(LOCK) --group tests -c requirements.lock -o requirements-tests.lock

.PHONY: clean
clean: ## remove what was built here; what provision installed stays
	rm -rf .venv .tox .hypothesis .mypy_cache .ruff_cache dist build
	find mountcr drivers tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
