"""Measure the course beside what people use now, one benchmark after another.

    python -m benchmarks                     all of them: an hour or more, on a machine left alone
    python -m benchmarks training            one
    python -m benchmarks training --texts    what follows goes to the benchmark

Each writes results/NAME.json and, from it, results/NAME.md and what README and docs quote.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = (
    *("codec", "calculators", "training", "decoding", "neighbours"),
    *("startup", "grading", "scaling"),
)


def about(name: str) -> str:
    """The first line of a benchmark's docstring."""
    module = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(module) or "").split("\n")[0]


def usage() -> str:
    """How it is called, and what there is."""
    lines = [f"  {name:12} {about(name)}" for name in NAMES]
    return "\n".join(["usage: bench [NAME] [ARGUMENTS]", "", *lines])


def main(arguments: list[str]) -> int:
    """Run the benchmark that is named, or all; returns the first failing one's exit status or 0."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if arguments and arguments[0] not in NAMES:
        print(f"There is no benchmark {arguments[0]!r}.\n{usage()}", file=sys.stderr)
        return 2
    names, rest = (arguments[:1], arguments[1:]) if arguments else (NAMES, [])
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{name}", *rest]
        if status := subprocess.run(command, cwd=HERE.parent).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
