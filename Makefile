# What this needs: Python 3.11 or newer, pip, make. Everything else goes into .venv.
# Another interpreter: make test PYTHON=/path/to/python (after make clean)

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test test-races test-plone check model mutants mutations chaos pauses kills memory memory-upload log-cost interactive bench bench-full bench-publish demo format clean

PYTHON ?= $(shell for name in python3.15 python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
peers = $(foreach peer,$(1),.venv-bench-$(peer)/installed)
step = @printf '\n== %s\n' '$(1)'

# pyright comes whole from its package, and node from another: look for no newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

test: check ## all checks, then all tests, in two processes: make test JOBS=4
	$(call step,pytest)
	@$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist worksteal

test-races: .venv/installed-test ## a consumer that polls hard sees no task too early: make test-races RUNS=1000
	@RUNS=$(or $(RUNS),100) $(BIN)/python -m pytest tests/contract -k "races or nobody_sees"

check: .venv/installed-test ## style, types and layers, no tests
	$(call step,ruff check)
	@$(BIN)/ruff check
	$(call step,ruff format --check)
	@$(BIN)/ruff format --check
	$(call step,mypy)
	@$(BIN)/mypy taskqueue tests benchmarks
	$(call step,pyright)
	@$(BIN)/pyright --pythonpath $(BIN)/python
	$(call step,lint-imports)
	@$(BIN)/lint-imports --no-logo

test-plone: .venv-plone/installed ## Zope and Plone, on a real site, in an environment of their own: make test-plone RUNS=100
	@RUNS=$(or $(RUNS),20) .venv-plone/bin/python -m pytest tests/plone

model: .venv/installed-test ## model and real servers side by side: make model STEPS=1000000 SEED=7
	@SEED=$(or $(SEED),$$(date +%s)) STEPS=$(or $(STEPS),200000) $(BIN)/python -m pytest tests/model/test_model.py

mutants: .venv/installed-test ## every small fault in every script, which the model must see
	@$(BIN)/python -m tests.model.mutants

mutations: .venv/installed-test ## a million altered deliveries, of which none may be accepted: make mutations COUNT=20000
	@MUTATIONS=$(or $(COUNT),1000000) $(BIN)/python -m pytest tests/unit/test_signature_mutations.py

chaos: .venv/installed-test ## everything is killed at random under load: make chaos TASKS=1000000 KILLS=200 SEED=7
	@$(BIN)/python -m tests.chaos.run chaos --tasks $(or $(TASKS),20000) --kills $(or $(KILLS),20) $(if $(SEED),--seed $(SEED))

pauses: .venv/installed-test ## consumers are frozen beyond their lease and wake: make pauses PAUSES=10
	@$(BIN)/python -m tests.chaos.run pauses --pauses $(or $(PAUSES),1000) $(if $(SEED),--seed $(SEED))

kills: .venv/installed-test ## producers and relays of an outbox are killed between any two steps: make kills KILLS=200
	@KILLS=$(or $(KILLS),200) $(BIN)/python -m pytest tests/fault/test_outbox_kills.py

memory: .venv/installed-test ## how much memory a consumer takes (Linux)
	@$(BIN)/python -m tests.acceptance.memory

memory-upload: .venv/installed-test ## how much memory a door adds to an upload of 1 GiB
	@$(BIN)/python -m tests.acceptance.memory_upload

log-cost: .venv/installed-test ## what it costs to find tasks among 1,000 and among many: make log-cost TASKS=200000
	@$(BIN)/python -m tests.acceptance.log_cost $(or $(TASKS),1000000)

interactive: .venv/installed-test ## how long users wait while a consumer works in the web process
	@$(BIN)/python -m tests.acceptance.interactive $(or $(ROUNDS),3)

bench: .venv/installed-test $(call peers,loop arq taskiq) ## speed beside two other queues, 10 minutes: make bench ROUNDS=5
	@$(BIN)/python -m benchmarks --rounds $(or $(ROUNDS),5)

bench-full: .venv/installed-test $(call peers,loop arq taskiq saq docket celery) ## the same beside all of them, and a million tasks
	@$(BIN)/python -m benchmarks --plan full --rounds $(or $(ROUNDS),5)

bench-publish: .venv/installed-test ## put the last figures into docs/performance.md
	@$(BIN)/python -m benchmarks --publish

demo: .venv/installed-demo ## an application and a consumer at work; Ctrl-C ends it
	@$(BIN)/python examples/demo.py

format: .venv/installed-test ## let ruff mend what it can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean: ## remove the environment and what tools left behind
	rm -rf .venv .venv-plone .venv-bench-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist http_taskqueue.egg-info

# Either environment. Precious, or make would remove what it takes for a step on the way.
.PRECIOUS: %/bin/python
%/bin/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer with venv is needed; name one: make test PYTHON=...' >&2; exit 1; }
	$(call step,environment: $* with $(PYTHON))
	@$(PYTHON) -m venv $*

# Other queues need other versions of redis-py: each has an environment of its own.
.venv-bench-%/installed: benchmarks/requirements/%.txt | $(BIN)/python
	$(call step,install: $*)
	@$(BIN)/python -m venv .venv-bench-$*
	@.venv-bench-$*/bin/python -m pip install --quiet --quiet --requirement $<
	@touch $@

.venv/installed-%: pyproject.toml | $(BIN)/python
	$(call step,install: .[$*])
	@$(BIN)/python -m pip install --quiet --quiet --editable '.[$*]'
	@touch $@

.venv-plone/installed: pyproject.toml | .venv-plone/bin/python
	$(call step,install: .[test-plone])
	@.venv-plone/bin/python -m pip install --quiet --quiet --editable '.[test-plone]'
	@touch $@
