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
from workshop.grading.repair import DEFINES

SYNTAX_ERROR = re.compile(r"SyntaxError|IndentationError|TabError")
# IPython adds the file and the line to the message of a SyntaxError.
FILE_AND_LINE = re.compile(r"(?P<text>.*) \([^()]*, line (?P<line>\d+)\)")
UNDEFINED = re.compile(r"name '(\w{1,100})' is not defined")
HERE = "Python {}.{}, with which this machine grades,".format(*sys.version_info)
# Maximum number of characters of all cells together in which definitions are searched, and of a
# line in which an import is searched.
MAX_SOURCE, MAX_LINE = 1_000_000, 300
# Maximum number of characters of an error and of a line that are quoted.
MAX_ERROR, MAX_QUOTE = 120, 40


@dataclass
class Failures:
    """What failed while the cells of a notebook ran.

    Attributes:
        cells: All cells of the notebook except tests, by the name that incidents use for them.
        started: The sources of the cells that have run, at least in part.
        errors: The error that ended a cell, by the cell's source.
        skipped: The statements that were skipped because something was missing, with errors.
    """

    cells: Mapping[str, Cell] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(
        self, source: str, outputs: Sequence[dict[str, Any]], skipped: Sequence[tuple[str, str]]
    ) -> None:
        """Add the result of a cell."""
        self.started.add(source)
        self.skipped += skipped
        errors = [output for output in outputs if output["output_type"] == "error"]
        if len(errors) > len(skipped):
            self.errors[source] = error_text(errors[-1])

    def syntax_errors(self, python: str) -> tuple[list[str], list[str]]:
        """Return doubts and incidents about cells with definitions that this Python can't read.

        If the notebook was written with a newer Python, the cell may be right, so there is a doubt.
        If it is unknown how the notebook was written, there is an incident. Otherwise the cell is
        wrong.

        Args:
            python: The version of Python with which the notebook was saved; "" if it is unknown.
        """
        lines = [
            (f"{name}: {HERE} can't read this cell", error)
            for name, cell in self.cells.items()
            if SYNTAX_ERROR.match(error := self.errors.get(cell["source"], ""))
            if DEFINES.search(cell["source"])
        ]
        if not python:
            unknown = "and the notebook doesn't say with which Python it was written"
            return [], [f"{line}, {unknown}: {error}" for line, error in lines]
        if tuple(map(int, python.split(".")[:2])) <= sys.version_info[:2]:
            return [], []
        newer = f"but Python {python}, with which it was written, may"
        return [f"{line}, {newer}: {error}" for line, error in lines], []

    def explain(self, message: str) -> str:
        """Return a NameError's message, followed by the cause in parentheses if it is known."""
        match = UNDEFINED.match(message)
        cause = self._cause(match[1]) if match else ""
        return f"{message} ({cause})" if cause else message

    def _cause(self, name: str) -> str:
        for statement, error in self.skipped:
            if re.search(rf"\b{name}\b", statement):
                return f"`{statement}` failed: {error[:MAX_ERROR]}"
        cells = self.cells.values()
        if sum(len(cell["source"]) for cell in cells) > MAX_SOURCE:
            return ""
        defining = [cell for cell in cells if _defines(cell["source"], name)]
        code = [cell for cell in defining if cell["cell_type"] == "code"]
        failed = [cell for cell in code if cell["source"] in self.errors]
        below = [cell for cell in code if cell["source"] not in self.started]
        if failed:
            error = self.errors[failed[0]["source"]][:MAX_ERROR]
            return f"{_described(failed[0])} should define it, but failed: {error}"
        if below:
            return f"{_described(below[0])} defines it, but is below this check"
        if defining and not code:
            return f"{_described(defining[0])} defines it, but is not a code cell"
        # The bodies of two answers may be in each other's functions.
        parameter = re.compile(rf"^def (\w+)\([^)]{{0,500}}\b{name}\b", re.M)
        for cell in cells:
            if match := parameter.search(cell["source"]):
                return f"it is a parameter of {match[1]} in {_described(cell)}"
        return ""


def error_text(output: dict[str, Any]) -> str:
    """Return the exception in an output of the type "error" as one line."""
    text = " ".join(output["evalue"].split())
    if output["ename"] == "Stopped":
        return text
    if match := FILE_AND_LINE.fullmatch(text):
        return f"{output['ename']} in line {match['line']}: {match['text']}"
    return f"{output['ename']}: {text}"


def _defines(source: str, name: str) -> bool:
    """Return whether an unindented line of a cell defines or imports a name."""
    defines = re.compile(
        rf"(?:(?:async +)?def|class) +{name}\b"
        rf"|{name}(?: *:[^=]+| *)=(?!=)"
        rf"|(?:from|import) .*\b{name}\b"
    )
    lines = (line[:MAX_LINE] for line in source.split("\n") if name in line)
    return any(defines.match(line) for line in lines)


def _described(cell: Cell) -> str:
    """Return words by which a student finds a cell: its grade_id, or its first line."""
    if name := grade_id(cell):
        return f"the cell {name}"
    first = next(line for line in cell["source"].split("\n") if line.strip())
    return f"the cell that begins with `{first[:MAX_QUOTE]}`"
