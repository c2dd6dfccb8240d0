"""Run a benchmark, save its report as JSON, and write its tables into the pages that quote them.

python -m workshop.benchmarks NAME
    │ measure(**options) yields the report, perhaps several times, each time more complete
    ├─ build/benchmarks/NAME.json    the report
    ├─ build/benchmarks/NAME.md      all tables of the report
    └─ README.md, docs/*.md and      the tables that a page quotes between two marks:
       the datasheet of the data     <!-- NAME TABLE: begin --> and <!-- NAME TABLE: end -->
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course_utils.machine import files
from course_utils.machine.validation import CourseError
from tests.machine import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "build" / "benchmarks"

Report = dict[str, Any]


class NothingToMeasure(Exception):
    """Raised if this machine lacks the hardware to measure; the message names the hardware."""


@dataclass(frozen=True)
class Benchmark:
    """The functions that `run` calls for a benchmark.

    Attributes:
        measure: function that measures and yields the report, which must be serializable as JSON.
            Its arguments are the benchmark's options. Each yielded report is saved immediately, so
            a long benchmark yields incomplete reports first, and nothing if there is no new result.
            The function raises CourseError if it can't measure, and NothingToMeasure if there is
            nothing to measure.
        tables: functions from the report to Markdown, by the table's name; None if a report is
            incomplete and contains no data for the table. Pages then keep the text that they quote.
        conditions: function from the report to sentences on how the report was measured, which are
            written before "Made by …".
        problems: function from the report to its failures and missed targets, one sentence each.
        add_options: function that adds the benchmark's own options to a parser.
        data: path of the report, if the report is stored in git; None for build/benchmarks.
    """

    measure: Callable[..., Iterator[Report]]
    tables: Mapping[str, Callable[[Report], str | None]]
    conditions: Callable[[Report], str] = lambda _: ""
    problems: Callable[[Report], list[str]] = lambda _: []
    add_options: Callable[[argparse.ArgumentParser], object] = lambda _: None
    data: Path | None = None


# --- finding benchmarks ---------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names of all benchmarks in this package without importing them."""
    found = _sources().items()
    return sorted(n for n, p in found if re.search("^BENCHMARK = ", p.read_text("utf-8"), re.M))


def _sources() -> dict[str, Path]:
    """Return the file of each module and each package of this package, by its name."""
    modules = {path.stem: path for path in HERE.glob("*.py")}
    return modules | {path.parent.name: path for path in HERE.glob("*/__init__.py")}


def about(name: str) -> str:
    """Return the first line of a benchmark's docstring."""
    module = ast.parse(_sources()[name].read_text(encoding="utf-8"))
    return (ast.get_docstring(module) or "").split("\n")[0]


def find(name: str) -> Benchmark:
    """Import the module of a benchmark and return the benchmark."""
    return importlib.import_module(f"workshop.benchmarks.{name}").BENCHMARK


# --- running one ----------------------------------------------------------------------------------


def run(name: str, arguments: list[str]) -> int:
    """Run a benchmark with the options of a command line.

    Returns:
        The exit status: 1 if the benchmark could not measure or found problems, otherwise 0.
    """
    measured, data = False, RESULTS / f"{name}.json"
    try:
        benchmark = find(name)
        options = vars(_parser(name, benchmark).parse_args(arguments))
        texts, data = options.pop("texts"), benchmark.data or data
        for report in [load_report(data)] if texts else benchmark.measure(**options):
            files.write_text(data, json.dumps(report, indent=1) + "\n")
            publish(name, benchmark, report)
            measured = True
    except NothingToMeasure as reason:
        print(reason)
        return 0
    except ModuleNotFoundError as error:
        advice = "install the extras of the benchmarks with `pip install -e '.[test,bench]'`"
        return _print_problems([f"the package {error.name} is missing: {advice}"])
    except CourseError as error:
        return _print_problems([str(error)])
    except KeyboardInterrupt:
        return _print_problems([f"Interrupted. Finished measurements are saved in {data}, if any."])
    if not measured:
        print("No new result was saved.")
        return 0
    report = load_report(data)
    print(f"\n{page(name, benchmark, report)}\nSaved in {data}.")
    return _print_problems(benchmark.problems(report))


def _parser(name: str, benchmark: Benchmark) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m workshop.benchmarks {name}", description=about(name)
    )
    parser.add_argument(
        "--texts", action="store_true", help="write the texts of the last report without measuring"
    )
    benchmark.add_options(parser)
    return parser


def _print_problems(problems: list[str]) -> int:
    """Print problems to stderr; return the exit status, which is 1 if there are problems."""
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def load_report(path: Path, default: Report | None = None) -> Report:
    """Return a saved report, or the default if the file doesn't exist.

    Raises:
        CourseError: the file doesn't exist, and there is no default.
    """
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    if default is None:
        raise CourseError(f"there is no report in {path} yet: run the benchmark without --texts")
    return default


def measured_here(*libraries: str) -> dict[str, str]:
    """Return the first items of a report: date and machine, with the versions of libraries."""
    more = "".join(f", {name} {version(name)}" for name in libraries)
    return {"date": date.today().isoformat(), "machine": machine() + more}


# --- texts ----------------------------------------------------------------------------------------


def publish(name: str, benchmark: Benchmark, report: Report) -> None:
    """Write the page of a report, and the quotes of all pages."""
    files.write_text(RESULTS / f"{name}.md", page(name, benchmark, report))
    quotes = {f"{name} {key}": text for key, text in _tables(benchmark, report).items()}
    quotes[f"{name} made"] = provenance(name, benchmark, report)
    for path in quoting_pages():
        text = path.read_text(encoding="utf-8")
        if (renewed := renew(text, quotes)) != text:
            files.write_text(path, renewed)


def quoting_pages() -> list[Path]:
    """Return the pages that may quote a report: README.md, the docs and the data's datasheet."""
    return [ROOT / "README.md", *DOCS.glob("*.md"), *ROOT.glob("course_utils/data/*.md")]


def page(name: str, benchmark: Benchmark, report: Report) -> str:
    """Return the report as Markdown: a section for each table, and the problems."""
    parts = [f"# {about(name)}"]
    parts += [f"## {key}\n\n{text}" for key, text in _tables(benchmark, report).items()]
    parts += [f"- {problem}" for problem in benchmark.problems(report)]
    return "\n\n".join([*parts, provenance(name, benchmark, report)]) + "\n"


def provenance(name: str, benchmark: Benchmark, report: Report) -> str:
    """Return sentences on how, when and where a report was measured."""
    source = f"Made by `python -m workshop.benchmarks {name}`"
    if "date" in report:
        source += f" on {report['date']}: {report['machine']}"
    return f"{benchmark.conditions(report)} {source}.".lstrip()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column contains text and the other columns numbers."""
    lines = [head, ("---", *["--:"] * (len(head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _tables(benchmark: Benchmark, report: Report) -> dict[str, str]:
    """Return the tables for which the report contains data, by their names."""
    made = {key: make(report) for key, make in benchmark.tables.items()}
    return {key: text for key, text in made.items() if text is not None}


def renew(text: str, quotes: Mapping[str, str]) -> str:
    """Return a page's text in which each quote replaces the old text between its marks."""
    for mark, content in quotes.items():
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        if begin in text:
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text
