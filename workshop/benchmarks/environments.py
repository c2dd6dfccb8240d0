"""Run every lecture in readers' environments: Python 3.11 to 3.13, Colab, Binder.

    make bench ARGS=environments                          all lectures in all environments
    make bench ARGS="environments colab binder"           all lectures in two environments
    make bench ARGS="environments python3.13 --only 04"   one lecture in one environment

Each result is saved immediately in environments.json and replaces the earlier result of the same
lecture in the same environment. The file is in git, because a run of one environment must keep the
results of the others. The environments and the executed lectures are in build/environments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from course_utils import bootstrap
from course_utils.machine import files, notebooks
from course_utils.machine.runtime import usable_cores
from course_utils.machine.units import GB, format_bytes
from course_utils.machine.validation import CourseError
from tests.machine import processor
from workshop.benchmarks.runner import ROOT, Benchmark, Report, load_report, table
from workshop.grading.sandbox import limits
from workshop.publishing.addresses import TAG

JSON = Path(__file__).with_name("environments.json")
FOLDER = ROOT / "build" / "environments"
# Maximum time of a cell, in seconds.
TIMEOUT = 3600

# The packages whose versions are stored in a result, in addition to Python's version.
LIBRARIES = (
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "numpy"),
    *("ipython", "ipykernel", "ipywidgets"),
)

# The result of one lecture: passed, error, seconds, peak_memory in bytes (B), versions, …
Result = dict[str, Any]
# A function that runs a notebook of lectures/ and returns the result.
Runner = Callable[[Path], Result]


# --- running a notebook ---------------------------------------------------------------------------

RUN_LECTURE = """
import json, sys
from course_utils.machine.execution import execute
done = execute(sys.argv[1], sys.argv[2], timeout=int(sys.argv[3]))
print(json.dumps({"error": done.error, "seconds": done.seconds, "peak_memory": done.peak_memory}))
"""
LIST_PACKAGES = """
import json, platform
from importlib import metadata
found = {each.name.lower(): each.version for each in metadata.distributions()}
print(json.dumps(found | {"python": platform.python_version()}))
"""


def call(command: Sequence[str | Path], **options: Any) -> None:
    """Run a command and show its output in the terminal. Raises CourseError if it fails."""
    options = {"env": bootstrap.child_environment()} | options
    if status := subprocess.run(command, **options).returncode:
        raise CourseError(f"`{' '.join(map(str, command))}` failed with status {status}")


def run_code(python: Path, code: str, **options: Any) -> Any:
    """Run code in a Python interpreter; return the JSON value in the last line of the output."""
    options = {"env": bootstrap.child_environment()} | options
    command: list[str | Path] = [python, "-I", "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options)
    return json.loads(done.stdout.splitlines()[-1])


def versions(python: Path) -> str:
    """Return the versions of a Python and of its packages in LIBRARIES."""
    installed = run_code(python, LIST_PACKAGES)
    names = [name for name in ("python", *LIBRARIES) if name in installed]
    return ", ".join(f"{name} {installed[name]}" for name in names)


def run_lecture(
    python: Path,
    lecture: Path,
    output: Path,
    variables: dict[str, str],
    confine: Callable[[int], None] | None = None,
) -> Result:
    """Run a lecture with a Python in which the course is installed, and return the result.

    Args:
        variables: additional environment variables of the run.
        confine: an optional function that limits the resources of the process that starts the
            kernel. It gets the id of this process as soon as the process has started.
    """
    command: list[str | Path] = [python, "-I", "-c", RUN_LECTURE, lecture, output, str(TIMEOUT)]
    environment = bootstrap.child_environment() | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        if confine:
            confine(child.pid)
        printed, _ = child.communicate()
    if child.returncode:
        error = f"the run ended with status {child.returncode}"
        return {"passed": False, "error": error, "seconds": None, "peak_memory": None}
    result = json.loads(printed.splitlines()[-1])
    return {"passed": result["error"] is None} | result


def cloned(target: Path) -> Path:
    """Clone the course's last commit into a folder, and return the folder.

    Files in the folder that git ignores, such as .venv, are kept.
    """
    if not (target / ".git").exists():
        call(["git", "clone", "--quiet", ROOT, target])
    call(["git", "fetch", "--quiet", "origin", "HEAD"], cwd=target)
    call(["git", "reset", "--quiet", "--hard", "FETCH_HEAD"], cwd=target)
    return target


# --- Python 3.11, 3.12, 3.13 ----------------------------------------------------------------------


def interpreter(version: str) -> str:
    """Return the path of a Python of this version, such as "3.12", that can create environments.

    Raises:
        CourseError: no such Python is found.
    """
    probe = [f"python{version}", "-c", "import ensurepip, sys; print(sys.executable)"]
    # pyenv's commands only work after a version has been chosen.
    choices: tuple[dict[str, str], ...] = ({}, {"PYENV_VERSION": version})
    for choice in choices:
        try:
            return subprocess.run(
                probe, env=os.environ | choice, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            continue
    raise CourseError(f"Python {version} is missing: install it, so that python{version} runs")


def python_environment(version: str) -> Runner:
    """Return a runner that uses a Python of this version, such as "3.12".

    If the current environment's Python has this version, the lectures run in the current
    environment. Otherwise a clone of the course is set up as `make lab` does, and the lectures run
    in the environment of the clone.
    """
    name = f"python{version}"
    course, python = ROOT, Path(sys.executable)
    if version != "{}.{}".format(*sys.version_info):
        system_python = interpreter(version)
        course = cloned(FOLDER / name)
        python = course / ".venv" / "bin" / "python"
        pinned = {"QLORA_CONSTRAINTS": "constraints.txt"}
        environment = bootstrap.child_environment() | pinned
        call([system_python, "course_utils/bootstrap.py", "setup"], cwd=course, env=environment)

    def run(lecture: Path) -> Result:
        notebook = course / "lectures" / lecture.name
        result = run_lecture(python, notebook, FOLDER / "executed" / name, {})
        return result | {"versions": versions(python)}

    return run


# --- Google Colab ---------------------------------------------------------------------------------

COLAB_PACKAGES = Path(__file__).parent / "colab.txt"
# Packages that must not be changed while a kernel uses them.
PINNED = ("ipython", "ipywidgets", "numpy", "torch")
# Starts a kernel in which google.colab is imported, as in Colab's kernels.
KERNEL = """
import sys, types
from ipykernel import kernelapp
for name in ("google", "google.colab"):
    sys.modules[name] = types.ModuleType(name)
