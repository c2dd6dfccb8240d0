"""Read and write the addresses of the published course, and make badges from these addresses.

pyproject.toml contains up to two addresses. Both are addresses of GitHub repositories, because
Colab opens notebooks from GitHub:

    [project.urls]
    Repository = "https://github.com/OWNER/REPO"     the course: lectures are opened from there
    Students = "https://github.com/OWNER/OTHER"      the course without solutions: assignments

Badges and set-up cells use the tag of this release, such as v0.2.0 for version 0.2.0. If the
release is also on Python's package index, another entry says so, and set-up cells install the
course from there:

    [tool.qlora-course]
    published = true
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from course_utils import __version__
from course_utils.validation import CourseError

PROJECT = "pyproject.toml"
TAG = f"v{__version__}"
# The branch of the students' repository to which each release is committed.
BRANCH = "main"
GITHUB = "https://github.com"
COLAB, BINDER = "https://colab.research.google.com", "https://mybinder.org"
KAGGLE = "https://kaggle.com"
COLAB_BADGE, BINDER_BADGE = f"{COLAB}/assets/colab-badge.svg", f"{BINDER}/badge_logo.svg"
KAGGLE_BADGE = f"{KAGGLE}/static/images/open-in-kaggle.svg"
OWNER, NAME = r"[a-z0-9](?:-?[a-z0-9]){0,38}", r"(?!\.+(?:git)?/?$)[a-z0-9._-]{1,100}?"
REPOSITORY = re.compile(rf"{GITHUB}/({OWNER})/({NAME})(?:\.git)?/?", re.IGNORECASE)
HOST = r"\w(?:[\w.-]*\w)?(?::\d{1,5})?"
PATH = r"(?:/[\w.~%@-]+)*"
# The pages of a hub are below /hub and /user.
HUB = re.compile(rf"(https?://{HOST}{PATH}?)(?:/(?:hub|user){PATH})?/?", re.IGNORECASE)


@dataclass(frozen=True)
class Addresses:
    """The places from which people open and install the course; "" for a missing one.

    Attributes:
        repository: the address of the course's repository.
        students: the address of the students' repository.
        package: the name of the package on Python's package index.
    """

    repository: str = ""
    students: str = ""
    package: str = ""

    def of(self, path: Path) -> str:
        """Return the address of the repository from which a notebook is opened; "" if missing.

        Assignments are opened only from the students' repository, because the course's own
        repository contains their solutions.
        """
        of_course = is_lecture(path) or is_translation(path)
        return self.repository if of_course else self.students


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


def is_translation(path: Path) -> bool:
    """Return whether a notebook is a translated lecture, such as lectures/de/00_setup.ipynb."""
    return path.resolve().parents[1].name == "lectures"


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
    project = content.get("project", {})
    urls = project.get("urls", {})
    is_published = content.get("tool", {}).get("qlora-course", {}).get("published") is True
    package = project.get("name", "") if is_published else ""
    repository, students = (
        github(urls[name]) if urls.get(name) else "" for name in ("Repository", "Students")
    )
    return Addresses(repository, students, package)


def updated_project(folder: Path, addresses: Addresses) -> str:
    """Return the text of a folder's pyproject.toml with these addresses and no other change.

    Raises:
        CourseError: the file can't be read, or it is not TOML.
    """
    import tomlkit

    file = folder / PROJECT
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{file} can't be read: {error.strerror}") from None
    except tomlkit.exceptions.ParseError as error:
        raise CourseError(f"{file} is not TOML: {error}") from None
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
    """Return a Markdown line with a notebook's badges for Colab, Kaggle and Binder, or "".

    The badges of an assignment open its release in exercises/, even if `path` is the assignment's
    source in solutions/. The line is "" for a notebook without a published repository.
    """
    address = addresses.of(path)
    if not address:
        return ""
    if is_lecture(path):
        file = f"lectures/{path.name}"
    elif is_translation(path):
        file = f"lectures/{path.parent.name}/{path.name}"
    else:
        file = f"exercises/{path.stem}/{path.name}"
    repository = address.removeprefix(f"{GITHUB}/")
    blob = f"{repository}/blob/{TAG}/{quote(file)}"
    colab = f"{COLAB}/github/{blob}"
    kaggle = f"{KAGGLE}/kernels/welcome?src={GITHUB}/{blob}"
    binder = f"{BINDER}/v2/gh/{repository}/{TAG}?urlpath={quote(f'lab/tree/{file}', safe='')}"
    return (
        f"[![Open in Colab]({COLAB_BADGE})]({colab}) [![Open in Kaggle]({KAGGLE_BADGE})]({kaggle}) "
        f"[![Open in Binder]({BINDER_BADGE})]({binder})"
    )


def pull_link(hub: str, repository: str) -> str:
    """Return a link that copies a repository to a user's folder on a JupyterHub and opens it.

    The link works on a hub with the extension nbgitpuller. It names a branch and not a tag, because
    nbgitpuller can pull only a branch a second time. A later click adds new files and keeps the
    user's changes.

    Args:
        hub: the address of the hub.
        repository: the address of the repository on GitHub.

    Raises:
        CourseError: this is not the address of a hub.
    """
    match = HUB.fullmatch(hub)
    if not match:
        raise CourseError(f"{hub!r} is not the address of a hub, such as https://hub.example.org")
    name = repository.rpartition("/")[2]
    query = {
        "repo": repository,
        "branch": BRANCH,
        "urlpath": f"lab/tree/{name}/lectures/00_setup.ipynb",
    }
    return f"{match[1]}/hub/user-redirect/git-pull?{urlencode(query)}"


def with_badges(opening: str, line: str) -> str:
    """Return the text of a notebook's first cell with the badges `line` below the title.

    All other lines of badges are removed. If `line` is empty, no badges are added.
    """
    paragraphs = [part for part in opening.split("\n\n") if not _is_badges(part)]
    return "\n\n".join([*paragraphs[:1], *filter(None, [line]), *paragraphs[1:]])


def _is_badges(paragraph: str) -> bool:
    pictures = (COLAB_BADGE, KAGGLE_BADGE, BINDER_BADGE)
    return paragraph.lstrip().startswith("[![") and any(url in paragraph for url in pictures)
