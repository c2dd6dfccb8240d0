"""The sandbox's policy: each field of a Bubble keeps its promise, and no other field does so."""

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

from course_utils.grading.sandbox import bubblewrap
from course_utils.grading.sandbox.bubblewrap import Bubble, Mount
from course_utils.grading.sandbox.package import copied_package
from tests.sandboxes import needed


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The sandbox's policy, with a hidden and an empty folder."""
    package = copied_package(tmp_path_factory.mktemp("package"))
    hidden = (f"{bubblewrap.COURSE}/course_utils/memory",)
    return replace(bubblewrap.policy(package), hidden=hidden, folders=("/empty",))


def holds(bubble, probe):
    """Whether a program in the bubble finds that a shell command succeeds."""
    command = [*bubble.argv(), "sh", "-c", probe]
    environment = os.environ | {"CANARY": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    # The shell has run the probe: bubblewrap has no error of its own.
    assert "bwrap:" not in done.stderr
    return done.returncode == 0


def namespace(kind):
    """A probe: whether a namespace is another one than this process's."""
    return f'[ "$(readlink /proc/self/ns/{kind})" != "{os.readlink(f"/proc/self/ns/{kind}")}" ]'


COURSE = f"{bubblewrap.COURSE}/course_utils"
SYSTEM = tuple(Mount(path, path) for path in bubblewrap.SYSTEM if os.path.exists(path))
# Field, what a program can find out about its promise, and a bubble without the promise.
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
    ("hidden", f'[ -z "$(ls -A {COURSE}/memory)" ]', {}),
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
def test_a_field_keeps_its_promise_and_nothing_else_does(policy, field, probe, without):
    default = Bubble.__dataclass_fields__[field].default
    assert holds(policy, probe)
    if field == "drop_capabilities" and os.geteuid() != 0:
        pytest.skip("only what root starts has capabilities to drop")
    assert not holds(replace(policy, **{field: default} | without), probe)


@needed
@pytest.mark.parametrize("path", ["/usr", COURSE, f"{COURSE}/lora.py"])
def test_what_can_be_read_can_t_be_changed(policy, path):
    assert holds(policy, f"[ -r {path} ]")
    assert holds(policy, f"! touch {path} && ! touch {path}/canary")


@needed
@pytest.mark.parametrize("bound", [True, False])
def test_it_ends_with_its_parent(policy, bound):
    command = [*replace(policy, die_with_parent=bound).argv(), "sleep", "60"]
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:]); input()"
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", code, *command], stdin=pipe)
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        members = psutil.Process(parent.pid).children(recursive=True)
        if any(member.name() == "sleep" for member in members):
            break
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    try:
        _, left = psutil.wait_procs(members, timeout=5 if bound else 1)
        assert bool(left) != bound
    finally:
        for member in members:
            if member.is_running():
                member.kill()


def test_each_field_is_tested():
    tested = {field for field, _, _ in PROBES} | {"die_with_parent"}
    assert tested == {field.name for field in dataclasses.fields(Bubble)}


def test_root_gives_up_root_between_two_bubbles(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    policy = bubblewrap.policy(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bubblewrap.command(tmp_path) == policy.argv()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    outer, as_nobody, inner = _split(bubblewrap.command(tmp_path))
    assert as_nobody[0] == "setpriv" and "--clear-groups" in as_nobody
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    assert nobody != "0" and as_nobody[as_nobody.index("--reuid") + 1] == nobody
    root = (Mount("/", "/"),)
    assert inner == replace(policy, read_only=root, hidden=(), read_only_root=False).argv()
    # Only /proc is mounted without protection at first, and the inner bubble replaces it.
    assert outer.count("--bind") == 1 and outer[outer.index("--bind") + 1] == "/proc"


def _split(words):
    """A command's two bubbles, and what is between them."""
    first = words.index("--") + 1
    second = words.index("bwrap", first)
    return words[:first], words[first:second], words[second:]
