"""Draw training runs, scores and costs (lectures 01 and 07)."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    grouped_bars,
    label_ends,
    legend_above,
    mark_x,
    note,
    one_panel,
    with_strokes,
)
from course_utils.palette import BLUE, GREY, INK, ORANGE

if TYPE_CHECKING:
    from pandas import DataFrame

# A longer answer is cut. The model may repeat itself until it reaches its limit of tokens.
MOST_CHARACTERS = 240
ANSWER_CELL = "text-align:left;font-family:monospace;line-height:1.4;overflow-wrap:anywhere"


def loss_curve(
    history: Sequence[Mapping[str, float]], steps: int | None = None, title: str = ""
) -> Picture:
    """Plot the training loss of each step so far, and the validation losses measured so far.

    Args:
        history: the list `Run.history` with one record for each step. It is empty before the first
            step.
        steps: the last step of the planned run, where the x axis ends. By default the axis ends at
            the last step of the history.
    """
    figure, axes = one_panel(title=title)
    axes.set(xlabel="optimizer step", ylabel="loss per answer token (nats)")
    axes.set_xlim(0, steps or max(len(history), 2))
    losses = {record["step"]: record["loss"] for record in history}
    axes.plot(list(losses), list(losses.values()), color=BLUE, label="training")
    if not history:
        return Picture(figure, "An empty plot of loss over steps: training has not begun.")
    alt = f"Training loss over {len(history)} steps, from {history[0]['loss']:.2f} "
    alt += f"to {history[-1]['loss']:.2f}."
    held_out = {r["step"]: r["validation_loss"] for r in history if "validation_loss" in r}
    if held_out:
        validation = list(held_out.values())
        axes.plot(list(held_out), validation, "D", color=ORANGE, label="validation", clip_on=False)
        alt += f" Validation loss {validation[-1]:.2f}."
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return Picture(figure, alt)


@dataclass(frozen=True)
class LearningCurve:
    """A loss curve with marked steps, and below it the model's answer at each of these steps.

    The answers are HTML, so that they wrap on a phone and can be selected and searched.

    Attributes:
        picture: the loss curve.
        answers: number of the step → the model's answer after this step.
    """

    picture: Picture
    answers: Mapping[int, str]

    def _rows(self) -> Iterator[tuple[str, str]]:
        for step, answer in self.answers.items():
            name = f"after step {step}" if step else "before training"
            yield name, shorten(answer, MOST_CHARACTERS, placeholder=" …") or "(an empty answer)"

    def __str__(self) -> str:
        return "\n".join([str(self.picture), *(f"{name}: {text}" for name, text in self._rows())])

    def _repr_html_(self) -> str:
        head = "text-align:left;vertical-align:top;white-space:nowrap"
        rows = "".join(
            f'<tr><th scope="row" style="{head}">{name}</th>'
            f'<td style="{ANSWER_CELL}">{html.escape(text)}</td></tr>'
            for name, text in self._rows()
        )
        return f"{self.picture._repr_html_()}<table>{rows}</table>"


def learning_curve(
    history: Sequence[Mapping[str, float]],
    answers: Mapping[int, str],
    steps: int | None = None,
    title: str = "",
) -> LearningCurve:
    """Plot the losses of a run as `loss_curve` does, with the model's answers at marked steps.

    Args:
        history: the list `Run.history`.
        answers: number of a step → the model's answer after this step. Step 0 is before training.
            The steps are marked in the plot, and long answers are cut.
        steps: the last step of the planned run, as in `loss_curve`.
    """
    curve = loss_curve(history, steps, title)
    (axes,), alt = curve.figure.axes, curve.alt
    for step in answers:
        mark_x(axes, step, str(step), ha="center", weight="bold")
    if answers:
        alt += f" Marked steps, with answers below: {', '.join(map(str, answers))}."
    return LearningCurve(Picture(curve.figure, alt), answers)


def score_bars(numbers: DataFrame, title: str = "") -> Picture:
    """Draw scores as bars with 95% intervals, in one group for each metric.

    Each group has one bar for each prompt or model, such as "few-shot" or "tuned". The score is
    written above the bar, so that a bar of 0% can be seen, too.

    Args:
        numbers: the table that `evaluation.intervals` returns. It contains scores from 0 to 1, with
            a row for each metric and the columns (name, "mean"), (name, "low") and (name, "high").
    """
    figure, axes = one_panel(title=title)
    percent = 100 * numbers
    names = dict.fromkeys(name for name, _ in numbers.columns)
    means = {name: percent[name, "mean"] for name in names}
    for name, middles in grouped_bars(axes, means).items():
        spread = [means[name] - percent[name, "low"], percent[name, "high"] - means[name]]
        style: Style = {"fmt": "none", "ecolor": INK, "capsize": 3, "linewidth": 1}
        axes.errorbar(middles, means[name], yerr=spread, **style)
        for x, mean, high in zip(middles, means[name], percent[name, "high"], strict=True):
            note(axes, f"{mean:.0f}%", (x, high), (0, 3), ha="center")
    # ROUGE-L compares words, so its mean is not a share of the stories.
    units = ["mean F1" if "ROUGE" in metric else "% of stories" for metric in numbers.index]
    labels = [f"{metric}\n({unit})" for metric, unit in zip(numbers.index, units, strict=True)]
    axes.set_xticks(range(len(numbers)), labels)
    axes.set(ylabel="score (%)", ylim=(0, 112), yticks=range(0, 101, 20))
    legend_above(axes, columns=len(names))
    descriptions = [
        f"{name}: " + ", ".join(f"{metric} {value:.0f}%" for metric, value in scores.items())
        for name, scores in means.items()
    ]
    alt = "Bars with 95% intervals, in % of the stories, and for ROUGE-L a mean F1 score. "
    return Picture(figure, alt + "; ".join(descriptions) + ".")


def cost_lines(
    ways: Mapping[str, tuple[float, float]],
    unit: str,
    break_even: Mapping[str, float],
    title: str = "",
) -> Picture:
    """Plot the total cost of several ways to serve a model over the number of requests.

    The x axis extends to twice the highest break-even. The area between the two lines to the right
    of a break-even is shaded: it is what the cheaper way saves.

    Args:
        ways: name of the way → (cost paid once, cost of each request), in `unit`.
        unit: the unit of the costs, as the label of the y axis.
        break_even: name of the way → number of requests at which its line meets another line. A dot
            marks this point.
    """
    figure, axes = one_panel(height=3.4, title=title)
    most = 2 * max(break_even.values())

    def cost(name: str, count: float) -> float:
        once, each = ways[name]
        return once + each * count

    ends = {}
    for name, _, (colour, dash, _) in with_strokes(ways):
        axes.plot([0, most], [cost(name, 0), cost(name, most)], dash, color=colour, label=name)
        ends[name] = cost(name, most), colour
    for name, count in break_even.items():
        # The line that meets this line is the one with the smallest gap.
        gaps = {way: abs(cost(way, count) - cost(name, count)) for way in ways if way != name}
        both = (name, min(gaps, key=gaps.__getitem__))
        edges = [[cost(way, x) for x in (count, most)] for way in both]
        axes.fill_between([count, most], *edges, color=GREY, alpha=0.25, linewidth=0)
        axes.plot(count, cost(name, count), "o", color=INK, zorder=4)
        meeting = count, cost(name, count)
        note(axes, f"{count:,.0f} requests", meeting, (8, -14), zorder=5, **HALO)
    axes.set(xlabel="requests", ylabel=unit, xlim=(0, most), ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.6g}")
    label_ends(axes, ends)
    costs = [
        f"{name}: {once:,.3g} once, plus {each:,.3g} for each request"
        for name, (once, each) in ways.items()
    ]
    meetings = [f"{name} at {count:,.0f} requests" for name, count in break_even.items()]
    alt = f"Lines of {unit} over requests: {'; '.join(costs)}. Break-even: {', '.join(meetings)}."
    return Picture(figure, alt)
