"""Make the report page of a run: results, examples, the learning curve, costs and next steps."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from course_utils import figures, palette
from course_utils.tuning.forecast import duration
from course_utils.tuning.measure import METRICS
from course_utils.units import format_bytes

if TYPE_CHECKING:
    from jinja2 import Environment

    from course_utils.tuning.run import Tuned

# The page shows at most this many held-out rows, and at most this many characters of each text.
EXAMPLES, LONGEST = 8, 600


def page(done: Tuned) -> str:
    """Return the report of a run as an HTML page, which a browser can also show offline."""
    from course_utils.export.card import INTERVALS

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
            palette=palette,
        )
    )


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

    Returns:
        A list of dicts with the keys "prompt", "right" (the answer in the file), "before" and
        "after" (the generated answers), and "equal" (whether the answer after training equals the
        right answer).
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
    return [
        (
            "peak memory of training",
            format_bytes(done.forecast.memory + done.forecast.in_use),
            format_bytes(max(record["memory"] for record in done.run.history)),
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

    source = (files("course_utils") / "data" / "finetuned.html.j2").read_text("utf-8")
    loader = DictLoader({"finetuned.html.j2": source})
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
