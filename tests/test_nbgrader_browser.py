"""nbgrader's extensions in JupyterLab, as `make lab` installs them: a class at work, by its menus.

Each step leaves a picture of the window in build/browser.
"""

import re
import sys

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from playwright.sync_api import expect, sync_playwright

from tests.browser import PATIENCE, PICTURES, Server, chromium
from tests.classroom import ASSIGNMENT, MESSAGE, NOTEBOOK, ONLY_A, RIGHT, course

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX")

WINDOW = {"width": 1600, "height": 1000}  # pixels: wide enough for formgrader's menu beside a table


class Desk:
    """A window with JupyterLab in it, and what went wrong in its own scripts."""

    def __init__(self, browser, lab, notebook):
        self.page, self.faults = browser.new_page(viewport=WINDOW), []
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.route(lambda url: not url.startswith(lab.url), lambda route: route.abort())
        self.page.goto(f"{lab.url}lab/workspaces/nbgrader/tree/{notebook}?token={lab.token}")
        self.page.locator(".jp-Cell.jp-mod-active:focus").wait_for()
        self.notebook = self.page.locator(".jp-NotebookPanel:visible")
        self.formgrader = self.page.frame_locator("iframe")
        self.fetched = self.page.locator("#fetched_assignments_list")

    def choose(self, tool):
        """Open one of nbgrader's tools by the menu."""
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text("Nbgrader").click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(tool, exact=True).click()

    def show(self, tab):
        """Bring a tab to the front."""
        self.page.get_by_role("tab", name=tab).click()

    def press(self, column):
        """Click an icon in formgrader's table of one row, by its column."""
        self.formgrader.locator(f"td.{column} a").click()
        expect(self.formgrader.locator(".modal-title")).to_have_text("Success")
        self.photograph(f"formgrader-{column}")
        dialog = self.formgrader.locator(".modal")
        dialog.get_by_role("button", name="OK").click()
        expect(dialog).to_have_count(0)

    def follow(self, *addresses):
        """Click one link of formgrader after the other, by the end of its address."""
        for address in addresses:
            self.formgrader.locator(f"a[href$='/{address}']").first.click()

    def write(self, place, text):
        """Replace the text of the notebook's cell of this number."""
        cell = self.notebook.locator(".jp-Cell").nth(place)
        cell.locator(".cm-content:visible, .jp-MarkdownOutput:visible").click()
        self.page.keyboard.press("Enter")  # a rendered text becomes an editor
        expect(cell.locator(".cm-content")).to_be_focused()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(text)

    def validate(self, answer):
        """Press "Validate", and read its verdict."""
        self.notebook.get_by_role("button", name="Validate").click()
        verdict = self.page.locator(".jp-Dialog-content")
        expect(verdict).to_contain_text(answer)
        self.photograph(f"validate-{answer}")
        verdict.get_by_role("button", name="Ok").click()

    def photograph(self, step):
        self.page.wait_for_timeout(300)  # a dialog fades in
        name = re.sub(r"\W+", "-", step.lower())[:40].strip("-")
        self.page.screenshot(path=PICTURES / f"nbgrader-{name}.png")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """JupyterLab in a course that nobody has used yet."""
    monkeypatch.delenv("QLORA_COURSE_EXCHANGE", raising=False)
    with Server(course(tmp_path), []) as lab:
        yield lab


@pytest.fixture
def desk(lab):
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        desk = Desk(browser, lab, f"solutions/{NOTEBOOK}")
        yield desk
        browser.close()


def test_a_class_works_by_menus_and_buttons(desk, lab):
    author(desk)
    release(desk)
    work(desk)
    grade(desk)
    give_back(desk)
    assert set(desk.faults) <= {"MathJax is not defined"}  # formgrader wants it from the network
    assert not re.search(r"^\[[EC] .*nbgrader|Traceback", lab.log.read_text(), re.M)


def author(desk):
    """Create Assignment shows what each cell is."""
    desk.choose("Create assignment")
    for place, name in enumerate(("lora-parameters", "lora-parameters-slide", "why-merge")):
        expect(desk.page.get_by_label("ID:").nth(place)).to_have_value(name)
    desk.photograph("create-assignment")


def release(desk):
    """Formgrader makes the students' version and hands it out."""
    desk.choose("Formgrader")
    expect(desk.formgrader.locator("td.name")).to_have_text(ASSIGNMENT)
    desk.press("assign")
    desk.press("release")
    expect(desk.formgrader.locator("td.status")).to_have_text("released")


def work(desk):
    """A student fetches, is told what is wrong, mends it, and hands in."""
    desk.choose("Assignment List")
    released = desk.page.locator("#released_assignments_list")
    expect(released).to_contain_text(ASSIGNMENT)
    desk.photograph("assignment-list")
    released.get_by_role("button", name="Fetch").click()
    desk.fetched.get_by_role("button", name=ASSIGNMENT).click()
    desk.fetched.get_by_role("link", name=ASSIGNMENT).click()
    desk.write(0, ONLY_A)
    desk.validate(MESSAGE)
    desk.write(0, RIGHT)
    desk.validate("You did not provide a response")
    desk.write(2, "No added latency.")
    desk.validate("Success")
    desk.show("Assignments")
    desk.fetched.get_by_role("button", name="Submit").click()
    expect(desk.page.locator("#submitted_assignments_list")).to_contain_text(ASSIGNMENT)
    desk.photograph("submitted")


def grade(desk):
    """Formgrader collects, runs the tests, and takes a score for the text."""
    form = desk.formgrader
    desk.show("Formgrader")
    desk.press("collect")
    form.locator("td.num-submissions a").click()
    desk.press("autograde")
    expect(form.locator("td.status")).to_have_text("needs manual grading")
    expect(form.locator("td.score")).to_have_text("2 / 5")
    desk.follow("gradebook", f"gradebook/{ASSIGNMENT}", f"gradebook/{ASSIGNMENT}/{ASSIGNMENT}")
    form.get_by_role("link", name="Submission #1").click()
    expect(form.locator("input#lora-parameters-slide")).to_have_attribute("placeholder", "2")
    form.locator("input#why-merge").fill("2.5")
    with desk.page.expect_response(lambda answer: answer.request.method == "PUT"):
        form.locator("input#why-merge").press("Tab")
    desk.photograph("formgrader-manual")
    desk.follow(f"gradebook/{ASSIGNMENT}/{ASSIGNMENT}")
    expect(form.locator("td.score")).to_have_text("4.5 / 5")
    desk.photograph("formgrader-scores")


def give_back(desk):
    """Formgrader writes feedback and hands it out; the student fetches it."""
    desk.follow("manage_assignments")
    desk.press("generate-feedback")
    desk.press("release-feedback")
    desk.show("Assignments")
    desk.page.get_by_role("button", name="Fetch Feedback").click()
    desk.page.get_by_text("(view feedback)").click()
    desk.photograph("feedback-fetched")
    desk.page.get_by_role("listitem", name=f"{ASSIGNMENT}.html").dblclick()
    page = desk.page.frame_locator(".jp-HTMLViewer iframe")
    expect(page.locator("body")).to_contain_text("Score: 4.5 / 5.0")
    desk.photograph("feedback")
