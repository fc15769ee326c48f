"""What the service does with its store once a day: delete what is past its time, settle files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from serve.chat_service import ChatService
from serve.history_routes import remove_images

_DAY_S: Final = 24 * 3600.0
_RETRY_S: Final = 600.0
_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def daily_upkeep(service: ChatService, *, every_s: float = _DAY_S) -> AsyncIterator[None]:
    """At the start of the block and once a day: apply `retention_days`, settle SQLite's file."""
    task = asyncio.create_task(_repeat(service, every_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _repeat(service: ChatService, every_s: float) -> None:
    days = service.config.retention_days
    while True:
        wait_s = every_s
        try:
            if days is not None:
                deleted = await asyncio.to_thread(service.store.purge, days)
                await remove_images(service, deleted)
                _LOG.info("retention of %g days: %d turns deleted", days, deleted.num_turns)
            await asyncio.to_thread(service.store.settle)
        except Exception:  # recorded, and tried again: nothing else would ever do this work
            _LOG.exception("the daily upkeep of the chat store failed")
            wait_s = min(_RETRY_S, every_s)
        await asyncio.sleep(wait_s)
