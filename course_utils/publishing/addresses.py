"""Where the course is published: pyproject.toml's [project.urls], and the links that follow.

    [project.urls]
    Repository = "https://github.com/OWNER/REPO"     the course: its lectures are opened from there
    Students = "https://github.com/OWNER/OTHER"      exercises without solutions: assignments

Neither has to be there. Google Colab opens notebooks from GitHub, so an address is that of a
repository on GitHub; the tag of this release, v0.1.0 for version 0.1.0, says which state of it.
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
    """The two repositories, each https://github.com/OWNER/REPO or "" if there is none."""

    repository: str = ""
    students: str = ""

    def of(self, path: Path) -> str:
        """The address from which the notebook at `path` is opened: "" if there is none.

        Lectures come from the course, assignments from the students' repository alone: the other
        one holds their solutions.
        """
        return self.repository if is_lecture(path) else self.students


def github(address: str) -> str:
    """An address of GitHub's without what may stand at its end: .git or a slash.

    Raises CourseError for another one.
    """
    found = REPOSITORY.fullmatch(address)
    if not found:
        raise CourseError(
            f"{address!r} is not of the form https://github.com/OWNER/REPO: "
            "Colab opens notebooks from GitHub"
        )
    return f"{GITHUB}/{found[1]}/{found[2]}"


def is_lecture(path: Path) -> bool:
    """Whether a notebook lies in a folder named lectures."""
    return path.resolve().parent.name == "lectures"


# --- pyproject.toml -------------------------------------------------------------------------------


def read(folder: Path) -> Addresses:
    """The addresses in a folder's pyproject.toml; none without the table, or without the file.

    Raises CourseError for a file that is not TOML, or an address that is not GitHub's.
    """
    file = folder / PROJECT
    return _parsed(file.read_text(encoding="utf-8"), file) if file.exists() else Addresses()


def _parsed(text: str, file: Path) -> Addresses:
    urls = _toml(text, file).get("project", {}).get("urls", {})
    found = (urls.get(name) for name in ("Repository", "Students"))
    return Addresses(*(github(address) if address else "" for address in found))


def _toml(text: str, file: Path) -> dict:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise CourseError(f"{file} is not TOML: {fault}") from None


def written(folder: Path, addresses: Addresses) -> str:
    """The text of a folder's pyproject.toml with these addresses; all else is as it was.

    Raises CourseError if there is no such file, or it is written in a way that this can't change.
    """
    file = folder / PROJECT
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as fault:
        raise CourseError(f"{file} can't be read: {fault.strerror}") from None
    before = _toml(text, file)
    new = _with_urls(text, addresses)
    try:
        after = tomllib.loads(new)
    except tomllib.TOMLDecodeError:
        after = {}
    if after != _expected(before, addresses):
        raise CourseError(
            f"the addresses can't be written into {file}: they belong into a table of their own, "
            "[project.urls]"
        )
    return new


def _lines(addresses: Addresses) -> dict[str, str]:
    """What the table says: name and address."""
    said = {"Repository": addresses.repository, "Students": addresses.students}
    return {name: address for name, address in said.items() if address}


def _with_urls(text: str, addresses: Addresses) -> str:
    lines = "".join(f'{name} = "{address}"\n' for name, address in _lines(addresses).items())
    tables = re.split(r"^(?=\[)", text, flags=re.M)
    place = next((n for n, t in enumerate(tables) if t.startswith("[project.urls]")), None)
    if place is None:
        project = next((n for n, t in enumerate(tables) if t.startswith("[project]")), 0)
        tables.insert(project + 1, f"[project.urls]\n{lines}\n" if lines else "")
        return "".join(tables)
    header, _, rest = tables[place].partition("\n")
    rest = re.sub(r"^(?:Repository|Students) *=.*\n", "", rest, flags=re.M)
    empty = not lines and not re.search(r"^[^#\n]", rest, re.M)
    tables[place] = rest.lstrip("\n") if empty else f"{header}\n{lines}{rest}"
    return "".join(tables)


def _expected(before: dict, addresses: Addresses) -> dict:
    """What the file should say afterwards."""
    project = dict(before.get("project", {}))
    urls = project.pop("urls", {})
    kept = {name: urls[name] for name in urls if name not in ("Repository", "Students")}
    urls = kept | _lines(addresses)
    return before | {"project": project | ({"urls": urls} if urls else {})}


# --- links ----------------------------------------------------------------------------------------


def badges(path: Path, addresses: Addresses) -> str:
    """The line of badges of a notebook, in markdown: Colab's and Binder's; "" without an address.

    An assignment is opened from exercises/, also where this is its source in solutions/.
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
    """The text of a notebook's first cell with this line of badges alone, below the title."""
    paragraphs = [part for part in opening.split("\n\n") if not _is_badges(part)]
    return "\n\n".join([*paragraphs[:1], *filter(None, [line]), *paragraphs[1:]])


def _is_badges(paragraph: str) -> bool:
    pictures = (COLAB_BADGE, BINDER_BADGE)
    return paragraph.lstrip().startswith("[![") and any(url in paragraph for url in pictures)
