"""Read and write the addresses of the published course, and make badges from these addresses.

pyproject.toml names up to two repositories on GitHub, from which Colab opens notebooks:

    [project.urls]
    Repository = "https://github.com/OWNER/REPO"     the course: lectures are opened from there
    Students = "https://github.com/OWNER/OTHER"      the course without solutions: assignments

`course badges --set` writes the first address. Badges and set-up cells use the tag of this release,
such as v0.2.0 for version 0.2.0.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from course_utils import __version__
from course_utils.machine.files import write_text
from course_utils.machine.validation import CourseError

PROJECT = "pyproject.toml"
TAG = f"v{__version__}"
GITHUB = "https://github.com"
COLAB, BINDER = "https://colab.research.google.com", "https://mybinder.org"
COLAB_BADGE, BINDER_BADGE = f"{COLAB}/assets/colab-badge.svg", f"{BINDER}/badge_logo.svg"
OWNER, NAME = r"[a-z0-9](?:-?[a-z0-9]){0,38}", r"(?!\.+(?:git)?/?$)[a-z0-9._-]{1,100}?"
REPOSITORY = re.compile(rf"{GITHUB}/({OWNER})/({NAME})(?:\.git)?/?", re.IGNORECASE)


@dataclass(frozen=True)
class Addresses:
    """The addresses of the course's and of the students' repository; "" for a missing one."""

    repository: str = ""
    students: str = ""

    def of(self, path: Path) -> str:
        """Return the address of the repository from which a notebook is opened; "" if missing.

        Assignments are opened only from the students' repository, because the course's own
        repository contains their solutions.
        """
        return self.repository if is_lecture(path) else self.students


def github(address: str) -> str:
    """Return the address of a GitHub repository without a final ".git" or slash.

    Raises:
        CourseError: `address` is not the address of a GitHub repository.
    """
    match = REPOSITORY.fullmatch(address)
    if not match:
        raise CourseError(
            f"{address!r} is not of the form https://github.com/OWNER/REPO, "
            "which Colab needs to open notebooks"
        )
    return f"{GITHUB}/{match[1]}/{match[2]}"


def is_lecture(path: Path) -> bool:
    """Return whether a notebook is in a folder named lectures."""
    return path.resolve().parent.name == "lectures"


# --- pyproject.toml -------------------------------------------------------------------------------


def read(folder: Path) -> Addresses:
    """Return the addresses in a folder's pyproject.toml; both are "" if the file is missing.

    Raises:
        CourseError: the file is not TOML, or an address is not the address of a GitHub repository.
    """
    file = folder / PROJECT
    if not file.exists():
        return Addresses()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{file} is not TOML: {error}") from None
    urls = content.get("project", {}).get("urls", {})
    return Addresses(*(github(urls[n]) if urls.get(n) else "" for n in ("Repository", "Students")))


def write(folder: Path, repository: str) -> None:
    """Write the address of the course to a folder's pyproject.toml; "" removes the address.

    Raises:
        CourseError: the file can't be read or written, or it is not TOML.
    """
    import tomlkit

    if repository == read(folder).repository:
        return
    file = folder / PROJECT
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{file} can't be read: {error.strerror}") from None
    project = document.setdefault("project", tomlkit.table())
    urls = project.setdefault("urls", tomlkit.table())
    if repository:
        urls["Repository"] = repository
    else:
        del urls["Repository"]
    write_text(file, tomlkit.dumps(document))


# --- badges ---------------------------------------------------------------------------------------


def badges(path: Path, addresses: Addresses) -> str:
    """Return a Markdown line with a notebook's badges for Colab and Binder, or "".

    The badges of an assignment open its release in exercises/, even if `path` is the assignment's
    source in solutions/. The line is "" for a notebook without a published repository.
    """
    address = addresses.of(path)
    if not address:
        return ""
    file = f"lectures/{path.name}" if is_lecture(path) else f"exercises/{path.stem}/{path.name}"
    repository = address.removeprefix(f"{GITHUB}/")
    colab = f"{COLAB}/github/{repository}/blob/{TAG}/{quote(file)}"
    binder = f"{BINDER}/v2/gh/{repository}/{TAG}?urlpath={quote(f'lab/tree/{file}', safe='')}"
    return (
        f"[![Open in Colab]({COLAB_BADGE})]({colab}) [![Open in Binder]({BINDER_BADGE})]({binder})"
    )


def with_badges(opening: str, line: str) -> str:
    """Return the text of a notebook's first cell or of a README with `line` below the title.

    All other lines of badges are removed. If `line` is empty, no badges are added.
    """
    paragraphs = [
        part
        for part in opening.split("\n\n")
        if not (part.lstrip().startswith("[![") and COLAB_BADGE in part)
    ]
    return "\n\n".join([*paragraphs[:1], *filter(None, [line]), *paragraphs[1:]])
