"""Find out why a name is not defined in a student's notebook.

A check only reports that a name is not defined. The cause often lies in another cell:

    name 'helper' is not defined (the cell that begins with `import math` should define it, but
    failed: ZeroDivisionError: division by zero)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workshop.grading.assignments import Cell, grade_id
from workshop.grading.repair import defined

# Matches an unindented line that imports the name in place of {0}.
IMPORTS_NAME = r"^(?:from|import) [^\n]{{0,300}}\b{0}\b"
UNDEFINED = re.compile(r"name '(\w{1,100})' is not defined")
# Matches a Python version such as 3.12; the group is the minor version, 12.
MINOR = re.compile(r"3\.(\d{1,3})\b")
HERE = "Python {}.{}, with which this machine grades,".format(*sys.version_info)
# The cells are searched for definitions only if they have at most this many characters together.
MAX_SOURCE = 1_000_000
# Maximum number of characters of an error and of a line that are quoted.
MAX_ERROR, MAX_QUOTE = 120, 40


@dataclass
class Failures:
    """What failed while the cells of a notebook ran.

    Attributes:
        cells: All cells of the notebook except tests, by the name of the cell in error messages.
        errors: The error that ended each cell, by the cell's source; "" if there was no error.
        skipped: The statements that were skipped because a module, a file or a name was missing,
            with their errors.
    """

    cells: Mapping[str, Cell] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(
        self, source: str, outputs: Sequence[dict[str, Any]], skipped: Sequence[tuple[str, str]]
    ) -> None:
        """Add the result of a cell."""
        self.skipped += skipped
        self.errors.setdefault(source, "")
        errors = [output for output in outputs if output["output_type"] == "error"]
        if len(errors) > len(skipped):
            name, text = errors[-1]["ename"], " ".join(errors[-1]["evalue"].split())
            self.errors[source] = text if name == "Stopped" else f"{name}: {text}"

    def syntax_errors(self, python: str) -> list[str]:
        """Return one line about each cell with definitions that may need a newer Python version.

        Args:
            python: The version of Python with which the notebook was saved; "" if it is unknown.
        """
        version = MINOR.match(python)
        if not version or int(version[1]) <= sys.version_info[1]:
            return []
        return [
            f"{name}: {HERE} can't read this cell, but Python {python}, with which it was written, "
            f"may: {error}"
            for name, cell in self.cells.items()
            if re.match("SyntaxError|Ind", error := self.errors.get(cell["source"], ""))
            if defined(cell["source"])
        ]

    def explain(self, message: str) -> str:
        """Return a NameError's message, followed by the cause in parentheses if it is known."""
        match = UNDEFINED.match(message)
        cause = self._cause(match[1]) if match else ""
        return f"{message} ({cause})" if cause else message

    def _cause(self, name: str) -> str:
        for statement, error in self.skipped:
            if re.search(rf"\b{name}\b", statement):
                return f"`{statement}` failed: {error[:MAX_ERROR]}"
        if sum(len(cell["source"]) for cell in self.cells.values()) > MAX_SOURCE:
            return ""
        imports, cells = re.compile(IMPORTS_NAME.format(name), re.M), self.cells.values()
        found = [c for c in cells if name in defined(c["source"]) or imports.search(c["source"])]
        for cell in [cell for cell in found if cell["cell_type"] == "code"] or found:
            if cell["cell_type"] != "code":
                return f"{_described(cell)} defines it, but is not a code cell"
            if (failure := self.errors.get(cell["source"])) is None:
                return f"{_described(cell)} defines it, but is below this check"
            if failure:
                return f"{_described(cell)} should define it, but failed: {failure[:MAX_ERROR]}"
        return ""


def _described(cell: Cell) -> str:
    """Return words by which a student finds a cell: its grade_id, or its first line."""
    first = cell["source"].strip().partition("\n")[0][:MAX_QUOTE]
    return f"the cell {grade_id(cell) or f'that begins with `{first}`'}"
