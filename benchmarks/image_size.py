"""Measure how much the course adds to a Binder image: installed packages and the model.

Run the benchmark in an environment with the course and the CPU build of torch. No image is built:
pip records the files of each installed package, and the benchmark adds the sizes of these files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.runner import Benchmark, Report, measured_here
from course_utils.units import format_bytes
from course_utils.validation import CourseError

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "binder" / "environment.yml"
# Number of packages that have their own row in the table.
BIGGEST = 10


def requirements(environment: Path = ENVIRONMENT) -> list[str]:
    """Return the requirements that an environment file installs with pip, without options."""
    entries = yaml.safe_load(environment.read_text(encoding="utf-8"))["dependencies"]
    (lines,) = (entry["pip"] for entry in entries if isinstance(entry, dict))
    return [line for line in lines if not line.startswith("-")]


def closure(lines: Iterable[str]) -> set[str]:
    """Return the names of all packages that requirements need, directly or indirectly.

    Markers are evaluated for this Python and this system.

    Raises:
        CourseError: a package isn't installed.
    """
    found: set[tuple[str, str]] = set()
    queue = [Requirement(line) for line in lines]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                queue += dependencies(name, extra)
    return {name for name, _ in found}


def dependencies(name: str, extra: str) -> Iterator[Requirement]:
    """Yield the requirements of an installed package with one of its extras ("" for none)."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        raise CourseError(f"{name} is not installed: run `make setup`") from None
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def installed_bytes(name: str) -> int:
    """Return the bytes (B) of all files that pip installed for a package, including bytecode."""
    files = (Path(file.locate()) for file in distribution(name).files or [])
    return sum(file.stat().st_size for file in files if file.is_file())


def folder_bytes(folder: Path) -> int:
    """Return the bytes (B) of all files in a folder and its subfolders."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure() -> Iterator[Report]:
    """Yield the sizes of the packages and of the model in bytes (B).

    Raises:
        CourseError: torch was built for CUDA.
    """
    import torch

    from course_utils.models import fetch_base

    if torch.version.cuda:
        raise CourseError(
            "torch was built for CUDA, but Binder has the CPU build, which is smaller: run this "
            "benchmark in an environment with the CPU build of torch"
        )
    sizes = {name: installed_bytes(name) for name in closure(requirements())}
    yield {
        **measured_here(),
        "packages": dict(sorted(sizes.items(), key=lambda item: -item[1])),
        "model": folder_bytes(fetch_base("smollm2-135m", "pypi")),
    }


def table(report: dict) -> str:
    """Return a table of the largest packages, all other packages, the model and the sum."""
    packages = list(report["packages"].items())
    others = packages[BIGGEST:]
    rows = [*packages[:BIGGEST], (f"{len(others)} more packages", sum(size for _, size in others))]
    rows += [("the model", report["model"]), ("**together**", total(report))]
    lines = [f"| {name} | {format_bytes(size)} |" for name, size in rows]
    return "\n".join(["| | on disk |", "|---|---:|", *lines])


def total(report: dict) -> int:
    """Return the bytes (B) of all packages and the model together."""
    return sum(report["packages"].values()) + report["model"]


BENCHMARK = Benchmark(measure, {"table": table})
