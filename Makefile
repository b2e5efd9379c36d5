# Every target sets up its environment in .venv, and again only when pyproject.toml has changed.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Includes the path: an environment that was moved or copied with the folder does not work.
FINGERPRINT := $(shell { cat pyproject.toml anomalib_tiled.pth; pwd; } | cksum | tr ' ' '-')
READY := $(VENV)/ready-$(FINGERPRINT)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format types bench clean distclean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' Makefile

# ImageNet weights of a small network, from a package: a folder that timm reads. Without it, weights are random.
WEIGHTS := $(VENV)/lite0
TRAINED := --model.backbone 'local-dir:$(CURDIR)/$(WEIGHTS)' --model.layers '[blocks.1, blocks.2, blocks.4]' \
	--model.pre_trained true

demo: $(READY) $(WEIGHTS) ## Draw images, train one model per tile, test them; prints where the report lies
	@if [ -d $(WEIGHTS) ]; \
	  then echo "Backbone: EfficientNet-Lite0, trained on ImageNet"; set -- $(TRAINED); \
	  else echo "Backbone: ResNet-18 with random weights, as trained ones could not be installed (see above)"; set --; \
	fi; $(BIN)/anomalib tiled train --config configs/demo.yaml --report "$$@" $(ARGS)

$(WEIGHTS): | $(READY)
	@{ $(INSTALL) --quiet --retries 1 --no-build-isolation --editable '.[weights]' && \
	   $(BIN)/python -m benchmarks.weights $@ > /dev/null; } || true

# One process for each core, and one thread for each process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4

test: $(READY) ## Run the fast tests; ARGS="..." goes to pytest
	@# Tests of one file stay together, as they share runs. So distributed, pytest-xdist waits for ever once one of its
	@# processes has crashed, unless it may start no other.
	@$(PYTEST) --dist=loadfile --max-worker-restart=0 $(ARGS)

test-slow: $(READY) ## Run the tests that train, start processes, build the package, or take seconds
	@$(PYTEST) --dist=worksteal -m slow $(ARGS)

lint: $(READY) ## Check rules and format of the code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY) ## Fix what the tools can fix by themselves
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(READY) ## Check the types of the package
	@$(BIN)/mypy

bench: $(READY) ## Compare with anomalib's own tiled ensemble, about ten minutes; ARGS="..." for other sizes
	@$(BIN)/python -m benchmarks.compare $(ARGS)

clean: ## Remove caches and built packages
	@rm -rf .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove the environment too
	@rm -rf $(VENV)

# Prints pip's errors, and of its other output only large downloads. A second try helps after a dropped connection.
INSTALL = $(BIN)/python -m pip install --prefer-binary --progress-bar off --disable-pip-version-check
PROGRESS = awk '/Downloading .*[0-9] [MG]B/ { print "  " $$2, $$3, $$4; fflush() }'

$(READY): pyproject.toml anomalib_tiled.pth
	@command -v $(PYTHON) > /dev/null || { echo "There is no $(PYTHON). Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed, but $(PYTHON) is older. Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; downloads PyTorch, which may take some minutes)"
	@rm -f $(VENV)/ready-*
	@$(BIN)/python -c 'import pip' 2> /dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --quiet 'pip>=22.3'
	@$(INSTALL) --editable '.[dev]' | $(PROGRESS) || { echo "  once more"; $(INSTALL) --editable '.[dev]' | $(PROGRESS); }
	@touch $@
