"""Test lecture: study times, sections that go deeper, hidden cells, and the checks of lectures."""

import json

import pytest

from tests.cells import OPENING, code_cell, notebook, text_cell, write_notebook
from workshop.publishing import lecture
from workshop.publishing.lecture import StudyTime, study_time
from workshop.publishing.notebook_check import SETUP_CELL, check, fix

GLOSSARY = """# Glossary

## Terms

### perplexity

How hard the next token is to guess. It is exp(loss).
"""


def hidden(name, source):
    return code_cell(name, source, tags=["hide-input"])


# --- study time ---


@pytest.mark.parametrize(
    ("cells", "minutes"),
    [
        ([text_cell("a", "")], 5),
        ([text_cell("a", "word " * 900)], 5),
        ([text_cell("a", "word " * 1000)], 10),
        ([text_cell("a", "[word](a/long/address.md) ![a picture](b.png) <b></b> " * 900)], 5),
        ([code_cell("a", "x = 1\n\n" * 30)], 5),
        ([code_cell("a", "x = 1\n" * 40)], 10),
        ([hidden("a", "x = 1\n" * 1000)] * 18, 5),
        ([hidden("a", "x = 1\n" * 1000)] * 19, 10),
        ([code_cell("setup", "x = 1\n" * 1000), text_cell("words", "word " * 5000)], 5),
        ([text_cell("course-map", "word " * 5000)], 5),
        ([hidden("a", "from predict import predict\n\npredict('k', 'Q?')")] * 6, 10),
        ([code_cell("a", "", tags=["your-turn"]), text_cell("b", "word " * 300)], 10),
    ],
)
def test_the_study_time_counts_words_visible_code_results_and_predictions(cells, minutes):
    """The times in minutes are 900 / 125 = 7.2, 1,000 / 125 = 8, 30 / 5 + 1 / 2.5 and so on."""
    assert study_time(cells) == StudyTime(minutes, minutes)


def test_the_core_path_leaves_out_sections_that_go_deeper():
    long = text_cell("long", "word " * 2000)
    cells = [text_cell("a", "# Title"), long, text_cell("b", "## Going deeper: Why?"), long, long]
    assert study_time([*cells, text_cell("c", "## What you have seen")]) == StudyTime(50, 15)
    assert str(StudyTime(30, 10)) == "30 minutes (10 minutes without the *Going deeper* sections)"
    assert StudyTime(30, 10).short() == "30 min (core: 10)"
    assert (str(StudyTime(10, 10)), StudyTime(10, 10).short()) == ("10 minutes", "10 min")


# --- sections and hidden cells ---


def test_a_section_ends_at_the_next_heading_of_its_level():
    cells = [
        text_cell("title", "# Title"),
        text_cell("one", "## Going deeper: One"),
        code_cell("code", "# comment"),
        text_cell("part", "### A part"),
        text_cell("two", "## Going deeper: Two"),
        text_cell("end", "## End"),
    ]
    assert list(lecture.deeper(cells)) == [False, True, True, True, True, False]
    names = [cell["id"] for cell in lecture.folded(cells, "*Deeper*")]
    assert names == [
        *("title", "one", "one-folded", "code", "part", "one-end", "two", "two-folded", "two-end"),
        "end",
    ]
    assert [cell["id"] for cell in lecture.folded(cells[:3], "")][-1] == "one-end"
    assert lecture.folded(cells, "*Deeper*")[1]["source"] == "## *Deeper* One"


def test_sections_and_the_links_to_them_are_numbered():
    cells = [
        text_cell("first", "## How?\n\nSee [section 0](#0-Going-deeper:-Why-is-it-x?)."),
        text_cell("second", "## 7.9 Going deeper: Why is it `x`?"),
        text_cell("broken", "[section 3.1](#3.1-Who?) and [How?](#how)"),
        text_cell("closing", "## What you have seen"),
    ]
    assert list(lecture.number_sections(cells, 3)) == [("broken", "Who?")]
    assert [cell["source"].split("\n")[0] for cell in cells[:2]] == [
        *("## 3.1 How?", "## 3.2 Going deeper: Why is it `x`?"),
    ]
    assert cells[0]["source"].endswith("[section 3.2](#3.2-Going-deeper:-Why-is-it-x?).")
    assert cells[2]["source"] == "[section 0](#0-Who?) and [How?](#how)"
    assert cells[3]["source"] == "## What you have seen"
    folds = [lecture.FOLDED in lecture.with_view(cell) for cell in cells]
    assert folds == [False, True, False, False]


