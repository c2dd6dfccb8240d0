# Two commands: `make lab` opens the course, `make test` checks it. All else: `make help`.
# Every target sets up what it needs first; after the first time that takes milliseconds.

# The first Python that works, is 3.11 to 3.13 and can make environments (pyenv's and Windows'
# stand-ins exist but fail when run, so each is tried). Another one: make PYTHON=python3.12 lab
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && echo $$python && break; done),python3)

# Python replaces the shell, so that whoever ends make ends what it has started.
BOOTSTRAP = @command -v $(PYTHON) >/dev/null || \
	{ echo "There is no $(PYTHON) here: the course needs Python 3.11, 3.12 or 3.13." >&2; exit 1; }; \
	exec $(PYTHON) course_utils/bootstrap.py

.DEFAULT_GOAL := help
.PHONY: help setup lab run check fetch-model release grade site slides bench gpu-check \
	environments test-colab lint test test-all clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup:  ## make .venv, install the course, fetch the model
	$(BOOTSTRAP) setup

lab:  ## open JupyterLab on the first lecture (ARGS="--no-browser")
	$(BOOTSTRAP) lab $(ARGS)

run:  ## execute all lectures and write HTML to build/lectures (one: ONLY=07)
	$(BOOTSTRAP) run $(if $(ONLY),--only $(ONLY)) $(ARGS)

check:  ## say whether this machine can run the course
	$(BOOTSTRAP) check

fetch-model:  ## download the model, where it isn't yet
	$(BOOTSTRAP) fetch-model $(ARGS)

release:  ## generate exercises/ from solutions/ (ARGS=--check compares)
	$(BOOTSTRAP) release $(ARGS)

grade:  ## grade what students handed in (ARGS=03_lora; ARGS="03_lora --again")
	$(BOOTSTRAP) grade $(ARGS)

site:  ## build the course's site in build/site (ARGS=--no-run: lectures as they ran last)
	$(BOOTSTRAP) site $(ARGS)

slides:  ## turn the lectures into slides in build/slides (one: ONLY=07; ARGS=--no-run)
	$(BOOTSTRAP) slides $(if $(ONLY),--only $(ONLY)) $(ARGS)

bench:  ## measure the course beside what people use now (ARGS=training)
	$(BOOTSTRAP) bench $(ARGS)

gpu-check:  ## measure on a CUDA card what a CPU can't show (ARGS="--model smollm2-135m")
	$(BOOTSTRAP) gpu-check $(ARGS)

environments:  ## run the lectures where readers open them; write docs/environments.md
	$(BOOTSTRAP) environments $(ARGS)

test-colab:  ## run them with Google Colab's packages alone
	$(BOOTSTRAP) test-colab $(ARGS)

lint:  ## check style and notebooks
	$(BOOTSTRAP) lint

test:  ## lint, then run the fast tests (ARGS="-k lora")
	$(BOOTSTRAP) test $(ARGS)

test-all:  ## lint, then run every test; takes minutes
	$(BOOTSTRAP) test-all $(ARGS)

clean:  ## remove what runs left behind; keeps .venv and the model
	rm -rf build .pytest_cache .ruff_cache
	find course_utils tests lectures -name __pycache__ -prune -exec rm -rf {} +
