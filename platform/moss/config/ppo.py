"""PPO as configuration: the update, the actors, the stage (paper section 7.2)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config
from moss.config.placement import PlacementConfig
from moss.config.ppo_actors import ActorConfig, PPOActorsConfig
from moss.config.ppo_faults import PPOFaultsConfig
from moss.config.rewards import RewardsConfig
from moss.config.rollout import RolloutConfig as RolloutConfig
from moss.config.rollout import SamplingParams as SamplingParams
from moss.config.rollout import VLLMConfig as VLLMConfig
from moss.config.watching import WatchedStageConfig


class PPOConfig(Config):
    """One PPO update. Figures are the paper's (7.2) or, where it is silent, those named here."""

    estimator: Literal["gae", "grpo", "rloo", "reinforce_pp"] = "gae"
    """How advantages are made: by a critic (`gae`, PPO proper, 7.2), from the other responses to
    the prompt (`grpo`, `rloo`), or from returns whitened over the batch (`reinforce_pp`). Without
    `gae` no critic is started, and the settings of critic, values and `gae_lambda` have no use."""
    num_rollouts: int = Field(32, ge=1)
    """Responses per iteration (7.2: batch 32)."""
    responses_per_prompt: int = Field(1, ge=1)
    """Responses to each prompt; `grpo` and `rloo` compare them and need 2 or more."""
    num_minibatches: int = Field(1, ge=1)
    """Optimizer steps per PPO epoch."""
    num_epochs: int = Field(1, ge=1)
    """Passes over each rollout batch (7.2: 1 epoch)."""
    max_update_kl: float | None = Field(None, gt=0)
    """Approximate KL from the weights that began an update, nats per token, past which the policy's
    remaining minibatches are left out; null takes them all. The critic always takes them all."""
    max_first_ratio_gap: float = Field(0.1, gt=0)
    """Mean distance from 1 of the ratio new / old before an update's first step, past which the run
    ends: the logprobs it would learn from are not those of its weights."""
    importance_cap: float | None = Field(None, gt=0)
    """Weigh each token's advantage by trainer's over rollout engine's probability, at most this
    (truncated importance sampling; Ionides 2008), where the two differ by `sampling.top_p`, kernels
    or precision; null trusts the engine."""
    micro_batch_size: int = Field(32, ge=1)
    """Rollouts run forward and backward at once; changes speed and memory, not the result."""
    clip_range: float = Field(0.2, gt=0, lt=1)
    """Clip epsilon (7.2; Schulman et al. 2017, sec. 3, eq. 7)."""
    value_clip_range: float | None = Field(0.2, gt=0)
    """A value may move this far from the old one, in value units; null for no clipping."""
    kl_coefficient: float = Field(0.02, ge=0)
    """Beta of equation 2 (7.2: 0.02); where `kl_target` is set, the first iteration's."""
    kl_target: float | None = Field(None, gt=0)
    """KL from the reference, nats per response, that beta is adapted to after every iteration
    (Ziegler et al. 2019, sec. 2.2); null keeps beta fixed."""
    kl_horizon: int = Field(10_000, ge=1)
    """Responses in which a KL of 1.2 times the target, or more, raises beta by about 20 %."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Per-token KL; k1 sums to the log ratio of equation 2."""
    kl_placement: Literal["reward", "loss"] = "reward"
    """Where beta * KL stands: in each token's reward (equation 2), or as a term of the policy's
    loss, averaged over tokens (Shao et al. 2024, eq. 3); the loss takes k2 or k3."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per response token, of `gae` and `reinforce_pp`."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    whiten_advantages: bool = False
    """Zero mean and unit variance over the response tokens of the batch; always so in
    `reinforce_pp`."""
    scale_rewards: bool = True
    """Divide scores by the spread stored with the preference model, where it is a reward and stores
    one: no other kind of reward has a known spread."""
    reward_clip: float | None = Field(10.0, gt=0)
    """Scaled scores are cut to +- this; null for no cut."""
    missing_end_penalty: float = Field(0.0, ge=0)
    """Taken off the scaled score of a response that reached its length limit."""
    policy_learning_rate: float = Field(1e-6, gt=0)
    critic_learning_rate: float = Field(1e-6, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of all optimizer steps with a rising rate, constant after (7.2: 10 %)."""
    critic_warmup_iterations: int = Field(0, ge=0)
    """First iterations that train the critic only."""
    max_grad_norm: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def minibatches_divide_rollouts(self) -> Self:
        """Every minibatch has the same number of rollouts."""
        if self.num_rollouts % self.num_minibatches:
            raise ValueError(
                f"num_rollouts={self.num_rollouts} does not split into num_minibatches="
                f"{self.num_minibatches} equal parts "
                f"({self.num_rollouts / self.num_minibatches:.2f} each); choose a divisor"
            )
        return self

    @model_validator(mode="after")
    def prompts_have_equal_groups(self) -> Self:
        """Every prompt of an iteration has the same number of responses, enough to compare."""
        if self.num_rollouts % self.responses_per_prompt:
            raise ValueError(
                f"num_rollouts={self.num_rollouts} is no multiple of responses_per_prompt="
                f"{self.responses_per_prompt} "
                f"({self.num_rollouts / self.responses_per_prompt:.2f} prompts); choose a divisor"
            )
        if self.estimator in ("grpo", "rloo") and self.responses_per_prompt < 2:
            raise ValueError(
                f"estimator={self.estimator} compares responses to one prompt, but "
                f"responses_per_prompt={self.responses_per_prompt}; set 2 or more"
            )
        return self

    @model_validator(mode="after")
    def warm_up_needs_a_critic(self) -> Self:
        """The iterations that train the critic only."""
        if self.critic_warmup_iterations and not self.uses_critic:
            raise ValueError(
                f"critic_warmup_iterations={self.critic_warmup_iterations}, but estimator="
                f"{self.estimator} has no critic; set 0"
            )
        return self

    @model_validator(mode="after")
    def kl_in_the_loss_has_a_gradient(self) -> Self:
        """Over samples of the policy, the gradient of k1 averages to zero."""
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator=k1 with kl_placement=loss pulls nowhere on average; choose k2 (the "
                "gradient of the KL) or k3"
            )
        return self

    @model_validator(mode="after")
    def adapted_coefficient_can_move(self) -> Self:
        """Beta is adapted by factors: zero stays zero, and none may turn it negative."""
        if self.kl_target is None:
            return self
        if self.kl_coefficient == 0:
            raise ValueError(
                f"kl_target={self.kl_target} cannot move kl_coefficient=0; give it a start above 0"
            )
        if self.num_rollouts > self.kl_horizon:
            raise ValueError(
                f"kl_horizon={self.kl_horizon} is shorter than one iteration of num_rollouts="
                f"{self.num_rollouts} responses; raise it"
            )
        return self

    @property
    def uses_critic(self) -> bool:
        """Whether advantages are made from a critic's values."""
        return self.estimator == "gae"

    @property
    def num_prompts(self) -> int:
        """Prompts per iteration."""
        return self.num_rollouts // self.responses_per_prompt

    def num_optimizer_steps(self, num_iterations: int) -> int:
        """Optimizer steps of each model over `num_iterations`."""
        return num_iterations * self.num_epochs * self.num_minibatches

    def warmup_factor(self, step: int, num_steps: int) -> float:
        """Share of the peak learning rate at optimizer step `step` (from 0) of `num_steps`."""
        num_warmup = round(self.warmup_ratio * num_steps)
        return min(1.0, (step + 1) / num_warmup) if num_warmup else 1.0


