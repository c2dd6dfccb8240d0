"""Read the control groups of this process, and how much memory and CPU time they still allow.

Docker and Binder limit their programs with control groups. The module needs only the standard
library. A line of /proc/self/cgroup describes one control group:

    9:pids:/box/inner                               cgroup v1: a group for each controller
    0::/user.slice/user.service/run.scope           cgroup v2: one group for all controllers

Source: Linux's manual page cgroups(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OWN, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# The files with the limit and the use of memory in bytes (B), in version 2 and in version 1.
MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


class Membership(NamedTuple):
    """One control group of this process, and its path below the root of its hierarchy."""

    # The names of the controllers of a cgroup v1 group, or {""} for the cgroup v2 group.
    controllers: frozenset[str]
    path: str


def memberships(text: str | None = None) -> list[Membership]:
    """Return the control groups in the text of /proc/self/cgroup; none if there is no such file."""
    if text is None:
        text = OWN.read_text() if OWN.exists() else ""
    lines = (line.split(":", 2) for line in text.splitlines())
    return [Membership(frozenset(names.split(",")), path) for _, names, path in lines]


def memory_left(root: Path = ROOT) -> Iterator[int]:
    """Yield the memory that each group with a limit still allows, in bytes (B).

    File caches that the kernel can drop count as free.
    """
    for folder in _folders(root, "memory"):
        for limit_file, usage_file in MEMORY_FILES:
            limit, usage = _number(folder / limit_file), _number(folder / usage_file)
            if limit is not None and usage is not None:
                stat = folder / "memory.stat"
                text = stat.read_text() if stat.exists() else ""
                sizes = dict(re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE))
                caches = sizes.get("total_inactive_file") or sizes.get("inactive_file") or 0
                yield max(0, limit - usage + int(caches))


def cpu_quotas(root: Path = ROOT) -> Iterator[float]:
    """Yield the number of cores whose time each group with a quota may use, such as 1.5."""
    for folder in _folders(root, "cpu"):
        if (folder / "cpu.max").exists():
            most, span = (folder / "cpu.max").read_text().split()
            if most != "max":
                yield int(most) / int(span)
        quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota and period and quota > 0:
            yield quota / period


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of all enclosing groups, in both versions."""
    for controllers, path in memberships():
        if controllers.isdisjoint({controller, ""}):
            continue
        base = root if "" in controllers else root / controller
        inner = base / path.lstrip("/")
        chain = [inner, *inner.parents]
        yield from (folder for folder in chain if folder.is_relative_to(base) and folder.is_dir())


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    # The file is missing, or it contains the word "max".
    except (OSError, ValueError):
        return None
