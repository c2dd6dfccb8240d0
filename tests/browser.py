"""Open notebooks in JupyterLab, Notebook 7 and Voila with Chromium, as readers of the course do.

A `FrontEnd` describes how one of these programs is started and what its pages contain. `Server`
runs a front end with copies of notebooks and with its own settings. `OpenNotebook` is a notebook on
a page of a server. `Explorer` finds an explorer on such a page and uses its controls. `chromium`
opens a browser.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,site,test]'")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, expect
from playwright.sync_api import TimeoutError as PageTimeout

from course_utils.machine.lab import SETTINGS
from tests.cells import code_cell, notebook, write_notebook
from tests.machine import free_port
from workshop.publishing.lecture import is_hidden

BROWSERS = ("google-chrome", "chromium", "chromium-browser")
PICTURES = Path(__file__).resolve().parents[1] / "build" / "browser"
# The time limit in seconds for one change of a page. It is long, because the machine may be busy.
PATIENCE = 120
# The messages of a kernel that tell that it has started, and that it has begun to run a cell.
MESSAGES = ("kernel_info_reply", "execute_input")
# A line of a progress bar, which tqdm writes to stderr.
PROGRESS = r"\s*(\d+%\|.*)?"
# axe ignores hidden elements. The body of JupyterLab has no height, so all its elements are hidden.
SHOW_ALL = """:has(.jp-Cell) { overflow: visible !important }
* { content-visibility: visible !important }"""
expect.set_options(timeout=1000 * PATIENCE)


@dataclass(frozen=True)
class FrontEnd:
    """A program that shows notebooks.

    Attributes:
        name: the beginning of the names of its screenshots.
        command: the program of the environment and its options. It is started in the course folder.
        path: the path of the URL that shows lectures/NAME.ipynb.
        loaded: a selector of an element that exists as soon as a reader can begin.
        ignored: a pattern of the errors that the program's own scripts report for any notebook. The
            default matches nothing.
        runs_on_load: whether the program runs all cells before the page appears, and shows only
            their outputs.
    """

    name: str
    command: tuple[str, ...]
    path: str
    loaded: str
    ignored: str = r"(?!)"
    runs_on_load: bool = False


JUPYTERLAB = FrontEnd(
    "lab",
    ("course", "lab"),
    # The workspace of a notebook has no other open notebooks.
    "lab/workspaces/{name}/tree/lectures/{name}.ipynb",
    # A cell with the focus reacts to keys.
    ".jp-Cell.jp-mod-active:focus",
    # JupyterLab asks for the list of kernels from time to time. If a kernel ends at this moment,
    # the server may answer with an error, and JupyterLab asks again.
    ignored=r"status of 500 .*/api/kernels\?\d+\)",
)
NOTEBOOK = FrontEnd(
    "notebook",
    ("jupyter-notebook", "--allow-root"),
    "notebooks/lectures/{name}.ipynb",
    # The active cell of Notebook 7 may lack the focus.
    ".jp-Cell.jp-mod-active",
    # Notebook 7.6.5 uses the shortcuts of an extension before they are loaded.
    ignored=r"Cannot read properties of undefined \(reading 'schema'\)",
)
VOILA = FrontEnd(
    "voila",
    # With this option, the page shows errors of cells and texts on stderr.
    ("voila", ".", "--show_tracebacks=True"),
    "voila/render/lectures/{name}.ipynb",
    ".jp-Cell",
    # Voila requests symbols from the network, and loads extensions of JupyterLab that need modules
    # that Voila lacks.
    ignored=r"cdn\.jsdelivr\.net|[Ss]hared module",
    runs_on_load=True,
)
FRONT_ENDS = {"jupyterlab": JUPYTERLAB, "notebook7": NOTEBOOK, "voila": VOILA}
# The parameters of tests in each front end. Only JupyterLab belongs to the full tier.
TIERS = [
    pytest.param(kind, marks=pytest.mark.full if kind == "jupyterlab" else pytest.mark.slow)
    for kind in FRONT_ENDS
]


class Server:
    """A context manager that runs a front end in a folder with copies of notebooks.

    The copies and all files that Jupyter writes remain in this folder.

    Args:
        folder: an empty folder.
        notebooks: the notebooks to copy.
        front_end: the program to start.

    Raises:
        RuntimeError: the server does not start. The message contains the end of the server's log.
    """

    def __init__(self, folder: Path, notebooks: list[Path], front_end: FrontEnd = JUPYTERLAB):
        pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
        # The command `course` recognizes the course folder by these two folders.
        (folder / "lectures").mkdir()
        (folder / "course_utils").symlink_to(Path(__file__).resolve().parents[1] / "course_utils")
        for path in notebooks:
            shutil.copy(path, folder / "lectures")
        self.folder, self.front_end, self.log = folder, front_end, folder / "log"

    def __enter__(self) -> Server:
        folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
        folders |= {"JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
        settings = {name: str(self.folder / place) for name, place in folders.items()}
        # The command `course lab` adds this folder itself.
        if self.front_end != JUPYTERLAB:
            settings["JUPYTER_CONFIG_PATH"] = str(SETTINGS)
        program, *options = self.front_end.command
        path = shutil.which(program, path=str(Path(sys.executable).parent)) or program
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [path, *options, "--no-browser", f"--port={free_port()}"],
                cwd=self.folder,
                env=os.environ | settings,
                # Ctrl-C then interrupts only pytest, which stops the server.
                start_new_session=True,
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
        """Wait until the server answers, and return its address and its token."""
        end = time.monotonic() + PATIENCE
        pattern = re.compile(r"is running at:\n(?:\[.*?\] )?(http://\S+?:\d+/)(?:\S*token=(\w+))?")
        while self.process.poll() is None and time.monotonic() < end:
            if match := pattern.search(self.log.read_text()):
                return match[1], match[2] or ""
            time.sleep(0.05)
        raise RuntimeError(f"{self.front_end.name} does not start:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *_) -> None:
        """Stop the server and its kernels, and wait until they have ended."""
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

    def address(self, notebook: str) -> str:
        """Return the address at which the front end shows one of the notebooks."""
        path = self.front_end.path.format(name=Path(notebook).stem)
        return f"{self.url}{path}?token={self.token}"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """Write nothing about a request."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine, and yield the address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def chromium(playwright: Playwright) -> Browser:
    """Open a headless Chromium, of the system or of Playwright; skip the test without either."""
    paths = [*map(shutil.which, BROWSERS), playwright.chromium.executable_path]
    for path in filter(None, paths):
        if Path(path).exists():
            return playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
    pytest.skip(
        "no browser: install Chromium (Debian: apt install chromium) or Google Chrome, "
        "or run `.venv/bin/playwright install chromium`"
    )


