"""One dumped iteration once more, scoring and update, in this process: no Ray, no rollout engine.

Actors are plain classes, so a debugger can step into them.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from actors.critic import CriticActor
from actors.policy import PolicyActor
from actors.ppo_state import STATES
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from moss.checkpoints import fetch_training_state, find_training_state
from moss.config.ppo import TrainPPOConfig
from moss.errors import ConfigError
from moss.experience import (
    ExperienceReport,
    ScoredRollouts,
    UpdateReport,
    drop_failed,
    make_experience,
    plan_minibatches,
)
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.rewards.base import join_scores
from moss.rollout_dump import DumpRecord, RolloutDump, read_dump
from moss.rollouts import Floats, RolloutBatch, join_rows
from moss.storage import join


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of an iteration, then and now."""

    recorded: DumpRecord
    exact_state: bool
    """Whether the models are those the iteration began with; else they are the run's first ones."""
    experience: ExperienceReport
    critic: UpdateReport | None
    policy: UpdateReport | None
    largest_difference: dict[str, float]
    """Between what was computed then and now, over all rows: scores, logprobs, values."""

    def to_json(self) -> str:
        """Indented; not a number stands as null."""
        tree = dataclasses.asdict(self) | {"recorded": self.recorded.model_dump(mode="json")}
        return json.dumps(tree, indent=2).replace("NaN", "null")


def replay_iteration(config: TrainPPOConfig, run_folder: str, iteration: int) -> ReplayReport:
    """Score a dumped iteration and update policy and critic with it; nothing is written.

    It begins with the training state of the iteration before, if that is still there.

    Raises:
        DataError: no such dump.
        ConfigError: trained roles of several ranks, which one process cannot restore.
    """
    for role, actor in (("policy", config.actors.policy), ("critic", config.actors.critic)):
        if actor.num_ranks != 1:
            raise ConfigError(
                f"actors.{role}.num_ranks={actor.num_ranks}: a replay runs in one process and "
                "cannot restore a sharded state; give --set actors.*.num_ranks=1 at training time"
            )
    dump = read_dump(run_folder, iteration)
    inputs = load_inputs(config)
    models = _Models(config, inputs)
    with _state_before(run_folder, iteration) as state:
        if state is not None:
            models.restore(state)
    scored = models.score(dump)
    experience, described = make_experience(
        scored,
        config.ppo,
        score_mean=dump.record.score_mean,
        score_scale=dump.record.score_scale,
        kl_coefficient=dump.record.kl_coefficient,
    )
    plan = plan_minibatches(experience, config.ppo, seed=inputs.prompts.seed + iteration - 1)
    warming_up = iteration - 1 < config.ppo.critic_warmup_iterations
    return ReplayReport(
        recorded=dump.record,
        exact_state=state is not None or iteration == 1,
        experience=described,
        critic=models.critic.update(experience, plan) if models.critic else None,
        policy=None if warming_up else models.policy.update(experience, plan),
        largest_difference=_differences(dump.scored, scored),
    )


class _Models:
    """The roles of an iteration without its rollouts, in this process."""

    def __init__(self, config: TrainPPOConfig, inputs: PPOInputs) -> None:
        actors, ppo = config.actors, config.ppo
        temperature = config.rollout.sampling.temperature
        num_steps = ppo.num_optimizer_steps(inputs.num_iterations(config))
        self.policy = PolicyActor(actors.policy)
        self.policy.load(inputs.policy, ppo, num_steps=num_steps, temperature=temperature)
        self.critic = CriticActor(actors.critic) if ppo.uses_critic else None
        if self.critic:
            self.critic.load(
                inputs.preference_model,
                ppo,
                num_steps=num_steps,
                score_scale=inputs.score_scale,
            )
        self._reference = ReferenceActor(actors.reference)
        self._reference.load(inputs.policy, temperature=temperature, max_rows=ppo.micro_batch_size)
        self._reward = RewardActor(actors.reward)
        self._reward.load(
            config.rewards,
            preference_model=inputs.preference_model,
            policy=inputs.policy,
            max_rows=ppo.micro_batch_size,
            keys={},
        )
        self._prompts, self._num_prompts = inputs.prompts, ppo.num_prompts

    def restore(self, state: str) -> None:
        self.policy.load_state(join(state, "policy"))
        if self.critic:
            self.critic.load_state(join(state, "critic"))

    def score(self, dump: RolloutDump) -> ScoredRollouts:
        """What the iteration's parts were scored with, part by part as then."""
        whole = dump.scored.rollouts
        prompts = self._prompts.facts(dump.record.iteration - 1, self._num_prompts)
        facts = [prompts[prompt] for prompt in dump.scored.prompts_B]
        parts_B = dump.scored.parts_B
        if parts_B is None:
            parts_B = np.zeros(whole.num_rollouts, np.int64)
        parts = [np.flatnonzero(parts_B == part) for part in np.unique(parts_B)]
        batches = [whole.rows(rows) for rows in parts]
        rows_B, width = np.concatenate(parts), whole.tokens_BT.shape[1]
        scores = join_scores(
            [
                self._reward.score((batch, [facts[row] for row in rows]))
                for rows, batch in zip(parts, batches, strict=True)
            ],
            rows_B,
        )

        def compute(pass_over: Callable[[RolloutBatch], Floats]) -> Floats:
            return join_rows([pass_over(batch) for batch in batches], rows_B, width)

        scored = replace(
            dump.scored,
            scores_B=scores.scores_B,
            logprobs_BT=compute(self.policy.logprobs),
            reference_logprobs_BT=compute(self._reference.logprobs),
            values_BT=compute(self.critic.values) if self.critic else None,
        )
        return drop_failed(scored, scores.failures)[0]


@contextmanager
def _state_before(run_folder: str, iteration: int) -> Iterator[str | None]:
    """Local folder of the state that the iteration began with; None if it is gone."""
    path = find_training_state(join(run_folder, STATES), iteration - 1)
    with tempfile.TemporaryDirectory(prefix="moss-replay-") as scratch:
        yield fetch_training_state(path, scratch) if path is not None else None


def _differences(then: ScoredRollouts, now: ScoredRollouts) -> dict[str, float]:
    names = ("scores_B", "logprobs_BT", "reference_logprobs_BT", "values_BT")
    pairs = {name: (getattr(then, name), getattr(now, name)) for name in names}
    return {
        name: float(np.abs(before - after).max())
        for name, (before, after) in pairs.items()
        if before is not None and after is not None and before.shape == after.shape
    }
