"""A stand-in for an endpoint that answers at once, inside the process that asks.

It takes the place of the HTTP client alone: ledger, limits, retries and parsing are the real ones.
Of the 8 prompts of each answer, `FRESH` are new, one repeats an earlier prompt in other case and
spacing, one differs from an earlier prompt in its last character; so the number that deduplication
must keep is known beforehand.
"""

from __future__ import annotations

import hashlib
import random
import re
from typing import Self

import httpx2

from moss.endpoint import OFFLINE_TEACHER_OWNER

PROMPTS = 8
FRESH = 6
EXACT_AT, NEAR_AT = 2, 5
"""Positions of the repeated prompts; the last prompt of an answer is a new one."""
NUM_WORDS = 14
NUM_CHARACTERS = 48
MIN_LENGTH = 40
"""Characters from which one more keeps two texts above the threshold beyond doubt."""

_EXAMPLE = re.compile(r"^\[Question \d+\]: (.+)$", re.MULTILINE)
_CJK = re.compile(r"[\u4e00-\u9fff]")
_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ar", "en")]


class InstantClient:
    """What `moss.teacher` uses of `Connection`, and `moss.endpoint` of `openai.AsyncOpenAI`."""

    async def post(self, _route: str, body: dict[str, object]) -> httpx2.Response:
        """A chat answer; depends on the whole request."""
        messages = body["messages"]
        assert isinstance(messages, list)
        text = str(messages[-1]["content"])
        answer = write_prompts(text, seed=body.get("seed"))
        content = {
            "choices": [{"message": {"content": answer}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(text) // 4, "completion_tokens": len(answer) // 4},
        }
        return httpx2.Response(200, json=content)

    async def get(self, _url: str, *, cast_to: type[httpx2.Response]) -> httpx2.Response:
        """The list of models; its owner marks all as a stand-in's."""
        names = ("text-davinci-003",)
        models = [{"id": name, "owned_by": OFFLINE_TEACHER_OWNER} for name in names]
        return cast_to(200, json={"data": models})

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def install() -> None:
    """Put the stand-in where this process opens clients; run in the driver and each worker."""
    from moss import endpoint, teacher

    def open_client(*_: object, **__: object) -> InstantClient:
        return InstantClient()

    teacher.Connection = open_client  # type: ignore[assignment, attr-defined]
    endpoint.open_client = open_client  # type: ignore[assignment, attr-defined]


def write_prompts(request: str, *, seed: object) -> str:
    """An answer to a Self-Instruct request, in the language of its examples."""
    rng = random.Random(hashlib.sha256(f"{seed} {request}".encode()).digest())
    examples = _EXAMPLE.findall(request)
    in_chinese = len(_CJK.findall("".join(examples))) > len(" ".join(examples).split())
    fresh = [_fresh(rng, in_chinese=in_chinese) for _ in range(FRESH)]
    long = [text for text in examples if len(text) >= MIN_LENGTH] or fresh[:1]
    prompts = list(fresh)
    prompts.insert(EXACT_AT, f"  {rng.choice(long).upper()} ")
    prompts.insert(NEAR_AT, rng.choice(long) + "!")
    lines = [f"[Question {number}]: {text}" for number, text in enumerate(prompts, 1)]
    return "\n".join(lines).removeprefix("[Question 1]:")


def _fresh(rng: random.Random, *, in_chinese: bool) -> str:
    if in_chinese:
        return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(NUM_CHARACTERS)) + "？"
    words = ("".join(rng.choices(_SYLLABLES, k=3)) for _ in range(NUM_WORDS))
    return f"How does {' '.join(words)} work?"