kernelapp.launch_new_instance()
"""
CHECK_COURSE = """
import json, course_utils
from course_utils.machine.environment import check_environment
rows = [f"{row.what}: {row.found}" for row in check_environment().rows if row.state == "fail"]
print(json.dumps({"course": course_utils.__file__, "failed": rows}))
"""


class Colab:
    """Runs lectures in a separate Python with Colab's packages, and with a kernel like Colab's.

    At first, neither the course nor the model is installed. The set-up cell of the first lecture
    installs the course from a local git repository, as it would from GitHub.
    """

    def __init__(self) -> None:
        print("colab: installing Colab's packages takes some minutes", flush=True)
        self.folder = FOLDER / "colab"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.python = self.folder / "venv" / "bin" / "python"
        call([interpreter("3.13"), "-m", "venv", self.folder / "venv"])
        pip: list[str | Path] = [self.python, "-m", "pip", "install", "--quiet", "--no-input"]
        source = ["--extra-index-url", bootstrap.TORCH_CPU_INDEX]
        call([*pip, "-r", COLAB_PACKAGES, *(source if bootstrap.wants_cpu_torch() else [])])
        self.packages = run_code(self.python, LIST_PACKAGES)
        self.repository = cloned(self.folder / "repository")
        call(["git", "tag", "--force", TAG], cwd=self.repository)
        # Jupyter's kernel python3 uses this Python.
        start = [str(self.python), "-c", KERNEL, "-f", "{connection_file}"]
        spec = {"argv": start, "display_name": "Python 3", "language": "python"}
        path = self.folder / "jupyter" / "kernels" / "python3" / "kernel.json"
        files.write_text(path, json.dumps(spec))

    @property
    def variables(self) -> dict[str, str]:
        """The kernel's environment variables, which disable the hub and set separate caches."""
        return {
            "JUPYTER_PATH": str(self.folder / "jupyter"),
            "COURSE_REPOSITORY": self.repository.as_uri(),
            "COLAB_RELEASE_TAG": "stub",
            "QLORA_COURSE_CACHE": str(self.folder / "cache"),
            "HF_HOME": str(self.folder / "cache" / "huggingface"),
            "HF_HUB_OFFLINE": "1",
        }

    def __call__(self, lecture: Path) -> Result:
        """Run a lecture in a new folder."""
        output = FOLDER / "executed" / "colab"
        with tempfile.TemporaryDirectory() as content:
            notebook = Path(shutil.copy(lecture, content))
            result = run_lecture(Path(sys.executable), notebook, output, self.variables)
        if result["passed"] and (problems := self.problems()):
            result |= {"passed": False, "error": f"after cell setup: {'; '.join(problems)}"}
        return result | {"versions": versions(self.python)}

    def problems(self) -> list[str]:
        """Return the problems after the set-up cell, one sentence each; empty if there are none."""
        environment = bootstrap.child_environment() | self.variables
        course = run_code(self.python, CHECK_COURSE, env=environment, cwd=self.folder)
        course["installed in"] = str(self.folder / "venv")
        return setup_problems(self.packages, run_code(self.python, LIST_PACKAGES), course)


