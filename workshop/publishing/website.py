"""Build the course's website: lectures with their outputs, exercises, guides and references.

    docs/, data sheet ─────────┐
    lectures/, executed ────────┼─ stage ─► build/site-source ─ Sphinx ─ check ─► build/site
    exercises/, as released ────┘

`stage` copies each file to its path on the site and changes the links between the files. So the
original files can link to other files of the repository. `docs/conf.py` configures the theme, the
formulas and the docstrings. The build fails if a page needs the network, if a link has no target,
or if the output of a lecture does not support a claim about the slides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from course_utils.machine.notebooks import dump, load_node
from course_utils.machine.validation import CourseError
from workshop.publishing import (
    addresses,
    claims,
    live_tools,
    progress,
    site_check,
    site_predictions,
)
from workshop.publishing.addresses import TAG
from workshop.publishing.html import as_page
from workshop.publishing.lecture import is_check

API = "docs/api.md"


# --- the build ------------------------------------------------------------------------------------


def build(folder: Path, notebooks: list[Path], output: Path) -> int:
    """Build the website of a course, and return its number of pages.

    An old site in `output` is replaced. The files that Sphinx reads remain in build/site-source of
    the course folder. `notebooks` are the executed lectures.

    Raises:
        CourseError: a claim about the slides is not supported, a link has no target, Sphinx reports
            a warning, a page has a problem, or `output` contains files that are not a site. In all
            of these cases, `output` is not changed.
    """
    if output.exists() and any(output.iterdir()) and not (output / "objects.inv").is_file():
        raise CourseError(f"{output} is neither empty nor a site: choose another folder")
    work = folder / "build" / "site-source"
    shutil.rmtree(work, ignore_errors=True)
    _raise_for(claims.unsupported(folder, notebooks))
    stage(folder, notebooks, work)
    _sphinx(folder, work)
    _raise_for(site_check.problems(work / "html"))
    shutil.rmtree(output, ignore_errors=True)
    shutil.move(work / "html", output)
    return len(site_check.pages(output))


def _raise_for(problems: list[str]) -> None:
    if problems:
        raise CourseError("the site has problems:\n" + "\n".join(problems))


def _sphinx(folder: Path, work: Path) -> None:
    """Run Sphinx, which turns `work`/pages into `work`/html, and treat its warnings as errors."""
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-c", f"{folder / 'docs'}"]
    options += ["-d", f"{work / 'doctrees'}", "-D", f"html_extra_path={work / 'extra'}"]
    command = [sys.executable, "-m", "sphinx", *options, f"{work / 'pages'}", f"{work / 'html'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named sphinx" in done.stderr:
        raise CourseError("Sphinx is missing: run `make site`, which installs it")
    if done.returncode:
        raise CourseError(f"Sphinx reported warnings:\n{done.stderr.strip()}")


# --- the paths of files on the site ---------------------------------------------------------------


def site_paths(folder: Path) -> dict[str, str]:
    """Return the path on the site for each course file that the site shows, by the file's path.

    Notebooks have the same path on the site as in the repository, because the launch button of a
    page opens the notebook with the same path in the repository.
    """
    patterns = ("docs/*.md", "docs/images/*", "lectures/*.*", "exercises/*/*.ipynb")
    found = (path for pattern in patterns for path in folder.glob(pattern))
    sources = [path.relative_to(folder).as_posix() for path in found]
    paths = {source: source.removeprefix("docs/") for source in sources}
    paths["exercises/README.md"] = "exercises/index.md"
    paths["course_utils/data/DATASHEET.md"] = "datasheet.md"
    paths = {source: path for source, path in paths.items() if (folder / source).is_file()}
    return paths | {source: f"api/{name}.md" for name, source in modules(folder).items()}


def modules(folder: Path) -> dict[str, str]:
    """Return the paths of the modules and packages that docs/api.md lists, by their names."""
    page = folder / API
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    paths = {}
    for name in re.findall(r"^api/([\w.]+)$", text, re.M):
        path = f"course_utils/{name.replace('.', '/')}"
        package = f"{path}/__init__.py"
        paths[name] = package if (folder / package).is_file() else f"{path}.py"
    return paths


# --- staging --------------------------------------------------------------------------------------


def stage(folder: Path, notebooks: list[Path], work: Path) -> None:
    """Write the files that Sphinx reads to `work`/pages, and files that it copies to `work`/extra.

    Raises:
        CourseError: a link leads to a file that does not exist.
    """
    links = Links(folder, site_paths(folder), addresses.read(folder).repository)
    outputs = {f"lectures/{path.name}": path for path in notebooks}
    (work / "extra").mkdir(parents=True)
    for source, path in links.site_paths.items():
        target = work / "pages" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".ipynb"):
            notebook = stage_notebook(outputs.get(source, folder / source), source, links)
            target.write_text(notebook, encoding="utf-8")
        elif source.endswith(".md"):
            text = (folder / source).read_text(encoding="utf-8")
            target.write_text(links.rewritten(text, source), encoding="utf-8")
        elif path.startswith("api/"):
            name = target.name.removesuffix(".md")
            # A package imports its public names, and nothing else.
            imported = "\n   :imported-members:" if source.endswith("__init__.py") else ""
            target.write_text(API_PAGE.format(name=name, imported=imported), encoding="utf-8")
        else:
            shutil.copyfile(folder / source, target)
    if any(LIVE in page.read_text(encoding="utf-8") for page in (work / "pages").glob("*.md")):
        live_tools.write_python(work / "extra" / "_static")
        # This script answers requests of pages in its own folder and below.
        shutil.copyfile(folder / "docs" / "offline.js", work / "extra" / "offline.js")


# A page with a tool contains this text. `docs/conf.py` defines what it means.
LIVE = "```{live}"

API_PAGE = """\
# {name}

