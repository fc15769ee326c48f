"""A PPO run that a monitor stops: orderly, with the best policy that passed no limit."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from actors.ppo_run import PPOResult, run_ppo
from moss.config.monitors import Ceiling, MonitorsConfig
from moss.config.ppo import PPOConfig, RolloutConfig, TrainPPOConfig
from moss.errors import TrainingStoppedError
from moss.metrics import PROMETHEUS_METRICS, prometheus_name
from moss.models import PreferenceModel, load_policy, save_preference_model
from moss.ppo_inputs import PPOInputs
from moss.ppo_prompts import PromptSet
from moss.tracking import read_metrics

NUM_ITERATIONS = 6
UNLIMITED = Ceiling(warn=None, stop=None)


@pytest.fixture(scope="module")
def inputs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PPOInputs:
    folder = tmp_path_factory.mktemp("scorer")
    preference = PreferenceModel.from_policy(tiny_checkpoint, seed=1)
    torch.nn.init.normal_(preference.value_head.weight, std=0.5)
    save_preference_model(folder, preference, tokenizer_folder=None)
    prompts = tuple([5 + n, 6, *range(20, 20 + n % 4)] for n in range(20))
    return PPOInputs(
        policy=str(tiny_checkpoint),
        preference_model=str(folder),
        prompts=PromptSet(tuple(map(str, range(20))), prompts, 0, seed=3),
        pad_id=0,
        stop_ids=tuple(range(30, 60)),
        score_scale=2.0,
    )


def config(limit: Ceiling, **changes: object) -> TrainPPOConfig:
    monitors = MonitorsConfig(
        window=1,
        kl_nats=limit,
        length_growth=UNLIMITED,
        repetition=UNLIMITED,
        unfinished=UNLIMITED,
    )
    return TrainPPOConfig(
        num_iterations=NUM_ITERATIONS,
        checkpoint_every=1,
        keep_checkpoints=NUM_ITERATIONS,
        sample_every=2,
        monitors=monitors,
        ppo=PPOConfig(
            num_rollouts=8,
            micro_batch_size=8,
            policy_learning_rate=3e-3,
            critic_learning_rate=1e-3,
            warmup_ratio=0,
        ),
        rollout=RolloutConfig.model_validate(
            {"engine": "transformers", "sampling": {"max_new_tokens": 8}}
        ),
    ).model_copy(update=changes)


def weights_after(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    """The policy in a training state."""
    (file,) = (run / "states" / f"step-{iteration:06d}" / "policy").rglob("*model_states.pt")
    module: dict[str, torch.Tensor] = torch.load(file, weights_only=False)["module"]
    return {name.removeprefix("model."): tensor for name, tensor in module.items()}


def same_weights(run: Path, state: dict[str, torch.Tensor]) -> bool:
    checkpoint = load_policy(run / "checkpoint").state_dict()
    return all(torch.equal(checkpoint[name], tensor) for name, tensor in state.items())


def prometheus_text(names: set[str]) -> str:
    """What Prometheus would read from this node, once all names are there."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        if all(f"ray_{name}{{" in text for name in names) or time.monotonic() > deadline:
            return text
        time.sleep(1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_past_its_limit_stops_with_the_best_policy_before_it(
    ray_cluster: None, inputs: PPOInputs, tmp_path: Path
) -> None:
    free, stopped = tmp_path / "free", tmp_path / "stopped"
    whole = run_ppo(config(UNLIMITED), inputs, str(free))
    assert_cost_is_recorded(whole)
    assert_gauges_reach_prometheus(free)
    kl = [metrics["rollout/kl_nats"] for _, metrics in read_metrics(str(free))]
    scores = [metrics["rollout/score"] for _, metrics in read_metrics(str(free))]
    # The first iteration from the third on whose KL is a new maximum: there the limit goes.
    end = next(i for i in range(2, NUM_ITERATIONS) if kl[i] > max(kl[:i]))
    limit = Ceiling(warn=None, stop=(kl[end] + max(kl[:end])) / 2, patience=1)

    result = run_ppo(config(limit), inputs, str(stopped))
    assert [step for step, _ in read_metrics(str(stopped))] == list(range(1, end + 2))
    # Version v sampled iteration v + 1, which is row v here; the row that stopped the run is out.
    best = max(range(1, end), key=lambda version: scores[version])
    (note,) = result.notes
    assert note.startswith(f"stopped by monitor kl_nats {kl[end]:.3g} > ")
    assert f"the checkpoint is the policy of iteration {best}, the best" in note
    assert same_weights(stopped, weights_after(free, best))
    assert not same_weights(stopped, weights_after(free, end))
    assert_a_kill_before_the_manifest_changes_nothing(limit, inputs, stopped, result)


def assert_cost_is_recorded(result: PPOResult) -> None:
    assert result.notes == ()
    assert result.metrics["cost/cpu_s"] > 1
    assert result.metrics["cost/gpu_s"] == 0
    # Five processes with torch in each.
    assert result.metrics["memory/peak_bytes"] > 500 * 2**20
    assert result.metrics["train/seen_tokens"] > NUM_ITERATIONS * 8 * 4


def assert_gauges_reach_prometheus(run: Path) -> None:
    wanted = {prometheus_name(name) for name in PROMETHEUS_METRICS}
    text = prometheus_text(wanted)
    _, last = read_metrics(str(run))[-1]
    for name in PROMETHEUS_METRICS:
        found = re.search(rf"^ray_{prometheus_name(name)}{{[^}}]*}} (\S+)$", text, re.M)
        assert found, name
        assert float(found[1]) == pytest.approx(last[name], rel=1e-5), name
    assert 'run_id="MOSS-PPO"' in text


def assert_a_kill_before_the_manifest_changes_nothing(
    limit: Ceiling, inputs: PPOInputs, run: Path, before: PPOResult
) -> None:
    checkpoint = load_policy(run / "checkpoint").state_dict()
    samples = (run / "samples.jsonl").read_text()
    assert {json.loads(line)["iteration"] for line in samples.splitlines()} >= {1, 2}
    again = run_ppo(config(limit), inputs, str(run))
    assert again.notes == before.notes
    assert same_weights(run, checkpoint)
    assert (run / "samples.jsonl").read_text() == samples


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_stopped_before_any_good_policy_fails_and_says_what_to_change(
    ray_cluster: None, inputs: PPOInputs, tmp_path: Path
) -> None:
    at_once = Ceiling(warn=None, stop=-1e9, patience=1)
    with pytest.raises(TrainingStoppedError, match=r"kl_nats .* in iteration 1.*--restart"):
        run_ppo(config(at_once), inputs, str(tmp_path))
    assert not (tmp_path / "checkpoint").exists()
