"""Run benchmarks that compare the course with other libraries and tools.

python -m benchmarks                     run the suite: an hour or more, on an idle machine
python -m benchmarks training            run one benchmark
python -m benchmarks training --texts    only write the texts of its last report again
python -m benchmarks training --help     show its options
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import runner

# The benchmarks that run if no name is given. All other benchmarks need a GPU, a Binder
# environment, or hours.
SUITE = (
    *("codec", "calculators", "training", "decoding", "neighbours"),
    *("startup", "grading", "scaling"),
)


def usage() -> str:
    """Return a help text on how to call the command, with a list of all benchmarks."""
    lines = [f"  {name:15} {runner.about(name)}" for name in runner.names()]
    head = ["usage: bench [NAME] [OPTIONS]", f"Without a name: {', '.join(SUITE)}.", ""]
    return "\n".join([*head, *lines])


def main(arguments: list[str]) -> int:
    """Run the named benchmark, or each benchmark of the suite in its own process.

    Returns:
        The exit status of the benchmark or, for the suite, of the first benchmark that failed; 0 if
        none failed.
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
