"""What a process and its children have used: processor time and the peaks of their memory."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moss import metrics as names

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process with its living children, since it started."""

    cpu_s: float
    """Processor seconds, those of children that ended included."""
    peak_bytes: int
    """Peak resident memory, summed over the processes: their peaks may lie apart."""
    gpu_peak_bytes: int
    """Peak that this process' torch held on its GPU; 0 without one."""


def measure_own_usage() -> Usage:
    """Of this process alone: for a driver, whose children may be a cluster with all its actors."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss * _KIB, _gpu_peak())


def measure_usage() -> Usage:
    """Of this process and its children, as of now."""
    import psutil

    me, own = psutil.Process(), measure_own_usage()
    ended = me.cpu_times()
    cpu_s = own.cpu_s + ended.children_user + ended.children_system
    peak_bytes = own.peak_bytes
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):  # it ended meanwhile
            times, peak = child.cpu_times(), _peak_of(child.pid)
            cpu_s += times.user + times.system
            peak_bytes += peak
    return Usage(cpu_s, peak_bytes, own.gpu_peak_bytes)


def usage_metrics(used: Iterable[Usage], *, gpu_s: float) -> dict[str, float]:
    """The cost of a run as named metrics.

    Args:
        used: of every process that worked for it.
        gpu_s: reserved GPUs times seconds.
    """
    used = list(used)
    return {
        names.COST_CPU: sum(one.cpu_s for one in used),
        names.COST_GPU: gpu_s,
        names.MEMORY_PEAK: float(sum(one.peak_bytes for one in used)),
        names.MEMORY_GPU_PEAK: float(sum(one.gpu_peak_bytes for one in used)),
    }


def _peak_of(pid: int) -> int:
    """Peak resident memory of another process, bytes (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] * _KIB if peaks else 0  # a kernel thread or zombie has none


def _gpu_peak() -> int:
    torch = sys.modules.get("torch")  # where it was never imported, nothing was held
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.max_memory_reserved())
