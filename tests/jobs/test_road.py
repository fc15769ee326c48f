"""The whole road at its smallest size through `run_road`; again; killed in mid stage; stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from actors.local_cluster import LocalCluster
from moss.evaluation.report import load_report
from moss.lineage import load_manifest, parent_chain, verify_outputs
from moss.road_records import ProcessRecords
from tests.clusters import ROOT, clean_environment, start_head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

CHECKPOINTS = ("MOSS-base", "MOSS-Warmup", "MOSS-SFT", "MOSS-PAT", "MOSS-PPO")


def start_road(*flags: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.run_road", *flags],
        cwd=ROOT,
        env=clean_environment(PYTHONPATH=f".{os.pathsep}platform", **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_road(*flags: str, **environment: str) -> str:
    """Output of a road that must end well."""
    process = start_road(*flags, **environment)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output[-6000:]
    return output


def manifests(workspace: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in workspace.glob("*/manifest.json")}


def stop(*flags: str, folder: Path) -> None:
    """End a road; nothing that it recorded or marked may live on."""
    cluster = LocalCluster.attach(str(folder))
    records = ProcessRecords(folder).load()
    run_road(*flags, "--stop")
    assert cluster is None or cluster.processes() == []
    assert not any(record.process() for record in records.values())
    assert LocalCluster.attach(str(folder)) is None


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Workspace of a finished micro road, and what the road printed."""
    workspace = tmp_path_factory.mktemp("micro")
    try:
        yield workspace, run_road("--config", "micro", "--workspace", str(workspace))
    finally:
        LocalCluster.stop(str(workspace / "road"))


def test_the_road_leaves_five_checkpoints_that_descend_from_the_base(
    micro: tuple[Path, str],
) -> None:
    workspace, _ = micro
    for name in CHECKPOINTS:
        assert verify_outputs(str(workspace / name)).model_name == name
        assert (workspace / name / "checkpoint" / "model.safetensors").is_file()
        chain = [manifest.run_id for manifest in parent_chain(str(workspace / name))]
        assert "MOSS-base" in chain
        assert "tokenizer" in chain


