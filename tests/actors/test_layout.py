"""Code of two different trees is refused; the layouts that are legitimate pass."""

from pathlib import Path

import pytest

from actors.layout import RAY_PY_MODULES, check_layout, check_roots
from moss.errors import LayoutError


def make_tree(root: Path, moss_at: str = "platform/moss", content: str = "x = 1\n") -> Path:
    for name in ("actors", "jobs", moss_at):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(content, encoding="utf-8")
    return root


def check(root: Path, moss: Path) -> None:
    check_roots(moss=moss, actors=root / "actors", jobs=root / "jobs")


def test_this_checkout_passes() -> None:
    check_layout()


def test_a_checkout_passes(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    check(root, root / "platform" / "moss")


def test_an_installed_wheel_passes(tmp_path: Path) -> None:
    root = make_tree(tmp_path, moss_at="moss")
    check(root, root / "moss")


def test_a_submitted_job_passes_when_py_modules_equal_the_upload(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "working_dir_files" / "pkg")
    modules = make_tree(tmp_path / RAY_PY_MODULES / "pkg", moss_at="moss")
    check(root, modules / "moss")


def test_a_submitted_job_with_other_py_modules_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "working_dir_files" / "pkg")
    modules = make_tree(tmp_path / RAY_PY_MODULES / "pkg", moss_at="moss", content="x = 2\n")
    with pytest.raises(LayoutError, match="two different trees"):
        check(root, modules / "moss")


def test_moss_of_another_checkout_is_refused_and_the_flag_is_named(tmp_path: Path) -> None:
    root, other = make_tree(tmp_path / "mine"), make_tree(tmp_path / "other")
    with pytest.raises(LayoutError, match=r"--runtime-env platform/runtime_env\.yaml"):
        check(root, other / "platform" / "moss")


def test_actors_and_jobs_of_different_checkouts_are_refused(tmp_path: Path) -> None:
    mine, other = make_tree(tmp_path / "mine"), make_tree(tmp_path / "other")
    with pytest.raises(LayoutError, match="but actors from"):
        check_roots(moss=mine / "platform" / "moss", actors=other / "actors", jobs=mine / "jobs")
