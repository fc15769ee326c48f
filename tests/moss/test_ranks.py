"""One PPO update by two ranks over gloo equals that of one rank, and a naive oracle."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from moss.config.ppo import PPOConfig
from moss.errors import WaitTimeoutError
from moss.part_losses import policy_part, value_part
from moss.process_group import Membership, join_group, serve_store
from moss.rank_rows import pick_experience, rank_groups
from moss.rollouts import length_sorted_groups
from tests.moss.rank_worker import (
    KL_COEFFICIENT,
    MINIBATCHES,
    PPO,
    Case,
    Result,
    build,
    draw_experience,
    run_case,
    run_rank,
)

NUM_RANKS = 2
SPAWN_TIMEOUT_S = 300
ATOL = 2e-6
"""Largest difference of a weight that moved by up to 0.25; of a loss, a norm, a logprob."""
BF16_ATOL = 0.03


def sharded(zero_stage: int, **changes: object) -> dict[str, object]:
    return {"num_ranks": NUM_RANKS, "zero_stage": zero_stage, **changes}


STAGES = [
    Case(f"zero-{stage}-micro-{rows}", sharded(stage), {"micro_batch_size": rows})
    for stage in (0, 1, 2, 3)
    for rows in (1, 3)
]
CRITICS = [
    Case(f"critic-zero-{stage}", sharded(stage), {"micro_batch_size": 2}, role="critic")
    for stage in (0, 3)
]
CHECKPOINTED = [Case("checkpointed", sharded(3, gradient_checkpointing=True))]
BOUND = 0.003
STOPPED = [
    Case(f"stopped-{stage}", sharded(stage), {"max_update_kl": BOUND}) for stage in (0, 2, 3)
]
BROKEN = [Case(f"broken-{stage}", sharded(stage), broken_row=12) for stage in (0, 3)]
MIXED = [Case(f"bf16-{stage}", sharded(stage, precision="bf16")) for stage in (0, 3)]
STOPPED_MIXED = [Case("stopped-bf16", sharded(0, precision="bf16"), {"max_update_kl": BOUND})]
RESUMED = [Case(f"resumed-{stage}", sharded(stage)) for stage in (0, 3)]
ALL = [*STAGES, *CRITICS, *CHECKPOINTED, *STOPPED, *BROKEN, *MIXED, *STOPPED_MIXED]


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, object]]:
    """Results of every case from each of two processes, spawned once."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.pkl").write_bytes(pickle.dumps((ALL, RESUMED)))
    store = serve_store("127.0.0.1", num_ranks=NUM_RANKS, timeout_s=120)
    spawn = multiprocessing.get_context("spawn")
    ranks = [
        spawn.Process(target=run_rank, args=(rank, NUM_RANKS, store.port, folder))
        for rank in range(NUM_RANKS)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(SPAWN_TIMEOUT_S)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * NUM_RANKS
    return [pickle.loads((folder / f"rank-{r}.pkl").read_bytes()) for r in range(NUM_RANKS)]


def of_rank_0(by_ranks: list[Mapping[str, object]], case: Case) -> Result:
    """The result, which every rank must have seen alike."""
    first, second = (ranks[case.name] for ranks in by_ranks)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert repr(first.report) == repr(second.report)  # nan is no equal of itself
    assert np.array_equal(first.before, second.before, equal_nan=True)
    assert np.array_equal(first.alone, second.alone)
    assert second.weights == {}, "only rank 0 keeps what the shards make up"
    return first


_ALONE: dict[str, Result] = {}


def by_one(case: Case) -> Result:
    """The same update by one rank without shards, in micro-batches of two, in this process."""
    ppo = {key: value for key, value in case.ppo.items() if key != "micro_batch_size"}
    key = repr((case.role, ppo, case.broken_row))
    if key not in _ALONE:
        _ALONE[key] = run_case(replace(case, actor={}, ppo=ppo), draw_experience())
    return _ALONE[key]


def assert_alike(found: Result, expected: Result, *, atol: float) -> None:
    reports = asdict(found.report), asdict(expected.report)
    assert reports[0] == pytest.approx(reports[1], abs=10 * atol, rel=10 * atol, nan_ok=True)
    assert np.allclose(found.before, expected.before, atol=10 * atol)
    assert np.allclose(found.alone, expected.alone, atol=10 * atol)
    assert found.probe == pytest.approx(expected.probe, abs=10 * atol)
    assert set(found.weights) == set(expected.weights)
    for name, weight in expected.weights.items():
        assert torch.allclose(found.weights[name], weight, rtol=0, atol=atol), name


@named([*STAGES, *CRITICS, *CHECKPOINTED])
def test_two_ranks_make_the_update_of_one(by_ranks: list[Mapping[str, object]], case: Case) -> None:
    found, expected = of_rank_0(by_ranks, case), by_one(case)
    assert_alike(found, expected, atol=ATOL)
    start = build(case.role).state_dict()
    moved = max(float((expected.weights[n] - w).abs().max()) for n, w in start.items())
    assert moved > 1000 * ATOL
    assert expected.report.gradient_norm > PPO.max_grad_norm, "the norm of all shards is clipped"


@named(MIXED)
def test_two_ranks_in_bf16_come_near(by_ranks: list[Mapping[str, object]], case: Case) -> None:
    found, expected = of_rank_0(by_ranks, case), by_one(case)
    assert np.allclose(found.before, expected.before, atol=0.1)
    assert found.report.loss == pytest.approx(expected.report.loss, abs=0.02)
    assert found.report.gradient_norm == pytest.approx(expected.report.gradient_norm, rel=0.1)
    start = build(case.role).state_dict()
    moved, of_one = (
        torch.cat([(result.weights[name] - start[name]).flatten() for name in start])
        for result in (found, expected)
    )
    assert float(moved @ of_one / (of_one @ of_one)) == pytest.approx(1.0, abs=0.1)
    assert float((moved - of_one).abs().max()) < BF16_ATOL
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in found.weights.values())


