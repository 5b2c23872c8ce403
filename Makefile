# Everything a person types. `make help` lists it.
PYTHON ?= python3
ARGS ?=
TESTS ?= tests
BIN := .venv/bin

.PHONY: help setup setup-dev gvisor run test check check-format check-lint check-types check-layers check-tidy format bench lock microvm clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## what `make run` needs, nothing more
	@$(PYTHON) -S scripts/setup.py run

setup-dev: ## the same for tests and checks
	@$(PYTHON) -S scripts/setup.py dev

run: setup ## three cities on this machine, with an example deployed (ARGS="--cities lhr:3,cur:3 --port 8080")
	@exec $(BIN)/skerry up $(ARGS)

test: setup-dev ## all tests (TESTS=tests/unit, ARGS="-x -k name")
	@exec $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS) $(TESTS)

gvisor: setup ## build gVisor (runsc) into this user's cache; some minutes, needs Go
	@exec $(BIN)/skerry doctor --get gvisor

check: check-format check-lint check-types check-layers check-tidy ## format, lint, strict types, layers, tidiness

check-format: setup-dev
	@$(BIN)/ruff format --check .

check-lint: setup-dev
	@$(BIN)/ruff check .

check-types: setup-dev
	@$(BIN)/basedpyright

check-layers: setup-dev
	@$(BIN)/lint-imports

check-tidy: setup-dev
	@$(BIN)/python -m pytest -q tests/tidy

format: setup-dev ## put the source into its format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup-dev ## each claim against a peer or a bound (ARGS names one)
	@exec $(BIN)/python -m bench $(ARGS)

lock: ## write the lock files anew (newest versions: ARGS=--upgrade)
	@$(PYTHON) -S scripts/setup.py python
	@$(BIN)/python scripts/lock.py $(ARGS)

microvm: setup ## the kernel and init of microVMs' guests, into the user's cache (as `skerry doctor --get microvm`)
	@exec $(BIN)/skerry doctor --get microvm

clean: ## remove what set-up and tests made (not the data of `make run`)
	rm -rf .venv node_modules tests/e2e/clients/node_modules .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
