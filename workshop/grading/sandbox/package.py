"""Copy the course for a sandbox, without the modules that contain an assignment's solutions."""

from __future__ import annotations

import shutil
from pathlib import Path

import course_utils

WITHHELD_SOURCE = """\
def refuse(*_, **__):
    raise ImportError(
        "{name} is not available while this assignment is graded, because it contains solutions."
    )


class Withheld(type):
    # Each name of this module is a class of this type, so it can be imported but not used.
    __call__ = __getattr__ = __getitem__ = __iter__ = __len__ = __contains__ = refuse
    __instancecheck__ = __subclasscheck__ = refuse


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Withheld(name, (), {{}})
"""


def copy_package(target: Path, withheld: tuple[str, ...] = ()) -> None:
    """Copy course_utils without the withheld modules, and the code that grades.

    In the copy, using a name of a withheld module raises an ImportError. Importing it doesn't, so
    the course's other modules can import it at their top.

    Args:
        target: The folder in which the copies are made. All users of this machine can then read the
            folder.
        withheld: The names of withheld modules and packages, such as "course_utils.memory".
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(course_utils.__file__).parent, target / "course_utils", ignore=ignored)
    grading = Path(__file__).parents[1]
    shutil.copytree(grading, target / "workshop" / "grading", ignore=ignored)
    shutil.copy(grading.parent / "__init__.py", target / "workshop")
    for name in withheld:
        _withhold(target / "course_utils", name)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _withhold(package: Path, name: str) -> None:
    """Replace the source of a withheld module or package by `WITHHELD_SOURCE`."""
    path = package.joinpath(*name.split(".")[1:])
    files = [file for file in path.rglob("*") if not file.is_dir()]
    for file in files or [path.with_suffix(".py")]:
        if file.suffix == ".py":
            parts = file.relative_to(package.parent).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            file.write_text(WITHHELD_SOURCE.format(name=module), encoding="utf-8")
        else:
            file.unlink()
