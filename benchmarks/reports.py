"""What all benchmarks share: where results are kept, and the machine that made them."""

from __future__ import annotations

import json
import platform
import re
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


def save_report(report: dict, path: Path) -> None:
    """Write a report as JSON, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def load_report(path: Path) -> dict:
    """A report that `save_report` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
