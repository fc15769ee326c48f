"""Configuration of `python -m jobs.doctor`: what this machine must offer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from moss.config.base import StageConfig
from moss.config.teacher import TeacherConfig

GIB = 1024**3


class DoctorConfig(StageConfig):
    """Report versions, resources, endpoint, storage and cluster, and what to do about problems."""

    reads_any_storage: ClassVar[bool] = True

    run_id: str = "doctor"
    """Unused: the doctor leaves nothing behind."""
    min_cores: int = Field(2, ge=1)
    min_memory_bytes: int = Field(8 * GIB, gt=0)
    """Memory that must be available now, within this container's limit."""
    min_disk_bytes: int = Field(5 * GIB, gt=0)
    """Free space where a local workspace lies."""
    min_shm_bytes: int = Field(GIB, gt=0)
    """Size of /dev/shm, in which Ray's object store and weight pushes live."""
    teacher: TeacherConfig = TeacherConfig()
    jobs_address: str | None = None
    """Jobs API of a cluster (http://head:8265). None: `RAY_API_SERVER_ADDRESS`, else none."""
    timeout_s: float = Field(10.0, gt=0)
    """Longest wait for one answer of the cluster's Jobs API."""
