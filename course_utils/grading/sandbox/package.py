"""The copy of course_utils in a sandbox, without modules that contain an assignment's answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import course_utils

WITHHELD = """\
raise ImportError(
    "{name} is not available while this assignment is graded, because it contains solutions."
)
"""


def copied_package(target: Path, withheld: tuple[str, ...] = ()) -> Path:
    """Copy course_utils without the modules that are withheld; importing one raises an ImportError.

    Args:
        target: The folder in which the copy is made, which everybody may then read.
        withheld: Names of modules and packages, such as "course_utils.memory".

    Returns:
        The copy's folder.
    """
    source = Path(course_utils.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    package = Path(shutil.copytree(source, target / "course_utils", ignore=ignored))
    for name in withheld:
        _withhold(package, name)
    for path in (package, *package.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    package.parent.chmod(0o755)
    return package


def _withhold(package: Path, name: str) -> None:
    """Replace a module, or each module of a package, by `WITHHELD`; remove its other files."""
    path = package.joinpath(*name.split(".")[1:])
    files = [file for file in path.rglob("*") if not file.is_dir()]
    for file in files or [path.with_suffix(".py")]:
        if file.suffix == ".py":
            parts = file.relative_to(package.parent).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            file.write_text(WITHHELD.format(name=module), encoding="utf-8")
        else:
            file.unlink()
