"""Test each explorer in its lecture, in JupyterLab.

Every test starts with a new explorer and writes a screenshot of it to build/browser.
"""

import functools

import pytest

from course_utils import formats
from course_utils.notebook.controls import METHODS
from tests.browser import Explorer, Server, expect
from tests.cells import LECTURES

pytestmark = pytest.mark.xdist_group("browser-explorers")

# The size of the window in pixels. The height is large enough for a whole explorer.
WINDOW = {"width": 1280, "height": 1500}

# Explorer → a number that it shows before any control is used, in the alt text and in the text.
FIRST = {
    "bins_explorer": "0.0714 to 0.1429 wide",
    "lora_explorer": "48,000",
    "memory_explorer": "5.12 GB",
    "overhead_explorer": "4.126953125",
    "paging_explorer": "16.23 GB",
}
# Explorer → a dict from the controls to their new values, and a number that is shown afterwards.
MOVES = {
    "bins_explorer": ({"format": formats.NAMES["nf"]}, "0.0805 to 0.2375 wide"),
    "lora_explorer": ({"rank r": "16", "down_proj": True}, "128,000"),
    "memory_explorer": ({"method": METHODS["lora"], "rank r": "64"}, "639.63 MB"),
    "overhead_explorer": ({"double quantization": False, "absmax bits": "24"}, "4.375"),
    "paging_explorer": ({"paged states": True}, "2.27 GB"),
}
# Explorer → a control, a value that is not allowed, and the message about it.
NOT_ALLOWED = {
    "bins_explorer": ("bits", "1", "bits must be a whole number from 2 to 8, but is 1."),
    "lora_explorer": ("layers", "0", "layers must be a whole number from 1 to 1,000, but is 0."),
    "memory_explorer": ("model", "7b", "only the number of parameters of 7b is known"),
    "overhead_explorer": ("nested bits", "0", "nested bits must be a whole number from 1 to 16"),
    "paging_explorer": ("batch size", "0", "batch size must be a whole number from 1 to 1,024"),
}


@pytest.fixture(scope="module")
def page_of(browser, tmp_path_factory):
    """Return a function that opens the notebook of an explorer, once."""
    with Server(tmp_path_factory.mktemp("lab"), LECTURES) as server:

        @functools.cache
        def open_page(name):
            (file,) = [file for file in LECTURES if f"{name}()" in file.read_text(encoding="utf-8")]
            page = browser.new_page(viewport=WINDOW)
            return Explorer(page, server, file.name, name)

        yield open_page


# The full tier has the explorer with the most controls.
TIERS = [
    pytest.param(name, marks=pytest.mark.full if name == "memory_explorer" else pytest.mark.slow)
    for name in FIRST
]


@pytest.fixture(params=TIERS)
def explorer(page_of, request):
    """Create the explorer again, and check after the test that its page reported no errors."""
    explorer = page_of(request.param)
    explorer.run()
    yield explorer
    explorer.photograph(request.node.name)
    assert not explorer.errors
    assert "Traceback" not in explorer.page.locator(".jp-Notebook").text_content()


def test_controls_can_be_used_with_the_keyboard_only(explorer):
    before = explorer.expect(FIRST[explorer.name])
    actions, number = MOVES[explorer.name]
    for label, value in actions.items():
        explorer.use_keyboard(label, value)
    after = explorer.expect(number)
    assert number in after[2]
    assert all(new != old for new, old in zip(after, before, strict=True))


def test_a_value_that_is_not_allowed_shows_a_message(explorer, request):
    label, value, message = NOT_ALLOWED[explorer.name]
    before = explorer.expect(FIRST[explorer.name])
    good = explorer.control(label).input_value()
    explorer.use(label, value)
    expect(explorer.alert).to_contain_text(message)
    expect(explorer.picture.or_(explorer.numbers)).to_have_count(0)
    explorer.photograph(f"{request.node.name} message")
    assert not explorer.violations_inside()
    explorer.use(label, good)
    assert explorer.expect(FIRST[explorer.name]) == before
    expect(explorer.alert).to_have_count(0)
