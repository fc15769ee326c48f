"""The HTTP application of one replica: routes, errors, keys and limits around a chat service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute

from moss.tools.registry import close_tools
from serve.api_routes import api_router
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.completion_routes import completion_router
from serve.edge import Edge
from serve.errors import add_error_handlers
from serve.gate import KeyGate
from serve.history_routes import history_router
from serve.key_limits import KeyLimits
from serve.page_routes import page_router
from serve.retention import daily_upkeep
from serve.watch import Watch


def build_app(service: ChatService, keys: ApiKeys, *, behind_serve: bool = False) -> FastAPI:
    """The FastAPI application; the interactive API pages are off, as they load foreign scripts.

    Args:
        behind_serve: whether Ray Serve's proxy stands in front of it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with daily_upkeep(service):
            yield
        service.store.close()
        await close_tools(service.tools)

    app = FastAPI(
        title="MOSS chat", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    limits = KeyLimits(retry_after_s=service.config.http.retry_after_s)
    app.include_router(api_router(service, limits))
    app.include_router(completion_router(service, limits))
    app.include_router(page_router(service, keys))
    app.include_router(history_router(service))
    add_error_handlers(app)
    app.add_middleware(Edge, config=service.config.http, needs_key=keys.required)
    app.add_middleware(KeyGate, keys=keys, limits=limits)
    paths = [route.path for route in app.routes if isinstance(route, APIRoute)]
    plain_paths = [path for path in paths if "{" not in path]
    app.add_middleware(Watch, paths=plain_paths, proxy_adds_id=behind_serve)
    return app
