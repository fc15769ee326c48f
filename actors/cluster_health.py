"""Whether a Ray cluster can be reached, and whether it asks for a token."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from actors.cluster import ADDRESS_ENV, connect
from moss.errors import MossError
from moss.health import Finding, installed_version

JOBS_ADDRESS_ENV = "RAY_API_SERVER_ADDRESS"

_TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that holds the cluster's token"
)


def check_jobs_api(address: str | None, *, timeout_s: float) -> list[Finding]:
    """Reach the Jobs API with and without our token.

    Args:
        address: http://head:8265; `RAY_API_SERVER_ADDRESS` when None, and nothing is looked at
            when that is unset too.
    """
    address = address or os.environ.get(JOBS_ADDRESS_ENV)
    if not address:
        return []
    subject = f"Jobs API {address}"
    try:
        anonymous = _status(address, None, timeout_s)
        token = read_token()
        status = _status(address, token, timeout_s) if token else anonymous
    except httpx.HTTPError as error:
        remedy = "start the cluster, open its dashboard port, or correct the address"
        return [Finding(subject, "problem", f"does not answer: {error}", remedy)]
    if status in (401, 403):
        found = "refuses our token" if token else "asks for a token and there is none here"
        return [Finding(subject, "problem", found, _TOKEN_REMEDY)]
    if status != 200:
        remedy = "check that the address is a Ray dashboard"
        return [Finding(subject, "problem", f"answers HTTP {status}", remedy)]
    return [Finding(subject, "ok", "answers"), _auth_finding(is_open=anonymous == 200)]


def check_cluster() -> list[Finding]:
    """Join the cluster of `RAY_ADDRESS`, or of the job that runs us, and count what it has."""
    address = os.environ.get(ADDRESS_ENV)
    if not address:
        found = f"{ADDRESS_ENV} is not set; each job starts a private instance here"
        return [Finding("Ray cluster", "ok", found)]
    try:
        with connect(num_cpus_needed=0, what="doctor"):
            found = _describe_cluster()
    except (MossError, ConnectionError, RuntimeError) as error:
        remedy = f"correct or unset {ADDRESS_ENV}; {_TOKEN_REMEDY} if the cluster uses one"
        return [Finding(f"Ray cluster {address}", "problem", str(error), remedy)]
    token_mode = os.environ.get("RAY_AUTH_MODE") == "token"
    return [Finding("Ray cluster", "ok", found), _auth_finding(is_open=not token_mode)]


def read_token() -> str | None:
    """The token that Ray's clients would send, by Ray's order: variable, file, home."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _status(address: str, token: str | None, timeout_s: float) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{address.rstrip('/')}/api/jobs/"
    return httpx.get(url, headers=headers, timeout=timeout_s).status_code


def _auth_finding(*, is_open: bool) -> Finding:
    if not is_open:
        return Finding("token authentication", "ok", "on")
    return Finding(
        "token authentication",
        "warning",
        "off: whoever reaches the cluster's ports can run code on it",
        "start the cluster with RAY_AUTH_MODE=token (see cluster.yaml)",
    )


def _describe_cluster() -> str:
    import ray

    total = ray.cluster_resources()
    num_nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    return (
        f"Ray {installed_version('ray')}, {num_nodes} nodes, {total.get('CPU', 0):g} CPUs, "
        f"{total.get('GPU', 0):g} GPUs"
    )
