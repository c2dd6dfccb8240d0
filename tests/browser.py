"""The course where its readers open it: JupyterLab, Notebook 7 and Voila, seen through Chromium.

A `FrontEnd` says how such a program is started and what its pages are made of. `Server` runs one
with copies of notebooks and settings of its own; `Opened` is a notebook on a page of it; `Explorer`
finds one explorer of `course_utils.explorers` there and uses its controls. `chromium` opens a
browser, `run_whole` runs one notebook from its first cell to its last.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Playwright,
    expect,
    sync_playwright,
)
from playwright.sync_api import TimeoutError as NotInTime

from course_utils.runtime import process_peak
from tests.machine import free_port

BROWSERS = ("google-chrome", "chromium", "chromium-browser")
PICTURES = Path(__file__).resolve().parents[1] / "build" / "browser"
PATIENCE = 30  # seconds until something counts as not coming: the machine may be busy
PROGRESS = r"\s*(\d+%\|.*)?"  # a line of tqdm's, which writes on stderr
# axe passes over what is out of sight: in JupyterLab all, as the body around it has no height.
UNCOVERED = """:has(.jp-Cell) { overflow: visible !important }
* { content-visibility: visible !important }"""
NOTIFICATIONS = {"fetchNews": "false", "checkForUpdates": False}  # neither pop-ups nor network
expect.set_options(timeout=1000 * PATIENCE)


@dataclass(frozen=True)
class FrontEnd:
    """A program that shows notebooks.

    name: begins the names of its pictures. command: starts it in the folder of the course, from
    the environment's programs. place: where it shows lectures/NAME.ipynb. loaded: a selector of
    what is there once a reader can begin. harmless: a pattern of what its own scripts complain
    about, whatever the notebook. runs_itself: whether it shows outputs alone, of cells that it has
    run before the page is there.
    """

    name: str
    command: tuple[str, ...]
    place: str
    loaded: str
    harmless: str = r"(?!)"  # nothing
    runs_itself: bool = False


JUPYTERLAB = FrontEnd(
    "lab",
    ("course", "lab"),
    "lab/workspaces/{name}/tree/lectures/{name}.ipynb",  # a workspace without other notebooks
    ".jp-Cell.jp-mod-active:focus",  # keys are heard now
)
NOTEBOOK = FrontEnd(
    "notebook",
    ("jupyter-notebook", "--allow-root"),
    "notebooks/lectures/{name}.ipynb",
    ".jp-Cell.jp-mod-active",  # it may not have the focus
    # 7.6.5 looks up the shortcuts of an extension before they are read.
    harmless=r"Cannot read properties of undefined \(reading 'schema'\)",
)
VOILA = FrontEnd(
    "voila",
    # A cell's error with what it was, and what stands on stderr: else neither would be seen here.
    ("voila", ".", "--show_tracebacks=True"),
    "voila/render/lectures/{name}.ipynb",
    ".jp-Cell",
    # It wants symbols from the network, and loads extensions of JupyterLab whose parts it lacks.
    harmless=r"cdn\.jsdelivr\.net|[Ss]hared module",
    runs_itself=True,
)
FRONT_ENDS = {"jupyterlab": JUPYTERLAB, "notebook7": NOTEBOOK, "voila": VOILA}


class Server:
    """A front end in an empty folder that gets copies of notebooks, as a context manager.

    The copies, and what Jupyter writes, stay in that folder. Raises RuntimeError, with the end of
    the server's log, where it doesn't start.
    """

    def __init__(self, folder: Path, notebooks: list[Path], front_end: FrontEnd = JUPYTERLAB):
        # By these two `course` knows its folder.
        (folder / "lectures").mkdir()
        (folder / "course_utils").symlink_to(Path(__file__).resolve().parents[1] / "course_utils")
        for path in notebooks:
            shutil.copy(path, folder / "lectures")
        settings = folder / "config/lab/user-settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(NOTIFICATIONS))
        self.folder, self.front_end, self.log = folder, front_end, folder / "log"

    def __enter__(self) -> Server:
        own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
        own |= {"JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
        places = {name: str(self.folder / place) for name, place in own.items()}
        program, *options = self.front_end.command
        program = shutil.which(program, path=str(Path(sys.executable).parent))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [program, *options, "--no-browser", f"--port={free_port()}"],
                cwd=self.folder,
                env=os.environ | places,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the server
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.url, self.token = self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait(self) -> tuple[str, str]:
        """The address and the token that the server names once it answers."""
        end = time.monotonic() + PATIENCE
        named = re.compile(r"is running at:\n(?:\[.*?\] )?(http://\S+?:\d+/)(?:\S*token=(\w+))?")
        while self.process.poll() is None and time.monotonic() < end:
            if found := named.search(self.log.read_text()):
                return found[1], found[2] or ""
            time.sleep(0.05)
        raise RuntimeError(f"{self.front_end.name} doesn't start:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *_) -> None:
        """Ask the server to stop, with its kernels, and wait until it has."""
        family = self.family()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            for process in (self.process, *family):
                with contextlib.suppress(psutil.NoSuchProcess):  # as it should be
                    process.kill()

    def family(self) -> list[psutil.Process]:
        """The processes that the server has started, its kernels among them; none if it is gone."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kernel_peak(self) -> int:
        """Most resident bytes that a kernel of this server has had so far; 0 if there is none."""
        peaks = [0]
        for process in self.family():
            with contextlib.suppress(psutil.Error, OSError):  # it has ended
                if "ipykernel_launcher" in process.cmdline():
                    peaks.append(process_peak(process.pid))
        return max(peaks)

    def address(self, notebook: str) -> str:
        """Where the front end shows one of the notebooks."""
        place = self.front_end.place.format(name=Path(notebook).stem)
        return f"{self.url}{place}?token={self.token}"


