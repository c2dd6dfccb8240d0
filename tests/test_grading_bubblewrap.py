"""Each option of the bubblewrap command is needed, and no variable of the grader leaks."""

import os
import subprocess

import psutil
import pytest

from tests.sandboxes import QUICK, needed
from workshop.grading.sandbox import bubblewrap
from workshop.grading.sandbox.package import copy_package
from workshop.grading.sandbox.server import Server

pytestmark = needed


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command of a user other than root."""
    package = tmp_path_factory.mktemp("package")
    copy_package(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        return bubblewrap.command(package, bubblewrap.ONLY_SYSTEM)


def replaced(command, options, others):
    """Return the command with some neighbouring options replaced by others."""
    text, old, new = ("\0".join(words) for words in (command, options.split(), others.split()))
    assert text.count(f"\0{old}\0") == 1
    return [word for word in text.replace(f"\0{old}\0", f"\0{new}\0").split("\0") if word]


def succeeds(command, probe):
    """Return whether a shell command succeeds in a sandbox."""
    words = [*command, "sh", "-c", probe]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    # Bubblewrap itself did not fail, so the status is that of the probe.
    assert "bwrap:" not in done.stderr
    return done.returncode == 0


def namespace(kind):
    """Return a probe that succeeds if the namespace differs from this process's namespace."""
    return f'[ "$(readlink /proc/self/ns/{kind})" != "{os.readlink(f"/proc/self/ns/{kind}")}" ]'


# For each guarantee: a probe that succeeds because of some options, and what replaces the options.
PROBES = [
    *(
        (namespace(kind), "--unshare-all", " ".join(f"--unshare-{k}" for k in others))
        for kind in ("net", "pid", "ipc")
        for others in [sorted({"user", "net", "pid", "ipc", "uts"} - {kind})]
    ),
    (
        'read -r _ _ _ _ _ session _ < /proc/self/stat; [ "$session" != 0 ]',
        "--new-session",
        "",
    ),
    ('[ "$(id -u):$(id -g)" = 1000:1000 ]', "--uid 1000 --gid 1000", "--uid 43 --gid 43"),
    ('[ "$(cat /proc/sys/kernel/hostname)" = sandbox ]', "--hostname sandbox", "--hostname x"),
    ("! grep '^Cap.*:.*[1-9a-f]' /proc/self/status", "--cap-drop ALL", ""),
    ('read -r pid _ < /proc/self/stat; [ "$pid" = $$ ]', "--proc /proc", "--bind /proc /proc"),
    ("! touch /dev/canary", "--remount-ro /dev", ""),
    ('[ -z "$(ls -A /tmp)" ] && touch /tmp/canary', "--tmpfs /tmp", "--dir /tmp"),
    ("! touch /canary", "--remount-ro /", ""),
    ('[ "$(pwd)" = /tmp ]', "--chdir /tmp", "--chdir /usr"),
]


@pytest.mark.parametrize(("probe", "options", "others"), PROBES)
def test_a_guarantee_holds_because_of_its_options(command, probe, options, others):
    assert succeeds(command, probe)
    if "cap" in options and os.geteuid() != 0:
        pytest.skip("only a program that root starts has capabilities")
    assert not succeeds(replaced(command, options, others), probe)


def test_no_process_has_the_environment_of_the_grader_and_none_in_the_sandbox_its_user(monkeypatch):
    """If root grades, any process of the user nobody can read the sandbox's environment."""
    monkeypatch.setenv("GITHUB_TOKEN", "canary-value")
    before = psutil.Process().children(recursive=True)
    with Server() as server:
        started = set(psutil.Process().children(recursive=True)) - set(before)
        assert len([each for each in started if each.name() == "bwrap"]) >= 2
        for process in started:
            assert process.environ().keys() <= {*bubblewrap.environment(), "PWD"}, process
        student = server.start("student", QUICK)
        assert set(psutil.Process(student.pid).uids()) == {os.geteuid() or 65534}
