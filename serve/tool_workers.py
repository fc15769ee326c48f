"""Tools as Ray Serve deployments that scale on their own, and their handles as tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from moss.config.tools import ToolsConfig
from moss.tools.base import ToolOutput
from moss.tools.registry import build_tool
from moss.types import ToolName

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class ToolWorker:
    """One replica of one tool; made a deployment in `serve.deployment`."""

    def __init__(self, name: ToolName, config: ToolsConfig) -> None:
        self._tool = build_tool(name, config)

    async def call(self, argument: str) -> ToolOutput:
        """Run one call."""
        return await self._tool.call(argument)

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
        response = self._handle.call.remote(argument)
        return cast(ToolOutput, await response)

    async def close(self) -> None:
        """The deployment owns the tool."""
