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


def percent(share: float) -> str:
    """Return a share in percent, such as "1.60%", and "less than 0.01%" for a tiny share."""
    return f"{share:.2%}" if share == 0 or share >= 1e-4 else "less than 0.01%"


def with_article(gpu: str) -> str:
    """Return a GPU's name with its article: a T4, an A100, an H100, an RTX 4090."""
    return f"an {gpu}" if gpu[0] in "AHR" else f"a {gpu}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. The first cell of each row is the header of the row.

    Args:
        head: The words above each column; empty for a table without such words.
        rows: The cells of each row, as HTML.
    """
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    above = f"<thead><tr>{names}</tr></thead>" if head else ""
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    # A table that scrolls sideways on a phone must be reachable with the keyboard.
    return (
        f'<div class="live-scroll" tabindex="0" role="group" aria-label="{text(_name(head))}">'
        f'<table class="live-table">{above}<tbody>{body}</tbody></table></div>'
    )


def _name(head: Sequence[str]) -> str:
    return f"Table: {', '.join(head)}" if head else "Table of the numbers"


def numbers(lines: Mapping[str, str]) -> str:
    """Return a table of two columns, with the names and their texts."""
    return table((), ((text(name), text(words)) for name, words in lines.items()))


def figure(alt: str, body: str, kind: str) -> str:
    """Return a picture with an alternative text.

    Args:
        alt: The picture in words.
        body: The HTML of the picture.
        kind: The name of the class in the style sheet, such as "bars".
    """
    described = f'<div role="img" aria-label="{text(alt)}">{body}</div>'
    return f'<figure class="live-{kind}">{described}</figure>'


def svg(width: float, height: float, body: str, label: str = "") -> str:
    """Return an SVG drawing, which is at most `width` CSS pixels wide.

    Args:
        width: The width of the drawing's coordinates.
        height: The height of the drawing's coordinates.
        body: The elements of the drawing.
        label: The alternative text; "" if the surrounding figure has one.
    """
    role = f'role="img" aria-label="{text(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg {role} viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


def stacked_bar(parts: Mapping[str, float], end: float) -> str:
    """Return a bar of stacked parts in the course's colours.

    Args:
        parts: Name of the part → its size, above 0. Parts that are wide enough show their names.
        end: The size at the end of the bar's axis.
    """
    pieces = []
    for name, colour in colours(parts).items():
        size = parts[name]
        words = text(name) if size / end >= LABELLED else ""
        style = f"width:{size / end:.3%};background:{colour};color:{text_on(colour)}"
        pieces.append(f'<span style="{style}">{words}</span>')
    return f'<div class="live-bar">{"".join(pieces)}</div>'


def legend(colours: Mapping[str, str]) -> str:
    """Return a legend, which shows each description beside its colour.

    Args:
        colours: description → colour.
    """
    items = "".join(
        f'<li><i style="background:{colour}"></i>{text(words)}</li>'
        for words, colour in colours.items()
    )
    return f'<ul class="live-legend">{items}</ul>'


def marks(places: Mapping[str, float]) -> str:
    """Return marks above a bar, such as the limits of GPUs, with their names.

    Args:
        places: Words → place, from 0 at the left end of the axis to 1 at the right end. Words
            beyond the right end are left out.
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
