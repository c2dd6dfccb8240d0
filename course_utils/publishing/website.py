"""The course as a static site: lectures with their outputs, exercises, guides and references.

    docs/, benchmarks/results/ ─┐
    lectures/, executed ────────┼─ stage ─► build/site-source ─ Sphinx ─ check ─► build/site
    exercises/, as released ────┘

Staging gives each file its place on the site and moves the links between them, so that the sources
keep links that work where they lie. `docs/conf.py` does the rest: theme, formulas, docstrings. A
page that needs the network, a link that leads nowhere, or a claim about the slides whose cell
doesn't show it ends the build.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from course_utils.notebooks import dump, load, load_node
from course_utils.publishing import addresses
from course_utils.publishing.addresses import TAG
from course_utils.publishing.html import freeze_widgets
from course_utils.validation import CourseError

CLAIMS = "docs/slides-against-measurement.md"
API = "docs/api.md"


# --- the whole ------------------------------------------------------------------------------------


def build(folder: Path, notebooks: list[Path], output: Path) -> int:
    """Build the site of the course in `folder` into `output`; returns the number of its pages.

    notebooks: the executed lectures. What Sphinx was given is left in build/site-source.
    Raises CourseError, and leaves `output` as it was, if a link leads nowhere, if a claim about the
    slides isn't shown by the cell it names, if Sphinx has anything to say, if a page would ask
    another server for something, or if `output` holds something else than a site.
    """
    if output.exists() and any(output.iterdir()) and not (output / "objects.inv").is_file():
        raise CourseError(f"{output} is neither empty nor a site: choose another folder")
    work = folder / "build" / "site-source"
    shutil.rmtree(work, ignore_errors=True)
    _stop_for(unsupported(folder, notebooks))
    stage(folder, notebooks, work)
    _sphinx(folder, work)
    _stop_for(faults(work / "html"))
    shutil.rmtree(output, ignore_errors=True)
    shutil.move(work / "html", output)
    return len(_pages(output))


def _stop_for(found: list[str]) -> None:
    if found:
        raise CourseError("the site has faults:\n" + "\n".join(found))


def _sphinx(folder: Path, work: Path) -> None:
    """Turn `work`/pages into `work`/html; whatever Sphinx warns of is an error."""
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-c", folder / "docs"]
    options += ["-d", work / "doctrees", "-D", f"html_extra_path={work / 'extra'}"]
    command = [sys.executable, "-m", "sphinx", *options, work / "pages", work / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named sphinx" in done.stderr:
        raise CourseError("Sphinx is missing: run `make site`, which installs it")
    if done.returncode:
        raise CourseError(f"Sphinx reported warnings:\n{done.stderr.strip()}")


# --- where things stand on the site ---------------------------------------------------------------


def places(folder: Path) -> dict[str, str]:
    """Each file of the course that the site holds: its path in the course → on the site.

    Notebooks keep their path, which is what launch buttons open.
    """
    found = {f"docs/{path.name}": path.name for path in folder.glob("docs/*.md")}
    found |= {
        f"docs/images/{path.name}": f"images/{path.name}" for path in folder.glob("docs/images/*")
    }
    for pattern in ("*.md", "*.png"):
        for path in folder.glob(f"benchmarks/results/{pattern}"):
            found[f"benchmarks/results/{path.name}"] = f"results/{path.name}"
    for pattern in ("lectures/*.ipynb", "exercises/*/*.ipynb"):
        for path in folder.glob(pattern):
            found[path.relative_to(folder).as_posix()] = path.relative_to(folder).as_posix()
    found["exercises/README.md"] = "exercises/index.md"
    found["course_utils/data/DATASHEET.md"] = "datasheet.md"
    found = {path: place for path, place in found.items() if (folder / path).is_file()}
    return found | {path: f"api/{name}.md" for name, path in modules(folder).items()}


def modules(folder: Path) -> dict[str, str]:
    """Return the path of each module or package that docs/api.md lists, by its name."""
    listed = folder / API
    text = listed.read_text(encoding="utf-8") if listed.is_file() else ""
    found = {}
    for name in re.findall(r"^api/(\w+)$", text, re.M):
        package = f"course_utils/{name}/__init__.py"
        found[name] = package if (folder / package).is_file() else f"course_utils/{name}.py"
    return found


# --- staging --------------------------------------------------------------------------------------


def stage(folder: Path, notebooks: list[Path], work: Path) -> None:
    """Put what Sphinx reads into `work`/pages, pictures of outputs into `work`/extra.

    Raises CourseError for a link to a file that isn't there.
    """
    links = Links(folder, places(folder), addresses.read(folder).repository)
    outputs = {f"lectures/{path.name}": path for path in notebooks}
    (work / "extra").mkdir(parents=True)
    for source, place in links.places.items():
        target = work / "pages" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".ipynb"):
            notebook = stage_notebook(outputs.get(source, folder / source), source, links, work)
            target.write_text(notebook, encoding="utf-8")
        elif source.endswith(".md"):
            text = (folder / source).read_text(encoding="utf-8")
            target.write_text(links.moved(text, source), encoding="utf-8")
        elif source.endswith(".py"):
            target.write_text(API_PAGE.format(name=target.stem), encoding="utf-8")
        else:
            shutil.copyfile(folder / source, target)


API_PAGE = """\
# {name}

