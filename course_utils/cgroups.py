"""Read the control groups of this process from /proc/self/cgroup.

The module needs only the standard library. A line of the file describes one control group:

    9:pids:/box/inner                               cgroup v1: a group for each controller
    0::/user.slice/user.service/run.scope           cgroup v2: one group for all controllers

Source: Linux's manual page cgroups(7).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

OWN = Path("/proc/self/cgroup")


class Membership(NamedTuple):
    """One control group of this process.

    Attributes:
        controllers: The names of the controllers of a cgroup v1 group, or {""} for the cgroup v2
            group.
        path: The group's path below the root of its hierarchy.
    """

    controllers: frozenset[str]
    path: str


def memberships(text: str | None = None) -> list[Membership]:
    """Return the control groups of this process, or an empty list if the system has none.

    Args:
        text: The text of /proc/self/cgroup. By default the file is read.
    """
    if text is None:
        text = OWN.read_text() if OWN.exists() else ""
    lines = (line.split(":", 2) for line in text.splitlines())
    return [Membership(frozenset(names.split(",")), path) for _, names, path in lines]
