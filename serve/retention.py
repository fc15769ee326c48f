"""Deletes what is past its time while the service runs (`retention_days`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from serve.chat_service import ChatService
from serve.history_routes import remove_images
from serve.store import StoreUnavailableError

_DAY_S: Final = 24 * 3600.0
_RETRY_S: Final = 600.0
_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def daily_purge(service: ChatService, *, every_s: float = _DAY_S) -> AsyncIterator[None]:
    """Purge at the start of the block and then once a day, if the config sets a retention."""
    days = service.config.retention_days
    task = asyncio.create_task(_purge(service, days, every_s)) if days is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


async def _purge(service: ChatService, days: float, every_s: float) -> None:
    while True:
        wait_s = every_s
        try:
            deleted = await asyncio.to_thread(service.store.purge, days)
            await remove_images(service, deleted)
            _LOG.info("retention of %g days: %d turns deleted", days, deleted.num_turns)
        except StoreUnavailableError:
            wait_s = min(_RETRY_S, every_s)
        await asyncio.sleep(wait_s)
