"""Check whether this machine can grade: which parts of the sandbox work, and what to install."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import util

from course_utils.grading.sandbox import limits, seccomp
from course_utils.grading.sandbox.bubblewrap import INSTALL, SandboxError
from course_utils.grading.sandbox.server import Server
from course_utils.runtime import Environment, Row, available_memory, usable_cores

# Memory that one submission may need while it is graded, including its test process, in bytes.
EACH = 1_500_000_000
ALLOW = (
    "this system doesn't let programs make namespaces. On your own machine, as root: "
    "`sysctl -w kernel.unprivileged_userns_clone=1` (Debian), or `sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 and later). In a container: "
    "docs/grading-at-scale.md, section Containers"
)
SLOW = (
    "each submission then starts a sandbox of its own and imports its libraries again, which takes "
    "seconds; see docs/grading-at-scale.md, section Containers"
)


def workers() -> int:
    """Return how many submissions this machine grades at a time: one per core, if memory allows."""
    return max(1, min(usable_cores(), available_memory() // EACH))


def check_grading() -> Environment:
    """Check everything that grading needs, and return a table of the results.

    The check starts a sandbox, which needs about one second.
    """
    rows = [_bubblewrap(), _nbgrader()]
    if rows[0].state == "ok":
        rows += _sandbox()
    kind, better = limits.available()
    rows.append(
        Row("limits", f"memory and processes by {kind}", "warn" if better else "ok", better)
    )
    filtered = platform.machine() in seccomp.MACHINES
    rows.append(
        Row("system calls", "dangerous ones are refused")
        if filtered
        else Row("system calls", f"not filtered on {platform.machine()}", "warn")
    )
    rows.append(Row("at a time", f"{workers()} submissions"))
    return Environment(tuple(rows), "Grading")


def _bubblewrap() -> Row:
    if platform.system() != "Linux":
        remedy = "grade on Linux: a virtual machine, or WSL 2 on Windows"
        return Row("bubblewrap", f"is not there for {platform.system()}", "fail", remedy)
    if not (program := shutil.which("bwrap")):
        return Row("bubblewrap", "missing", "fail", INSTALL)
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    return Row("bubblewrap", version.strip().removeprefix("bubblewrap "))


def _nbgrader() -> Row:
    if util.find_spec("nbgrader"):
        return Row("nbgrader", "is there")
    return Row("nbgrader", "missing", "fail", "run `pip install nbgrader`")


def _sandbox() -> list[Row]:
    """Start a sandbox on this machine, and return table rows that describe what it can do."""
    try:
        with Server() as server:
            fork_error = server.fork_error
    except SandboxError as error:
        return [Row("sandbox", str(error), "fail", ALLOW)]
    rows = [Row("sandbox", "no network, no files, no processes of this machine")]
    warm = Row("namespaces", "each submission has its own, in a sandbox that is warm")
    cold = Row("namespaces", f"a warm sandbox can't make them ({fork_error})", "warn", SLOW)
    rows.append(cold if fork_error else warm)
    user = "nobody, since you are root" if os.geteuid() == 0 else f"you ({os.geteuid()})"
    rows.append(Row("user", f"outside of the sandbox, its processes belong to {user}"))
    return rows
