"""Draw the probabilities and losses of tokens, and mark the graded tokens (lecture 01).

Matplotlib reads a $ as the start of a formula. Tokens may contain a $, so the pictures switch
formulas off in the texts of tokens.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, exp
from statistics import fmean
from textwrap import fill
from typing import Any

from matplotlib.ticker import PercentFormatter

from course_utils.figures.base import (
    Picture,
    Style,
    legend_above,
    name_rows,
    panels_in_a_row,
    with_strokes,
)
from course_utils.palette import BLUE, GREY, PAPER, RED, SKY

TOKEN_TEXT: Style = {"family": "monospace", "parse_math": False}
# More rows of dots are drawn in two panels.
MOST_ROWS = 16
# CSS of a token's box and of the scale of the backgrounds.
TOKEN_BOX = (
    "display:inline-block;text-align:center;vertical-align:top;padding:0 3px;margin:1px;"
    "border:1px solid #99999966;border-radius:4px;white-space:pre"
)
SCALE = "display:inline-block;width:6em;height:0.8em;border:1px solid;vertical-align:middle"


def next_tokens(prompts: Mapping[str, Sequence[tuple[str, float]]], title: str = "") -> Picture:
    """Draw the most likely next tokens as bars, in one panel for each prompt.

    Args:
        prompts: prompt → pairs (text, probability from 0 to 1) of likely next tokens, such as {"The
            capital of France is": [("·Paris", 0.77), …], …}. The first pair is the most likely
            token.
    """
    figure, panels = panels_in_a_row(len(prompts), title=title)
    descriptions = []
    for axes, (prompt, likeliest) in zip(panels, prompts.items(), strict=True):
        texts, shares = zip(*likeliest, strict=True)
        bars = axes.barh(range(len(texts)), shares, color=BLUE)
        axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3)
        name_rows(axes, texts, **TOKEN_TEXT)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.15), xticks=[])
        axes.spines["bottom"].set_visible(False)
        shown = fill(prompt, max(18, 66 // len(prompts)))
        axes.set_title(shown, fontsize="medium", loc="left", parse_math=False)
        listed = ", ".join(f"{text} {share:.0%}" for text, share in likeliest)
        descriptions.append(f"after “{prompt}”: {listed}")
    figure.supxlabel("probability of the next token", fontsize="medium")
    return Picture(figure, "Bars of the likeliest next tokens, " + "; ".join(descriptions) + ".")


def token_probabilities(
    texts: Sequence[str], series: Mapping[str, Sequence[float]], title: str = ""
) -> Picture:
    """Draw the probability of each token in a row, as one dot for each series.

    Args:
        texts: the texts of the tokens. The first token is on top. More than 16 tokens are drawn in
            two panels.
        series: name of the series → probability of each token, from 0 to 1, such as {"before": […],
            "after": […]}. The dots of the first series are hollow.
    """
    columns = 1 if len(texts) <= MOST_ROWS else 2
    rows = ceil(len(texts) / columns)
    figure, panels = panels_in_a_row(columns, height=1.3 + 0.26 * rows, title=title)
    for number, axes in enumerate(panels):
        part = slice(number * rows, (number + 1) * rows)
        for row, of_token in enumerate(zip(*(s[part] for s in series.values()), strict=True)):
            axes.plot([min(of_token), max(of_token)], [row] * 2, color=GREY, linewidth=2, zorder=1)
        for name, shares, (colour, _, _) in with_strokes(series):
            face = PAPER if name == next(iter(series)) else colour
            style: Style = {"markersize": 9, "mec": colour, "mfc": face, "mew": 2, "clip_on": False}
            axes.plot(shares[part], range(len(texts[part])), "o", label=name, **style)
        axes.set_yticks(range(len(texts[part])), texts[part], **TOKEN_TEXT)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        # A dot at 0% must not cover the text of its token.
        axes.tick_params(axis="y", length=0, pad=10)
        axes.set(xlim=(0, 1), ylim=(rows - 0.5, -0.5), xlabel="probability of the token")
    legend_above(panels[0], columns=len(series))
    descriptions = [
        f"{name}: " + ", ".join(f"{t} {p:.0%}" for t, p in zip(texts, shares, strict=True))
        for name, shares in series.items()
    ]
    return Picture(figure, "Dots of probability, token by token. " + "; ".join(descriptions) + ".")


def _check_lengths(texts: Sequence[str], others: Sequence[Any], name: str) -> None:
    if not len(texts) == len(others) > 0:
        raise ValueError(
            f"texts and {name} must have one item for each token, and at least one, "
            f"got {len(texts)} and {len(others)} items"
        )


@dataclass(frozen=True)
class TokenLosses:
    """Tokens in boxes, each on a background that is stronger the higher the token's loss is.

    The losses are written below the tokens, and a sentence states their mean and the highest ones.

    Attributes:
        texts: the texts of the tokens, as `sft.token_texts` returns them. A new line begins after
            each ↵.
        losses: the loss −log p of each token, in nats.
    """

    texts: Sequence[str]
    losses: Sequence[float]

    def __post_init__(self) -> None:
        _check_lengths(self.texts, self.losses, "losses")

    @property
    def summary(self) -> str:
        """Return a sentence with the mean loss and the three highest losses."""
        pairs = zip(self.texts, map(float, self.losses), strict=True)
        highest = sorted(pairs, key=lambda pair: -pair[1])[:3]
        listed = ", ".join(f"{text} {loss:.2f}" for text, loss in highest)
        mean = fmean(map(float, self.losses))
        return f"{len(self.texts)} tokens, mean loss {mean:.2f} nats, highest: {listed}."

    def __str__(self) -> str:
        pairs = zip(self.texts, self.losses, strict=True)
        return " ".join(f"{text}({loss:.2f})" for text, loss in pairs) + "\n" + self.summary

    def _repr_html_(self) -> str:
        highest = max(map(float, self.losses))
        boxes = []
        for text, loss in zip(self.texts, map(float, self.losses), strict=True):
            # Text in the page's ink is legible up to this opacity, in light and in dark mode.
            opacity = 0.6 * loss / max(highest, 1e-9)
            number = f'<br><small style="font-size:0.9em">{loss:.2f}</small>'
            boxes.append(
                f'<span title="{html.escape(text)}: loss {loss:.2f}, p = {exp(-loss):.2g}" '
                f'style="{TOKEN_BOX};background:{RED}{round(255 * opacity):02x}">'
                f"{html.escape(text)}{number}</span>" + "<br>" * text.count("↵")
            )
        scale = f"linear-gradient(to right,{RED}00,{RED}99)"
        legend = (
            f'<div>0 <span style="{SCALE};background:{scale}"></span> {highest:.1f} nats. '
            f"{html.escape(self.summary)}</div>"
        )
        return f'<div style="font-family:monospace;line-height:1.5">{"".join(boxes)}</div>{legend}'


@dataclass(frozen=True)
class MarkedTokens:
    """Tokens in boxes, with marks on the graded tokens.

    The graded tokens have another colour, bold type and an underline. The words "[graded:" and
    ":graded]" enclose each sequence of such tokens, for readers who don't see colours.

    Attributes:
        texts: the texts of the tokens, as `sft.token_texts` returns them. A new line begins after
            each ↵.
        graded: for each token, whether its loss counts in training.
    """

    texts: Sequence[str]
    graded: Sequence[bool]

    def __post_init__(self) -> None:
        _check_lengths(self.texts, self.graded, "graded")

    def _write(self, box: Callable[[str, bool], str], sign: Callable[[str], str]) -> str:
        """Write each token with `box`, and write with `sign` where graded tokens begin and end."""
        parts = []
        for graded, run in groupby(zip(self.graded, self.texts, strict=True), lambda pair: pair[0]):
            inside = "".join(box(text, graded) for _, text in run)
            parts.append(sign("[graded: ") + inside + sign(" :graded]") if graded else inside)
        count = f"{sum(self.graded)} of {len(self.texts)} tokens are graded"
        return "".join(parts) + sign(f"\n{count}: underlined, between [graded: and :graded].")

    def __str__(self) -> str:
        return self._write(lambda text, _: text.replace("↵", "↵\n"), str)

    def _repr_html_(self) -> str:
        styles = {
            False: "background:#9999991a",
            True: f"background:{SKY}66;font-weight:bold;text-decoration:underline",
        }

        def box(text: str, graded: bool) -> str:
            style = f"{TOKEN_BOX};{styles[bool(graded)]}"
            return f'<span style="{style}">{html.escape(text)}</span>' + "<br>" * text.count("↵")

        def sign(words: str) -> str:
            return f"<strong>{words}</strong>".replace("\n", "<br>")

        return f'<div style="font-family:monospace;line-height:1.7">{self._write(box, sign)}</div>'
