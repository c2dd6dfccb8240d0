"""Test glossary: the entries of a glossary, links to them, and the words of a lecture."""

import pytest

from tests.cells import code_cell, text_cell
from workshop.publishing import glossary

PAGE = """# Glossary

Text before the terms.

## Symbols

### ΔW

The update. It is a matrix.

### GB and GiB

Units:
1 GB is 10⁹ bytes. See [block](#block).

## Other terms

### KV cache

Keys and [values](#GB-and-GiB) of tokens, 0.5 MB each.

### block

Numbers with one constant, e.g. 64 numbers. More.
"""


@pytest.fixture
def known(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "glossary.md").write_text(PAGE, encoding="utf-8")
    return glossary.entries(tmp_path)


def test_entries_have_anchors_and_first_sentences(known):
    assert {anchor: (entry.term, entry.meaning) for anchor, entry in known.items()} == {
        "ΔW": ("ΔW", "The update."),
        "GB-and-GiB": ("GB and GiB", "Units: 1 GB is 10⁹ bytes."),
        "KV-cache": ("KV cache", "Keys and values of tokens, 0.5 MB each."),
        "block": ("block", "Numbers with one constant, e.g. 64 numbers."),
    }


def test_a_course_without_a_glossary_has_no_entries(tmp_path):
    assert glossary.entries(tmp_path) == {}


def text(source, name="text"):
    return text_cell(name, source)


def words(known, *cells):
    """Return the anchors in the list of words, in order."""
    lines = glossary.words([text("The KV cache is not searched here."), *cells], known)
    assert lines.startswith("<details>\n<summary>Words of this lecture</summary>\n\n")
    return [line.split("#")[1].split(")")[0] for line in lines.splitlines() if "#" in line]


@pytest.mark.parametrize(
    ("source", "anchors"),
    [
        ("A KV cache and GB and GiB.", ["KV-cache", "GB-and-GiB"]),
        ("KV caches.", ["KV-cache"]),
        ("A kv cache, a KV cache-like thing and XKV cache.", []),
        ("`KV cache`, $KV cache$, <b title='KV cache'> and [x](KV cache.md)", []),
        ("```\nKV cache\n```", []),
        ("r < d, the KV cache is > 3", ["KV-cache"]),
        ("$5, the KV cache, $6", ["KV-cache"]),
        ("$$\nKV cache\n$$", []),
        ("ΔW is short, and a block of a transformer is another block.", []),
        ("A [b](../docs/glossary.md#ΔW) in [c](../docs/glossary.md#block).", ["ΔW", "block"]),
        ("[`code`](../docs/glossary.md#block)", ["block"]),
        ("[a](../docs/glossary.md#none)", []),
    ],
)  # fmt: skip
def test_terms_that_a_text_uses_or_links_to_are_listed_in_order(known, source, anchors):
    assert words(known, text(source)) == anchors


def test_code_and_generated_cells_are_not_searched(known):
    code = code_cell("code", "# KV cache")
    table, own = text("KV cache", "course-map"), text("KV cache", "words")
    assert words(known, code, table, own) == []


def test_links_without_a_target_are_found(known):
    cells = [
        text("[a](../docs/glossary.md#none) [b](../docs/glossary.md#block)", "one"),
        code_cell("two", "[a](glossary.md#none)"),
        text("[a](other.md#none) [a](../docs/glossary.md)", "three"),
    ]
    assert list(glossary.broken_links(cells, known)) == [("one", "none")]
