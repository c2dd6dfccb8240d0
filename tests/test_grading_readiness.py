"""Whether a machine can grade, said in rows with remedies."""

import platform
import shutil

import pytest

from course_utils.grading import readiness
from course_utils.grading.sandbox import bubblewrap, limits, seccomp
from tests.sandboxes import needed


def rows():
    return {row.what: row for row in readiness.check_grading().rows}


@needed
def test_what_works_here():
    found = rows()
    assert {"bubblewrap", "nbgrader", "sandbox", "namespaces", "user", "limits"} <= found.keys()
    assert found["sandbox"].state == "ok" and "no network" in found["sandbox"].found
    assert readiness.check_grading().verdict.startswith("Grading runs here")


def test_without_bubblewrap_it_fails_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    environment = readiness.check_grading()
    assert not environment.ok and environment.verdict.startswith("Grading can't run yet")
    row = environment.rows[0]
    assert (row.found, row.state) == ("missing", "fail") and "apt install bubblewrap" in row.remedy


def test_other_systems_are_told_where_to_grade(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    row = readiness.check_grading().rows[0]
    assert row.state == "fail" and "Darwin" in row.found and "WSL 2" in row.remedy


def test_a_system_that_allows_no_namespaces_gets_the_remedies(monkeypatch):
    def refuse(*_, **__):
        raise bubblewrap.SandboxError("the sandbox doesn't work here: No permissions")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/true")
    monkeypatch.setattr(readiness, "Server", refuse)
    row = rows()["sandbox"]
    assert row.state == "fail" and "No permissions" in row.found
    assert "sysctl -w kernel.unprivileged_userns_clone=1" in row.remedy
    assert "apparmor_restrict_unprivileged_userns" in row.remedy


@needed
def test_what_is_weaker_is_a_warning(monkeypatch):
    monkeypatch.setattr(limits, "available", lambda: ("a watcher", "use control groups"))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(seccomp, "MACHINES", {})
    found = rows()
    assert found["limits"].state == found["system calls"].state == "warn"
    assert found["limits"].remedy == "use control groups"


@pytest.mark.parametrize(
    ("cores", "memory", "wanted"), [(8, 100e9, 8), (8, 3.2e9, 2), (1, 100e9, 1), (8, 1e8, 1)]
)
def test_as_many_at_a_time_as_cores_and_memory_allow(monkeypatch, cores, memory, wanted):
    monkeypatch.setattr(readiness, "usable_cores", lambda: cores)
    monkeypatch.setattr(readiness, "available_memory", lambda: int(memory))
    assert readiness.workers() == wanted