def test_the_core_path_must_not_use_names_of_sections_that_go_deeper():
    cells = [
        code_cell("before", "import numpy as np\nfirst = 1"),
        text_cell("deeper", "## Going deeper: Why?"),
        code_cell("define", "import torch\nfirst, second = 2, 3\n\ndef third(x): return x"),
        code_cell("use", "second + third(1)"),
        text_cell("end", "## More"),
        code_cell("good", "print(first, np.pi, [second for second in range(3)], unknown)"),
        code_cell("command", "%env second"),
        code_cell("bad", "def f(first):\n    return torch.tensor(third)"),
        code_cell("again", "torch = 2\ntorch"),
        code_cell("argument", "def f(third):\n    return third"),
    ]
    assert list(lecture.needs_deeper(cells)) == [("bad", "third"), ("bad", "torch")]


# --- checks and fixes ---


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a lecture and returns its path."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "glossary.md").write_text(GLOSSARY, encoding="utf-8")

    def write_lecture(*cells, opening=OPENING):
        cells = [text_cell("opening", opening), text_cell("words", ""), *cells]
        return write_notebook(tmp_path / "lectures" / "01_a.ipynb", notebook(*cells))

    return write_lecture


def sources(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    return {cell["id"]: "".join(cell["source"]) for cell in content["cells"]}


def test_fix_makes_a_lecture_clean(write):
    predict = hidden("guess", 'predict("sum", "How many?", ["1", "2"])')
    path = write(
        text_cell("long", "The perplexity. " * 2000), predict, hidden("test", "assert True")
    )
    assert len(check(path)) >= 5
    assert fix(path) and check(path) == [] and not fix(path)
    after = sources(path)
    assert "- **Study time:** 35 minutes\n- **Run time:**" in after["opening"]
    assert after["words"].splitlines()[3:-2] == [
        "- [perplexity](../docs/glossary.md#perplexity) – How hard the next token is to guess."
    ]
    assert after["guess"].startswith("# @title Your prediction\npredict(")
    assert after["test"] == "# @title Code that you can skip\nassert True"
    assert after["setup"] == SETUP_CELL and SETUP_CELL.startswith("# @title Set-up: ")


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (code_cell("it", "x = 1\n\nassert x == 1"), "contains an assert"),
        (code_cell("it", "if x:\n    assert y, 'no y'"), "contains an assert"),
        (code_cell("it", "assert_close(x, y)\nprint('assert')"), None),
        (
            text_cell("it", "[a](../docs/glossary.md#no-term)"),
            "docs/glossary.md has no term with the anchor #no-term",
        ),
        (text_cell("it", "[a](../docs/glossary.md#perplexity), [all](../docs/glossary.md)"), None),
        (text_cell("it", "[section 1](#1-Who?)"), "links to a section that does not exist: Who?"),
        (code_cell("it", "x = 1\n" * 16), "has 16 lines; at most 15 are allowed"),
        (hidden("it", "x = 1\n" * 16), None),
        (
            hidden("it", 'predict("a", "How?")\npredict("b", "How?")\npredict("a", "Why?")'),
            "another prediction has the key a, too",
        ),
        (hidden("it", 'predict("a", "How?")\nreveal("a", 1)'), None),
    ],
)
def test_each_problem_of_a_lecture_is_found(write, cell, problem):
    path = write(cell)
    fix(path)
    problems = check(path)
    assert len(problems) == (problem is not None)
    assert not problem or problems[0].startswith(f"cell it: {problem}")


@pytest.mark.parametrize("label", lecture.OPENING)
def test_each_line_of_the_opening_is_required(write, label):
    path = write(opening=OPENING.replace(f"**{label}:**", "**Else:**"))
    if label != "Study time":
        fix(path)
    line = f"- **{label}:** {lecture.OPENING[label]}"
    assert f"the first cell must have a line such as: {line}" in check(path)
