from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moss.config.serve import ServeChatConfig
from moss.errors import ConfigError
from moss.releases import Release, read_release, write_release
from moss.watched_file import WatchedFile

USERS = [f"user-{number}" for number in range(2000)]


@given(share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_growing_share_keeps_the_users_it_had(share: float, more: float) -> None:
    low, high = sorted((share, more))

    def canaries(size: float) -> set[str]:
        release = Release(stable="a", canary="b", canary_share=size)
        return {user for user in USERS[:100] if release.model_for(user) == "b"}

    assert canaries(low) <= canaries(high)


def test_the_share_of_users_is_the_share_that_is_set() -> None:
    for share in (0.0, 0.05, 0.5, 1.0):
        release = Release(stable="a", canary="b", canary_share=share)
        found = sum(release.model_for(user) == "b" for user in USERS) / len(USERS)
        assert found == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)


def test_a_rollback_undoes_the_last_step() -> None:
    first = Release(stable="SFT")
    with pytest.raises(ConfigError, match="nothing to undo"):
        first.rolled_back()
    trial = first.with_canary("PAT", 0.1)
    assert trial.rolled_back().model_for("x") == "SFT"
    assert trial.rolled_back().canary is None
    done = trial.promoted("PAT")
    assert (done.stable, done.canary, done.previous) == ("PAT", None, "SFT")
    assert done.rolled_back() == Release(stable="SFT")
    assert done.promoted("PAT").previous == "SFT", "promoted twice is promoted once"


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.booleans()), min_size=1, max_size=6))
def test_a_step_is_undone_once_and_the_next_one_can_be_undone_again(
    steps: list[tuple[str, bool]],
) -> None:
    release = Release(stable="first")
    for name, is_canary in steps:
        before = release.stable
        release = release.with_canary(name, 0.1) if is_canary else release.promoted(name)
        if is_canary or name != before:
            undone = release.rolled_back()
            assert (undone.stable, undone.canary) == (before, None)
            with pytest.raises(ConfigError, match=f"nothing to undo: {before}"):
                undone.rolled_back()
            release = release if name == "A" else undone


def test_what_is_not_served_cannot_be_released() -> None:
    Release(stable="a", canary="b", canary_share=0.5).check({"a", "b"})
    with pytest.raises(ConfigError, match="the model b, but a, c are served"):
        Release(stable="a", canary="b", canary_share=0.5).check({"a", "c"})
    with pytest.raises(ValidationError, match=r"canary_share=0\.5 names no canary"):
        Release(stable="a", canary_share=0.5)


def test_the_readme_shows_a_service_of_several_models() -> None:
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    block = page.partition("### Several models")[2].partition("```yaml\n")[2].partition("```")[0]
    config = ServeChatConfig.model_validate(yaml.safe_load(block))
    assert config.num_engines == 2
    assert (config.alias, config.more_models[0].quality) == ("moss", 100)
    assert config.release_file is not None


def test_a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "new" / "release.json"
    with pytest.raises(ConfigError, match=r"jobs\.promote"):
        WatchedFile(str(path), read_release)
    write_release(path, Release(stable="a"))
    watched = WatchedFile(str(path), lambda file: read_release(file).check({"a", "b"}))
    write_release(path, Release(stable="b"))
    assert watched.value.stable == "b"
    for bad in ('{"stable": "c"}', "[]", "{", '{"stabel": "a"}'):
        path.write_text(bad, encoding="utf-8")
        assert watched.value.stable == "b"
    assert len(caplog.records) == 4
    assert "did you mean 'stable'" in caplog.text
    write_release(path, Release(stable="a"))
    assert watched.value.stable == "a"
