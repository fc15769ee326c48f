import shutil
from pathlib import Path

import pytest

from moss import storage
from moss.config.base import StageConfig
from moss.errors import ConfigError, ManifestError
from moss.lineage import Run
from moss.run_identity import content_digest, describe_run, parent_chain, run_folder


def _make(workspace: str, run_id: str, text: str = "x", **inputs: str) -> str:
    config = StageConfig(workspace=workspace, run_id=run_id)
    with Run.open(config, f"stage_{run_id}", inputs=inputs) as run:
        if not run.finished:
            storage.write_text(run.path("file"), text)
            run.finish(outputs=["file"], counts={}, model_name=run_id)
    return run.folder


def _make_road(place: str) -> str:
    """base -> sft, base -> reward, (sft, reward) -> ppo."""
    base = _make(place, "base")
    sft = _make(place, "sft", model=base)
    reward = _make(place, "reward", model=base)
    return _make(place, "ppo", policy=sft, reward=reward)


def test_parents_resolve_to_the_root_each_once_children_first(place: str) -> None:
    chain = parent_chain(_make_road(place))
    assert [manifest.run_id for manifest in chain] == ["ppo", "sft", "reward", "base"]
    assert chain[-1].inputs == {}


def test_a_run_that_is_parent_and_grandparent_comes_after_both_children(place: str) -> None:
    base = _make(place, "base")
    sft = _make(place, "sft", model=base)
    ppo = _make(place, "ppo", reference=base, policy=sft)
    assert [manifest.run_id for manifest in parent_chain(ppo)] == ["ppo", "sft", "base"]


def test_a_moved_workspace_still_resolves_and_is_still_finished(tmp_path: Path) -> None:
    _make_road(str(tmp_path / "old"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    chain = parent_chain(str(tmp_path / "new" / "ppo"))
    assert chain[-1].run_id == "base"
    config = StageConfig(workspace=str(tmp_path / "new"), run_id="base")
    with Run.open(config, "stage_base", inputs={}) as run:
        assert run.finished


def test_an_input_of_another_workspace_is_kept_by_its_whole_path(tmp_path: Path) -> None:
    base = _make(str(tmp_path / "one"), "base")
    sft = _make(str(tmp_path / "two"), "sft", model=base)
    chain = parent_chain(sft)
    assert chain[0].inputs["model"].path == base
    assert chain[-1].run_id == "base"


def test_a_parent_that_was_made_again_breaks_the_chain_with_its_name(place: str) -> None:
    ppo = _make_road(place)
    storage.remove(storage.join(place, "reward"))
    with pytest.raises(ManifestError, match=r"input 'reward' of .*ppo: .*absent or not finished"):
        parent_chain(ppo)
    _make(place, "reward", "other", model=storage.join(place, "base"))
    with pytest.raises(ManifestError, match=r"made from input 'reward'.*again with --restart"):
        parent_chain(ppo)


def test_the_digest_of_a_config_does_not_depend_on_its_place() -> None:
    one, two = (StageConfig(workspace=name, run_id="a") for name in ("one", "two"))
    assert content_digest(one) == content_digest(two)
    assert content_digest(one) != content_digest(StageConfig(workspace="one", run_id="a", seed=1))


def test_a_config_edited_by_hand_is_not_blamed_on_a_key(place: str) -> None:
    folder = _make(place, "base")
    changed = StageConfig(workspace=place, run_id="base", seed=1)
    path = storage.join(folder, "config.yaml")
    storage.write_text(path, storage.read_text(path).replace("seed: 42", "seed: 1"))
    with pytest.raises(ConfigError, match="edited by hand"):
        Run.open(changed, "stage_base", inputs={})
    storage.write_text(path, ": :\n- [")
    with pytest.raises(ConfigError, match="cannot be compared"):
        Run.open(changed, "stage_base", inputs={})


def test_a_run_describes_its_inputs_before_it_takes_the_folder(place: str) -> None:
    config = StageConfig(workspace=place, run_id="sft")
    opened = describe_run(config, "train_sft", {"model": _make(place, "base")})
    assert opened.inputs["model"].path == "base"
    assert not storage.exists(run_folder(config))
