"""The actors of a PPO run: how many of each role, what each gets, how trained roles are sharded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from moss.config.base import Config
from moss.config.optimization import ParallelConfig


class ActorConfig(Config):
    """Actors of one role: how many, what Ray reserves for each, the threads each may use."""

    num_ranks: int = Field(1, ge=1)
    """Equal actors that share the rows of a batch."""
    num_cpus: float = Field(0.25, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    num_threads: int = Field(1, ge=1)
    """Torch threads; more than the cores behind `num_cpus` slows every actor down."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the actor's model lives."""
        return "cuda" if self.num_gpus else "cpu"


class ReferenceActorConfig(ActorConfig):
    """Actors of the reference, each with the whole model."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights and activations; the policy's, or rounding looks like a distance between them."""


class TrainedActorConfig(ActorConfig):
    """Actors of a trained role. Ranks above one form a process group: gloo on CPU, NCCL on GPU."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO over the ranks: 1 shards the optimizer state, 2 gradients too, 3 weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights, gradients and activations; in bf16 the optimizer keeps an fp32 copy."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    collective_timeout_s: float = Field(300.0, gt=0)
    """Longest wait of one rank for the others."""

    @property
    def parallel(self) -> ParallelConfig:
        """How the role's engine runs in its actors."""
        return ParallelConfig(
            num_workers=self.num_ranks,
            zero_stage=self.zero_stage,
            device=self.device,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            num_threads=self.num_threads,
            collective_timeout_s=self.collective_timeout_s,
        )


class PPOActorsConfig(Config):
    """The actors of one PPO run, five roles; `critic` where the estimator uses one."""

    policy: TrainedActorConfig = TrainedActorConfig()
    critic: TrainedActorConfig = TrainedActorConfig()
    reference: ReferenceActorConfig = ReferenceActorConfig()
    reward: ActorConfig = ActorConfig()
    rollout: ActorConfig = ActorConfig()

    @property
    def by_role(self) -> dict[str, ActorConfig]:
        """Role to config, in the order they start: the slowest first."""
        return {
            "rollout": self.rollout,
            "policy": self.policy,
            "critic": self.critic,
            "reference": self.reference,
            "reward": self.reward,
        }

    @property
    def trained(self) -> dict[str, TrainedActorConfig]:
        """The roles whose ranks form a process group."""
        return {"policy": self.policy, "critic": self.critic}