@named([*STOPPED, *STOPPED_MIXED])
def test_ranks_stop_at_the_same_minibatch(by_ranks: list[Mapping[str, object]], case: Case) -> None:
    found, expected = of_rank_0(by_ranks, case), by_one(case)
    assert 1 <= expected.report.num_left_out < len(MINIBATCHES)
    assert found.report.num_left_out == expected.report.num_left_out
    assert found.report.num_skipped == 0
    if case.actor.get("precision") != "bf16":
        assert_alike(found, expected, atol=ATOL)


@named(BROKEN)
def test_ranks_skip_together_what_is_not_finite_on_one(
    by_ranks: list[Mapping[str, object]], case: Case
) -> None:
    found, expected = of_rank_0(by_ranks, case), by_one(case)
    assert found.report.num_skipped == expected.report.num_skipped == 1
    assert np.isfinite(found.report.loss)
    assert_alike(found, expected, atol=ATOL)


@named(RESUMED)
def test_ranks_go_on_exactly_where_they_were_saved(
    by_ranks: list[Mapping[str, object]], case: Case
) -> None:
    for results in by_ranks:
        pair = results[case.name]
        assert isinstance(pair, tuple)
        unbroken, resumed = pair
        assert unbroken.report == resumed.report
        for name, weight in unbroken.weights.items():
            assert torch.equal(resumed.weights[name], weight), name


