"""Each explorer in the lecture that has it: moved, typed into, mistyped, looked at, read aloud.

In JupyterLab and in Notebook 7, where much of it is slow only to save time. Every test starts with
a fresh explorer and leaves a picture of it in build/browser: lab-NAME.png and notebook-NAME.png are
those as it is at first.
"""

import collections
import contextlib
import functools
import inspect
import re
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from playwright.sync_api import expect

from course_utils import explorers, notebooks
from tests.browser import JUPYTERLAB, NOTEBOOK, Explorer, Server

LECTURES = notebooks.lectures(Path(__file__).resolve().parents[1])
WIDE, NARROW = 1280, 900  # pixels of the window: a laptop's screen, and part of it
HEIGHT = 1500  # so that a whole explorer is in view

LORA, QLORA = explorers.METHODS["lora"], explorers.METHODS["qlora"]
# Explorer → a number that it shows at first. Each stands in the alt text and in the text below.
FIRST = {
    "bins_explorer": "0.0714 to 0.1429 wide",
    "lora_explorer": "48,000",
    "memory_explorer": "112.00 GB",
    "overhead_explorer": "4.126953125",
    "paging_explorer": "16.23 GB",
}
# Explorer, control → value in the order they are used, and a number that is shown after the last.
MOVES = [
    ("bins_explorer", {"format": explorers.FORMATS["nf"]}, "0.0805 to 0.2375 wide"),
    ("bins_explorer", {"bits": "3"}, "0.1667 to 0.3333 wide"),
    ("bins_explorer", {"numbers": "uniform", "format": explorers.FORMATS["fp4"]}, "0.0052 to"),
    ("lora_explorer", {"rank r": "16"}, "96,000"),
    ("lora_explorer", {"model": "llama-7b"}, "6,291,456"),
    ("lora_explorer", {"down_proj": True}, "64,000"),
    ("memory_explorer", {"recipe": "fp32"}, "28.00 GB"),
    ("memory_explorer", {"model": "llama-7b", "method": LORA, "rank r": "64"}, "639.63 MB"),
    ("memory_explorer", {"model": "llama-7b", "method": QLORA, explorers.DOUBLE: False}, "4.17 GB"),
    ("overhead_explorer", {"block size": "128", "nested size": "64"}, "4.06640625"),
    ("overhead_explorer", {"block size": "16", "nested bits": "4"}, "4.2578125"),
    ("overhead_explorer", {explorers.DOUBLE: False, "absmax bits": "24"}, "4.375"),
    ("overhead_explorer", {"model": "65b", "nested bits": "4"}, "4.064453125"),
    ("paging_explorer", {explorers.PAGING: True}, "2.27 GB"),
    ("paging_explorer", {"optimizer": explorers.STATES["adamw8bit"]}, "15.23 GB"),
    ("paging_explorer", {"model": "llama-33b", "GPU": "A100-40"}, "29.11 GB"),
]
# Explorer, control, a bad value, and the sentence about it.
ZEROS = [
    ("bins_explorer", "bits", "1", "bits must be from 2 to 8 here, but is 1."),
    ("lora_explorer", "layers", "0", "layers must be from 1 to 1,000 here, but is 0."),
    ("memory_explorer", "batch size", "0", "batch size must be from 1 to 1,024 here, but is 0."),
    ("overhead_explorer", "nested bits", "0", "nested bits must be from 1 to 16 here, but is 0."),
    ("paging_explorer", "batch size", "0", "batch size must be from 1 to 1,024 here, but is 0."),
]
MISTAKES = [
    *ZEROS,
    ("memory_explorer", "method", QLORA, "only the number of parameters of 7b is known"),
]

# An explorer with a fault of its own: it can't answer the number 2.
BROKEN = """
from course_utils import figures
from course_utils.explorers import explorer, number

def answer(number):
    return figures.lora_parameters(1, 1, number), str(1 / (number - 2))

def broken_explorer():
    return explorer({"number": number("number", 1)}, answer)

broken_explorer()
"""

# What some can't read, and others can't see.
PALE = '<p style="color: #ccc; background: white">pale</p><img src="data:," width="9" height="9">'


