"""Check that a site's links have targets, its pictures have texts, and it needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")
SHOWN = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}


def pages(site: Path) -> list[Path]:
    """Return the pages of a site, without the templates that the theme writes to _static."""
    return [path for path in sorted(site.rglob("*.html")) if path.parent.name != "_static"]


def problems(site: Path) -> list[str]:
    """Return the problems of the pages in `site`; the network is not used.

    Returns:
        A message for each link or anchor without a target, each id that a page uses twice, each
        picture without an alternative text, and each request to another server; empty if the site
        has no problem.
    """
    read = {path: _Page(path) for path in pages(site)}
    found = []
    for path, page in read.items():
        name = path.relative_to(site).as_posix()
        found += [f"{name}: {problem}" for problem in page.problems]
        for url in page.links:
            if problem := _link_problem(url, path, read):
                found.append(f"{name}: {problem}")
    for path in sorted(site.rglob("*.css")):
        name = path.relative_to(site).as_posix()
        urls = FETCHED.findall(path.read_text(encoding="utf-8"))
        found += [f"{name}: requests {url}" for url in urls]
    return found


class _Page(HTMLParser):
    """The links and ids of one page, and its problems that don't depend on other pages."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.problems: list[str] = []
        text = path.read_text(encoding="utf-8")
        self.feed(text)
        self.problems += [f"requests {url}" for url in FETCHED.findall(text)]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attributes}
        if "id" in own:
            if own["id"] in self.ids:
                self.problems.append(f"the id {own['id']} is used twice")
            self.ids.add(own["id"])
        if tag == "img" and not own.get("alt"):
            self.problems.append(f"the picture {own.get('src', '')[:80]} has no alternative text")
        url = own.get(SHOWN.get(tag, "href"), "")
        if urlsplit(url).netloc and tag in SHOWN:
            self.problems.append(f"requests {url}")
        elif url:
            self.links.append(url)


def _link_problem(url: str, path: Path, read: Mapping[Path, _Page]) -> str | None:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return f"{url} does not exist"
    fragment = unquote(parts.fragment)
    if fragment and target in read and fragment not in read[target].ids:
        return f"{url}: the page has no {fragment}"
    return None
