"""Look at this machine, the endpoint, the storage and the cluster before long work starts.

Usage: python -m jobs.doctor --config tiny [--workspace s3://bucket/road]
Exit code 1 if anything would stop a stage; each problem is printed with what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.entry import build_parser, guarded, resolve_config
from moss.config.doctor import DoctorConfig

if TYPE_CHECKING:
    from moss.health import Finding

CONFIG_CLASS = DoctorConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    flags = build_parser("doctor", CONFIG_CLASS, owns_run=False).parse_args(argv)
    findings: list[Finding] = []

    def work() -> None:
        findings.extend(examine(resolve_config("doctor", CONFIG_CLASS, flags)))

    code = guarded("doctor", work)
    for finding in findings:
        print(finding.as_text())
    return code or int(any(finding.level == "problem" for finding in findings))


def examine(config: DoctorConfig) -> list[Finding]:
    """All findings, in the order in which a reader wants them."""
    from actors.cluster_health import check_cluster, check_jobs_api
    from jobs.teacher_session import configured_base_url
    from moss import health

    base_url = configured_base_url(config.teacher)
    root = Path(__file__).resolve().parent.parent
    return [
        *health.check_versions(health.read_constraints(root)),
        *health.check_resources(config),
        *health.check_compilers(),
        *health.check_sandbox(),
        *health.check_storage(config.workspace),
        *health.check_working_dir(root),
        *health.check_teacher(config.teacher, base_url),
        *check_jobs_api(config.jobs_address, timeout_s=config.timeout_s),
        *check_cluster(),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
