# Everything runs in a virtual environment of the project's own; the control plane's programs are built once into
# ~/.cache/registry-mirror-operator.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --upgrade

.PHONY: help demo demo-stop test bench scale lint lock tools clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.x $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing Python packages into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

tools: $(STAMP)  ## Build (once) what the tests run: a control plane, containerd, registries and more.
	@$(BIN)/python -m tests.harness build >/dev/null

demo: $(STAMP)  ## Run the operator against a real API server with three nodes; DEMO_KEEP=1 leaves it running.
	@$(BIN)/python -m tests.harness build control-plane >/dev/null
	@$(BIN)/python -m tests.demo

demo-stop: $(STAMP)  ## End a demo that was left running.
	@$(BIN)/python -m tests.demo stop

test: lint tools  ## Run every check and every test.
	@# Those that wait for machines first: the last to end would otherwise be alone.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/nodes tests/apiserver tests

bench: $(STAMP) tools  ## Measure rendering, pulls amid changes, and the agent (as root, 8 min); see docs/benchmarks.md.
	@$(BIN)/python -m tests.benchmarks.start
	@$(BIN)/python -m tests.benchmarks.render
	@$(BIN)/python -m tests.benchmarks.pulls
	@$(BIN)/python -m tests.benchmarks.agent

scale: $(STAMP)  ## Measure one change to 100 and 1,000 nodes, and prove rollouts there; see docs/benchmarks.md.
	@$(BIN)/python -m tests.harness build control-plane >/dev/null
	@HISTORY=all $(BIN)/python -m pytest -q tests/apiserver/test_history.py
	@$(BIN)/python -m tests.benchmarks.scale

lint: $(STAMP)  ## Run the linters, the type checker and the import contract.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

lock: $(STAMP)  ## Pin all dependencies anew, with hashes, for every platform.
	@$(BIN)/python -m pip install --quiet uv
	@$(LOCK) pyproject.toml -o requirements.lock
	@$(LOCK) --extra dev pyproject.toml -o requirements-dev.lock
	@echo 'hatchling>=1.27' | $(LOCK) --python-version 3.11 - -o requirements-build.lock

clean:  ## Remove the virtual environment and caches in the tree.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
