# `make lab` opens the course, and `make test` checks it. `make help` lists all commands.
# Each command first installs what it needs. If everything is installed, that takes milliseconds.
# Arguments of a command are given as ARGS: make lab ARGS="--no-browser". ONLY=07 means --only 07.

# PYTHON is the first Python from 3.11 to 3.13 that runs and can create environments. Each candidate
# is run, because pyenv and Windows install placeholders that exist but fail. To choose another
# Python, name it: make PYTHON=python3.12 lab
ifndef PYTHON
PYTHON := $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && echo $$python && break; done),python3)
endif

# With `exec`, Python replaces the shell, so that a signal that ends make also ends the command.
COURSE = @command -v $(PYTHON) >/dev/null || \
	{ echo "There is no $(PYTHON) here: the course needs Python 3.11, 3.12 or 3.13." >&2; exit 1; }; \
	exec $(PYTHON) course_utils/bootstrap.py

# workshop/cli.py defines what each command does and what it needs.
COMMANDS = setup lab start run check fetch-model finetune fit serve repair release grade export \
	site slides badges notebooks lint test bench gpu-check

.PHONY: help $(COMMANDS)
help: ; $(COURSE) help $(COMMANDS)
$(COMMANDS): ; $(COURSE) $@ $(if $(ONLY),--only $(ONLY)) $(ARGS)
