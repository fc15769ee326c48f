"""Loads every stage of a road and checks all that can be checked before anything starts."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import httpx
import psutil

from jobs.entry import config_path
from moss import storage
from moss.config.base import StageConfig, load_config
from moss.config.road import RoadConfig, StagePlan
from moss.config.teacher import PAPER_MODELS
from moss.errors import ConfigError, ManifestError, MossError, ResourceError
from moss.manifest import Manifest, is_finished
from moss.road import Road, check_references, road_id
from moss.road_runs import finished_manifest
from moss.run_identity import run_folder

GIB = 1024**3
SERVICE_FILE = "service.json"
"""Written by a service's job: `url` of what it deployed."""
SERVICE_TIMEOUT_S = 10.0


class RoadPlan:
    """A road with the resolved config of each stage; implements the controller's `RoadRuns`.

    Args:
        config: the road.
        python: interpreter of the stages on the cluster.

    Raises:
        ConfigError: an unknown job, a stage's config that is wrong, a need that names nothing, or a
            cycle; names the stage.
    """

    def __init__(self, config: RoadConfig, *, python: str) -> None:
        self.config = config
        self.workspace = storage.absolute(config.workspace)
        self.name = road_id(config.run_id, self.workspace)
        self._python = python
        self.configs = {stage.run_id: self._load(stage) for stage in config.stages}
        needs = {need for stage in config.stages for need in stage.needs}
        known = [need for need in needs if is_finished(storage.join(self.workspace, need))]
        self.road = Road(config.stages, known)
        plain = {run_id: item.model_dump(mode="json") for run_id, item in self.configs.items()}
        for values in plain.values():
            values.pop("run_id")
        check_references(config.stages, plain)

    def manifest(self, stage: StagePlan) -> Manifest | None:
        """The manifest, if the run is finished; see `moss.road_runs.finished_manifest`.

        A service is finished only while it answers.
        """
        manifest = finished_manifest(self.configs[stage.run_id], stage.job)
        if stage.kind == "service" and manifest is not None:
            return manifest if service_url(self.folder(stage), manifest.model_name) else None
        return manifest

    def skip_finished(self) -> None:
        """Skip the stages that an earlier road finished.

        Raises:
            ConfigError, ManifestError: a finished run that was made otherwise, or is damaged.
        """

        def is_finished(stage: StagePlan) -> bool:
            try:
                return self.manifest(stage) is not None
            except (ConfigError, ManifestError) as error:
                hint = f"(in a road: --restart-from {stage.run_id})"
                raise type(error)(f"{error} {hint}") from error

        self.road.skip_finished(is_finished)

    def folder(self, stage: StagePlan) -> str:
        """The run's folder."""
        return run_folder(self.configs[stage.run_id])

    def entrypoint(self, stage: StagePlan) -> str:
        """Shell command that runs the stage."""
        flags = ["--config", stage.config, "--run-id", stage.run_id, "--workspace", self.workspace]
        for override in self._overrides(stage):
            flags += ["--set", override]
        return shlex.join([self._python, "-m", f"jobs.{stage.job}", *flags])

    def _overrides(self, stage: StagePlan) -> list[str]:
        """What the road sets of the stage's config; the stage's own `set` comes last and wins."""
        values: dict[str, object] = {}
        if stage.uses_teacher:
            teacher = self.config.teacher
            given = teacher.model_fields_set - {"base_url", "models"}
            values = dict(teacher.model_dump(mode="json", include=given))
            for role, name in teacher.models.items():
                if name != PAPER_MODELS[role]:  # what a stage names itself stays for other roles
                    values[f"models.{role}"] = name
        values = {f"teacher.{key}": value for key, value in values.items()} | stage.set
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

    def _load(self, stage: StagePlan) -> StageConfig:
        try:
            module = importlib.import_module(f"jobs.{stage.job}")
        except ModuleNotFoundError as error:
            if error.name != f"jobs.{stage.job}":
                raise
            raise ConfigError(
                f"stage {stage.run_id}: there is no job {stage.job!r} in jobs/"
            ) from None
        config_class = _config_class(module)
        if config_class is None:
            raise ConfigError(
                f"stage {stage.run_id}: jobs/{stage.job}.py is no stage, it has no "
                "run_stage(config)"
            )
        overrides = [
            *self._overrides(stage),
            f"run_id={json.dumps(stage.run_id)}",
            f"workspace={json.dumps(self.workspace)}",
        ]
        try:
            return load_config(config_class, config_path(stage.job, stage.config), overrides)
        except MossError as error:
            raise ConfigError(f"stage {stage.run_id} ({stage.job}): {error}") from error


def service_url(folder: str, model_name: str | None) -> str | None:
    """Address of the service that a run deployed, if it is ready there with that model."""
    path = storage.join(folder, SERVICE_FILE)
    if not storage.exists(path):
        return None
    record = storage.read_json(path)
    url = str(record.get("url", "")) if isinstance(record, dict) else ""
    try:
        answer = httpx.get(f"{url}/ready", timeout=SERVICE_TIMEOUT_S, trust_env=False)
        served = answer.json().get("model") if answer.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError):
        return None  # nothing answers there, or something else does
    return url if served is not None and served == model_name else None


def downstream(stages: Sequence[StagePlan], run_id: str) -> list[StagePlan]:
    """A stage and all that need it, directly or not; the last ones first.

    Raises:
        ConfigError: no stage has that run id.
    """
    if run_id not in {stage.run_id for stage in stages}:
        known = ", ".join(stage.run_id for stage in stages)
        raise ConfigError(f"--restart {run_id!r} names no stage; stages: {known}")
    below = {run_id}
    while True:
        found = {stage.run_id for stage in stages if below.intersection(stage.needs)} | below
        if found == below:
            return [stage for stage in reversed(stages) if stage.run_id in below]
        below = found


def check_machine(config: RoadConfig, workspace: str) -> None:
    """Refuse a machine without the memory or disk that the local cluster needs.

    Raises:
        ResourceError: says what is needed and what there is.
    """
    free_bytes = psutil.virtual_memory().available
    if free_bytes < config.cluster.min_memory_bytes:
        raise ResourceError(
            f"this road needs {config.cluster.min_memory_bytes / GIB:.1f} GiB of free memory, this "
            f"machine has {free_bytes / GIB:.1f}; end other programs, or give --address of a "
            "cluster"
        )
    if storage.is_remote(workspace):
        return
    Path(workspace).mkdir(parents=True, exist_ok=True)
    disk_bytes = shutil.disk_usage(workspace).free
    if disk_bytes < config.cluster.min_disk_bytes:
        raise ResourceError(
            f"this road needs {config.cluster.min_disk_bytes / GIB:.1f} GiB of free disk in "
            f"{workspace}, there are {disk_bytes / GIB:.1f}; free some, or give another --workspace"
        )


def _config_class(module: ModuleType) -> type[StageConfig] | None:
    """What a job's `run_stage(config: X)` takes; None if the module is no stage."""
    body = getattr(module, "run_stage", None)
    found = get_type_hints(body).get("config") if body else None
    return found if isinstance(found, type) and issubclass(found, StageConfig) else None
