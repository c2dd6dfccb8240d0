"""Answer predictions and tick lectures on the website, without a kernel."""

import copy
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("sphinx", reason="no Sphinx: pip install -e '.[site,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[site,test]'")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from course_utils.machine.notebooks import METADATA
from course_utils.machine.validation import CourseError
from course_utils.notebook import predict
from tests.browser import PICTURES, served
from tests.test_website import code_cell, text_cell, write_notebook
from workshop.publishing import site_predictions, website

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("website")]

ROOT = Path(__file__).resolve().parents[1]
OPENING = "# {}\n\n- **Question:** How many?\n- **Takes:** 5 minutes; runs fast\n"
INDEX = """\
# The course

```{toctree}
progress
lectures/01_sums
exercises/01_sums/01_sums
```
"""
NUMBER = '{"guesses": {"01_sums/levels": 7, "01_sums/peak": 7}}'
OLD = '{"guesses": {"01_sums/levels": "a choice of an earlier version"}}'
CHOICES = ["all 15", "about 7", "3 & fewer"]
WHY = {"about 7": "Half would be too easy.", "all 15": "Some are never used."}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of predictions, as `predict`, `reveal` and `tally` display them."""
    shown = []

    def record(data, *, metadata=None, **_):
        content = {"output_type": "display_data", "data": data, "metadata": metadata or {}}
        shown.append(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "display", record)
        predict.predict("levels", "How many `levels` are <used>?", CHOICES)
        predict.reveal("levels", "3 & fewer", WHY)
        predict.predict("peak", "How much memory?", unit="GB")
        predict.reveal("peak", 5.12)
        predict.predict("share", "What share?", {"a third": 33, "2%": 2}, unit="%")
        predict.reveal("share", 1.6)
        predict.tally("01")
    return shown


@pytest.fixture(scope="module")
def address(tmp_path_factory, outputs):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "docs").mkdir()
    for name in ("conf.py", "_static"):
        (folder / "docs" / name).symlink_to(ROOT / "docs" / name)
    (folder / "docs" / "progress.md").symlink_to(ROOT / "docs" / "progress.md")
    (folder / "docs" / "index.md").write_text(INDEX, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[project]\nname = "course"\n', encoding="utf-8")
    cells = [text_cell("opening", OPENING.format("01 Sums"))]
    for n, output in enumerate(outputs):
        source = f"predict({n})" if "predict" in output["metadata"][METADATA] else "reveal()"
        cells.append(code_cell(f"cell-{n}", source, output, tags=["hide-input"]))
    write_notebook(folder / "lectures" / "01_sums.ipynb", cells)
    exercise = [text_cell("opening", OPENING.format("Exercise 01: Sums"))]
    write_notebook(folder / "exercises" / "01_sums" / "01_sums.ipynb", exercise)
    with pytest.MonkeyPatch.context() as patch:
        # conf.py lists the notebooks of the folder that contains docs/.
        patch.chdir(folder)
        website.build(folder, [folder / "lectures" / "01_sums.ipynb"], folder / "site")
    with served(folder / "site") as url:
        yield url


@pytest.fixture
def page(browser, address):
    context = browser.new_context()
    opened = context.new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"{address}lectures/01_sums.html")
    yield opened
    context.close()
    assert errors == []


def form(page, key):
    return page.locator(f'[data-predict="01_sums/{key}"]')


def compared(page, key):
    return page.locator(f'[data-reveal="01_sums/{key}"] > [role=status]')


def test_a_choice_is_compared_with_the_answer_and_kept(page):
    form(page, "levels").get_by_label("about 7").check()
    words = "You chose 'about 7'. The answer is '3 & fewer'. Half would be too easy."
    expect(compared(page, "levels")).to_have_text(words)
    expect(form(page, "levels").get_by_role("status")).to_have_text(
        "Your guess is kept in this browser."
    )
    page.reload()
    expect(form(page, "levels").get_by_label("about 7")).to_be_checked()
    expect(compared(page, "levels")).to_have_text(words)
    form(page, "levels").get_by_label("3 & fewer").check()
    expect(compared(page, "levels")).to_have_text("Right: the answer is '3 & fewer'.")


def test_without_a_guess_nothing_is_compared(page):
    expect(compared(page, "levels")).to_be_hidden()
    page.get_by_text("Compare your guess with the answer").first.click()
    expect(page.get_by_text("Not 'about 7': Half would be too easy.")).to_be_visible()


def test_a_number_is_shown_beside_the_answer_and_kept(page):
    field = form(page, "peak").get_by_label("Your guess in GB")
    field.fill(" 4 <b> ")
    field.press("Enter")
    words = "You wrote “4 <b>”. The answer is 5.12 GB."
    expect(compared(page, "peak")).to_have_text(words)
    page.reload()
    expect(field).to_have_value("4 <b>")
    expect(compared(page, "peak")).to_have_text(words)
    field.fill("")
    field.blur()
    expect(compared(page, "peak")).to_be_hidden()


def test_choices_with_numbers_name_the_nearest(page):
    form(page, "share").get_by_label("2%").check()
    expect(compared(page, "share")).to_have_text("Right: the answer is 1.60%, so '2%' is right.")


def test_the_tally_counts_and_forgets(page):
    tally = page.locator("[data-tally]")
    expect(tally).to_contain_text("You predicted 0 of 3 results.")
    form(page, "levels").get_by_label("all 15").check()
    form(page, "share").get_by_label("2%").check()
    expect(tally).to_contain_text(
        "You predicted 2 of 3 results. Of your choices, 1 of 2 were right."
    )
    tally.get_by_role("button", name="Forget my guesses of this lecture").click()
    expect(tally).to_contain_text("You predicted 0 of 3 results.")
    expect(form(page, "levels").get_by_label("all 15")).not_to_be_checked()


def test_the_progress_list_shows_what_was_done_and_guessed(page, address):
    form(page, "levels").get_by_label("all 15").check()
    page.get_by_label("I have done this lecture.").check()
    page.goto(f"{address}progress.html")
    expect(page.locator("[data-progress]")).to_have_text(
        "You have done 1 of 2 lectures and exercises."
    )
    row = page.get_by_role("row").filter(has_text="01 Sums").first
    expect(row).to_contain_text("1 of 3")
    expect(row.get_by_role("checkbox")).to_be_checked()
    page.get_by_label("Exercise 01: Sums is done").check()
    page.get_by_role("link", name="Exercise 01: Sums").last.click()
    expect(page.get_by_label("I have done this exercise.")).to_be_checked()
    page.get_by_label("I have done this exercise.").uncheck()
    page.goto(f"{address}progress.html")
    expect(page.locator("[data-progress]")).to_contain_text("1 of 2")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Forget my guesses and my progress").click()
    expect(page.locator("[data-progress]")).to_contain_text("0 of 2")
    expect(row).to_contain_text("0 of 3")


def test_a_broken_storage_does_no_harm(page):
    for content in ("not JSON", "null", "[1]", '{"guesses": null}', '{"done": 5}', NUMBER, OLD):
        page.evaluate("text => localStorage.setItem('qlora-course', text)", content)
        page.reload()
        expect(compared(page, "levels")).to_be_hidden()
        form(page, "levels").get_by_label("about 7").check()
        expect(compared(page, "levels")).to_contain_text("You chose 'about 7'.")


def test_a_browser_without_storage_works_until_the_page_is_closed(browser, address):
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw 1; }})")
    opened = context.new_page()
    opened.goto(f"{address}lectures/01_sums.html")
    form(opened, "levels").get_by_label("about 7").check()
    expect(compared(opened, "levels")).to_contain_text("You chose 'about 7'.")
    context.close()


def test_without_scripts_the_questions_and_the_answers_are_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(f"{address}lectures/01_sums.html")
    expect(opened.get_by_text("How many levels are <used>?")).to_be_visible()
    opened.get_by_text("Compare your guess with the answer").first.click()
    expect(opened.get_by_text("The answer is '3 & fewer'.")).to_be_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_predictions_and_the_progress_list(browser, address, scheme):
    context = browser.new_context(color_scheme=scheme)
    opened = context.new_page()
    opened.goto(f"{address}lectures/01_sums.html")
    form(opened, "levels").get_by_label("about 7").check()
    for path in ("lectures/01_sums.html", "progress.html"):
        opened.goto(f"{address}{path}")
        found = Axe().run(opened, context="article").response["violations"]
        assert [violation["id"] for violation in found] == []
        opened.screenshot(path=PICTURES / f"reader-{scheme}-{Path(path).stem}.png", full_page=True)
    context.close()


@pytest.mark.parametrize("field", [("predict", "numbers"), ("reveal", "truth")])
def test_outputs_of_an_earlier_version_of_the_course_raise_an_error(outputs, field):
    kind, name = field
    old = copy.deepcopy(outputs)
    for output in old:
        output["metadata"][METADATA].get(kind, {}).pop(name, None)
    cells = [code_cell(f"cell-{n}", "1", output) for n, output in enumerate(old)]
    notebook = nbformat.from_dict({"cells": cells})
    with pytest.raises(CourseError, match=r"earlier version .*: run `course run --only 01`$"):
        site_predictions.interactive(notebook, "01_sums")
