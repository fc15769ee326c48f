"""A stub of a teacher: reads our own templates back and answers each in the expected form."""

from __future__ import annotations

import hashlib
import re

from moss.templates import load_template
from moss.types import LANGUAGES

ONE_SHOT = (
    "extend_prompts",
    "tool_queries",
    "complete_conversation",
    "tool_plan",
    "tool_reply",
    "tool_follow_up",
    "classify_use_case",
    "judge_pair",
    "rate_difficulty",
)
MODELS = dict.fromkeys(
    (
        "gpt-4",
        "gpt-3.5-turbo",
        "text-davinci-003",
        "text-davinci-002",
        "text-davinci-001",
        "text-curie-001",
        "text-babbage-001",
        "text-ada-001",
    ),
    "stub",
)
_QUERIES = {
    "calculator": ("What is {n}*7+5?", 'Calculate("{n}*7+5")'),
    "equation_solver": ("Solve 3x+4={n} now.", 'Solve("3x+4={n}")'),
    "web_search": ("What is the capital of land {n}?", 'Search("capital of land {n}")'),
    "text_to_image": ("Draw a red fox number {n}.", 'Text2Image("a red fox {n}")'),
}


def number(*parts: object) -> int:
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16)


def respond(body: dict[str, object]) -> str:
    """One answer; depends on the whole body only."""
    model, seed = str(body["model"]), body.get("seed")
    if "prompt" in body:
        return _single(str(body["prompt"]), model, seed)
    messages = body["messages"]
    assert isinstance(messages, list)
    last = messages[-1]["content"]
    if len(messages) == 1 and messages[0]["role"] == "user":
        return _single(last, model, seed)
    system = messages[0]["content"]
    for language in LANGUAGES:
        if load_template("user_instruction", language).extract(system):
            return f"Please tell me more about topic {number(system, len(messages), seed) % 997}."
    return f"{model} says: {'well ' * (number(model) % 5)}it is {number(last) % 100}."


def _single(prompt: str, model: str, seed: object) -> str:
    for name in ONE_SHOT:
        for language in LANGUAGES:
            found = load_template(name, language).extract(prompt)
            if found is not None:
                return _answer(name, found[0], found[1], model, seed)
    raise AssertionError(f"no template matches {prompt[:200]!r}")


def _answer(name: str, slots: dict[str, str], after: str, model: str, seed: object) -> str:
    if name in ("extend_prompts", "tool_queries"):
        pattern = _QUERIES[slots["tool"]][0] if "tool" in slots else "How does {n} help {m}?"
        lines = []
        for k in range(1, int(slots["count"]) + 1):
            n = number(slots["examples"], seed, k) % 99991
            words = hashlib.sha256(str(n).encode()).hexdigest()[:12]
            lines.append(f"[Question {k}]: {pattern.format(n=n, m=words)}")
        return "\n".join(lines).removeprefix("[Question 1]:")
    if name == "complete_conversation":
        turn = after.count("[Human]:")
        opening = f" And what about {turn}, please?<eoh>\n" if turn else "\n"
        return (
            f"{opening}[MOSS]: Reply {number(slots['first_message'], turn) % 100}.<eor>\n[Human]: x"
        )
    if name == "tool_plan":
        for api, (pattern, command) in _QUERIES.items():
            found = re.fullmatch(re.escape(pattern).replace(r"\{n\}", r"(\d+)"), slots["query"])
            line = re.search(rf"- {command.split('(')[0]}: (\w+)", slots["switches"])
            assert line is not None, api
            if found and line[1] == "enabled":
                return f" I need a tool.\nCommands: {command.format(n=found[1])}"
        return " No tool is needed.\nCommands: None"
    if name == "tool_reply":
        return "It is so<sup><|1|></sup>." if "<|1|>" in slots["results"] else "It is so."
    if name == "tool_follow_up":
        return "What is 12*7+5?"
    if name == "classify_use_case":
        return "Open QA" if number(slots["prompt"]) % 2 else "Brainstorming"
    if name == "rate_difficulty":
        return str(1 + number(slots["prompt"]) % 5)
    longer = len(slots["response_a"]) - len(slots["response_b"])
    verdict = "A" if longer > 0 else "B" if longer < 0 else "tie"
    return f"A: 1\nB: 2\nVerdict: {verdict}"
