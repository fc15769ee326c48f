"""Tools as Ray Serve deployments that scale on their own, and their handles as tools."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, cast

from moss.config.serve_logs import LogConfig
from moss.config.tools import ToolsConfig
from moss.tools.base import ToolOutput
from moss.tools.registry import LAYOUTS, UNAVAILABLE, build_tool
from moss.types import ToolName
from serve.logs import configure_logs
from serve.request_record import current_id

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_LOG = logging.getLogger(__name__)


class ToolWorker:
    """One replica of one tool; made a deployment in `serve.deployment`."""

    def __init__(self, name: ToolName, config: ToolsConfig, logs: LogConfig) -> None:
        configure_logs(logs)
        self._name: ToolName = name
        self._tool = build_tool(name, config)

    async def call(self, argument: str, request_id: str = "") -> ToolOutput:
        """Run one call; a broken tool is an output like any other, and its error a line here."""
        started = time.monotonic()
        told: dict[str, object] = {"tool": self._name, "request_id": request_id}
        try:
            output = await self._tool.call(argument)
        except Exception as error:  # Ray Serve would log its message, which can quote the argument
            _LOG.error("tool failed", exc_info=error, extra={"fields": told})
            return ToolOutput(
                ok=False, layout=LAYOUTS[self._name], reason=f"{self._name} failed",
                flags=(UNAVAILABLE,),
            )  # fmt: skip
        told |= {"ok": output.ok, "seconds": round(time.monotonic() - started, 4)}
        _LOG.info("tool call", extra={"fields": told})
        return output

    async def __del__(self) -> None:
        """Serve awaits this when the replica stops: workers end with it."""
        await self._tool.close()


class RemoteTool:
    """A `Tool` over the handle of a `ToolWorker` deployment."""

    def __init__(self, name: ToolName, handle: DeploymentHandle, *, timeout_s: float) -> None:
        self.name: ToolName = name
        self.timeout_s = timeout_s
        self._handle = handle

    async def call(self, argument: str) -> ToolOutput:
        """Run one call; giving it up cancels it at the worker."""
        response = self._handle.call.remote(argument, current_id())
        return cast(ToolOutput, await response)

    async def close(self) -> None:
        """The deployment owns the tool."""
