"""Updates of a tiny policy and critic by any number of ranks: what `test_ranks.py` spawns.

Adam runs with a large epsilon here: each weight then moves nearly in proportion to its gradient
rather than by its sign, so that equal weights mean equal gradients.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from moss.config.model import ModelConfig
from moss.config.optimization import OptimizerConfig
from moss.config.ppo import PPOConfig
from moss.config.ppo_actors import TrainedActorConfig
from moss.experience import UpdateReport
from moss.forward import likeliest_logprob_tensor, response_logprobs, response_values
from moss.learner import Learner
from moss.models import ValueModel, build_policy
from moss.part_losses import policy_part, value_part
from moss.rollouts import CriticTargets, Experience, Floats, RolloutBatch

SHAPE = ModelConfig(
    hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, initializer_std=0.2
)
VOCAB = 96
NUM_ROWS = 13
MINIBATCHES = [[0, 7, 3, 11, 5, 1, 9], [12], [2, 4, 6, 8, 10]]
"""Rows that do not divide by two, and one that leaves a rank without any."""
PPO = PPOConfig(
    micro_batch_size=2,
    kl_placement="loss",
    kl_estimator="k3",
    max_grad_norm=0.5,
    warmup_ratio=0,
    max_first_ratio_gap=10.0,
)
KL_COEFFICIENT = 0.1


@dataclass(frozen=True)
class Case:
    """One update to make."""

    name: str
    actor: dict[str, object] = field(default_factory=dict)
    ppo: dict[str, object] = field(default_factory=dict)
    role: str = "policy"
    broken_row: int | None = None
    """Row with an infinite advantage."""


@dataclass(frozen=True)
class Result:
    """What an update left."""

    report: UpdateReport
    weights: dict[str, Tensor]
    before: Floats
    """Logprobs or values of all rows before the update."""
    alone: Floats
    """Those of one row, after it."""
    probe: float
    """What is published beside the policy's weights; 0 for the critic."""


def draw_experience() -> Experience:
    """Rollouts with gaps in their masks and garbage wherever nobody may look."""
    drawn = np.random.default_rng(0)
    lengths = drawn.integers(6, 24, NUM_ROWS)
    shape = (NUM_ROWS, int(lengths.max()))
    tokens = drawn.integers(2, VOCAB, shape)
    inside = np.arange(shape[1]) < lengths[:, None]
    mask = inside & (np.arange(shape[1]) >= 3) & (drawn.random(shape) < 0.7)
    mask[np.arange(NUM_ROWS), lengths - 1] = True
    rollouts = RolloutBatch(
        tokens_BT=tokens,
        mask_BT=mask,
        lengths_B=lengths,
        rollout_logprobs_BT=np.full(shape, np.nan, np.float32),
        finished_B=np.ones(NUM_ROWS, np.bool_),
        policy_versions_B=np.zeros(NUM_ROWS, np.int64),
    )
    model = build("policy")
    with torch.no_grad():
        present = response_logprobs(
            model, torch.from_numpy(tokens), torch.from_numpy(mask), temperature=1.0
        ).numpy()

    def near(centre: Floats | float, spread: float) -> Floats:
        values = (centre + spread * drawn.normal(size=shape)).astype(np.float32)
        values[~mask] = np.nan
        return values

    return Experience(
        rollouts=rollouts,
        logprobs_BT=near(present, 0.05),
        reference_logprobs_BT=near(present, 0.3),
        advantages_BT=near(0.0, 1.0),
        critic=CriticTargets(near(0.0, 0.3), near(0.5, 1.0)),
        kl_loss_coefficient=KL_COEFFICIENT,
    )


def build(role: str) -> Any:
    """The same model in every process."""
    policy = build_policy(SHAPE, vocab_size=VOCAB, pad_id=0, eos_id=1, seed=0)
    return policy if role == "policy" else ValueModel(policy.base_model)


def build_learner(case: Case) -> tuple[Any, Learner, Any]:
    """Model, its learner and its loss."""
    ppo = PPO.model_copy(update=case.ppo)
    model = build(case.role)
    part = policy_part(ppo, temperature=1.0) if case.role == "policy" else value_part(ppo)
    actor = TrainedActorConfig.model_validate(case.actor)
    with mock.patch("moss.learner.OptimizerConfig", partial(OptimizerConfig, eps=1.0)):
        learner = Learner(model, ppo, actor, peak_learning_rate=0.5, num_steps=3)
    return model, learner, part


def run_case(case: Case, experience: Experience) -> Result:
    """One update, with passes without gradients before and after."""
    model, learner, part = build_learner(case)
    if case.broken_row is not None:
        advantages_BT = experience.advantages_BT.copy()
        advantages_BT[case.broken_row] = np.inf
        experience = replace(experience, advantages_BT=advantages_BT)
    evaluate = partial(learner.evaluate_tokens, forward_of(case.role, model))
    before = evaluate(experience.rollouts)
    report = learner.update(experience, MINIBATCHES, part)
    alone = evaluate(experience.rollouts.rows([4]))
    probe = 0.0
    if case.role == "policy":
        probe = float(learner.evaluate(lambda _: likeliest_logprob_tensor(model, [5, 6, 7])))
    result = Result(report, learner.weights(), before, alone, probe)
    learner.close()
    return result


def forward_of(role: str, model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """What rows are evaluated by."""
    if role == "policy":
        return partial(response_logprobs, model, temperature=1.0)
    return partial(response_values, model)


def resume_case(case: Case, experience: Experience, folder: Path) -> tuple[Result, Result]:
    """Two minibatches in a row; and the first, then the second by a new learner from its state."""
    results = []
    for resumed in (False, True):
        _, learner, part = build_learner(case)
        first = learner.update(experience, MINIBATCHES[:1], part)
        if resumed:
            learner.save(str(folder / case.name))
            learner.close()
            _, learner, part = build_learner(case)
            learner.load(str(folder / case.name))
        report = learner.update(experience, MINIBATCHES[1:2], part)
        assert report.learning_rate == first.learning_rate
        none = np.zeros(0, np.float32)
        results.append(Result(report, learner.weights(), none, none, 0.0))
        learner.close()
    return results[0], results[1]


def run_rank(rank: int, num_ranks: int, port: int, folder: Path) -> None:
    """One spawned process: all cases in turn, their results into a file of this rank."""
    from moss.process_group import Membership, join_group

    torch.set_num_threads(1)
    member = Membership("policy", rank, num_ranks, "127.0.0.1", port)
    join_group(member, device="cpu", timeout_s=120, store=None)
    cases, resumed = pickle.loads((folder / "cases.pkl").read_bytes())
    experience = draw_experience()
    results: dict[str, object] = {case.name: run_case(case, experience) for case in cases}
    results |= {case.name: resume_case(case, experience, folder) for case in resumed}
    (folder / f"rank-{rank}.pkl").write_bytes(pickle.dumps(results))
