"""Run a benchmark: measure, save the report as JSON, and write its tables where they are quoted.

python -m benchmarks NAME
    │ measure(save, **options) → report
    ├─ build/benchmarks/NAME.json    the report
    ├─ build/benchmarks/NAME.md      all tables and pictures of the report
    └─ README.md, docs/*.md          the tables that are quoted there, between two marks:
                                     <!-- NAME TABLE: begin --> and <!-- NAME TABLE: end -->
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import files
from course_utils.validation import CourseError
from tests.machine import machine

if TYPE_CHECKING:
    from course_utils.figures import Picture

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "build" / "benchmarks"

Report = dict[str, Any]
Save = Callable[[Report], None]


class NothingToMeasure(Exception):
    """This machine lacks what a benchmark measures. The message says what is missing."""


@dataclass(frozen=True)
class Benchmark:
    """What `run` has to know about a benchmark.

    Attributes:
        measure: called with `save`, which keeps a report that is not complete yet, and with the
            benchmark's options by keyword; returns the report, which JSON can store. Raises
            CourseError if it can't measure, NothingToMeasure if there is nothing to measure.
        tables: name → function from the report to Markdown.
        pictures: name → function from the report to a Picture.
        conditions: how it was measured, in sentences that go before "Made by …".
        problems: what failed or missed its target, one sentence each.
        add_options: adds the benchmark's own options to a parser.
        data: where the report is saved, if it is to be in git.
    """

    measure: Callable[..., Report]
    tables: Mapping[str, Callable[[Report], str]]
    pictures: Mapping[str, Callable[[Report], Picture]] = field(default_factory=dict)
    conditions: Callable[[Report], str] = lambda report: ""
    problems: Callable[[Report], list[str]] = lambda report: []
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    data: Path | None = None


# --- finding benchmarks ---------------------------------------------------------------------------


def names() -> list[str]:
    """The benchmarks of this package, found without importing them."""
    paths = sorted(HERE.glob("*.py"))
    return [
        path.stem for path in paths if re.search(r"^BENCHMARK = ", path.read_text("utf-8"), re.M)
    ]


def about(name: str) -> str:
    """The first line of a benchmark's docstring."""
    module = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(module) or "").split("\n")[0]


def find(name: str) -> Benchmark:
    """The benchmark of this name; imports its module."""
    return importlib.import_module(f"benchmarks.{name}").BENCHMARK


# --- running one ----------------------------------------------------------------------------------


def run(name: str, arguments: list[str]) -> int:
    """Run a benchmark with the options of a command line.

    Returns:
        An exit status: 1 if it could not measure, or has found problems; else 0.
    """
    benchmark = find(name)
    options = vars(_parser(name, benchmark).parse_args(arguments))
    texts, output = options.pop("texts"), options.pop("output")
    data = output / f"{name}.json" if output else benchmark.data or RESULTS / f"{name}.json"

    def save(report: Report) -> None:
        files.write_text(data, json.dumps(report, indent=1) + "\n")
        publish(name, benchmark, report, output)

    try:
        if texts:
            save(load_report(data))
        else:
            save(benchmark.measure(save, **options))
    except NothingToMeasure as reason:
        print(reason)
        return 0
    except CourseError as fault:
        return _complain([str(fault)])
    except KeyboardInterrupt:
        return _complain(["Interrupted: what was saved before is kept."])
    report = load_report(data)
    print(f"\n{page(name, benchmark, report)}\nSaved in {data}.")
    return _complain(benchmark.problems(report))


def _parser(name: str, benchmark: Benchmark) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=about(name))
    parser.add_argument(
        "--texts", action="store_true", help="measure nothing: write the texts of the last report"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write only to this folder, not to the docs"
    )
    benchmark.add_options(parser)
    return parser


def _complain(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def load_report(path: Path) -> Report:
    """A saved report. Raises CourseError if there is none."""
    if not path.is_file():
        raise CourseError(f"there is no report in {path} yet: run the benchmark without --texts")
    return json.loads(path.read_text(encoding="utf-8"))


def measured_here(*libraries: str) -> dict[str, str]:
    """What a report begins with: date and machine, with the versions of further libraries too."""
    more = "".join(f", {name} {version(name)}" for name in libraries)
    return {"date": date.today().isoformat(), "machine": machine() + more}


# --- texts and pictures ---------------------------------------------------------------------------


def publish(name: str, benchmark: Benchmark, report: Report, output: Path | None = None) -> None:
    """Write the page and the pictures of a report, and without `output` what the docs quote."""
    folder = output or RESULTS
    files.write_text(folder / f"{name}.md", page(name, benchmark, report))
    for key, picture in benchmark.pictures.items():
        figure = picture(report).figure
        for place in [folder] if output else [folder, DOCS / "images"]:
            figure.savefig(place / f"{name}-{key}.png", dpi=110)
    if output is None:
        quotes = quoted(name, benchmark, report)
        for path in (ROOT / "README.md", *DOCS.glob("*.md")):
            text = path.read_text(encoding="utf-8")
            if (renewed := renew(text, quotes)) != text:
                files.write_text(path, renewed)


def page(name: str, benchmark: Benchmark, report: Report) -> str:
    """The whole report as Markdown: a section for each table, the pictures, the problems."""
    parts = [f"# {about(name)}"]
    parts += [f"## {key}\n\n{table(report)}" for key, table in benchmark.tables.items()]
    parts += [
        f"![{make(report).alt}]({name}-{key}.png)" for key, make in benchmark.pictures.items()
    ]
    parts += [f"- {problem}" for problem in benchmark.problems(report)]
    return "\n\n".join([*parts, made(name, benchmark, report)]) + "\n"


def made(name: str, benchmark: Benchmark, report: Report) -> str:
    """How, when and where a report was measured."""
    source = f"Made by `python -m benchmarks {name}`"
    if "date" in report:
        source += f" on {report['date']}: {report['machine']}"
    return f"{benchmark.conditions(report)} {source}.".lstrip()


def paragraph(text: str) -> str:
    """Text on one line, however its source is wrapped."""
    return " ".join(text.split())


def quoted(name: str, benchmark: Benchmark, report: Report) -> dict[str, str]:
    """Mark → what README and docs quote there: tables, pictures, and how they were made."""
    texts = {f"{name} {key}": table(report) for key, table in benchmark.tables.items()}
    for key, picture in benchmark.pictures.items():
        texts[f"{name} {key} picture"] = f"![{picture(report).alt}](images/{name}-{key}.png)"
    return texts | {f"{name} made": made(name, benchmark, report)}


def renew(text: str, quotes: Mapping[str, str]) -> str:
    """The text of a page with each quote between its marks, if the page has these marks."""
    for mark, content in quotes.items():
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        if begin in text:
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text
