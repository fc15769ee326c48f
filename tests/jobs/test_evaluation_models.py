"""Evaluated models answer deterministically, and every query is walked in every arm."""

import json
from pathlib import Path

import pytest

from jobs.evaluation_models import EvaluatedModel, walk_tool_turns
from moss.chat import Conversation, Turn
from moss.config.evaluation import EvaluateConfig, GenerationConfig, ToolEvaluationConfig
from moss.evaluation.prompts import fresh_tool_queries
from moss.evaluation.tool_turns import ARMS
from moss.meta_instruction import MetaInstruction

GENERATION = GenerationConfig(max_new_tokens=8, batch_size=3)


@pytest.fixture
def run_folder(tiny_checkpoint: Path, tmp_path: Path) -> str:
    """A run whose checkpoint has room for a meta-instruction and a turn."""
    (tmp_path / "checkpoint").symlink_to(tiny_checkpoint)
    return str(tmp_path)


def histories(count: int) -> dict[str, Conversation]:
    meta = MetaInstruction("tiny")
    return {
        f"p{number}": Conversation(meta, (Turn(human=f"What is {number}+1?", moss=""),))
        for number in range(count)
    }


def test_a_response_does_not_depend_on_what_is_asked_beside_it(run_folder: str) -> None:
    model = EvaluatedModel(run_folder, GENERATION)
    counted: list[int] = []
    asked = histories(7)
    everything = model.respond(asked, quality=None, seed=1, advance=counted.append)
    alone = model.respond({"p4": asked["p4"]}, quality=None, seed=1, advance=counted.append)
    assert alone["p4"] == everything["p4"]
    assert list(everything) == list(asked)
    assert sum(counted) == 8


def test_every_query_is_walked_once_in_every_arm_and_no_disabled_tool_runs(
    run_folder: str,
) -> None:
    tools = ToolEvaluationConfig(
        tools=("calculator",), num_queries=4, meta_version="tiny", max_thought_tokens=6,
        max_command_tokens=6,
    )  # fmt: skip
    config = EvaluateConfig(tool_evaluation=tools, generation=GENERATION, tool_quality=None)
    queries = fresh_tool_queries(tools, set(), seed=0)
    counted: list[int] = []
    model = EvaluatedModel(run_folder, GENERATION)
    turns = walk_tool_turns(model, queries, config, counted.append)
    walked = sorted((turn.query.id, turn.arm) for turn in turns)
    assert walked == sorted((query.id, arm) for query in queries for arm in ARMS)
    assert sum(counted) == len(turns)
    assert not any(turn.ran for turn in turns if turn.arm != "on")


def test_a_history_without_room_for_a_response_does_not_fit(
    run_folder: str, tiny_checkpoint: Path
) -> None:
    model = EvaluatedModel(run_folder, GENERATION)
    positions = json.loads((tiny_checkpoint / "config.json").read_text())["max_position_embeddings"]
    assert model.max_positions == positions
    long = Conversation(MetaInstruction("tiny"), (Turn(human="word " * positions, moss=""),))
    assert not model.fits(long)