def chromium(playwright: Playwright) -> Browser:
    """A headless Chromium: this system's, else Playwright's own; without either the test skips."""
    found = [shutil.which(name) for name in BROWSERS] + [playwright.chromium.executable_path]
    for path in filter(None, found):
        if Path(path).exists():
            return playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
    pytest.skip(
        "no browser: install Chromium (Debian: apt install chromium) or Google Chrome, "
        "or run `.venv/bin/playwright install chromium`"
    )


def is_progress(text: str) -> bool:
    """Whether a text consists of progress bars alone."""
    return all(re.fullmatch(PROGRESS, line) for line in re.split(r"[\r\n]+", text))


class Opened:
    """A notebook on a page of a front end, with no network but the server.

    faults: what went wrong anywhere on the page. A front end doesn't show a traceback from a
    control's callback, so the kernel's messages are read as well.
    """

    def __init__(self, page: Page, server: Server, notebook: str, patience: float = PATIENCE):
        """patience: s until Voila, which runs the notebook first, must have shown all of it."""
        self.page, self.front_end, self.faults = page, server.front_end, []
        self.kernel_is_there = False
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: self.note(str(error)))
        page.on("console", self.hear)
        page.on("websocket", lambda socket: socket.on("framereceived", self.read))
        page.route(lambda url: not url.startswith(server.url), lambda route: route.abort())
        page.goto(server.address(notebook), timeout=1000 * patience)
        page.locator(self.front_end.loaded).first.wait_for()
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Until the page has heard of its kernel: before that, a cell that is run is dropped."""
        end = time.monotonic() + PATIENCE
        while not self.kernel_is_there:
            assert time.monotonic() < end, "the notebook gets no kernel"
            self.page.wait_for_timeout(50)

    def note(self, fault: str) -> None:
        if not re.search(self.front_end.harmless, fault):
            self.faults.append(fault)

    def hear(self, message: ConsoleMessage) -> None:
        """Note down what the page's own scripts complain about."""
        if message.type == "error":
            self.note(f"{message.text} ({message.location['url']})")

    def read(self, frame: bytes | str) -> None:
        """Note down a kernel's message: a traceback, or a text on stderr that isn't progress."""
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        self.kernel_is_there |= "kernel_info_reply" in text
        said = re.search(r'"name": ?"stderr", ?"text": ?("(?:[^"\\]|\\.)*")', text)
        stderr = said and not is_progress(json.loads(said[1])) and "No such comm" not in text
        if stderr or re.search(r'"msg_type": ?"error"', text):
            self.faults.append(text)  # "No such comm": asked for before ipywidgets is imported

    def choose(self, *names: str) -> None:
        """Open a menu of the menu bar, and click an item by its name, through submenus if any."""
        menu, *items = names
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(menu, exact=True).click()
        for item in items:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()

    def run_all(self, patience: float, meanwhile=lambda: None) -> None:
        """Run all cells by the menu, and wait until the last is done.

        patience: s. meanwhile: called again and again. Raises NotInTime, or AssertionError where
        the front end asks something, such as what to do about a kernel that has died.
        """
        end = time.monotonic() + patience
        self.choose("Run", "Run All Cells")
        expect(self.prompts().first).not_to_have_text("[ ]:")
        while "[*]:" in self.prompts().all_text_contents() or not self.is_idle():
            meanwhile()
            dialogs = self.page.locator(".jp-Dialog").all_inner_texts()
            assert not dialogs, f"a dialog: {' '.join(dialogs[0].split())}"
            if time.monotonic() > end:
                raise NotInTime(f"not done after {patience:g} s")
            self.page.wait_for_timeout(250)

    def prompts(self) -> Locator:
        """What stands before each code cell, such as [1]: where it was the first to be run."""
        return self.page.locator(".jp-CodeCell .jp-InputPrompt")

    def is_idle(self) -> bool:
        status = self.page.locator(".jp-Notebook-ExecutionIndicator").get_attribute("data-status")
        return status == "idle"

    def violations(self, where: str | dict | None = None) -> dict[str, list[str]]:
        """What axe finds that keeps people out: its rule → a selector of each element at fault.

        where: what to look at, as axe has it, such as a selector; the whole page by default.
        """
        shown = self.page.add_style_tag(content=UNCOVERED)
        found = Axe().run(self.page, where).response["violations"]
        shown.evaluate("style => style.remove()")
        return {
            rule["id"]: [" ".join(map(str, node["target"])) for node in rule["nodes"]]
            for rule in found
        }

    def what_is_wrong(self, notebook: Path) -> str | None:
        """Why this can't count as the whole notebook, run without a fault; None if it can."""
        for mime in ("error", "stderr"):  # JupyterLab shows a traceback as stderr
            outputs = self.page.locator(f"[data-mime-type='application/vnd.jupyter.{mime}']")
            if texts := [text for text in outputs.all_text_contents() if not is_progress(text)]:
                return f"an output says: {texts[0].strip()}"
        if self.faults:
            return self.faults[0]
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        shown = self.page.locator(".jp-Notebook-cell").count()
        if shown != len(cells):
            return f"{shown} of {len(cells)} cells are there"
        if not self.front_end.runs_itself:
            code = sum(cell["cell_type"] == "code" for cell in cells)
            prompts = self.prompts().all_text_contents()
            if prompts != [f"[{n}]:" for n in range(1, code + 1)]:
                return f"the cells are numbered {' '.join(prompts)}"
        return None


