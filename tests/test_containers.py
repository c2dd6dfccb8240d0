"""Test what the containers of JupyterHub and Codespaces install and run."""

import json
import re
import shlex
import subprocess
from pathlib import Path

from click.testing import CliRunner
from packaging.requirements import Requirement

from course_utils import bootstrap
from tests.test_packaging import EXTRAS, PROJECT
from workshop import cli

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "binder" / "jupyterhub" / "Dockerfile"


def instructions():
    """Yield the instructions of the Dockerfile as lists of words."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text(encoding="utf-8"))
    for line in text.splitlines():
        if line and not line.startswith("#"):
            yield line.split(maxsplit=1)


def commands():
    """Yield the commands that the image's build runs, as lists of words."""
    for name, rest in instructions():
        if name == "RUN":
            yield from (shlex.split(part) for part in rest.split("&&"))


def test_the_image_has_no_solutions_and_copies_only_files_that_exist():
    sources = [rest.split()[-2] for name, rest in instructions() if name == "COPY"]
    assert sources == ["build/image/*.whl", "binder/jupyterhub/start-course.sh"]
    assert (ROOT / sources[1]).is_file()


def test_the_image_installs_what_a_student_needs():
    installs = [command for command in commands() if command[:2] == ["pip", "install"]]
    torch = next(word for word in installs[0] if word.startswith("torch"))
    assert Requirement(torch) in map(Requirement, PROJECT["dependencies"])
    extras = set(re.search(r"\[(.*)\]$", installs[1][-1])[1].split(","))
    assert extras == set(bootstrap.STUDENT) <= set(EXTRAS)


def test_every_command_of_the_course_in_the_image_exists():
    script = (ROOT / "binder/jupyterhub/start-course.sh").read_text(encoding="utf-8")
    used = [command[1] for command in commands() if command[0] == "course"]
    used += re.findall(r"^course (\S+)", script, re.M)
    assert used == ["fetch-model", "start"]
    for name in used:
        assert CliRunner().invoke(cli.main, [name, "--help"]).exit_code == 0


def test_the_start_script_copies_the_course_and_survives_a_failure(tmp_path):
    script = ROOT / "binder/jupyterhub/start-course.sh"
    (tmp_path / "course").write_text('#!/bin/sh\necho "$@" > "$HOME/called"\nexit 1\n')
    (tmp_path / "course").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "could not be copied" in done.stderr
    assert (tmp_path / "called").read_text() == f"start {tmp_path}/qlora-course\n"


def test_the_dev_container_sets_the_course_up():
    content = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    program, script, command = content["postCreateCommand"].split()
    assert program == "python" and (ROOT / script).is_file() and command in bootstrap.registry()
    python = re.search(r"python:(3\.\d+)-", content["image"])[1]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    settings = content["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    for name in content["customizations"]["codespaces"]["openFiles"]:
        assert (ROOT / name).is_file()
