"""Test each explorer in its lecture, in JupyterLab and Notebook 7.

Every test starts with a new explorer and writes a screenshot of it to build/browser. The
screenshots lab-NAME.png and notebook-NAME.png show the explorer before any control is used.
"""

import contextlib
import functools
import itertools
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from playwright.sync_api import expect

from course_utils import formats
from course_utils.machine import notebooks
from course_utils.notebook.controls import METHODS
from tests.browser import JUPYTERLAB, NOTEBOOK, Explorer, Server

pytestmark = pytest.mark.xdist_group("browser-explorers")

LECTURES = notebooks.lectures(Path(__file__).resolve().parents[1])
# The width of the window in pixels, on a laptop and on a part of its screen. The height is large
# enough for a whole explorer.
WIDE, NARROW, HEIGHT = 1280, 900, 1500

FULL, LORA = METHODS["full"], METHODS["lora"]
DOUBLE = "double quantization"
# Explorer → a number that it shows before any control is used, in the alt text and in the text.
FIRST = {
    "bins_explorer": "0.0714 to 0.1429 wide",
    "lora_explorer": "48,000",
    "memory_explorer": "5.12 GB",
    "overhead_explorer": "4.126953125",
    "paging_explorer": "16.23 GB",
}
# Explorer, a dict from the controls to their new values, and a number that is shown afterwards.
MOVES = [
    ("bins_explorer", {"format": formats.NAMES["nf"]}, "0.0805 to 0.2375 wide"),
    ("bins_explorer", {"numbers": "uniform", "bits": "3"}, "0.1667 to 0.3333 wide"),
    ("lora_explorer", {"model": "llama-7b"}, "6,291,456"),
    ("lora_explorer", {"rank r": "16", "down_proj": True}, "128,000"),
    ("memory_explorer", {"model": "7b", "method": FULL, "recipe": "fp32"}, "28.00 GB"),
    ("memory_explorer", {"method": LORA, "rank r": "64"}, "639.63 MB"),
    ("overhead_explorer", {"block size": "128", "nested size": "64"}, "4.06640625"),
    ("overhead_explorer", {DOUBLE: False, "absmax bits": "24"}, "4.375"),
    ("paging_explorer", {"paged states": True}, "2.27 GB"),
    ("paging_explorer", {"model": "llama-33b", "GPU": "A100-40"}, "29.11 GB"),
]
# Explorer, control, a value that is not allowed, and the message about it.
NOT_ALLOWED = [
    ("bins_explorer", "bits", "1", "bits must be a whole number from 2 to 8, but is 1."),
    ("lora_explorer", "layers", "0", "layers must be a whole number from 1 to 1,000, but is 0."),
    ("memory_explorer", "model", "7b", "only the number of parameters of 7b is known"),
    ("overhead_explorer", "nested bits", "0", "nested bits must be a whole number from 1 to 16"),
    ("paging_explorer", "batch size", "0", "batch size must be a whole number from 1 to 1,024"),
]


@pytest.fixture(scope="module")
def page_of(browser, tmp_path_factory):
    """Return a function that opens the notebook of an explorer, once in each front end."""
    with contextlib.ExitStack() as servers:

        @functools.cache
        def serve(front_end):
            folder = tmp_path_factory.mktemp(front_end.name)
            return servers.enter_context(Server(folder, LECTURES, front_end))

        @functools.cache
        def open_page(front_end, name):
            (file,) = [file for file in LECTURES if f"{name}()" in file.read_text(encoding="utf-8")]
            return Explorer(browser.new_page(), serve(front_end), file.name, name)

        yield open_page


@pytest.fixture
def explorer(page_of, request):
    """Create the explorer again, and check after the test that its page reported no errors."""
    explorer = page_of(*request.param)
    explorer.page.set_viewport_size({"width": WIDE, "height": HEIGHT})
    explorer.run()
    yield explorer
    explorer.photograph(request.node.name)
    assert not explorer.errors
    assert "Traceback" not in explorer.page.locator(".jp-Notebook").text_content()


def name_of(value):
    """Return a part of the test's name, which is also a part of the screenshot's name."""
    if isinstance(value, tuple):
        front_end, explorer = value
        return f"{front_end.name}-{explorer}"
    return "+".join(value) if isinstance(value, dict) else str(value)[:20]


def with_explorer(names, cases, front_ends=(JUPYTERLAB,)):
    """Parametrize a test with cases in both front ends.

    The first case of each explorer in `front_ends` belongs to the full tier, all others are slow.
    """
    params, seen = [], set()
    for front_end, case in itertools.product((JUPYTERLAB, NOTEBOOK), cases):
        name, *rest = [case] if isinstance(case, str) else case
        is_first = (front_end, name) not in seen and front_end in front_ends
        seen.add((front_end, name))
        mark = pytest.mark.full if is_first else pytest.mark.slow
        params.append(pytest.param((front_end, name), *rest, marks=mark))
    return pytest.mark.parametrize(names, params, indirect=["explorer"], ids=name_of)


@with_explorer("explorer", FIRST, front_ends=(JUPYTERLAB, NOTEBOOK))
def test_an_explorer_shows_a_picture_and_numbers(explorer):
    assert FIRST[explorer.name] in explorer.expect(FIRST[explorer.name])[2]
    explorer.photograph(f"{explorer.front_end.name} {explorer.name}")
    assert explorer.picture.evaluate("picture => picture.clientWidth") > 300


@with_explorer("explorer", FIRST)
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_labels_and_controls_fit_their_boxes(explorer, width):
    explorer.page.set_viewport_size({"width": width, "height": HEIGHT})
    parts = explorer.output.locator("label, .jupyter-widgets").all()
    for part in parts:
        needed, available = part.evaluate("part => [part.scrollWidth, part.clientWidth]")
        assert needed <= available, part.evaluate("part => part.outerHTML")[:300]
    assert len(parts) > 10


@with_explorer("explorer, actions, number", MOVES)
def test_controls_change_the_picture_and_the_numbers(explorer, actions, number):
    before = explorer.expect(FIRST[explorer.name])
    for label, value in actions.items():
        explorer.use(label, value)
    after = explorer.expect(number)
    assert number in after[2]
    assert all(new != old for new, old in zip(after, before, strict=True))


@with_explorer("explorer, actions, number", MOVES)
def test_controls_can_be_used_with_the_keyboard_only(explorer, actions, number):
    for label, value in actions.items():
        explorer.use_keyboard(label, value)
    assert number in explorer.expect(number)[2]


@with_explorer("explorer, label, value, message", NOT_ALLOWED)
def test_a_value_that_is_not_allowed_shows_a_message(explorer, label, value, message, request):
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


@with_explorer("explorer", FIRST)
def test_an_explorer_is_accessible_in_light_and_dark(explorer):
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        explorer.choose("Settings", "Theme", theme)
        expect(explorer.page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        assert not explorer.violations_inside()
        explorer.photograph(f"{explorer.front_end.name} {explorer.name} {theme}")
