"""Look at the endpoint before any actor starts: does it answer, is the key good, which models."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Collection

import httpx2
import openai

from moss.config.teacher import TeacherConfig
from moss.errors import ConfigError, MossError, TeacherUnavailableError
from moss.teacher import Endpoint
from moss.teacher_connection import open_client
from moss.teacher_failures import classify

OFFLINE_TEACHER_OWNER = "moss-offline-teacher"
"""`owned_by` of the embedded stand-in's models; also its identity in ledger keys."""

CHECK_TIMEOUT_S = 10.0
CHECK_ATTEMPTS = 3


def check_endpoint(config: TeacherConfig, models: Collection[str] = ()) -> Endpoint:
    """Reach the endpoint and compare its model list with `models` and the config's.

    An endpoint without a `/models` route passes unchecked.

    Raises:
        ConfigError: no base URL, or a model it does not list (with the nearest it does).
        TeacherUnavailableError, TeacherAuthError, TeacherQuotaError: see `moss.teacher_failures`.
    """
    return asyncio.run(inspect_endpoint(config, models))


async def inspect_endpoint(config: TeacherConfig, models: Collection[str] = ()) -> Endpoint:
    """`check_endpoint` for callers that have an event loop."""
    if config.base_url is None:
        raise ConfigError("teacher.base_url is not set; set it, or TEACHER_BASE_URL")
    listed = await _list_models(config)
    if not listed:
        return Endpoint(identity=config.base_url)
    for name in sorted(set(models)):
        if name not in listed:
            near = difflib.get_close_matches(name, listed, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{config.base_url} has no model {name!r}, it lists {', '.join(sorted(listed))}"
                f"{hint}; set teacher.models"
            )
    stand_in = any(owner == OFFLINE_TEACHER_OWNER for owner in listed.values())
    return Endpoint(
        identity=OFFLINE_TEACHER_OWNER if stand_in else config.base_url,
        stand_in=stand_in,
        models=tuple(sorted(listed)),
    )


async def _list_models(config: TeacherConfig) -> dict[str, str]:
    """Model name -> owner; empty when the endpoint has no such route."""
    failure: MossError = TeacherUnavailableError("not asked")
    async with open_client(config, timeout_s=min(config.timeout_s, CHECK_TIMEOUT_S)) as client:
        for attempt in range(CHECK_ATTEMPTS):
            if attempt:
                await asyncio.sleep(config.backoff_s)
            try:
                response = await client.get("/models", cast_to=httpx2.Response)
                return _owners(response.text, config)
            except openai.NotFoundError:
                return {}
            except openai.OpenAIError as error:
                outcome = classify(error, model="any", config=config)
                failure = outcome.error
                if not outcome.is_retryable:
                    break
    raise failure


def _owners(text: str, config: TeacherConfig) -> dict[str, str]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"{config.base_url}/models answers {text.strip()[:60]!r}, which is no JSON, so no "
            "OpenAI-compatible API is there; a base URL mostly ends in /v1"
        ) from error
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list):
        return {}
    return {
        str(item["id"]): str(item.get("owned_by", ""))
        for item in items
        if isinstance(item, dict) and "id" in item
    }
