"""Test the command `course guesses`: which files it reads, and what its page shows."""

import html
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from course_utils.cli import main
from course_utils.grading.results import guesses as class_guesses
from course_utils.guesses import Guess, Question, to_json
from tests.test_guesses import BAD

SOURCE = """
predict("levels", "How many of the levels?", ["all 15", "about 7", "3 or fewer"])
predict("size", "How " "large?", unit="GB")
predict("share", "Which share?", {"a third": 33, "2%": 2}, unit="%")
predict("computed", f"How large is {name}?", ["small", "large"])
reveal("levels", levels, {"all 15": "It is not.", "about 7": "One & only."})
reveal("size", measured)
reveal("computed", "small", {"large": f"{no}"})
course_utils.predict.tally("03")
"""
LEVELS = Question.of("levels", "How many of the levels?", ["all 15", "about 7", "3 or fewer"], "")
SIZE = Question.of("size", "How large?", None, "GB")
SHARE = Question.of("share", "Which share?", {"a third": 33, "2%": 2}, "%")
COMPUTED = Question.of("computed", "How large is 7?", ["small", "large"], "")
TRUTHS = {LEVELS: "3 or fewer", SIZE: 5.12, SHARE: 1.6, COMPUTED: "small"}


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Return a course folder with one lecture, in which the command runs."""
    folder = tmp_path / "course"
    (folder / "course_utils").mkdir(parents=True)
    (folder / "lectures").mkdir()
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# 03 LoRA & <co>\n"},
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "%matplotlib inline"},
        {"cell_type": "code", "id": "c", "metadata": {}, "source": SOURCE},
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "lectures" / "03_lora.ipynb").write_text(json.dumps(notebook))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def handed(tmp_path):
    """Return the folder of what the class handed in."""
    folder = tmp_path / "handed in"
    folder.mkdir()
    return folder


def hand_in(path, *, lecture="03", time=None, late=False, **guessed):
    """Write a file with guesses, by the key of the question."""
    made = [
        Guess(question, guessed.get(question.key), truth, late)
        for question, truth in TRUTHS.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(lecture, made))
    if time:
        os.utime(path, (time, time))
    return path


def run(folder, *options):
    return CliRunner().invoke(main, ["guesses", str(folder), *options])


def sections(page):
    """Return the text of each question's section, by the question."""
    parts = re.findall("<section.*?</section>", page, re.S)
    texts = [" ".join(html.unescape(re.sub("<[^>]*>", " ", part)).split()) for part in parts]
    titles = [html.unescape(re.search("<h3[^>]*>(.*?)</h3>", part)[1]) for part in parts]
    return dict(zip(titles, texts, strict=True))


def test_the_page_shows_each_question_with_counts_and_reasons(course, handed):
    for number, choice in enumerate(["about 7"] * 3 + ["all 15"] + ["3 or fewer"] * 4 + [None]):
        size = {"size": 4.0 + 4 * number} if number < 3 else {}
        hand_in(handed / f"{number}_guesses-03.json", levels=choice, share="2%", **size)
    done = run(handed)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "03 levels: 8 guesses, 50% right. Most frequent wrong choice: 'about 7' (3).",
        "03 size: 3 guesses, 0% of them within 10% of the answer. The median guess is 8 GB.",
        "03 share: 9 guesses, 100% right.",
        "03 computed: 0 guesses.",
        "guesses.html (files: 9)",
    ]
    page = (course / "guesses.html").read_text(encoding="utf-8")
    shown = sections(page)
    assert list(shown) == [q.text for q in TRUTHS]
    assert "<h2>03 LoRA &amp; &lt;co&gt;</h2>" in page
    levels = shown[LEVELS.text]
    assert "all 15 1 about 7 3 3 or fewer ✓ right 4" in levels
    assert "The answer is '3 or fewer'. 8 guesses, 50% right." in levels
    assert "Most frequent wrong choice: 'about 7' (3). One & only." in levels
    assert "Not counted: 1 without a guess." in levels
    assert "so '2%' is right. 9 guesses, 100% right." in shown[SHARE.text]
    assert "The answer is 5.12 GB." in shown[SIZE.text]
    alt = html.unescape(re.search('<svg[^>]* aria-label="([^"]*)"', page)[1])
    assert alt.startswith("Histogram of 3 guesses: 1 from 2 to 5, 1 from 5 to 10, 1 from 10 to 20.")


