"""Turn an executed notebook into one HTML page that needs no network and no kernel."""

from __future__ import annotations

import copy
import html
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_text
from course_utils.machine.notebooks import WIDGET_VIEW, load_node
from course_utils.machine.validation import CourseError
from workshop.publishing.lecture import folded, without_hidden_sources
from workshop.publishing.mathml import markdown_to_html

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

# nbconvert's page loads RequireJS, Mermaid and MathJax from other servers. This template leaves all
# three out, because formulas are MathML. A hidden source leaves no empty box behind. The raw cells
# that `folded` adds must not be escaped.
PAGE_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}<style>{{ resources.page_style }}</style>{%- endblock -%}
{%- block input_group -%}{%- if cell.source -%}{{ super() }}{%- endif -%}{%- endblock -%}
{%- block rawcell scoped -%}
{%- if cell.metadata.raw_mimetype == 'text/html' -%}{{ cell.source }}{%- endif -%}
{%- endblock -%}
"""
BADGE = '<span class="deeper">Going deeper</span>'


def write_page(executed: Path, folder: Path) -> Path:
    """Write an executed notebook as an HTML page beside it, and return the path of the page.

    Args:
        folder: the folder of the original notebook. Links that begin with ../ are relative to it.
    """

    def rebased(link: re.Match[str]) -> str:
        path = os.path.relpath(folder.resolve() / link[1], executed.parent.resolve())
        return f'href="{Path(path).as_posix()}'

    notebook = load_node(executed)
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", texts, re.MULTILINE)
    text = to_html(notebook, title=heading[1] if heading else executed.stem)
    page = executed.with_suffix(".html")
    write_text(page, re.sub(r'href="(\.\./[^":#]*)', rebased, text))
    return page


def to_html(notebook: Any, title: str) -> str:
    """Return an executed notebook as one self-contained HTML page.

    Links to notebooks in the same folder become links to the HTML pages of these notebooks.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"page.html.j2": PAGE_TEMPLATE})],
        template_file="page.html.j2",
        filters={"markdown2html": markdown_to_html},
    )
    data = files("workshop.publishing") / "data"
    sheets = [(data / name).read_text(encoding="utf-8") for name in ("badge.css", "page.css")]
    resources = {"metadata": {"name": title}, "page_style": "\n".join(sheets)}
    page, _ = exporter.from_notebook_node(as_page(notebook), resources=resources)
    return re.sub(r'(href="[^":/]*)\.ipynb(["#])', r"\1.html\2", page)


def as_page(notebook: Any, badge: str = BADGE) -> Any:
    """Return a copy of an executed notebook with the cells that a page shows.

    Widgets become HTML, hidden sources are removed, and *Going deeper* sections are folded. In
    headings, `badge` replaces these words.
    """
    from nbformat import from_dict

    notebook = freeze_widgets(notebook)
    notebook.cells = from_dict(folded(without_hidden_sources(notebook.cells), badge))
    return notebook


def picture_of(path: Path, name: str) -> str:
    """Return the inline picture in the output of the cell `name` of an executed notebook.

    Raises:
        CourseError: the cell's output contains no picture.
    """
    for cell in load_node(path).cells:
        for output in cell.get("outputs", []) if cell.id == name else []:
            page = output.get("data", {}).get("text/html", "")
            if picture := re.search(r"<svg .*?</svg>", page, re.DOTALL):
                return picture[0]
    raise CourseError(f"the output of the cell {name} of {path.name} contains no picture")


def freeze_widgets(notebook: Any) -> Any:
    """Return a copy of a notebook in which HTML replaces each widget.

    An output that also has a form as HTML keeps this form. Otherwise the HTML shows the last state
    of the widget.
    """
    notebook = copy.deepcopy(notebook)
    widgets = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        view = output.get("data", {}).pop(WIDGET_VIEW, None)
        if view is not None and "text/html" not in output.data:
            output.data["text/html"] = _frozen(widgets, view["model_id"])
    return notebook


def _frozen(widgets: dict[str, Any], model_id: str) -> str:
    """Return the HTML of a widget and its children; "" if its state is not stored."""
    model = widgets.get(model_id.removeprefix("IPY_MODEL_"))
    if model is None:
        return ""
    state, kind = model["state"], model["model_name"]
    if "children" in state:
        content = "".join(_frozen(widgets, child) for child in state["children"])
        direction = "row" if kind == "HBoxModel" else "column"
        return f'<div style="display:flex; flex-direction:{direction}; gap:0.5em">{content}</div>'
    # A button does nothing on a page.
    if kind == "ButtonModel":
        return ""
    if kind.startswith("HTML"):
        return f"<div>{state.get('description', '')}{state.get('value', '')}</div>"
    value = state.get("value", "")
    if "_options_labels" in state:
        # A menu shows the label of the chosen option.
        value = "" if state.get("index") is None else state["_options_labels"][state["index"]]
    elif "bar_style" in state and "max" in state:
        value = f"{value:g} of {state['max']:g}"
    texts = [state.get("description", ""), str(value)]
    return f"<div>{html.escape(' '.join(filter(None, texts)))}</div>"