```{{eval-rst}}
.. automodule:: course_utils.{name}
   :members:
```
"""


FENCE = re.compile(r"(^```.*?^```[ \t]*$)", re.M | re.S)
LINK = re.compile(
    r"(?P<code>`[^`]*`)"
    r"|(?P<picture>!?)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<target>[^()\s]+)\)"
)


@dataclass(frozen=True)
class Links:
    """Links between files of the course, and where they lead on the site.

    folder: the course's. files: from `places`. repository: its address, or "".
    """

    folder: Path
    places: Mapping[str, str]
    repository: str = ""

    def moved(self, text: str, source: str) -> str:
        """The Markdown of the file `source` with each link as it must be on the site.

        A file that the site doesn't hold becomes a link into the repository, or plain text where
        its address isn't known. Code is left alone.
        Raises CourseError for a link to a file that isn't there.
        """
        parts = FENCE.split(text)
        parts[::2] = [LINK.sub(lambda link: self._moved(link, source), part) for part in parts[::2]]
        return "".join(parts)

    def _moved(self, link: re.Match[str], source: str) -> str:
        target, hash_mark, fragment = (link["target"] or "").partition("#")
        if link["code"] or not target or urlsplit(target).scheme:
            return link[0]
        path = os.path.normpath(PurePosixPath(source).parent / target).replace(os.sep, "/")
        if not (self.folder / path).exists():
            raise CourseError(f"{source} links to {target}, which is not there")
        if path not in self.places:
            address = f"{self.repository}/blob/{TAG}/{path}"
            return f"[{link['text']}]({address})" if self.repository else link["text"]
        here = PurePosixPath(self.places[source]).parent
        there = os.path.relpath(self.places[path], here).replace(os.sep, "/")
        return f"{link['picture']}[{link['text']}]({there}{hash_mark}{fragment})"


PICTURE = re.compile(r'src="data:image/(png|jpeg|gif);base64,([^"]+)"')


def stage_notebook(path: Path, source: str, links: Links, work: Path) -> str:
    """The JSON of a notebook as Sphinx gets it: widgets as HTML, pictures as files, links moved.

    Each code cell has its id as an anchor. The set-up cell does nothing for a reader and is left
    out, and so are badges, for the site has buttons; checks of exercises are folded. Tables that
    pandas styled look like its others.
    """
    notebook = freeze_widgets(load_node(path))
    notebook.cells = [cell for cell in notebook.cells if cell.id != "setup"]
    for cell in notebook.cells:
        if cell.id == "opening":
            cell.source = addresses.with_badges(cell.source, "")
        if cell.cell_type == "markdown":
            cell.source = links.moved(cell.source, source)
        else:
            cell.outputs = list(_as_on_a_terminal(cell.outputs))
            cell.metadata = {"anchor": cell.id} | (FOLDED if _is_check(cell) else {})
            _put_pictures(cell, work / "extra" / PurePosixPath(source).with_suffix(""))
            _style_tables(cell)
    return dump(notebook)


def _as_on_a_terminal(outputs: list[Any]) -> Iterator[Any]:
    """Outputs with one text for all that a stream says in a row: a progress bar's last state."""
    said = None
    for output in outputs:
        name = output.get("name")
        if said is not None and name == said.name:
            said.text = BEFORE_RETURN.sub("", said.text + output.text)
            continue
        said = output if name else None
        yield output


BEFORE_RETURN = re.compile(r"[^\n\r]*\r(?=[^\n\r])")
FOLDED = {
    "tags": ["hide-input"],
    "mystnb": {"code_prompt_show": "Show the check", "code_prompt_hide": "Hide the check"},
}


def _is_check(cell: Any) -> bool:
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def _put_pictures(cell: Any, folder: Path) -> None:
    """Write pictures inside a cell's HTML to files in `folder`, which lies beside its page."""
    names = (f"{cell.id}{f'-{n}' if n > 1 else ''}" for n in range(1, 1000))

    def to_file(picture: re.Match[str]) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{next(names)}.{picture[1]}"
        (folder / name).write_bytes(base64.b64decode(picture[2]))
        return f'src="{folder.name}/{name}"'

    for data in _with_html(cell):
        data["text/html"] = PICTURE.sub(to_file, data["text/html"])


STYLED = re.compile(r'<table (?=id="T_\w+">)')


