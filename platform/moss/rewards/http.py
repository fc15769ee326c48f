"""An HTTP endpoint as a reward.

Request, `POST <url>`, at most `rows_per_request` rows, with `Authorization: Bearer <key>` where
`api_key_env` names one:

    {"rows": [{"id": "p7/0", "prompt": "...", "response": "...", "reply": "...",
               "finished": true, "columns": {"answer": "19"}}]}

(`prompt_ids` and `response_ids` besides, with `send_token_ids`.) Answer, status 200, in any order:

    {"scores": [{"id": "p7/0", "score": 1.5}, {"id": "p8/1", "error": "why there is none"}]}

A row without a finite number in a whole answer fails by itself. What befalls a whole request:

    tried again   429, 408, 409, 425, 5xx, timeouts, cut connections, answers that are not the
                  above, among them those for other rows than were sent
    rows fail     any other 4xx at once, and what is tried again after `max_attempts`
    run ends      3xx, 401, 403, 404, 405: address or key are wrong, for every row
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moss.config.rewards import HttpReward
from moss.errors import ConfigError, RewardError
from moss.rate_headers import retry_after_s
from moss.redaction import redact
from moss.rewards.base import Outcome, RewardBatch, RewardFailure, RewardRow, number_or_failure

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_RETRIED: Final = frozenset({408, 409, 425, 429})
_ENDING: Final = frozenset({401, 403, 404, 405})
_MAX_ANSWER_BYTES: Final = 8 << 20
_SOURCE: Final = "the reward endpoint"


@dataclass(frozen=True, slots=True)
class _Fault:
    """A request without a usable answer."""

    reason: str
    is_retried: bool
    retry_after_s: float | None = None


class HttpScorer:
    """Posts rows to an endpoint, some requests at a time, within a deadline per batch.

    Raises (constructor):
        ConfigError: the environment variable of the key is not set.
    """

    def __init__(self, config: HttpReward) -> None:
        self._config = config
        self._key = config.api_key()
        if config.api_key_env and not self._key:
            raise ConfigError(
                f"environment variable {config.api_key_env} (api_key_env of the reward at "
                f"{config.url}) is not set; set it, or {config.api_key_env}_FILE to the path of a "
                "file with the key, where the job starts"
            )

    def score(self, batch: RewardBatch) -> list[Outcome]:
        """See `moss.rewards.base.Reward`."""
        return self.score_rows(batch.rows())

    def score_rows(self, rows: Sequence[RewardRow]) -> list[Outcome]:
        """One outcome per row; see the module for what fails what.

        Raises:
            RewardError: the endpoint refuses every request.
        """
        return asyncio.run(self._score_all(rows))

    def close(self) -> None:
        """Connections live no longer than a batch."""

    async def _score_all(self, rows: Sequence[RewardRow]) -> list[Outcome]:
        import aiohttp

        size = self._config.rows_per_request
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        slots = asyncio.Semaphore(self._config.concurrency)
        deadline = time.monotonic() + self._config.deadline_s
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        async with aiohttp.ClientSession(headers=headers) as session:

            async def score(chunk: Sequence[RewardRow]) -> list[Outcome]:
                async with slots:
                    return await self._score_chunk(session, chunk, deadline)

            answers = await asyncio.gather(*(score(chunk) for chunk in chunks))
        return [outcome for answer in answers for outcome in answer]

    async def _score_chunk(
        self, session: ClientSession, rows: Sequence[RewardRow], deadline: float
    ) -> list[Outcome]:
        config = self._config
        body = json.dumps({"rows": [self._as_json(row) for row in rows]}).encode()
        fault = _Fault("it was not asked", is_retried=True)
        for attempt in range(config.max_attempts):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            answer = await self._ask(session, body, rows, timeout_s=min(config.timeout_s, left_s))
            if not isinstance(answer, _Fault):
                return answer
            fault = answer
            wait_s = self._wait_s(fault, attempt)
            if wait_s is None:
                return [RewardFailure(self._describe(fault, attempt + 1))] * len(rows)
            if time.monotonic() + wait_s >= deadline:
                break
            await asyncio.sleep(wait_s)
        reason = f"{self._describe(fault)}; given up after deadline_s={config.deadline_s:g}"
        return [RewardFailure(reason)] * len(rows)

    def _wait_s(self, fault: _Fault, attempt: int) -> float | None:
        """Seconds until the next try; None where there is none."""
        config = self._config
        asked_s = fault.retry_after_s or 0.0
        is_last = attempt + 1 == config.max_attempts
        if not fault.is_retried or is_last or asked_s > config.max_retry_after_s:
            return None
        backoff_s = min(config.max_backoff_s, config.backoff_s * 3.0**attempt)
        return max(asked_s, backoff_s * random.uniform(0.5, 1.0))

    def _describe(self, fault: _Fault, num_attempts: int = 0) -> str:
        tried = f" ({num_attempts} tries)" if num_attempts > 1 else ""
        asked_s = fault.retry_after_s or 0.0
        most_s = self._config.max_retry_after_s
        patience = (
            f"; it asks to wait {asked_s:g} s, more than max_retry_after_s={most_s:g}"
            if asked_s > most_s
            else ""
        )
        return f"{self._config.url}: {fault.reason}{patience}{tried}"

    async def _ask(
        self, session: ClientSession, body: bytes, rows: Sequence[RewardRow], *, timeout_s: float
    ) -> list[Outcome] | _Fault:
        """One request.

        Raises:
            RewardError: a status that ends the run.
        """
        import aiohttp

        try:
            async with session.post(
                self._config.url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                content = await _read(response)
                status, retry_s = response.status, retry_after_s(response.headers)
        except TimeoutError:
            return _Fault(f"no answer within {timeout_s:.3g} s", is_retried=True)
        except (aiohttp.ClientError, OSError) as error:
            return _Fault(f"{type(error).__name__}: {error}", is_retried=True)
        if status == 200:
            try:
                return _read_scores(content, [row.id for row in rows])
            except ValueError as error:
                return _Fault(f"malformed answer: {error}", is_retried=True)
        reason = f"answered {status} ({self._excerpt(content)})"
        if status in _ENDING or 300 <= status < 400:
            raise RewardError(
                f"{self._config.url} {reason}; no retry can cure that: correct the reward's url or "
                f"the key in its api_key_env ({self._config.api_key_env or 'none is configured'})"
            )
        return _Fault(reason, status in _RETRIED or status >= 500, retry_s)

    def _as_json(self, row: RewardRow) -> dict[str, object]:
        ids = {"prompt_ids": row.prompt_ids, "response_ids": row.response_ids}
        return {
            "id": row.id,
            "prompt": row.prompt,
            "response": row.response,
            "reply": row.reply,
            "finished": row.finished,
            "columns": dict(row.columns),
            **(ids if self._config.send_token_ids else {}),
        }

    def _excerpt(self, content: bytes) -> str:
        """What an endpoint said, without the key, should it repeat that."""
        text = content[:2000].decode("utf-8", "replace")
        if self._key:
            text = text.replace(self._key, "[redacted]")
        return " ".join(redact(text).split())[:200]


async def _read(response: ClientResponse) -> bytes:
    """The body, cut off past the longest that is read at all."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_ANSWER_BYTES:
            break
    return b"".join(pieces)


def _read_scores(content: bytes, ids: Sequence[str]) -> list[Outcome]:
    """An outcome for each id.

    Raises:
        ValueError: the body is not the answer that the module describes, for these rows.
    """
    if len(content) > _MAX_ANSWER_BYTES:
        raise ValueError(f"longer than {_MAX_ANSWER_BYTES} bytes")
    try:
        data = json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    items = data.get("scores") if isinstance(data, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError('expected {"scores": [{"id": ..., "score": ...}, ...]}')
    given: dict[str, Outcome] = {}
    for item in items:
        name = item.get("id")
        if name not in ids or name in given:
            raise ValueError(f"id {name!r:.80} was not sent, or stands twice")
        given[name] = _outcome(item)
    missing = RewardFailure(f"{_SOURCE} gave no score for this row ({len(given)} of {len(ids)})")
    return [given.get(name, missing) for name in ids]


def _outcome(item: dict[str, object]) -> Outcome:
    if "score" not in item and item.get("error"):
        return RewardFailure(f"{_SOURCE} says: {redact(str(item['error']))[:200]}")
    return number_or_failure(item.get("score"), _SOURCE)
