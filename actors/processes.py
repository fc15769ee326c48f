"""Ends exactly the processes that are ours: known by pid and start time, or by a marker."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import psutil

_CLOCK_TOLERANCE_S = 1.0


def same_process(pid: int, created_s: float) -> psutil.Process | None:
    """The live process with this pid and start time; None if it ended or the pid was reused.

    Args:
        created_s: start time in seconds since the epoch.
    """
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created_s) < _CLOCK_TOLERANCE_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def marked_processes(name: str, value: str) -> list[psutil.Process]:
    """Live processes of this user that were born with `name=value` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value:
                found.append(process)
        except psutil.Error:
            continue  # it ended meanwhile, or is another user's and so not ours
    return found


def end_head_and_members(
    head: psutil.Process | None,
    find_members: Callable[[], Iterable[psutil.Process]],
    *,
    timeout_s: float,
) -> bool:
    """Ask the head to end and so take its members along; kill what is left after `timeout_s`.

    Members without a head have nobody to tell them, so they are killed at once.

    Returns: whether there was anything to end.
    """
    members = _by_pid(find_members())
    if head is not None:
        _signal(head.terminate)
        members[head.pid] = head
    grace_s = timeout_s if head is not None else 0.0
    _, alive = psutil.wait_procs(list(members.values()), timeout=grace_s)
    # Members may have been born while the head went down, so look again.
    rest = _by_pid([*alive, *find_members()])
    for process in rest.values():
        _signal(process.kill)
    psutil.wait_procs(list(rest.values()), timeout=timeout_s)
    return bool(members)


def _by_pid(processes: Iterable[psutil.Process]) -> dict[int, psutil.Process]:
    return {process.pid: process for process in processes}


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return  # it ended by itself
