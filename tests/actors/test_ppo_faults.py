"""PPO whose actors die or hang, or which is killed as a whole, ends as the undisturbed run does."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import torch
from ray.util import placement_group_table

from actors.critic import CriticActor
from actors.policy import PolicyActor
from actors.ppo_run import train_ppo
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import WHOLE, Part, RolloutActor
from jobs import replay_ppo
from moss import failpoints
from moss.config import dump_config
from moss.config.placement import PlacementConfig
from moss.config.ppo import PPOTimeouts, SamplingParams, TrainPPOConfig
from moss.config.ppo_faults import PPOFaultsConfig
from moss.errors import EngineSleepError
from moss.experience import UpdateReport
from moss.models import load_policy
from moss.rewards.base import PromptFacts, Scores
from moss.rollouts import Experience, Floats, Rollout, RolloutBatch, SampleRequest
from moss.tracking import read_metrics
from tests.clusters import ROOT, clean_environment
from tests.ppo_workspace import make_workspace, ppo_config, untimed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT_S = 15.0
"""After which an actor counts as wedged: far above a phase's time, for a small machine."""


@pytest.fixture(scope="module")
def workspace(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("workspace"), tiny_checkpoint)


@pytest.fixture(scope="module")
def config(workspace: Path) -> TrainPPOConfig:
    """Six iterations with a state after every second, Adam, and a coefficient that moves."""
    return ppo_config(
        workspace, "transformers", num_iterations=6, kl_target=0.1, kl_horizon=8
    ).model_copy(
        update={
            "timeouts": PPOTimeouts(generate_s=LIMIT_S, score_s=LIMIT_S),
            "faults": PPOFaultsConfig(dump_rollouts_every=5),
        }
    )


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, config: TrainPPOConfig, workspace: Path) -> Path:
    """A run that nothing befell."""
    folder = workspace / "undisturbed"
    train_ppo(config, str(folder))
    betas = {metrics["ppo/kl_coefficient"] for _, metrics in read_metrics(str(folder))}
    assert len(betas) == 6
    assert faults_of(folder) == (0, 0, 0)
    return folder


def faults_of(run: Path) -> tuple[float, float, float]:
    """Restarts, resumes and failed saves by the last iteration."""
    _, last = read_metrics(str(run))[-1]
    names = ("restarts", "resumes", "failed_saves")
    restarts, resumes, saves = (last[f"faults/{name}_count"] for name in names)
    return restarts, resumes, saves


