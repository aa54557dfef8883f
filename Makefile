# Every target needs nothing done before it: what is missing is made first.
PYTHON ?= python3
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow check format bench gpu docs lock clean

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv from the lock of versions and hashes

demo: setup ## run the whole pipeline on pictures it makes itself (ARGS="--seeds 3" for more)
	$(BIN)/clipsift demo $(ARGS)

test: setup ## run the tests, the slow ones excepted
	$(BIN)/python -m pytest $(ARGS)

slow: setup ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

check: setup ## lint, format check and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## run the benchmarks, each beside its alternative
	for program in $$(grep -l __main__ benchmarks/*.py); do echo "== $$program"; $(BIN)/python $$program || exit 1; done

gpu: setup ## run the acceptance program for a machine with a GPU (ARGS="--part 1" for one part)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

docs: setup ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

lock: .venv/bin/uv ## renew requirements.lock from pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--group dev pyproject.toml --output-file requirements.lock

clean: ## delete the environment and what the demo made
	rm -rf .venv demo site build *.egg-info

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.6"

.venv/ready: .venv/bin/uv requirements.lock pyproject.toml training/loading/_resize.c
	.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --requirements requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch .venv/ready
