"""Secrets stay in the environment: find them in text before it is stored, or black them out.

A secret is the value of an environment variable whose name ends like one (`..._API_KEY`), the
password of a URL (`https://user:password@host`), or what a config gives for a key such as
`api_key`. Values of variables under 16 characters are not looked for: real keys are longer, and
short ones would match ordinary words.
"""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)")
_SECRET_LINE = re.compile(
    r"^[\s-]*(\w*(?:api_key|password|secret|access_token)):[ \t]+(\S+)",
    re.IGNORECASE | re.MULTILINE,
)
_NO_VALUE = ("null", "''", '""')
_MIN_CHARACTERS = 16


def find_secret(yaml_text: str) -> str | None:
    """What secret a YAML text holds, in words that do not repeat it; None if it is clean."""
    for name, value in _environment_secrets():
        if value in yaml_text:
            return f"the value of the environment variable {name}"
    if _URL_PASSWORD.search(yaml_text):
        return "a URL with a user and password"
    for key, value in _SECRET_LINE.findall(yaml_text):
        if value not in _NO_VALUE:
            return f"a value for {key!r}"
    return None


def redact(text: str) -> str:
    """Text with every secret replaced by `[redacted]`; harmless inside JSON strings."""
    for _, value in _environment_secrets():
        text = text.replace(value, "[redacted]")
    return _URL_PASSWORD.sub("[redacted]", text)


def _environment_secrets() -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= _MIN_CHARACTERS and _SECRET_NAME.search(name)
    ]
