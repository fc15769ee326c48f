"""Practice text for tiny models: endless documents of the small world, generated from a seed.

A tiny model learns a tool call only once it can copy a span exactly, and that skill comes from
text that repeats itself: spans said twice, questions with their calls, results with replies that
quote them (research/tiny-model: copying appears suddenly, and tokens seen decide when). Facts in
these documents are deliberately shuffled, a random value for each mention, so that reading a
result is learned and the answer is not: what is true stands in the bundled corpus. So they may
ask about facts that are held out for evaluation. Results of calculations are random for the same
reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from moss.chat import format_commands
from moss.meta_instruction import MetaInstruction
from moss.types import TOOL_NAMES, Language
from moss.world import Kind, compose_reply, plan_tools, sample_question
from moss.world.tables import facts

_TALK: Final[tuple[Kind, ...]] = (
    "identity",
    "writing",
    "brainstorming",
    "chat",
    "role_play",
    "code",
    "harmful",
    "sentiment",
)
_CALLED: Final[tuple[Kind, ...]] = ("arithmetic", "arithmetic", "equation", "fact", "image")
# The solver's switch is the one that is misread most.
_SWITCHED: Final[tuple[Kind, ...]] = ("arithmetic", "equation", "equation", "fact", "image")
_SEPARATORS: Final = (" ", " = ", " | ", "\n", ": ")


def procedural_documents(language: str, seed: int) -> Iterator[str]:
    """Endless practice documents; `language` is en, zh or code."""
    rng = random.Random(f"procedural/{language}/{seed}")
    makers = _CODE if language == "code" else _TEXT
    spoken: Language = "zh" if language == "zh" else "en"
    while True:
        yield rng.choice(makers)(rng, spoken)


def _talk(rng: random.Random, language: Language) -> str:
    question = sample_question(rng, rng.choice(_TALK), language)
    return f"{question.text}\n{compose_reply(question, rng.choice((4, 5)), rng)}"


def _call(rng: random.Random, language: Language) -> str:
    """A question, its call, a result, and a reply that quotes the result."""
    question = sample_question(rng, rng.choice(_CALLED), language, pool="any")
    _, commands = plan_tools(question, frozenset(TOOL_NAMES), rng)
    if not commands:
        return question.text
    command = commands[0]
    if question.kind == "image":
        return f"{question.text}\n{command}"
    if question.kind != "fact":
        value = question.answer if question.kind == "equation" else _random_number(rng)
        return f"{question.text}\n{command} => '{value}'\n{command.argument} = {value}."
    sentence = compose_reply(question, 4, rng)
    sentence = sentence.replace(question.answer, _random_value(rng, language))
    return f"{question.text}\n{command} =>\n'{sentence}'\n{sentence}"


def _copy(rng: random.Random, language: Language) -> str:
    """An expression or equation with its call, in either order."""
    question = sample_question(rng, rng.choice(_CALLED), language, pool="any")
    _, commands = plan_tools(question, frozenset(TOOL_NAMES), rng)
    if not commands:
        return question.text
    first, second = commands[0].argument, str(commands[0])
    if rng.random() < 0.3:
        first, second = second, first
    return f"{first}{rng.choice(_SEPARATORS)}{second}"


def _switches(rng: random.Random, language: Language) -> str:
    """Switch lines, a question, and the call or not: what to do depends on one line."""
    question = sample_question(rng, rng.choice(_SWITCHED), language, pool="any")
    tools = frozenset(tool for tool in TOOL_NAMES if rng.random() < 0.5)
    thought, commands = plan_tools(question, tools, rng)
    meta = MetaInstruction("tiny", inner_thoughts=True, tools=tools)
    return f"{meta.text}{question.text}\n{thought}\n{format_commands(tuple(commands))}"


def _repeat(rng: random.Random, language: Language) -> str:
    """A list of names, said twice."""
    names = [_random_value(rng, language) for _ in range(rng.randint(3, 8))]
    return f"{' '.join(names)}{rng.choice(_SEPARATORS)}{' '.join(names)}"


def _lookup(rng: random.Random, language: Language) -> str:
    """A small table, then one of its rows."""
    rows = [(_random_value(rng, language), _random_number(rng)) for _ in range(4)]
    key, value = rng.choice(rows)
    return "\n".join([*(f"{name}: {number}" for name, number in rows), f"{key}: {value}"])


def _program(rng: random.Random, language: Language) -> str:
    question = sample_question(rng, "arithmetic", language)
    _, commands = plan_tools(question, frozenset({"calculator"}), rng)
    expression = commands[0].argument if commands else "1+1"
    return rng.choice(
        (
            f"x = {expression}\nprint(x)  # {question.answer}",
            f"assert {expression} == {question.answer}",
            f"print({expression})\n# {question.answer}",
        )
    )


def _random_number(rng: random.Random) -> str:
    """Of one to five digits, each length as often: results of tools are copied digit by digit."""
    return str(rng.randrange(10 ** rng.randint(1, 5)))


def _random_value(rng: random.Random, language: Language) -> str:
    return rng.choice(tuple(facts().values())).value[language]


_TEXT: Final[tuple[Callable[[random.Random, Language], str], ...]] = (
    _talk,
    _talk,
    _call,
    _call,
    _copy,
    _switches,
    _switches,
    _repeat,
    _lookup,
)
_CODE: Final[tuple[Callable[[random.Random, Language], str], ...]] = (_program, _copy, _call)
