"""Imitate what Google Colab changes in a notebook that is opened, run, and downloaded or saved.

The changes are those of real notebooks from Colab: 2 spaces of indentation, keys in another order,
Colab's metadata in the notebook and in each cell, outputs, and the state of widgets without a key
that nbformat requires (googlecolab/colabtools issue 5288). Colab keeps the format 4.5 of a notebook
and the ids of its cells (issue 5402). Colab's own notebooks have format 4.0. A notebook that was
converted to this format has no ids, and here it also lacks nbgrader's metadata, which is the worst
case.
"""

from __future__ import annotations

import copy
import json
from typing import Any

WIDGETS = "application/vnd.jupyter.widget-state+json"
LINK = "https://colab.research.google.com/github/example/mine/blob/main/Copy_of_03_lora.ipynb"


def saved(notebook: dict[str, Any], *, ids: bool, name: str = "", link: bool = False) -> str:
    """Return the text of a notebook as Colab saves it after a run on a T4.

    Args:
        notebook: the JSON of the notebook.
        ids: whether the notebook keeps format 4.5 and the ids of its cells.
        name: the name of the file on Google Drive; "" if it is not on Google Drive.
        link: whether the notebook was saved to GitHub, with a link to Colab as its first cell.
    """
    cells = [_cell(copy.deepcopy(cell), place, ids) for place, cell in enumerate(notebook["cells"])]
    if link:
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        source = f'<a href="{LINK}" target="_parent"><img src="{badge}" alt="Open In Colab"/></a>'
        metadata = {"id": "view-in-github", "colab_type": "text"}
        top = {"cell_type": "markdown", "metadata": metadata, "source": [source]}
        cells.insert(0, top | ({"id": "view-in-github"} if ids else {}))
    colab = {"provenance": [], "gpuType": "T4", "toc_visible": True}
    metadata = {
        "colab": colab | ({"name": name} if name else {}),
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "accelerator": "GPU",
        "widgets": {WIDGETS: {"1f2e3d4c5b6a47980123456789abcdef": {"model_name": "HTMLModel"}}},
    }
    content = {"nbformat": 4, "nbformat_minor": 5 if ids else 0}
    content |= {"metadata": metadata, "cells": cells}
    return json.dumps(content, ensure_ascii=False, indent=2)


def _cell(cell: dict[str, Any], place: int, ids: bool) -> dict[str, Any]:
    name = cell.pop("id")
    metadata = cell["metadata"] | {"id": name} if ids else {"id": f"Zq3_{place:08}"}
    result = {"cell_type": cell["cell_type"], "metadata": metadata}
    result |= {"source": "".join(cell["source"]).splitlines(keepends=True)}
    if cell["cell_type"] == "code":
        info = {"elapsed": 12, "status": "ok", "timestamp": 1790000000000 + place, "user_tz": -120}
        info["user"] = {"displayName": "Student One", "userId": "00000000000000000001"}
        metadata |= {"colab": {"base_uri": "https://localhost:8080/", "height": 35}}
        metadata |= {"executionInfo": info, "outputId": f"0b5a1c2d-0000-4000-8000-{place:012}"}
        output = {"output_type": "stream", "name": "stdout", "text": ["printed\n"]}
        result |= {"execution_count": place, "outputs": [output]}
    if "attachments" in cell:
        result["attachments"] = cell["attachments"]
    return result | ({"id": name} if ids else {})
