"""Configuration of a road: which stages run, on which cluster, with which teacher."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from moss.config.base import Config, StageConfig
from moss.config.teacher import TeacherConfig

RUN_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class StagePlan(Config):
    """One stage of the road: a job, its config and the runs it waits for."""

    job: str = Field(pattern=r"^[a-z][a-z_]*$")
    """Module under `jobs/`, such as `train_sft`."""
    run_id: str = Field(pattern=RUN_ID_PATTERN)
    """Name of the run in the workspace; for a checkpoint, the model's name."""
    config: str = "tiny"
    """Name under `jobs/configs/<job>/`, or a path to a YAML file."""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """Overrides of the config, dotted key to value."""
    needs: tuple[str, ...] = ()
    """Run ids that must be finished first."""
    uses_teacher: bool = False
    """True if the stage calls the LLM endpoint; the offline teacher ends after the last of them."""
    kind: Literal["batch", "service"] = "batch"
    """A `service` stage is finished while what it deployed answers, not for ever."""
    timeout_s: float = Field(1800.0, gt=0)
    """Longest a running stage may take before the road stops it."""


class LocalClusterConfig(Config):
    """The cluster that a road starts on this machine when no address is given."""

    num_cpus: int = Field(2, ge=1)
    """CPUs the cluster offers; more than the machine has is allowed, stages then take turns."""
    object_store_memory_bytes: int = Field(300_000_000, ge=80_000_000)
    start_timeout_s: float = Field(180.0, gt=0)
    """Longest to wait for the cluster and its Jobs API."""
    min_memory_bytes: int = Field(4 * 1024**3, ge=0)
    """Memory that must be free before the cluster starts."""
    min_disk_bytes: int = Field(2 * 1024**3, ge=0)
    """Free disk that the workspace must have."""


class RoadConfig(StageConfig):
    """The whole road: submit every stage to a Ray cluster, in order, resumably."""

    run_id: str = Field("road", pattern=RUN_ID_PATTERN)
    """Folder of the road's own records; every node must reach the workspace that holds it."""
    address: str | None = None
    """Jobs API of a Ray cluster (http://head:8265). None starts a cluster on this machine."""
    cluster: LocalClusterConfig = LocalClusterConfig()
    teacher: TeacherConfig = TeacherConfig()
    """Endpoint of every stage. No base_url here or in TEACHER_BASE_URL: the offline teacher. What
    else is set here (prices, limits, models other than the paper's) holds in each stage that calls
    it, a budget too."""
    teacher_start_timeout_s: float = Field(90.0, gt=0)
    """Longest to wait for the offline teacher to answer."""
    stages: tuple[StagePlan, ...] = Field(min_length=1)
    max_parallel_stages: int = Field(1, ge=1)
    max_attempts: int = Field(2, ge=1)
    """How often a stage that crashed is started; one that reported a clear error is not retried."""
    entrypoint_num_cpus: float = Field(0.01, ge=0)
    """CPU share of a stage's driver; its actors ask for their own."""
    poll_interval_s: float = Field(0.5, gt=0)
    request_timeout_s: float = Field(60.0, gt=0)
    """Longest to wait for one answer of the Jobs API."""
    num_log_lines: int = Field(30, ge=1)
    """Lines of a failed stage's log that are shown."""
    open_page: bool = True
    """Open the chat page in a browser at the end, where standard output is a terminal of a machine
    with a screen."""

    @model_validator(mode="after")
    def run_ids_are_unique(self) -> Self:
        """Two stages must not share a run folder."""
        counts = Counter([self.run_id, *(stage.run_id for stage in self.stages)])
        twice = [run_id for run_id, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"run_id {', '.join(twice)} is used twice; rename one")
        return self
