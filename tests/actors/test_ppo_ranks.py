"""PPO with two ranks of its roles, or scored in one part, is the run of one rank each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from actors.ppo_run import train_ppo
from moss.config.ppo_actors import PPOActorsConfig, ReferenceActorConfig, TrainedActorConfig
from moss.models import load_policy
from tests.actors.test_ppo import workspace
from tests.ppo_workspace import ppo_config, untimed

__all__ = ["workspace"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_of_roles_scored_in_one_part_make_the_run_of_one_in_three_parts(
    ray_cluster: None, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, ranked = tmp_path / "alone", tmp_path / "ranked"
    config = ppo_config(workspace, "transformers", num_iterations=2, max_update_kl=10.0)
    train_ppo(config, str(alone))
    two = PPOActorsConfig(
        policy=TrainedActorConfig(num_ranks=2, zero_stage=3, gradient_checkpointing=True),
        critic=TrainedActorConfig(num_ranks=2, zero_stage=1),
        reference=ReferenceActorConfig(num_ranks=2),
    )
    one_part = config.rollout.model_copy(update={"num_parts": 1})
    # As on several nodes, weights pass through the run's folder.
    monkeypatch.setattr("actors.weight_sync.node_id", lambda: "a node without actors")
    used: list[Path] = []
    monkeypatch.setattr("shutil.rmtree", note_weight_folders(used, shutil.rmtree))
    train_ppo(config.model_copy(update={"actors": two, "rollout": one_part}), str(ranked))
    assert [folder.parent for folder in used] == [ranked]
    expected, found = untimed(alone), untimed(ranked)
    assert [step for step, _ in found] == [1, 2]
    for (_, metrics), (_, of_one) in zip(found, expected, strict=True):
        assert metrics == pytest.approx(of_one, rel=1e-3, abs=1e-4)
    weights = load_policy(ranked / "checkpoint").state_dict()
    for name, weight in load_policy(alone / "checkpoint").state_dict().items():
        assert torch.allclose(weights[name], weight, atol=1e-4), name
    state = ranked / "states" / "step-000002"
    assert all((state / role / "random-state-1.pt").is_file() for role in ("policy", "critic"))


def note_weight_folders(used: list[Path], remove: Callable[..., None]) -> Callable[..., None]:
    """`remove`, which writes down the folders that held weights."""

    def removed(path: str | Path, *args: object, **options: object) -> None:
        if Path(path).name.startswith("moss-weights-"):
            used.append(Path(path))
        remove(path, *args, **options)

    return removed
