# What a person types here. Everything does its own set-up first, so `make demo` and `make test` work on a machine
# that has only Python 3.11 or later, make and git. All paths are relative: a folder with spaces in its name is fine.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
PLACE := $(VENV)/.place

COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test lint format types imports check bench lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-8s %s\n' "$$name" "$$what"; done

# A virtual environment holds absolute paths. One that was moved or copied along with its folder is made anew.
ifneq ($(shell cat $(PLACE) 2>/dev/null),$(CURDIR))
.PHONY: $(PLACE)
endif

$(PLACE):
	@found=; \
	for candidate in "$(PYTHON)" python3.14 python3.13 python3.12 python3.11; do \
		if command -v "$$candidate" >/dev/null 2>&1 && \
			"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Threadline needs Python 3.11 or later; $(PYTHON) is $$("$(PYTHON)" --version 2>&1 || echo absent)." \
			"Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	rm -rf $(VENV); \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo "Python's venv module did not work (on Debian: apt-get install python3-venv)." >&2; exit 1; }; \
	printf '%s' "$(CURDIR)" > $(PLACE)

# The stamps are written last: an install that was cut off is taken up again by the next call.
$(RUNTIME): $(PLACE) requirements/base.txt requirements/build.txt pyproject.toml
	@echo "Installing locked dependencies (once; about a minute)"
	@$(PIP) install --quiet --require-hashes -r requirements/base.txt -r requirements/build.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $(RUNTIME)

$(DEV): $(RUNTIME) requirements/dev.txt
	@echo "Installing locked development tools (once)"
	@$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $(DEV)

setup: $(RUNTIME) ## only the set-up; leaves .venv/bin/threadline

dev: $(DEV) ## the set-up and the development tools

demo: $(RUNTIME) ## everything on one machine with lifelike traffic, and the pages to open
	@$(VENV)/bin/threadline demo $(ARGS)

test: $(DEV) ## the test suite; ARGS='-k name' for a part of it
	@$(PY) -m pytest $(ARGS)

lint: $(DEV) ## style and common mistakes
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(DEV) ## put the code into the house's format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: $(DEV) ## mypy, strict
	@$(PY) -m mypy

imports: $(DEV) ## who may import whom
	@$(VENV)/bin/lint-imports

check: lint types imports test ## all of it

bench: $(DEV) ## every measurement, in one table; ARGS=latency for one
	@$(PY) -m bench $(ARGS)

lock: $(DEV) ## renew requirements/*.txt from pyproject.toml; ARGS=--upgrade for newer versions
	@$(COMPILE) $(ARGS) pyproject.toml --output-file requirements/base.txt
	@$(COMPILE) $(ARGS) --constraint requirements/base.txt --group build --output-file requirements/build.txt
	@$(COMPILE) $(ARGS) --constraint requirements/base.txt --constraint requirements/build.txt \
		pyproject.toml --group dev --output-file requirements/dev.txt

clean: ## remove what was made here, except the data of `threadline up` (.threadline)
	rm -rf $(VENV) build dist deploy/kafka/target tests/*/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find services shared tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
