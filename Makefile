# Two commands: `make lab` opens the course, `make test` checks it. All else: `make help`.
# Every target sets up what it needs first; after the first time that takes milliseconds.
# What a command takes is given as ARGS: make lab ARGS="--no-browser". ONLY=07 is --only 07.

# The first Python that works, is 3.11 to 3.13 and can make environments (pyenv's and Windows'
# stand-ins exist but fail when run, so each is tried). Another one: make PYTHON=python3.12 lab
ifndef PYTHON
PYTHON := $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && echo $$python && break; done),python3)
endif

# Python replaces the shell, so that whoever ends make ends what it has started.
COURSE = @command -v $(PYTHON) >/dev/null || \
	{ echo "There is no $(PYTHON) here: the course needs Python 3.11, 3.12 or 3.13." >&2; exit 1; }; \
	exec $(PYTHON) course_utils/bootstrap.py

# course_utils/cli.py says what each of them does and needs.
COMMANDS = setup lab run check fetch-model train repair release grade site slides badges notebooks \
	lint test test-all bench gpu-check environments test-colab clean

.PHONY: help $(COMMANDS)
help: ; $(COURSE) help $(COMMANDS)
$(COMMANDS): ; $(COURSE) $@ $(if $(ONLY),--only $(ONLY)) $(ARGS)