def naive_sequence(
    role: str, model: nn.Module, ids: list[int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Logprob (or value before) each token but the first, of one sequence without padding."""
    row = torch.tensor([ids])
    if role == "critic":
        values = model.value_head(model.body(input_ids=row).last_hidden_state[0])[:, 0]  # type: ignore
        return list(values[:-1]), values
    logits = model(input_ids=row).logits[0]
    chosen = [logits[t - 1, ids[t]] - logits[t - 1].exp().sum().log() for t in range(1, len(ids))]
    return chosen, logits


def naive_loss(role: str, model: nn.Module, rows: list[int], config: PPOConfig) -> torch.Tensor:
    """Token by token: PPO's clipped objective with the k3 KL, or the clipped squared error."""
    experience = draw_experience()
    batch, terms = experience.rollouts, []
    assert experience.critic is not None
    for row in rows:
        ids = [int(token) for token in batch.tokens_BT[row, : batch.lengths_B[row]]]
        found, _ = naive_sequence(role, model, ids)
        for t in range(1, len(ids)):
            if not batch.mask_BT[row, t]:
                continue
            new = found[t - 1]
            if role == "critic":
                old, target = (
                    float(array[row, t])
                    for array in (experience.critic.values_BT, experience.critic.returns_BT)
                )
                assert config.value_clip_range is not None
                near = old + (new - old).clamp(-config.value_clip_range, config.value_clip_range)
                terms.append(torch.maximum((new - target) ** 2, (near - target) ** 2) / 2)
                continue
            old, reference, advantage = (
                float(array[row, t])
                for array in (
                    experience.logprobs_BT,
                    experience.reference_logprobs_BT,
                    experience.advantages_BT,
                )
            )
            ratio = (new - old).exp()
            bound = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
            kl = (reference - new).exp() - 1 - (reference - new)
            terms.append(KL_COEFFICIENT * kl - torch.minimum(ratio * advantage, bound * advantage))
    return torch.stack(terms).sum() / len(terms)


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_loss_and_gradient_equal_a_naive_loop_over_tokens(role: str) -> None:
    config = PPO.model_copy(update={"clip_range": 0.05, "value_clip_range": 0.1})
    rows = list(range(13))
    oracle = build(role).double()
    expected = naive_loss(role, oracle, rows, config)
    torch.autograd.backward(expected)
    model, experience = build(role), draw_experience()
    part_loss = policy_part(config, temperature=1.0) if role == "policy" else value_part(config)
    num_tokens = experience.rollouts.num_response_tokens
    total, clipped = 0.0, 0.0
    for rank in range(3):
        groups = rank_groups(experience.rollouts.lengths_B, rank=rank, num_ranks=3, max_rows=2)
        for group in groups:
            part = part_loss(model, pick_experience(experience, group), num_tokens)
            torch.autograd.backward(part.loss)
            total, clipped = total + float(part.loss.detach()), clipped + part.clip_fraction
    assert total == pytest.approx(float(expected.detach()), abs=1e-6)
    assert clipped > 0.1
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in oracle.named_parameters():
        assert torch.allclose(gradients[name].double(), parameter.grad, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("num_rows", [1, 5, 13])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("max_rows", [1, 2, 32])
def test_every_rank_gets_as_many_groups_and_every_row_goes_to_one(
    num_rows: int, num_ranks: int, max_rows: int
) -> None:
    lengths = np.random.default_rng(1).integers(1, 50, num_rows)
    groups = [
        rank_groups(lengths, rank=rank, num_ranks=num_ranks, max_rows=max_rows)
        for rank in range(num_ranks)
    ]
    assert len({len(of_rank) for of_rank in groups}) == 1
    assert max(len(group) for of_rank in groups for group in of_rank) <= max_rows
    dealt = sorted(int(row) for of_rank in groups for group in of_rank for row in group)
    assert dealt == list(range(num_rows))
    if num_ranks == 1:
        alone = length_sorted_groups(lengths, max_rows=max_rows)
        assert [g.tolist() for g in groups[0]] == [g.tolist() for g in alone]


def test_a_rank_that_meets_nobody_says_which_it_is_and_where_it_waited() -> None:
    member = Membership("critic", 1, 2, "127.0.0.1", 1)
    who = r"critic\[1\] did not meet all 2 ranks .* at 127\.0\.0\.1:1 within 1 s"
    with pytest.raises(WaitTimeoutError, match=who):
        join_group(member, device="cpu", timeout_s=1, store=None)
