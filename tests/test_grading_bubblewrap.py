"""Each field of a sandbox policy gives its guarantee, and no other field gives it."""

import contextlib
import dataclasses
import os
import pwd
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from tests.sandboxes import needed
from workshop.grading.sandbox import bubblewrap
from workshop.grading.sandbox.bubblewrap import Mount, Policy
from workshop.grading.sandbox.package import copy_package


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The policy of a sandbox, with a hidden folder and an empty folder."""
    package = tmp_path_factory.mktemp("package")
    copy_package(package)
    hidden = (f"{bubblewrap.COURSE}/course_utils/memory",)
    return replace(bubblewrap.sandbox_policy(package), hidden=hidden, folders=("/empty",))


def succeeds(policy, probe):
    """Return whether a shell command succeeds in a sandbox with this policy."""
    command = [*policy.argv(), "sh", "-c", probe]
    environment = os.environ | {"CANARY": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    # Bubblewrap itself did not fail, so the status is that of the probe.
    assert "bwrap:" not in done.stderr
    return done.returncode == 0


def namespace(kind):
    """Return a probe that succeeds if the namespace differs from this process's namespace."""
    return f'[ "$(readlink /proc/self/ns/{kind})" != "{os.readlink(f"/proc/self/ns/{kind}")}" ]'


COURSE = f"{bubblewrap.COURSE}/course_utils"
SYSTEM = tuple(Mount(path, path) for path in bubblewrap.SYSTEM if os.path.exists(path))
# For each field: a command that succeeds if the guarantee holds, and the changes to other fields of
# a policy without the guarantee.
PROBES = [
    *(
        ("unshare", namespace(kind), {"unshare": ("user",), "hostname": ""})
        for kind in ("net", "pid", "ipc", "uts")
    ),
    ("new_session", 'read -r _ _ _ _ _ session _ < /proc/self/stat; [ "$session" != 0 ]', {}),
    ("user", '[ "$(id -u):$(id -g)" = 1000:1000 ]', {"user": "4321"}),
    ("hostname", '[ "$(cat /proc/sys/kernel/hostname)" = sandbox ]', {"hostname": "other"}),
    ("drop_capabilities", "! grep '^Cap.*:.*[1-9a-f]' /proc/self/status", {}),
    ("read_only", f"[ -s {COURSE}/lora.py ]", {"read_only": SYSTEM, "hidden": ()}),
    ("hidden", f'[ -z "$(ls -A {COURSE}/memory)" ] && ! touch {COURSE}/memory/canary', {}),
    ("own_proc", 'read -r pid _ < /proc/self/stat; [ "$pid" = $$ ]', {}),
    ("read_only_devices", "! touch /dev/canary", {}),
    ("tmpfs", '[ -z "$(ls -A /tmp)" ] && touch /tmp/canary', {"folders": ("/tmp", "/empty")}),
    ("folders", '[ -d /empty ] && [ -z "$(ls -A /empty)" ]', {}),
    ("read_only_root", "! touch /canary", {}),
    ("environment", '[ -z "$CANARY" ] && [ "$USER" = student ]', {}),
    ("working_folder", '[ "$(pwd)" = /tmp ]', {"working_folder": "/usr"}),
]


@needed
@pytest.mark.parametrize(("field", "probe", "without"), PROBES)
def test_a_guarantee_holds_because_of_its_field(policy, field, probe, without):
    default = Policy.__dataclass_fields__[field].default
    assert succeeds(policy, probe)
    if field == "drop_capabilities" and os.geteuid() != 0:
        pytest.skip("only a program that root starts has capabilities")
    assert not succeeds(replace(policy, **{field: default} | without), probe)


def test_each_guarantee_has_a_test():
    tested = {field for field, _, _ in PROBES} | {"die_with_parent"}
    assert tested == {field.name for field in dataclasses.fields(Policy)}


@pytest.mark.full
@needed
@pytest.mark.parametrize("die_with_parent", [True, False])
def test_the_program_ends_with_its_parent_because_of_its_field(policy, die_with_parent):
    command = [*replace(policy, die_with_parent=die_with_parent).argv(), "sleep", "60"]
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:]); input()"
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", code, *command], stdin=pipe)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        members = psutil.Process(parent.pid).children(recursive=True)
        if any(member.name() == "sleep" for member in members):
            break
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    try:
        _, running = psutil.wait_procs(members, timeout=60 if die_with_parent else 1)
        assert bool(running) != die_with_parent
    finally:
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def test_the_second_bubblewrap_of_root_does_not_run_as_root(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    policy = bubblewrap.sandbox_policy(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bubblewrap.command(tmp_path) == policy.argv()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    outer, as_nobody, inner = _split(bubblewrap.command(tmp_path))
    assert "--clearenv" in outer and as_nobody[0] == "setpriv" and "--clear-groups" in as_nobody
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    assert nobody != "0" and as_nobody[as_nobody.index("--reuid") + 1] == nobody
    root = (Mount("/", "/"),)
    assert inner == replace(policy, read_only=root, hidden=(), read_only_root=False).argv()
    # Only /proc is mounted writable at first, and the second bubblewrap replaces /proc.
    assert outer.count("--bind") == 1 and outer[outer.index("--bind") + 1] == "/proc"


def _split(words):
    """Return the first bubblewrap command, the next command, and the second bubblewrap command."""
    first = words.index("--") + 1
    second = words.index("bwrap", first)
    return words[:first], words[first:second], words[second:]
