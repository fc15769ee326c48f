"""The port that the service listens on: whether it is free, asked before anything starts.

Ray Serve's proxy would find out after the cluster has started, or, where another proxy of Ray's has
the port, share it: the kernel then spreads the clients over both services.
"""

from __future__ import annotations

import socket

import ray

from moss.config.serve import HttpConfig
from moss.errors import ConfigError, WaitTimeoutError

HEAD_NODE = "node:__internal_head__"
"""Resource that only the head node has, where the proxy runs."""
_HEAD_TIMEOUT_S = 60.0


def free_port(http: HttpConfig) -> int:
    """`http.port` if nobody has it on this machine; any free port for 0.

    Raises:
        ConfigError: it cannot be had; says why and what to set instead.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    try:
        # Connections of a service that has just ended do not hold the port; a listener does.
        with socket.create_server((http.host, http.port), family=family) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"http.port={http.port} cannot be had on http.host={http.host} ({error.strerror}): if "
            "another program or an earlier service listens there, stop that, or take another "
            f"port: --set http.port={_another(http.port)} (0 takes any free one)"
        ) from error


def free_port_of_head(http: HttpConfig) -> int:
    """`free_port` on the head node of the connected cluster.

    Raises:
        ConfigError: see `free_port`.
        WaitTimeoutError: the head node did not say in time.
    """
    ask = ray.remote(free_port).options(num_cpus=0, resources={HEAD_NODE: 0.001}, max_retries=0)
    answer = ask.remote(http)
    try:
        return int(ray.get(answer, timeout=_HEAD_TIMEOUT_S))
    except ray.exceptions.GetTimeoutError as error:
        raise WaitTimeoutError(
            f"the head node did not say within {_HEAD_TIMEOUT_S:g} s whether http.port={http.port} "
            "is free there; look at `ray status`, and run the job again"
        ) from error
    except ray.exceptions.RayTaskError as error:
        raise ConfigError(str(error.cause)) from error


def _another(port: int) -> int:
    return port + 1 if port < 65_535 else port - 1
