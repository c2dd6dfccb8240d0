"""Convert notebooks to HTML pages in which no script of a student runs.

In formgrader, a student's script would have the instructor's rights and could change grades. Even
loading a picture could make formgrader use the settings of another folder. So nbgrader_config.py
extends nbconvert's HTMLExporter, which makes the pages of formgrader and feedback:

    HTMLExporter.preprocessors   Harmless           keeps only texts and pictures
    HTMLExporter.filters         markdown           allows only harmless HTML tags
    HTMLExporter.template_file   harmless.html.j2   adds a Content-Security-Policy

The Content-Security-Policy also blocks scripts that the preprocessor and the filter may miss.
"""

from __future__ import annotations

import html
import re
import textwrap
from contextlib import suppress
from typing import Any

import nbformat.v4 as v4
import nh3
from jinja2 import pass_context
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor
from traitlets import Bool

# Maximum number of characters that are shown of a cell's source or of one output.
MAX_TEXT = 100_000
# Maximum length of a text that is converted from Markdown; longer texts are shown unchanged.
MAX_MARKDOWN = 10_000

# Matches a picture that Colab has written into the text of a cell.
IN_TEXT = re.compile(r"\(data:(image/(?:png|jpeg|gif));base64,([A-Za-z0-9+/=]+)\)")
SHOWN_TYPES = ("image/png", "image/jpeg", "text/markdown", "text/plain")
# nbgrader's templates insert a cell's grade id into the page without escaping it.
GRADE_ID = re.compile(r"[\w-]{1,64}", re.A)
# Values that formgrader's template inserts into the page without escaping them.
UNESCAPED = ("student", "first_name", "last_name", "notebook_path")


class Harmless(Preprocessor):
    """Builds a new notebook with only texts and pictures; the templates escape HTML in them.

    An output is shown as a picture, Markdown or text, and never as HTML. Only metadata about points
    are kept.
    """

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return the notebook and nbconvert's resources without active content."""
        for name in UNESCAPED & resources.keys():
            resources[name] = html.escape(str(resources[name] or ""))
        return v4.new_notebook(cells=[_cell(cell) for cell in nb.cells]), resources


def _cell(cell: Any) -> Any:
    fields = {"metadata": _metadata(cell.metadata)}
    if cell.cell_type == "markdown":
        fields["attachments"] = dict(cell.get("attachments", {}))
        cell.source = _without_pictures(cell.source, fields["attachments"])
    source = _cut(cell.source)
    if "id" in cell:
        fields["id"] = cell.id
    if cell.cell_type == "code":
        outputs = [_output(output) for output in cell.outputs]
        return v4.new_code_cell(source, outputs=outputs, **fields)
    if cell.cell_type == "markdown":
        return v4.new_markdown_cell(source, **fields)
    # Show a raw cell as a code block.
    return v4.new_markdown_cell(textwrap.indent(source, "    ", lambda _: True), **fields)


def _without_pictures(source: str, attachments: dict[str, Any]) -> str:
    """Turn pictures in a text into attachments, so that they don't count towards `MAX_TEXT`."""

    def attach(picture: re.Match[str]) -> str:
        name = f"picture-{len(attachments) + 1}"
        attachments[name] = {picture[1]: picture[2]}
        return f"(attachment:{name})"

    return IN_TEXT.sub(attach, source)


def _metadata(metadata: Any) -> dict[str, Any]:
    if not GRADE_ID.fullmatch(str(metadata.get("nbgrader", {}).get("grade_id"))):
        return {}
    return {name: metadata[name] for name in ("nbgrader", "qlora_course") if name in metadata}


def _output(output: Any) -> Any:
    if output.output_type == "stream":
        return v4.new_output("stream", name=output.name, text=_cut(output.text))
    if output.output_type == "error":
        lines = [_cut("\n".join(output.traceback))]
        return v4.new_output("error", ename=output.ename, evalue=output.evalue, traceback=lines)
    shown = {
        mime: data if mime.startswith("image/") else _cut(data)
        for mime, data in output.data.items()
        if mime in SHOWN_TYPES
    }
    kinds = ", ".join(output.data)
    return v4.new_output(
        "display_data", data=shown or {"text/plain": f"(an output that is not shown: {kinds})"}
    )


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}\n… ({len(text):,} characters)"


# --- Markdown -------------------------------------------------------------------------------------

# Links are not allowed: a click could make formgrader use the settings of another folder.
TAGS = nh3.ALLOWED_TAGS - {"a", "area", "map"}
CLEANER = nh3.Cleaner(
    tags=TAGS,
    attributes={"*": set(), "img": {"src", "alt"}, "ol": {"start"}},
    attribute_filter=lambda _, name, value: (
        None if name == "src" and not value.startswith("data:image/") else value
    ),
    url_schemes={"data"},
)


@pass_context
def markdown(context: Any, source: Any) -> str:
    """Return Markdown as harmless HTML, without links and without pictures from other addresses.

    A text that can't be parsed, or that is longer than MAX_MARKDOWN, is returned as preformatted
    text.
    """
    text, attachments = str(source), context.get("cell", {}).get("attachments", {})
    if len(text) <= MAX_MARKDOWN:
        # The parser may raise various exceptions, for example if lists are nested too deeply.
        with suppress(Exception):
            rendered = MarkdownWithMath(renderer=_Renderer(dict(attachments))).render(text)
            # MathJax would turn \\href into a link.
            return CLEANER.clean(rendered).replace("\\href", "\\\u200bhref")
    return f"<pre>{html.escape(text)}</pre>"


class _Renderer(IPythonRenderer):
    """Writes each link's address as text, and shows each attached picture only once."""

    def __init__(self, attachments: dict[str, Any]):
        super().__init__(escape=False, exclude_anchor_links=True, attachments=attachments)

    def link(self, text: str, url: str, title: str | None = None) -> str:  # noqa: ARG002
        is_address = url.startswith(("http:", "https:", "mailto:")) and url != text
        return f"{text} ({html.escape(url)})" if is_address else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        # If a text showed a large picture hundreds of times, the page would need gigabytes of
        # memory. So each picture is shown only once.
        picture = self.attachments.pop(url.removeprefix("attachment:"), {})
        for mime, data in picture.items():
            return super().image(text, f"data:{mime};base64,{data}", title)
        return f"(a picture that is not shown: {text})"
