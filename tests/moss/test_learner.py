"""One PPO update of real models: invariant to micro-batches, resumable, and it learns."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from moss.config.ppo import PPOConfig, SamplingParams
from moss.config.ppo_actors import TrainedActorConfig
from moss.errors import DataError
from moss.experience import (
    ExperienceReport,
    ScoredRollouts,
    drop_failed,
    make_experience,
    plan_minibatches,
)
from moss.forward import evaluate_tokens, response_logprobs, response_values
from moss.learner import Learner
from moss.models import ValueModel, load_policy
from moss.part_losses import policy_part, value_part
from moss.rollouts import Experience, Floats, Rollout, RolloutBatch, SampleRequest
from moss.sampling import TransformersSampler

ACTOR = TrainedActorConfig()
CPU = torch.device("cpu")
PARAMS = SamplingParams(max_new_tokens=8)


def config(**changes: object) -> PPOConfig:
    base: dict[str, object] = {
        "num_rollouts": 16,
        "num_minibatches": 2,
        "micro_batch_size": 8,
        "policy_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
    }
    return PPOConfig.model_validate(base | changes)


def learn_from(scored: ScoredRollouts, ppo: PPOConfig) -> tuple[Experience, ExperienceReport]:
    """Experience in unscaled scores, under the config's own beta."""
    return make_experience(scored, ppo, score_scale=1.0, kl_coefficient=ppo.kl_coefficient)


class Players:
    """Policy, reference and critic with their learners, in this process."""

    def __init__(self, checkpoint: Path, ppo: PPOConfig) -> None:
        torch.manual_seed(0)
        self.ppo = ppo
        self.policy, self.reference = load_policy(checkpoint), load_policy(checkpoint)
        self.critic = ValueModel(load_policy(checkpoint).base_model)
        self.sampler = TransformersSampler(self.policy, pad_id=0)
        self.policy_learner = Learner(
            self.policy, ppo, ACTOR, peak_learning_rate=ppo.policy_learning_rate, num_steps=40
        )
        self.critic_learner = Learner(
            self.critic, ppo, ACTOR, peak_learning_rate=ppo.critic_learning_rate, num_steps=40
        )

    def score(self, iteration: int) -> ScoredRollouts:
        """Rollouts with the share of even tokens as score."""
        requests = [
            SampleRequest([5, 6, 7, *range(8, 8 + row % 4)], 1000 * iteration + row)
            for row in range(self.ppo.num_rollouts)
        ]
        batch = RolloutBatch.from_rollouts(self.sampler.generate(requests, PARAMS, [9]), pad_id=0)
        even = (batch.tokens_BT % 2 == 0) & batch.mask_BT
        return ScoredRollouts(
            rollouts=batch,
            prompts_B=np.arange(batch.num_rollouts) // self.ppo.responses_per_prompt,
            scores_B=(even.sum(1) / batch.mask_BT.sum(1)).astype(np.float32),
            logprobs_BT=self.logprobs(self.policy, batch),
            reference_logprobs_BT=self.logprobs(self.reference, batch),
            values_BT=evaluate_tokens(
                lambda tokens, mask: response_values(self.critic, tokens, mask),
                batch,
                device=CPU,
                max_rows=8,
            ),
        )

    def logprobs(self, model: torch.nn.Module, batch: RolloutBatch) -> Floats:
        return evaluate_tokens(
            lambda tokens, mask: response_logprobs(model, tokens, mask, temperature=1.0),
            batch,
            device=CPU,
            max_rows=8,
        )

    def step(self, iteration: int) -> float:
        experience, report = learn_from(self.score(iteration), self.ppo)
        plan = plan_minibatches(experience, self.ppo, seed=iteration)
        self.policy_learner.update(experience, plan, policy_part(self.ppo, temperature=1.0))
        self.critic_learner.update(experience, plan, value_part(self.ppo))
        return report.score


@pytest.mark.slow
def test_ppo_raises_a_reward_that_the_policy_can_reach(tiny_checkpoint: Path) -> None:
    ppo = config(
        num_rollouts=64,
        micro_batch_size=32,
        policy_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        kl_coefficient=0.001,
        whiten_advantages=True,
    )
    players = Players(tiny_checkpoint, ppo)
    scores = [players.step(iteration) for iteration in range(20)]
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 0.2, scores


