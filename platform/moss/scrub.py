"""Redact personal data from what users typed, before a teacher or a training set sees it.

Covered: e-mail addresses, telephone numbers (Chinese mobile and international), Chinese resident
identity numbers. Not covered: names, postal addresses, account names.
"""

from __future__ import annotations

import re

_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("<email>", re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")),
    ("<id>", re.compile(r"(?<!\d)\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])\d{2}\d{3}[\dXx](?!\d)")),
    ("<phone>", re.compile(r"(?<!\d)(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)")),
    (
        "<phone>",
        re.compile(r"\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{2,4}(?:[ -]\d{2,4}){1,3}(?!\d)"),
    ),
    ("<phone>", re.compile(r"(?<![\d+*/-])\(?\d{3}\)?[ -]\d{3}-\d{4}(?!\d)")),
)
"""Identity numbers first: a telephone pattern would match inside one."""


def scrub(text: str) -> tuple[str, int]:
    """The text with personal data replaced by placeholders, and how many were replaced."""
    count = 0
    for placeholder, pattern in _PATTERNS:
        text, replaced = pattern.subn(placeholder, text)
        count += replaced
    return text, count
