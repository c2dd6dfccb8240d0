"""Use the page "Will it fit?" as its reader does, with Python in the browser."""

import json
import os
import random
import re
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("sphinx", reason="no Sphinx: pip install -e '.[site,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[site,test]'")

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from course_utils.machine.validation import CourseError
from tests.browser import PICTURES, served
from tests.test_live import CONFIG
from workshop.publishing import bytecode, live, live_tools, website

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("website")]

ROOT = Path(__file__).resolve().parents[1]
# Python needs about 4 seconds to start. The limit is for a machine that runs other tests meanwhile.
PATIENCE = 60_000
INDEX = "# The course\n\n```{toctree}\nwill-it-fit\n```\n"
LINK = re.compile(r"\[([^\]]*)\]\((?!https:)[^)]*\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build a site of the page alone, without its links to other pages."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "docs").mkdir()
    for name in ("conf.py", "_static", "offline.js"):
        (folder / "docs" / name).symlink_to(ROOT / "docs" / name)
    (folder / "docs" / "index.md").write_text(INDEX, encoding="utf-8")
    text = (ROOT / "docs" / "will-it-fit.md").read_text(encoding="utf-8")
    (folder / "docs" / "will-it-fit.md").write_text(LINK.sub(r"\1", text), encoding="utf-8")
    (folder / "pyproject.toml").write_text('[project]\nname = "course"\n', encoding="utf-8")
    website.build(folder, [], folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def address(site):
    with served(site) as url:
        yield url


class LivePage:
    """The page in a browser context of its own, whose requests to other servers fail."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.requests = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.address = address

    def open(self, fragment=""):
        self.page.goto(f"{self.address}will-it-fit.html{fragment}")
        self.wait_for(1)
        return self

    def tool(self, name="fit"):
        return self.page.locator(f'[data-tool="{name}"]')

    def answer(self, name="fit"):
        return self.tool(name).locator(".live-answer")

    def computed(self, name="fit"):
        return int(self.answer(name).get_attribute("data-computed") or 0)

    def wait_for(self, count, name="fit"):
        expect(self.answer(name)).to_have_attribute("data-computed", str(count), timeout=PATIENCE)

    def change(self, name, texts):
        """Change fields of a tool as one change, and return the seconds until the answer."""
        script = """async ([name, texts]) => {
            const tool = document.querySelector(`[data-tool="${name}"]`);
            const answer = tool.querySelector(".live-answer"), form = tool.querySelector("form");
            const before = answer.dataset.computed, started = performance.now();
            for (const [key, text] of Object.entries(texts)) {
                const field = form.elements[key];
                if (field.type === "checkbox") field.checked = text === "1";
                else field.value = text;
            }
            form.dispatchEvent(new Event("input", {bubbles: true}));
            while (answer.dataset.computed === before) await new Promise(requestAnimationFrame);
            return (performance.now() - started) / 1000;
        }"""
        return self.page.evaluate(script, [name, texts])


@pytest.fixture
def opened(browser, address):
    """Return a function that opens the page, with options of the browser context."""
    pages = []

    def open_page(fragment="", **options):
        pages.append(LivePage(browser, address, **options))
        return pages[-1].open(fragment)

    yield open_page
    for each in pages:
        each.context.close()
        assert each.errors == []


def test_the_answers_equal_those_of_this_python(opened):
    """Compare 300 random settings of the calculator, and 20 of each other tool, byte for byte."""
    live_page = opened()
    generator = random.Random(29)
    for name, tool in live.TOOLS.items():
        cases = [random_texts(tool, generator) for _ in range(300 if name == "fit" else 20)]
        found = live_page.page.evaluate(
            """async ([name, cases]) => {
                const worker = new Worker("_static/live-worker.mjs", {type: "module"});
                const answers = [];
                for (const texts of cases) {
                    worker.postMessage({id: 0, tool: name, texts});
                    answers.push(await new Promise((resolve) => {
                        worker.onmessage = ({data}) => {
                            if (!data.ready) resolve(data.html ?? data.failure);
                        };
                    }));
                }
                worker.terminate();
                return answers;
            }""",
            [name, cases],
        )
        expected = [live.answer(name, case) for case in cases]
        assert found == expected
        alerts = sum("alert" in markup for markup in expected)
        assert alerts < len(cases) / 2, "most of the random settings should have an answer"


def random_texts(tool, generator):
    """Return a random text for each control of a tool."""
    texts = {}
    for name, control in tool.controls.items():
        match control.kind:
            case "menu":
                # The reader's own config has a test of its own.
                values = [value for value in control.options if value != "config"]
                texts[name] = control.write(generator.choice(values))
            case "checkbox":
                texts[name] = generator.choice("01")
            case "number":
                # Small numbers are more often allowed, and more often interesting.
                most = min(control.most, 4 * control.value)
                texts[name] = str(generator.randint(control.least, most))
    return texts


def test_the_static_answer_is_the_computed_one(site):
    page = (site / "will-it-fit.html").read_text(encoding="utf-8")
    for name in live.TOOLS:
        assert live.answer(name, {}) in page


def test_the_page_asks_no_other_server_and_works_offline(opened, address):
    live_page = opened()
    page = live_page.page
    page.wait_for_function("document.documentElement.dataset.offline === 'ready'")
    assert all(url.startswith(address) for url in live_page.requests)
    live_page.context.set_offline(True)
    page.reload()
    live_page.wait_for(1)
    live_page.change("fit", {"model": "llama-7b", "method": "full"})
    expect(live_page.answer()).to_contain_text("No, it does not fit on a T4.")
    live_page.change("bins", {"form": "int"})
    expect(live_page.answer("bins")).to_contain_text("int: equal steps has a squared error of")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(opened, scheme, width, height):
    size = {"width": width, "height": height}
    live_page = opened(color_scheme=scheme, viewport=size)
    page = live_page.page
    live_page.change("fit", {"method": "full", "model": "llama-7b"})
    page.evaluate("document.querySelectorAll('.live-tool details').forEach((d) => (d.open = true))")
    found = Axe().run(page, context=".live-tool")
    # A hidden link of the theme and its sidebars are checked by their own project.
    assert [violation["id"] for violation in found.response["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=PICTURES / f"live-{scheme}-{width}.png", full_page=True)


def test_a_button_of_the_answer_sets_the_form_and_a_bad_number_gives_a_message(opened):
    live_page = opened()
    expect(live_page.page.locator(".live-waiting")).to_have_count(0)
    live_page.change("fit", {"batch_size": "8", "sequence_length": "2048"})
    expect(live_page.answer()).to_contain_text("What would fit on a T4 instead?")
    live_page.answer().get_by_role("button", name="micro-batches of").click()
    expect(live_page.answer()).to_contain_text("Yes, it fits on a T4.")
    size = int(live_page.tool().get_by_label("Texts in a batch").input_value())
    # This setting belongs to the folded settings.
    count = int(live_page.tool().locator('[name="accumulation"]').input_value())
    assert size < 8 and size * count == 8
    live_page.change("fit", {"sequence_length": "0"})
    message = "Tokens in a text must be a whole number from 1 to 1,048,576, but is 0."
    expect(live_page.answer().get_by_role("alert")).to_have_text(message)
    times = [live_page.change("fit", {"sequence_length": str(n)}) for n in (500, 600, 700)]
    expect(live_page.answer()).to_contain_text("Yes, it fits on a T4.")
    # The limit has room for a machine that runs other tests meanwhile.
    assert min(times) < 0.5


def test_the_form_works_with_the_keyboard_alone(opened):
    live_page = opened()
    page, tool = live_page.page, live_page.tool()
    tool.get_by_label("Model", exact=True).focus()
    page.keyboard.type("llama-7b")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "method"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(live_page.answer()).to_contain_text("No, it does not fit on a T4.")
    # Full fine-tuning has no rank, so the next fields follow immediately.
    for name in ("gpu", "batch_size", "sequence_length", "optimizer"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == name
    tool.get_by_text("Every term of the sum").focus()
    page.keyboard.press("Enter")
    expect(tool.get_by_role("table").filter(has_text="formula")).to_be_visible()


def test_a_link_holds_the_settings(opened):
    first = opened()
    first.change("fit", {"model": "llama-7b", "method": "full", "gpu": "H100", "batch_size": "3"})
    assert first.page.url.endswith("#model=llama-7b&method=full&gpu=H100&batch_size=3")
    first.tool().get_by_role("button", name="Copy a link").click()
    expect(first.tool().get_by_role("button", name="Copied")).to_be_visible()
    link = first.page.evaluate("navigator.clipboard.readText()")
    second = opened(link.partition("html")[2])
    expect(second.answer()).to_have_text(first.answer().inner_text(), use_inner_text=True)
    expect(second.tool().get_by_label("Texts in a batch")).to_have_value("3")
    second.tool().get_by_role("button", name="Start again").click()
    expect(second.answer()).to_contain_text("Yes, it fits on a T4.")
    assert second.page.url.endswith("will-it-fit.html")


@pytest.mark.parametrize(
    ("fragment", "size"),
    [
        ("#about-this-page", "1"),
        ("#model=none&rank=x&a=b", "1"),
        ("#gradient_checkpointing=true&model=gpt5&batch_size=2&rank=many", "2"),
    ],
)
def test_a_link_to_a_heading_or_with_nonsense_does_no_harm(opened, fragment, size):
    tool = opened(fragment).tool()
    expect(tool.get_by_label("Model", exact=True)).to_have_value("llama-3.1-8b")
    expect(tool.get_by_label("Gradient checkpointing")).to_be_checked()
    expect(tool.get_by_label("Texts in a batch")).to_have_value(size)
    expect(tool.get_by_label("Rank r")).to_have_value("16")


def test_the_answers_follow_the_forms_after_going_back(opened):
    live_page = opened()
    live_page.change("bins", {"bits": "3"})
    live_page.change("fit", {"batch_size": "2"})
    live_page.page.goto(f"{live_page.address}index.html")
    live_page.page.go_back()
    bits = live_page.tool("bins").get_by_label("Bits", exact=True).input_value()
    expect(live_page.answer("bins")).to_contain_text(f"NormalFloat, {bits} bits")
    texts = {"batch_size": live_page.tool().get_by_label("Texts").input_value()}
    total = re.search(r"total</th><td>([\d,]+)", live.answer("fit", texts))[1]
    expect(live_page.answer()).to_contain_text(total)


# A worker that answers with the rank, or fails if the rank is 13, and never answers if it is 14.
WORKER = """\
postMessage({ready: true});
onmessage = ({data: {id, texts: {rank}}}) => {
  if (rank === "13") postMessage({id, failure: "a rank of 13"});
  else if (rank !== "14") postMessage({id, html: `<p data-say>rank ${rank}</p>`});
};
"""


@pytest.mark.parametrize(("rank", "reason"), [("13", "a rank of 13"), ("14", "it took too long")])
def test_python_starts_again_after_an_answer_that_fails(browser, address, rank, reason):
    live_page = LivePage(browser, address)
    live_page.context.route(
        "**/live-worker.mjs",
        lambda route: route.fulfill(body=WORKER, content_type="text/javascript"),
    )
    live_page.page.clock.install()
    live_page.open()
    field = live_page.tool().get_by_label("Rank r")
    field.fill(rank)
    live_page.page.clock.fast_forward(16_000)
    status = live_page.tool().locator(".live-status")
    expect(status).to_contain_text(f"Python can't compute an answer to these settings ({reason})")
    field.fill("15")
    expect(live_page.answer()).to_have_text("rank 15")
    expect(status).to_have_class(re.compile("visually-hidden"))
    live_page.context.close()


def test_the_python_code_can_be_copied_and_run(opened):
    live_page = opened()
    live_page.tool().get_by_text("The same in Python").click()
    live_page.tool().get_by_role("button", name="Copy the code").click()
    scope = {}
    exec(live_page.page.evaluate("navigator.clipboard.readText()"), scope)
    assert f"{scope['e'].total:,}" in live_page.answer().text_content()


def test_a_config_can_be_pasted_chosen_or_read_from_the_hub(opened, tmp_path):
    live_page = opened()
    tool = live_page.tool()
    live_page.change("fit", {"model": "config"})
    expect(live_page.answer().get_by_role("alert")).to_contain_text("Please paste the config.json")
    expected = live.answer("fit", {"model": "config", "config": json.dumps(CONFIG)})
    pasted = json.dumps(CONFIG)
    tool.get_by_label("config.json of your model").fill(pasted)
    total = re.search(r"total</th><td>([\d,]+)", expected)[1]
    expect(live_page.answer()).to_contain_text(total)

    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}), encoding="utf-8")
    tool.get_by_label("or a file").set_input_files(file)
    expect(live_page.answer()).not_to_contain_text(total)

    asked = []

    def hub(route):
        asked.append(route.request.url)
        route.fulfill(body=pasted, headers={"Access-Control-Allow-Origin": "*"})

    live_page.context.route("https://huggingface.co/**", hub)
    field = tool.get_by_label("or its name on the Hugging Face hub")
    field.fill("https://example.org")
    tool.get_by_role("button", name="Get it").click()
    status = tool.locator("[data-config-status]")
    expect(status).to_have_text("Please enter a name such as Qwen/Qwen3-4B.")
    assert asked == []
    field.fill(" owner/model ")
    tool.get_by_role("button", name="Get it").click()
    expect(status).to_have_text("This is the config.json of owner/model.")
    expect(live_page.answer()).to_contain_text(total)
    assert asked == ["https://huggingface.co/owner/model/resolve/main/config.json"]

    live_page.change("fit", {"gpu": "H100"})
    expect(status).to_have_text("")
    file.write_text(" " * 100_001, encoding="utf-8")
    tool.get_by_label("or a file").set_input_files(file)
    expect(status).to_contain_text("config.json has 100,001 bytes, so it is no config.json")
    expect(live_page.answer()).to_contain_text(total)


def test_the_config_that_was_asked_for_last_is_used(opened):
    live_page = opened("#model=config")
    asked = []

    def hub(route):
        asked.append(route)

    live_page.context.route("https://huggingface.co/**", hub)
    field = live_page.tool().get_by_label("or its name on the Hugging Face hub")
    for name in ("a/slow", "a/fast"):
        field.fill(name)
        field.press("Enter")
    live_page.page.wait_for_timeout(200)
    slow, fast = asked
    for route, layers in ((fast, 3), (slow, 2)):
        route.fulfill(
            body=json.dumps(CONFIG | {"num_hidden_layers": layers}),
            headers={"Access-Control-Allow-Origin": "*"},
        )
    status = live_page.tool().locator("[data-config-status]")
    expect(status).to_have_text("This is the config.json of a/fast.")
    live_page.page.wait_for_timeout(200)
    pasted = live_page.tool().get_by_label("config.json of your model").input_value()
    assert json.loads(pasted)["num_hidden_layers"] == 3


@pytest.mark.parametrize("failure", ["abort", "404", "a page"])
def test_a_hub_that_does_not_answer_gives_a_message(opened, failure):
    live_page = opened()
    live_page.change("fit", {"model": "config"})

    def hub(route):
        if failure == "abort":
            route.abort()
        else:
            status, headers = 404 if failure == "404" else 200, {"Access-Control-Allow-Origin": "*"}
            route.fulfill(status=status, body="<!doctype html>", headers=headers)

    live_page.context.route("https://huggingface.co/**", hub)
    live_page.tool().get_by_label("or its name on the Hugging Face hub").fill("owner/model")
    live_page.tool().get_by_role("button", name="Get it").click()
    status = live_page.tool().locator("[data-config-status]")
    expect(status).to_contain_text("The config.json of owner/model can't be read")
    expect(status).to_contain_text("choose the file, or paste its text")


WASM = "**/pyodide.asm.wasm"


@pytest.mark.parametrize(
    ("missing", "failure"),
    [
        *((name, {}) for name in (WASM, "**/course.zip", "**/live-worker.mjs")),
        (WASM, {"status": 404}),
        (WASM, {"body": "<!doctype html>", "content_type": "text/html"}),
    ],
)
def test_without_python_the_page_says_so_and_keeps_its_first_answer(
    browser, address, missing, failure
):
    live_page = LivePage(browser, address)
    live_page.context.route(
        missing, lambda route: route.fulfill(**failure) if failure else route.abort()
    )
    live_page.page.goto(f"{address}will-it-fit.html")
    first = live_page.answer().inner_text()
    status = live_page.tool().locator(".live-status")
    expect(status).to_contain_text("Python can't run in this browser", timeout=PATIENCE)
    expect(live_page.tool().locator(".live-waiting")).to_be_visible()
    assert status.bounding_box()["width"] > 100, "the message is hidden"
    assert live_page.answer().inner_text() == first
    live_page.context.close()


def test_a_server_that_does_not_know_webassembly_is_no_problem(browser, address):
    live_page = LivePage(browser, address)
    live_page.context.route(
        WASM, lambda route: route.fulfill(response=route.fetch(), content_type="text/plain")
    )
    live_page.open()
    live_page.context.close()


def test_without_scripts_the_page_shows_its_first_answers_and_says_what_it_needs(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}will-it-fit.html")
    fit = page.locator('[data-tool="fit"]')
    expect(fit.locator(".live-waiting")).to_contain_text("the page needs JavaScript")
    expect(fit.locator(".live-answer")).to_contain_text("Yes, it fits on a T4.")
    expect(fit.locator("[name=config]")).to_be_hidden()
    context.close()


# --- the files for the browser --------------------------------------------------------------------


def test_the_page_loads_bytecode(site):
    with zipfile.ZipFile(site / "_static" / "course.zip") as archive:
        names = archive.namelist()
    assert "workshop/publishing/live/fit.pyc" in names and "course_utils/memory/step.pyc" in names
    assert all(name.endswith(".pyc") for name in names)
    assert not any("explorers" in name or "grading" in name for name in names)
    with zipfile.ZipFile(site / "_static/pyodide/python_stdlib.zip") as archive:
        names = archive.namelist()
    assert "dataclasses.pyc" in names and "encodings/idna.py" in names
    assert not any(name.startswith("turtle") for name in names)


def test_needed_modules_are_compiled_and_others_are_left_out(tmp_path):
    path = tmp_path / "modules.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first.py", '"""Doc."""\nassert False\nvalue = 1\n')
        archive.writestr("second.py", "value = 2\n")
        archive.writestr("pyodide/third.py", "value = 3\n")
    source = path.read_bytes()
    path.write_bytes(bytecode.with_bytecode(source, {"first.py", "missing.py"}))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["first.pyc", "pyodide/third.py"]
    code = "import first; print(first.value, first.__doc__)"
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "1 None\n", done.stderr
    path.write_bytes(bytecode.with_bytecode(source))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["first.pyc", "second.pyc", "pyodide/third.pyc"]


def test_another_package_than_the_expected_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(live_tools, "SHA512", "0")
    with pytest.raises(CourseError, match="has another checksum than the course expects"):
        live_tools.write_python(tmp_path / "out")
    assert not list(tmp_path.glob("*.tgz"))


def test_npm_without_a_network_gives_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(live_tools, "PYODIDE", "pyodide-0.0.1.tgz")
    with pytest.raises(CourseError, match=r"npm can't download pyodide@0\.0\.1: "):
        live_tools.write_python(tmp_path / "out")


def test_an_unknown_tool_is_an_error():
    with pytest.raises(ValueError, match="the name of a tool must be 'fit' or 'bins'"):
        live_tools.tool("fitt")