def setup_problems(
    before: dict[str, str], after: dict[str, str], course: dict[str, Any]
) -> list[str]:
    """Return the problems after a set-up cell, one sentence each; empty if there are none.

    Args:
        before: the versions of all packages before the cell was executed.
        after: the versions of all packages after the cell was executed.
        course: "course" is the file from which the course was imported, "installed in" the folder
            in which the course should be installed, and "failed" lists the rows of
            `check_environment` that fail.
    """
    problems = [
        f"{name} was {before[name]} and is {after.get(name)}"
        for name in PINNED
        if after.get(name) != before[name]
    ]
    if "torchao" in after:
        problems.append("torchao is still installed")
    if "bitsandbytes" not in after:
        problems.append("bitsandbytes is missing")
    if not Path(course["course"]).is_relative_to(course["installed in"]):
        problems.append(f"course_utils was imported from {course['course']}")
    return problems + course["failed"]


# --- Binder ---------------------------------------------------------------------------------------

# Maximum memory on mybinder.org, in bytes (B).
BINDER_MEMORY = 2 * GB


def binder() -> Runner:
    """Return a runner in the course's environment with one core, one thread and 2 GB of memory.

    The memory limit applies to the kernel and the process that starts it together, because on
    Binder both processes run in one container.

    Raises:
        CourseError: the system isn't Linux.
    """
    if sys.platform != "linux":
        raise CourseError("the environment binder has a memory limit, which needs Linux")
    python, core = Path(sys.executable), min(os.sched_getaffinity(0))

    def run(lecture: Path) -> Result:
        enforced = []

        def confine(pid: int) -> None:
            enforced.append(limits.enforce(pid, BINDER_MEMORY))
            os.sched_setaffinity(pid, {core})

        output = FOLDER / "executed" / "binder"
        result = run_lecture(python, lecture, output, {"OMP_NUM_THREADS": "1"}, confine)
        for limit in enforced:
            limit.close()
            if limit.exceeded:
                reasons = filter(None, (result["error"], limit.exceeded))
                result |= {"passed": False, "error": "\n".join(reasons)}
        return result | {"versions": versions(python)}

    return run


# --- all of them ----------------------------------------------------------------------------------


