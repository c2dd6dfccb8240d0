"""The control groups of this process are read in both versions of the hierarchy."""

import sys

from course_utils.machine import cgroups
from course_utils.machine.cgroups import Membership, memberships


def test_groups_of_both_versions_are_read():
    text = "9:pids:/box/inner\n4:cpu,cpuacct:/a:b\n1:name=systemd:/x\n0::/user.slice/run.scope\n"
    assert memberships(text) == [
        Membership(frozenset({"pids"}), "/box/inner"),
        Membership(frozenset({"cpu", "cpuacct"}), "/a:b"),
        Membership(frozenset({"name=systemd"}), "/x"),
        Membership(frozenset({""}), "/user.slice/run.scope"),
    ]


def test_the_list_is_empty_only_without_the_file(monkeypatch, tmp_path):
    if sys.platform == "linux":
        assert memberships() and all(path.startswith("/") for _, path in memberships())
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "missing")
    assert memberships() == memberships("") == []
