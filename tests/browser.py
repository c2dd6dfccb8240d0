"""JupyterLab as a student has it: `course lab` on a port of this machine, seen through Chromium.

`Lab` serves copies of notebooks with settings of its own; `chromium` opens a browser; `Explorer`
finds one explorer of `course_utils.explorers` on a notebook's page and uses its controls.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, expect

BROWSERS = ("google-chrome", "chromium", "chromium-browser")
PICTURES = Path(__file__).resolve().parents[1] / "build" / "browser"
PATIENCE = 30  # seconds until something counts as not coming: the machine may be busy
NOTIFICATIONS = {"fetchNews": "false", "checkForUpdates": False}  # neither pop-ups nor network
expect.set_options(timeout=1000 * PATIENCE)


class Lab:
    """`course lab` in an empty folder that gets copies of notebooks, as a context manager.

    The copies, and what Jupyter writes, stay in that folder. Raises RuntimeError, with the end of
    the server's log, where it doesn't start.
    """

    def __init__(self, folder: Path, notebooks: list[Path]):
        # By these two `course` knows its folder.
        (folder / "lectures").mkdir()
        (folder / "course_utils").symlink_to(Path(__file__).resolve().parents[1] / "course_utils")
        for path in notebooks:
            shutil.copy(path, folder / "lectures")
        settings = folder / "config/lab/user-settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(NOTIFICATIONS))
        self.folder, self.log = folder, folder / "log"

    def __enter__(self) -> Lab:
        own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
        own |= {"JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
        places = {name: str(self.folder / place) for name, place in own.items()}
        program = shutil.which("course", path=str(Path(sys.executable).parent))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [program, "lab", "--no-browser", "--port=0", "--allow-root"],
                cwd=self.folder,
                env=os.environ | places,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the server
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            server = self.wait()
        except BaseException:
            self.process.terminate()
            raise
        self.url, self.token = server["url"], server["token"]
        return self

    def wait(self) -> dict[str, str]:
        """What the server notes down about itself once it answers."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            for path in self.folder.glob("runtime/jpserver-*.json"):
                with contextlib.suppress(ValueError):  # half written
                    return json.loads(path.read_text())
            time.sleep(0.05)
        raise RuntimeError(f"JupyterLab doesn't start:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *_) -> None:
        """Ask the server to stop, with its kernels, and wait until it has."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + "api/shutdown", headers=headers, method="POST")
        try:
            urllib.request.urlopen(request, timeout=PATIENCE).close()
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()  # if it is still there

    def address(self, notebook: str) -> str:
        """Where JupyterLab shows one of the notebooks, in a workspace without the others."""
        place = f"lab/workspaces/{Path(notebook).stem}/tree/lectures/{notebook}"
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


class Explorer:
    """One explorer on a page of JupyterLab: the cell that shows it, its controls, what it says.

    faults: what went wrong anywhere on the page. JupyterLab doesn't show a traceback from a
    control's callback, so the kernel's messages are read as well.
    """

    def __init__(self, page: Page, address: str, name: str):
        self.page, self.name, self.runs, self.faults = page, name, 0, []
        self.kernel_is_there = False
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self.hear)
        page.on("websocket", lambda socket: socket.on("framereceived", self.read))
        page.goto(address)
        page.locator(".jp-Cell.jp-mod-active:focus").wait_for()  # loaded: keys are heard now
        self.wait_for_kernel()
        self.cell = page.locator(".jp-CodeCell").filter(has_text=f"{name}()")
        self.output = self.cell.locator(".jp-OutputArea-output")
        self.picture = self.output.locator("img")
        self.numbers = self.output.locator("pre")
        self.alert = self.output.get_by_role("alert")

    def wait_for_kernel(self) -> None:
        """Until the page has heard of its kernel: before that, a cell that is run is dropped."""
        end = time.monotonic() + PATIENCE
        while not self.kernel_is_there:
            assert time.monotonic() < end, "the notebook gets no kernel"
            self.page.wait_for_timeout(50)

    def hear(self, message: ConsoleMessage) -> None:
        """Note down what the page's own scripts complain about."""
        if message.type == "error":
            self.faults.append(message.text)

    def read(self, frame: bytes | str) -> None:
        """Note down a kernel's message if it is a traceback, or a text on stderr."""
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        self.kernel_is_there |= "kernel_info_reply" in text
        error = re.search(r'"msg_type": ?"error"', text)
        stderr = re.search(r'"name": ?"stderr"', text) and "No such comm" not in text
        if error or stderr:  # "No such comm": JupyterLab asks before ipywidgets is imported
            self.faults.append(text)

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
        return source, alt, self.numbers.inner_text()

    def expect(self, number: str) -> tuple[str, str, str]:
        """Wait until the alt text holds a number; returns what is shown then."""
        expect(self.picture).to_have_attribute("alt", re.compile(re.escape(number)))
        return self.shown()

    def photograph(self, step: str) -> None:
        """Keep a picture of the cell in build/browser."""
        name = re.sub(r"\W+", "-", step.removeprefix("test_")).strip("-")
        self.cell.screenshot(path=PICTURES / f"{name}.png")
