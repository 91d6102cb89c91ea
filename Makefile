# tokbench: see README.md. A GPU is used when there is one, with no other command.
PYTHON ?= python3
BIN := .venv/bin
EXPERIMENT ?= default
SEEDS ?=
ARGS ?=
HOURS ?= 3

.DEFAULT_GOAL := help
.PHONY: help sweep run test lint bench rd tables claims clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
	@echo 'EXPERIMENT=NAME chooses experiments/NAME.yaml for sweep; SEEDS=3 gives it the seeds 0, 1, 2.'
	@echo 'ARGS="quantizer=vq seed=1" are passed to run, sweep and test.'

sweep: .venv/done ## run a comparison (EXPERIMENT=default), print its table and where it is written
	$(BIN)/python -m tokbench.run -m experiments=$(EXPERIMENT) $(if $(SEEDS),'seed=range($(SEEDS))') $(ARGS)

run: .venv/done ## one run, for example make run ARGS="quantizer=vq_tuned"
	$(BIN)/python -m tokbench.run $(ARGS)

test: .venv/done ## the whole test suite, two processes of one thread
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/done ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/done ## speed, as ratios within one run; use a quiet machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m tests.bench

rd: .venv/done ## rate and distortion: page, table, plot (KODAK=PATH measures the image codecs there first)
	$(if $(KODAK),$(BIN)/python -m tokbench.information.codecs $(KODAK))
	$(BIN)/python -m tokbench.report.rate_distortion

tables: .venv/done ## results/runs to tables and pictures
	$(BIN)/python -m tokbench.report

claims: .venv/done ## runs that the claims still miss, for HOURS=3, and their verdicts in results/claims.md
	$(BIN)/python -m tokbench.claims --hours $(HOURS) $(ARGS)

clean: ## remove the environment and all caches; results stay
	rm -rf .venv .cache .pytest_cache .ruff_cache .mypy_cache *.egg-info

.venv/done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("tokbench needs Python 3.11 or newer, got " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