def test_the_page_needs_no_network_and_no_scripts(course, handed):
    hand_in(handed / "guesses-03.json", size=3.0)
    assert run(handed, "--output", "out/page.html").exit_code == 0
    page = (course / "out/page.html").read_text(encoding="utf-8")
    assert "<script" not in page and not re.search('(src|href)="(?!#)', page)
    assert "default-src 'none'" in page


def test_a_reason_that_the_lecture_computes_is_not_shown(course, handed):
    hand_in(handed / "guesses-03.json", computed="large")
    assert "Most frequent wrong choice: 'large' (1)." in run(handed).stdout
    page = (course / "guesses.html").read_text(encoding="utf-8")
    assert sections(page)[COMPUTED.text].endswith("Most frequent wrong choice: 'large' (1).")


def test_guesses_after_the_answer_do_not_count(course, handed):
    hand_in(handed / "a_guesses-03.json", levels="3 or fewer", late=True)
    hand_in(handed / "b_guesses-03.json", levels="all 15")
    assert run(handed).stdout.startswith("03 levels: 1 guess, 0% right.")
    page = (course / "guesses.html").read_text(encoding="utf-8")
    assert "Not counted: 1 with a guess after the answer was shown." in page


# --- the files of a class ---

MOODLE = "_assignsubmission_file_"


@pytest.mark.parametrize(
    ("first", "second", "students"),
    [
        ("submitted/anna/03/guesses-03.json", "submitted/anna/04/guesses-03.json", 1),
        ("submitted/anna/03/guesses-03.json", "autograded/anna/03/guesses-03.json", 1),
        ("submitted/anna/03/guesses-03.json", "submitted/bob/03/guesses-03.json", 2),
        ("x/submitted/anna/guesses-03.json", "x/submitted/anna/guesses-03 (1).json", 1),
        (f"Anna_1{MOODLE}/guesses-03.json", f"Bob_2{MOODLE}/guesses-03.json", 2),
        (f"Anna_1{MOODLE}/guesses-03.json", f"Anna_1{MOODLE}/guesses-03-1.json", 1),
        ("anna_1_guesses-03.json", "bob_2_guesses-03.json", 2),
        ("anna_1_guesses-03.json", "anna_1_guesses-03-1.json", 1),
        ("my_guesses-03.json", "b/my_guesses-03.json", 2),
        ("guesses-03.json", "guesses-03 (1).json", 2),
        ("anna/guesses-03.json", "bob/guesses-03.json", 2),
    ],
)
def test_of_two_files_of_a_student_the_newest_counts(handed, first, second, students):
    hand_in(handed / second, levels="all 15", time=2e9)
    hand_in(handed / first, levels="about 7", time=1e9)
    files, problems = class_guesses.read(handed)
    assert (len(files), problems) == (students, [])
    assert files[-1].guesses["levels"].guess == "all 15"


@pytest.mark.parametrize("name", ["submitted", "autograded"])
def test_students_of_nbgrader_are_recognized_in_its_own_folder(tmp_path, monkeypatch, name):
    for number in (1, 2, 3):
        hand_in(tmp_path / name / "anna" / f"{number:02}" / "guesses-03.json")
    hand_in(tmp_path / name / "bob" / "01" / "guesses-03.json")
    monkeypatch.chdir(tmp_path / name)
    for folder in (tmp_path / name, Path(), Path("anna/..")):
        assert sorted(file.student for file in class_guesses.read(folder)[0]) == ["anna", "bob"]


def test_a_student_has_one_file_for_each_lecture(handed):
    hand_in(handed / "submitted/anna/guesses-03.json")
    hand_in(handed / "submitted/anna/guesses-04.json", lecture="04")
    assert {file.lecture for file in class_guesses.read(handed)[0]} == {"03", "04"}


