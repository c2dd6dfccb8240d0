"""Create a small course for nbgrader, with this repository's settings and one assignment.

The assignment has the first task and the question of 09_sums, so that all its cells fit a window.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

from tests import assignment

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("nbgrader_config.py", "my_assignments/nbgrader_config.py")


def course(folder: Path) -> Path:
    """Create the course in a folder: nbgrader's settings and the assignment."""
    for name in SETTINGS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    content = assignment.notebook()
    content["cells"] = [c for c in content["cells"] if c["id"].startswith(("sum-all", "sum-why"))]
    assignment.write(folder, content)
    return folder


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """Return a zip archive of members: a name or a ZipInfo, and the content."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            info = member
            if isinstance(member, str):
                info = zipfile.ZipInfo(member, (2026, 11, 1, 9, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return target.getvalue()
