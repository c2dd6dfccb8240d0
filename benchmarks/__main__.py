"""Measure the course beside what people use now.

python -m benchmarks                     the suite: an hour or more, on a machine left alone
python -m benchmarks training            one benchmark
python -m benchmarks training --texts    only write the texts of its last report again
python -m benchmarks training --help     its options
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import runner

# What runs without a name; other benchmarks need a GPU, a Binder environment, or hours.
SUITE = (
    *("codec", "calculators", "training", "decoding", "neighbours"),
    *("startup", "grading", "scaling"),
)


def usage() -> str:
    """How the command is called, and what benchmarks there are."""
    lines = [f"  {name:15} {runner.about(name)}" for name in runner.names()]
    head = ["usage: bench [NAME] [OPTIONS]", f"Without a name: {', '.join(SUITE)}.", ""]
    return "\n".join([*head, *lines])


def main(arguments: list[str]) -> int:
    """Run the named benchmark, or the suite, each in a process of its own.

    Returns:
        The exit status of the benchmark, or of the first one of the suite that failed, or 0.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if arguments and arguments[0] not in runner.names():
        print(f"There is no benchmark {arguments[0]!r}.\n{usage()}", file=sys.stderr)
        return 2
    if arguments:
        return runner.run(arguments[0], arguments[1:])
    commands = ([sys.executable, "-m", "benchmarks", name] for name in SUITE)
    statuses = [subprocess.run(command, cwd=runner.ROOT).returncode for command in commands]
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
