"""Draw the ways to export a model, and the order in which llama.cpp stores the rows of q and k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from course_utils.figures.base import Picture
from course_utils.figures.canvas import Canvas
from course_utils.machine.validation import positive
from course_utils.palette import ADAPTERS, GREY, SERIES, WEIGHTS, text_on


def ways_out(title: str = "") -> Picture:
    """Draw how adapters are merged into a model, and how both are converted for llama.cpp."""
    canvas = Canvas(560, 236, title)
    columns: Mapping[str, tuple[float, Mapping[str, float]]] = {
        "peft": (4, {"base model": 28, "adapters": 104}),
        "safetensors": (186, {"merged model": 66}),
        "GGUF": (368, {"base model": 28, "adapters": 104, "merged model": 180}),
    }
    for form, (x, rows) in columns.items():
        canvas.text((x + 64, 10), form, colour=GREY, weight="bold")
        for name, y in rows.items():
            face = ADAPTERS if name == "adapters" else WEIGHTS
            canvas.box((x, y), (128, 44), name, face=face, edge="none", weight="bold")
    canvas.arrow([(134, 58), (160, 58), (160, 80), (184, 80)])
    canvas.arrow([(134, 118), (160, 118), (160, 96), (184, 96)])
    canvas.arrow([(134, 40), (366, 40)])
    canvas.arrow([(134, 138), (366, 138)])
    canvas.arrow([(250, 112), (250, 202), (366, 202)])
    canvas.text((250, 29), "convert")
    canvas.text((309, 127), "convert")
    canvas.text((308, 214), "convert")
    canvas.box((526, 20), (30, 212), face="none")
    canvas.axes.text(541, 126, "llama.cpp", rotation=90, ha="center", va="center", size=9.5)
    for y in (50, 126, 202):
        canvas.arrow([(498, y), (524, y)])
    return canvas.picture(
        "Ways to export a tuned model. The base model and its adapters in peft's format can be "
        "merged into one model, which is stored as safetensors files. The base model, the adapters "
        "and the merged model can each be converted into a GGUF file. llama.cpp then runs either "
        "the merged model, or the base model with the adapters."
    )


def rotary_rows(orders: Mapping[str, Sequence[int]], title: str = "") -> Picture:
    """Draw the rows of one head of q or k in several orders. Rows of a rotary pair share a colour.

    Args:
        orders: a mapping from the name of each order to the numbers of the rows in this order. The
            number of a row is its position in Hugging Face's Llama, where the rows i and i + d/2 of
            a head of width d are a rotary pair.
    """
    width = positive("width of the head", len(next(iter(orders.values()))))
    half = width // 2
    each, left, step = min(46.0, 400 / width), 130.0, 62.0
    canvas = Canvas(560, step * len(orders) + 8, title)
    for n, (name, order) in enumerate(orders.items()):
        top = 18 + step * n
        canvas.text((2, top + 15), name, ha="left", weight="bold")
        middles: dict[int, list[float]] = {}
        for place, row in enumerate(order):
            x, colour = left + each * place, SERIES[row % half % len(SERIES)]
            canvas.box((x, top), (each - 4, 30), face=colour, edge="none")
            canvas.text((x + each / 2 - 2, top + 15), str(row), colour=text_on(colour))
            middles.setdefault(row % half, []).append(x + each / 2 - 2)
        for pair, (first, second) in middles.items():
            depth = top + 34 + (4 * pair if second - first > each else 0)
            colour = SERIES[pair % len(SERIES)]
            points = [
                (first, top + 31),
                (first, depth + 3),
                (second, depth + 3),
                (second, top + 31),
            ]
            canvas.line(points, colour)
    told = "; ".join(f"{name}: {', '.join(map(str, order))}" for name, order in orders.items())
    return canvas.picture(
        f"The rows of one head of width {width} in several orders. Row i and row i + {half} are a "
        f"rotary pair. {told}."
    )
