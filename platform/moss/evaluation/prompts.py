"""Evaluation prompts, and the proof that no training set holds them.

Search is measured on facts that nobody asks about in training, though other facts of the same thing
are asked: a fact that training answers is learned by heart, and search would have nothing to add.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from moss.chat import Conversation
from moss.config.evaluation import ToolEvaluationConfig
from moss.dedup import normalize
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from moss.recipes import Row, stable_unit, text_of
from moss.types import TOOL_NAMES, Language, ToolName
from moss.world import Kind, Question, sample_question
from moss.world.toolplans import needed_tool

TRAINING_SPLITS = frozenset({"sft", "preference"})

KIND_OF_TOOL: dict[ToolName, Kind] = {
    "calculator": "arithmetic",
    "equation_solver": "equation",
    "web_search": "fact",
    "text_to_image": "image",
}

MAX_DRAWS_PER_QUERY = 50
"""A domain whose fresh queries are used up yields fewer, not an endless search."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Prompts of the eval split that no training set holds."""

    histories: dict[str, Conversation]
    """Prompt id -> conversation whose last reply is empty."""
    languages: dict[str, str]
    num_leaked: int
    """Prompts of the split left out because a training set holds their text."""


@dataclass(frozen=True, slots=True)
class ToolQuery:
    """A fresh query that one tool answers, with the switches of both arms."""

    id: str
    tool: ToolName
    question: Question
    others: frozenset[ToolName]
    """Other tools that are on in both arms."""

    def meta(self, version: str, *, is_on: bool) -> MetaInstruction:
        """The meta-instruction with the tool switched on or off."""
        tools = self.others | {self.tool} if is_on else self.others
        return MetaInstruction(version, inner_thoughts=True, tools=frozenset(tools))


def fingerprint(text: str) -> str:
    """sha256 of a prompt's normal form (case, width and space do not count), hex."""
    return hashlib.sha256(normalize(text).encode()).hexdigest()


def training_fingerprints(rows: Iterable[Row]) -> set[str]:
    """Fingerprints of every user message in the training splits of conversation rows."""
    found: set[str] = set()
    for row in rows:
        if row["split"] in TRAINING_SPLITS:
            conversation = Conversation.from_json(text_of(row, "conversation"))
            found.update(fingerprint(turn.human) for turn in conversation.turns)
    return found


def held_out_histories(
    rows: Sequence[Row], trained: Collection[str], *, num_prompts: int, seed: int
) -> HeldOut:
    """At most `num_prompts` histories of the eval split, drawn by `seed`, without trained prompts.

    Raises:
        DataError: none is left.
    """
    chosen = [row for row in rows if row["split"] == "eval"]
    chosen.sort(key=lambda row: stable_unit(seed, "evaluation", row["id"]))
    histories: dict[str, Conversation] = {}
    languages: dict[str, str] = {}
    num_leaked = 0
    for row in chosen:
        conversation = Conversation.from_json(text_of(row, "conversation"))
        last = conversation.turns[-1]
        if fingerprint(last.human) in trained:
            num_leaked += 1
        elif len(histories) < num_prompts:
            turns = (*conversation.turns[:-1], replace(last, moss="", quality=None))
            prompt_id = text_of(row, "prompt_id")
            histories[prompt_id] = Conversation(conversation.meta, turns)
            languages[prompt_id] = text_of(row, "language")
    if not histories:
        raise DataError(
            f"the eval split has {len(chosen)} conversations and {num_leaked} of them are in a "
            "training set; raise splits.eval of synthesize_conversations"
        )
    return HeldOut(histories, languages, num_leaked)


def fresh_tool_queries(
    config: ToolEvaluationConfig, trained: Collection[str], *, seed: int
) -> list[ToolQuery]:
    """Queries that need each tool and that no training set holds; no text occurs twice."""
    queries: list[ToolQuery] = []
    for tool in config.tools:
        rng = random.Random(f"{seed} {tool}")
        seen = set(trained)
        for number in range(config.num_queries):
            question = _fresh_question(rng, tool, seen, zh_share=config.zh_share)
            if question is None:
                break
            seen.add(fingerprint(question.text))
            others = frozenset(
                other
                for other in TOOL_NAMES
                if other != tool and rng.random() < config.other_tool_probability
            )
            queries.append(ToolQuery(f"{tool}-{number:04d}", tool, question, others))
    return queries


def _fresh_question(
    rng: random.Random, tool: ToolName, seen: Collection[str], *, zh_share: float
) -> Question | None:
    for _ in range(MAX_DRAWS_PER_QUERY):
        language: Language = "zh" if rng.random() < zh_share else "en"
        question = sample_question(rng, KIND_OF_TOOL[tool], language, pool="held_out")
        if needed_tool(question) == tool and fingerprint(question.text) not in seen:
            return question
    return None
