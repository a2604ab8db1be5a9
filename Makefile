# Two commands: `make figures` and `make test`. Each makes a virtual environment, installs the pinned packages and runs.
#
#   PYTHON=python3.12     the interpreter (3.11 or 3.12) that makes the environment
#   PIP_ARGS="..."        options for pip, for example the index of CPU-only builds of torch
#   CORES=all             cores that Snakemake may use
#   ARGS="..."            further options for snakemake (or pytest): make figures ARGS="--config preset=quick"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
CORES ?= all
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
CUDA_EXTRA := cuda

.DEFAULT_GOAL := help
.PHONY: help setup figures results claims cusnn report plan doctor test test-slow test-smoke test-gpu bench-method lint docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the virtual environment and install the pinned packages

$(STAMP): pyproject.toml envs/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else "frugal needs Python 3.11 or 3.12, but $(PYTHON) is %d.%d: call make PYTHON=python3.11 (or another path)" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint envs/constraints.txt --editable '.[$(CUDA_EXTRA),test]'
	@touch $@

figures: $(STAMP) ## every figure, from download to picture (results/figures)
	@$(BIN)/frugal refresh
	$(SNAKEMAKE) $(ARGS) -- figures

results: $(STAMP) ## the aggregated Parquet tables only (results/*.parquet)
	@$(BIN)/frugal refresh
	$(SNAKEMAKE) $(ARGS) -- results

claims: $(STAMP) ## the papers' claims, judged here (results/claims.parquet)
	@$(BIN)/frugal refresh
	$(SNAKEMAKE) $(ARGS) -- claims

cusnn: $(STAMP) ## the figures of cuSNN only
	@$(BIN)/frugal refresh
	$(SNAKEMAKE) $(ARGS) -- cusnn

report: $(STAMP) ## one HTML page over the whole campaign (results/report.html)
	@$(BIN)/frugal refresh
	$(SNAKEMAKE) $(ARGS) -- report

plan: $(STAMP) ## jobs, minutes, disk and memory, before anything runs
	@$(SNAKEMAKE) --quiet all $(ARGS) -- plan

doctor: $(STAMP) ## what a campaign needs of this machine, and what to type to mend it
	@$(SNAKEMAKE) --quiet all $(ARGS) -- doctor

lint: $(STAMP) ## ruff, snakefmt, snakemake --lint, generated files in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/python -m frugal.docs --check

test: $(STAMP) lint ## lint and tests, two at a time (27 minutes on 2 cores)
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP) ## the long checks of what quick tests check too
	$(BIN)/pytest -m slow -n 2 $(ARGS)

test-smoke: $(STAMP) ## the whole default campaign from an empty folder
	$(BIN)/pytest -m smoke $(ARGS)

test-gpu: $(STAMP) ## the tests that need an NVIDIA GPU
	$(BIN)/pytest -m gpu $(ARGS)

bench-method: $(STAMP) ## what the method costs: host time a sample and a launch, CPU share, a million samples
	$(BIN)/python -m tests.method.overhead $(ARGS)
	$(BIN)/python -m tests.method.records_cost
	$(BIN)/python -m tests.kernels.launch_cost

docs: $(STAMP) ## write what is generated: config.yaml, its schema, the tables in docs/
	$(BIN)/python -m frugal.docs --write

clean: ## remove what a run makes; the environment, downloads and recorded campaigns stay
	rm -rf logs benchmarks .snakemake
	find results -mindepth 1 -maxdepth 1 ! -name recorded -exec rm -rf {} +
