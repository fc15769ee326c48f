"""What PPO starts from is looked at before the first actor starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from moss.chat import Conversation, Turn
from moss.config.model import ModelConfig
from moss.config.ppo import TrainPPOConfig
from moss.errors import ConfigError
from moss.meta_instruction import MetaInstruction
from moss.models import build_policy_for, save_model
from moss.ppo_inputs import load_inputs
from moss.storage import write_rows
from moss.tokenizer import MossTokenizer


@pytest.fixture(params=["llama", "codegen"])
def workspace(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A policy of each architecture with 512 positions, and one prompt."""
    tokenizer = MossTokenizer.load(tiny_checkpoint)
    shape = ModelConfig(
        architecture=request.param,
        hidden_size=32,
        num_layers=1,
        num_heads=4,
        rotary_dim=8,
        max_positions=512,
    )
    policy = build_policy_for(tokenizer, shape, seed=0)
    save_model(tmp_path / "MOSS-SFT" / "checkpoint", policy, tokenizer_folder=tiny_checkpoint)
    conversation = Conversation(MetaInstruction("tiny"), (Turn("Calculate 12+7.", ""),))
    rows = [{"id": "one", "conversation": conversation.to_json()}]
    write_rows(str(tmp_path / "MOSS-PAT" / "data" / "prompts.parquet"), rows)
    return tmp_path


def config(workspace: Path, max_new_tokens: int) -> TrainPPOConfig:
    return TrainPPOConfig.model_validate(
        {
            "workspace": str(workspace),
            "ppo": {"scale_rewards": False},
            "rollout": {
                "max_prompt_tokens": 448,
                "sampling": {"max_new_tokens": max_new_tokens},
            },
        }
    )


def test_sequences_may_fill_the_positions_of_either_architecture(workspace: Path) -> None:
    inputs = load_inputs(config(workspace, max_new_tokens=64))
    assert inputs.prompts.ids == ("one",)


def test_sequences_beyond_the_positions_are_refused(workspace: Path) -> None:
    with pytest.raises(ConfigError, match=r"448 \+ max_new_tokens=65 = 513 .* 512 positions"):
        load_inputs(config(workspace, max_new_tokens=65))
