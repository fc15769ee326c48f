"""The folders keep the shape that Python, Ray and pytest need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["platform/__init__.py", "platform.py", "tests/platform"])
def test_nothing_shadows_the_platform_module_of_the_standard_library(name: str) -> None:
    assert not (ROOT / name).exists()


def test_the_standard_librarys_platform_is_found_from_the_root() -> None:
    code = "import platform; print(platform.system())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "Linux", done.stderr


def test_no_test_folder_is_a_package_that_could_shadow_a_package_of_ours() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    env = {**os.environ, "PYTHONPATH": ".:platform"}
    done = subprocess.run([program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("layer", ["actors", "jobs", "serve"])
def test_every_layer_is_a_package(layer: str) -> None:
    assert (ROOT / layer / "__init__.py").is_file()
