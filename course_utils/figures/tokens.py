"""Draw the probabilities and losses of tokens, and mark the tokens that carry loss (lecture 01).

Matplotlib reads a $ as the start of a formula. Tokens may contain a $, so the pictures switch
formulas off in the texts of tokens.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from course_utils.figures.base import (
    Picture,
    Style,
    grouped_bars,
    legend_above,
    one_panel,
    panels_in_a_row,
)
from course_utils.palette import BLUE

TOKEN_TEXT: Style = {"family": "monospace", "parse_math": False}


def next_tokens(prompts: Mapping[str, Sequence[tuple[str, float]]]) -> Picture:
    """Draw the most likely next tokens as bars, in one panel for each prompt.

    Args:
        prompts: prompt → pairs (text, probability from 0 to 1) of likely next tokens, such as {"The
            capital of France is": [("·Paris", 0.77), …], …}. The first pair is the most likely
            token.
    """
    figure, panels = panels_in_a_row(len(prompts))
    descriptions = []
    for axes, (prompt, likeliest) in zip(panels, prompts.items(), strict=True):
        texts, shares = zip(*likeliest, strict=True)
        axes.barh(range(len(texts)), shares, color=BLUE)
        axes.set_yticks(range(len(texts)), texts, **TOKEN_TEXT)
        axes.invert_yaxis()
        for row, share in enumerate(shares):
            axes.annotate(f" {share:.0%}", (share, row), va="center")
        axes.set(xlim=(0, 1), xlabel="probability")
        axes.set_title(prompt, wrap=True, fontsize="medium", parse_math=False)
        shown = ", ".join(f"{text} {share:.0%}" for text, share in likeliest)
        descriptions.append(f"after “{prompt}”: {shown}")
    return Picture(figure, "Bars of the likeliest next tokens, " + "; ".join(descriptions) + ".")


def token_losses(
    losses: Sequence[float], graded: Sequence[bool], texts: Sequence[str] | None = None
) -> Picture:
    """Draw the loss of each token as a bar: filled for graded tokens, hatched for prompt tokens.

    Args:
        losses: the loss −log p of each token, in nats.
        graded: for each token, whether its loss counts.
        texts: the texts of the tokens, which are written below the bars. Leave the texts out if
            there are too many tokens for the labels to be legible.
    """
    figure, axes = one_panel()
    descriptions = []
    marked = list(zip(losses, graded, strict=True))
    styles: dict[str, tuple[bool, Style]] = {
        "prompt: not graded": (False, {"color": "white", "edgecolor": "gray", "hatch": "////"}),
        "graded": (True, {"color": BLUE}),
    }
    for label, (is_graded, style) in styles.items():
        group = {n: float(loss) for n, (loss, mark) in enumerate(marked) if bool(mark) is is_graded}
        if group:
            mean = fmean(group.values())
            axes.bar(
                list(group), list(group.values()), 0.9, label=f"{label}, mean {mean:.2f}", **style
            )
            descriptions.append(f"{len(group)} tokens {label}, mean {mean:.2f} nats")
    if texts is not None:
        axes.set_xticks(range(len(texts)), texts, **TOKEN_TEXT)
    axes.set(xlabel="token", ylabel="loss = −log p (nats)")
    legend_above(axes, columns=2)
    return Picture(figure, "Bars of loss, token by token: " + "; ".join(descriptions) + ".")


def token_probabilities(texts: Sequence[str], series: Mapping[str, Sequence[float]]) -> Picture:
    """Draw the probability of each token as a group of bars, with one bar for each series.

    Args:
        texts: the texts of the tokens.
        series: name of the series → probability of each token, from 0 to 1, such as {"before": […],
            "after": […]}.
    """
    figure, axes = one_panel()
    grouped_bars(axes, series)
    axes.set_xticks(range(len(texts)), texts, rotation=30, **TOKEN_TEXT)
    axes.set(ylim=(0, 1), ylabel="probability", xlabel="token of the right answer")
    legend_above(axes, columns=len(series))
    descriptions = [
        f"{name}: " + ", ".join(f"{t} {p:.0%}" for t, p in zip(texts, shares, strict=True))
        for name, shares in series.items()
    ]
    return Picture(figure, "Bars of probability, token by token. " + "; ".join(descriptions) + ".")


@dataclass(frozen=True)
class MarkedTokens:
    """Tokens in boxes, with marks on the tokens that carry loss.

    The tokens that carry loss have another colour, bold type and an underline. The words "[loss:"
    and ":loss]" enclose each sequence of such tokens, for readers who don't see colours.

    Attributes:
        texts: the texts of the tokens, as `sft.token_texts` returns them. A new line begins after
            each ↵.
        graded: for each token, whether its loss counts in training.

    Raises:
        ValueError: `texts` and `graded` have different lengths.
    """

    texts: Sequence[str]
    graded: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.graded):
            raise ValueError(
                "texts and graded must have one item for each token, "
                f"got {len(self.texts)} and {len(self.graded)} items"
            )

    def _write(self, box: Callable[[str, bool], str], sign: Callable[[str], str]) -> str:
        """Write each token with `box`, and write with `sign` where graded tokens begin and end."""
        parts = []
        for graded, run in groupby(zip(self.graded, self.texts, strict=True), lambda pair: pair[0]):
            inside = "".join(box(text, graded) for _, text in run)
            parts.append(sign("[loss: ") + inside + sign(" :loss]") if graded else inside)
        count = f"{sum(self.graded)} of {len(self.texts)} tokens carry loss"
        return "".join(parts) + sign(f"\n{count}: underlined, between [loss: and :loss].")

    def __str__(self) -> str:
        return self._write(lambda text, _: text.replace("↵", "↵\n"), str)

    def _repr_html_(self) -> str:
        styles = {
            False: "color:#444;background:#eee",
            True: "color:#003a5d;background:#cfe6f7;font-weight:bold;text-decoration:underline",
        }

        def box(text: str, graded: bool) -> str:
            style = f"display:inline-block;border:1px solid white;{styles[bool(graded)]}"
            return f'<span style="{style}">{html.escape(text)}</span>' + "<br>" * text.count("↵")

        def sign(words: str) -> str:
            return f"<strong>{words}</strong>".replace("\n", "<br>")

        return f'<div style="font-family:monospace;line-height:1.7">{self._write(box, sign)}</div>'
