"""Test the table that says whether a machine can grade."""

import platform
import shutil

import pytest

from tests.sandboxes import needed
from workshop.grading import readiness
from workshop.grading.sandbox import bubblewrap


def rows():
    return {row.what: row for row in readiness.check_grading().rows}


@needed
def test_this_machine_can_grade():
    environment = readiness.check_grading()
    states = {row.what: row.state for row in environment.rows}
    assert {"bubblewrap", "nbgrader", "sandbox", "namespaces", "user", "limits"} <= states.keys()
    assert states["sandbox"] == "ok" and environment.ok


def test_without_bubblewrap_the_table_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    environment = readiness.check_grading()
    assert not environment.ok
    row = environment.rows[0]
    assert (row.found, row.state) == ("missing", "fail") and "apt install bubblewrap" in row.remedy


def test_on_another_system_the_table_says_where_to_grade(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    row = readiness.check_grading().rows[0]
    assert row.state == "fail" and "Darwin" in row.found and "WSL 2" in row.remedy


def test_on_a_system_without_namespaces_the_table_names_the_remedies(monkeypatch):
    def no_server(*_, **__):
        raise bubblewrap.SandboxError("the sandbox doesn't work here: No permissions")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/true")
    monkeypatch.setattr(readiness, "Server", no_server)
    row = rows()["sandbox"]
    assert row.state == "fail" and "No permissions" in row.found
    assert "sysctl -w kernel.unprivileged_userns_clone=1" in row.remedy
    assert "apparmor_restrict_unprivileged_userns" in row.remedy


@pytest.mark.parametrize(
    ("cores", "memory", "expected"), [(8, 100e9, 8), (8, 3.2e9, 2), (1, 100e9, 1), (8, 1e8, 1)]
)
def test_the_number_of_workers_fits_cores_and_memory(monkeypatch, cores, memory, expected):
    monkeypatch.setattr(readiness, "usable_cores", lambda: cores)
    monkeypatch.setattr(readiness, "available_memory", lambda: int(memory))
    assert readiness.workers() == expected
