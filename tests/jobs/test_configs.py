"""Every config we ship loads, and a mistyped key in any of them is named with the near one."""

import importlib
from pathlib import Path

import pytest
import yaml

from moss.config import StageConfig, config_digest, dump_config, load_config
from moss.config.base import Config
from moss.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
SHIPPED = sorted(CONFIGS.glob("*/*.yaml"))
IDS = [file.relative_to(CONFIGS).as_posix() for file in SHIPPED]


def config_class(file: Path) -> type[Config]:
    """What `jobs/<job>.py` exposes for `jobs/configs/<job>/*.yaml`."""
    found = importlib.import_module(f"jobs.{file.parent.name}").CONFIG_CLASS
    assert isinstance(found, type)
    assert issubclass(found, Config)
    return found


def test_there_are_configs_to_check() -> None:
    assert SHIPPED


def test_no_config_lies_beside_the_folders() -> None:
    assert not list(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=IDS)
def test_a_shipped_config_loads_and_survives_being_written(file: Path, tmp_path: Path) -> None:
    config = load_config(config_class(file), file)
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert config_digest(load_config(type(config), copy)) == config_digest(config)


@pytest.mark.parametrize("file", SHIPPED, ids=IDS)
def test_a_mistyped_key_is_refused_with_the_near_one(file: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    key = next(iter(data))
    swapped = key[:-2] + key[-1] + key[-2]
    data[swapped if swapped != key else f"{key}x"] = data[key]
    copy = tmp_path / "mistyped.yaml"
    copy.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"did you mean '{key}'"):
        load_config(config_class(file), copy)


@pytest.mark.parametrize("file", SHIPPED, ids=IDS)
def test_a_shipped_config_holds_no_secret_and_no_path_of_one_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "api_key:" not in text
    assert "/home/" not in text
    assert "/root/" not in text


@pytest.mark.parametrize("file", SHIPPED, ids=IDS)
def test_stages_of_one_size_share_a_workspace(file: Path) -> None:
    config = load_config(config_class(file), file)
    if isinstance(config, StageConfig) and file.stem == "tiny":
        assert config.workspace == "runs/tiny"
