from __future__ import annotations

import random
from dataclasses import replace

import pytest

from moss.chat import Command, Conversation, ToolResult, Turn
from moss.chat_rendering import ChatRenderer
from moss.meta_instruction import MetaInstruction
from serve.history import ContextLengthError, fit_history

META = MetaInstruction("tiny", False, frozenset())


def conversation(draw: random.Random) -> Conversation:
    turns = []
    for _ in range(draw.randrange(1, 12)):
        call = Command("Search", "x" * draw.randrange(1, 9))
        results = (ToolResult(call, "r" * draw.randrange(40)),) if draw.random() < 0.5 else ()
        turns.append(
            Turn("h" * draw.randrange(1, 30), "m" * draw.randrange(1, 30), commands=(call,),
                 results=results)
        )  # fmt: skip
    return Conversation(META, tuple(turns))


def oracle(renderer: ChatRenderer, whole: Conversation, limit: int) -> Conversation:
    """Results go one by one, then turns, each step counted anew."""

    def fits(candidate: Conversation) -> bool:
        return len(renderer.prompt_ids(candidate, "moss", None)) <= limit

    turns = list(whole.turns)
    for index in range(len(turns) - 1):
        if fits(replace(whole, turns=tuple(turns))):
            break
        turns[index] = replace(turns[index], results=())
    while not fits(replace(whole, turns=tuple(turns))) and len(turns) > 1:
        del turns[0]
    return replace(whole, turns=tuple(turns))


@pytest.mark.parametrize("seed", range(20))
def test_history_shrinks_as_step_by_step_counting_says(renderer: ChatRenderer, seed: int) -> None:
    draw = random.Random(seed)
    whole = conversation(draw)
    all_tokens = len(renderer.prompt_ids(whole, "moss", None))
    for limit in sorted(draw.sample(range(all_tokens + 5), 5)):
        expected = oracle(renderer, whole, limit)
        try:
            fitted, ids = fit_history(renderer, whole, "moss", max_prompt_tokens=limit)
            assert ids == renderer.prompt_ids(fitted, "moss")
        except ContextLengthError:
            assert len(expected.turns) == 1
            continue
        assert fitted.turns[:-1] == expected.turns[:-1]
        assert fitted.turns[-1].human == expected.turns[-1].human


def test_a_long_history_is_not_counted_whole(
    renderer: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    real = ChatRenderer.prompt_ids

    def spy(self: ChatRenderer, *arguments: object) -> list[int]:
        ids = real(self, *arguments)  # type: ignore[arg-type]
        counted.append(len(ids))
        return ids

    monkeypatch.setattr(ChatRenderer, "prompt_ids", spy)
    turns = tuple(Turn(f"question {n}", "word " * 200) for n in range(200))
    fitted, _ = fit_history(renderer, Conversation(META, turns), "moss", max_prompt_tokens=2_000)
    assert 1 < len(fitted.turns) < 10
    assert sum(counted) < 40_000
