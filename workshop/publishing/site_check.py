"""Check that a site's links have targets, its pictures have texts, and it needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# A pattern that finds the addresses of resources on other servers in the text of a style sheet or
# page.
REMOTE_URL = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")
# The beginning of the ids in a picture, a hash of the picture: equal pictures have equal ids.
OF_PICTURE = re.compile("p[0-9a-f]{8}-")
# The attribute with the address of the resource that a browser loads for an element.
RESOURCES = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}


def pages(site: Path) -> list[Path]:
    """Return the pages of a site, without the templates that the theme writes to _static."""
    return [path for path in sorted(site.rglob("*.html")) if path.parent.name != "_static"]


def problems(site: Path) -> list[str]:
    """Return the problems of the pages in `site`; the network is not used.

    Problems are links and anchors without a target, ids that a page uses twice, pictures without an
    alternative text, and requests to other servers.
    """
    parsed = {path: _Page(path) for path in pages(site)}
    messages = []
    for path, page in parsed.items():
        name = path.relative_to(site).as_posix()
        links = (_link_problem(url, path, parsed) for url in page.links)
        messages += [f"{name}: {problem}" for problem in (*page.problems, *links) if problem]
    for path in sorted(site.rglob("*.css")):
        name = path.relative_to(site).as_posix()
        urls = REMOTE_URL.findall(path.read_text(encoding="utf-8"))
        messages += [f"{name}: requests {url}" for url in urls]
    return messages


class _Page(HTMLParser):
    """The links and ids of one page, and its problems that don't depend on other pages."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.problems: list[str] = []
        text = path.read_text(encoding="utf-8")
        self.feed(text)
        self.problems += [f"requests {url}" for url in REMOTE_URL.findall(text)]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        name = values.get("id")
        if name in self.ids and not OF_PICTURE.match(name):
            self.problems.append(f"the id {name} is used twice")
        self.ids |= {name} if name else set()
        if tag == "img" and not values.get("alt"):
            picture = values.get("src", "")[:80]
            self.problems.append(f"the picture {picture} has no alternative text")
        if tag == "svg" and values.get("role") == "img" and not values.get("aria-label"):
            self.problems.append("a picture has no aria-label")
        url = values.get(RESOURCES.get(tag, "href"), "")
        if urlsplit(url).netloc and tag in RESOURCES:
            self.problems.append(f"requests {url}")
        elif url:
            self.links.append(url)


def _link_problem(url: str, path: Path, parsed: Mapping[Path, _Page]) -> str | None:
    """Return why a link of the page at `path` has no target; None if it has one."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return f"{url} does not exist"
    fragment = unquote(parts.fragment)
    if fragment and target in parsed and fragment not in parsed[target].ids:
        return f"{url}: the page has no element with the id {fragment}"
    return None
