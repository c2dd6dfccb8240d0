"""What all benchmarks share: the machine, where results are kept, and the pages made from them."""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

from course_utils import runtime

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux names the model there
    if cpuinfo.exists() and (names := re.findall(r"model name\s*: (.*)", cpuinfo.read_text())):
        return names[0]
    return platform.processor() or platform.machine()


def machine() -> str:
    """This machine and the versions that matter, in one sentence."""
    installed = runtime.versions()
    versions = ", ".join(f"{name} {installed[name]}" for name in LIBRARIES)
    cores = runtime.usable_cores()
    return f"{processor()}, {cores:g} cores, compute dtype {runtime.compute_dtype()}; {versions}"


def measured_here(*libraries: str) -> dict[str, str]:
    """What a report begins with: date and machine, with the versions of further libraries too."""
    more = "".join(f", {name} {version(name)}" for name in libraries)
    return {"date": date.today().isoformat(), "machine": machine() + more}


def save_report(report: dict, path: Path) -> None:
    """Write a report as JSON, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def load_report(path: Path) -> dict:
    """A report that `save_report` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def asked_for(about: str | None, measured: Callable[[], dict], path: Path) -> dict:
    """The report that a command line asks for: measured now and saved, with --texts the last one.

    about: the benchmark's docstring, whose first line says what it does.
    """
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--texts", action="store_true")
    if not parser.parse_args().texts:
        save_report(measured(), path)
    return load_report(path)


def publish(
    report: dict,
    path: Path,
    page: Callable[[dict], str],
    quotes: Mapping[Path, Callable[[str, dict], str]] | None = None,
) -> None:
    """Write a report as a page beside its JSON at `path`, print it, and renew what quotes it.

    quotes: files whose text holds a part of the report, and what makes their text anew from it.
    """
    text = page(report)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    for file, quoted in (quotes or {}).items():
        file.write_text(quoted(file.read_text(encoding="utf-8"), report), encoding="utf-8")
    print(text)


def between_marks(text: str, name: str, content: str) -> str:
    """A page with this content between the marks <!-- NAME: begin --> and <!-- NAME: end -->."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
