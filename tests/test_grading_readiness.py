"""Test the table that says whether a machine can grade."""

import re

import pytest

from tests.sandboxes import needed
from workshop.grading import readiness
from workshop.grading.sandbox import bubblewrap


def rows():
    return {row.what: row for row in readiness.check_grading().rows}


@needed
@pytest.mark.full
def test_this_machine_can_grade():
    environment = readiness.check_grading()
    names = ["sandbox", "files", "nbgrader", "memory", "processes", "system calls", "workers"]
    assert list(rows()) == names and rows()["sandbox"].state == "ok" and environment.ok


def no_namespaces(*_, **__):
    raise bubblewrap.SandboxError("the sandbox doesn't work here: No permissions")


@pytest.mark.parametrize(
    ("patches", "found", "remedy"),
    [
        ({"shutil.which": lambda _: None}, "no bubblewrap: .*WSL 2.*apt install bubblewrap", ""),
        (
            {f"{readiness.__name__}.Server": no_namespaces},
            "No permissions",
            "sysctl -w kernel.unprivileged_userns_clone=1.*apparmor_restrict_unprivileged_userns",
        ),
    ],
)
def test_the_table_says_why_this_machine_can_not_grade(monkeypatch, patches, found, remedy):
    for name, value in patches.items():
        monkeypatch.setattr(name, value)
    row = rows()["sandbox"]
    assert row.state == "fail" and not readiness.check_grading().ok
    assert re.search(found, row.found) and re.search(remedy, row.remedy)


@pytest.mark.parametrize(
    ("cores", "memory", "expected"), [(8, 100e9, 8), (8, 3.2e9, 2), (1, 100e9, 1), (8, 1e8, 1)]
)
def test_the_number_of_workers_fits_cores_and_memory(monkeypatch, cores, memory, expected):
    monkeypatch.setattr(readiness, "usable_cores", lambda: cores)
    monkeypatch.setattr(readiness, "available_memory", lambda: int(memory))
    assert readiness.workers() == expected
