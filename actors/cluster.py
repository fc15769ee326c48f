"""Connects a job to its Ray cluster and refuses one that is too small before any actor starts."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from actors.layout import check_layout
from moss.errors import ConfigError, ResourceError

ADDRESS_ENV = "RAY_ADDRESS"

OBJECT_STORE_BYTES = 1 << 30
"""Most shared memory a private instance takes; Ray's own default is 30 % of the machine."""

_MAX_TEMP_DIR_CHARS = 36
"""A Unix socket's path holds 107 characters, of which Ray's session folders take about 70."""

_PROBE_TIMEOUT_S = 10.0
_START_ATTEMPTS = 3
_RETRY_WAIT_S = 2.0
_REMOVE_TIMEOUT_S = 5.0
_REMOVE_RETRY_S = 0.05

_TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"

logger = logging.getLogger(__name__)


@contextmanager
def connect(*, num_cpus_needed: float, what: str, num_gpus_needed: float = 0.0) -> Iterator[None]:
    """Be connected to the cluster while the block runs.

    A submitted job, or a process with `RAY_ADDRESS` set, joins that cluster. Without it a private
    instance starts on this machine and ends with the block; a cluster that someone else runs here
    is never attached to by accident. A process that is connected already stays as it is.

    Args:
        num_cpus_needed: CPUs that the caller's actors and tasks hold at the same time.
        what: what needs them, for messages ("train_ppo with 4 actors").
        num_gpus_needed: likewise, GPUs.

    Raises:
        LayoutError: `moss`, `actors` and `jobs` come from different trees.
        ConfigError: `RAY_ADDRESS` is not an address that a driver can join.
        ResourceError: the cluster does not answer, does not start, or is too small.
    """
    check_layout()
    import ray

    needed = {"CPU": num_cpus_needed, "GPU": num_gpus_needed}
    if ray.is_initialized():
        check_resources(needed, what=what)
        yield
        return
    address = os.environ.get(ADDRESS_ENV, "")
    temp_dir = None if address not in ("", "local") else short_temp_dir()
    try:
        if temp_dir is None:
            _join(address)
        else:
            _start_private(temp_dir)
        check_resources(needed, what=what)
        yield
    finally:
        try:
            ray.shutdown()
        finally:  # a second signal may cut the shutdown short
            if temp_dir is not None:
                remove_folder(temp_dir)


def check_resources(needed: dict[str, float], *, what: str) -> None:
    """Compare what is needed with what the connected cluster has or may grow to.

    Raises:
        ResourceError: names each resource, what is needed and what there is.
    """
    import ray

    present = ray.cluster_resources()
    limits = _autoscaling_limits()
    short = [
        f"{amount:g} {name}, the cluster has {_available(name, present, limits)}"
        for name, amount in needed.items()
        if amount > max(present.get(name, 0.0), limits.get(name, 0.0))
    ]
    if short:
        alone = len(ray.nodes()) == 1 and not limits
        more = "use a larger machine" if alone else "add nodes, raise max_workers in cluster.yaml"
        raise ResourceError(
            f"{what} needs {'; '.join(short)}. Lower the number of workers in the config, or {more}"
        )


def short_temp_dir() -> str:
    """A fresh folder with a path short enough for Ray's sockets."""
    base = tempfile.gettempdir()
    if len(base) > _MAX_TEMP_DIR_CHARS - len("/moss-12345678"):
        base = "/tmp"
    return tempfile.mkdtemp(prefix="moss-", dir=base)


def remove_folder(folder: str) -> None:
    """Delete Ray's folder, also while processes that are just ending write into it."""
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while os.path.exists(folder) and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_REMOVE_RETRY_S)


def _join(address: str) -> None:
    import ray

    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{ADDRESS_ENV}={address} is the address of the Jobs API; submit the job there "
            f"(ray job submit --address {address} ...) or set {ADDRESS_ENV} to host:port"
        )
    host, _, port = address.rpartition(":")
    if port.isdigit() and "://" not in address:
        _probe(host, int(port), address)
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise ResourceError(
            f"the cluster at {ADDRESS_ENV}={address} did not let this job in ({error}). If it "
            "wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; else look whether its "
            "version of Ray is this one (`python -m jobs.doctor`)"
        ) from error


def _probe(host: str, port: int, address: str) -> None:
    """Ray waits for minutes where nothing listens; a plain connection tells at once."""
    try:
        socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise ResourceError(
            f"no Ray cluster answers at {ADDRESS_ENV}={address} within {_PROBE_TIMEOUT_S:g} s "
            f"({error}); start it, or unset {ADDRESS_ENV} for a private one on this machine"
        ) from error


def _start_private(temp_dir: str) -> None:
    """Start Ray here, in several attempts: a busy machine misses its fixed limit of 30 s."""
    import ray

    logging.getLogger(_TOKEN_LOGGER).addFilter(_is_worth_saying)
    object_store_bytes = min(OBJECT_STORE_BYTES, int(psutil.virtual_memory().total * 0.3))
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                logging_level=logging.WARNING,
                _temp_dir=temp_dir,
            )
            return
        except Exception as error:  # Ray raises a bare Exception when a node is late
            ray.shutdown()
            if attempt == _START_ATTEMPTS:
                raise ResourceError(
                    f"Ray did not start on this machine in {_START_ATTEMPTS} attempts: {error}. "
                    "Check free memory and load (python -m jobs.doctor)"
                ) from error
            logger.warning("Ray did not start (%s); trying once more", error)
            time.sleep(_RETRY_WAIT_S)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """False for Ray's warning that it made a token: a private instance should have one.

    `RAY_AUTH_MODE=token` would silence it too, but only when set before Ray is imported.
    """
    return not record.getMessage().startswith("Token authentication is enabled")


def _autoscaling_limits() -> dict[str, float]:
    """What an autoscaling cluster may grow to; empty for one of fixed size."""
    from ray._private.state import state  # the public API has no reader for these limits

    limits = state.get_max_resources_from_cluster_config()
    return {name: float(amount) for name, amount in (limits or {}).items()}


def _available(name: str, present: dict[str, float], limits: dict[str, float]) -> str:
    now = f"{present.get(name, 0.0):g}"
    return f"{now} and may grow to {limits[name]:g}" if name in limits else now
