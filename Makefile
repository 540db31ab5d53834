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
DATASETS ?=
ABLATION ?= sweeps/ablation_quick.toml
THREADS  ?= 1
PAPER    ?= $(wildcard analysis/*.py)
WHAT     ?= all
ARGS     ?=
# A script's exit code where a study has nothing for its figure.
NOT_APPLICABLE := 3

.DEFAULT_GOAL := help
.PHONY: help setup data sweep tables figures report test test-slow lint bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: SWEEP=$(SWEEP) DATA=$(DATA) OUT=$(OUT) LAUNCHER=$(LAUNCHER) JOBS=$(JOBS)"

setup: $(STAMP) ## create .venv with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 setup" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

data: $(STAMP) ## download, prepare and check data sets (DATASETS="PACS CUB-DG", DATA=); the cards are in datasets/
	@test -n '$(DATASETS)' -a -n '$(DATA)' || { echo 'say which and where: make data DATASETS="PACS VLCS" DATA=DIR' >&2; exit 2; }
	@plain() { echo "$$1" | tr 'A-Z' 'a-z' | tr -d '_-'; }; status=0; \
	for name in $(DATASETS); do \
	  script=; for file in datasets/*.py; do \
	    if [ "$$(plain "$$(basename "$$file" .py)")" = "$$(plain "$$name")" ]; then script=$$file; fi; done; \
	  test -n "$$script" || { echo "no script for $$name; there are: $$(ls datasets/*.py | tr '\n' ' ')" >&2; exit 2; }; \
	  $(BIN)/python "$$script" --out '$(DATA)' $(ARGS) || status=$$?; \
	done; exit $$status

sweep: $(STAMP) ## run a study (SWEEP=, DATA=, OUT=, LAUNCHER=, JOBS=), then print its tables
	$(BIN)/sfmoe-dg sweep '$(SWEEP)' --output_dir '$(OUT)' --launcher '$(LAUNCHER)' \
	  $(if $(DATA),--data_dir '$(DATA)') $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

tables: $(STAMP) ## print and write the tables of a study that has run (OUT=)
	$(BIN)/sfmoe-dg collect --input_dir '$(OUT)'
	$(BIN)/sfmoe-dg collect --input_dir '$(OUT)' --save

figures: $(STAMP) ## draw the papers' figures (PAPER=) and all analyses (WHAT=) of a study (OUT=, DATA=, THREADS=; ABLATION= for none)
	$(if $(ABLATION),$(BIN)/sfmoe-dg sweep '$(ABLATION)' --output_dir '$(OUT)/figures/ablation' $(if $(JOBS),--jobs $(JOBS)))
	@for script in $(PAPER); do \
	  run='$(OUT)'; case "$$script" in *ablation*) run='$(OUT)$(if $(ABLATION),/figures/ablation)';; esac; \
	  status=0; $(BIN)/python "$$script" "$$run" --output_dir '$(OUT)/figures' --threads $(THREADS) \
	    $(if $(DATA),--data_dir '$(DATA)') $(ARGS) || status=$$?; \
	  test $$status -eq 0 -o $$status -eq $(NOT_APPLICABLE) || exit $$status; \
	done
	$(if $(WHAT),$(BIN)/sfmoe-dg analyze '$(OUT)' --what $(WHAT) --output_dir '$(OUT)/figures' --threads $(THREADS) $(if $(DATA),--data_dir '$(DATA)') $(ARGS))

report: $(STAMP) ## write one page that shows a study and lets one look into its models (OUT=, DATA=)
	$(BIN)/sfmoe-dg report --output_dir '$(OUT)' $(if $(DATA),--data_dir '$(DATA)') $(ARGS)

test: $(STAMP) ## run the tests, but for the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not slurm' $(ARGS)

test-slow: $(STAMP) ## run the slow tests: several processes, a real Slurm where it is installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow or slurm' $(ARGS)

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## measure speed, as ratios
	$(BIN)/python bench/moe_layer.py --threads 1 --cpu-time --models $(ARGS)
	$(BIN)/python bench/moe_layer.py --threads 1 --cpu-time --width 768 --experts 32 $(ARGS)
	$(BIN)/python bench/step_stages.py --threads 1
	$(BIN)/python bench/tiny_twins.py
	$(BIN)/python bench/sweep_overhead.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/collect.py --part 16
	$(BIN)/python bench/scaling.py --figures results/scaling
	$(BIN)/python bench/sweep_cost.py
	$(if $(DATA),$(BIN)/python bench/image_folder_steps.py --data_dir '$(DATA)')
	$(if $(DATA),$(BIN)/python bench/input_path.py --data_dir '$(DATA)')
	$(if $(DATA),$(BIN)/python bench/whole_run.py --data_dir '$(DATA)')
	$(BIN)/python bench/targets.py

docs: $(STAMP) ## build the documentation site in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict $(ARGS)

clean: ## remove the environment, caches and build products; results stay
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
