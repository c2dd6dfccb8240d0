"""Write the HTML of answers: tables, stacked bars and pictures that are legible on a phone."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from course_utils.palette import colours, text_on

# A part of a bar is labelled inside if it is at least this share of the bar's axis.
LABELLED = 0.18
# Two marks above a bar become one if they differ by less than this share of the axis.
NEAR = 0.09


def text(words: object) -> str:
    """Return words as HTML, with characters such as < escaped so that a browser shows them."""
    return html.escape(str(words))


def alert(words: object) -> str:
    """Return a message for a reader who has entered something that is not allowed."""
    return f'<p role="alert">{text(words)}</p>'


def with_article(gpu: str) -> str:
    """Return a GPU's name with the article that it has when spoken: a T4, an L4, a GPU of 12 GB."""
    if gpu.endswith(" GB"):
        return f"a GPU of {gpu}"
    return f"an {gpu}" if gpu[0] in "AEFHILMNORSX" else f"a {gpu}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. The cells of its rows are HTML, and the first one is the row's header."""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    # A table that scrolls sideways on a phone must be reachable with the keyboard.
    label = text(f"Table: {', '.join(head)}")
    return (
        f'<div class="live-scroll" tabindex="0" role="group" aria-label="{label}">'
        f'<table class="live-table"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def figure(alt: str, body: str, kind: str) -> str:
    """Return a picture with an alternative text; `kind` is its class in the style sheet."""
    described = f'<div role="img" aria-label="{text(alt)}">{body}</div>'
    return f'<figure class="live-{kind}">{described}</figure>'


def stacked_bar(parts: Mapping[str, float], end: float) -> str:
    """Return a bar of stacked parts: their names → their sizes, up to `end` on the bar's axis."""
    pieces = []
    for name, colour in colours(parts).items():
        size = parts[name]
        words = text(name) if size / end >= LABELLED else ""
        style = f"width:{size / end:.3%};background:{colour};color:{text_on(colour)}"
        pieces.append(f'<span style="{style}">{words}</span>')
    return f'<div class="live-bar">{"".join(pieces)}</div>'


def legend(colours: Mapping[str, str]) -> str:
    """Return a legend. The argument is a dict: description → colour."""
    items = "".join(
        f'<li><i style="background:{colour}"></i>{text(words)}</li>'
        for words, colour in colours.items()
    )
    return f'<ul class="live-legend">{items}</ul>'


def marks(places: Mapping[str, float]) -> str:
    """Return marks above a bar, such as the limits of GPUs, with their names.

    The argument is a dict: words → place, from 0 at the left end of the axis to 1 at the right end.
    Words beyond the right end are left out.
    """
    joined: list[tuple[str, float]] = []
    for words, x in sorted(places.items(), key=lambda place: place[1]):
        if x > 1:
            break
        if joined and x - joined[-1][1] < NEAR:
            joined[-1] = f"{joined[-1][0]}, {words}", joined[-1][1]
        else:
            joined.append((words, x))
    items = "".join(
        f'<span class="{"right" if x > 0.5 else "left"}" style="{_side(x)}"><em>{text(words)}</em>'
        "</span>"
        for words, x in joined
    )
    return f'<div class="live-marks">{items}</div>'


def _side(x: float) -> str:
    """Return the position of a mark in CSS, so that its words don't leave the picture."""
    return f"right:{1 - x:.3%}" if x > 0.5 else f"left:{x:.3%}"
