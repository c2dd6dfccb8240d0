"""Answer predictions and tick lectures on the website, without a kernel."""

from pathlib import Path

import nbformat
import pytest

pytest.importorskip("sphinx", reason="no Sphinx: pip install -e '.[site,test]'")
from course_utils.machine.notebooks import METADATA
from course_utils.machine.validation import CourseError
from tests.browser import PICTURES, Axe, expect, served
from tests.cells import code_cell
from tests.sites import predictions
from workshop.publishing import site_predictions

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("website")]

NUMBER = '{"guesses": {"01_sums/levels": 7, "01_sums/peak": 7}}'
OLD = '{"guesses": {"01_sums/levels": "a choice of an earlier version"}}'


@pytest.fixture(scope="module")
def address(small_site):
    with served(small_site) as url:
        yield url


@pytest.fixture
def page(browser, address):
    opened, errors = browser.new_page(), []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"{address}lectures/01_sums.html")
    yield opened
    opened.close()
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
    opened = browser.new_page()
    opened.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw 1; }})")
    opened.goto(f"{address}lectures/01_sums.html")
    form(opened, "levels").get_by_label("about 7").check()
    expect(compared(opened, "levels")).to_contain_text("You chose 'about 7'.")
    opened.close()


def test_without_scripts_the_questions_and_the_answers_are_there(browser, address):
    opened = browser.new_page(java_script_enabled=False)
    opened.goto(f"{address}lectures/01_sums.html")
    expect(opened.get_by_text("How many levels are <used>?")).to_be_visible()
    opened.get_by_text("Compare your guess with the answer").first.click()
    expect(opened.get_by_text("The answer is '3 & fewer'.")).to_be_visible()
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_predictions_and_the_progress_list(browser, address, scheme):
    opened = browser.new_page(color_scheme=scheme)
    opened.goto(f"{address}lectures/01_sums.html")
    form(opened, "levels").get_by_label("about 7").check()
    for path in ("lectures/01_sums.html", "progress.html"):
        opened.goto(f"{address}{path}")
        found = Axe().run(opened, context="article").response["violations"]
        assert [violation["id"] for violation in found] == []
        opened.screenshot(path=PICTURES / f"reader-{scheme}-{Path(path).stem}.png", full_page=True)
    opened.close()


@pytest.mark.parametrize("field", [("predict", "numbers"), ("reveal", "truth")])
def test_outputs_of_an_earlier_version_of_the_course_raise_an_error(field):
    kind, name = field
    old = predictions()
    for output in old:
        output["metadata"][METADATA].get(kind, {}).pop(name, None)
    cells = [code_cell(f"cell-{n}", "1", output) for n, output in enumerate(old)]
    notebook = nbformat.from_dict({"cells": cells})
    with pytest.raises(CourseError, match=r"earlier version .*: run `course run --only 01`$"):
        site_predictions.interactive(notebook, "01_sums")