# The title of an environment's column, and a function that creates the environment and returns its
# runner. The function raises CourseError if the environment can't be created.
Environment = tuple[str, Callable[[], Runner]]
ENVIRONMENTS: dict[str, Environment] = {
    "python3.11": ("Python 3.11", partial(python_environment, "3.11")),
    "python3.12": ("Python 3.12", partial(python_environment, "3.12")),
    "python3.13": ("Python 3.13", partial(python_environment, "3.13")),
    "colab": ("Colab's packages", Colab),
    "binder": ("Binder's limits", binder),
}


def without_paths(error: str | None) -> str | None:
    """Return an error without the paths of the course and of the home folder."""
    return error and error.replace(f"{ROOT}/", "").replace(f"{Path.home()}/", "~/")


def measure(environments: list[str], only: list[str] | None) -> Iterator[Report]:
    """Run the lectures in each environment, and yield the report after each lecture.

    Raises:
        CourseError: an environment or a lecture is unknown, an environment can't be created, or a
            lecture failed. An unknown name is reported before the run; the other two errors are
            reported after the whole run.
    """
    if unknown := [name for name in environments if name not in ENVIRONMENTS]:
        allowed = ", ".join(ENVIRONMENTS)
        raise CourseError(f"there is no environment {unknown[0]}; choose from: {allowed}")
    choices: Sequence[str | None] = only or [None]
    lectures = [path for choice in choices for path in notebooks.lectures(ROOT, choice)]
    report, problems = load_report(JSON, {}), []
    for name in environments or ENVIRONMENTS:
        try:
            run = ENVIRONMENTS[name][1]()
        except CourseError as error:
            problems.append(f"{name} was not run: {error}")
            continue
        for lecture in lectures:
            print(f"{name}: {lecture.stem}", flush=True)
            result = run(lecture)
            versions = result.pop("versions")
            result["ran"] = f"on {date.today().isoformat()}, {this_machine()}; {versions}"
            result["error"] = without_paths(result["error"])
            report = merged(report, name, lecture.stem, result)
            yield report
            print(f"{name}: {lecture.stem}: {cell(result)}", flush=True)
            if not result["passed"]:
                problems.append(f"{name}: {lecture.stem} failed: {result['error']}")
    if problems:
        raise CourseError("\n".join(problems))


def this_machine() -> str:
    """Return this machine's processor, its number of usable cores, and its memory."""
    memory = format_bytes(psutil.virtual_memory().total)
    return f"{processor()}, {usable_cores():g} cores, {memory} of memory"


# --- results --------------------------------------------------------------------------------------


def merged(report: Report, name: str, lecture: str, result: Result) -> Report:
    """Return the report with one more result, in the order of ENVIRONMENTS and of lectures."""
    report = report | {name: report.get(name, {}) | {lecture: result}}
    return {key: dict(sorted(report[key].items())) for key in ENVIRONMENTS if key in report}


def overview(report: Report) -> str:
    """Return a table with a row for each lecture and a column for each environment."""
    head = ("lecture", *(title for title, _ in ENVIRONMENTS.values()))
    rows = [
        (path.stem, *(cell(report.get(name, {}).get(path.stem)) for name in ENVIRONMENTS))
        for path in notebooks.lectures(ROOT)
    ]
    return table(head, rows)


def cell(result: Result | None) -> str:
    """Return a table cell: seconds and memory, the error, or "–" if there is no result."""
    if result is None:
        return "–"
    if not result["passed"]:
        return f"✗ {result['error'].splitlines()[0]}".replace("|", "\\|")
    return f"✓ {result['seconds']:,.0f} s, {result['peak_memory'] / GB:.2f} GB"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose environments and lectures."""
    names = f"of {', '.join(ENVIRONMENTS)}; default: all"
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help=names)
    parser.add_argument(
        "--only",
        action="append",
        metavar="LECTURE",
        help="a lecture's number or file name; may be repeated; default: all lectures",
    )


BENCHMARK = Benchmark(
    measure,
    {"table": overview},
    add_options=add_options,
    data=JSON,
)
