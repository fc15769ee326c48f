"""Whether the road's last step opens the chat page in the user's browser, and how."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping

DESKTOPS = ("darwin", "win32")
"""Platforms that always have a display."""
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
_ELSEWHERE = ("SSH_CONNECTION", "SSH_TTY", "CI")
"""The user's browser is on another machine, or there is no user."""


def has_browser(environment: Mapping[str, str], *, platform: str, is_terminal: bool) -> bool:
    """Whether somebody sits before a screen of this machine.

    Args:
        platform: as `sys.platform`.
        is_terminal: whether standard output is one; a pipe or file has no user waiting.
    """
    if not is_terminal or any(environment.get(name) for name in _ELSEWHERE):
        return False
    return platform in DESKTOPS or any(environment.get(name) for name in _DISPLAYS)


def open_page(url: str, environment: Mapping[str, str]) -> bool:
    """Open the page where there is a browser; true if it was done."""
    here = has_browser(environment, platform=sys.platform, is_terminal=sys.stdout.isatty())
    return here and webbrowser.open(url)
