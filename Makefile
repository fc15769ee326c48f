# Every target sets up what it needs, once: .venv is made by .ci/setup and stamped.
SHELL := /bin/bash
PYTHON := .venv/bin/python
STAMP := .venv/.installed
SIZE ?= tiny
OPEN ?= true

export RAY_USAGE_STATS_ENABLED ?= 0
export PYTHONUNBUFFERED := 1
# Without compiled files every process of the cluster compiles its imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo stop test check web screenshot clean-runs

help:
	@echo "make demo        the whole road at '$(SIZE)' size, then the chat page in your browser (SIZE=tiny OPEN=true)"
	@echo "make stop        end exactly what 'make demo' started"
	@echo "make test        all tests; needs no network"
	@echo "make check       format, lint, types, import contracts, module and function sizes"
	@echo "make web         builds the chat page (serve/web) with Node; the built files are in the repository"
	@echo "make screenshot  the README's picture of the chat page, from the service at URL"
	@echo "make clean-runs  delete runs/ (datasets, checkpoints, reports)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt overrides-cpu.txt .ci/setup
	@.ci/setup
	@touch $@

demo: $(STAMP)
	@$(PYTHON) -m jobs.run_road --config $(SIZE) --set open_page=$(OPEN)

stop:
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m jobs.run_road --stop --config $(SIZE); \
	else echo "nothing to stop: there is no .venv, so nothing was started from here"; fi

test: $(STAMP)
	@.ci/test

check: $(STAMP)
	@.ci/check

web:
	@command -v npm >/dev/null || { echo "web: npm is missing (Node 20 or newer)" >&2; exit 1; }
	@cd serve/web && npm install --no-package-lock && npm run build

screenshot: $(STAMP)
	@$(PYTHON) docs/screenshot.py --url $(or $(URL),$(error give the address that make demo printed: make screenshot URL=http://...))

clean-runs:
	@if [ -x $(PYTHON) ] && [ -d runs ]; then $(PYTHON) -m jobs.run_road --stop --config $(SIZE) || true; fi
	@rm -rf runs && echo "runs/ is gone"
