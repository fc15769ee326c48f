"""MLflow and Weights & Biases as optional readers of a run's metrics.

A resumed run goes on in the same MLflow or W&B run. Nothing here ends a training run once it has
begun: see `Service`.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from moss import storage
from moss.config.tracking import MLflowConfig, TrackingConfig, WandbConfig
from moss.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from wandb import Run as WandbRun

MLFLOW_RUN_FILE = "mlflow.json"
_HTTP_TIMEOUT_S = "10"

logger = logging.getLogger(__name__)


class Service(Protocol):
    """Takes a run's metrics and texts."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step."""
        ...

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        """A table or other text of one step."""
        ...

    def close(self) -> None:
        """Send what is held back."""
        ...


def start_services(config: TrackingConfig, run_folder: str, *, run_id: str) -> list[Service]:
    """The services that a config chooses, ready for metrics.

    Raises:
        ConfigError: a package is not installed, or a service refuses to start.
    """
    started: list[Service] = []
    if config.mlflow is not None:
        chosen = config.mlflow
        started.append(_started("mlflow", lambda: MLflowService(chosen, run_folder, run_id=run_id)))
    if config.wandb is not None:
        settings = config.wandb
        started.append(_started("wandb", lambda: WandbService(settings, run_folder, run_id=run_id)))
    return started


class MLflowService:
    """One MLflow run; its id is kept in the run's folder."""

    def __init__(self, config: MLflowConfig, run_folder: str, *, run_id: str) -> None:
        # Read by MLflow when it sends; its own defaults would hold up an iteration for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _HTTP_TIMEOUT_S)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        tracking = _import("mlflow.tracking", package="mlflow-skinny")
        self._client: MlflowClient = tracking.MlflowClient(tracking_uri=config.tracking_uri)
        self._run = self._resumed_run(run_folder) or self._new_run(config, run_folder, run_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Every metric of a step."""
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=step)

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        """An artifact per step."""
        self._client.log_text(self._run, markdown, f"{tag}/{step:06d}.md")

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)

    def _resumed_run(self, run_folder: str) -> str | None:
        path = storage.join(run_folder, MLFLOW_RUN_FILE)
        if not storage.exists(path):
            return None
        stored = storage.read_json(path)
        run = str(stored["run_id"]) if isinstance(stored, dict) else ""
        self._client.update_run(run, status="RUNNING")
        return run

    def _new_run(self, config: MLflowConfig, run_folder: str, run_id: str) -> str:
        found = self._client.get_experiment_by_name(config.experiment)
        experiment = (
            found.experiment_id if found else self._client.create_experiment(config.experiment)
        )
        run = str(self._client.create_run(experiment, run_name=run_id).info.run_id)
        storage.write_json(storage.join(run_folder, MLFLOW_RUN_FILE), {"run_id": run})
        return run


class WandbService:
    """One W&B run; its id follows from the run's folder."""

    def __init__(self, config: WandbConfig, run_folder: str, *, run_id: str) -> None:
        wandb = _import("wandb", package="wandb")
        self._html = wandb.Html
        self._run: WandbRun = wandb.init(
            project=config.project,
            name=run_id,
            id=hashlib.sha256(run_folder.encode()).hexdigest()[:16],
            resume="allow",
            dir=run_folder,
            mode=config.mode,
            settings=wandb.Settings(init_timeout=60, console="off", quiet=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Every metric of a step."""
        self._run.log(dict(metrics), step=step)

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        """The text as it stands."""
        escaped = markdown.replace("&", "&amp;").replace("<", "&lt;")
        self._run.log({tag: self._html(f"<pre>{escaped}</pre>")}, step=step)

    def close(self) -> None:
        """Send what is held back; offline, flush it to disk."""
        self._run.finish()


class _Guarded:
    """A service whose failures are warned of once and then no longer asked for."""

    def __init__(self, name: str, service: Service) -> None:
        self._name = name
        self._service: Service | None = service

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._ask(lambda service: service.log(step, metrics))

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        self._ask(lambda service: service.log_text(step, tag, markdown))

    def close(self) -> None:
        self._ask(lambda service: service.close())

    def _ask(self, call: Callable[[Service], None]) -> None:
        if self._service is None:
            return
        try:
            call(self._service)
        except Exception as error:  # whatever a network service raises: it only watches
            self._service = None
            logger.warning(
                "%s failed (%s: %s) and gets nothing more of this run; metrics.jsonl holds "
                "everything", self._name, type(error).__name__, error,
            )  # fmt: skip


def guarded(name: str, service: Service) -> Service:
    """The service, whose failures are warned of once and end nothing."""
    return _Guarded(name, service)


def _started(name: str, start: Callable[[], Service]) -> Service:
    try:
        return guarded(name, start())
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise errors of many kinds
        raise ConfigError(
            f"tracking.{name} does not start ({type(error).__name__}: {error}); check its address "
            f"and credentials, or leave it out with tracking.{name}=null"
        ) from error


def _import(module: str, *, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        key = module.partition(".")[0]
        raise ConfigError(
            f"tracking.{key} is chosen, but {error.name!r} is not installed; install it with "
            f"`pip install {package}`, or leave it out with tracking.{key}=null"
        ) from error
