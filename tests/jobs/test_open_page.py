"""When `make demo` opens a browser at its end."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.open_page import has_browser
from tests.clusters import ROOT

URL = "http://127.0.0.1:1234"


@pytest.mark.parametrize(
    ("platform", "environment", "is_terminal", "opens"),
    [
        ("linux", {"DISPLAY": ":0"}, True, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True, True),
        ("darwin", {}, True, True),
        ("win32", {}, True, True),
        ("linux", {}, True, False),
        ("linux", {"DISPLAY": ""}, True, False),
        ("linux", {"DISPLAY": ":0"}, False, False),
        ("darwin", {}, False, False),
        ("darwin", {"SSH_CONNECTION": "10.0.0.1 2 10.0.0.3 22"}, True, False),
        ("linux", {"DISPLAY": "localhost:10", "SSH_TTY": "/dev/pts/0"}, True, False),
        ("linux", {"DISPLAY": ":0", "CI": "true"}, True, False),
    ],
)
def test_a_browser_opens_where_a_user_sits_before_a_screen(
    platform: str, environment: dict[str, str], is_terminal: bool, opens: bool
) -> None:
    assert has_browser(environment, platform=platform, is_terminal=is_terminal) == opens


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other desktops always open")
@pytest.mark.parametrize("display", [":0", ""])
def test_the_users_own_browser_gets_the_address(tmp_path: Path, display: str) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o755)
    elsewhere = ("SSH_CONNECTION", "SSH_TTY", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    terminal, standard_output = pty.openpty()
    code = f"import os; from jobs.open_page import open_page; open_page({URL!r}, os.environ)"
    try:
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment | {"DISPLAY": display, "BROWSER": f"{browser} %s"},
            stdout=standard_output,
            timeout=30,
            check=True,
        )
    finally:
        os.close(terminal)
        os.close(standard_output)
    assert (opened.read_text() if opened.exists() else None) == (URL if display else None)