def is_progress(text: str) -> bool:
    """Return whether a text contains only progress bars."""
    return all(re.fullmatch(PROGRESS, line) for line in re.split(r"[\r\n]+", text))


class OpenNotebook:
    """A notebook on a page of a front end. The page can reach only the server.

    Args:
        page: an empty page of the browser.
        server: the server that has a copy of the notebook.
        notebook: the file name of the notebook.
        patience: the time limit in seconds for the appearance of the page. Voila runs all cells
            before the page appears.

    Attributes:
        errors: the errors of the page and of the kernel. The kernel's messages are read because a
            front end does not show a traceback of a control's callback.
    """

    def __init__(self, page: Page, server: Server, notebook: str, patience: float = PATIENCE):
        self.page, self.front_end = page, server.front_end
        self.errors: list[str] = []
        self.messages: set[str] = set()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: self.add_error(str(error)))
        page.on("console", self.on_console_message)
        page.on("websocket", lambda socket: socket.on("framereceived", self.on_kernel_message))
        page.route(lambda url: not url.startswith(server.url), lambda route: route.abort())
        page.goto(server.address(notebook), timeout=1000 * patience)
        page.locator(self.front_end.loaded).first.wait_for()
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Wait until the page is connected to its kernel. Earlier, cells would not be run."""
        end = time.monotonic() + PATIENCE
        while "kernel_info_reply" not in self.messages:
            assert time.monotonic() < end, "the notebook has no kernel"
            self.page.wait_for_timeout(50)

    def add_error(self, error: str) -> None:
        if not re.search(self.front_end.ignored, error):
            self.errors.append(error)

    def on_console_message(self, message: ConsoleMessage) -> None:
        """Store an error of the page's scripts."""
        if message.type == "error":
            self.add_error(f"{message.text} ({message.location['url']})")

    def on_kernel_message(self, frame: bytes | str) -> None:
        """Store a kernel's message that contains a traceback or a text on stderr."""
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        self.messages |= {kind for kind in MESSAGES if kind in text}
        match = re.search(r'"name": ?"stderr", ?"text": ?("(?:[^"\\]|\\.)*")', text)
        # A front end may look for widgets before the notebook imports ipywidgets. The kernel then
        # writes "No such comm".
        stderr = match and not is_progress(json.loads(match[1])) and "No such comm" not in text
        if stderr or re.search(r'"msg_type": ?"error"', text):
            self.errors.append(text)

    def choose(self, *names: str) -> None:
        """Open a menu of the menu bar, then its submenus, and click the last item of `names`."""
        menu, *items = names
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(menu, exact=True).click()
        for item in items:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()

    def run_all(self, patience: float) -> None:
        """Run all cells with the menu, and wait until the last one has ended.

        Args:
            patience: the time limit in seconds.

        Raises:
            playwright.sync_api.TimeoutError: the run takes longer than `patience`.
            AssertionError: the front end shows a dialog, for example because the kernel died.
        """
        end = time.monotonic() + patience
        self.messages.discard("execute_input")
        self.choose("Run", "Run All Cells")
        while "execute_input" not in self.messages or self.is_running():
            dialogs = self.page.locator(".jp-Dialog").all_inner_texts()
            assert not dialogs, f"the front end shows a dialog: {' '.join(dialogs[0].split())}"
            if time.monotonic() > end:
                raise PageTimeout(f"the run did not end within {patience:g} seconds")
            self.page.wait_for_timeout(250)

    def prompts(self) -> Locator:
        """Return the prompts of the visible code cells, such as "[1]:" for the cell that ran first.

        A code cell with a hidden source has an empty prompt.
        """
        return self.page.locator(".jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)")

    def is_running(self) -> bool:
        """Return whether a cell runs or waits for its run."""
        status = self.page.locator(".jp-Notebook-ExecutionIndicator").get_attribute("data-status")
        return status != "idle" or "[*]:" in self.prompts().all_text_contents()

    def violations(self, where: str | dict | None = None) -> dict[str, list[str]]:
        """Return the accessibility rules that axe finds violated, with selectors of the elements.

        Args:
            where: the context that axe checks, such as a selector; default: the whole page.
        """
        style = self.page.add_style_tag(content=SHOW_ALL)
        rules = Axe().run(self.page, where).response["violations"]
        style.evaluate("style => style.remove()")
        return {
            rule["id"]: [" ".join(map(str, node["target"])) for node in rule["nodes"]]
            for rule in rules
        }

    def show(self, theme: str) -> None:
        """Change to the theme "Light" or "Dark"; Voila has no dark theme."""
        name = f"JupyterLab {theme}"
        self.choose("Settings", "Theme", name)
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-name", name)

    def tab_to(self, control: Locator) -> None:
        """Press Tab until a control has the focus."""
        # Another control may have enabled this one, and the kernel needs time to say so.
        expect(control).to_be_enabled()
        # In the text of a cell, Tab would indent the text. Escape leaves the text.
        self.page.keyboard.press("Escape")
        # Tab may go around the page, through all links of the lecture.
        for _ in range(100):
            self.page.keyboard.press("Tab")
            if control.evaluate("control => control === document.activeElement"):
                return
        raise AssertionError("the Tab key does not reach the control")

    def photograph(self, name: str) -> None:
        """Write a screenshot of the notebook to build/browser."""
        area = self.page.locator(".jp-Notebook").first
        area.screenshot(path=PICTURES / f"{self.front_end.name}-{name}.png")

    def problem(self, notebook: Path) -> str | None:
        """Return why the page doesn't show a complete run without errors; None if it shows one."""
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        shown = self.page.locator(".jp-Notebook-cell")
        if not self.front_end.runs_on_load:
            # JupyterLab adds the last cells to the page when the browser has time for them.
            with contextlib.suppress(AssertionError):
                expect(shown).to_have_count(len(cells))
        # JupyterLab shows a traceback as stderr.
        for mime in ("error", "stderr"):
            outputs = self.page.locator(f"[data-mime-type='application/vnd.jupyter.{mime}']")
            if texts := [text for text in outputs.all_text_contents() if not is_progress(text)]:
                return f"an output contains: {texts[0].strip()}"
        if self.errors:
            return self.errors[0]
        if shown.count() != len(cells):
            return f"only {shown.count()} of {len(cells)} cells are shown"
        if not self.front_end.runs_on_load:
            code = [cell for cell in cells if cell["cell_type"] == "code"]
            prompts = self.prompts().all_text_contents()
            if prompts != [f"[{n}]:" for n, cell in enumerate(code, 1) if not is_hidden(cell)]:
                return f"the prompts of the cells are {' '.join(prompts)}"
        return None


