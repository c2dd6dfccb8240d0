"""Test nbgrader's extensions in JupyterLab, as `make lab` installs them, with a small class.

Each step writes a screenshot of the window to build/browser.
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

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX"),
    pytest.mark.full,
]

# The size of the window in pixels, in which formgrader's menu fits beside a table.
WINDOW = {"width": 1600, "height": 1000}


class LabWindow:
    """A browser's window with JupyterLab, and the errors of the page's scripts."""

    def __init__(self, browser, lab, notebook):
        self.page, self.errors = browser.new_page(viewport=WINDOW), []
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route(lambda url: not url.startswith(lab.url), lambda route: route.abort())
        self.page.goto(f"{lab.url}lab/workspaces/nbgrader/tree/{notebook}?token={lab.token}")
        self.page.locator(".jp-Cell.jp-mod-active:focus").wait_for()
        self.notebook = self.page.locator(".jp-NotebookPanel:visible")
        self.formgrader = self.page.frame_locator("iframe")
        self.fetched = self.page.locator("#fetched_assignments_list")

    def choose(self, tool):
        """Open one of nbgrader's tools from the menu."""
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text("Nbgrader").click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(tool, exact=True).click()

    def show(self, tab):
        """Bring a tab to the front."""
        self.page.get_by_role("tab", name=tab).click()

    def press(self, column):
        """Click the icon in a column of formgrader's table, which has one row."""
        self.formgrader.locator(f"td.{column} a").click()
        expect(self.formgrader.locator(".modal-title")).to_have_text("Success")
        self.screenshot(f"formgrader-{column}")
        dialog = self.formgrader.locator(".modal")
        dialog.get_by_role("button", name="OK").click()
        expect(dialog).to_have_count(0)

    def follow(self, *addresses):
        """Click links of formgrader one after the other, by the ends of their addresses."""
        for address in addresses:
            self.formgrader.locator(f"a[href$='/{address}']").first.click()

    def write(self, number, text):
        """Replace the text of the notebook's cell with this number."""
        cell = self.notebook.locator(".jp-Cell").nth(number)
        cell.locator(".cm-content:visible, .jp-MarkdownOutput:visible").click()
        # Enter replaces a rendered text by an editor.
        self.page.keyboard.press("Enter")
        expect(cell.locator(".cm-content")).to_be_focused()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(text)

    def validate(self, message):
        """Press "Validate", and check that the dialog contains a message."""
        self.notebook.get_by_role("button", name="Validate").click()
        dialog = self.page.locator(".jp-Dialog-content")
        expect(dialog).to_contain_text(message)
        self.screenshot(f"validate-{message}")
        dialog.get_by_role("button", name="Ok").click()

    def screenshot(self, step):
        # Dialogs fade in, so a screenshot without delay would show them half transparent.
        self.page.wait_for_timeout(300)
        name = re.sub(r"\W+", "-", step.lower())[:40].strip("-")
        self.page.screenshot(path=PICTURES / f"nbgrader-{name}.png")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Start JupyterLab in a new course."""
    monkeypatch.delenv("QLORA_COURSE_EXCHANGE", raising=False)
    with Server(course(tmp_path), []) as lab:
        yield lab


@pytest.fixture
def window(lab):
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        window = LabWindow(browser, lab, f"solutions/{NOTEBOOK}")
        yield window
        browser.close()


def test_an_assignment_can_be_released_submitted_graded_and_returned_in_jupyterlab(window, lab):
    create_assignment(window)
    release(window)
    answer_and_submit(window)
    grade(window)
    return_feedback(window)
    # formgrader loads MathJax from the network, which is not available here.
    assert set(window.errors) <= {"MathJax is not defined"}
    assert not re.search(r"^\[[EC] .*nbgrader|Traceback", lab.log.read_text(), re.M)


def create_assignment(window):
    """Check that Create Assignment shows the ids of the cells."""
    window.choose("Create assignment")
    for number, name in enumerate(("lora-parameters", "lora-parameters-slide", "why-merge")):
        expect(window.page.get_by_label("ID:").nth(number)).to_have_value(name)
    window.screenshot("create-assignment")


def release(window):
    """Generate the students' version with formgrader, and release it."""
    window.choose("Formgrader")
    expect(window.formgrader.locator("td.name")).to_have_text(ASSIGNMENT)
    window.press("assign")
    window.press("release")
    expect(window.formgrader.locator("td.status")).to_have_text("released")


def answer_and_submit(window):
    """Fetch the assignment as a student, write wrong and right answers, and submit."""
    window.choose("Assignment List")
    released = window.page.locator("#released_assignments_list")
    expect(released).to_contain_text(ASSIGNMENT)
    window.screenshot("assignment-list")
    released.get_by_role("button", name="Fetch").click()
    window.fetched.get_by_role("button", name=ASSIGNMENT).click()
    window.fetched.get_by_role("link", name=ASSIGNMENT).click()
    window.write(0, ONLY_A)
    window.validate(MESSAGE)
    window.write(0, RIGHT)
    window.validate("You did not provide a response")
    window.write(2, "No added latency.")
    window.validate("Success")
    window.show("Assignments")
    window.fetched.get_by_role("button", name="Submit").click()
    expect(window.page.locator("#submitted_assignments_list")).to_contain_text(ASSIGNMENT)
    window.screenshot("submitted")


def grade(window):
    """Collect and autograde with formgrader, and grade the text by hand."""
    form = window.formgrader
    window.show("Formgrader")
    window.press("collect")
    form.locator("td.num-submissions a").click()
    window.press("autograde")
    expect(form.locator("td.status")).to_have_text("needs manual grading")
    expect(form.locator("td.score")).to_have_text("2 / 5")
    window.follow("gradebook", f"gradebook/{ASSIGNMENT}", f"gradebook/{ASSIGNMENT}/{ASSIGNMENT}")
    form.get_by_role("link", name="Submission #1").click()
    expect(form.locator("input#lora-parameters-slide")).to_have_attribute("placeholder", "2")
    form.locator("input#why-merge").fill("2.5")
    with window.page.expect_response(lambda response: response.request.method == "PUT"):
        form.locator("input#why-merge").press("Tab")
    window.screenshot("formgrader-manual")
    window.follow(f"gradebook/{ASSIGNMENT}/{ASSIGNMENT}")
    expect(form.locator("td.score")).to_have_text("4.5 / 5")
    window.screenshot("formgrader-scores")


def return_feedback(window):
    """Generate and release feedback with formgrader, and fetch it as the student."""
    window.follow("manage_assignments")
    window.press("generate-feedback")
    window.press("release-feedback")
    window.show("Assignments")
    window.page.get_by_role("button", name="Fetch Feedback").click()
    window.page.get_by_text("(view feedback)").click()
    window.screenshot("feedback-fetched")
    window.page.get_by_role("listitem", name=f"{ASSIGNMENT}.html").dblclick()
    page = window.page.frame_locator(".jp-HTMLViewer iframe")
    expect(page.locator("h1")).to_have_text(f"{ASSIGNMENT}: your results")
    expect(page.locator("body")).to_contain_text("You have 4.5 of 5 points.")
    window.screenshot("feedback")
