"""What a PPO run reads, checked before the first actor starts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from moss import storage
from moss.chat_rendering import ChatRenderer
from moss.config.ppo import TrainPPOConfig
from moss.errors import ConfigError, DataError
from moss.lineage import shared_folder
from moss.ppo_prompts import PromptSet, render_prompts
from moss.rewards.combined import check_functions
from moss.tokenizer import MossTokenizer
from moss.tool_rollouts import check_room


@dataclass(frozen=True, slots=True)
class PPOInputs:
    """Checkpoints and prompts of one run."""

    policy: str
    """Checkpoint folder of MOSS-SFT: policy, reference, rollout engine and tokenizer."""
    preference_model: str
    """Checkpoint folder of the reward, from which the critic starts; where neither is, not read."""
    prompts: PromptSet
    pad_id: int
    stop_ids: tuple[int, ...]
    """A response ends with one of these."""
    score_scale: float
    """Spread of the preference model's scores on validation responses; 1 if none is stored, or if
    that model is no reward."""

    def num_iterations(self, config: TrainPPOConfig) -> int:
        """Those that the config asks for, or one pass over the prompts."""
        return config.num_iterations or self.prompts.num_iterations(config.ppo.num_prompts)


def load_inputs(config: TrainPPOConfig) -> PPOInputs:
    """Read prompts and tokenizer, look at both checkpoints.

    Raises:
        DataError: a checkpoint or the prompts are missing or unusable.
        ConfigError: a reward function does not import, tool results have no room, or prompt and
            response do not fit the model's positions.
    """
    policy = shared_folder(f"{config.run_path(config.policy)}/checkpoint")
    preference_model = shared_folder(f"{config.run_path(config.preference_model)}/checkpoint")
    _check_positions(config, policy)
    check_functions(config.rewards)
    tokenizer = MossTokenizer.load(policy)
    renderer = ChatRenderer(tokenizer)
    if config.rollout.tools.max_rounds:
        check_room(renderer, config.rollout.tools)
    rows = storage.read_rows(
        storage.join(config.run_path(config.prompts), "data", "prompts.parquet")
    )
    return PPOInputs(
        policy=policy,
        preference_model=preference_model,
        prompts=render_prompts(
            rows,
            renderer,
            max_tokens=config.rollout.max_prompt_tokens,
            seed=config.seed,
            columns=config.rewards.all_columns,
            with_tools=config.rollout.tools.max_rounds > 0,
        ),
        pad_id=tokenizer.pad_id,
        stop_ids=(renderer.end_id("moss"),),
        score_scale=_stored_spread(preference_model) if _is_scaled(config) else 1.0,
    )


def _check_positions(config: TrainPPOConfig, policy: str) -> None:
    # Transformers writes the first name for most architectures, the second for CodeGen.
    names = ("max_position_embeddings", "n_positions")
    positions = next(filter(None, (_read_number(policy, "config.json", n) for n in names)), 0)
    needed = config.rollout.max_sequence_tokens
    if needed > positions:
        raise ConfigError(
            f"rollout.max_prompt_tokens={config.rollout.max_prompt_tokens} + max_new_tokens="
            f"{config.rollout.sampling.max_new_tokens}{_tool_tokens(config)} = {needed} tokens, "
            f"the policy in {policy} has {positions:g} positions; lower one of them"
        )


def _tool_tokens(config: TrainPPOConfig) -> str:
    """The part of `rollout.tools` in the sum of a sequence's tokens."""
    tools = config.rollout.tools
    num_tokens = tools.max_sampled_tokens + tools.max_inserted_tokens
    return f" + {num_tokens} of rollout.tools" if num_tokens else ""


def _is_scaled(config: TrainPPOConfig) -> bool:
    return config.ppo.scale_rewards and config.rewards.uses_preference_model


def _stored_spread(preference_model: str) -> float:
    spread = _read_number(preference_model, "preference.json", "std")
    return spread if spread is not None and math.isfinite(spread) and spread > 0 else 1.0


def _read_number(checkpoint: str, name: str, key: str) -> float | None:
    try:
        value = json.loads(Path(checkpoint, name).read_text()).get(key)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{checkpoint} is no checkpoint that PPO can start from ({error}); run the stage that "
            "trains it or correct the run id"
        ) from error
    return float(value) if isinstance(value, int | float) else None
