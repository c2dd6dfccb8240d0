"""Run benchmarks that compare the course with other libraries and tools.

python -m workshop.benchmarks                     run the suite: an hour or more, on an idle machine
python -m workshop.benchmarks training            run one benchmark
python -m workshop.benchmarks training --texts    only write the texts of its last report again
python -m workshop.benchmarks training --help     show its options
"""

from __future__ import annotations

import subprocess
import sys

from workshop.benchmarks import runner

# The benchmarks that run if no name is given. All other benchmarks need a GPU or hours.
SUITE = ("calculators", "training", "decoding", "neighbours", "grading")


def main(arguments: list[str]) -> int:
    """Run the named benchmark, or each benchmark of the suite in its own process.

    Returns:
        The exit status of the benchmark or, for the suite, of the first benchmark that failed; 0 if
        none failed.
    """
    if not arguments:
        commands = ([sys.executable, "-m", "workshop.benchmarks", name] for name in SUITE)
        statuses = [subprocess.run(command, cwd=runner.ROOT).returncode for command in commands]
        return next(filter(None, statuses), 0)
    name, *options = arguments
    if name in runner.names():
        return runner.run(name, options)
    lines = [f"  {each:15} {runner.about(each)}" for each in runner.names()]
    head = ["usage: bench [NAME] [OPTIONS]", f"Without a name: {', '.join(SUITE)}.", ""]
    usage = "\n".join([*head, *lines])
    if name in ("-h", "--help"):
        print(usage)
        return 0
    print(f"There is no benchmark {name!r}.\n{usage}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
