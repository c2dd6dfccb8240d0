"""Turn formulas into MathML, which browsers show without scripts, fonts or a network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

# The number of child elements that a MathML element must have.
CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3}


def to_mathml(tex: str, display: bool = False) -> str:
    r"""Return a TeX formula, such as "\alpha / r", as a MathML element.

    If `display` is True, the formula is on a separate line.

    Raises:
        ValueError: the formula would not be shown correctly, because its braces don't match,
            latex2mathml doesn't know a command, or an argument is missing.
    """
    from latex2mathml.converter import convert

    try:
        mathml = convert(tex, display="block" if display else "inline")
        root = ElementTree.fromstring(mathml)
    # latex2mathml raises many kinds of errors, such as IndexError.
    except Exception as error:
        raise ValueError(f"{tex!r} can't be shown as a formula: {type(error).__name__}") from error
    # latex2mathml copies a command that it doesn't know into its output.
    if unknown := re.search(r"\\\w*|[{}]", mathml):
        raise ValueError(f"{tex!r} can't be shown as a formula: {unknown[0]!r} was not converted")
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if len(element) < CHILDREN.get(name, 0):
            raise ValueError(f"{tex!r} can't be shown as a formula: an argument is missing")
    return mathml


def markdown_to_html(source: str, local_links: bool = True) -> str:
    """Return Markdown as HTML with formulas as MathML.

    A formula that can't be converted is shown as TeX, also if latex2mathml is not installed. If
    `local_links` is False, links to files become plain text.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return self.formula(body, display=False)

        def block_math(self, body: str) -> str:
            return self.formula(body, display=True)

        def formula(self, body: str, display: bool) -> str:
            try:
                return to_mathml(body, display=display)
            except (ImportError, ValueError):
                return f"<code>{self.escape_html(body)}</code>"

        def link(self, text: str, url: str, title: str | None = None) -> str:
            shown = local_links or "://" in url
            return super().link(text, url, title) if shown else text

    renderer = Renderer(escape=False, exclude_anchor_links=not local_links)
    return MarkdownWithMath(renderer=renderer).render(source)