def _style_tables(cell: Any) -> None:
    """Give tables by pandas' Styler, which have no class, the one that the theme knows."""
    for data in _with_html(cell):
        data["text/html"] = STYLED.sub('<table class="dataframe" ', data["text/html"])


def _with_html(cell: Any) -> Iterator[Any]:
    for output in cell.get("outputs", []):
        if "text/html" in output.get("data", {}):
            yield output.data


# --- what the slides claim, and the cells that show it --------------------------------------------

# [02, load-slide](../lectures/02_memory_calculator.ipynb#load-slide): `28.00 GB`, `26.08 GiB`
SHOWN_BY = re.compile(
    r"\]\(\.\./lectures/(?P<lecture>\w+)\.ipynb#(?P<cell>[\w-]+)\)"
    r"(?P<quotes>(?:[:,]\s+`[^`]+`)*)"
)


@dataclass(frozen=True)
class Evidence:
    """A cell that a claim's row names, and the texts that its output shows as the row says."""

    lecture: str
    cell: str
    quotes: tuple[str, ...]


def evidence(folder: Path) -> list[Evidence]:
    """What docs/slides-against-measurement.md refers to, in order; nothing without that page."""
    path = folder / CLAIMS
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [
        Evidence(row["lecture"], row["cell"], tuple(re.findall("`([^`]+)`", row["quotes"])))
        for row in SHOWN_BY.finditer(text)
    ]


def unsupported(folder: Path, notebooks: list[Path]) -> list[str]:
    """One line for each claim whose cell isn't in `notebooks` or doesn't show what is quoted."""
    shown = {path.stem: dict(_shown(path)) for path in notebooks}
    found = []
    for claim in evidence(folder):
        cell = shown.get(claim.lecture, {}).get(claim.cell)
        where = f"{CLAIMS}: {claim.lecture}, cell {claim.cell}"
        if cell is None:
            found.append(f"{where}, is not there")
        elif not claim.quotes:
            found.append(f"{where}: nothing is quoted from its output")
        missing = [quote for quote in claim.quotes if cell is not None and quote not in cell]
        found += [f"{where}, does not show {quote!r}" for quote in missing]
    return found


def _shown(path: Path) -> Iterator[tuple[str, str]]:
    """The id of each code cell, and what a reader sees of its output: one text, single spaces."""
    for cell in load(path)["cells"]:
        if cell["cell_type"] == "code":
            texts = [text for output in cell["outputs"] for text in _texts(output)]
            yield cell["id"], " ".join(" ".join(texts).split())


def _texts(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    yield "".join(output.get("text", ""))
    yield "".join(data.get("text/plain", ""))
    yield html.unescape(
        re.sub(r"<style.*?</style>|<[^>]*>", " ", "".join(data.get("text/html", "")), flags=re.S)
    )


# --- the built site -------------------------------------------------------------------------------


def faults(site: Path) -> list[str]:
    """What is wrong with the pages in `site`, one line a fault; nothing is asked of the network.

    A link or an anchor that leads nowhere, an id that stands twice, a picture without a text in
    its place, and whatever a page would fetch from another server to be shown.
    """
    read = {path: _Page(path) for path in _pages(site)}
    found = []
    for path, page in read.items():
        name = path.relative_to(site).as_posix()
        found += [f"{name}: {fault}" for fault in page.faults]
        for url in page.links:
            if fault := _leads_nowhere(url, path, read):
                found.append(f"{name}: {fault}")
    for path in sorted(site.rglob("*.css")):
        for url in FETCHED.findall(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(site).as_posix()}: asks {url}")
    return found


def _pages(site: Path) -> list[Path]:
    """The pages; the theme leaves templates of its own in _static."""
    return [path for path in sorted(site.rglob("*.html")) if path.parent.name != "_static"]


FETCHED = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")
SHOWN = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}


class _Page(HTMLParser):
    """What a page links to and fetches, its ids, and what can be said of it alone."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.faults: list[str] = []
        text = path.read_text(encoding="utf-8")
        self.feed(text)
        self.faults += [f"asks {url}" for url in FETCHED.findall(text)]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attributes}
        if "id" in own:
            if own["id"] in self.ids:
                self.faults.append(f"the id {own['id']} stands twice")
            self.ids.add(own["id"])
        if tag == "img" and not own.get("alt"):
            self.faults.append(f"the picture {own.get('src', '')[:80]} has no text in its place")
        url = own.get(SHOWN.get(tag, "href"), "")
        if urlsplit(url).netloc and tag in SHOWN:
            self.faults.append(f"asks {url}")
        elif url:
            self.links.append(url)


def _leads_nowhere(url: str, path: Path, read: Mapping[Path, _Page]) -> str | None:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return f"{url} is not there"
    fragment = unquote(parts.fragment)
    if fragment and target in read and fragment not in read[target].ids:
        return f"{url}: the page has no {fragment}"
    return None