def test_hidden_folders_links_and_other_files_are_not_read(handed, tmp_path):
    real = hand_in(handed / "a/guesses-03.json")
    hand_in(handed / ".ipynb_checkpoints/guesses-03-checkpoint.json")
    hand_in(handed / "results-03.json")
    (handed / "b").symlink_to(handed / "a")
    (handed / "guesses-link.json").symlink_to(real)
    (handed / "guesses-folder.json").mkdir()
    os.mkfifo(handed / "guesses-fifo.json")
    files, problems = class_guesses.read(handed)
    assert len(files) == 1
    assert problems == [
        "guesses-fifo.json was left out: it is not a regular file",
        "guesses-link.json was left out: it is a link",
    ]


def test_the_content_of_a_bad_file_is_named_and_left_out(course, handed):
    hand_in(handed / "guesses-good.json", levels="all 15")
    for number, content in enumerate(BAD.values()):
        (handed / f"guesses-{number}\x1b\n.json").write_bytes(content)
    (handed / "guesses-large.json").write_bytes(b" " * 500_001)
    done = run(handed)
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert len(lines) == len(BAD) + 1 and all(" was left out: " in line for line in lines)
    assert lines[0].startswith("guesses-0\\x1b\\x0a.json was left out: ")
    assert "guesses-large.json was left out: it is too large (500 kB)" in lines
    assert "guesses.html (files: 1)" in done.stdout


def test_a_folder_without_usable_files_is_an_error(course, handed):
    done = run(handed)
    assert done.exit_code == 1 and not (course / "guesses.html").exists()
    assert done.stderr == f"Error: {handed} contains no file guesses-*.json that can be used\n"


def test_too_many_files_are_not_read(handed, monkeypatch):
    monkeypatch.setattr(class_guesses, "MAX_FILES", 2)
    for name in "abc":
        hand_in(handed / f"{name}_guesses-03.json")
    files, problems = class_guesses.read(handed)
    assert [file.student for file in files] == [f"{handed.name}/a", f"{handed.name}/b"]
    assert problems == ["only the first 2 files were read"]


def test_a_folder_that_cannot_be_read_is_named(handed, monkeypatch):
    hand_in(handed / "guesses-03.json")
    hand_in(handed / "closed" / "guesses-03.json")
    scan = os.scandir

    def scan_open_folders(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_open_folders)
    files, problems = class_guesses.read(handed)
    assert len(files) == 1
    assert problems == [f"{handed / 'closed'} was left out: Permission denied"]


def test_without_lectures_the_most_frequent_questions_are_shown(handed, monkeypatch):
    monkeypatch.setattr(class_guesses, "MAX_GUESSES", 1)
    asked = {"one": [SIZE], "both": [LEVELS, SIZE]}
    for name, questions in asked.items():
        made = [Guess(question) for question in questions]
        (handed / f"{name}_guesses-03.json").write_text(to_json("03", made))
    found, problems = class_guesses.results(class_guesses.read(handed)[0], {})
    assert ([result.question for result in found["03"]], problems) == ([SIZE], [])


def test_deeply_nested_folders_are_not_read(handed):
    place = handed
    for _ in range(30):
        place = place / "a"
    hand_in(place / "guesses-03.json")
    assert class_guesses.read(handed) == ([], [])


# --- edited files ---


def edited(path, **changes):
    """Hand in a file in which some fields of the question `levels` are edited."""
    hand_in(path, levels="all 15")
    content = json.loads(path.read_text())
    content["guesses"][0]["question"] |= changes
    path.write_text(json.dumps(content))


HOSTILE = "</h3><script>alert(1)</script>\x1b[31m\ud800 $x$"


def test_another_wording_is_not_shown_and_does_not_count(course, handed):
    for name in "abc":
        edited(handed / f"{name}_guesses-03.json", text=HOSTILE)
    hand_in(handed / "d_guesses-03.json", levels="about 7")
    assert run(handed).stdout.startswith("03 levels: 1 guess, 0% right.")
    page = (course / "guesses.html").read_text(encoding="utf-8")
    assert "script" not in page
    assert "Not counted: 3 with another wording of the question." in page


