"""Copy course_utils for a sandbox, without the modules that contain an assignment's solutions."""

from __future__ import annotations

import shutil
from pathlib import Path

import course_utils

WITHHELD_SOURCE = """\
raise ImportError(
    "{name} is not available while this assignment is graded, because it contains solutions."
)
"""


def copy_package(target: Path, withheld: tuple[str, ...] = ()) -> Path:
    """Copy course_utils without the withheld modules, and return the copy's folder.

    In the copy, importing a withheld module raises an ImportError.

    Args:
        target: The folder in which the copy is made. All users of this machine can then read the
            folder.
        withheld: The names of withheld modules and packages, such as "course_utils.memory".

    Returns:
        The path of the copy.
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
    """Replace the source of a withheld module or package by `WITHHELD_SOURCE`.

    In a package, each module is replaced, and all other files are removed.

    Args:
        package: The copy of course_utils.
        name: The name of the withheld module or package.
    """
    path = package.joinpath(*name.split(".")[1:])
    files = [file for file in path.rglob("*") if not file.is_dir()]
    for file in files or [path.with_suffix(".py")]:
        if file.suffix == ".py":
            parts = file.relative_to(package.parent).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            file.write_text(WITHHELD_SOURCE.format(name=module), encoding="utf-8")
        else:
            file.unlink()
