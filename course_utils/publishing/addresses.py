"""The addresses where the course is published, and the badges and links made from them.

pyproject.toml holds up to two addresses, both of repositories on GitHub, because Colab opens
notebooks from there:

    [project.urls]
    Repository = "https://github.com/OWNER/REPO"     the course: lectures are opened from there
    Students = "https://github.com/OWNER/OTHER"      the course without solutions: assignments

Links name the tag of this release, such as v0.1.0 for version 0.1.0.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from course_utils import __version__
from course_utils.validation import CourseError

PROJECT = "pyproject.toml"
TAG = f"v{__version__}"
GITHUB = "https://github.com"
COLAB, BINDER = "https://colab.research.google.com", "https://mybinder.org"
COLAB_BADGE, BINDER_BADGE = f"{COLAB}/assets/colab-badge.svg", f"{BINDER}/badge_logo.svg"
OWNER, NAME = r"[a-z0-9](?:-?[a-z0-9]){0,38}", r"(?!\.+(?:git)?/?$)[a-z0-9._-]{1,100}?"
REPOSITORY = re.compile(rf"{GITHUB}/({OWNER})/({NAME})(?:\.git)?/?", re.IGNORECASE)


@dataclass(frozen=True)
class Addresses:
    """The addresses of the two repositories; "" stands for a repository that does not exist."""

    repository: str = ""
    students: str = ""

    def of(self, path: Path) -> str:
        """Return the address that the notebook at `path` is opened from; "" if there is none.

        Assignments are opened from the students' repository only, because the course's own
        repository holds their solutions.
        """
        return self.repository if is_lecture(path) else self.students


def github(address: str) -> str:
    """Return an address of a GitHub repository without a final ".git" or slash.

    Raises:
        CourseError: it is not the address of a GitHub repository.
    """
    found = REPOSITORY.fullmatch(address)
    if not found:
        raise CourseError(
            f"{address!r} is not of the form https://github.com/OWNER/REPO: "
            "Colab opens notebooks from GitHub"
        )
    return f"{GITHUB}/{found[1]}/{found[2]}"


def is_lecture(path: Path) -> bool:
    """Tell whether a notebook is in a folder named lectures."""
    return path.resolve().parent.name == "lectures"


# --- pyproject.toml -------------------------------------------------------------------------------


def read(folder: Path) -> Addresses:
    """Return the addresses in a folder's pyproject.toml, which need not exist.

    Raises:
        CourseError: the file is not TOML, or an address is not one of GitHub.
    """
    file = folder / PROJECT
    if not file.exists():
        return Addresses()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as fault:
        raise CourseError(f"{file} is not TOML: {fault}") from None
    urls = content.get("project", {}).get("urls", {})
    found = (urls.get(name) for name in ("Repository", "Students"))
    return Addresses(*(github(address) if address else "" for address in found))


def written(folder: Path, addresses: Addresses) -> str:
    """Return the text that a folder's pyproject.toml has with these addresses; all else is kept.

    Raises:
        CourseError: the file can't be read, or it is not TOML.
    """
    import tomlkit

    file = folder / PROJECT
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8"))
    except OSError as fault:
        raise CourseError(f"{file} can't be read: {fault.strerror}") from None
    except tomlkit.exceptions.ParseError as fault:
        raise CourseError(f"{file} is not TOML: {fault}") from None
    project = document.setdefault("project", tomlkit.table())
    is_new = "urls" not in project
    urls = project.setdefault("urls", tomlkit.table())
    for name, address in (("Repository", addresses.repository), ("Students", addresses.students)):
        if address:
            urls[name] = address
        else:
            urls.pop(name, None)
    if not urls.as_string().strip():
        del project["urls"]
    elif is_new:
        urls.add(tomlkit.nl())
    return tomlkit.dumps(document).rstrip("\n") + "\n"


# --- links ----------------------------------------------------------------------------------------


def badges(path: Path, addresses: Addresses) -> str:
    """Return the Markdown line of a notebook's badges for Colab and Binder; "" without an address.

    The badges of an assignment open its release in exercises/, also those of its source in
    solutions/.
    """
    address = addresses.of(path)
    if not address:
        return ""
    way = f"lectures/{path.name}" if is_lecture(path) else f"exercises/{path.stem}/{path.name}"
    repository = address.removeprefix(f"{GITHUB}/")
    colab = f"{COLAB}/github/{repository}/blob/{TAG}/{quote(way)}"
    binder = f"{BINDER}/v2/gh/{repository}/{TAG}?urlpath={quote(f'lab/tree/{way}', safe='')}"
    return (
        f"[![Open in Colab]({COLAB_BADGE})]({colab}) [![Open in Binder]({BINDER_BADGE})]({binder})"
    )


def with_badges(opening: str, line: str) -> str:
    """Return the text of a notebook's first cell with this line of badges below its title.

    Other lines of badges are removed; with an empty `line`, all are.
    """
    paragraphs = [part for part in opening.split("\n\n") if not _is_badges(part)]
    return "\n\n".join([*paragraphs[:1], *filter(None, [line]), *paragraphs[1:]])


def _is_badges(paragraph: str) -> bool:
    pictures = (COLAB_BADGE, BINDER_BADGE)
    return paragraph.lstrip().startswith("[![") and any(url in paragraph for url in pictures)
