# make demo   a fresh machine to a trained, pruned, exported, profiled and running policy, in minutes
# make check  ruff, mypy and the tests that take but a moment, in two minutes: before a commit
# make test   everything CI checks: ruff, mypy, all tests
# make soak   the long proofs in full (the tests run a tenth of each)
# make docs   the documents as a site in build/site, and docs/cli.md from the commands
# make bench  the figures of the README and docs/results.md

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
export OMP_NUM_THREADS ?= 1

.PHONY: demo check test lint docs soak bench clean
.DEFAULT_GOAL := test

$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgerl trains on Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# The editable install compiles the engine: it is made anew whenever the C sources are.
ENGINE := $(wildcard edgerl/edge/engine/*.[ch])

$(VENV)/.demo: pyproject.toml constraints.txt $(ENGINE) | $(BIN)/pip
	$(INSTALL) --editable '.[train,export]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(ENGINE) | $(BIN)/pip
	$(INSTALL) --editable '.[train,export,import,report,docs,sweep,dev]'
	touch $@

# RLtools and MKL are peers of 0.9 GB: where they cannot be installed, the benchmark says so and goes on without.
$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) --editable '.[benchmark]'
	-$(INSTALL) 'rltools[mkl]'
	touch $@

DEMO := build/demo
demo: $(VENV)/.demo
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	cd $(DEMO) && ../../$(BIN)/edgerl train --preset quick
	cd $(DEMO) && ../../$(BIN)/edgerl prune
	cd $(DEMO) && ../../$(BIN)/edgerl export --format onnx
	cd $(DEMO) && ../../$(BIN)/edgerl profile --device jetson-nano
	cd $(DEMO) && ../../$(BIN)/edgerl run --rate 100 --seconds 10
	cd $(DEMO) && ../../$(BIN)/python ../../benchmarks/beats_random.py runs/latest/policy.onnx --by 500

# mypy sees the packages export/ and device_profiles/ under their own names only where they are installed.
TYPED := build/typed
lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	rm -rf build/lib* $(TYPED) && $(INSTALL) --no-deps --target $(TYPED) .
	cd $(TYPED) && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml --package edgerl

check: lint
	$(BIN)/pytest -m "not slow and not soak and not needs"

# A process a core; tests that share a trained run stay together as far as they can.
JOBS ?= $(shell nproc)
test: lint
	$(BIN)/python tests/needs.py --install
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

# The warning is of a next version of mkdocs, which pyproject.toml excludes.
docs: $(VENV)/.dev
	$(BIN)/python docs/site/command_line.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

soak: $(VENV)/.dev
	EDGERL_SOAK=1 $(BIN)/pytest -m soak

bench: $(VENV)/.bench
	taskset -c 0 $(BIN)/python benchmarks/update.py
	taskset -c 0 $(BIN)/python benchmarks/inference.py
	taskset -c 0 $(BIN)/python benchmarks/training.py

clean:
	rm -rf $(VENV) build
