from pathlib import Path

import pytest

from moss import code_version as module


def test_without_git_the_version_comes_from_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    module.code_version.cache_clear()
    monkeypatch.setattr(module, "_git_describe", lambda root: None)
    version = module.code_version()
    module.code_version.cache_clear()
    assert "+src." in version
    assert len(version.rpartition(".")[2]) == 12


def test_a_missing_git_program_or_tree_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._git_describe(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert module._git_describe(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert module._git_describe(tmp_path) is None


def test_the_version_is_never_empty() -> None:
    assert module.code_version()