def run_whole(kind: str, notebook: Path, timeout: float) -> dict:
    """Open a notebook as a reader does, let all of its cells run, and judge what is shown.

    kind: a key of FRONT_ENDS. timeout: s for the run. Returns `passed`; `error`, None or why not;
    `seconds` of the run, in Voila until its page is there; and `peak_memory`, bytes of the kernel.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), [notebook], FRONT_ENDS[kind]) as server,
        sync_playwright() as playwright,
    ):
        peak, error, browser = 0, None, chromium(playwright)

        def sample() -> None:
            nonlocal peak
            peak = max(peak, server.kernel_peak())

        started = time.monotonic()
        try:
            opened = Opened(browser.new_page(), server, notebook.name, patience=timeout)
            if not opened.front_end.runs_itself:
                started = time.monotonic()
                opened.run_all(timeout, meanwhile=sample)
            seconds = time.monotonic() - started
            error = opened.what_is_wrong(notebook)
        except (NotInTime, AssertionError) as fault:
            seconds, error = time.monotonic() - started, str(fault)
        sample()
        browser.close()
    return {"passed": error is None, "error": error, "seconds": seconds, "peak_memory": peak}


class Explorer(Opened):
    """One explorer in an opened notebook: the cell that shows it, its controls, what it says."""

    def __init__(
        self, page: Page, server: Server, notebook: str, name: str, patience: float = PATIENCE
    ):
        super().__init__(page, server, notebook, patience)
        self.name, self.runs = name, 0
        code = page.locator(".jp-CodeCell")
        if self.front_end.runs_itself:
            self.cell = code.filter(has=page.locator(".jupyter-widgets"))
        else:
            self.cell = code.filter(has_text=f"{name}()")
        self.output = self.cell.locator(".jp-OutputArea-output")
        self.picture = self.output.locator("img")
        self.numbers = self.output.locator("pre")
        self.alert = self.output.get_by_role("alert")

    def run(self) -> None:
        """Run the cell, which makes the explorer anew, and wait for its picture."""
        text = self.cell.locator(".cm-content")
        text.click()
        expect(text).to_be_focused()
        self.page.keyboard.press("Control+Enter")
        self.runs += 1
        expect(self.cell.locator(".jp-InputPrompt")).to_have_text(f"[{self.runs}]:")
        self.picture.wait_for()

    def control(self, label: str) -> Locator:
        """The control that a screen reader calls by this name."""
        return self.output.get_by_label(label, exact=True)

    def use(self, label: str, value: str | bool) -> None:
        """Give a control another value: pointed at, chosen, ticked or typed."""
        control = self.control(label)
        if isinstance(value, bool):
            control.set_checked(value)
        elif self.is_menu(control):
            control.select_option(value)
        else:
            control.click()
            self.enter(value)

    def use_keyboard(self, label: str, value: str | bool) -> None:
        """The same with the keyboard alone: Tab to the control, then keys."""
        control, keyboard = self.control(label), self.page.keyboard
        self.reach(control)
        if isinstance(value, bool):
            keyboard.press("Space")
        elif self.is_menu(control):
            keyboard.press("Space")  # a closed menu would leave its keys to the notebook
            keyboard.type(value)
            keyboard.press("Enter")
        else:
            self.enter(value)
        expect(control).to_be_focused()

    def reach(self, control: Locator) -> None:
        """Press Tab until a control has the focus."""
        self.page.keyboard.press("Escape")  # out of the cell's text, where Tab indents
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if control.evaluate("control => control === document.activeElement"):
                return
        raise AssertionError("the Tab key doesn't reach the control")

    def enter(self, value: str) -> None:
        """Type a number in the place of the one in the field that has the focus."""
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.type(value)
        self.page.keyboard.press("Enter")

    def is_menu(self, control: Locator) -> bool:
        return control.evaluate("control => control.tagName") == "SELECT"

    def shown(self) -> tuple[str, str, str]:
        """The picture, its alt text, and the numbers below it."""
        source, alt = (self.picture.get_attribute(name) for name in ("src", "alt"))
        return source, alt, self.numbers.text_content()  # also where it is out of sight

    def expect(self, number: str) -> tuple[str, str, str]:
        """Wait until the alt text holds a number; returns what is shown then."""
        expect(self.picture).to_have_attribute("alt", re.compile(re.escape(number)))
        return self.shown()

    def line_spacing(self) -> float:
        """From line to line of the numbers, in sizes of their letters."""
        look = "pre => [getComputedStyle(pre).lineHeight, getComputedStyle(pre).fontSize]"
        line, letter = self.numbers.evaluate(look)
        return float(line.removesuffix("px")) / float(letter.removesuffix("px"))

    def photograph(self, step: str) -> None:
        """Keep a picture of the cell in build/browser."""
        name = re.sub(r"\W+", "-", step.removeprefix("test_")).strip("-")
        self.cell.screenshot(path=PICTURES / f"{name}.png")

    def violations_inside(self) -> dict[str, list[str]]:
        """What axe finds in the explorer itself; see `violations`."""
        self.output.evaluate("output => output.setAttribute('data-explorer', '')")
        return self.violations("[data-explorer]")
