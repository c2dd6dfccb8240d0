"""Describe the course for search engines, archives and catalogues.

    CITATION.cff ──► codemeta.json, .zenodo.json      `course badges` renews both files
    first cell of a lecture ──► a LearningResource of schema.org on the lecture's page

codemeta.json describes the software in the vocabulary of CodeMeta 3.0. Zenodo reads .zenodo.json
when it archives a release on GitHub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils.notebooks import load
from course_utils.publishing.addresses import Addresses
from course_utils.publishing.lecture import opening, study_time
from course_utils.validation import CourseError

CITATION, CODEMETA, ZENODO = "CITATION.cff", "codemeta.json", ".zenodo.json"
COURSE = "The QLoRA course"
# The licence of the lectures' texts; see LICENSES/README.md.
TEXT_LICENSE = "https://creativecommons.org/licenses/by/4.0/"
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


# --- CITATION.cff ---------------------------------------------------------------------------------


def citation_files(folder: Path, published: Addresses) -> dict[Path, str]:
    """Return the texts of the files that are made from CITATION.cff, by path.

    Only files that exist are returned, so that the students' repository doesn't get new ones.

    Raises:
        CourseError: CITATION.cff is not YAML, or it lacks an entry that is needed.
    """
    import yaml

    path = folder / CITATION
    existing = [folder / name for name in (CODEMETA, ZENODO) if (folder / name).is_file()]
    if not existing or not path.is_file():
        return {}
    try:
        citation = yaml.safe_load(path.read_text(encoding="utf-8"))
        contents = {
            folder / CODEMETA: _codemeta(citation, published),
            folder / ZENODO: _zenodo(citation),
        }
    except yaml.YAMLError as error:
        raise CourseError(f"{path} is not YAML: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CourseError(f"{path} lacks an entry that is needed: {error}") from None
    return {
        file: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for file, content in contents.items()
        if file in existing
    }


def _codemeta(citation: Mapping[str, Any], published: Addresses) -> dict[str, Any]:
    content = {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": citation["title"],
        "description": citation["abstract"].strip(),
        "version": str(citation["version"]),
        "author": [{"@type": "Organization", "name": name} for name in _authors(citation)],
        "license": [f"https://spdx.org/licenses/{name}" for name in citation["license"]],
        "keywords": citation["keywords"],
        "programmingLanguage": "Python",
        "referencePublication": [f"https://arxiv.org/abs/{number}" for number in _papers(citation)],
    }
    return content | ({"codeRepository": published.repository} if published.repository else {})


def _zenodo(citation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": citation["title"],
        "description": citation["abstract"].strip(),
        "version": str(citation["version"]),
        "upload_type": "software",
        "creators": [{"name": name} for name in _authors(citation)],
        # Zenodo allows one licence, and the first one is that of the code.
        "license": citation["license"][0],
        "keywords": citation["keywords"],
        "related_identifiers": [
            {"identifier": f"arXiv:{number}", "relation": "cites", "scheme": "arxiv"}
            for number in _papers(citation)
        ],
    }


def _authors(citation: Mapping[str, Any]) -> list[str]:
    return [author["name"] for author in citation["authors"]]


def _papers(citation: Mapping[str, Any]) -> list[str]:
    """Return the arXiv identifiers of the papers that the course teaches."""
    values = (each["value"] for paper in citation["references"] for each in paper["identifiers"])
    return [value.removeprefix("arXiv:") for value in values]


# --- lectures -------------------------------------------------------------------------------------


def learning_resource(path: Path) -> dict[str, Any]:
    """Return the description of a lecture as a LearningResource of schema.org, from its first cell.

    Args:
        path: the lecture's notebook.
    """
    cells = load(path)["cells"]
    header = {name: _plain(text) for name, text in opening(cells).items()}
    return {
        "@context": "https://schema.org",
        "@type": "LearningResource",
        "name": header["title"],
        "description": header["Question"],
        "learningResourceType": "lecture",
        "teaches": header["You will be able to"],
        "competencyRequired": header["You need to know first"],
        "timeRequired": f"PT{study_time(cells).whole}M",
        "inLanguage": "en",
        "isAccessibleForFree": True,
        "license": TEXT_LICENSE,
        "isPartOf": {"@type": "Course", "name": COURSE},
    }


def _plain(text: str) -> str:
    """Return Markdown without its links, emphasis and code marks."""
    return re.sub(r"[*`]", "", LINK.sub(r"\1", text))


def as_script(content: Mapping[str, Any]) -> str:
    """Return an HTML element for a page's head that contains JSON-LD."""
    # In a script, "</" would end the element.
    text = json.dumps(content, ensure_ascii=False).replace("</", "<\\/")
    return f'<script type="application/ld+json">{text}</script>'