def test_the_road_ends_with_the_table_and_a_chat_page_that_answers(
    micro: tuple[Path, str],
) -> None:
    workspace, output = micro
    assert "Targets:" in output
    assert "stand-in" in output
    page = (workspace / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "http:" not in page
    url = json.loads((workspace / "chat" / "service.json").read_text(encoding="utf-8"))["url"]
    assert f"chat page: {url}" in output
    assert httpx.get(f"{url}/health", timeout=10, trust_env=False).is_success


def test_the_comparison_shows_every_method_with_its_cost(micro: tuple[Path, str]) -> None:
    workspace, _ = micro
    report = load_report(str(workspace / "comparison" / "report.json"))
    methods = ["MOSS-SFT", "MOSS-PAT", "MOSS-PPO", "MOSS-RS", "best of 2"]
    tables = {table.title: table for table in report.tables}
    scores = tables["Score, distance and length"]
    assert [row[0] for row in scores.rows] == methods
    cost = {row[0]: row[1:] for row in tables["Cost of each method's training run"].rows}
    # Wall and CPU seconds, tokens and peak memory of every run that trained.
    for name in methods[:-1]:
        assert not {"–", "0"} & {cost[name][column] for column in (0, 1, 3, 4)}, name
    assert (workspace / "MOSS-PAT" / "checkpoint" / "quality_tags.json").is_file()
    assert (workspace / "MOSS-PAT" / "report.html").is_file()


def test_the_teacher_ends_with_the_last_stage_that_needs_it(micro: tuple[Path, str]) -> None:
    workspace, output = micro
    assert "the offline teacher is no longer needed and has ended" in output
    assert "teacher" not in ProcessRecords(workspace / "road").load()


def test_a_second_road_repeats_no_stage_and_asks_no_teacher(micro: tuple[Path, str]) -> None:
    workspace, _ = micro
    before = manifests(workspace)
    started = time.monotonic()
    dead_teacher = "http://127.0.0.1:9/v1"
    output = run_road(
        "--config", "micro", "--workspace", str(workspace), TEACHER_BASE_URL=dead_teacher
    )
    assert time.monotonic() - started < 120
    assert manifests(workspace) == before
    assert "all finished earlier" in output
    assert "Targets:" in output
    assert "chat page: http" in output


def test_a_chat_service_that_died_is_deployed_again_and_nothing_else(
    micro: tuple[Path, str],
) -> None:
    workspace, _ = micro
    LocalCluster.stop(str(workspace / "road"))
    before = manifests(workspace)
    output = run_road("--config", "micro", "--workspace", str(workspace))
    assert {name: data for name, data in manifests(workspace).items() if name != "chat"} == {
        name: data for name, data in before.items() if name != "chat"
    }
    assert "evaluation (evaluate) skipped" in output
    assert "chat page: http" in output


def test_stopping_ends_all_that_the_road_started(micro: tuple[Path, str]) -> None:
    workspace, _ = micro
    stop("--config", "micro", "--workspace", str(workspace), folder=workspace / "road")


PROMPTS = {
    "job": "synthesize_prompts", "run_id": "prompts-warmup", "config": "tiny_warmup",
    "set": {"quotas": {"helpfulness": {"en": 60, "zh": 60}}}, "uses_teacher": True,
}  # fmt: skip
CONVERSATIONS = {
    "job": "synthesize_conversations", "run_id": "conversations-warmup", "config": "tiny_warmup",
    "needs": ["prompts-warmup"], "uses_teacher": True,
}  # fmt: skip


def write_short_road(folder: Path) -> str:
    file = folder / "road.yaml"
    data = {
        "workspace": str(folder / "runs"),
        "cluster": {"object_store_memory_bytes": 200_000_000, "min_memory_bytes": 0},
        "stages": [PROMPTS, CONVERSATIONS],
    }
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(file)


def kill_in_stage(config: str, workspace: Path, run_id: str) -> None:
    """Start a road and kill its driver with SIGKILL while `run_id` works."""
    road = start_road("--config", config)
    try:
        deadline = time.monotonic() + 300
        while not (workspace / run_id / "progress.json").is_file():
            assert road.poll() is None, road.communicate()[0]
            assert time.monotonic() < deadline, f"{run_id} did not start in 300 s"
            time.sleep(0.05)
    finally:
        road.send_signal(signal.SIGKILL)
        road.communicate(timeout=30)


def test_a_road_killed_in_every_stage_goes_on_to_the_same_datasets(
    whole: Path, tmp_path: Path
) -> None:
    config, workspace = write_short_road(tmp_path), tmp_path / "runs"
    finished: dict[str, bytes] = {}
    try:
        for stage in (PROMPTS, CONVERSATIONS):
            kill_in_stage(config, workspace, str(stage["run_id"]))
            assert manifests(workspace).items() >= finished.items()
            finished = manifests(workspace)
        run_road("--config", config)
        assert manifests(workspace).items() >= finished.items()
        for name in ("prompts-warmup", "conversations-warmup"):
            mine, expected = (load_manifest(str(place / name)) for place in (workspace, whole))
            assert mine.manifest_digest == expected.manifest_digest
            assert mine.outputs == expected.outputs
        stop("--config", config, folder=workspace / "road")
    finally:
        LocalCluster.stop(str(workspace / "road"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace of the same short road that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    config = write_short_road(folder)
    try:
        run_road("--config", config)
    finally:
        run_road("--config", config, "--stop")
    return folder / "runs"


def test_a_cluster_elsewhere_runs_the_uploaded_checkout(tmp_path: Path) -> None:
    file = tmp_path / "road.yaml"
    stage = {"job": "train_tokenizer", "run_id": "tokenizer"}
    data = {"workspace": str(tmp_path / "runs"), "stages": [stage]}
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with start_head(tmp_path / "head") as cluster:
        flags = ("--config", str(file), "--address", cluster.dashboard_url)
        output = run_road(*flags, **cluster.client_env)
        assert "tokenizer (train_tokenizer) done" in output
        assert not (tmp_path / "runs" / "road" / "cluster.json").exists()
    assert load_manifest(str(tmp_path / "runs" / "tokenizer")).run_id == "tokenizer"
