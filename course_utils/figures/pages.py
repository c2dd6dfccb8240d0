"""Draw pages of optimizer states that move between a GPU and CPU memory (lecture 06)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from course_utils.figures.base import Picture
from course_utils.figures.canvas import Canvas
from course_utils.machine.units import format_bytes
from course_utils.paging import UnifiedMemory
from course_utils.palette import GREY, INK, OPTIMIZER, colours

# Places and sizes in points: the width of the picture, the left end of the rows, the height of a
# row, and the room above the first row, between the two rows and below the second row of a frame.
WIDTH, LEFT, ROW = 504, 78, 22
ABOVE, BETWEEN, BELOW = 20, 19, 12
FRAME = ABOVE + ROW + BETWEEN + ROW + BELOW


class PageFrame(NamedTuple):
    """The memory at one moment.

    Attributes:
        fixed: name of a quantity → its bytes on the GPU, which can't move.
        on_gpu: number of the page → its bytes, for each page on the GPU.
        in_cpu: number of the page → its bytes, for each page in CPU memory.
    """

    title: str
    fixed: Mapping[str, int]
    on_gpu: Mapping[int, int]
    in_cpu: Mapping[int, int]


def page_frames(frames: Sequence[PageFrame], budget: int, title: str = "") -> Picture:
    """Draw the memory of a GPU and CPU memory at several moments, as two rows for each moment.

    Everything is to scale. Pages are numbered green boxes, ordered by their numbers. A page in CPU
    memory is drawn below the place that it had on the GPU. An arrow marks each page that has moved
    since the frame before. Free memory is empty.

    Args:
        frames: the moments in order. In the first one, all pages must be on the GPU.
        budget: the bytes of the GPU's memory.
    """
    if frames[0].in_cpu:
        raise ValueError("in the first frame, all pages must be on the GPU")
    canvas = Canvas(WIDTH, FRAME * len(frames) - BELOW + 4, title)
    scale = (WIDTH - LEFT - 4) / budget
    faces = colours(dict.fromkeys(name for frame in frames for name in frame.fixed))
    places: dict[int, float] = {}
    descriptions = []
    for n, frame in enumerate(frames):
        fixed = sum(frame.fixed.values())
        if (used := fixed + sum(frame.on_gpu.values())) > budget:
            raise ValueError(f"{frame.title}: {used:,} B on a GPU with {budget:,} B")
        # The pages in CPU memory keep the places of the frame before.
        places |= _places(frame.on_gpu, LEFT + fixed * scale, scale)
        before = frames[n - 1].in_cpu if n else {}
        out, back = set(frame.in_cpu) - set(before), set(before) - set(frame.in_cpu)
        upper = float(n * FRAME + ABOVE)
        lower = upper + ROW + BETWEEN
        canvas.text((LEFT, upper - 9), frame.title, weight="bold", ha="left")
        for top, name in ((upper, "GPU"), (lower, "CPU memory")):
            canvas.text((LEFT - 6, top + ROW / 2), name, ha="right")
            canvas.box((LEFT, top), (budget * scale, ROW), edge=INK if top == upper else GREY)
        _draw_fixed(canvas, frame.fixed, upper, scale, faces)
        for number, size in {**frame.on_gpu, **frame.in_cpu, **before}.items():
            width, x = size * scale, places[number]
            _draw_page(canvas, number, (x, upper if number in frame.on_gpu else lower), width)
            if number in back:
                _draw_page(canvas, number, (x, lower), width, left=True)
            ends = [(x + width / 2, upper + ROW + 2), (x + width / 2, lower - 2)]
            if number in out or number in back:
                canvas.arrow(ends if number in out else ends[::-1])
        descriptions.append(_described(frame, sorted(out), sorted(back)))
    alt = f"Memory of a GPU with {format_bytes(budget)} and CPU memory, as rows of pages. "
    return canvas.picture(alt + " ".join(descriptions))


def page_rounds(touched: Sequence[int], places: int, pages: int, title: str = "") -> Picture:
    """Draw which pages are on the GPU, in a column for each use of a page.

    The least recently used page leaves the GPU. The page that has just moved to the GPU is
    coloured, and the page that it replaced is below, in CPU memory.

    Args:
        touched: the indices of pages, in the order in which the update uses them.
        places: how many pages fit on the GPU; at most `pages`.
        pages: how many pages there are. At first, the last ones are on the GPU.
    """
    gpu = UnifiedMemory(places, page_size=1)
    gpu.allocate(pages)
    on_gpu = list(range(pages - places, pages))
    canvas = Canvas(WIDTH, 50 + 25 * places + 25 * (pages - places), title)
    step = (WIDTH - LEFT - 4) / (len(touched) + 1)
    size = (step - 14, ROW - 2)
    lower = 46 + 25 * places
    canvas.text((LEFT - 6, 24 + 12.5 * places), "GPU", ha="right")
    canvas.text((LEFT - 6, lower + ROW / 2), "CPU memory", ha="right")
    canvas.line([(LEFT, lower - 12), (WIDTH - 4, lower - 12)], colour=GREY, dashed=True)
    descriptions = [f"at first, pages {_listed(on_gpu)} are on the GPU"]
    for n, number in enumerate([None, *touched]):
        x, moved = LEFT + n * step + 7, None
        if number is not None:
            moved = number if number in gpu.in_cpu else None
            gpu.touch(number)
            descriptions.append(f"page {number} is used")
        if moved is not None:
            (left,) = set(on_gpu) - set(gpu.on_gpu)
            on_gpu[on_gpu.index(left)] = moved
            descriptions[-1] += f", so it moves to the GPU and page {left} leaves"
        words = "before" if number is None else f"use {number}"
        canvas.text((x + size[0] / 2, 10), words, weight="bold")
        for row, page in enumerate(on_gpu):
            face = OPTIMIZER if page == moved else "none"
            canvas.box((x, 26 + 25 * row), size, str(page), face=face)
        for row, page in enumerate(sorted(gpu.in_cpu)):
            canvas.box((x, lower + 25 * row), size, str(page), edge=GREY)
    return canvas.picture("Pages on a GPU, in columns: " + "; ".join(descriptions) + ".")


def _places(pages: Mapping[int, int], start: float, scale: float) -> dict[int, float]:
    """Return the x of the left end of each page, in the order of the numbers."""
    numbers = sorted(pages)
    sizes = (pages[number] * scale for number in numbers)
    return dict(zip(numbers, accumulate(sizes, initial=start), strict=False))


def _draw_fixed(
    canvas: Canvas, fixed: Mapping[str, int], top: float, scale: float, faces: Mapping[str, str]
) -> None:
    x = float(LEFT)
    for name, size in fixed.items():
        canvas.box((x, top), (size * scale, ROW), name, face=faces[name])
        x += size * scale


def _draw_page(
    canvas: Canvas, number: int, at: tuple[float, float], width: float, left: bool = False
) -> None:
    """Draw a page, or the dashed outline of a page that has left its place."""
    place, size = (at[0] + 1, at[1] + 2), (width - 2, ROW - 4)
    if left:
        canvas.box(place, size, edge=GREY, dashed=True)
    else:
        canvas.box(place, size, str(number), face=OPTIMIZER)


def _described(frame: PageFrame, out: Sequence[int], back: Sequence[int]) -> str:
    parts = [f"{name} {format_bytes(size)}" for name, size in frame.fixed.items()]
    gpu = ", ".join([*parts, f"pages {_listed(sorted(frame.on_gpu))}"])
    text = f"{frame.title}: GPU: {gpu}; CPU memory: pages {_listed(sorted(frame.in_cpu))}."
    words = {"have moved to CPU memory": out, "have moved back to the GPU": back}
    moves = [f"Pages {_listed(numbers)} {what}." for what, numbers in words.items() if numbers]
    return " ".join([text, *moves])


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
