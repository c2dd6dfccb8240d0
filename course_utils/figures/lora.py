"""Draw LoRA's matrices to scale, low rank, and the singular values of updates (lecture 03)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from course_utils.figures.base import Picture, grouped_bars, mark_x, one_panel
from course_utils.figures.canvas import GAP, NOTE, TEXT, THINNEST, Canvas, Point, text_width
from course_utils.palette import ADAPTERS, BLUE, ORANGE, WEIGHTS


def lora_rectangles(
    matrices: Mapping[str, tuple[int, int]], rank: int, layers: int = 1, title: str = ""
) -> Picture:
    """Draw the weight W of each linear layer and its adapter's A and B as rectangles to scale.

    All rectangles have the same scale, so that their areas are their numbers of parameters. A
    matrix is as high as its number of rows: W is d_in × d_out, A to its left is d_in × r, and B
    above it is r × d_out. A side thinner than 2 points is drawn 2 points thick.

    Args:
        matrices: name of the layer → (d_in, d_out), for one to seven layers.
        layers: the number of transformer layers that contain these linear layers. The picture shows
            one of them and the number of parameters of all of them.
        title: by default, the ratio of the number of trained parameters to W's.
    """
    if not 1 <= len(matrices) <= 7:
        raise ValueError(f"there must be from one to seven layers, got {len(matrices)}")
    if min(rank, layers, *chain(*matrices.values())) < 1:
        raise ValueError("rank, layers and the sides of the matrices must be at least 1")
    trained = layers * sum(rank * (d_in + d_out) for d_in, d_out in matrices.values())
    full = layers * sum(d_in * d_out for d_in, d_out in matrices.values())
    places, height, scale = _packed(matrices, rank)
    ratio = f"{trained / full:.2%}" if trained < 0.1 * full else f"{trained / full:.0%}"
    title = title or f"At rank {rank:,}, A and B have {ratio} as many parameters as W"
    canvas = Canvas(504, max(height, 140), title)
    for (name, (d_in, d_out)), (x, bottom) in zip(matrices.items(), places, strict=True):
        size = d_out * scale, d_in * scale
        at, middle = (x, bottom - size[1]), x + size[0] / 2
        left, top = canvas.weight(at, size, rank * scale)
        if len(matrices) == 1:
            left, above = left - 6, top - 10
            canvas.text((left, at[1] + size[1] / 2 - 7), "A", weight="bold", ha="right")
            canvas.text((left, at[1] + size[1] / 2 + 7), f"{d_in:,} × {rank:,}", ha="right")
            canvas.text((middle - 34, above), "B", weight="bold")
            canvas.text((middle + 10, above), f"{rank:,} × {d_out:,}")
        canvas.text((middle, bottom + 11), name, weight="bold")
        canvas.text((middle, bottom + 25), f"{d_in:,} × {d_out:,}", size=NOTE)
        if len(matrices) > 1:
            own = rank * (d_in + d_out) / (d_in * d_out)
            canvas.text((middle, bottom + 39), f"+{own:.2%}", size=NOTE)
    # The numbers of parameters stand to the right of the weights, in rows that begin with a colour.
    x = 384.0 if len(matrices) > 1 else min(384.0, middle + size[0] / 2 + 60)
    for y, colour, name, count in ((26, ADAPTERS, "A and B", trained), (70, WEIGHTS, "W", full)):
        canvas.rectangle((x, y - 5), (10, 10), colour)
        canvas.text((x + 16, y), name, weight="bold", ha="left")
        canvas.text((x + 16, y + 16), f"{count:,}", ha="left")
    if layers > 1:
        canvas.text((x + 16, 114), f"in {layers} layers", ha="left")
    shapes = ", ".join(f"{name} {d_in:,} × {d_out:,}" for name, (d_in, d_out) in matrices.items())
    in_layers = f", for one of {layers:,} layers" if layers > 1 else ""
    return canvas.picture(
        f"Rectangles to scale{in_layers}: {shapes}, each with A (d_in × {rank:,}) and B "
        f"({rank:,} × d_out). At rank {rank:,}, A and B have {trained:,} parameters, "
        f"{trained / full:.2%} of the {full:,} in W."
    )


def _packed(matrices: Mapping[str, tuple[int, int]], rank: int) -> tuple[list[Point], float, float]:
    """Place layers in rows, as large as fits into an area of 370 × 240 points.

    Up to an eighth of the smallest side, the rank doesn't change the sizes of the weights.

    Returns:
        The lower left corner of each layer's W, the height of all rows, and the points for each row
        or column of a matrix.
    """
    smallest = min(map(min, matrices.values()))
    scale, height = 240 / smallest, math.inf
    while height > 240:
        scale *= 0.97
        places, height = _rows(matrices, scale, max(rank, smallest / 8))
    return places, height, scale


def _rows(
    matrices: Mapping[str, tuple[int, int]], scale: float, rank: float
) -> tuple[list[Point], float]:
    """Place layers in rows that are at most 370 points wide, with room for A and B of a rank.

    Returns:
        The lower left corner of each layer's W, and the height of all rows. The height is infinite
        if a layer is too wide.
    """
    thick = max(rank * scale, THINNEST) + GAP
    # The room for A's label to the left and B's label above, which only a single layer has.
    label, above = 0.0, 2.0
    if len(matrices) == 1:
        ((d_in, _),) = matrices.values()
        label, above = text_width(f"{d_in:,} × {max(d_in, int(rank)):,}") + 8, 18.0
    rows: list[list[tuple[float, float]]] = [[]]
    x = 0.0
    for name, (d_in, d_out) in matrices.items():
        wide = d_out * scale
        # Labels that are wider than W extend beyond both of its sides.
        text = max(text_width(f"{d_in:,} × {d_out:,}", NOTE), text_width(name, TEXT, "bold"))
        beyond = max(0.0, (text + 2 - wide) / 2)
        before = max(label + thick, beyond)
        room = before + wide + beyond
        if rows[-1] and x + room > 370:
            rows.append([])
            x = 0.0
        if room > 370:
            return [], math.inf
        rows[-1].append((x + before, d_in * scale))
        x += room + 14
    places, y = [], 0.0
    for row in rows:
        y += max(high for _, high in row) + thick + above
        places += [(left, y) for left, _ in row]
        y += 38 if len(matrices) == 1 else 52
    return places, y


def low_rank(delta: ArrayLike, ranks: Sequence[int] = (1, 2, 4, 8), title: str = "") -> Picture:
    """Draw a matrix ΔW and its best approximations of low rank, each as the product A B.

    The approximation of rank r keeps the r largest singular values of ΔW. By the theorem of Eckart
    and Young, no other matrix of rank r has a smaller error. Blue pixels are negative and orange
    pixels are positive; the stronger the colour, the larger the number. A is d_in × r and to the
    left of the product, B is r × d_out and above it. Both are drawn at most 28 points thick.

    Args:
        delta: the matrix, as an array of shape (d_in, d_out).
        ranks: the ranks in ascending order, from one to four of them.
    """
    matrix = np.asarray(delta, dtype=float)
    if matrix.ndim != 2:
        raise ValueError(f"delta must be a matrix, got an array of shape {matrix.shape}")
    if not matrix.any() or not np.isfinite(matrix).all():
        raise ValueError("delta must have finite numbers, and one other than 0: there is no error")
    if not 1 <= len(ranks) <= 4 or not all(1 <= rank <= min(matrix.shape) for rank in ranks):
        raise ValueError(
            f"there must be from one to four ranks from 1 to {min(matrix.shape)}, got {ranks}"
        )
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    # The images of all matrices share one scale of colours.
    largest = float(np.quantile(np.abs(matrix), 0.98))
    d_in, d_out = matrix.shape
    side = 72.0 / max(d_in, d_out)
    # The thickness of A and B for each rank.
    unit = min(max(side, 1.6), 28 / max(ranks))
    size = d_out * side, d_in * side
    canvas = Canvas(504, 46 + size[1] + 44, title)
    top = 40.0
    # A text below an image may be wider than the image.
    margin = max(4.0, 2 + (text_width("error 100%") - size[0]) / 2)
    middle = margin + size[0] / 2
    canvas.image((margin, top), size, signed_colours(matrix, largest))
    canvas.text((middle, top - 14), "ΔW", weight="bold")
    canvas.text((middle, top + size[1] + 12), f"{d_in:,} × {d_out:,}", size=NOTE)
    descriptions = []
    step = (504 - 2 * margin - size[0]) / len(ranks)
    for n, rank in enumerate(ranks, 1):
        root = np.sqrt(values[:rank])
        a, b = left[:, :rank] * root, root[:, None] * right[:rank]
        error = float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))
        thick = max(rank * unit, 1.6)
        x = margin + n * step
        canvas.image((x, top), size, signed_colours(a @ b, largest))
        canvas.image((x - GAP - thick, top), (thick, size[1]), signed_colours(a))
        canvas.image((x, top - GAP - thick), (size[0], thick), signed_colours(b))
        middle = x + size[0] / 2
        canvas.text((middle, top + size[1] + 12), f"rank {rank}", weight="bold")
        canvas.text((middle, top + size[1] + 27), f"error {error:.0%}", size=TEXT)
        descriptions.append(f"rank {rank} with error {error:.1%}")
    return canvas.picture(
        f"Images of a matrix of {d_in:,} × {d_out:,} numbers and of its best approximations of low "
        f"rank, each with its A and B: {', '.join(descriptions)} of the norm."
    )


def signed_colours(matrix: NDArray, largest: float | None = None) -> NDArray:
    """Return the RGBA values of an image of a matrix: blue for negative, orange for positive.

    A number of size `largest` is opaque, by default the largest of the matrix. Zero is transparent,
    so that it has the colour of the page.
    """
    strength = np.clip(np.abs(matrix) / (largest or np.abs(matrix).max() or 1), 0, 1)
    shades = [np.array([int(c[n : n + 2], 16) / 255 for n in (1, 3, 5)]) for c in (BLUE, ORANGE)]
    pixels = np.where(matrix[..., None] < 0, *shades)
    return np.concatenate([pixels, strength[..., None]], axis=-1)


def spectrum(singular_values: Mapping[str, Sequence[float]], rank: int, title: str = "") -> Picture:
    """Draw the ten largest singular values of several matrices as bars, in descending order.

    Args:
        singular_values: name of the matrix → its singular values, in any order.
        rank: the rank after whose singular values a vertical line is drawn.
    """
    figure, axes = one_panel(title=title)
    largest = {
        name: sorted(map(float, values), reverse=True)[:10]
        for name, values in singular_values.items()
    }
    grouped_bars(axes, largest, first=1)
    axes.set(xlabel="singular value, by size", ylabel="value")
    axes.set_xticks(range(1, 11))
    mark_x(axes, rank + 0.5, f"rank {rank}", (5, -2), va="top")
    axes.legend(frameon=False)
    descriptions = [
        f"{name} " + ", ".join(f"{value:.2f}" for value in values)
        for name, values in largest.items()
    ]
    alt = f"Bars of singular values: {'; '.join(descriptions)}. A line marks rank {rank}."
    return Picture(figure, alt)
