"""Start JupyterLab so that it also works as root and without a graphical browser.

    python -m course_utils.machine.lab --no-browser

In a container, for example, users are often root, and there is no browser. So `course lab` runs
this module instead of `jupyter lab`. The server makes two decisions after Jupyter has read its
command line and its configuration files:

- Root may run the server if only this machine can reach the server and a token or a password
  protects the server. Otherwise Jupyter's own rule applies: root needs the option --allow-root.
- A text-mode browser, such as Lynx, is never opened, because JupyterLab does not work in it, and it
  would hide the server's log. Jupyter prints the server's address instead.

The settings in course_utils/data/jupyter are defaults: a user's own settings replace them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp

# A folder with defaults of JupyterLab's settings, for Jupyter's variable JUPYTER_CONFIG_PATH.
SETTINGS = Path(__file__).parents[1] / "data" / "jupyter"
TEXT_BROWSERS = re.compile(r"(elinks|links|lynx|w3m)")
AS_ROOT = (
    "The course runs as root here. That is safe for this server, because it accepts connections "
    "from this machine alone and asks for a token or a password."
)
NOT_AS_ROOT = (
    "The course runs as root only if its server accepts connections from this machine alone and "
    "asks for a token or a password. Remove the options and the lines of Jupyter's configuration "
    "that set ip, sock or token, or run the course as another user."
)


class CourseServer(ServerApp):
    """Jupyter's server, which makes the two decisions that this module describes."""

    def start_app(self) -> None:
        """Decide about root and the browser, and then start the server."""
        if is_root() and not self.allow_root:
            local = is_loopback(self.ip) and not self.sock
            self.allow_root = local and self.identity_provider.auth_enabled
            self.log.warning(AS_ROOT if self.allow_root else NOT_AS_ROOT)
        if not (self.open_browser and opens_windows(self.browser)):
            self.open_browser = False
            # Without this setting, Jupyter prints the path of a file before the address.
            self.no_browser_open_file = True
        super().start_app()


def is_root() -> bool:
    """Return whether this process runs as root; always False on Windows."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host name or address (a loopback address)."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def opens_windows(name: str = "") -> bool:
    """Return whether a browser, by default the system's, exists and is not a text-mode browser."""
    try:
        browser = webbrowser.get(name or None)
    except webbrowser.Error:
        return False
    # On Windows and macOS, `which` finds no program. Debian's www-browser is a symbolic link.
    program = shutil.which(getattr(browser, "name", ""))
    return not (program and TEXT_BROWSERS.match(Path(program).resolve().name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run JupyterLab until it is stopped."""
    folders = [str(SETTINGS), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(folders)
    LabApp.serverapp_class = CourseServer
    LabApp.launch_instance(argv=arguments)


if __name__ == "__main__":
    main()
