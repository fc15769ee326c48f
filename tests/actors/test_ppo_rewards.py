"""PPO whose rewards are no preference model, over real actors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.ppo_run import train_ppo
from moss.chat import Conversation, Turn
from moss.checkpoints import load_latest_training_state
from moss.config.ppo import TrainPPOConfig
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from moss.storage import write_rows
from moss.tracking import read_metrics
from tests.small_servers import serve_posts

META = MetaInstruction("tiny", tools=frozenset({"calculator"}))


EVEN = {"kind": "function", "function": "tests.actors.reward_functions:even_tokens"}
EXACT = {"kind": "tool_judge", "name": "exact", "weight": 0.5, "wrong_score": -1}

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def workspace(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy and prompts with reference answers; no preference model."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "MOSS-SFT").mkdir()
    (folder / "MOSS-SFT" / "checkpoint").symlink_to(tiny_checkpoint)
    conversation = Conversation(META, (Turn("Calculate 12+7.", ""),)).to_json()
    rows = [{"id": f"p{n}", "conversation": conversation, "answer": "19"} for n in range(4)]
    write_rows(str(folder / "MOSS-PAT" / "data" / "prompts.parquet"), rows)
    return folder


def ppo_config(workspace: Path, rewards: dict[str, object]) -> TrainPPOConfig:
    tools = {
        "max_rounds": 1,
        "max_thought_tokens": 2,
        "max_command_tokens": 4,
        "max_results_tokens": 20,
    }
    return TrainPPOConfig.model_validate(
        {
            "workspace": str(workspace),
            "num_iterations": 2,
            "checkpoint_every": 2,
            "ppo": {
                "estimator": "rloo",
                "num_rollouts": 8,
                "responses_per_prompt": 4,
                "policy_learning_rate": 1e-3,
            },
            "rewards": rewards,
            "rollout": {
                "engine": "transformers",
                "max_prompt_tokens": 90,
                "sampling": {"max_new_tokens": 6},
                "tools": tools,
            },
        }
    )


def test_functions_and_judges_reward_tool_rollouts_without_a_preference_model(
    ray_cluster: None, workspace: Path, tmp_path: Path
) -> None:
    rewards = {"terms": [EVEN, EXACT], "normalization": "running", "max_failed_fraction": 0.125}
    result = train_ppo(ppo_config(workspace, rewards), str(tmp_path))
    assert result.counts["rollouts"] == {"ok": 14, "failed": 2, "filtered": 0, "skipped": 0}
    reason = "function: the first row is never scored"
    assert [row["reason"] for row in result.dropped] == [reason] * 2
    for _, metrics in read_metrics(str(tmp_path)):
        assert metrics["reward/failed_count"] == 1
        assert metrics["reward/exact_score"] == -1
        expected = metrics["reward/function_score"] - 0.5
        assert metrics["rollout/score"] == pytest.approx(expected, abs=1e-5)
        assert metrics["ppo/policy_gradient_norm"] > 0
        assert metrics["rollout/logprob_gap_nats"] < 1e-3
    found = load_latest_training_state(str(tmp_path / "states"))
    assert found is not None
    stored = json.loads(Path(found[1], "controller.json").read_text())
    assert stored["normalizer"]["count"] == 14


def test_an_endpoint_that_answers_500_and_hangs_ends_the_run_with_the_cause(
    ray_cluster: None, workspace: Path, tmp_path: Path
) -> None:
    done = threading.Event()
    asked: list[int] = []

    def answer(
        body: dict[str, object], headers: Mapping[str, str]
    ) -> tuple[int, str, Mapping[str, str]]:
        asked.append(1)
        if len(asked) > 2:
            done.wait(60)
        return 500, "out of memory", {}

    with serve_posts(answer) as url:
        term = {"kind": "http", "url": url, "rows_per_request": 4, "max_attempts": 2}
        quick = {"timeout_s": 0.5, "backoff_s": 0.01, "deadline_s": 10, "concurrency": 1}
        rewards: dict[str, object] = {"terms": [term | quick]}
        began = time.monotonic()
        with pytest.raises(DataError, match=r"all 8 rewards .*(answered 500|no answer within)"):
            train_ppo(ppo_config(workspace, rewards), str(tmp_path))
        done.set()
    assert len(asked) == 4
    assert time.monotonic() - began < 120
