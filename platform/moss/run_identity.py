"""Whether a run folder belongs to a config, a stage and its inputs, and who its parents are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence

import yaml

from moss import storage
from moss.config.base import Config, StageConfig, dump_config, execution_paths
from moss.errors import ConfigError, ManifestError, StorageError
from moss.manifest import InputRun, Manifest, load_manifest
from moss.outputs import verify_outputs
from moss.redaction import find_secret

CONFIG_FILE = "config.yaml"


class Opened(Config):
    """Contents of `opened.json`: what a run folder was begun for."""

    stage: str
    config_digest: str
    inputs: dict[str, InputRun]


def run_folder(config: StageConfig) -> str:
    """Absolute folder of a config's run. Raises ConfigError for a run id that is not one name."""
    run_id = config.run_id
    if not run_id or run_id in (".", "..") or any(mark in run_id for mark in "/\\\0:"):
        raise ConfigError(
            f"run_id={run_id!r} must be one folder name, without slashes or colons; "
            "use the workspace for the folder above"
        )
    return storage.join(storage.absolute(config.workspace), run_id)


def shared_folder(path: str) -> str:
    """The absolute path of a checkpoint's or training run's folder, which every node mounts.

    Raises:
        ConfigError: an object store, which model files and memory-mapped data cannot be read from.
    """
    if storage.is_remote(path):
        raise ConfigError(
            f"checkpoints and training data are local folders, got {path}; put the workspace on a "
            "file system that all nodes mount"
        )
    return storage.absolute(path)


def describe_run(config: StageConfig, stage: str, inputs: Mapping[str, str]) -> Opened:
    """What a run of this config reads and is.

    Args:
        config: the stage's resolved config.
        stage: name of the stage.
        inputs: name -> folder of a finished run.

    Raises:
        ManifestError: an input is not finished, or its outputs were altered; says which input.
    """
    workspace = os.path.dirname(run_folder(config))
    return Opened(
        stage=stage,
        config_digest=content_digest(config),
        inputs={name: _input_run(workspace, name, path) for name, path in inputs.items()},
    )


def content_digest(config: StageConfig) -> str:
    """sha256 of the config without its `execution_keys`, hex."""
    content = config.model_dump(mode="json")
    for path in execution_paths(config):
        *sections, key = path.split(".")
        holder = content
        for section in sections:
            holder = holder[section]
        del holder[key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def refuse_secrets(config: StageConfig) -> None:
    """Raise ConfigError if the config holds a key or password; the message does not repeat it."""
    if secret := find_secret(dump_config(config)):
        raise ConfigError(
            f"the config of run {config.run_id!r} holds {secret}; secrets come from the "
            "environment or a file, so name that variable or file in the config instead"
        )


def refuse_other_run(folder: str, before: Opened, now: Opened, config: StageConfig) -> None:
    """Refuse to go on in a folder that was begun as another run.

    Raises:
        ConfigError: another stage, or other config values; names each key, old -> new.
        ManifestError: an input has other content than before; names it.
    """
    if before.stage != now.stage:
        raise ConfigError(
            f"{folder} belongs to a run of {before.stage}, not of {now.stage}; "
            "choose another --run-id"
        )
    if before.config_digest != now.config_digest:
        raise ConfigError(
            f"{folder} was made with another config: {_config_changes(folder, config)}. "
            "Choose another --run-id to keep it, or give --restart to delete it and start over"
        )
    moved = _moved_inputs(before.inputs, now.inputs)
    if moved:
        raise ManifestError(
            f"{folder} was begun from other inputs: {'; '.join(moved)}. "
            "Give --restart to make it again from the present ones"
        )


def parent_chain(folder: str) -> list[Manifest]:
    """The manifests of a run and of all it was made from: itself first, roots last, each once.

    Raises:
        ManifestError: a run without a valid manifest, or a parent whose content is not what its
            child read.
    """
    found: dict[str, Manifest] = {}
    for path, manifest in _ancestors(storage.absolute(folder)):
        found.pop(path, None)  # a run that is reached again moves behind its last child
        found[path] = manifest
    return list(found.values())


def _ancestors(folder: str) -> Iterator[tuple[str, Manifest]]:
    frontier = [(folder, load_manifest(folder))]
    while frontier:
        yield from frontier
        parents: dict[str, Manifest] = {}
        for child_path, child in frontier:
            for name, item in child.inputs.items():
                path = input_folder(child_path, item)
                parents[path] = _load_parent(child_path, name, path, item.digest)
        frontier = list(parents.items())


def _load_parent(child_path: str, name: str, path: str, digest: str) -> Manifest:
    try:
        parent = load_manifest(path)
    except ManifestError as error:
        raise ManifestError(f"input {name!r} of {child_path}: {error}") from error
    if parent.manifest_digest != digest:
        raise ManifestError(
            f"{child_path} was made from input {name!r} ({path}) with digest {digest[:12]}, but "
            f"that run now has {parent.manifest_digest[:12]}; run {child_path} again with --restart"
        )
    return parent


def _input_run(workspace: str, name: str, path: str) -> InputRun:
    folder = storage.absolute(path)
    try:
        manifest = verify_outputs(folder)
    except StorageError as error:
        raise ManifestError(f"input {name!r}: {error}") from error
    return InputRun(path=folder.removeprefix(workspace + "/"), digest=manifest.manifest_digest)


def input_folder(folder: str, item: InputRun) -> str:
    """Where an input of the run at `folder` lies."""
    if storage.is_remote(item.path) or item.path.startswith("/"):
        return item.path
    return storage.join(os.path.dirname(folder), item.path)


def _moved_inputs(before: Mapping[str, InputRun], now: Mapping[str, InputRun]) -> list[str]:
    moved = [f"{name!r} was read before, now is not" for name in before.keys() - now.keys()]
    moved += [f"{name!r} was not read before" for name in now.keys() - before.keys()]
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if old.digest != new.digest:
            moved.append(
                f"{name!r} changed from {old.path} ({old.digest[:12]}) "
                f"to {new.path} ({new.digest[:12]})"
            )
    return sorted(moved)


def _config_changes(folder: str, config: StageConfig) -> str:
    path = storage.join(folder, CONFIG_FILE)
    try:
        old = yaml.safe_load(storage.read_text(path))
    except (StorageError, ValueError, yaml.YAMLError) as error:
        return f"{path} cannot be compared ({error})"
    before, now = dict(_flatten(old)), dict(_flatten(config.model_dump(mode="json")))
    left_out = list(execution_paths(config))
    changes = [
        f"{key}: {before.get(key, 'absent')!r} -> {now.get(key, 'absent')!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, _ABSENT) != now.get(key, _ABSENT) and not _is_within(key, left_out)
    ]
    return "; ".join(changes) or f"{path} was edited by hand and no longer says which"


def _is_within(key: str, paths: Sequence[str]) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in paths)


_ABSENT = object()


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