def test_questions_that_the_lecture_does_not_ask_are_not_shown(course, handed):
    edited(handed / "guesses-03.json", key="invented")
    done = run(handed)
    assert "invented" not in done.stdout
    assert done.stderr == (
        "guesses of lecture 03 were left out: the lecture has no prediction with the key invented\n"
    )
    assert "invented" not in (course / "guesses.html").read_text(encoding="utf-8")


def test_a_class_with_only_questions_of_an_old_notebook_gets_an_error(course, handed):
    old = [Guess(Question.of(key, "How?", None, ""), 3.0) for key in ("old", "older", "oldest")]
    (handed / "guesses-03.json").write_text(to_json("03", old))
    done = run(handed)
    assert done.exit_code == 1 and not (course / "guesses.html").exists()
    first, second = done.stderr.splitlines()
    assert first.endswith("no prediction with the key old (or 2 other keys)")
    assert second == f"Error: {handed} contains no file guesses-*.json that can be used"


def test_the_most_frequent_wording_is_shown_if_the_lecture_computes_it(course, handed):
    other = Question.of("computed", HOSTILE[:-1], ["small", "large"], "")
    for number in range(3):
        question = other if number == 0 else COMPUTED
        (handed / f"{number}_guesses-03.json").write_text(
            to_json("03", [Guess(question, "small", "small")]), encoding="utf-8", errors="replace"
        )
    assert "03 computed: 2 guesses, 100% right." in run(handed).stdout
    assert list(sections((course / "guesses.html").read_text())) == ["How large is 7?"]


def test_hostile_texts_are_escaped_if_no_lecture_is_known(course, handed):
    shutil.rmtree(course / "lectures")
    (course / "lectures").mkdir()
    edited(handed / "guesses-03.json", text=HOSTILE, choices=["all 15", HOSTILE], unit=HOSTILE)
    sized = Guess(Question.of("size", "How?", None, HOSTILE), 3.0, 5.0)
    text = json.dumps(json.loads(to_json("04", [sized])))
    (handed / "guesses-04.json").write_text(text)
    done = run(handed)
    assert done.exit_code == 0, done.output
    page = (course / "guesses.html").read_bytes().decode("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert "\x1b" not in done.stdout


def test_the_answer_is_the_most_frequent_or_the_median(course, handed):
    for number, truth in enumerate(["3 or fewer", "3 or fewer", "all 15"]):
        made = [Guess(LEVELS, "about 7", truth), Guess(SIZE, 5.0, (5.0, 1e30, 5.2)[number])]
        (handed / f"{number}_guesses-03.json").write_text(to_json("03", made))
    run(handed)
    shown = sections((course / "guesses.html").read_text(encoding="utf-8"))
    assert "The answer is '3 or fewer'." in shown[LEVELS.text]
    assert "The answer is 5.20 GB." in shown[SIZE.text]


def test_a_lecture_that_the_course_does_not_have_is_named(course, handed):
    hand_in(handed / "a_guesses-03.json", levels="about 7")
    hand_in(handed / "b_guesses-99.json", lecture="99")
    done = run(handed)
    assert done.stderr == (
        "files of lecture 99 were left out: 1, because no lecture of the course has a tally of "
        "this name\n"
    )
    assert "99" not in (course / "guesses.html").read_text(encoding="utf-8")


def test_nobody_has_seen_the_answer(course, handed):
    (handed / "guesses-03.json").write_text(to_json("03", [Guess(LEVELS, "about 7"), Guess(SIZE)]))
    assert run(handed).stdout.startswith("03 levels: 1 guess.\n03 size: 0 guesses.\n")
    shown = sections((course / "guesses.html").read_text(encoding="utf-8"))
    assert "Nobody has seen the answer yet. 1 guess." in shown[LEVELS.text]
    assert "Nobody entered a guess that counts." in shown[SIZE.text]


def test_the_lectures_of_this_course_can_be_read():
    folder = Path(__file__).parents[1]
    for lecture in class_guesses.lectures(folder).values():
        assert lecture.title and lecture.keys