@pytest.mark.parametrize("micro_batch_size", [1, 3, 16])
def test_an_update_does_not_depend_on_the_micro_batch(
    tiny_checkpoint: Path, micro_batch_size: int
) -> None:
    whole = Players(tiny_checkpoint, config(micro_batch_size=16))
    cut = Players(tiny_checkpoint, config(micro_batch_size=micro_batch_size))
    experience, _ = learn_from(whole.score(0), whole.ppo)
    plan = plan_minibatches(experience, whole.ppo, seed=0)
    part = policy_part(whole.ppo, temperature=1.0)
    expected = whole.policy_learner.update(experience, plan, part)
    report = cut.policy_learner.update(experience, plan, part)
    assert report.loss == pytest.approx(expected.loss, abs=1e-5)
    assert report.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-3)
    assert report.approximate_kl == pytest.approx(expected.approximate_kl, abs=1e-5)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_in_the_loss_alone_brings_the_policy_back_to_its_reference(
    tiny_checkpoint: Path, estimator: str
) -> None:
    players = Players(
        tiny_checkpoint,
        config(kl_placement="loss", kl_estimator=estimator, kl_coefficient=1.0, num_epochs=15),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in players.policy.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    before = players.score(0)
    experience, _ = learn_from(before, players.ppo)
    silent = replace(experience, advantages_BT=np.zeros_like(experience.advantages_BT))
    plan = plan_minibatches(silent, players.ppo, seed=0)
    players.policy_learner.update(silent, plan, policy_part(players.ppo, temperature=1.0))
    rollouts, reference = before.rollouts, before.reference_logprobs_BT
    distance = np.abs(before.logprobs_BT - reference).sum()
    assert np.abs(players.logprobs(players.policy, rollouts) - reference).sum() < 0.7 * distance


def test_a_kl_in_the_loss_is_not_in_the_reward_as_well(tiny_checkpoint: Path) -> None:
    scored = Players(tiny_checkpoint, config()).score(0)
    shifted = replace(scored, reference_logprobs_BT=scored.reference_logprobs_BT - 1.0)
    loss = {"kl_placement": "loss", "kl_estimator": "k3", "kl_coefficient": 0.5}
    in_loss, _ = learn_from(shifted, config(**loss))
    without, _ = learn_from(shifted, config(kl_coefficient=0.0))
    assert np.array_equal(in_loss.advantages_BT, without.advantages_BT)
    assert in_loss.kl_loss_coefficient == 0.5
    assert without.kl_loss_coefficient == 0.0


def test_an_update_ends_before_the_first_minibatch_past_the_kl_bound(
    tiny_checkpoint: Path,
) -> None:
    slow = {"num_epochs": 4, "warmup_ratio": 0.5}
    # One update per minibatch: after the first of them the ratio is not 1 at the start.
    free = Players(tiny_checkpoint, config(**slow, max_first_ratio_gap=10.0))
    experience, _ = learn_from(free.score(0), free.ppo)
    plan = plan_minibatches(experience, free.ppo, seed=0)
    part = policy_part(free.ppo, temperature=1.0)
    kls = [free.policy_learner.update(experience, [rows], part).approximate_kl for rows in plan]
    bound = max(kls) / 5
    num_within = next(number for number, kl in enumerate(kls) if kl > bound)
    assert 1 <= num_within < len(plan) - 1

    bounded = Players(tiny_checkpoint, config(**slow, max_update_kl=bound))
    report = bounded.policy_learner.update(experience, plan, part)
    assert report.num_left_out == len(plan) - num_within
    assert report.approximate_kl == pytest.approx(sum(kls[:num_within]) / num_within)
    short = Players(tiny_checkpoint, config(**slow))
    short.policy_learner.update(experience, plan[:num_within], part)
    assert equal_weights(bounded.policy_learner, short.policy_learner)

    # What was left out has no gradient left, and its place in the schedule is taken.
    still = replace(
        experience,
        logprobs_BT=bounded.logprobs(bounded.policy, experience.rollouts),
        advantages_BT=np.zeros_like(experience.advantages_BT),
    )
    after = bounded.policy_learner.update(still, plan[:1], part)
    assert after.gradient_norm == 0.0
    assert after.learning_rate == pytest.approx(1e-3 * (len(plan) + 1) / 20)


def test_a_minibatch_without_a_finite_loss_is_skipped_counted_and_not_averaged(
    tiny_checkpoint: Path,
) -> None:
    players, clean = (Players(tiny_checkpoint, config()) for _ in range(2))
    experience, _ = learn_from(players.score(0), players.ppo)
    broken, whole = plan_minibatches(experience, players.ppo, seed=0)
    experience.advantages_BT[broken] = np.inf
    part = policy_part(players.ppo, temperature=1.0)
    nothing = players.policy_learner.update(experience, [broken], part)
    assert (nothing.num_skipped, np.isnan(nothing.loss)) == (1, True)
    assert equal_weights(players.policy_learner, clean.policy_learner)
    some = players.policy_learner.update(experience, [whole, broken], part)
    assert some.num_skipped == 2
    assert np.isfinite([some.loss, some.clip_fraction, some.gradient_norm]).all()


def equal_weights(first: Learner, second: Learner) -> bool:
    others = second.weights()
    return all(torch.equal(others[name], value) for name, value in first.weights().items())


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_pp"])
def test_estimators_without_a_critic_make_experience_without_values(
    tiny_checkpoint: Path, estimator: str
) -> None:
    players = Players(tiny_checkpoint, config(estimator=estimator, responses_per_prompt=4))
    scored = replace(players.score(0), values_BT=None)
    # As rewards fail they leave groups of four, three, two and one.
    kept, _ = drop_failed(scored, dict.fromkeys([4, 8, 9, 12, 13, 14], "no answer"))
    experience, report = learn_from(kept, players.ppo)
    assert (experience.critic, report.explained_variance) == (None, None)
    plan = plan_minibatches(experience, players.ppo, seed=0)
    part = policy_part(players.ppo, temperature=1.0)
    assert players.policy_learner.update(experience, plan, part).gradient_norm > 0
    if estimator != "reinforce_pp":
        outcomes = experience.advantages_BT.max(1) + experience.advantages_BT.min(1)
        sums = [float(outcomes[kept.prompts_B == prompt].sum()) for prompt in range(4)]
        assert sums == pytest.approx([0.0] * 4, abs=1e-4)
        assert outcomes[-1] == 0.0


def test_logprobs_of_other_weights_are_refused_before_a_step(tiny_checkpoint: Path) -> None:
    players, untouched = (Players(tiny_checkpoint, config()) for _ in range(2))
    experience, _ = learn_from(players.score(0), players.ppo)
    plan = plan_minibatches(experience, players.ppo, seed=0)
    part = policy_part(players.ppo, temperature=1.0)
    hotter = policy_part(players.ppo, temperature=2.0)
    with pytest.raises(DataError, match=r"away from 1 on average.*max_first_ratio_gap=0\.1"):
        players.policy_learner.update(experience, plan, hotter)
    assert equal_weights(players.policy_learner, untouched.policy_learner)
    report = untouched.policy_learner.update(experience, plan, part)
    assert report.first_ratio_gap == pytest.approx(0.0, abs=1e-4)


def test_an_importance_cap_weighs_advantages_by_trainer_over_engine(
    tiny_checkpoint: Path,
) -> None:
    players = Players(tiny_checkpoint, config())
    scored = players.score(0)
    engine = scored.logprobs_BT.copy()
    even_rows = np.arange(len(engine)) % 2 == 0
    engine[even_rows] -= np.log(2.0)
    engine[~even_rows] += np.log(4.0)
    engine[~scored.rollouts.mask_BT] = np.nan
    shifted = replace(scored, rollouts=replace(scored.rollouts, rollout_logprobs_BT=engine))
    plain, unweighted = learn_from(shifted, players.ppo)
    corrected, report = learn_from(shifted, config(importance_cap=1.5))
    factors = np.where(even_rows, 1.5, 0.25)[:, None]
    assert corrected.advantages_BT == pytest.approx(plain.advantages_BT * factors, rel=1e-4)
    assert corrected.critic is not None
    assert plain.critic is not None
    assert np.array_equal(corrected.critic.returns_BT, plain.critic.returns_BT)
    assert unweighted.importance is None
    assert report.importance is not None
    share = scored.rollouts.mask_BT[even_rows].sum() / scored.rollouts.mask_BT.sum()
    assert report.importance.capped_fraction == pytest.approx(share)
    assert report.importance.weight == pytest.approx(1.5 * share + 0.25 * (1 - share), rel=1e-4)


def test_garbage_in_padding_changes_nothing(tiny_checkpoint: Path) -> None:
    players = Players(tiny_checkpoint, config())
    scored = players.score(0)
    clean, _ = learn_from(scored, players.ppo)
    for name in ("logprobs_BT", "reference_logprobs_BT", "values_BT"):
        getattr(scored, name)[~scored.rollouts.mask_BT] = np.nan
    scored.rollouts.tokens_BT[
        np.arange(scored.rollouts.tokens_BT.shape[1]) >= scored.rollouts.lengths_B[:, None]
    ] = 77
    dirty, _ = learn_from(scored, players.ppo)
    assert np.array_equal(clean.advantages_BT, dirty.advantages_BT)
    plan = plan_minibatches(dirty, players.ppo, seed=0)
    part = policy_part(players.ppo, temperature=1.0)
    other = Players(tiny_checkpoint, config())
    assert players.policy_learner.update(dirty, plan, part) == other.policy_learner.update(
        clean, plan, part
    )


def test_a_learner_goes_on_exactly_where_it_was_saved(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    players = Players(tiny_checkpoint, config())
    players.step(0)
    players.policy_learner.save(str(tmp_path / "policy"))
    experience, _ = learn_from(players.score(1), players.ppo)
    plan = plan_minibatches(experience, players.ppo, seed=1)
    part = policy_part(players.ppo, temperature=1.0)
    expected = players.policy_learner.update(experience, plan, part)
    other = Players(tiny_checkpoint, config())
    other.policy_learner.load(str(tmp_path / "policy"))
    assert other.policy_learner.update(experience, plan, part) == expected
    assert equal_weights(players.policy_learner, other.policy_learner)


def test_a_failed_reward_takes_its_rollout_out_with_a_reason(tiny_checkpoint: Path) -> None:
    scored = Players(tiny_checkpoint, config()).score(0)
    kept, dropped = drop_failed(scored, {3: "no answer", 0: "nan"})
    assert kept.rollouts.num_rollouts == len(kept.scores_B) == 14
    assert np.array_equal(kept.scores_B, np.delete(scored.scores_B, [0, 3]))
    assert dropped == [{"row": "0", "reason": "nan"}, {"row": "3", "reason": "no answer"}]
    with pytest.raises(DataError, match="all 16 rewards"):
        drop_failed(scored, dict.fromkeys(range(16), "endpoint down"))


def test_every_row_is_in_one_minibatch_of_each_epoch_next_to_rows_of_like_length() -> None:
    rollouts = [
        Rollout([1] * (1 + row % 5), [2] * (1 + row % 7), [0.0] * (1 + row % 7), 0, "stop")
        for row in range(15)
    ]
    batch = RolloutBatch.from_rollouts(rollouts, pad_id=0)
    zeros = np.zeros(batch.tokens_BT.shape, np.float32)
    scored = ScoredRollouts(batch, np.arange(15), np.zeros(15, np.float32), zeros, zeros, zeros)
    ppo = config(num_epochs=2, num_minibatches=4)
    experience, _ = learn_from(scored, ppo)
    plan = plan_minibatches(experience, ppo, seed=3)
    assert len(plan) == 8
    for epoch in (plan[:4], plan[4:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(15))
        lengths = sorted([int(batch.lengths_B[row]) for row in rows] for rows in epoch)
        for shorter, longer in pairwise(lengths):
            assert max(shorter) <= min(longer)
