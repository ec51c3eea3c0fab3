# `make train` and `make test` do all of their own set-up; they need git, make and a Python >= 3.11.
#   PYTHON=/path/to/python  another interpreter      EXTRAS=dev,cuda  the GPU build of jax
#   ARGS="--games swap"     more flags for `train`, more options for `test`

VENV := .venv
BIN := $(VENV)/bin
WORKERS := -n auto --maxprocesses 4 --dist loadfile
READY := $(VENV)/.ready
EXTRAS := dev
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3 python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup train test slow check format bench bench-compare golden clean

help:  ## this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install everything into it

# The first Python that really runs, is new enough and can make environments: a name on PATH may be an empty shim.
$(READY): pyproject.toml constraints.txt
	@python=; bare=; for p in $(PYTHON) $(PYTHONS); do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  if $$p -c 'import ensurepip, venv' >/dev/null 2>&1; then python=$$p; break; else bare=$$p; fi; \
	done; \
	if [ -z "$$python" ] && [ -n "$$bare" ]; then \
	  echo "$$bare cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; \
	elif [ -z "$$python" ]; then \
	  echo "no Python >= 3.11 found: install one, or name it with make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "setting up $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --constraint constraints.txt
	@touch $@

train: $(READY)  ## train on all games, evaluate, write a report
	$(BIN)/python -m train.main --games all $(ARGS)

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(READY)  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## put format and order of imports right
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(READY)  ## every benchmark, one table each, beside what one would use instead; then the README's tables
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS),bench]' --constraint constraints.txt
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done
	$(BIN)/python benchmarks/support/tables.py

bench-compare: $(READY)  ## what has become slower than in the committed results, measured on the same kind of machine
	$(BIN)/python benchmarks/support/compare.py

golden: $(READY)  ## draw the golden pictures anew: look at them before you commit them
	$(BIN)/python -m pytest tests/test_golden.py --update-golden

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
