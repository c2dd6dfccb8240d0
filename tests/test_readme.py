"""README's commands exist, and the first one, `make lab`, works for the user of the tests.

On a developer's machine and on GitHub this is an ordinary user, and in a container often root.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from course_utils import bootstrap
from tests.cells import ROOT
from tests.waiting import wait_until
from workshop import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_exist():
    named = re.findall(r"(?:(?:^|`)make|\.venv/bin/course) ([a-z][a-z-]*)", README, re.M)
    assert {"lab", "finetune"} <= set(named) <= set(cli.main.commands)


# --- make lab -------------------------------------------------------------------------------------

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# The maximum time until the server answers on a busy machine, in seconds.
TIMEOUT = 300
PACKAGES = sysconfig.get_path("purelib")


@pytest.fixture
def course(monkeypatch):
    """A copy of the course with a finished set-up."""
    # CI sets this variable.
    monkeypatch.delenv("QLORA_CONSTRAINTS", raising=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("Makefile", "pyproject.toml", "nbgrader_config.py"):
            shutil.copy(ROOT / part, folder)
        for part in ("course_utils", "workshop"):
            shutil.copytree(ROOT / part, folder / part, ignore=lambda *_: ["__pycache__"])
        (folder / "lectures").mkdir()
        shutil.copy(ROOT / "lectures" / "00_setup.ipynb", folder / "lectures")
        monkeypatch.setattr(bootstrap, "ROOT", folder)
        for program, options in (("python", ""), ("course", "-m workshop.cli")):
            path = bootstrap.venv_program(program)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {options} "$@"\n', encoding="utf-8")
            path.chmod(0o755)
        bootstrap.write_stamp(extras=bootstrap.STUDENT)
        cli._record_model(folder)
        yield folder


def environment_of(course):
    """Return the variables of a user whose home is the course's folder, without a display."""
    removed = re.compile("MAKE|MFLAGS|PYTHON|JUPYTER|IPYTHON|XDG|DISPLAY|WAYLAND|BROWSER|ARGS|ONLY")
    kept = {name: value for name, value in os.environ.items() if not removed.match(name)}
    return kept | {"HOME": str(course), "PYTHONPATH": f"{course}{os.pathsep}{PACKAGES}"}


def http_status(address):
    """Return the HTTP status of an address on this machine, without a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(address, timeout=TIMEOUT).status
    except urllib.error.HTTPError as error:
        return error.code


def listening(process):
    """Return the addresses on which the child processes of a process listen."""
    family = psutil.Process(process.pid).children(recursive=True)
    sockets = [socket for child in family for socket in child.net_connections("inet")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


@pytest.mark.full
@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
def test_first_command_starts_jupyterlab(course):
    """There is no terminal and no browser, and the proxy does not answer."""
    block = re.search(r"```bash\n(.+?)```", README, re.S)[1]
    command = block.splitlines()[0].partition("#")[0].split()
    assert command == ["make", "lab"]
    # On macOS, the command would open a browser.
    if sys.platform == "darwin":
        command.append("ARGS=--no-browser")
    log = course / "lab.log"
    environment = environment_of(course) | {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            ["nohup", *command, f"PYTHON={bootstrap.venv_program('python')}"],
            cwd=course,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        pattern = r"URLs:\n\s+(http://localhost:\d+)/lab/tree/lectures/00_setup.ipynb\?(token=\w+)"
        read = lambda: re.search(pattern, log.read_text(encoding="utf-8"))  # noqa: E731
        assert wait_until(lambda: read() or process.poll() is not None, TIMEOUT) and read(), log
        address, token = read().groups()
        assert http_status(f"{address}/api/contents/lectures?{token}") == 200
        assert http_status(f"{address}/api/contents/lectures") == 403
        assert listening(process) <= {"127.0.0.1", "::1"}
    finally:
        running = process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True) if running else []
        process.terminate()
        process.wait(TIMEOUT)
        left = psutil.wait_procs(family, timeout=TIMEOUT)[1]
        for child in left:
            child.kill()
    assert not left, "the server survived the end of make"
    output = log.read_text(encoding="utf-8")
    assert ("The course runs as root here." in output) == IS_ROOT
    assert "Traceback" not in output
