"""Draw the mechanisms of the lectures as diagrams: what happens, in what order, and how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from course_utils.figures.base import Picture, Style
from course_utils.figures.canvas import NOTE, TEXT, Canvas, Point, text_width
from course_utils.palette import (
    ACTIVATIONS,
    ADAPTERS,
    BLUE,
    CONSTANTS,
    GRADIENTS,
    GREY,
    INK,
    OPTIMIZER,
    PAPER,
    WEIGHTS,
)

if TYPE_CHECKING:
    from course_utils.memory import ModelShape

# --- a transformer block with LoRA ----------------------------------------------------------------

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# The font size in the diagram of a block, and the x of the residual stream, in points.
SMALL, STREAM = 10.6, 18.0
# An adapter's A and B may be this thick, in points; the rows of layers have no more room.
THICKEST = 9


class _Branch(NamedTuple):
    """One of the two branches of a block, with its places in points.

    Attributes:
        name: the name of the branch, written at the height `heading`.
        rows: the layers that read the normalized stream, each with the y of its row.
        end: the x where the lines from these layers end.
        inner: the words in the box behind them, which is as large as `size`.
        last: the layer behind the box, and the x of its left side.
        back: the y of the line back to the stream.
    """

    name: str
    heading: float
    rows: Mapping[str, float]
    end: float
    inner: str
    size: Point
    last: tuple[str, float]
    back: float


BRANCHES = (
    _Branch(
        name="Attention",
        heading=36,
        rows={"q_proj": 52, "k_proj": 102, "v_proj": 152},
        end=256,
        inner="each token\nreads the\nearlier\ntokens",
        size=(86, 140),
        last=("o_proj", 386),
        back=190,
    ),
    _Branch(
        name="MLP",
        heading=214,
        rows={"gate_proj": 234, "up_proj": 290},
        end=326,
        inner="SiLU\n(gate)\n× up",
        size=(56, 92),
        last=("down_proj", 412),
        back=332,
    ),
)


def transformer_block(
    shape: ModelShape,
    rank: int = 8,
    title: str = "",
) -> Picture:
    """Draw a transformer block: its seven linear layers to scale, each with an adapter of LoRA.

    The weights are blue, and as wide as d_out and as high as d_in. To the left of each weight is A
    and above it is B, both orange. A side thinner than 2 points is drawn 2 points thick. The
    residual stream runs down the left side.

    Args:
        rank: the rank r of the adapters. A and B may be at most 9 points thick.
    """
    layers = shape.linear_layers()
    if set(layers) != {*ATTENTION, *MLP}:
        raise ValueError(f"{shape.name} must have the layers {', '.join((*ATTENTION, *MLP))}")
    # Points for each row or column of a weight.
    scale = 100 / max(side for sides in layers.values() for side in sides)
    most = int(THICKEST / scale)
    if not 1 <= rank <= most:
        raise ValueError(
            f"the rank must be from 1 to {most}, so that the picture has room for A and B, "
            f"got {rank}"
        )
    canvas = Canvas(556, 346, title)

    def place(name: str, x: float, y: float, end: float) -> float:
        """Draw a layer in row y with its left side at x, and a line from it to the x `end`.

        The name is above the line and the shape below it. Returns the x of the layer's left side.
        """
        d_in, d_out = layers[name]
        width, height = d_out * scale, d_in * scale
        left, _ = canvas.weight((x, y - height / 2), (width, height), rank * scale)
        canvas.line([(x + width + 2, y), (end, y)])
        canvas.text((x + width + 8, y - 9), name, size=SMALL, ha="left")
        canvas.text((x + width + 8, y + 9), f"{d_in:,} × {d_out:,}", size=SMALL, ha="left")
        return left - 2

    canvas.line([(STREAM, 22), (STREAM, 338)], GREY, 5)
    words = f"residual stream: {shape.hidden:,} numbers per token"
    canvas.text((STREAM - 9, 9), words, size=SMALL, ha="left")
    legend = {"W, frozen": WEIGHTS, f"A and B, trained (rank {rank})": ADAPTERS}
    canvas.legend((276, 4), legend, 10, SMALL)
    for branch in BRANCHES:
        canvas.text((34, branch.heading), branch.name, size=11, weight="bold", ha="left")
        lefts = [place(name, 124, y, branch.end) for name, y in branch.rows.items()]
        ys = list(branch.rows.values())
        middle = (ys[0] + ys[-1]) / 2
        # The lines from the stream through the norm to the layers.
        canvas.arrow([(STREAM + 4, middle), (50, middle)])
        canvas.box((50, middle - 11), (40, 22), "norm", text_size=SMALL)
        canvas.line([(90, middle), (104, middle)])
        canvas.line([(104, ys[0]), (104, ys[-1])])
        for y, left in zip(ys, lefts, strict=True):
            canvas.arrow([(104, y), (left, y)])
        for y in ys:
            canvas.arrow([(branch.end - 6, y), (branch.end + 6, y)])
        x, (width, height) = branch.end + 8, branch.size
        canvas.box((x, middle - height / 2), branch.size, branch.inner, text_size=SMALL)
        name, start = branch.last
        canvas.arrow([(x + width, middle), (place(name, start, middle, 546), middle)])
        # The line back to the stream, and the plus sign where the result is added.
        y = branch.back
        canvas.arrow([(546, middle), (546, y), (STREAM + 10, y)])
        canvas.box((STREAM - 9, y - 9), (18, 18), "+", face=PAPER, weight="bold", text_size=11)
    sizes = ", ".join(f"{name} {d_in:,} × {d_out:,}" for name, (d_in, d_out) in layers.items())
    return canvas.picture(
        f"A transformer block of {shape.name}. The residual stream of {shape.hidden:,} numbers per "
        f"token passes two branches, and each branch adds its result to the stream. Attention: "
        f"norm, q_proj, k_proj and v_proj, attention over earlier tokens, o_proj. MLP: norm, "
        f"gate_proj and up_proj, SiLU(gate) × up, down_proj. Weights to scale, d_in × d_out: "
        f"{sizes}. Beside each of {', '.join(layers)} is an adapter: A, d_in × {rank}, and B, "
        f"{rank} × d_out."
    )


# --- inside a model -------------------------------------------------------------------------------


def inside_model(
    shape: ModelShape, tokens: Sequence[str], next_token: str, title: str = ""
) -> Picture:
    """Draw how a model computes the next token, with one column for each token.

    Lines inside attention show from which tokens each token collects information.
    """
    canvas = Canvas(540, 312, title)
    left, width = 96.0, 310.0
    step = width / len(tokens)
    middles = [left + step * (n + 0.5) for n in range(len(tokens))]
    # The upper and the lower edge of each row.
    rows = {
        "tokens": (2, 28),
        "embedding": (50, 74),
        "attention": (104, 150),
        "MLP": (172, 196),
        "output layer": (226, 250),
        "next token": (274, 300),
    }
    inside = {
        "embedding": f"looks up {shape.hidden} numbers for each token",
        "attention": "",
        "output layer": f"computes {shape.vocab:,} logits for each token",
    }
    beside = {
        95: f"{shape.layers} blocks like this one",
        127: "each token collects\nfrom earlier tokens",
        184: "each token alone",
        287: "the most probable",
    }
    canvas.box((left - 7, 88), (width + 14, 122), edge=WEIGHTS, dashed=True)
    for y, text in beside.items():
        canvas.text((left + width + 14, y), text, size=SMALL, ha="left")
    for name, (top, bottom) in rows.items():
        canvas.text((2, (top + bottom) / 2), name, weight="bold", ha="left")
        if name in inside:
            size = (width, bottom - top)
            canvas.box((left, top), size, inside[name], edge=WEIGHTS, text_size=SMALL)
    for n, (x, token) in enumerate(zip(middles, tokens, strict=True)):
        place, size = x - step / 2 + 4, (step - 8, 26)
        canvas.box((place, rows["tokens"][0]), size, token, family="monospace")
        canvas.box((place, rows["MLP"][0]), (step - 8, 24), edge=WEIGHTS)
        last = n == len(tokens) - 1
        for earlier in middles[: n + 1]:
            canvas.line([(earlier, 108), (x, 146)], ACTIVATIONS, 1.8 if last else 0.6)
        for (_, start), (end, _) in pairwise(list(rows.values())[: 6 if last else 5]):
            canvas.arrow([(x, start + 1), (x, end - 1)])
        if last:
            style: Style = {"edge": ACTIVATIONS, "weight": "bold", "family": "monospace"}
            canvas.box((place, rows["next token"][0]), size, next_token, **style)
    return canvas.picture(
        f"The way through {shape.name}. The tokens {', '.join(tokens)} enter the embedding, which "
        f"looks up {shape.hidden} numbers for each token. Then come {shape.layers} blocks. In each "
        "block, attention lets each token collect information from itself and from earlier tokens, "
        "and the MLP changes each token alone. The output layer computes "
        f"{shape.vocab:,} logits for each token. After the last token, the most probable next "
        f"token is {next_token}."
    )


# --- shift by one ---------------------------------------------------------------------------------


def shift_by_one(
    tokens: Sequence[str],
    graded: Sequence[bool] | None = None,
    title: str = "",
    excerpt: bool = False,
) -> Picture:
    """Draw which label each prediction of a model is compared with: that of the next token.

    Thin lines show the tokens that each prediction depends on: its own token and all earlier ones.

    Args:
        tokens: the texts of three to nine tokens. They are the inputs and also the labels.
        graded: for each token, whether its label counts. The labels of the other tokens are −100.
        excerpt: whether the text has more tokens before and after these ones.
    """
    count = len(tokens)
    if not 3 <= count <= 9:
        raise ValueError(f"there must be from three to nine tokens, got {count}")
    marks = [True] * count if graded is None else list(graded)
    if len(marks) != count:
        raise ValueError(f"graded must have {count} items, one for each token, got {len(marks)}")
    canvas = Canvas(504, 186, title)
    left, right = (102, 490) if excerpt else (90, 506)
    step = (right - left) / count
    width, rows = step - 10, {"inputs": 20.0, "predictions": 84.0, "labels": 148.0}
    middles = [left + n * step + width / 2 for n in range(count)]
    for name, y in rows.items():
        canvas.text((2, y + 13), name, weight="bold", ha="left")
        if excerpt:
            canvas.text((left - 10, y + 13), "…")
            canvas.text((right, y + 13), "…")
    for n, (token, mark, x) in enumerate(zip(tokens, marks, middles, strict=True)):
        at = {name: (x - width / 2, y) for name, y in rows.items()}
        unused = n == count - 1 and not excerpt
        wide = text_width(token, TEXT, family="monospace")
        size = TEXT * min(1, 0.9 * width / max(wide, 1))
        style: Style = {"family": "monospace", "text_size": size}
        canvas.box(at["inputs"], (width, 26), token, **style)
        for earlier in [left - 10] * excerpt + middles[:n]:
            canvas.line([(earlier, 47), (x, 82)], GREY, 0.5)
        canvas.arrow([(x, 47), (x, 82)], GREY if unused else INK)
        if unused:
            canvas.box(
                at["predictions"], (width, 26), "unused", edge=GREY, dashed=True, text_size=NOTE
            )
        else:
            canvas.box(at["predictions"], (width, 26))
            _draw_distribution(canvas, x, rows["predictions"] + 22)
        if n < count - 1:
            counts = marks[n + 1]
            line: list[Point] = [(x, 111), (middles[n + 1], 146)]
            canvas.arrow(line, ACTIVATIONS if counts else GREY, 1.8, dashed=not counts)
        if mark and (n or excerpt):
            canvas.box(at["labels"], (width, 26), token, edge=ACTIVATIONS, weight="bold", **style)
        else:
            text = "−100" if not mark else "unused"
            canvas.box(at["labels"], (width, 26), text, edge=GREY, dashed=True, text_size=NOTE)
    pairs = [
        f"the prediction after “{a}” is compared with “{b}”"
        if mark
        else f"the prediction after “{a}” is not graded"
        for a, b, mark in zip(tokens, tokens[1:], marks[1:], strict=False)
    ]
    end = (
        "The text has more tokens before and after these ones."
        if excerpt
        else f"The prediction after the last token, “{tokens[-1]}”, has no label."
    )
    return canvas.picture(
        f"Inputs, predictions and labels of {count} tokens. Each prediction depends on its own "
        f"token and on all earlier ones. In detail, {'; '.join(pairs)}. {end}"
    )


def _draw_distribution(canvas: Canvas, middle: float, bottom: float) -> None:
    """Draw five bars, the sign of a probability distribution."""
    for n, height in enumerate((4, 9, 18, 7, 3)):
        canvas.rectangle((middle - 12 + 5 * n, bottom - height), (4, height), ACTIVATIONS)


# --- the data flow of QLoRA -----------------------------------------------------------------------


def qlora_layer(title: str = "") -> Picture:
    """Draw a linear layer of QLoRA: what is stored, what is computed, and where gradients flow.

    Solid arrows are the forward pass, from left to right. Dashed arrows are the backward pass: the
    gradient passes through the frozen weight to the layers below, and changes only A and B.
    """
    canvas = Canvas(532, 330, title)

    canvas.text((2, 12), "stored, frozen", size=SMALL, ha="left", weight="bold")
    canvas.text((2, 318), "stored, trained", size=SMALL, ha="left", weight="bold")
    stored: tuple[tuple[Point, float, tuple[str, str], str], ...] = (
        ((96, 22), 112, ("codes of W", "NF4, 4 bits"), WEIGHTS),
        ((218, 22), 112, ("constants", "8 bits + float32"), CONSTANTS),
        ((120, 240), 92, ("A", "float32"), ADAPTERS),
        ((264, 240), 92, ("B", "float32"), ADAPTERS),
    )
    for at, width, lines, colour in stored:
        canvas.named_box(at, (width, 42), lines, colour, (SMALL, SMALL))
    adam: Style = {"face": OPTIMIZER, "edge": "none", "text_size": SMALL}
    canvas.box((166, 300), (144, 28), "Adam, may be paged", **adam)
    temporary = "dequantized W: only while it is used"
    canvas.box((96, 92), (234, 34), temporary, dashed=True, text_size=SMALL)
    for text, x, width in (("x", 2, 50), ("x W", 166, 94), ("+", 396, 34), ("y", 478, 50)):
        canvas.box((x, 158), (width, 34), text, weight="bold", text_size=SMALL)
    canvas.text((382, 242), "× α/r", size=SMALL)
    forward: list[list[Point]] = [
        [(152, 66), (152, 90)],
        [(274, 66), (274, 90)],
        [(213, 128), (213, 156)],
        [(54, 170), (164, 170)],
        [(262, 170), (394, 170)],
        [(432, 170), (476, 170)],
        [(20, 194), (20, 254), (118, 254)],
        [(214, 254), (262, 254)],
        [(358, 254), (406, 254), (406, 194)],
    ]
    backward: list[list[Point]] = [
        [(476, 182), (432, 182)],
        [(394, 182), (262, 182)],
        [(164, 182), (54, 182)],
        [(420, 194), (420, 268), (358, 268)],
        [(262, 268), (214, 268)],
        [(118, 268), (34, 268), (34, 194)],
        [(166, 284), (166, 298)],
        [(310, 284), (310, 298)],
    ]
    solid: Style = {}
    dashes: Style = {"colour": GRADIENTS, "width": 1.6, "dashed": True}
    kinds = (("forward", 12, forward, solid), ("gradient", 30, backward, dashes))
    for name, y, arrows, style in kinds:
        for points in arrows:
            canvas.arrow(points, **style)
        canvas.line([(444, y), (470, y)], **style)
        canvas.text((476, y), name, size=SMALL, ha="left")
    return canvas.picture(
        "The data flow of a linear layer of QLoRA. Stored and frozen: the codes of W in NF4, 4 "
        "bits each, and their constants, in 8 bits with float32 constants of their own. In each "
        "pass, W is dequantized, multiplied by x and discarded. Stored and trained: A and "
        "B in float32. Their product x A B, scaled by α/r, is added to x W, which gives y. The "
        "gradient of y passes back through x W to x without changing W, and through B and A, which "
        "Adam updates; Adam's states may be paged."
    )


# --- maps of the course and of a lecture ----------------------------------------------------------


def course_map(title: str = "") -> Picture:
    """Draw the lectures and how they depend on each other: a need, four ideas, and their use.

    Each idea has the colour of the quantity that it makes smaller or, for LoRA, that it adds.
    """
    canvas = Canvas(540, 214, title)
    width, height, row = 158.0, 42.0, 56.0
    left, middle, right = 1.0, 190.0, 380.0

    def column(x: float, lectures: Mapping[str, str]) -> None:
        """Draw lectures one below the other, with an arrow from each to the next."""
        for n, lecture in enumerate(lectures.items()):
            canvas.named_box((x, 29 + row * n), (width, height), lecture)
            if n:
                canvas.arrow([(x + width / 2, row * n + 16), (x + width / 2, row * n + 28)])

    needs = {
        "00 Set-up": "a real model on your computer",
        "01 Supervised fine-tuning": "what training changes",
        "02 Memory": "why it does not fit",
    }
    ideas = {
        "03 LoRA": ("train few numbers", ADAPTERS),
        "04 NF4": ("4 bits for each weight", WEIGHTS),
        "05 Double quantization": ("smaller constants", CONSTANTS),
        "06 Paged optimizers": ("room for the peak", OPTIMIZER),
    }
    uses = {
        "07 QLoRA": "all four, on a real task",
        "08 Evidence": "is QLoRA as good?",
        "09 Take it with you": "export, serve, your own data",
    }
    column(left, needs)
    column(right, uses)
    # The two vertical lines beside the ideas, from which and to which the lines of each idea lead.
    split, join = middle - 15, middle + width + 16
    for n, (name, (words, colour)) in enumerate(ideas.items()):
        y = 1 + row * n
        canvas.named_box((middle, y), (width, height), (name, words), colour)
        canvas.arrow([(split, y + height / 2), (middle - 1, y + height / 2)])
        canvas.line([(middle + width, y + height / 2), (join, y + height / 2)])
    for x in (split, join):
        canvas.line([(x, 22), (x, 190)])
    canvas.line([(left + width, 162), (split, 162)])
    canvas.arrow([(join, 50), (right - 1, 50)])
    in_words = [
        "; ".join(f"{name}: {words}" for name, words in lectures.items())
        for lectures in (needs, {name: words for name, (words, _) in ideas.items()}, uses)
    ]
    return canvas.picture(
        f"The lectures in three columns. First, one after the other, {in_words[0]}. Then four "
        f"ideas that save memory, {in_words[1]}. The four ideas lead to what you do with them, "
        f"one after the other, {in_words[2]}."
    )


def you_are_here(steps: Sequence[str], here: str) -> Picture:
    """Draw the steps of a lecture in a row of up to 540 points, and mark the current step.

    Args:
        steps: short names of the steps in order.
        here: the current step. The steps before it are drawn as done.
    """
    if here not in steps:
        raise ValueError(f"here must be one of {', '.join(steps)}, got {here}")
    at, x = list(steps).index(here), 0.0
    canvas = Canvas(540, 26)
    for n, step in enumerate(steps):
        if n:
            canvas.line([(x - 16, 12.5), (x, 12.5)], GREY)
        style: Style = {"text_size": NOTE, "edge": GREY, "dashed": n > at}
        if n == at:
            style = {"text_size": NOTE, "face": BLUE, "edge": BLUE, "weight": "bold"}
        width = text_width(step, NOTE, "bold") + 18
        canvas.box((x + 1, 2), (width - 2, 21), step, **style)
        x += width + 16
    before, after = ", ".join(steps[:at]), ", ".join(steps[at + 1 :])
    alt = f"Map: step {at + 1} of {len(steps)}, {here}."
    alt += f" Done: {before}." * bool(before) + f" Next: {after}." * bool(after)
    return canvas.picture(alt)
