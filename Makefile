# Everything that people and CI call. `make help` lists it.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
TIER ?= synergos_basic
export PATH := $(CURDIR)/$(BIN):$(PATH)
.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(BIN)/ansible-playbook: requirements.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv (or set PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(BIN)/ansible-playbook requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.PHONY: synbasic
synbasic: $(BIN)/ansible-playbook ## From a bare machine to Synergos Basic and a trained model
	$(BIN)/ansible-playbook playbooks/synbasic.yml
	$(BIN)/ansible-playbook playbooks/demo.yml -e tier=synergos_basic
	$(BIN)/ansible-playbook playbooks/status.yml -e tier=synergos_basic

.PHONY: synplus
synplus: $(BIN)/ansible-playbook ## From a bare machine to Synergos Plus, with its logs and experiments to look at
	$(BIN)/ansible-playbook playbooks/synplus.yml
	$(BIN)/ansible-playbook playbooks/demo.yml -e tier=synergos_plus
	$(BIN)/ansible-playbook playbooks/status.yml -e tier=synergos_plus

.PHONY: syncluster
syncluster: $(BIN)/ansible-playbook ## From a bare machine to Synergos Cluster, with two grids that share its work
	$(BIN)/ansible-playbook playbooks/syncluster.yml
	$(BIN)/ansible-playbook playbooks/demo.yml -e tier=synergos_cluster
	$(BIN)/ansible-playbook playbooks/status.yml -e tier=synergos_cluster

.PHONY: notebooks
notebooks: $(BIN)/ansible-playbook ## JupyterLab at the examples, for a grid that is up (TIER=synergos_plus)
	$(BIN)/ansible-playbook playbooks/notebooks.yml -e tier=$(TIER)

.PHONY: lint
lint: $(VENV)/.dev ## Linters and type checks
	$(BIN)/ansible-lint --offline
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy collections/ansible_collections/synergos/grid/plugins

.PHONY: test-fast
test-fast: lint ## What needs no Docker: linters and the plugins' unit tests
	$(BIN)/pytest tests/unit

.PHONY: test
test: test-fast ## Everything that CI runs, Docker Engine included
	$(BIN)/molecule test --scenario-name basic
	$(BIN)/molecule test --scenario-name plus
	$(BIN)/molecule test --scenario-name cluster
	$(MAKE) test-services
	$(BIN)/pytest tests/integration

.PHONY: test-services
test-services: $(VENV)/.dev ## The services' tests and type checks, in a container with torch
	$(BIN)/ansible-playbook tests/image.yml
	$(BIN)/python tests/in_image.py mypy --cache-dir /tmp/mypy --config-file ../pyproject.toml src/synergos
	$(BIN)/python tests/in_image.py python -m pytest -p no:cacheprovider --timeout 180 tests

.PHONY: test-full
test-full: export SYNERGOS_FULL := 1
test-full: test ## make test, then every fault at every moment of a run, and benchmarks
	$(BIN)/pytest tests/faults
	for script in bench scale split memory stock throughput search; do $(BIN)/python tests/in_image.py python /src/tests/bench/$$script.py || exit 1; done
