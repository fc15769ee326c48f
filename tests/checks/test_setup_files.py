"""The files that make an environment agree with each other and name no machine."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXACT = re.compile(r"^[a-z0-9][a-z0-9-]*==[0-9][A-Za-z0-9.]*$")


def lines_of(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def requirement_names() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    return {re.split(r"[\[<>=]", item, maxsplit=1)[0].lower() for item in listed}


def test_every_constraint_is_one_exact_public_version() -> None:
    assert [line for line in lines_of("constraints.txt") if not EXACT.match(line)] == []


def test_every_direct_dependency_has_an_exact_version() -> None:
    constrained = {line.partition("==")[0] for line in lines_of("constraints.txt")}
    assert requirement_names() - constrained == set()


def test_packages_dropped_by_the_overrides_are_not_constrained() -> None:
    dropped = {line.partition(" ;")[0] for line in lines_of("overrides-cpu.txt")}
    constrained = {line.partition("==")[0] for line in lines_of("constraints.txt")}
    assert dropped == {"torchvision", "torchaudio", "torchcodec"}
    assert dropped & constrained == set()


@pytest.mark.parametrize("target", ["demo", "stop", "test", "check", "clean-runs"])
def test_the_makefile_has_the_promised_targets(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("script", ["run", "setup", "check", "test"])
def test_ci_scripts_stop_at_the_first_unset_variable_and_are_executable(script: str) -> None:
    file = ROOT / ".ci" / script
    assert file.stat().st_mode & 0o111
    assert re.search(r"^set -[eu]*uo pipefail$", file.read_text(encoding="utf-8"), re.MULTILINE)
