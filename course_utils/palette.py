"""Define the course's colours, from a palette that colour-blind readers can distinguish.

INK and PAPER become the colours of the text and of the background of the page that shows a
picture, so that pictures are legible in light and in dark mode. Black and white themselves are
used for these two names, so that everything that Matplotlib draws in its default black is in ink.

Source of the other colours: Okabe and Ito's palette.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

INK, PAPER = "#000000", "#ffffff"
# Text on a coloured area has one of these colours in light and in dark mode.
DARK_TEXT, LIGHT_TEXT = "#010101", "#fefefe"
ORANGE, SKY, GREEN, BLUE, RED, PURPLE, YELLOW = (
    *("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#f0e442"),
)
SERIES = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW)
# The colour of the elements of a figure that belong to no series.
GREY = "#999999"

# Each quantity has one colour in all figures of the course. Frozen weights and their constants are
# blue. Everything that training adds has a warm colour or green.
WEIGHTS, CONSTANTS, ADAPTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS = (
    *(BLUE, SKY, ORANGE, RED, GREEN, PURPLE),
)
QUANTITIES: Mapping[str, str] = {
    "weights": WEIGHTS,
    "codes": WEIGHTS,
    "constants": CONSTANTS,
    "adapters": ADAPTERS,
    "gradients": GRADIENTS,
    "optimizer": OPTIMIZER,
    "optimizer states": OPTIMIZER,
    "Adam": OPTIMIZER,
    "activations": ACTIVATIONS,
    "activations and logits": ACTIVATIONS,
    "logits and loss": YELLOW,
    "a layer's backward pass": "#e6bcd3",
    "CUDA and the rest": GREY,
}


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a dict from each name to its colour.

    A name in QUANTITIES has the colour of the quantity. The other names get the colours of SERIES
    that no quantity among the names has. After the last of these colours, the first is used again.
    """
    names = list(names)
    taken = {QUANTITIES[name] for name in names if name in QUANTITIES}
    free = [colour for colour in SERIES if colour not in taken] or list(SERIES)
    others = [name for name in names if name not in QUANTITIES]
    given = {name: free[n % len(free)] for n, name in enumerate(others)}
    return {name: QUANTITIES.get(name) or given[name] for name in names}


def text_on(colour: str) -> str:
    """Return the colour of text on an area of `colour`: dark or light, whichever contrasts more.

    On an area in the colour of the page, text has the colour of the page's text.
    """
    if colour == PAPER:
        return INK
    red, green, blue = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return DARK_TEXT if (luminance + 0.05) ** 2 > 0.05 * 1.05 else LIGHT_TEXT
