"""The HTTP side of asking an LLM: the `openai` client, and requests without its per-call work.

A synthesis job makes millions of calls, and what the client does for each (options, headers, URL,
idempotency key, retries) costs more CPU time than all else in a call. `Connection` asks the client
once for its headers and address, and sends over the client's own transport; failures are raised as
the client's exceptions.
"""

from __future__ import annotations

import json
from typing import Final

import httpx2
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAioHttpClient,
)

from moss.config.teacher import TeacherConfig

_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def open_client(
    config: TeacherConfig,
    *,
    timeout_s: float | None = None,
    http_client: httpx2.AsyncClient | None = None,
) -> AsyncOpenAI:
    """A client for the configured endpoint on its aiohttp transport, its own retries off."""
    return AsyncOpenAI(
        base_url=config.base_url,
        api_key=config.api_key() or "none",
        max_retries=0,
        timeout=timeout_s or config.timeout_s,
        http_client=http_client or DefaultAioHttpClient(),
    )


class Connection:
    """Posts requests to one endpoint; belongs to one event loop."""

    def __init__(self, config: TeacherConfig) -> None:
        self._http = DefaultAioHttpClient(timeout=config.timeout_s)
        client = open_client(config, http_client=self._http)
        headers = {**client.default_headers, **client.auth_headers}
        self._headers = {name: text for name, text in headers.items() if isinstance(text, str)}
        self._base_url = str(client.base_url).rstrip("/")

    async def post(self, route: str, body: dict[str, object]) -> httpx2.Response:
        """Send one request and read its whole answer.

        Args:
            route: path below the base URL.
        Raises:
            openai.OpenAIError: no answer, or one with an error status.
        """
        # A lone surrogate, which UTF-8 cannot hold, becomes the JSON escape that means it.
        content = _JSON.encode(body).encode("utf-8", "backslashreplace")
        request = self._http.build_request(
            "POST", self._base_url + route, content=content, headers=self._headers
        )
        try:
            response = await self._http.send(request)
        except httpx2.TimeoutException as error:
            raise APITimeoutError(request) from error
        except httpx2.HTTPError as error:
            raise APIConnectionError(request=request) from error
        if response.is_error:
            raise _status_error(response)
        return response

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _status_error(response: httpx2.Response) -> APIStatusError:
    """The client's exception; its `body` is the error object where the endpoint sent one."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = response.text.strip()
    detail = body.get("error", body) if isinstance(body, dict) else body
    return APIStatusError(f"Error code: {response.status_code}", response=response, body=detail)
