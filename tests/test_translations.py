"""Tests of translated lectures: what is missing, what is stale, and what may differ."""

import contextlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from course_utils import cli, notebooks
from course_utils.publishing import translations
from course_utils.publishing.execute import execute
from course_utils.validation import CourseError

ROOT = Path(__file__).resolve().parents[1]
TRANSLATED = translations.translations(ROOT)
CELLS = {
    "opening": (
        "markdown",
        "# 00 Sums\n\nSee [words](../docs/words.md) and [away](https://a.test).",
    ),
    "setup": ("code", "import the_setup  # install all of it"),
    "sum": ("code", 'total = 6 * 7\nprint(f"the total is {total}")'),
    "plain": ("code", "total += 1"),
}


def write(path, cells):
    notebook = {
        "cells": [
            {"cell_type": kind, "id": name, "metadata": {}, "source": source}
            | ({"execution_count": None, "outputs": []} if kind == "code" else {})
            for name, (kind, source) in cells.items()
        ],
        "metadata": {"kernelspec": notebooks.KERNEL, "language_info": notebooks.LANGUAGE},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebooks.dump(notebook), encoding="utf-8")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course with one lecture, in which the command runs."""
    write(tmp_path / "lectures" / "00_sums.ipynb", CELLS)
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "words.md").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(cli.main, ["translate", *arguments])
    return result.exit_code, result.output


@contextlib.contextmanager
def changed(course, language="de"):
    """Yield the notebook of the translation, or of the lecture if `language` is empty.

    Changes of the notebook are written to its file.
    """
    path = course / "lectures" / language / "00_sums.ipynb"
    content = notebooks.load(path)
    yield content
    path.write_text(notebooks.dump(content), encoding="utf-8")


def edit(course, name, source, language="de"):
    """Change a cell of the translation, or of the lecture if `language` is empty."""
    with changed(course, language) as content:
        (cell,) = (cell for cell in content["cells"] if cell["id"] == name)
        cell["source"] = source


def translate(course):
    run("extract", "de", "00")
    edit(course, "opening", "# 00 Summen\n\nSiehe [Wörter](../../docs/words.md).")
    edit(course, "sum", 'total = 6 * 7\nprint(f"die Summe: {total}")')


def test_extract_lists_each_cell_with_its_hash_and_state(course):
    status, output = run("extract", "de", "00")
    assert status == 0 and output.endswith("lectures/de/00_sums.ipynb\n")
    rows = [line.split(maxsplit=2) for line in output.splitlines()[:-1]]
    assert {name: state for _, name, state in rows} == {
        "opening": "not translated",
        "setup": "translated",
        "sum": "not translated",
        "plain": "translated",
    }
    assert all(len(code) == 12 and int(code, 16) >= 0 for code, _, _ in rows)
    copied = notebooks.load(course / "lectures/de/00_sums.ipynb")["cells"][0]["source"]
    assert "(../../docs/words.md)" in copied and "(https://a.test)" in copied
    assert run("check") == (
        1,
        "lectures/de/00_sums.ipynb: cell opening: not translated\n"
        "lectures/de/00_sums.ipynb: cell sum: not translated\n",
    )


def test_a_complete_translation_has_no_problems(course):
    translate(course)
    assert run("check") == (0, "lectures/de/00_sums.ipynb is up to date\n")


def test_a_changed_original_makes_only_its_own_cell_stale(course):
    translate(course)
    edit(course, "opening", "# 00 Sums and products", "")
    assert run("check") == (1, "lectures/de/00_sums.ipynb: cell opening: stale\n")
    assert run("extract", "de", "00")[1].count("stale") == 1
    status, output = run("accept", "de", "00")
    assert status == 2 and "needs the names of cells" in output
    text = notebooks.load(course / "lectures/de/00_sums.ipynb")["cells"][0]["source"]
    assert text.startswith("# 00 Summen"), "a translated cell is not changed"
    assert run("accept", "de", "00", "opening")[0] == 0
    assert run("check")[0] == 0


def test_a_new_cell_is_added_and_an_untranslated_cell_is_renewed(course):
    run("extract", "de", "00")
    edit(course, "opening", "# 00 Products", "")
    write(course / "lectures/00_sums.ipynb", CELLS | {"more": ("markdown", "One more.")})
    edit(course, "opening", "# 00 Products", "")
    assert run("check")[1].count("cell more: is missing") == 1
    run("extract", "de", "00")
    cells = notebooks.load(course / "lectures/de/00_sums.ipynb")["cells"]
    assert cells[0]["source"] == "# 00 Products" and cells[-1]["source"] == "One more."


def test_a_translated_cell_that_the_lecture_no_longer_has_is_not_lost(course):
    translate(course)
    write(course / "lectures/00_sums.ipynb", {k: v for k, v in CELLS.items() if k != "sum"})
    status, output = run("extract", "de", "00")
    assert status == 1 and "has cells that the lecture doesn't have: sum" in output
    assert "die Summe" in (course / "lectures/de/00_sums.ipynb").read_text(encoding="utf-8")
    assert "cell sum: the lecture has no such cell" in run("check")[1]


def test_extract_loses_nothing_that_a_person_has_written(course):
    translate(course)
    path = course / "lectures/de/00_sums.ipynb"
    with changed(course) as content:
        content["metadata"]["authors"] = [{"name": "the translators"}]
    before = path.read_bytes()
    for _ in range(2):
        assert run("extract", "de", "00")[0] == 0
        assert path.read_bytes() == before
    own = {"cell_type": "markdown", "id": "own", "metadata": {}, "source": "Ein Hinweis."}
    with changed(course) as content:
        content["cells"].append(own)
    before = path.read_bytes()
    status, output = run("extract", "de", "00")
    assert status == 1 and "has cells that the lecture doesn't have: own" in output
    assert path.read_bytes() == before


def test_a_renamed_cell_of_the_original_does_not_lose_its_translation(course):
    translate(course)
    write(course / "lectures/00_sums.ipynb", {k.replace("sum", "s"): v for k, v in CELLS.items()})
    before = (course / "lectures/de/00_sums.ipynb").read_bytes()
    assert run("extract", "de", "00")[0] == 1
    assert (course / "lectures/de/00_sums.ipynb").read_bytes() == before


def test_a_cell_that_was_only_run_or_tagged_is_not_translated(course):
    run("extract", "de", "00")
    with changed(course) as content:
        for number, cell in enumerate(content["cells"], 1):
            cell["metadata"]["editable"] = True
            if cell["cell_type"] == "code":
                cell["execution_count"] = number
        # Badges are not text either.
        badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](x)"
        title, _, rest = content["cells"][0]["source"].partition("\n\n")
        content["cells"][0]["source"] = f"{title}\n\n{badge}\n\n{rest}"
    assert run("check")[1].count("not translated") == 2


def test_an_accepted_cell_may_have_the_text_of_the_original(course):
    run("extract", "de", "00")
    run("accept", "de", "00", "sum")
    output = run("extract", "de", "00")[1]
    assert "sum                      translated" in output
    edit(course, "sum", "total = 6 * 9  # six by nine", "")
    assert "cell sum: stale" in run("check")[1]


def test_code_without_words_is_renewed_and_never_accepted_with_an_old_text(course):
    translate(course)
    edit(course, "plain", "total += 2", "")
    assert "cell plain: has an old text of the lecture: run `course translate" in run("check")[1]
    status, output = run("accept", "de", "00", "plain")
    assert status == 1 and "cell plain has an old text of the lecture" in output
    run("extract", "de", "00")
    assert run("check")[0] == 0


def test_two_cells_with_the_same_id_are_an_error_and_none_is_lost(course):
    translate(course)
    path = course / "lectures/de/00_sums.ipynb"
    with changed(course) as content:
        content["cells"].insert(1, content["cells"][0] | {"source": "Zweiter Teil."})
    before = path.read_bytes()
    for action in ("extract", "check"):
        status, output = run(action, "de", "00")
        assert status == 1 and "has two cells with the id opening" in output
    assert path.read_bytes() == before


def test_words_beside_a_badge_are_text_except_in_the_first_cell(course):
    badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    badge += "(https://a.test)"
    write(course / "lectures/00_sums.ipynb", CELLS | {"links": ("markdown", f"{badge}\nBelow")})
    translate(course)
    edit(course, "links", f"{badge}\nUnten")
    run("extract", "de", "00")
    assert run("check")[0] == 0
    assert "Unten" in (course / "lectures/de/00_sums.ipynb").read_text(encoding="utf-8")


def test_another_order_of_the_cells_is_found_and_mended(course):
    translate(course)
    with changed(course) as content:
        content["cells"].reverse()
    assert "the cells are in another order" in run("check")[1]
    run("extract", "de", "00")
    assert run("check")[0] == 0


def test_copies_without_hashes_get_them_and_translations_without_hashes_stay(course):
    translate(course)
    with changed(course) as content:
        for cell in content["cells"]:
            cell["metadata"] = {"qlora_course": "none"} if cell["id"] == "opening" else {}
    states = run("extract", "de", "00")[1]
    assert "plain                    translated" in states and states.count("not translated") == 2
    run("accept", "de", "00", "opening", "sum")
    assert run("check")[0] == 0
    assert "die Summe" in (course / "lectures/de/00_sums.ipynb").read_text(encoding="utf-8")


def test_commands_of_ipython_are_no_problem(course):
    write(course / "lectures/00_sums.ipynb", CELLS | {"more": ("code", "!pip --version\n%pwd")})
    translate(course)
    assert run("check")[0] == 0


def test_check_can_be_limited_and_ignores_checkpoints(course):
    translate(course)
    write(course / "lectures/.ipynb_checkpoints/00_sums-checkpoint.ipynb", CELLS)
    run("extract", "fr", "00")
    assert run("check", "de") == run("check", "de", "00")
    assert run("check", "de")[0] == 0 and run("check", "fr")[0] == 1
    status, output = run("check", "it", "00")
    assert status == 1 and "there is no translation it 00" in output


@pytest.mark.parametrize("action", ["extract", "check", "accept"])
@pytest.mark.parametrize("lost", ["id", "metadata"])
def test_a_cell_without_a_name_is_one_clear_error(course, action, lost):
    translate(course)
    with changed(course) as content:
        del content["cells"][1][lost]
    status, output = run(action, "de", "00", *(["sum"] if action == "accept" else []))
    assert status == 1 and output.count("\n") == 1
    assert "cell 2 has no id, type or metadata" in output


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('total = 6 * 7\nprint(f"{total} Euro")  # gut', None),
        ('total = 6 * 8\nprint(f"{total}")', "differs in more than strings and comments"),
        ('total = 6 * 7\nprint(f"{total:.1f}")', "differs in more than strings and comments"),
        ('total = 6 * 7\nprint("die Summe")', "differs in more than strings and comments"),
        ('total = 6 * 7\nprint(f"{total}"', "line 2 is not valid Python"),
    ],
)
def test_code_may_differ_only_in_strings_and_comments(course, source, problem):
    translate(course)
    edit(course, "sum", source)
    status, output = run("check")
    assert status == bool(problem) and (problem or "up to date") in output


def test_a_link_without_a_target_is_found(course):
    translate(course)
    edit(course, "opening", "[Wörter](../docs/words.md)")
    assert "cell opening: ../docs/words.md does not exist" in run("check")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract", "German", "00"), "'German' is not the code of a language"),
        (("extract", "../de", "00"), "'../de' is not the code of a language"),
        (("extract", "de", "07"), "there is no lecture 07"),
        (("extract", "de"), "needs a language and a lecture"),
        (("accept", "de", "00", "sum"), "does not exist: run `course translate extract` first"),
    ],
)
def test_a_command_that_can_t_be_followed_says_why(course, arguments, message):
    status, output = run(*arguments)
    assert status and message in output


def test_accept_of_an_unknown_cell_changes_nothing(course):
    translate(course)
    before = (course / "lectures/de/00_sums.ipynb").read_bytes()
    original, path = translations.translation(course, "de", "00")
    with pytest.raises(CourseError, match="have no cell 'none' in common"):
        translations.accept(original, path, ["opening", "none"])
    assert (course / "lectures/de/00_sums.ipynb").read_bytes() == before


# --- the course's own translations ----------------------------------------------------------------


def test_lecture_00_is_translated():
    assert [path.relative_to(ROOT).as_posix() for _, path in TRANSLATED] == [
        "lectures/de/00_setup.ipynb"
    ]


@pytest.mark.parametrize(("original", "path"), TRANSLATED)
def test_translations_are_complete_and_have_the_original_code(original, path):
    """A stale cell is no failure, because not everybody who edits a lecture knows the language."""
    assert [p for p in translations.problems(original, path) if not p.endswith("stale")] == []


@pytest.mark.full
@pytest.mark.parametrize(("original", "path"), TRANSLATED)
def test_translations_run(original, path, tmp_path):
    result = execute(path, tmp_path, progress=False)
    assert result.error is None
