"""`cluster.yaml` passes Ray's own preparation and schema, and holds no key that Ray drops."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def schema() -> dict[str, Any]:
    file = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    loaded = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_ray_prepares_and_validates_it(raw: dict[str, Any]) -> None:
    validate_config(prepare_config(raw))


def test_the_raw_file_fits_rays_schema_before_ray_drops_legacy_keys(raw: dict[str, Any]) -> None:
    jsonschema.validate(raw, schema())


@pytest.mark.parametrize("key", ["min_workers", "max_wrokers"])
def test_a_legacy_or_mistyped_key_would_be_noticed(raw: dict[str, Any], key: str) -> None:
    raw[key] = 1
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.validate(raw, schema())


def test_the_head_does_no_work(raw: dict[str, Any]) -> None:
    head = raw["available_node_types"][raw["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0


def test_every_node_starts_ray_with_token_authentication(raw: dict[str, Any]) -> None:
    for commands in (raw["head_start_ray_commands"], raw["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_minimum_workers_fit_the_cluster_limit(raw: dict[str, Any]) -> None:
    minimum = sum(kind.get("min_workers", 0) for kind in raw["available_node_types"].values())
    assert minimum <= raw["max_workers"]


def test_every_node_mounts_the_workspace_into_its_container(raw: dict[str, Any]) -> None:
    assert any("mount -t nfs4" in command for command in raw["initialization_commands"])
    assert "--volume /shared:/shared" in raw["docker"]["run_options"]
