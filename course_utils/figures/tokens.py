"""Pictures of tokens: their probabilities, their losses, and which of them carry loss (lecture 01).

Tokens are text that may contain a $, which Matplotlib would otherwise read as mathematics.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from course_utils.figures.base import (
    Picture,
    grouped_bars,
    legend_above,
    one_panel,
    panels_in_a_row,
)
from course_utils.palette import BLUE

TOKEN_TEXT = {"family": "monospace", "parse_math": False}


def next_tokens(prompts: Mapping[str, Sequence[tuple[str, float]]]) -> Picture:
    """Bars of the likeliest next tokens, one panel for each prompt.

    Args:
        prompts: {"The capital of France is": [("·Paris", 0.77), …], …}, the likeliest token first,
            probabilities from 0 to 1.
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
    """A bar for the loss of each token; bars of graded tokens are filled, the others hatched.

    Args:
        losses: −log p of each token, in nats.
        graded: whether each token's loss counts.
        texts: the tokens, to write below a few bars.
    """
    figure, axes = one_panel()
    descriptions = []
    marked = list(zip(losses, graded, strict=True))
    looks = {
        "prompt: not graded": (False, {"color": "white", "edgecolor": "gray", "hatch": "////"}),
        "graded": (True, {"color": BLUE}),
    }
    for label, (kind, look) in looks.items():
        own = {n: float(loss) for n, (loss, mark) in enumerate(marked) if bool(mark) is kind}
        if own:
            mean = fmean(own.values())
            axes.bar(list(own), list(own.values()), 0.9, label=f"{label}, mean {mean:.2f}", **look)
            descriptions.append(f"{len(own)} tokens {label}, mean {mean:.2f} nats")
    if texts is not None:
        axes.set_xticks(range(len(texts)), texts, **TOKEN_TEXT)
    axes.set(xlabel="token", ylabel="loss = −log p (nats)")
    legend_above(axes, columns=2)
    return Picture(figure, "Bars of loss, token by token: " + "; ".join(descriptions) + ".")


def token_probabilities(texts: Sequence[str], series: Mapping[str, Sequence[float]]) -> Picture:
    """Bars of the probabilities of some tokens, side by side.

    Args:
        texts: the tokens.
        series: {"before": […], "after": […]}, probabilities of the tokens from 0 to 1.
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
    """Tokens in boxes; tokens that carry loss are marked by colour, by underline and in words.

    Attributes:
        texts: from `sft.token_texts`; a line ends after each ↵.
        graded: whether each token carries loss.

    Raises:
        ValueError: if there are not as many marks as tokens.
    """

    texts: Sequence[str]
    graded: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.graded):
            raise ValueError(
                f"every token needs its mark, got {len(self.texts)} and {len(self.graded)}"
            )

    def _write(self, box: Callable[[str, bool], str], sign: Callable[[str], str]) -> str:
        """Write each token by `box`, and a `sign` where a run of graded tokens begins or ends."""
        parts = []
        for graded, run in groupby(zip(self.graded, self.texts, strict=True), lambda pair: pair[0]):
            inside = "".join(box(text, graded) for _, text in run)
            parts.append(sign("[loss: ") + inside + sign(" :loss]") if graded else inside)
        count = f"{sum(self.graded)} of {len(self.texts)} tokens carry loss"
        return "".join(parts) + sign(f"\n{count}: underlined, between [loss: and :loss].")

    def __str__(self) -> str:
        return self._write(lambda text, _: text.replace("↵", "↵\n"), str)

    def _repr_html_(self) -> str:
        looks = {
            False: "color:#444;background:#eee",
            True: "color:#003a5d;background:#cfe6f7;font-weight:bold;text-decoration:underline",
        }

        def box(text: str, graded: bool) -> str:
            look = f"display:inline-block;border:1px solid white;{looks[bool(graded)]}"
            return f'<span style="{look}">{html.escape(text)}</span>' + "<br>" * text.count("↵")

        def sign(words: str) -> str:
            return f"<strong>{words}</strong>".replace("\n", "<br>")

        return f'<div style="font-family:monospace;line-height:1.7">{self._write(box, sign)}</div>'
