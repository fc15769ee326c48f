"""A conversation with a tool, streamed by the official client; the four scripts beside it call it.

Shown as they come: what the model thinks, what it calls, what the tool answers, the reply.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any, cast

from openai import APIConnectionError, APIStatusError, OpenAI


def hold(tool: str, conversations: list[list[str]]) -> int:
    """Hold conversations with one tool on, and say whether it ran in each of them.

    Args:
        tool: `calculator`, `equation_solver`, `web_search` or `text_to_image`.
        conversations: the user's messages of each.
    Returns: the process's exit code: 0, 1 if the tool stayed unused in one, 2 if the service did
        not answer.
    """
    parser = argparse.ArgumentParser(description=f"Conversations with the tool {tool}.")
    parser.add_argument("url", help="the address that `make demo` prints")
    address = parser.parse_args().url.rstrip("/")
    client = OpenAI(base_url=f"{address}/v1", api_key=os.environ.get("MOSS_API_KEY", "none"))
    try:
        return _hold(client, tool, conversations)
    except APIConnectionError:
        print(
            f"nothing answers at {address}; `make demo` starts the service and prints its address"
        )
    except APIStatusError as error:
        print(
            f"{address} answered {error.status_code}: {error.message}; a key goes in MOSS_API_KEY"
        )
    return 2


def _hold(client: OpenAI, tool: str, conversations: list[list[str]]) -> int:
    model = client.models.list().data[0].id
    unused = []
    for prompts in conversations:
        messages: list[dict[str, str]] = []
        num_results = 0
        for prompt in prompts:
            messages.append({"role": "user", "content": prompt})
            reply, ran = answer(client, model, tool, messages)
            messages.append({"role": "assistant", "content": reply})
            num_results += ran
        if not num_results:
            unused.append(prompts[0])
    for prompt in unused:
        print(f"the model did not use {tool} in the conversation that begins {prompt!r}")
    return 1 if unused else 0


def answer(
    client: OpenAI, model: str, tool: str, messages: list[dict[str, str]]
) -> tuple[str, int]:
    """One turn: the reply, and how often the tool gave a result."""
    print(f"\nuser: {messages[-1]['content']}")
    include = ["inner_thoughts", "commands", "results", "images"]
    stream = client.chat.completions.create(
        model=model,
        messages=cast(Any, messages),
        stream=True,
        extra_body={"moss": {"tools": {tool: True}, "include": include}},
    )
    reply, ran = "", 0
    for chunk in stream:
        delta = chunk.choices[0].delta
        extra = delta.model_extra or {}
        if thought := extra.get("reasoning_content"):
            print(f"  thinks: {thought}")
        part = extra.get("moss", {})
        if part.get("type") in ("commands", "result", "image"):
            ran += part["type"] == "result" and part["ok"]
            print(f"  {json.dumps(part, ensure_ascii=False)}")
        reply += delta.content or ""
    print(f"moss: {reply}")
    return reply, ran