class PPOTimeouts(Config):
    """Longest waits, seconds; the message of each names actor, phase and limit."""

    start_s: float = Field(300.0, gt=0)
    generate_s: float = Field(300.0, gt=0)
    """Until the next part of the responses."""
    score_s: float = Field(120.0, gt=0)
    update_s: float = Field(300.0, gt=0)
    sync_s: float = Field(60.0, gt=0)
    sleep_s: float = Field(60.0, gt=0)
    """Of falling asleep, and of waking up."""
    save_s: float = Field(120.0, gt=0)


class TrainPPOConfig(WatchedStageConfig):
    """The `train_ppo` stage: MOSS-SFT, preference model and prompts in, MOSS-PPO out."""

    execution_keys: ClassVar[frozenset[str]] = WatchedStageConfig.execution_keys | {
        "timeouts",
        "faults",
        "placement",
        "keep_checkpoints",
    }

    run_id: str = "MOSS-PPO"
    policy: str = "MOSS-SFT"
    """Run whose checkpoint starts the policy and is the frozen reference."""
    preference_model: str = "preference-model"
    """Run whose checkpoint gives the rewards and starts the critic; not read where `rewards` has no
    such term and the estimator no critic."""
    prompts: str = "MOSS-PAT"
    """Run whose `data/prompts.parquet` PPO shares (7.2: the same prompts as PAT)."""
    num_iterations: int | None = Field(None, ge=1)
    """Iterations; null for one pass over the prompts (7.2: 100K / 32 = 3,125)."""
    ppo: PPOConfig = PPOConfig()
    rewards: RewardsConfig = RewardsConfig()
    rollout: RolloutConfig = RolloutConfig()
    actors: PPOActorsConfig = PPOActorsConfig()
    placement: PlacementConfig = PlacementConfig()
    timeouts: PPOTimeouts = PPOTimeouts()
    faults: PPOFaultsConfig = PPOFaultsConfig()
    checkpoint_every: int = Field(10, ge=1)
    """Iterations between full-state checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)

    @model_validator(mode="after")
    def rewards_end_before_the_score_phase(self) -> Self:
        """So that rows without a score fail with their reasons, not the run with a timeout."""
        if self.rewards.deadline_s >= self.timeouts.score_s:
            raise ValueError(
                f"rewards may take {self.rewards.deadline_s:g} s (the sum of deadline_s), the "
                f"score phase ends after timeouts.score_s={self.timeouts.score_s:g} s; lower the "
                "one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def tools_end_before_the_rollout_phase(self) -> Self:
        """So that a hanging tool has no result, and does not end the run with a timeout."""
        tools = self.rollout.tools
        if tools.max_rounds * tools.timeout_s >= self.timeouts.generate_s:
            raise ValueError(
                f"rollout.tools: {tools.max_rounds} rounds of timeout_s={tools.timeout_s:g} s do "
                f"not end before timeouts.generate_s={self.timeouts.generate_s:g} s; lower the one "
                "or raise the other"
            )
        return self

    @model_validator(mode="after")
    def judged_commands_can_be_written(self) -> Self:
        """Responses that are replies alone hold no commands."""
        judges = [
            t for t in self.rewards.terms if t.kind == "tool_judge" and t.judged == "commands"
        ]
        if judges and not self.rollout.tools.max_rounds:
            raise ValueError(
                "a tool_judge with judged=commands needs responses with commands; set "
                "rollout.tools.max_rounds=1, or judged=reply"
            )
        return self

    @model_validator(mode="after")
    def colocated_roles_fit_one_bundle(self) -> Self:
        """Roles of one group share a GPU and the labels of a node."""
        self.placement.bundles(self.started_roles)
        return self

    @model_validator(mode="after")
    def vllm_sleeps_on_gpus(self) -> Self:
        """On CPU it says that it slept, and keeps everything."""
        on_cpu = self.actors.rollout.device == "cpu"
        if self.rollout.sleep_level and self.rollout.engine == "vllm" and on_cpu:
            raise ValueError(
                f"rollout.sleep_level={self.rollout.sleep_level}, but actors.rollout.num_gpus=0, "
                "and vLLM sleeps on GPUs only; set sleep_level=0, or engine=transformers"
            )
        return self

    @model_validator(mode="after")
    def trained_ranks_have_a_gpu_each(self) -> Self:
        """NCCL forms no group of processes that share a GPU; bundles hold whole ones."""
        for name, role in self.actors.trained.items():
            if role.num_ranks > 1 and 0 < role.num_gpus < 1 and not self.placement.reserves:
                raise ValueError(
                    f"actors.{name}: num_ranks={role.num_ranks} of a trained role with num_gpus="
                    f"{role.num_gpus:g} each would share GPUs, which NCCL refuses; set num_gpus=1, "
                    "or num_ranks=1, or name the role in placement.groups, where each of its ranks "
                    "has a GPU apart from the others"
                )
        return self

    @property
    def uses_preference_model(self) -> bool:
        """Whether a reward or the critic reads it."""
        return self.rewards.uses_preference_model or self.ppo.uses_critic

    @property
    def started_roles(self) -> dict[str, ActorConfig]:
        """The roles that this run starts, with their configs: no critic where none is used."""
        roles = self.actors.by_role
        return {name: roles[name] for name in roles if name != "critic" or self.ppo.uses_critic}
