"""Check whether this machine can grade: which parts of the sandbox work, and what to change."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import util

from course_utils.machine.environment import Environment, Row
from course_utils.machine.runtime import available_memory, usable_cores
from course_utils.machine.validation import CourseError
from workshop.grading import release
from workshop.grading.sandbox import bubblewrap, limits, rlimits, seccomp
from workshop.grading.sandbox.bubblewrap import Folders, NoSandbox, SandboxError
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
MOVE = (
    "files elsewhere in these folders can be read. Move the class out of them, or list fewer "
    "folders in c.Sandbox.read_only of nbgrader_config.py"
)


def workers() -> int:
    """Return how many submissions this machine grades at a time: one per core, if memory allows."""
    return max(1, min(usable_cores(), available_memory() // MEMORY_PER_SUBMISSION))


def check_grading() -> Environment:
    """Check everything that grading needs, and return a table of the results.

    The check starts a sandbox, which needs about one second.
    """
    rows = []
    if not util.find_spec("nbgrader"):
        rows.append(Row("nbgrader", "missing", "fail", "run `pip install nbgrader`"))
    if (system := platform.system()) != "Linux":
        remedy = "grade on Linux: a virtual machine, or WSL 2 on Windows"
        rows.append(Row("sandbox", f"not available on {system}", "fail", remedy))
    else:
        kind, better = limits.available()
        rows += [*_sandbox(), Row("memory", f"limited by {kind}", _state(not better), better)]
        counted = "limited" if (ok := rlimits.counts_per_namespace()) else "not limited"
        rows.append(Row("processes", counted, _state(ok), "" if ok else "use Linux 5.14 or later"))
        refused = "dangerous ones are refused" if (ok := seccomp.supported()) else "not filtered"
        rows.append(Row("system calls", refused, _state(ok), "" if ok else "use x86-64 or AArch64"))
    rows.append(Row("workers", f"grade {workers()} submissions at the same time"))
    return Environment(tuple(rows), "Grading")


def _sandbox() -> list[Row]:
    """Start a sandbox, and return rows that say what submissions can read and who runs them."""
    folders = Folders()
    with contextlib.suppress(CourseError):
        folders = release.sandbox_folders(release.class_folder())
    try:
        hidden = bubblewrap.hidden(folders)
        Server(folders=folders).close()
    except NoSandbox as error:
        return [Row("sandbox", str(error), "fail")]
    except SandboxError as error:
        return [Row("sandbox", str(error), "fail", ALLOW_NAMESPACES)]
    user = "nobody, because you are root" if os.geteuid() == 0 else f"you ({os.geteuid()})"
    readable = ", ".join(bubblewrap.readable(folders))
    if hidden:
        readable += f"; but not {', '.join(hidden)}"
    return [
        Row("sandbox", f"without network; outside, its processes belong to {user}"),
        Row(
            "files", f"submissions can read {readable}", _state(not hidden), MOVE if hidden else ""
        ),
    ]


def _state(ok: bool) -> str:
    return "ok" if ok else "warn"