@contextlib.contextmanager
def copies(request, folder: Path, sources: Sequence[str], **metadata: object) -> Iterator[Server]:
    """Run the front end that a fixture is asked for, with a notebook of code cells for each test.

    The notebooks are mouse.ipynb and keyboard.ipynb.
    """
    cells = [code_cell(f"cell-{n}", source, **metadata) for n, source in enumerate(sources)]
    names = ("mouse.ipynb", "keyboard.ipynb")
    paths = [write_notebook(folder / name, notebook(*cells)) for name in names]
    (folder / "server").mkdir()
    with Server(folder / "server", paths, FRONT_ENDS[request.param]) as server:
        yield server


def opened_copy(browser: Browser, server: Server, request) -> Iterator[OpenNotebook]:
    """Open a test's notebook, run all of its cells, and check at the end that nothing failed."""
    name = "keyboard" if "keyboard" in request.node.name else "mouse"
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    opened = OpenNotebook(page, server, f"{name}.ipynb")
    if not opened.front_end.runs_on_load:
        opened.run_all(300)
    yield opened
    assert not opened.errors
    page.close()


class Explorer(OpenNotebook):
    """An explorer in an open notebook, with the cell that shows it and its controls."""

    def __init__(
        self, page: Page, server: Server, notebook: str, name: str, patience: float = PATIENCE
    ):
        super().__init__(page, server, notebook, patience)
        self.name = name
        if self.front_end.runs_on_load:
            # Voila shows no sources. Predictions are widgets, too, but in cells with this tag.
            shown = page.locator(".jp-CodeCell:not(.celltag_hide-input)")
            self.cell = shown.filter(has=page.locator(".jupyter-widgets"))
        else:
            self.cell = page.locator(".jp-CodeCell").filter(has_text=f"{name}()")
        self.output = self.cell.locator(".jp-OutputArea-output")
        self.picture = self.output.locator("svg[role=img]")
        self.numbers = self.output.locator("pre")

    def run(self) -> None:
        """Run the cell for the first time, and wait for the picture of the explorer."""
        text = self.cell.locator(".cm-content")
        text.click()
        expect(text).to_be_focused()
        self.page.keyboard.press("Control+Enter")
        expect(self.cell.locator(".jp-InputPrompt")).to_have_text("[1]:")
        self.picture.wait_for()

    def control(self, label: str) -> Locator:
        """Return the control to which a screen reader gives this name."""
        return self.output.get_by_label(label, exact=True)

    def use(self, label: str, value: str | bool) -> None:
        """Change the value of a control with the mouse, and type numbers."""
        control = self.control(label)
        if isinstance(value, bool):
            control.set_checked(value)
        elif self.is_menu(control):
            control.select_option(value)
        else:
            control.click()
            self.enter(value)

    def use_keyboard(self, label: str, value: str | bool) -> None:
        """Change the value of a control with the keyboard only."""
        control, keyboard = self.control(label), self.page.keyboard
        self.tab_to(control)
        if isinstance(value, bool):
            keyboard.press("Space")
        elif self.is_menu(control):
            # If the menu were closed, the notebook would react to the keys.
            keyboard.press("Space")
            keyboard.type(value)
            keyboard.press("Enter")
        else:
            self.enter(value)
        expect(control).to_be_focused()

    def enter(self, value: str) -> None:
        """Replace the number in the field that has the focus."""
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.type(value)
        self.page.keyboard.press("Enter")

    def is_menu(self, control: Locator) -> bool:
        return control.evaluate("control => control.tagName") == "SELECT"

    def shown(self) -> tuple[str, str, str]:
        """Return the content of the picture, its alt text, and the numbers below it."""
        source, alt = self.picture.inner_html(), self.picture.get_attribute("aria-label") or ""
        # Unlike inner_text, text_content also returns text that is scrolled out of view.
        return source, alt, self.numbers.text_content() or ""

    def expect(self, number: str) -> tuple[str, str, str]:
        """Wait until the alt text contains a number, and return what is shown."""
        expect(self.picture).to_have_attribute("aria-label", re.compile(re.escape(number)))
        return self.shown()

    def photograph(self, step: str) -> None:
        """Write a screenshot of the cell to build/browser."""
        name = re.sub(r"\W+", "-", step.removeprefix("test_")).strip("-")
        self.cell.screenshot(path=PICTURES / f"{name}.png")
