"""Draw training runs, scores and costs (lectures 01 and 07)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    grouped_bars,
    label_ends,
    legend_above,
    one_panel,
    with_strokes,
)
from course_utils.palette import BLUE, GREY, INK, ORANGE

if TYPE_CHECKING:
    from pandas import DataFrame


def loss_curve(
    history: Sequence[Mapping[str, float]], steps: int | None = None, title: str = ""
) -> Picture:
    """Plot the training loss of each step so far, and the validation losses measured so far.

    Args:
        history: the list `Run.history` with one record for each step. It is empty before the first
            step.
        steps: the last step of the planned run, where the x axis ends. By default the axis ends at
            the last step of the history.
        title: a sentence that says what the picture shows.
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


def score_bars(numbers: DataFrame, title: str = "") -> Picture:
    """Draw scores as bars with 95% intervals, in one group for each metric.

    Each group has one bar for each prompt or model, such as "few-shot" or "tuned".

    Args:
        numbers: the table that `evaluation.intervals` returns. It contains shares from 0 to 1, with
            a row for each metric and the columns (name, "mean"), (name, "low") and (name, "high").
        title: a sentence that says what the picture shows.
    """
    figure, axes = one_panel(title=title)
    percent = 100 * numbers
    names = dict.fromkeys(name for name, _ in numbers.columns)
    means = {name: percent[name, "mean"] for name in names}
    for name, middles in grouped_bars(axes, means).items():
        spread = [means[name] - percent[name, "low"], percent[name, "high"] - means[name]]
        style: Style = {"fmt": "none", "ecolor": INK, "capsize": 3, "linewidth": 1}
        axes.errorbar(middles, means[name], yerr=spread, **style)
    axes.set_xticks(range(len(numbers)), numbers.index)
    axes.set(ylabel="% of test stories", ylim=(0, 105))
    legend_above(axes, columns=len(names))
    descriptions = [
        f"{name}: " + ", ".join(f"{metric} {value:.0f}%" for metric, value in scores.items())
        for name, scores in means.items()
    ]
    return Picture(figure, "Bars with 95% intervals. " + "; ".join(descriptions) + ".")


def cost_lines(
    ways: Mapping[str, tuple[float, float]],
    unit: str,
    break_even: Mapping[str, float],
    title: str = "",
) -> Picture:
    """Plot the total cost of several ways to serve a model over the number of requests.

    The x axis extends to twice the highest break-even, or to 1,000 requests if there is none. The
    area between the two lines to the right of a break-even is shaded: it is what the cheaper way
    saves.

    Args:
        ways: name of the way → (cost paid once, cost of each request), in `unit`.
        unit: the unit of the costs, as the label of the y axis.
        break_even: name of the way → number of requests at which its line meets another line. A dot
            marks this point.
        title: a sentence that says what the picture shows.
    """
    figure, axes = one_panel(height=3.4, title=title)
    most = 2 * max(break_even.values(), default=500)

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
        both = (name, min(gaps, key=gaps.__getitem__, default=name))
        edges = [[cost(way, x) for x in (count, most)] for way in both]
        axes.fill_between([count, most], *edges, color=GREY, alpha=0.25, linewidth=0)
        axes.plot(count, cost(name, count), "o", color=INK, zorder=4)
        place: Style = {"xytext": (8, -14), "textcoords": "offset points", **HALO}
        axes.annotate(f"{count:,.0f} requests", (count, cost(name, count)), zorder=5, **place)
    axes.set(xlabel="requests", ylabel=unit, xlim=(0, most), ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.6g}")
    label_ends(axes, ends)
    costs = [
        f"{name}: {once:,.3g} once, plus {each:,.3g} for each request"
        for name, (once, each) in ways.items()
    ]
    alt = f"Lines of {unit} over requests: {'; '.join(costs)}."
    if break_even:
        meetings = [f"{name} at {count:,.0f} requests" for name, count in break_even.items()]
        alt += f" Break-even: {', '.join(meetings)}."
    return Picture(figure, alt)
