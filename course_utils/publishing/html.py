"""An executed notebook as one page that reads without a network or a kernel."""

from __future__ import annotations

import copy
import html
import os
import re
from pathlib import Path
from typing import Any

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

# nbconvert's page, without the scripts that hold up its text until a far server answers: no
# RequireJS and no Mermaid, and MathJax (a reader without network sees the TeX) only afterwards.
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
    """An executed notebook as one self-contained page, which reads without any network.

    Pictures are inside the page, widgets are shown as they stood at the end of the run, and links
    to notebooks of the same folder lead to their pages.
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


def with_moved_links(page: str, source: Path, target: Path) -> str:
    """A page for the folder `target`, whose links out of the notebook's folder are still right."""

    def moved(link: re.Match[str]) -> str:
        way = os.path.relpath(source.resolve() / link[1], target.resolve())
        return f'href="{Path(way).as_posix()}'

    return re.sub(r'href="(\.\./[^":#]*)', moved, page)


def freeze_widgets(notebook: Any) -> Any:
    """A copy of the notebook in which each widget is HTML that shows its last state."""
    notebook = copy.deepcopy(notebook)
    widgets = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        view = output.get("data", {}).pop(WIDGET_VIEW, None)
        if view is not None:
            output.data["text/html"] = _frozen(widgets, view["model_id"])
    return notebook


def _frozen(widgets: dict[str, Any], model_id: str) -> str:
    model = widgets.get(model_id.removeprefix("IPY_MODEL_"))
    if model is None:
        return ""
    state, kind = model["state"], model["model_name"]
    if "children" in state:
        inside = "".join(_frozen(widgets, child) for child in state["children"])
        across = "row" if kind == "HBoxModel" else "column"
        return f'<div style="display:flex; flex-direction:{across}; gap:0.5em">{inside}</div>'
    if kind.startswith("HTML"):
        return f"<div>{state.get('description', '')}{state.get('value', '')}</div>"
    words = [state.get("description", ""), _shown_value(state)]
    return f"<div>{html.escape(' '.join(word for word in words if word))}</div>"


def _shown_value(state: dict[str, Any]) -> str:
    """What a control shows: the chosen option's label, or the value."""
    if "_options_labels" in state:
        index = state.get("index")
        return "" if index is None else str(state["_options_labels"][index])
    if state.get("bar_style") is not None and "max" in state:  # a progress bar
        return f"{state['value']:g} of {state['max']:g}"
    return str(state.get("value", ""))
