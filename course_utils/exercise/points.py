"""Show a student the points that the checks in an exercise have given so far.

    watch_checks()                                 at the top of the notebook
    points_so_far([("3.1 One adapter", 4, ""), …]) at its end

A check is a cell whose first two lines are such as these:

    # @title Check 3.1, part 1 of 3 (1 point)
    # grade_id: lora-parameters-form (1 point)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

CHECK = re.compile(
    r"# @title Check (?P<task>[\d.]+), .*\n# grade_id: (?P<name>\S+) \((?P<points>\d+) "
)

# The points that each check gave when it was last run, by the number of the task and by the check.
_points: dict[str, dict[str, int]] = {}


def watch_checks() -> None:
    """Note from now on which of the notebook's checks succeed. Outside of IPython, do nothing."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:
        _points.clear()
        shell.events.register("post_run_cell", _note)


def _note(result: Any) -> None:
    """Note the points of a cell that has been run, if it is a check."""
    if check := CHECK.match(result.info.raw_cell or ""):
        points = int(check["points"]) if result.success else 0
        _points.setdefault(check["task"], {})[check["name"]] = points


def points_so_far(tasks: Iterable[tuple[str, int, str]]) -> None:
    """Print the points of each task that the checks have given so far, and their sum.

    Args:
        tasks: for each task its number and title, its points, and its kind: "", "by hand",
            "bonus" or "bonus by hand".
    """
    tasks = list(tasks)
    width = max(len(title) for title, _, _ in tasks)
    for title, points, kind in tasks:
        print(f"{title:{width}}  {_line(title.split()[0], points, kind)}")
    required = [(title.split()[0], points) for title, points, kind in tasks if not kind]
    earned = sum(sum(_points.get(number, {}).values()) for number, _ in required)
    print(f"\nYour checks give {earned} of {sum(points for _, points in required)} points so far.")
    print("Grading runs the same checks with further inputs.")


def _line(number: str, points: int, kind: str) -> str:
    worth = f"{points} bonus points" if "bonus" in kind else f"{points} points"
    if "by hand" in kind:
        return f"{worth}, given by a person"
    if number not in _points:
        return f"{worth}, not checked yet"
    return f"{sum(_points[number].values())} of {worth}"
