"""Open the course with `course lab`, and look at what a student sees first."""

import shutil
from dataclasses import replace

import pytest

from tests.browser import JUPYTERLAB, PICTURES, OpenNotebook, Server, expect
from tests.cells import LECTURES, ROOT

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("browser-lectures")]

# The page that the server opens if the address contains no path.
FIRST = replace(JUPYTERLAB, path="")


@pytest.fixture(scope="module")
def first_sight(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "glossary.md", folder / "docs")
    with Server(folder, LECTURES, FIRST) as server:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        yield OpenNotebook(page, server, LECTURES[0].name)
        page.close()


def test_the_first_lecture_is_open_beside_the_list_of_lectures(first_sight):
    page = first_sight.page
    page.screenshot(path=PICTURES / "first-sight.png")
    assert "/lab/tree/lectures/00_setup.ipynb" in page.url
    expect(page.get_by_role("heading", name="00 Set-up")).to_be_in_viewport()
    names = page.locator(".jp-DirListing-itemText").all_text_contents()
    assert names == [path.name for path in LECTURES]


def test_nothing_asks_for_attention(first_sight):
    for kind in (".Toastify__toast", ".jp-Dialog", ".jp-mod-kernel-pending"):
        expect(first_sight.page.locator(kind)).to_have_count(0)
    assert first_sight.errors == []


def test_a_section_that_goes_deeper_is_folded_and_can_be_opened(first_sight):
    page = first_sight.page
    folded = page.get_by_role("button", name="cells hidden")
    count = folded.count()
    assert count == page.get_by_role("heading", name="Going deeper:").count() > 0
    folded.first.click()
    expect(folded).to_have_count(count - 1)


def test_a_word_of_the_lecture_leads_to_its_entry_in_the_glossary(first_sight):
    page = first_sight.page
    page.get_by_text("Words of this lecture", exact=True).click()
    page.locator("details").get_by_role("link", name="QLoRA", exact=True).click()
    entry = page.locator(".jp-MarkdownViewer").get_by_role("heading", name="QLoRA", exact=True)
    expect(entry).to_be_in_viewport()
    page.screenshot(path=PICTURES / "first-sight-glossary.png")
