"""What Google Colab makes of a notebook that is opened there, run, and downloaded or saved.

As in notebooks that came from Colab: 2 spaces of indentation, keys in another order, metadata of
Colab's own in the notebook and in each cell, outputs, the state of widgets without the key that
nbformat asks for (googlecolab/colabtools issue 5288). A notebook in format 4.5 stays one, and its
cells keep their ids (issue 5402); one that went through format 4.0, in which Colab creates its own
notebooks, has none left, and lost what nbgrader notes in a cell. That last is the worst that a
cell's metadata can meet, and not what Colab does each time.
"""

from __future__ import annotations

import copy
import json
from typing import Any

WIDGETS = "application/vnd.jupyter.widget-state+json"
LINK = "https://colab.research.google.com/github/example/mine/blob/main/Copy_of_03_lora.ipynb"


def saved(notebook: dict[str, Any], *, ids: bool, name: str = "", link: bool = False) -> str:
    """The text of a notebook as Colab saves it, run from top to bottom on a T4.

    ids: whether it stayed in format 4.5. name: of the file on Drive. link: whether it was saved to
    GitHub, with a link to Colab above all other cells.
    """
    cells = [_cell(copy.deepcopy(cell), place, ids) for place, cell in enumerate(notebook["cells"])]
    if link:
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        source = f'<a href="{LINK}" target="_parent"><img src="{badge}" alt="Open In Colab"/></a>'
        metadata = {"id": "view-in-github", "colab_type": "text"}
        top = {"cell_type": "markdown", "metadata": metadata, "source": [source]}
        cells.insert(0, top | ({"id": "view-in-github"} if ids else {}))
    own = {"provenance": [], "gpuType": "T4", "toc_visible": True} | (
        {"name": name} if name else {}
    )
    metadata = {
        "colab": own,
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "accelerator": "GPU",
        "widgets": {WIDGETS: {"1f2e3d4c5b6a47980123456789abcdef": {"model_name": "HTMLModel"}}},
    }
    whole = {"nbformat": 4, "nbformat_minor": 5 if ids else 0, "metadata": metadata, "cells": cells}
    return json.dumps(whole, ensure_ascii=False, indent=2)


def _cell(cell: dict[str, Any], place: int, ids: bool) -> dict[str, Any]:
    name = cell.pop("id")
    kept = cell["metadata"] | {"id": name} if ids else {"id": f"Zq3_{place:08}"}
    made = {"cell_type": cell["cell_type"], "metadata": kept}
    made |= {"source": "".join(cell["source"]).splitlines(keepends=True)}
    if cell["cell_type"] == "code":
        ran = {"elapsed": 12, "status": "ok", "timestamp": 1790000000000 + place, "user_tz": -120}
        ran["user"] = {"displayName": "Student One", "userId": "00000000000000000001"}
        kept |= {"colab": {"base_uri": "https://localhost:8080/", "height": 35}}
        kept |= {"executionInfo": ran, "outputId": f"0b5a1c2d-0000-4000-8000-{place:012}"}
        shown = {"output_type": "stream", "name": "stdout", "text": ["so it is\n"]}
        made |= {"execution_count": place, "outputs": [shown]}
    if "attachments" in cell:
        made["attachments"] = cell["attachments"]
    return made | ({"id": name} if ids else {})
