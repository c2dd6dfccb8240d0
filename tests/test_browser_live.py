"""Use the page "Will it fit?" as its reader does, with Python in the browser."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sphinx", reason="no Sphinx: pip install -e '.[site,test]'")
from course_utils.machine.validation import CourseError
from tests.browser import PICTURES, Axe, expect, served
from tests.test_live import CONFIG
from workshop.publishing import live, live_tools

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("website")]

# Python needs about 4 seconds to start. The limit is for a machine that runs other tests meanwhile.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def address(course_site):
    with served(course_site) as url:
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
        self.wait()
        return self

    def wait(self):
        """Wait until Python in the browser has computed the first answer."""
        expect(self.answer()).to_have_attribute("data-computed", "1", timeout=PATIENCE)

    def tool(self, name="fit"):
        return self.page.locator(f'[data-tool="{name}"]')

    def answer(self, name="fit"):
        return self.tool(name).locator(".live-answer")

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
    """Compare 60 random settings of the calculator, and 10 of each other tool, byte for byte."""
    live_page = opened()
    generator = random.Random(29)
    for name, tool in live.TOOLS.items():
        cases = [random_texts(tool, generator) for _ in range(60 if name == "fit" else 10)]
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


def test_the_page_asks_no_other_server_and_works_offline(opened, address):
    live_page = opened()
    page = live_page.page
    page.wait_for_function("document.documentElement.dataset.offline === 'ready'")
    assert all(url.startswith(address) for url in live_page.requests)
    live_page.context.set_offline(True)
    page.reload()
    live_page.wait()
    live_page.change("fit", {"model": "llama-7b", "method": "full"})
    expect(live_page.answer()).to_contain_text("No, it does not fit on a T4.")
    live_page.change("bins", {"form": "int"})
    expect(live_page.answer("bins")).to_contain_text("int: equal steps has a squared error of")


@pytest.mark.parametrize(("scheme", "width", "height"), [("light", 1280, 900), ("dark", 390, 844)])
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
    live_page.change("fit", {"batch_size": "64"})
    expect(live_page.answer()).to_contain_text("What would fit instead?")
    live_page.answer().get_by_role("button", name="micro-batches of").click()
    expect(live_page.answer()).to_contain_text("Yes, it fits on a T4.")
    size = int(live_page.tool().get_by_label("Texts in a batch").input_value())
    # This setting belongs to the folded settings.
    count = int(live_page.tool().locator('[name="accumulation"]').input_value())
    assert size < 64 and size * count == 64
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
    for name in ("full_trainer", "gpu", "batch_size", "sequence_length", "optimizer"):
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


def test_a_link_with_nonsense_does_no_harm(opened):
    tool = opened("#gradient_checkpointing=true&model=gpt5&batch_size=2&rank=many&a=b").tool()
    expect(tool.get_by_label("Model", exact=True)).to_have_value("llama-3.1-8b")
    expect(tool.get_by_label("Gradient checkpointing")).to_have_value("auto")
    expect(tool.get_by_label("Texts in a batch")).to_have_value("2")
    expect(tool.get_by_label("Rank r")).to_have_value("8")


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
        if "gone" in asked[-1]:
            return route.abort()
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
    field.fill("owner/gone")
    tool.get_by_role("button", name="Get it").click()
    expect(status).to_contain_text("The config.json of owner/gone can't be read")
    expect(status).to_contain_text("choose the file, or paste its text")
    file.write_text(" " * 100_001, encoding="utf-8")
    tool.get_by_label("or a file").set_input_files(file)
    expect(status).to_contain_text("config.json has 100,001 bytes, so it is no config.json")
    expect(live_page.answer()).to_contain_text(total)


@pytest.mark.parametrize("missing", ["**/pyodide.asm.wasm", "**/live-worker.mjs"])
def test_without_python_the_page_says_so_and_keeps_its_first_answer(browser, address, missing):
    live_page = LivePage(browser, address)
    live_page.context.route(missing, lambda route: route.abort())
    live_page.page.goto(f"{address}will-it-fit.html")
    first = live_page.answer().inner_text()
    status = live_page.tool().locator(".live-status")
    expect(status).to_contain_text("Python can't run in this browser", timeout=PATIENCE)
    expect(live_page.tool().locator(".live-waiting")).to_be_visible()
    assert status.bounding_box()["width"] > 100, "the message is hidden"
    assert live_page.answer().inner_text() == first
    live_page.context.close()


def test_without_scripts_the_page_shows_its_first_answers_and_says_what_it_needs(browser, address):
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"{address}will-it-fit.html")
    fit = page.locator('[data-tool="fit"]')
    expect(fit.locator(".live-waiting")).to_contain_text("the page needs JavaScript")
    expect(fit.locator(".live-answer")).to_contain_text("Yes, it fits on a T4.")
    expect(fit.locator("[name=config]")).to_be_hidden()
    page.close()


# --- the files for the browser --------------------------------------------------------------------


def test_another_package_than_the_expected_one_is_refused(tmp_path, monkeypatch):
    def npm(arguments, **_):
        folder = Path(arguments[-1].removeprefix("--pack-destination="))
        (folder / live_tools.PYODIDE).write_bytes(b"another package")
        return SimpleNamespace(returncode=0)

    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(live_tools, "_node", lambda: SimpleNamespace(npm=npm))
    with pytest.raises(CourseError, match="has another checksum than the course expects"):
        live_tools.write_python(tmp_path / "out")
    assert not list(tmp_path.glob("*.tgz"))
