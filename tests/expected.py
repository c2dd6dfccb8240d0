"""Write the expected outputs of the cells in which students try their answers.

    python -m tests.expected 03_lora        default: all assignments

The command runs the solution and writes what each cell NAME-try prints into the Markdown cell
NAME-expected after it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from course_utils.machine import notebooks
from course_utils.machine.execution import execute
from course_utils.machine.files import write_text
from tests.mutation import ROOT, offline
from workshop.grading.assignments import sources

FOLDED = """\
<details>
<summary>Expected output</summary>

```text
{}
```

</details>"""


def expected(path: Path) -> dict[str, str]:
    """Run a solution, and return the sources of its cells with expected outputs, by their ids."""
    with tempfile.TemporaryDirectory() as temporary, offline():
        run = execute(path, Path(temporary))
        assert not run.error, run.error
        return texts(notebooks.load(run.executed)["cells"])


def texts(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Return the sources of cells with expected outputs, by their ids, from the cells that ran."""
    return {
        cell["id"].removesuffix("-try") + "-expected": FOLDED.format(_text(cell["outputs"]))
        for cell in cells
        if cell["id"].endswith("-try")
    }


def _text(outputs: list[dict[str, Any]]) -> str:
    """Return what a cell prints and the value of its last line, as text."""
    texts = [o["text"] if "text" in o else o["data"]["text/plain"] for o in outputs]
    return "".join("".join(text).rstrip("\n") + "\n" for text in texts).rstrip("\n")


def main() -> None:
    """Write the expected outputs of one assignment, or of all assignments."""
    for path in sources(ROOT, *sys.argv[1:2]):
        sources_by_id, notebook = expected(path), notebooks.load(path)
        for cell in notebook["cells"]:
            cell["source"] = sources_by_id.get(cell["id"], cell["source"])
        write_text(path, notebooks.dump(notebook))
        print(f"{path.name}: {len(sources_by_id)} outputs")


if __name__ == "__main__":
    main()
