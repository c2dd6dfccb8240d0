"""Turn an executed notebook into one HTML page that needs no network and no kernel."""

from __future__ import annotations

import copy
import html
import os
import re
from pathlib import Path
from typing import Any

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

# nbconvert's page loads RequireJS and Mermaid, which would delay the text of the page until another
# server responds. This template leaves both out, and loads MathJax after the text. If there is no
# network, readers see formulas as TeX.
PAGE_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{% from 'mathjax.html.j2' import mathjax with context %}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
{{ mathjax(resources.mathjax_url) | replace('<script src', '<script async src') }}
{%- endblock -%}
"""


def to_html(notebook: Any, title: str) -> str:
    """Return an executed notebook as one self-contained HTML page.

    The page contains its pictures and shows the last state of each widget. Links to notebooks in
    the same folder become links to the HTML pages of these notebooks.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"page.html.j2": PAGE_TEMPLATE})],
        template_file="page.html.j2",
        embed_images=True,
    )
    resources = {"metadata": {"name": title}}
    page, _ = exporter.from_notebook_node(freeze_widgets(notebook), resources=resources)
    return re.sub(r'(href="[^":/]*)\.ipynb(["#])', r"\1.html\2", page)


def with_rebased_links(page: str, source: Path, target: Path) -> str:
    """Return a page whose links work in the folder `target` as they did in the folder `source`.

    Only links that begin with ../ are changed.
    """

    def rebased(link: re.Match[str]) -> str:
        path = os.path.relpath(source.resolve() / link[1], target.resolve())
        return f'href="{Path(path).as_posix()}'

    return re.sub(r'href="(\.\./[^":#]*)', rebased, page)


def freeze_widgets(notebook: Any) -> Any:
    """Return a copy of a notebook in which HTML with the last state replaces each widget."""
    notebook = copy.deepcopy(notebook)
    widgets = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        view = output.get("data", {}).pop(WIDGET_VIEW, None)
        if view is not None:
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
    if kind.startswith("HTML"):
        return f"<div>{state.get('description', '')}{state.get('value', '')}</div>"
    texts = [state.get("description", ""), _shown_value(state)]
    return f"<div>{html.escape(' '.join(filter(None, texts)))}</div>"


def _shown_value(state: dict[str, Any]) -> str:
    """Return the text that a control shows: the label of the chosen option, or the value."""
    if "_options_labels" in state:
        index = state.get("index")
        return "" if index is None else str(state["_options_labels"][index])
    is_progress_bar = state.get("bar_style") is not None and "max" in state
    if is_progress_bar:
        return f"{state['value']:g} of {state['max']:g}"
    return str(state.get("value", ""))
