"""The offline teacher as an OpenAI-compatible service: alone, or as a Ray Serve app.

Usage:
    python -m serve.teacher_app [--host 127.0.0.1] [--port 0] [--parent-pid PID]

Prints one JSON line with its base URL, then serves. With `MOSS_TEACHER_KEY` set, requests need it
as their bearer token. It answers every prompt family of the pipeline by rule; see
`moss.offline_teacher`. Requests are read by hand instead of by pydantic, which is what lets one
core answer many hundred of them per second.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from moss.offline_teacher import answer_chat, answer_completion
from moss.offline_teacher.brain import count_tokens
from serve.teacher_protocol import (
    Reply,
    RequestError,
    TeacherRequest,
    encode,
    model_body,
    models_body,
    parse_body,
    parse_messages,
    parse_prompts,
    parse_request,
)

if TYPE_CHECKING:
    from ray.serve import Application

KEY_ENV: Final = "MOSS_TEACHER_KEY"

_PARENT_POLL_S = 0.5
_BACKLOG = 2048
_Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(key: str | None = None) -> FastAPI:
    """The HTTP app. `key`: the bearer token that requests need; none if None."""
    app = FastAPI(title="MOSS offline teacher", openapi_url=None)
    numbers = count(1)

    async def chat(request: Request) -> Response:
        data = parse_body(await request.body())
        asked = parse_request(data)
        messages = parse_messages(data)
        answers = [
            answer_chat(asked.model, messages, index=index, **asked.limits())
            for index in range(asked.num_choices)
        ]
        num_tokens = sum(count_tokens(message.content) for message in messages)
        name = f"chatcmpl-{next(numbers)}"
        return _respond(
            Reply(name, int(time.time()), asked.model, True, answers, num_tokens), asked
        )

    async def completions(request: Request) -> Response:
        data = parse_body(await request.body())
        asked = parse_request(data)
        prompts = parse_prompts(data)
        answers = [
            answer_completion(asked.model, prompt, index=index, **asked.limits())
            for prompt in prompts
            for index in range(asked.num_choices)
        ]
        num_tokens = sum(map(count_tokens, prompts))
        name = f"cmpl-{next(numbers)}"
        return _respond(
            Reply(name, int(time.time()), asked.model, False, answers, num_tokens), asked
        )

    async def models(_request: Request) -> Response:
        return _json(models_body())

    async def model(request: Request) -> Response:
        return _json(model_body(request.path_params["model"]))

    async def unknown(request: Request) -> Response:
        raise RequestError(404, f"no such route: {request.method} {request.url.path}")

    app.add_route("/v1/chat/completions", _guarded(chat, key), methods=["POST"])
    app.add_route("/v1/completions", _guarded(completions, key), methods=["POST"])
    app.add_route("/v1/models", _guarded(models, key), methods=["GET"])
    app.add_route("/v1/models/{model}", _guarded(model, key), methods=["GET"])
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app.add_route("/{path:path}", _guarded(unknown, None), methods=every)
    return app


def _guarded(endpoint: _Endpoint, key: str | None) -> _Endpoint:
    """Check the bearer token, and answer a `RequestError` with its body."""

    async def answer(request: Request) -> Response:
        try:
            _check_key(request, key)
            return await endpoint(request)
        except RequestError as error:
            return _json(error.body, error.status)

    return answer


def _check_key(request: Request, key: str | None) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
        raise RequestError(401, "the API key is missing or wrong", code="invalid_api_key")


def _respond(reply: Reply, asked: TeacherRequest) -> Response:
    if not asked.is_stream:
        return _json(reply.body())
    events = reply.events(includes_usage=asked.includes_usage)
    return StreamingResponse(iterate_in_threadpool(events), media_type="text/event-stream")


def _json(body: Mapping[str, object], status: int = 200) -> Response:
    return Response(encode(body), status, media_type="application/json")


def build_teacher_app(*, num_replicas: int = 1) -> Application:
    """The same service as a Ray Serve application, for `serve.run` on a cluster."""
    from ray import serve as ray_serve

    class OfflineTeacher:
        """Replica of the offline teacher; holds no state."""

    routed = ray_serve.ingress(create_app(os.environ.get(KEY_ENV)))(OfflineTeacher)
    deployment = ray_serve.deployment(name="offline_teacher", num_replicas=num_replicas)(routed)
    return deployment.bind()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes or the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m serve.teacher_app")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--parent-pid", type=int, help="end when this process is gone")
    options = parser.parse_args(argv)
    try:
        listener = socket.create_server((options.host, options.port), backlog=_BACKLOG)
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 3
    config = uvicorn.Config(
        create_app(os.environ.get(KEY_ENV)),
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    if options.parent_pid is not None:
        watch = threading.Thread(target=_end_with, args=(server, options.parent_pid), daemon=True)
        watch.start()
    port = listener.getsockname()[1]
    print(
        json.dumps({"base_url": f"http://{options.host}:{port}/v1", "pid": os.getpid()}), flush=True
    )
    server.run(sockets=[listener])
    return 0


def _end_with(server: uvicorn.Server, parent_pid: int) -> None:
    is_child = os.getppid() == parent_pid
    while (os.getppid() == parent_pid) if is_child else _is_alive(parent_pid):
        time.sleep(_PARENT_POLL_S)
    server.should_exit = True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    raise SystemExit(main())
