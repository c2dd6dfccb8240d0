"""lab: which servers root may run, which browsers are opened, and JupyterLab's settings."""

import json
import logging
import os
import subprocess
import sys
import webbrowser
from types import SimpleNamespace

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")

from jupyter_server.services.config.manager import ConfigManager

from course_utils.machine import lab

HOSTS = {"localhost": True, "127.0.0.1": True, "127.8.8.8": True, "::1": True}
HOSTS |= {"0.0.0.0": False, "::": False, "": False, "192.168.1.2": False, "example.org": False}


@pytest.mark.parametrize(("host", "alone"), HOSTS.items())
def test_loopback_addresses_are_recognized(host, alone):
    assert lab.is_loopback(host) is alone


# --- browsers ---

TEXT_BROWSERS = ("elinks", "lynx", "w3m")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with graphical and text-mode browsers, and with a link to one of each kind."""
    for name in ("firefox", "wslview", *TEXT_BROWSERS):
        (tmp_path / name).touch(0o755)
    (tmp_path / "www-browser").symlink_to("w3m")
    (tmp_path / "x-www-browser").symlink_to("wslview")
    monkeypatch.setenv("PATH", str(tmp_path))


BROWSERS = dict.fromkeys((*TEXT_BROWSERS, "www-browser"), False)
BROWSERS |= dict.fromkeys(("firefox", "x-www-browser", "default", ""), True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no text-mode browsers")
@pytest.mark.parametrize(("name", "window"), BROWSERS.items())
def test_text_mode_browser_is_recognized_by_its_program(programs, monkeypatch, name, window):
    monkeypatch.setattr(webbrowser, "get", lambda _: SimpleNamespace(name=name))
    assert lab.opens_windows() is window


def test_machine_without_a_browser(monkeypatch):
    def get(_):
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", get)
    assert not lab.opens_windows()


# --- the server ---


class Server(lab.CourseServer):
    """A server with the settings of a test, which is never started."""

    ip, sock, browser, identity_provider = "localhost", "", "", SimpleNamespace(auth_enabled=True)


def started(monkeypatch, root=False, windows=True, **settings):
    """Return a server after `start_app` has decided about this user and this browser."""
    monkeypatch.setattr(lab.ServerApp, "start_app", lambda self: None)
    monkeypatch.setattr(lab, "is_root", lambda: root)
    monkeypatch.setattr(lab, "opens_windows", lambda name: windows)
    server = Server()
    for name, value in {"open_browser": True, "log": logging.getLogger(), **settings}.items():
        setattr(server, name, value)
    server.start_app()
    return server


def test_root_may_run_a_private_server(monkeypatch, caplog):
    assert started(monkeypatch, root=True).allow_root
    assert "because it accepts connections from this machine alone" in caplog.text


OPEN = {"ip": "0.0.0.0", "sock": "/tmp/s", "identity_provider": SimpleNamespace(auth_enabled=False)}


@pytest.mark.parametrize("name", OPEN)
def test_root_may_not_run_a_server_that_others_can_reach(monkeypatch, caplog, name):
    assert not started(monkeypatch, root=True, **{name: OPEN[name]}).allow_root
    assert "The course runs as root only if" in caplog.text


def test_option_allow_root_and_other_users_are_left_alone(monkeypatch, caplog):
    assert started(monkeypatch, root=True, ip="0.0.0.0", allow_root=True).allow_root
    assert not started(monkeypatch).allow_root
    assert "root" not in caplog.text


@pytest.mark.parametrize("settings", [{"windows": False}, {"open_browser": False}])
def test_server_without_a_browser_prints_only_its_address(monkeypatch, settings):
    server = started(monkeypatch, **settings)
    assert (server.open_browser, server.no_browser_open_file) == (False, True)
    server = started(monkeypatch)
    assert (server.open_browser, server.no_browser_open_file) == (True, False)


@pytest.mark.parametrize("own", ["", "/etc/mine"])
def test_the_settings_of_the_course_are_added_to_the_users_own(monkeypatch, own):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", own)
    monkeypatch.setattr(lab.LabApp, "serverapp_class", lab.ServerApp)
    monkeypatch.setattr(lab.LabApp, "launch_instance", lambda argv: None)
    lab.main([])
    overrides = ConfigManager(config_dir_name="labconfig").get("default_setting_overrides")
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    assert os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)[1:] == [own] * bool(own)


@pytest.mark.skipif(not lab.is_root(), reason="the server refuses only root")
@pytest.mark.parametrize("way", ["option", "configuration"])
@pytest.mark.full
def test_jupyter_refuses_root_if_others_can_reach_the_server(tmp_path, way):
    (tmp_path / "config").mkdir()
    options = ["--ip=0.0.0.0"] if way == "option" else []
    if way == "configuration":
        settings = {"IdentityProvider": {"token": ""}}
        (tmp_path / "config/jupyter_server_config.json").write_text(json.dumps(settings), "utf-8")
    own = {f"JUPYTER_{name.upper()}_DIR": str(tmp_path / name) for name in ("config", "runtime")}
    command = [sys.executable, "-m", "course_utils.machine.lab", "--no-browser", *options]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True)
    assert done.returncode == 1
    assert b"Use --allow-root to bypass" in done.stderr and b"token=" not in done.stderr
