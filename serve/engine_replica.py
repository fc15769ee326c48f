"""One replica of a model's engine as it is deployed: what `ChatModel` does, counted and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from moss.config.serve import EngineConfig
from moss.config.serve_logs import LogConfig
from moss.live_metrics import ENGINE_STARTS
from serve import meters
from serve.chat_model import ChatModel
from serve.engines import GenerateParams, TokenDelta
from serve.logs import configure_logs

_LOG = logging.getLogger(__name__)


class EngineReplica(ChatModel):
    """Made a deployment in `serve.deployment`."""

    def __init__(self, folder: str, config: EngineConfig, name: str, logs: LogConfig) -> None:
        """Load the model that is served as `name`."""
        configure_logs(logs)
        meters.export_to_ray()
        super().__init__(folder, config)
        self._name = name
        meters.count(ENGINE_STARTS, model=name)
        _LOG.info("engine started", extra={"fields": {"model": name}})

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """See `ChatModel.generate`; writes a line when the generation ends, however it ends."""
        started, num_tokens, ended_by = time.monotonic(), 0, "cancelled"
        try:
            async with aclosing(super().generate(prompt_ids, params)) as deltas:
                async for delta in deltas:
                    num_tokens += len(delta.ids)
                    ended_by = delta.finish_reason or ended_by
                    yield delta
        except Exception as error:
            ended_by = type(error).__name__
            raise
        finally:
            fields = {
                "request_id": params.request_id, "model": self._name, "ended_by": ended_by,
                "prompt_tokens": len(prompt_ids), "completion_tokens": num_tokens,
                "seconds": round(time.monotonic() - started, 4),
            }  # fmt: skip
            _LOG.info("generation", extra={"fields": fields})