```{{eval-rst}}
.. automodule:: course_utils.{name}
   :members:{imported}
```
"""


FENCE = re.compile(r"(^```.*?^```[ \t]*$)", re.M | re.S)
LINK = re.compile(
    r"(?P<code>`[^`]*`)"
    r"|(?P<picture>!?)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<target>[^()\s]+)\)"
)


@dataclass(frozen=True)
class Links:
    """The data that is needed to change links between course files to links between pages.

    Attributes:
        site_paths: the paths of files on the site, as the function `site_paths` returns them.
        repository: the address of the course's repository; "" if the repository has no address.
    """

    folder: Path
    site_paths: Mapping[str, str]
    repository: str = ""

    def rewritten(self, text: str, source: str) -> str:
        """Return the Markdown `text` of the file `source` with its links changed for the site.

        A link to a file that the site does not show becomes a link into the repository. If the
        repository has no address, such a link becomes plain text. Code is not changed.

        Raises:
            CourseError: a link leads to a file that does not exist.
        """
        parts = FENCE.split(text)
        parts[::2] = [
            LINK.sub(lambda link: self._rewritten(link, source), part) for part in parts[::2]
        ]
        return "".join(parts)

    def _rewritten(self, link: re.Match[str], source: str) -> str:
        target, hash_mark, fragment = (link["target"] or "").partition("#")
        if link["code"] or urlsplit(target).scheme:
            return link[0]
        path = os.path.normpath(PurePosixPath(source).parent / target).replace(os.sep, "/")
        if (path if target else source).endswith(".md") or not target:
            # On the site, anchors of headings have no capitals and no marks, unlike in JupyterLab.
            fragment = re.sub(r"[^\w-]", "", fragment).lower()
        if not target:
            return f"{link['picture']}[{link['text']}](#{fragment})"
        if not (self.folder / path).exists():
            raise CourseError(f"{source} links to {target}, which does not exist")
        if path not in self.site_paths:
            address = f"{self.repository}/blob/{TAG}/{path}"
            return f"[{link['text']}]({address})" if self.repository else link["text"]
        here = PurePosixPath(self.site_paths[source]).parent
        there = os.path.relpath(self.site_paths[path], here).replace(os.sep, "/")
        return f"{link['picture']}[{link['text']}]({there}{hash_mark}{fragment})"


def stage_notebook(path: Path, source: str, links: Links) -> str:
    """Return the JSON of a notebook that Sphinx can turn into a page of the site.

    `as_page` describes what is left out and folded. The badges are left out, because the site has
    launch buttons.
    """
    from nbformat.v4 import new_markdown_cell

    notebook = as_page(load_node(path), badge="[Going deeper]{.deeper}")
    site_predictions.interactive(notebook, PurePosixPath(source).stem)
    notebook.cells.append(new_markdown_cell(progress.done_box(PurePosixPath(source)), id="done"))
    for cell in notebook.cells:
        if cell.get("id") == "opening":
            cell.source = addresses.with_badges(cell.source, "")
        if cell.cell_type == "markdown":
            cell.source = links.rewritten(cell.source, source)
        elif cell.cell_type == "raw":
            # Sphinx would close the element `details` at the end of a raw cell.
            cell.cell_type = "markdown"
        else:
            view = FOLDED if is_check(cell) else {} if cell.source else WITHOUT_SOURCE
            cell.metadata = {"anchor": cell.id} | view
            # Sphinx would leave out a code cell without a source, together with its outputs.
            cell.source = cell.source or "..."
            for data in (output.get("data", {}) for output in cell.outputs):
                if "text/html" in data:
                    data["text/html"] = STYLED.sub(r'<table class="dataframe" ', data["text/html"])
    return dump(notebook)


WITHOUT_SOURCE = {"tags": ["remove-input"]}
FOLDED = {
    "tags": ["hide-input"],
    "mystnb": {"code_prompt_show": "Show the check", "code_prompt_hide": "Hide the check"},
}
# The beginning of a table that pandas styled, which has no class.
STYLED = re.compile(r'<table (?=id="T_\w+">)')
