"""Each synthesis job end to end on a micro config: Ray Data, ledger, manifest, resume."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import (
    collect_prompts,
    label_preferences,
    synthesize_conversations,
    synthesize_prompts,
    synthesize_tool_conversations,
)
from moss import storage
from moss.chat import Conversation
from moss.config import StageConfig
from moss.config.labelling import LabelPreferencesConfig
from moss.config.model import ModelConfig
from moss.config.synthesis import (
    CollectPromptsConfig,
    SynthesizeConversationsConfig,
    SynthesizePromptsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.errors import TeacherAuthError, TeacherQuotaError, TeacherUnavailableError
from moss.lineage import Manifest, Run, load_manifest
from moss.models import build_policy_for
from moss.tokenizer import MossTokenizer
from tests import stub_teacher
from tests.stub_endpoint import StubEndpoint, running

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

COMMON: dict[str, object] = {
    "caller": {"num_cpus": 0.1, "batch_rows": 4, "block_rows": 8, "wait_s": 120},
}
TEACHER = {"concurrency": 8, "max_attempts": 3, "backoff_s": 0.01}
PROMPTS = {
    **COMMON,
    "run_id": "prompts",
    "quotas": {"helpfulness": {"en": 30, "zh": 10}, "honesty": {"en": 6}},
    "red_team": {"en": 2},
    "self_instruct": {"seed_only_iterations": 2, "round_iterations": 3, "max_iterations": 40},
}


@pytest.fixture(scope="module")
def stub() -> Iterator[StubEndpoint]:
    with running(StubEndpoint(stub_teacher.respond, models=stub_teacher.MODELS)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, stub: StubEndpoint) -> Path:
    """A workspace with finished prompts and conversations."""
    folder = tmp_path_factory.mktemp("road")
    synthesize_prompts.run_stage(
        SynthesizePromptsConfig.model_validate(made(PROMPTS, folder, stub))
    )
    synthesize_conversations.run_stage(
        SynthesizeConversationsConfig.model_validate(made(CONVERSATIONS, folder, stub))
    )
    return folder


CONVERSATIONS = {
    **COMMON,
    "run_id": "conversations",
    "prompts": "prompts",
    "meta_version": "tiny",
    "models": {"gpt-3.5-turbo": 1.0, "text-ada-001": 1.0},
    "turns": {"mu": 1.5, "sigma": 0.6, "max_turns": 2},
    "splits": {"preference": 0.3, "eval": 0.1},
}


def made(
    values: dict[str, object], workspace: Path, stub: StubEndpoint, **teacher: object
) -> dict[str, object]:
    base = {**TEACHER, "base_url": stub.base_url, **teacher}
    return {**values, "workspace": str(workspace), "teacher": base}


def manifest_of(workspace: Path, run_id: str) -> Manifest:
    return load_manifest(str(workspace / run_id))


def rows_of(workspace: Path, run_id: str, dataset: str) -> list[dict[str, object]]:
    return storage.read_rows(str(workspace / run_id / "data" / f"{dataset}.parquet"))


def digests(manifest: Manifest) -> list[str | None]:
    return [output.rows_digest for output in manifest.outputs]


def test_prompts_meet_their_quotas_and_every_row_is_accounted_for(workspace: Path) -> None:
    rows = rows_of(workspace, "prompts", "prompts")
    accepted = Counter(
        (row["category"], row["language"], row["source"]) for row in rows if row["status"] == "ok"
    )
    assert accepted == {
        ("helpfulness", "en", "synthetic"): 30,
        ("helpfulness", "zh", "synthetic"): 10,
        ("honesty", "en", "synthetic"): 6,
        ("harmlessness", "en", "red_team"): 2,
    }
    manifest = manifest_of(workspace, "prompts")
    select = manifest.counts["select"]
    synthetic = [row for row in rows if row["source"] == "synthetic"]
    assert select.ok + select.filtered + select.skipped == len(synthetic)
    assert [row["id"] for row in rows] == sorted(str(row["id"]) for row in rows)


def test_examples_are_seeds_first_and_mixed_later(workspace: Path) -> None:
    for row in rows_of(workspace, "prompts", "prompts"):
        if row["source"] != "synthetic":
            continue
        number = int(str(row["id"]).split("-")[2])
        parents = row["parents"]
        assert isinstance(parents, list)
        has_synthetic = any(not str(parent).startswith("seed-") for parent in parents)
        assert has_synthetic == (number > 2)


def test_conversations_start_with_their_prompt_and_splits_do_not_overlap(workspace: Path) -> None:
    prompts = {row["id"]: row["text"] for row in rows_of(workspace, "prompts", "prompts")}
    rows = rows_of(workspace, "conversations", "conversations")
    assert len(rows) == 48
    for row in rows:
        conversation = Conversation.from_json(str(row["conversation"]))
        assert conversation.turns[0].human == prompts[row["prompt_id"]]
        assert row["ledger_keys"]
    assert len({row["prompt_id"] for row in rows}) == len(rows)
    assert {row["split"] for row in rows} == {"sft", "preference", "eval"}


def test_a_finished_stage_asks_nothing_and_a_lost_folder_costs_nothing(
    workspace: Path, stub: StubEndpoint
) -> None:
    before, asked = digests(manifest_of(workspace, "conversations")), len(stub.bodies)
    config = SynthesizeConversationsConfig.model_validate(made(CONVERSATIONS, workspace, stub))
    synthesize_conversations.run_stage(config)
    shutil.rmtree(workspace / "conversations")
    synthesize_conversations.run_stage(config)
    assert len(stub.bodies) == asked
    assert digests(manifest_of(workspace, "conversations")) == before


def test_a_budget_stops_the_stage_and_raising_it_goes_on(
    workspace: Path, tmp_path: Path, stub: StubEndpoint
) -> None:
    shutil.copytree(workspace / "prompts", tmp_path / "prompts")
    # Another seed makes other requests than the module's workspace has paid for.
    values = {**CONVERSATIONS, "seed": 7}

    def run(**teacher: object) -> None:
        synthesize_conversations.run_stage(
            SynthesizeConversationsConfig.model_validate(made(values, tmp_path, stub, **teacher))
        )

    sold = sum(stub.sold.values())
    with pytest.raises(TeacherQuotaError, match="budget_tokens"):
        run(budget_tokens=1800)
    stopped_at = sum(stub.sold.values()) - sold
    assert 0 < stopped_at * 12 <= 1800
    run()
    total = sum(stub.sold.values()) - sold
    manifest = manifest_of(tmp_path, "conversations")
    assert manifest.cost is not None
    assert total == manifest.cost.num_calls
    assert max(stub.sold.values()) == 1


def test_a_wrong_key_and_a_dead_endpoint_end_the_stage_before_any_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(StubEndpoint(stub_teacher.respond, models=stub_teacher.MODELS, key="right")) as s:
        monkeypatch.setenv("WRONG_KEY", "wrong")
        values = made(PROMPTS, tmp_path, s, api_key_env="WRONG_KEY")
        with pytest.raises(TeacherAuthError, match="WRONG_KEY"):
            synthesize_prompts.run_stage(SynthesizePromptsConfig.model_validate(values))
    with pytest.raises(TeacherUnavailableError, match="cannot reach"):
        synthesize_prompts.run_stage(SynthesizePromptsConfig.model_validate(values))


def test_tool_conversations_hold_real_results_and_negative_examples(
    workspace: Path, stub: StubEndpoint
) -> None:
    values = {
        **COMMON,
        "run_id": "tool-conversations",
        "conversations": "conversations",
        "quotas": {"calculator": {"en": 12}},
        "meta_version": "tiny",
        "turns": {"mu": 1.2, "sigma": 0.5, "max_turns": 2},
        "tools": {"enabled": ["calculator"]},
        "self_instruct": {"seed_only_iterations": 2, "max_iterations": 20},
    }
    config = SynthesizeToolConversationsConfig.model_validate(made(values, workspace, stub))
    synthesize_tool_conversations.run_stage(config)
    rows = rows_of(workspace, "tool-conversations", "tool_conversations")
    kinds = Counter(row["kind"] for row in rows if row["status"] == "ok")
    assert kinds["positive"] + kinds["disabled"] == 12
    assert kinds["negative"] == 1
    for row in rows:
        if row["kind"] == "positive" and row["status"] == "ok":
            turn = Conversation.from_json(str(row["conversation"])).turns[0]
            (result,) = turn.results
            expression = result.command.argument
            left, right = expression.split("*7+")
            assert result.text == repr(str(int(left) * 7 + int(right)))


def test_collected_prompts_become_the_seeds_of_the_next_round(
    workspace: Path, stub: StubEndpoint
) -> None:
    collect = {
        **COMMON,
        "run_id": "collected-prompts",
        "num_seeds": 12,
        "visitors": {"num_prompts": 40},
    }
    collect_prompts.run_stage(CollectPromptsConfig.model_validate(made(collect, workspace, stub)))
    manifest = manifest_of(workspace, "collected-prompts")
    assert any("simulated" in note for note in manifest.notes)
    rows = rows_of(workspace, "collected-prompts", "collected")
    assert len(rows) == 40
    assert sum(row["status"] == "ok" for row in rows) == 12
    aligned = {
        **PROMPTS,
        "run_id": "aligned",
        "seeds": "collected-prompts",
        "quotas": {"complex_instruction": {"en": 5}, "honesty": {"en": 2}},
    }
    synthesize_prompts.run_stage(
        SynthesizePromptsConfig.model_validate(made(aligned, workspace, stub))
    )
    prompts = rows_of(workspace, "aligned", "prompts")
    parents = {
        parent
        for row in prompts
        if row["category"] == "complex_instruction" and isinstance(row["parents"], list)
        for parent in row["parents"]
    }
    assert any(str(parent).startswith("visitor-") for parent in parents)


def test_preferences_have_six_responses_and_fifteen_pairs(
    workspace: Path, stub: StubEndpoint, tiny_checkpoint: Path
) -> None:
    policy = StageConfig(workspace=str(workspace), run_id="MOSS-SFT")
    with Run.open(policy, "train_sft", inputs={}) as run:
        tokenizer = MossTokenizer.load(tiny_checkpoint)
        tokenizer.save(run.path("checkpoint"))
        build_policy_for(
            tokenizer,
            ModelConfig(
                hidden_size=32,
                num_layers=1,
                num_heads=1,
                intermediate_size=64,
                max_positions=512,
            ),
            seed=0,
        ).save_pretrained(run.path("checkpoint"))
        run.finish(outputs=["checkpoint"], counts={}, model_name="MOSS-SFT")
    values = {
        **COMMON,
        "run_id": "preferences",
        "conversations": "conversations",
        "checkpoint": "MOSS-SFT",
        "num_prompts": 4,
        "validation_share": 0.3,
        "response": {"max_tokens": 8, "num_cpus": 0.1, "batch_rows": 2},
    }
    config = LabelPreferencesConfig.model_validate(made(values, workspace, stub))
    label_preferences.run_stage(config)
    responses = rows_of(workspace, "preferences", "responses")
    complete = [row for row in responses if row["status"] == "ok"]
    assert len(responses) == 4
    assert complete, [row["reason"] for row in responses]
    for row in complete:
        assert isinstance(row["responses"], list)
        models = [item["model"] for item in row["responses"]]
        assert models == [*config.response_models, "MOSS-SFT"]
        assert Conversation.from_json(str(row["conversation"])).turns[-1].moss == ""
    pairs = rows_of(workspace, "preferences", "pairs")
    assert Counter(row["prompt_id"] for row in pairs) == {row["prompt_id"]: 15 for row in complete}
    assert {row["label"] for row in pairs} <= {"a", "b", "tie", "invalid"}
    for prompt_id in {row["prompt_id"] for row in pairs}:
        assert len({row["split"] for row in pairs if row["prompt_id"] == prompt_id}) == 1
    preference_prompts = {
        row["prompt_id"]
        for row in rows_of(workspace, "conversations", "conversations")
        if row["split"] == "preference"
    }
    assert {row["prompt_id"] for row in responses} <= preference_prompts
