"""Formulas as MathML, which every browser shows by itself: without scripts, fonts or network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3}  # of elements that need so many


def to_mathml(tex: str, display: bool = False) -> str:
    r"""TeX, such as "\alpha / r", as a MathML element. display: on a line of its own.

    Raises ValueError, with the formula, where it would not be shown as it is meant: braces that
    don't match, a command that latex2mathml doesn't know, an argument that is missing.
    """
    from latex2mathml.converter import convert

    try:
        mathml = convert(tex, display="block" if display else "inline")
        root = ElementTree.fromstring(mathml)
    except Exception as fault:  # latex2mathml has many ways to refuse, IndexError among them
        raise ValueError(f"{tex!r} can't be shown as a formula: {type(fault).__name__}") from fault
    if left := re.search(r"\\\w*|[{}]", mathml):  # what it doesn't understand, it shows as it is
        raise ValueError(f"{tex!r} can't be shown as a formula: {left[0]!r} is left over")
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if len(element) < CHILDREN.get(name, 0):
            raise ValueError(f"{tex!r} can't be shown as a formula: an argument is missing")
    return mathml
