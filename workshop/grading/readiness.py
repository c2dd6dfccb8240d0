"""Check whether this machine can grade: which parts of the sandbox work, and what to install."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from importlib import util

from course_utils.machine.environment import Environment, Row
from course_utils.machine.runtime import available_memory, usable_cores
from course_utils.machine.validation import CourseError
from workshop.grading import release
from workshop.grading.sandbox import limits, seccomp
from workshop.grading.sandbox.bubblewrap import INSTALL, NoSandbox, SandboxError
from workshop.grading.sandbox.server import Server

# Memory that is planned for each submission while it is graded, including its test process, in
# bytes (B).
MEMORY_PER_SUBMISSION = 1_500_000_000
ALLOW_NAMESPACES = (
    "this system doesn't allow programs to create namespaces. On your own machine, run as root: "
    "`sysctl -w kernel.unprivileged_userns_clone=1` (Debian), or `sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 and later). For a container, "
    "see docs/grading.md, section Containers"
)
SLOW_SANDBOXES = (
    "each submission starts its own sandbox and imports its libraries again, which takes seconds; "
    "see docs/grading.md, section Containers"
)


def workers() -> int:
    """Return how many submissions this machine grades at a time: one per core, if memory allows."""
    return max(1, min(usable_cores(), available_memory() // MEMORY_PER_SUBMISSION))


def check_grading() -> Environment:
    """Check everything that grading needs, and return a table of the results.

    The check starts a sandbox, which needs about one second.
    """
    rows = [_bubblewrap(), _nbgrader()]
    if rows[0].state == "ok":
        rows += _sandbox()
    kind, remedy = limits.available()
    state = "warn" if remedy else "ok"
    rows.append(Row("limits", f"{kind} limits memory and processes", state, remedy))
    if platform.machine() in seccomp.MACHINES:
        rows.append(Row("system calls", "dangerous system calls are refused"))
    else:
        rows.append(Row("system calls", f"not filtered on {platform.machine()}", "warn"))
    rows.append(Row("workers", f"grade {workers()} submissions at the same time"))
    return Environment(tuple(rows), "Grading")


def _bubblewrap() -> Row:
    if platform.system() != "Linux":
        remedy = "grade on Linux: a virtual machine, or WSL 2 on Windows"
        return Row("bubblewrap", f"not available on {platform.system()}", "fail", remedy)
    if not (program := shutil.which("bwrap")):
        return Row("bubblewrap", "missing", "fail", INSTALL)
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    return Row("bubblewrap", version.strip().removeprefix("bubblewrap "))


def _nbgrader() -> Row:
    if util.find_spec("nbgrader"):
        return Row("nbgrader", "installed")
    return Row("nbgrader", "missing", "fail", "run `pip install nbgrader`")


def _sandbox() -> list[Row]:
    """Start a sandbox on this machine, and return table rows that describe what it can do."""
    private: tuple[str, ...] = ()
    with contextlib.suppress(CourseError):
        private = release.private_paths(release.class_folder())
    try:
        with Server(private=private) as server:
            fork_error = server.fork_error
    except NoSandbox as error:
        return [Row("sandbox", str(error), "fail")]
    except SandboxError as error:
        return [Row("sandbox", str(error), "fail", ALLOW_NAMESPACES)]
    rows = [Row("sandbox", "no access to network, files and processes of this machine")]
    if fork_error:
        problem = f"a running sandbox can't create namespaces ({fork_error})"
        rows.append(Row("namespaces", problem, "warn", SLOW_SANDBOXES))
    else:
        rows.append(
            Row("namespaces", "each submission gets separate namespaces, in a running sandbox")
        )
    user = "nobody, because you are root" if os.geteuid() == 0 else f"you ({os.geteuid()})"
    rows.append(Row("user", f"outside the sandbox, its processes belong to {user}"))
    return rows
