"""PPO whose rewards are no preference model, over real actors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.ppo_run import train_ppo
from moss.chat import Conversation, Turn
from moss.checkpoints import load_latest_training_state
from moss.config.ppo import TrainPPOConfig
from moss.meta_instruction import MetaInstruction
from moss.storage import write_rows
from moss.tracking import read_metrics

META = MetaInstruction("tiny", tools=frozenset({"calculator"}))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_functions_and_judges_reward_tool_rollouts_without_a_preference_model(
    ray_cluster: None, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "MOSS-SFT").mkdir()
    (tmp_path / "MOSS-SFT" / "checkpoint").symlink_to(tiny_checkpoint)
    conversation = Conversation(META, (Turn("Calculate 12+7.", ""),)).to_json()
    rows = [{"id": f"p{n}", "conversation": conversation, "answer": "19"} for n in range(4)]
    write_rows(str(tmp_path / "MOSS-PAT" / "data" / "prompts.parquet"), rows)
    config = TrainPPOConfig.model_validate(
        {
            "workspace": str(tmp_path),
            "num_iterations": 2,
            "checkpoint_every": 2,
            "ppo": {
                "estimator": "rloo",
                "num_rollouts": 8,
                "responses_per_prompt": 4,
                "policy_learning_rate": 1e-3,
            },
            "rewards": {
                "terms": [
                    {"kind": "function", "function": "tests.actors.reward_functions:even_tokens"},
                    {"kind": "tool_judge", "name": "exact", "weight": 0.5, "wrong_score": -1},
                ],
                "normalization": "running",
                "max_failed_fraction": 0.125,
            },
            "rollout": {
                "engine": "transformers",
                "max_prompt_tokens": 40,
                "sampling": {"max_new_tokens": 6},
                "tools": {
                    "max_rounds": 1,
                    "max_thought_tokens": 2,
                    "max_command_tokens": 4,
                    "max_results_tokens": 10,
                },
            },
        }
    )
    run = tmp_path / "run"
    result = train_ppo(config, str(run))
    assert result.counts["rollouts"] == {"ok": 14, "failed": 2, "filtered": 0, "skipped": 0}
    assert [row["reason"] for row in result.dropped] == [
        "function: the first row is never scored"
    ] * 2
    for _, metrics in read_metrics(str(run)):
        assert metrics["reward/failed_count"] == 1
        assert metrics["reward/exact_score"] == -1
        expected = metrics["reward/function_score"] - 0.5
        assert metrics["rollout/score"] == pytest.approx(expected, abs=1e-5)
        assert metrics["ppo/policy_gradient_norm"] > 0
        assert metrics["rollout/logprob_gap_nats"] < 1e-3
    found = load_latest_training_state(str(run / "states"))
    assert found is not None
    stored = json.loads(Path(found[1], "controller.json").read_text())
    assert stored["normalizer"]["count"] == 14
