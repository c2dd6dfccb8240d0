"""Facts about this machine for tests and benchmarks.

Benchmarks import helpers of the tests, such as these. Tests import no benchmark, except the tests
of the benchmarks themselves.
"""

from __future__ import annotations

import platform
import re
import socket
from pathlib import Path

from course_utils.machine import environment, runtime

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


def processor() -> str:
    """Return the name of this machine's processor."""
    # On Linux `platform.processor` is empty, but this file contains the name.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (names := re.findall(r"model name\s*: (.*)", cpuinfo.read_text())):
        return names[0]
    return platform.processor() or platform.machine()


def machine() -> str:
    """Return the processor, the cores, the compute dtype and the versions of LIBRARIES."""
    installed = environment.versions()
    versions = ", ".join(f"{name} {installed[name]}" for name in LIBRARIES)
    cores = runtime.usable_cores()
    return f"{processor()}, {cores:g} cores, compute dtype {runtime.compute_dtype()}; {versions}"


def free_port() -> int:
    """Return a port of this machine on which no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
