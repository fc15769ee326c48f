"""How old the weights are that sampled what a policy learns from.

Asynchronous PPO learns from responses of earlier weights (Noukhovitch et al. 2024, sec. 3). One
step is what `rollout.one_step_off` allows; older ones are refused.
"""

from __future__ import annotations

from moss.config.ppo import TrainPPOConfig
from moss.errors import WeightSyncError
from moss.rollouts import RolloutBatch


def staleness_of(rollouts: RolloutBatch, *, policy_version: int) -> int:
    """Versions that the policy is ahead of the oldest weights which sampled a response."""
    return policy_version - int(rollouts.policy_versions_B.min())


def check_staleness(rollouts: RolloutBatch, *, policy_version: int, most: int) -> None:
    """Raise WeightSyncError unless every response is of the policy's version or one of the `most`
    before it."""
    versions = sorted({int(version) for version in rollouts.policy_versions_B})
    if versions[0] < policy_version - most or versions[-1] > policy_version:
        raise WeightSyncError(
            f"policy version {policy_version} was to learn from responses of versions "
            f"{', '.join(map(str, versions))}; expected {max(0, policy_version - most)} to "
            f"{policy_version}. Start again from the last training state"
        )


def uncorrected_staleness(config: TrainPPOConfig) -> str | None:
    """What to know of a run that learns from stale responses as if they were its own; else None."""
    if not config.rollout.one_step_off or config.ppo.importance_cap is not None:
        return None
    return (
        "rollout.one_step_off without ppo.importance_cap: responses are one version of the policy "
        "old, and their advantages are not corrected for it; set ppo.importance_cap, for example 2"
    )
