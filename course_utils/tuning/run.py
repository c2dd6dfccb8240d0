"""Fine-tune a model on a user's own file: check, predict, train, measure, and write the results.

Modules that load transformers are imported inside functions, so that a mistake in the user's file
is reported at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path

from course_utils.machine import runtime
from course_utils.machine.files import write_text
from course_utils.machine.validation import CourseError
from course_utils.models import SMALL_MODEL, load_base, source_of
from course_utils.sft import graded_runs
from course_utils.tuning import report
from course_utils.tuning.base import find_base, prepare_tokenizer
from course_utils.tuning.data import check_lengths, is_short, read_data
from course_utils.tuning.forecast import forecast
from course_utils.tuning.measure import Measured, measure
from course_utils.tuning.report import ADAPTERS, PAGE, Tuned

# The names of files and folders that a run writes into its output folder, for its own use.
CHECKPOINTS, BEFORE, SETTINGS = "checkpoints", "before.json", "settings.json"


# The arguments after the asterisk are options: they have defaults, and can be given only by name.
def finetune_file(  # noqa: PLR0913
    path: str | Path,
    *,
    model: str | Path = SMALL_MODEL,
    output: str | Path | None = None,
    prompt: str | None = None,
    answer: str | None = None,
    held_out: float = 0.1,
    max_length: int = 1024,
    skip_long: bool = False,
    epochs: int = 2,
    rank: int = 8,
    learning_rate: float | None = None,
    batch_size: int = 8,
    seed: int = 0,
    licence: str | None = None,
    resume: bool = False,
    say: Callable[[str], object] = print,
) -> Tuned | None:
    """Fine-tune a model with QLoRA on prompts and answers, and measure what it learned.

    Args:
        path: a file, or "owner/name" for a data set on the hub.
        model: a key of BASE_MODELS, a repository on the hub as "owner/name", or the path of a
            folder.
        output: the folder for the results. By default, it is the folder "finetuned/NAME", where
            NAME is the name of the file without its extension.
        prompt: the key of the prompt in each line, for a file whose keys are not recognized.
        held_out: the share of the rows that is held out for measurements, above 0 and at most 0.5.
        max_length: maximum number of tokens of a row: of a prompt and its answer, or of all turns.
        skip_long: leave longer rows out. By default, they are an error.
        rank: rank of the adapters; α is twice the rank.
        learning_rate: peak learning rate; by default, it depends on the number of parameters.
        batch_size: number of examples per optimizer step. If they don't fit into memory, they are
            processed in smaller groups.
        licence: the identifier of a licence for the model card, such as "apache-2.0".
        say: a function that is called with each message. By default, the messages are printed.

    Returns:
        The finished run, or None if the training was interrupted.
    """
    from course_utils.training import Recipe, attach_adapters, finetune

    path = Path(path).expanduser()
    folder = Path(output or Path("finetuned") / path.stem).expanduser()
    read = partial(read_data, path, prompt=prompt, answer=answer, held_out=held_out)
    data = read()
    base = find_base(model)
    tokenizer = base.tokenizer()
    prepare_tokenizer(tokenizer)
    if skip_long:
        data = read(fits=partial(is_short, tokenizer=tokenizer, max_length=max_length))
    say(f"{data.name}: {len(data.train)} rows to train on, {len(data.held_out)} held out.")
    say(data.graded)
    for note in data.notes:
        say(f"Note: {note}")
    train, rows = check_lengths(data, tokenizer, max_length)
    recipe = Recipe(
        rank=rank,
        alpha=2 * rank,
        learning_rate=base.learning_rate if learning_rate is None else learning_rate,
        epochs=epochs,
        micro_batch_size=batch_size,
        seed=seed,
    )
    runtime.release_memory()  # Otherwise, the forecast would count unused memory as used.
    predicted = forecast(base, train, recipe)
    say(f"{base.name}: {base.shape.parameters:,} parameters. {predicted}")
    chosen = sha256(json.dumps([data.train, data.held_out]).encode()).hexdigest()
    _prepare(folder, {"rows": chosen, "model": base.name}, resume)
    loaded, _ = load_base(path=base.weights(), quantization="nf4", check_memory=False)
    tokens = max(len(run) for row in train for run in graded_runs(row)) + 8
    held = data.held_out, rows, tokens
    before = _measured_once(folder / BEFORE, lambda: measure(loaded, tokenizer, *held))
    tuned = attach_adapters(loaded, predicted.recipe)
    started = time.perf_counter()
    run = finetune(
        tuned,
        tokenizer,
        train,
        rows,
        recipe=predicted.recipe,
        output_dir=folder / CHECKPOINTS,
        resume=resume,
    )
    seconds = time.perf_counter() - started
    if not run.finished:
        say(f"Stopped after step {len(run.history)}. To continue, add --resume (resume=True).")
        return None
    after = measure(tuned, tokenizer, *held)
    done = Tuned(folder, base, data, predicted, run, before, after, seconds)
    _write(done, licence, source_of(loaded))
    say(str(done))
    return done


def _prepare(folder: Path, settings: Mapping[str, str], resume: bool) -> None:
    """Create the output folder of a new run, or check that the run in it can be continued."""
    file = folder / SETTINGS
    text = json.dumps(dict(settings))
    if resume and file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != settings:
            raise CourseError(
                f"the run in {folder} used other rows or another model: resume it with the same "
                "file, options and model, or choose another output folder"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        advice = "choose another output folder"
        if file.is_file():
            advice = f"continue its run with --resume (resume=True), or {advice}"
        raise CourseError(f"{folder} is not empty: {advice}")
    write_text(file, text)


def _measured_once(file: Path, measure_now: Callable[[], Measured]) -> Measured:
    if file.is_file():
        return Measured(**json.loads(file.read_text(encoding="utf-8")))
    result = measure_now()
    write_text(file, json.dumps(asdict(result)))
    return result


# --- results --------------------------------------------------------------------------------------


def _write(done: Tuned, licence: str | None, source: str) -> None:
    """Write the adapters, the model card and the report page into the output folder."""
    from course_utils import export

    assert done.run.adapters, "a finished run has saved its adapters"
    if not (done.folder / ADAPTERS).exists():
        export.save_adapters(done.run.adapters, done.folder / ADAPTERS)
    write_text(done.folder / ADAPTERS / "README.md", report.model_card(done, licence, source))
    write_text(done.folder / PAGE, report.page(done))
