"""Check whether this machine can grade, and say what to change if it can't."""

from __future__ import annotations

import contextlib
import os
from importlib import util

from course_utils.machine.environment import Environment, Row
from course_utils.machine.runtime import available_memory, usable_cores
from course_utils.machine.validation import CourseError
from workshop.grading import release
from workshop.grading.sandbox import bubblewrap, rlimits, seccomp
from workshop.grading.sandbox.bubblewrap import NoSandbox, SandboxError
from workshop.grading.sandbox.limits import cgroups
from workshop.grading.sandbox.server import Server

# Memory that is planned for each submission while it is graded, including its test process, in
# bytes (B).
MEMORY_PER_SUBMISSION = 1_500_000_000
ALLOW_NAMESPACES = (
    "allow programs to create namespaces. On your own machine, run as root: `sysctl -w "
    "kernel.unprivileged_userns_clone=1` (Debian), or `sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 and later)"
)
MOVE = (
    "move the class out of these folders, where all other files can be read, or list fewer "
    "folders in c.Sandbox.read_only of nbgrader_config.py"
)
EXACT = (
    "a thread measures the processes every 0.1 s. A control group is exact: run the command as "
    "`systemd-run --user --scope -p Delegate=yes course …`, or where /sys/fs/cgroup is writable"
)


def workers() -> int:
    """Return how many submissions this machine grades at a time: one per core, if memory allows."""
    return max(1, min(usable_cores(), available_memory() // MEMORY_PER_SUBMISSION))


def check_grading() -> Environment:
    """Start a sandbox, and return a table that says whether each requirement of grading is met."""
    rows = [
        *_sandbox(),
        _row("nbgrader", util.find_spec("nbgrader"), "installed", "run `pip install nbgrader`"),
        _row("memory", cgroups.parent(), "limited by a control group (cgroup v2)", EXACT),
        _row("processes", rlimits.counts_per_namespace(), "limited", "use Linux 5.14 or later"),
        _row("system calls", seccomp.supported(), "filtered", "use x86-64 or AArch64"),
        Row("workers", f"grade {workers()} submissions at the same time"),
    ]
    return Environment(tuple(rows), "Grading")


def _row(what: str, ok: object, found: str, remedy: str) -> Row:
    return Row(what, found) if ok else Row(what, f"not {found}", "warn", remedy)


def _sandbox() -> list[Row]:
    """Start a sandbox; return rows with the readable folders and the user who runs submissions."""
    folders = bubblewrap.ONLY_SYSTEM
    with contextlib.suppress(CourseError):
        folders = release.sandbox_folders(release.class_folder())
    try:
        Server(folders=folders).close()
    except SandboxError as error:
        remedy = "" if isinstance(error, NoSandbox) else ALLOW_NAMESPACES
        return [Row("sandbox", str(error), "fail", remedy)]
    user = "nobody, because you are root" if os.geteuid() == 0 else f"you ({os.geteuid()})"
    hidden = bubblewrap.hidden(folders)
    files = f"submissions can read {', '.join(bubblewrap.readable(folders))}"
    files += f"; but not {', '.join(hidden)}" * bool(hidden)
    return [
        Row("sandbox", f"without network; outside, its processes belong to {user}"),
        Row("files", files, *(("warn", MOVE) if hidden else ())),
    ]
