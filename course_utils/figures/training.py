"""Pictures of training runs, scores and costs (lectures 01 and 07)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from course_utils.figures.base import (
    Picture,
    grouped_bars,
    legend_above,
    one_panel,
    with_strokes,
)
from course_utils.palette import BLACK, BLUE, ORANGE

if TYPE_CHECKING:
    from pandas import DataFrame


def loss_curve(history: Sequence[Mapping[str, float]], steps: int | None = None) -> Picture:
    """The training loss of each step of a run so far, and the validation losses measured so far.

    Args:
        history: `Run.history`, one record a step; empty before the first step.
        steps: the step at which the run will end. Default: the last step of the history.
    """
    figure, axes = one_panel()
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


def score_bars(numbers: DataFrame) -> Picture:
    """Bars with 95% intervals: one group for each metric, one bar for each way of asking.

    Args:
        numbers: from `evaluation.intervals`: shares from 0 to 1, a row for each metric, columns
            (name, "mean"), (name, "low") and (name, "high").
    """
    figure, axes = one_panel()
    percent = 100 * numbers
    names = dict.fromkeys(name for name, _ in numbers.columns)
    means = {name: percent[name, "mean"] for name in names}
    for name, middles in grouped_bars(axes, means).items():
        spread = [means[name] - percent[name, "low"], percent[name, "high"] - means[name]]
        look = {"fmt": "none", "ecolor": BLACK, "capsize": 3, "linewidth": 1}
        axes.errorbar(middles, means[name], yerr=spread, **look)
    axes.set_xticks(range(len(numbers)), numbers.index)
    axes.set(ylabel="% of test stories", ylim=(0, 105))
    legend_above(axes, columns=len(names))
    descriptions = [
        f"{name}: " + ", ".join(f"{metric} {value:.0f}%" for metric, value in own.items())
        for name, own in means.items()
    ]
    return Picture(figure, "Bars with 95% intervals. " + "; ".join(descriptions) + ".")


def cost_lines(
    ways: Mapping[str, tuple[float, float]], unit: str, break_even: Mapping[str, float]
) -> Picture:
    """Total cost over the number of requests, both on log scales, for several ways of serving.

    Args:
        ways: name → (cost paid once, cost of each request), in `unit`.
        unit: what costs are counted in.
        break_even: name of a way → the number of requests at which its line meets another line;
            marked by a dot.
    """
    figure, axes = one_panel(height=3.6)
    requests = [10 ** (n / 20) for n in range(101)]  # 1 to 100,000
    for name, (once, each), (colour, dash, _) in with_strokes(ways):
        axes.plot(requests, [once + each * n for n in requests], dash, color=colour, label=name)
    for name, count in break_even.items():
        once, each = ways[name]
        point = (count, once + each * count)
        axes.plot(*point, "o", color=BLACK)
        place = {"xytext": (8, -14), "textcoords": "offset points"}
        axes.annotate(f"{count:,.0f} requests", point, **place)
    axes.set(xscale="log", yscale="log", xlabel="requests", ylabel=unit)
    axes.legend(frameon=False, loc="upper left")
    costs = [
        f"{name} {once:,.3g} once and {each:,.3g} a request" for name, (once, each) in ways.items()
    ]
    alt = f"Lines of {unit} over requests: {', '.join(costs)}."
    if break_even:
        meetings = [f"{name} at {count:,.0f} requests" for name, count in break_even.items()]
        alt += f" Break-even: {', '.join(meetings)}."
    return Picture(figure, alt)
