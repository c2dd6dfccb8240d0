"""Test nbgrader's extensions in JupyterLab, as `make lab` installs them, with a small class.

Each step writes a screenshot of the window to build/browser.
"""

import re
import sys

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from playwright.sync_api import expect

from tests.browser import PATIENCE, PICTURES, Server
from tests.classroom import course
from tests.sums import NAME, RIGHT

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX"),
    pytest.mark.full,
]

# The size of the window in pixels, in which formgrader's menu fits beside a table.
WINDOW = {"width": 1600, "height": 1000}


class LabWindow:
    """A browser's window with JupyterLab, and the errors of the page's scripts."""

    def __init__(self, browser, lab, notebook):
        self.page, self.errors, self.log = browser.new_page(viewport=WINDOW), [], lab.log
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
def window(tmp_path, monkeypatch, browser):
    """JupyterLab in a new course."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    monkeypatch.delenv("QLORA_COURSE_EXCHANGE", raising=False)
    with Server(course(tmp_path), []) as lab:
        yield LabWindow(browser, lab, f"solutions/{NAME}/{NAME}.ipynb")


def test_an_assignment_can_be_released_submitted_graded_and_returned_in_jupyterlab(window):
    create_assignment(window)
    release(window)
    answer_and_submit(window)
    grade(window)
    return_feedback(window)
    # formgrader loads MathJax from the network, which is not available here.
    assert set(window.errors) <= {"MathJax is not defined"}
    assert not re.search(r"^\[[EC] .*nbgrader|Traceback", window.log.read_text(), re.M)


def create_assignment(window):
    """Check that Create Assignment shows the ids of the cells."""
    window.choose("Create assignment")
    for number, name in {1: "sum-all", 4: "sum-all-form", 7: "sum-why"}.items():
        expect(window.page.get_by_label("ID:").nth(number)).to_have_value(name)
    window.screenshot("create-assignment")


def release(window):
    """Generate the students' version with formgrader, and release it."""
    window.choose("Formgrader")
    expect(window.formgrader.locator("td.name")).to_have_text(NAME)
    window.press("assign")
    window.press("release")
    expect(window.formgrader.locator("td.status")).to_have_text("released")


def answer_and_submit(window):
    """Fetch the assignment as a student, write wrong and right answers, and submit."""
    window.choose("Assignment List")
    released = window.page.locator("#released_assignments_list")
    expect(released).to_contain_text(NAME)
    window.screenshot("assignment-list")
    released.get_by_role("button", name="Fetch").click()
    window.fetched.get_by_role("button", name=NAME).click()
    window.fetched.get_by_role("link", name=NAME).click()
    window.write(1, RIGHT["sum-all"].replace("sum", "max"))
    window.validate("Not right yet: add([3, 4, 5])")
    window.write(1, RIGHT["sum-all"])
    window.validate("You did not provide a response")
    window.write(7, RIGHT["sum-why"])
    window.validate("Success")
    window.page.get_by_role("tab", name="Assignments").click()
    window.fetched.get_by_role("button", name="Submit").click()
    expect(window.page.locator("#submitted_assignments_list")).to_contain_text(NAME)
    window.screenshot("submitted")


def grade(window):
    """Collect and autograde with formgrader, and grade the text by hand."""
    form = window.formgrader
    window.page.get_by_role("tab", name="Formgrader").click()
    window.press("collect")
    form.locator("td.num-submissions a").click()
    window.press("autograde")
    expect(form.locator("td.status")).to_have_text("needs manual grading")
    expect(form.locator("td.score")).to_have_text("3 / 6")
    window.follow("gradebook", f"gradebook/{NAME}", f"gradebook/{NAME}/{NAME}")
    form.get_by_role("link", name="Submission #1").click()
    expect(form.locator("input#sum-all-values")).to_have_attribute("placeholder", "2")
    form.locator("input#sum-why").fill("2.5")
    with window.page.expect_response(lambda response: response.request.method == "PUT"):
        form.locator("input#sum-why").press("Tab")
    window.screenshot("formgrader-manual")
    window.follow(f"gradebook/{NAME}/{NAME}")
    expect(form.locator("td.score")).to_have_text("5.5 / 6")
    window.screenshot("formgrader-scores")


def return_feedback(window):
    """Generate and release feedback with formgrader, and fetch it as the student."""
    window.follow("manage_assignments")
    window.press("generate-feedback")
    window.press("release-feedback")
    window.page.get_by_role("tab", name="Assignments").click()
    window.page.get_by_role("button", name="Fetch Feedback").click()
    window.page.get_by_text("(view feedback)").click()
    window.screenshot("feedback-fetched")
    window.page.get_by_role("listitem", name=f"{NAME}.html").dblclick()
    page = window.page.frame_locator(".jp-HTMLViewer iframe")
    expect(page.locator("h1")).to_have_text(f"{NAME}: your results")
    expect(page.locator("body")).to_contain_text("You have 5.5 of 6 points.")
    window.screenshot("feedback")
