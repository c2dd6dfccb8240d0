"""Test each explorer in its lecture, in JupyterLab.

Every test starts with a new explorer and writes a screenshot of it to build/browser.
"""

import pytest

from course_utils import formats
from course_utils.notebook.controls import METHODS
from tests.browser import Explorer, Server
from tests.cells import LECTURES

pytestmark = pytest.mark.xdist_group("browser-explorers")

# The size of the window in pixels. The height is large enough for a whole explorer.
WINDOW = {"width": 1280, "height": 1500}

# Explorer → a number that it shows before any control is used, in the alt text and in the text.
FIRST = {
    "bins_explorer": "0.0714 to 0.1429 wide",
    "lora_explorer": "48,000",
    "memory_explorer": "3.87 GB",
    "overhead_explorer": "4.126953125",
    "paging_explorer": "16.23 GB",
}
# Explorer → a dict from the controls to their new values, and a number that is shown afterwards.
MOVES = {
    "bins_explorer": ({"format": formats.NAMES["nf"]}, "0.0805 to 0.2375 wide"),
    "lora_explorer": ({"rank r": "16", "down_proj": True}, "128,000"),
    "memory_explorer": (
        {"method": METHODS["lora"], "More settings": True, "rank r": "64"},
        "639.63 MB",
    ),
    "overhead_explorer": ({"double quantization": False, "absmax bits": "24"}, "4.375"),
    "paging_explorer": ({"paged states": True}, "2.27 GB"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("lab"), LECTURES) as server:
        yield server


# The full tier has the explorer with the most controls.
TIERS = [
    pytest.param(name, marks=pytest.mark.full if name == "memory_explorer" else pytest.mark.slow)
    for name in FIRST
]


@pytest.mark.parametrize("name", TIERS)
def test_controls_can_be_used_with_the_keyboard_only(browser, server, name):
    (file,) = [file for file in LECTURES if f"{name}()" in file.read_text(encoding="utf-8")]
    page = browser.new_page(viewport=WINDOW)
    explorer = Explorer(page, server, file.name, name)
    explorer.run()
    before = explorer.expect(FIRST[name])
    actions, number = MOVES[name]
    for label, value in actions.items():
        explorer.use_keyboard(label, value)
    after = explorer.expect(number)
    assert number in after[2]
    assert all(new != old for new, old in zip(after, before, strict=True))
    explorer.photograph(f"{name} keyboard")
    assert not explorer.errors
    assert "Traceback" not in page.locator(".jp-Notebook").text_content()
    page.close()
