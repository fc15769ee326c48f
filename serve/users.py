"""Who a request belongs to: the API key's label and, for the page, a random cookie."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

COOKIE: Final = "moss_user"
_COOKIE_VALUE = re.compile(r"[0-9a-f]{64}")
_YEAR_S: Final = 365 * 24 * 3600


def owner_of(request: Request, key_label: str) -> str:
    """Hash that names the user in the store; it cannot be turned back into the cookie."""
    return hashlib.sha256(f"{key_label}\n{request.cookies.get(COOKIE, '')}".encode()).hexdigest()


def ensure_cookie(request: Request, response: Response) -> None:
    """Give a new visitor a random name that scripts cannot read."""
    if _COOKIE_VALUE.fullmatch(request.cookies.get(COOKIE, "")):
        return
    response.set_cookie(
        COOKIE,
        secrets.token_hex(32),
        max_age=_YEAR_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
