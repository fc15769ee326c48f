"""The Transformers sampler against token-by-token oracles; weight files, whole or refused."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from moss.config.ppo import SamplingParams
from moss.errors import DataError, WeightSyncError
from moss.forward import response_logprobs
from moss.models import load_policy
from moss.rollouts import RolloutBatch, SampleRequest
from moss.sampling import TransformersSampler, draw_tokens
from moss.weight_files import WeightFile, read_weights, transfer_folder, write_weights

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=12)
RANDOM = SamplingParams(temperature=1.0, max_new_tokens=12)
REQUESTS = [
    SampleRequest(prompt_ids=[5 + row, 6, *range(20, 20 + 3 * row)], seed=row) for row in range(6)
]


@pytest.fixture
def policy(tiny_checkpoint: Path) -> PreTrainedModel:
    torch.set_num_threads(1)
    return load_policy(tiny_checkpoint)


@pytest.fixture
def sampler(policy: PreTrainedModel) -> TransformersSampler:
    return TransformersSampler(policy, pad_id=0)


@pytest.fixture
def weights_folder(tmp_path: Path) -> str:
    return str(tmp_path)


@torch.no_grad()
def next_logprobs(model: PreTrainedModel, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    return torch.log_softmax(logits / temperature, -1)


def test_greedy_tokens_and_logprobs_equal_a_loop_without_cache_or_padding(
    policy: PreTrainedModel, sampler: TransformersSampler
) -> None:
    for request, rollout in zip(REQUESTS, sampler.generate(REQUESTS, GREEDY, []), strict=True):
        ids = list(request.prompt_ids)
        for token, logprob in zip(rollout.response_ids, rollout.logprobs, strict=True):
            expected = next_logprobs(policy, ids)
            assert token == int(expected.argmax())
            assert logprob == pytest.approx(float(expected[token]), abs=1e-4)
            ids.append(token)


def test_a_response_ends_with_its_first_stop_token_or_at_the_limit(
    sampler: TransformersSampler,
) -> None:
    free = sampler.generate(REQUESTS, RANDOM, [])
    stops = [free[2].response_ids[4], free[4].response_ids[0]]
    for before, rollout in zip(free, sampler.generate(REQUESTS, RANDOM, stops), strict=True):
        ends = [i for i, token in enumerate(before.response_ids) if token in stops]
        length = ends[0] + 1 if ends else RANDOM.max_new_tokens
        assert rollout.response_ids == before.response_ids[:length]
        assert rollout.finish_reason == ("stop" if ends else "length")


def test_a_response_depends_on_its_seed_and_not_on_its_batch(sampler: TransformersSampler) -> None:
    together = sampler.generate(REQUESTS, RANDOM, [])
    alone = [sampler.generate([request], RANDOM, [])[0] for request in REQUESTS]
    shuffled = sampler.generate(REQUESTS[::-1], RANDOM, [])[::-1]
    assert [r.response_ids for r in together] == [r.response_ids for r in alone]
    assert [r.response_ids for r in together] == [r.response_ids for r in shuffled]
    other = sampler.generate(
        [SampleRequest(r.prompt_ids, r.seed + 100) for r in REQUESTS], RANDOM, []
    )
    assert [r.response_ids for r in together] != [r.response_ids for r in other]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_equal_the_training_forward_pass(
    policy: PreTrainedModel, sampler: TransformersSampler, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, max_new_tokens=9)
    batch = RolloutBatch.from_rollouts(sampler.generate(REQUESTS, params, [7, 9]), pad_id=0)
    with torch.no_grad():
        logprobs = response_logprobs(
            policy,
            torch.from_numpy(batch.tokens_BT),
            torch.from_numpy(batch.mask_BT),
            temperature=temperature,
        )
    assert torch.allclose(logprobs, torch.from_numpy(batch.rollout_logprobs_BT), atol=1e-4)


def test_drawn_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0])
    params = SamplingParams(temperature=0.8)
    count = 100_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = draw_tokens(logits.expand(count, 4), params, uniforms)
    expected = torch.softmax(logits / 0.8, -1)
    for token in range(4):
        assert float((tokens == token).float().mean()) == pytest.approx(
            float(expected[token]), abs=0.01
        )
        assert float(logprobs[tokens == token][0]) == pytest.approx(
            math.log(expected[token]), abs=1e-5
        )


def test_the_nucleus_drops_the_tail_and_renormalises() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    params = SamplingParams(top_p=0.8)
    uniforms = torch.linspace(0, 0.999, 200)
    tokens, logprobs = draw_tokens(probabilities.log().expand(200, 4), params, uniforms)
    assert set(tokens.tolist()) == {1, 3}
    assert float(logprobs[tokens == 1][0]) == pytest.approx(math.log(0.5 / 0.85), abs=1e-5)


def test_prompts_without_room_are_refused(sampler: TransformersSampler) -> None:
    for prompt in ([], [3] * 120):
        with pytest.raises(DataError, match="1 to 116"):
            sampler.generate([SampleRequest(prompt, 0)], GREEDY, [])


def other_weights(policy: PreTrainedModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return {
        name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in policy.state_dict().items()
        if name != "lm_head.weight"  # tied
    }


def test_pushed_weights_sample_and_are_versioned(
    policy: PreTrainedModel, sampler: TransformersSampler, weights_folder: str
) -> None:
    before = sampler.generate(REQUESTS, GREEDY, [])
    file = write_weights(other_weights(policy), weights_folder, version=3)
    sampler.push_weights(file)
    after = sampler.generate(REQUESTS, GREEDY, [])
    assert [r.response_ids for r in before] != [r.response_ids for r in after]
    assert {r.policy_version for r in before} == {0}
    assert {r.policy_version for r in after} == {3}


def test_loaded_weights_do_not_change_with_their_file(
    policy: PreTrainedModel, sampler: TransformersSampler, weights_folder: str
) -> None:
    file = write_weights(policy.state_dict(), weights_folder, version=1)
    sampler.push_weights(file)
    before = sampler.generate(REQUESTS, GREEDY, [])
    path = Path(file.path)
    with path.open("r+b") as open_file:  # as the next push does, in place
        open_file.write(bytes(path.stat().st_size))
    assert sampler.generate(REQUESTS, GREEDY, []) == before


def test_a_stale_version_is_refused(
    policy: PreTrainedModel, sampler: TransformersSampler, weights_folder: str
) -> None:
    sampler.push_weights(write_weights(policy.state_dict(), weights_folder, version=2))
    with pytest.raises(WeightSyncError, match="version 2 samples already"):
        sampler.push_weights(write_weights(policy.state_dict(), weights_folder, version=2))


def test_altered_weights_are_refused_and_the_old_ones_go_on(
    policy: PreTrainedModel, sampler: TransformersSampler, weights_folder: str
) -> None:
    before = sampler.generate(REQUESTS, GREEDY, [])
    file = write_weights(policy.state_dict(), weights_folder, version=1)
    write_weights(other_weights(policy), weights_folder, version=1)
    with pytest.raises(WeightSyncError, match="altered or replaced"):
        sampler.push_weights(file)
    assert sampler.policy_version == 0
    assert sampler.generate(REQUESTS, GREEDY, []) == before


def test_weights_of_another_model_are_refused(
    sampler: TransformersSampler, weights_folder: str
) -> None:
    file = write_weights({"head.weight": torch.zeros(2)}, weights_folder, version=1)
    with pytest.raises(WeightSyncError, match=r"first head.weight: pushed \(2,\), held None"):
        sampler.push_weights(file)


def test_a_missing_weight_file_says_where_it_was_sought() -> None:
    with pytest.raises(WeightSyncError, match=r"nowhere\.safetensors"):
        read_weights(WeightFile("nowhere.safetensors", 1, "0", 1, 1))


def test_weight_files_round_trip_in_the_transfer_folder(policy: PreTrainedModel) -> None:
    folder = transfer_folder()
    file = write_weights(policy.state_dict(), folder, version=1)
    weights = read_weights(file)
    assert set(policy.state_dict()) - set(weights) == {"lm_head.weight"}
    assert all(torch.equal(policy.state_dict()[name], value) for name, value in weights.items())
    assert [path.name for path in Path(folder).iterdir()] == ["weights.safetensors"]
    Path(file.path).unlink()
    Path(folder).rmdir()


def test_across_nodes_the_folder_lies_in_the_run_and_replaces_what_was_left(tmp_path: Path) -> None:
    left = Path(transfer_folder(str(tmp_path)))
    (left / "version-1.safetensors").touch()
    folder = Path(transfer_folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(WeightSyncError, match="a workspace that all nodes mount"):
        transfer_folder("s3://bucket/run")


def test_a_folder_that_a_killed_process_left_is_removed() -> None:
    folder = Path(transfer_folder())
    owner = folder.name.rpartition("-")[0]
    left = folder.with_name(owner.replace(str(os.getpid()), "4999999") + "-left")
    left.mkdir()
    other = Path(transfer_folder())
    assert folder.is_dir()
    assert not left.exists()
    folder.rmdir()
    other.rmdir()