def check_equal(run: Path, expected: Path) -> None:
    """Weights, optimizer and other training state, and metrics, bit for bit."""
    assert untimed(run) == untimed(expected)
    ours, theirs = (load_policy(folder / "checkpoint").state_dict() for folder in (run, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    names = sorted(p.relative_to(expected) for p in expected.glob("states/step-000006/**/*.pt"))
    assert {"policy", "critic"} <= {name.parts[2] for name in names}
    for name in names:
        pair = [torch.load(folder / name, weights_only=False) for folder in (run, expected)]
        assert same(*pair), name


def same(ours: object, theirs: object) -> bool:
    """Whether two trees of tensors and other values are equal."""
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return (
            isinstance(ours, dict)
            and ours.keys() == theirs.keys()
            and all(same(ours[key], theirs[key]) for key in theirs)
        )
    if isinstance(theirs, list | tuple):
        return (
            isinstance(ours, list | tuple)
            and len(ours) == len(theirs)
            and all(same(*pair) for pair in zip(ours, theirs, strict=True))
        )
    return type(ours) is type(theirs) and (ours == theirs or not isinstance(theirs, int | float))


def befall(folder: Path, iteration: int, role: str, *, after: str | None = None) -> None:
    """Let happen to this process what a file `<iteration>-<role>-<fault>` says, once, and not
    before it has happened to the role `after`."""
    for file in folder.glob(f"{iteration}-{role}-*"):
        file.unlink()
        while after and list(folder.glob(f"{iteration}-{after}-*")):
            time.sleep(0.01)
        match file.name.rpartition("-")[2]:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "asleep":
                time.sleep(3600)
            case "broken":
                raise EngineSleepError("the rollout engine did not fall asleep: no memory")


def note(folder: Path, event: str) -> None:
    """Add a line to the file that all actors share."""
    with (folder.parent / "events").open("a") as events:
        events.write(f"{event}\n")


def break_actors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start actors that meet the faults of a folder."""

    class FaultyRollout(RolloutActor):
        def generate(
            self,
            requests: Sequence[SampleRequest],
            params: SamplingParams,
            stop_ids: Sequence[int],
            policy_version: int,
            part: Part = WHOLE,
        ) -> dict[int, Rollout]:
            befall(folder, policy_version, "part" if part.number else "rollout")
            return super().generate(requests, params, stop_ids, policy_version, part)

        def sleep(self) -> None:
            befall(folder, self._sampler.policy_version, "rest")
            super().sleep()
            note(folder, "asleep")

        def wake_up(self) -> None:
            befall(folder, self._sampler.policy_version, "wake")
            note(folder, "awake")
            super().wake_up()

    class FaultyReward(RewardActor):
        def score(self, batch: tuple[RolloutBatch, Sequence[PromptFacts]]) -> Scores:
            befall(folder, batch[0].policy_versions_B[0], "reward")
            return super().score(batch)

    class FaultyReference(ReferenceActor):
        def logprobs(self, batch: RolloutBatch) -> Floats:
            befall(folder, batch.policy_versions_B[0], "reference")
            return super().logprobs(batch)

    class FaultyPolicy(PolicyActor):
        def update(
            self, experience: Experience, minibatches: Sequence[Sequence[int]]
        ) -> UpdateReport:
            note(folder, "update")
            report = super().update(experience, minibatches)
            iteration = experience.rollouts.policy_versions_B[0]
            while list(folder.glob(f"{iteration}-critic-*")):
                time.sleep(0.01)
            befall(folder, iteration, "policy")
            return report

    class FaultyCritic(CriticActor):
        def update(
            self, experience: Experience, minibatches: Sequence[Sequence[int]]
        ) -> UpdateReport:
            iteration = experience.rollouts.policy_versions_B[0]
            befall(folder, iteration, "critic", after="policy")
            return super().update(experience, minibatches)

    for faulty in (FaultyRollout, FaultyReward, FaultyReference, FaultyPolicy, FaultyCritic):
        monkeypatch.setattr(f"actors.ppo_start.{faulty.__bases__[0].__name__}", faulty)


FAULTS = (
    "1-rollout-killed",
    "1-reward-killed",
    "2-part-killed",  # while its first part is scored
    "2-reference-killed",
    "3-critic-killed",
    "3-policy-killed",  # after its step; once for both, the run goes back to the state of 2
    "4-reward-asleep",
    "1-wake-asleep",
    "4-rest-broken",
)
TOGETHER = PlacementConfig(groups=(("policy", "rollout", "reference"), ("critic", "reward")))
FULL_DISK = "state/files_written:2=full"
"""Of the state of iteration 4."""


def test_a_run_whose_actors_all_die_or_hang_once_ends_as_if_nothing_had_happened(
    undisturbed: Path,
    config: TrainPPOConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    for fault in FAULTS:
        (faults / fault).touch()
    break_actors(faults, monkeypatch)
    failpoints._visits.clear()
    monkeypatch.setenv("MOSS_FAILPOINT", FULL_DISK)
    run = tmp_path / "run"
    changes = {
        "placement": TOGETHER,
        "rollout": config.rollout.model_copy(update={"sleep_level": 1}),
        "timeouts": config.timeouts.model_copy(update={"sleep_s": 4.0}),
    }
    with caplog.at_level(logging.WARNING, "moss.faults"):
        train_ppo(config.model_copy(update=changes), str(run))
    assert list(faults.iterdir()) == []
    check_equal(run, undisturbed)
    assert faults_of(run) == (7, 1, 1)
    check_sleep((tmp_path / "events").read_text().split())
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    assert not (run / "states" / "step-000004").exists()
    lines = [record.getMessage() for record in caplog.records if record.name == "moss.faults"]
    for start in (
        "all actors are started anew, from the last training state (resume 1 of at most 3): actor ",
        "rollout[0] is started anew (restart 1 of at most 10): actor rollout[0] died",
        "reward[0] is started anew (restart 1 of at most 10): actor reward[0] died",
        "reference[0] is started anew (restart 1 of at most 10): actor reference[0] died",
        "reward[0] is started anew (restart 2 of at most 10): reward[0].score gave no answer",
        "rollout[0] is started anew (restart 2 of at most 10): rollout[0].wake_up gave no answer "
        "within 4 s",
        "rollout[0] is started anew (restart 3 of at most 10): actor rollout[0] died",
        "rollout[0] is started anew (restart 4 of at most 10): rollout[0].sleep: the rollout "
        "engine did not fall asleep",
        "the training state of step 4 is not saved: [Errno 28] No space left on device",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)


def check_sleep(events: list[str]) -> None:
    """The policy is updated only while the engine sleeps, and the engine sleeps only then."""
    engine = "awake"
    for before, event in zip(["awake", *events], events, strict=False):
        assert (event != "update") or engine == "asleep", events
        assert (event, before) != ("asleep", "asleep"), events
        engine = event if event != "update" else engine
    assert events.count("update") == events.count("asleep") == 8  # two are made again


def test_a_job_killed_with_all_its_processes_goes_on_bit_for_bit(
    undisturbed: Path, config: TrainPPOConfig, workspace: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ppo.yaml"
    file.write_text(dump_config(config))
    run = workspace / config.run_id
    with (
        (tmp_path / "job.log").open("w") as log,
        # Ray's own folders, which nobody removes after such a kill; sockets need a short path.
        TemporaryDirectory(prefix="k", dir="/tmp") as scratch,
    ):
        job = start_job(file, log.fileno(), scratch)
        family = wait_for_iterations(job, run, count=3)
        for process in [job, *family]:
            process.kill()
        gone, alive = psutil.wait_procs(family, timeout=60)
        assert (job.wait(60), len(gone) >= 7, alive) == (-signal.SIGKILL, True, [])
        assert not (run / "manifest.json").exists()
        before = (run / "metrics.jsonl").read_text().splitlines()
        again = start_job(file, log.fileno(), scratch)
        assert again.wait(300) == 0, (tmp_path / "job.log").read_text()
    assert (run / "metrics.jsonl").read_text().splitlines()[:2] == before[:2]
    assert (run / "manifest.json").exists()
    check_equal(run, undisturbed)


def test_a_dumped_iteration_is_replayed_exactly_without_ray_and_engine(
    undisturbed: Path, config: TrainPPOConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (undisturbed / "config.yaml").write_text(dump_config(config))
    workspace, run_id = str(undisturbed.parent), undisturbed.name
    arguments = ["--workspace", workspace, "--run-id", run_id, "--iteration", "5"]
    assert replay_ppo.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["exact_state"]
    assert report["largest_difference"] == dict.fromkeys(
        ("scores_B", "logprobs_BT", "reference_logprobs_BT", "values_BT"), 0.0
    )
    _, metrics = read_metrics(str(undisturbed))[4]
    assert report["recorded"]["figures"]["rollout/score"] == metrics["rollout/score"]
    for part, key, name in (
        ("experience", "kl_nats", "rollout/kl_nats"),
        ("policy", "loss", "ppo/policy_loss_score"),
        ("policy", "gradient_norm", "ppo/policy_gradient_norm"),
        ("critic", "loss", "ppo/value_loss_squared_score"),
    ):
        assert report[part][key] == metrics[name], name
    assert replay_ppo.main([*arguments[:-1], "4"]) == 3
    assert "no dump of iteration 4; dumped iterations: 5" in capsys.readouterr().err


def start_job(file: Path, log: int, scratch: str) -> subprocess.Popen[bytes]:
    """The stage as a user would run it, with a Ray instance of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.train_ppo", "--config", str(file)],
        cwd=ROOT,
        env=clean_environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'platform'}", TMPDIR=scratch),
        stdout=log,
        stderr=log,
    )


def wait_for_iterations(
    job: subprocess.Popen[bytes], run: Path, *, count: int
) -> list[psutil.Process]:
    """Everything the job started, once it is in the midst of its work."""
    deadline = time.monotonic() + 240
    family: list[psutil.Process] = []
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert job.poll() is None
        assert time.monotonic() < deadline
        if metrics.exists():  # it is made once all actors are there
            family = family or psutil.Process(job.pid).children(recursive=True)
        time.sleep(0.01)
    return family