@pytest.fixture(scope="module")
def page_of(browser, tmp_path_factory):
    """Front end, explorer's name → the explorer, in the one notebook that shows it, opened once."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(BROKEN)]
    broken = tmp_path_factory.mktemp("broken") / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), broken)
    files = [*LECTURES, broken]

    with contextlib.ExitStack() as servers:

        @functools.cache
        def serve(front_end):
            folder = tmp_path_factory.mktemp(front_end.name)
            return servers.enter_context(Server(folder, files, front_end))

        @functools.cache
        def open_page(front_end, name):
            (file,) = [file for file in files if f"{name}()" in file.read_text(encoding="utf-8")]
            return Explorer(browser.new_page(), serve(front_end), file.name, name)

        yield open_page


@pytest.fixture
def explorer(page_of, request):
    """A fresh explorer; afterwards nothing may have gone wrong on its page."""
    explorer = page_of(*request.param)
    explorer.page.set_viewport_size({"width": WIDE, "height": HEIGHT})
    explorer.run()
    yield explorer
    explorer.photograph(request.node.name)
    assert not explorer.faults
    assert "Traceback" not in explorer.page.locator(".jp-Notebook").text_content()


def name_of(value):
    """Part of a test's name, and so of its picture's."""
    if isinstance(value, tuple):
        front_end, explorer = value
        return f"{front_end.name}-{explorer}"
    return "+".join(value) if isinstance(value, dict) else str(value)[:20]


def with_explorer(names, cases, quick=0):
    """Try cases in both front ends; in Notebook 7, all but `quick` of each explorer are slow."""
    params, seen = [], collections.Counter()
    for front_end, fast in ((JUPYTERLAB, len(cases)), (NOTEBOOK, quick)):
        for case in cases:
            name, *rest = [case] if isinstance(case, str) else case
            seen[front_end, name] += 1
            marks = [pytest.mark.slow] if seen[front_end, name] > fast else []
            params.append(pytest.param((front_end, name), *rest, marks=marks))
    return pytest.mark.parametrize(names, params, indirect=["explorer"], ids=name_of)


def test_every_explorer_is_tried_here():
    names = {name for name, _ in inspect.getmembers(explorers) if name.endswith("_explorer")}
    assert names == set(FIRST) == {move[0] for move in MOVES} == {zero[0] for zero in ZEROS}


@with_explorer("explorer", FIRST, quick=1)
def test_it_shows_a_picture_and_its_numbers(explorer):
    assert FIRST[explorer.name] in explorer.expect(FIRST[explorer.name])[2]
    explorer.photograph(f"{explorer.front_end.name} {explorer.name}")
    assert explorer.picture.evaluate("picture => picture.naturalWidth") > 300, "a real picture"


@with_explorer("explorer", FIRST)
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_cut_off(explorer, width):
    """Neither a label, nor a control, nor the picture, nor the numbers."""
    explorer.page.set_viewport_size({"width": width, "height": HEIGHT})
    parts = explorer.output.locator("label, .jupyter-widgets").all()
    for part in parts:
        inside, outside = part.evaluate("part => [part.scrollWidth, part.clientWidth]")
        assert inside <= outside, part.evaluate("part => part.outerHTML")[:300]
    assert len(parts) > 10


@with_explorer("explorer, actions, number", MOVES, quick=1)
def test_controls_change_the_picture_and_the_numbers(explorer, actions, number):
    before = explorer.expect(FIRST[explorer.name])
    for label, value in actions.items():
        explorer.use(label, value)
    after = explorer.expect(number)
    assert number in after[2]
    assert all(new != old for new, old in zip(after, before, strict=True))


@with_explorer("explorer, actions, number", MOVES, quick=1)
def test_the_keyboard_is_enough(explorer, actions, number):
    for label, value in actions.items():
        explorer.use_keyboard(label, value)
    assert number in explorer.expect(number)[2]


@with_explorer("explorer, label, value, sentence", MISTAKES)
def test_a_bad_value_is_answered_in_place(explorer, label, value, sentence, request):
    before = explorer.expect(FIRST[explorer.name])
    good = explorer.control(label).input_value()
    explorer.use(label, value)
    expect(explorer.alert).to_contain_text(sentence)
    expect(explorer.picture.or_(explorer.numbers)).to_have_count(0)
    explorer.photograph(f"{request.node.name} told")
    assert not explorer.violations_inside()
    explorer.use(label, good)
    assert explorer.expect(FIRST[explorer.name]) == before
    expect(explorer.alert).to_have_count(0)


@with_explorer("explorer, label, value, sentence", ZEROS)
def test_arrow_keys_step_a_number(explorer, label, value, sentence):
    before = explorer.expect(FIRST[explorer.name])
    control = explorer.control(label)
    steps = int(control.input_value()) - int(value)
    explorer.reach(control)
    for _ in range(steps):
        explorer.page.keyboard.press("ArrowDown")
    expect(control).to_have_value(value)
    expect(explorer.alert).to_have_text(sentence)
    for _ in range(steps):
        explorer.page.keyboard.press("ArrowUp")
    assert explorer.expect(FIRST[explorer.name]) == before


@with_explorer("explorer", FIRST)
def test_nobody_is_kept_out(explorer):
    """Names of controls, text of pictures, contrast, and what else axe knows, light and dark."""
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        explorer.choose("Settings", "Theme", theme)
        expect(explorer.page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        assert not explorer.violations_inside()
        explorer.photograph(f"{explorer.front_end.name} {explorer.name} {theme}")


def test_what_keeps_people_out_would_be_seen_here(page_of):
    broken = page_of(JUPYTERLAB, "broken_explorer")
    broken.run()
    broken.output.evaluate("(output, html) => output.insertAdjacentHTML('beforeend', html)", PALE)
    assert set(broken.violations_inside()) == {"image-alt", "color-contrast"}


@pytest.mark.parametrize(
    "front_end", [JUPYTERLAB, pytest.param(NOTEBOOK, marks=pytest.mark.slow)], ids=lambda f: f.name
)
def test_a_fault_of_our_own_would_be_seen_here(page_of, front_end):
    """The tests above find a fault in a callback, which front ends keep to themselves."""
    broken = page_of(front_end, "broken_explorer")
    broken.run()
    assert not broken.faults
    broken.use("number", "2")
    broken.use("number", "3")  # whose answer comes after the fault
    broken.expect("LoRA of rank 3")
    (fault,) = broken.faults
    assert re.search("Traceback.*ZeroDivisionError", fault, re.S)
