"""JupyterLab, started so that it also works on a bare machine, such as a container.

    python -m course_utils.lab --no-browser

`course lab` runs this in place of `jupyter lab`. The server makes two decisions after Jupyter has
read its command line and all of its configuration files, because only then are the settings final:

- Root may run the server if only this machine can reach it and a token or a password protects it.
  Otherwise Jupyter's own rule holds: it refuses root unless --allow-root is given.
- A text-mode browser, such as Lynx, is never opened, because JupyterLab does not work in it and it
  would hide the server's log. Jupyter prints the server's address instead.
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

TEXT_BROWSERS = re.compile(r"(elinks|links|lynx|w3m)")


class CourseServer(ServerApp):
    """Jupyter's server with the two decisions of this module."""

    def start_app(self) -> None:
        if is_root() and not self.allow_root:
            self.allow_root = self.is_private()
            self.log.warning(AS_ROOT if self.allow_root else NOT_AS_ROOT)
        if not (self.open_browser and opens_windows(self.browser)):
            self.open_browser = False
            self.no_browser_open_file = True  # otherwise Jupyter prints the path of a file first
        super().start_app()

    def is_private(self) -> bool:
        """Whether only this machine can reach the server, and only with a token or a password."""
        return is_loopback(self.ip) and not self.sock and self.identity_provider.auth_enabled


AS_ROOT = (
    "The course runs as root here. That is safe for this server, because it accepts connections "
    "from this machine alone and asks for a token or a password."
)
NOT_AS_ROOT = (
    "The course runs as root only if its server accepts connections from this machine alone and "
    "asks for a token or a password. Remove the options or the lines of Jupyter's configuration "
    "that change that (ip, sock, token), or run it as another user."
)


def is_root() -> bool:
    """Whether this process runs as root; on Windows no process does."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def is_loopback(host: str) -> bool:
    """Whether a host name or address is a loopback one, which only this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def opens_windows(name: str = "") -> bool:
    """Whether the browser of this name (default: the system's) exists and opens a window."""
    try:
        browser = webbrowser.get(name or None)
    except webbrowser.Error:
        return False
    program = shutil.which(getattr(browser, "name", ""))  # None on Windows and macOS
    # Debian's www-browser is a link to the one that is installed.
    return not (program and TEXT_BROWSERS.match(Path(program).resolve().name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run JupyterLab with these arguments (default: those of this process) until it is stopped."""
    LabApp.serverapp_class = CourseServer
    LabApp.launch_instance(argv=arguments)


if __name__ == "__main__":
    main()
