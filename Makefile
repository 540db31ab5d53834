# The contract: what is not a target here is not a habit. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

SWEEP    ?= sweeps/quickstart.toml
DATA     ?=
OUT      ?= results/$(basename $(notdir $(SWEEP)))
LAUNCHER ?= local
JOBS     ?=
ARGS     ?=

.DEFAULT_GOAL := help
.PHONY: help setup sweep tables test lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: SWEEP=$(SWEEP) DATA=$(DATA) OUT=$(OUT) LAUNCHER=$(LAUNCHER) JOBS=$(JOBS)"

setup: $(STAMP) ## create .venv with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

sweep: $(STAMP) ## run a study (SWEEP=, DATA=, OUT=, LAUNCHER=, JOBS=), then print its tables
	$(BIN)/sfmoe-dg sweep '$(SWEEP)' --output_dir '$(OUT)' --launcher '$(LAUNCHER)' \
	  $(if $(DATA),--data_dir '$(DATA)') $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

tables: $(STAMP) ## print and write the tables of a study that has run (OUT=)
	$(BIN)/sfmoe-dg collect --input_dir '$(OUT)'
	$(BIN)/sfmoe-dg collect --input_dir '$(OUT)' --save

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## measure speed, as ratios
	$(BIN)/python bench/moe_layer.py $(ARGS)

clean: ## remove the environment, caches and build products; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
