"""Walks a planned road on a cluster and reports how it ended; see `jobs.run_road`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import yaml

from actors.layout import check_layout
from jobs.open_page import open_page
from jobs.road_plan import RoadPlan, check_machine, downstream, service_url
from jobs.road_services import DRIVER, ROOT, RoadServices, python_path
from jobs.teacher_session import BASE_URL_ENV
from moss import storage
from moss.config.road import RoadConfig
from moss.errors import MossError
from moss.lineage import discard_run
from moss.road import Road, road_id
from moss.road_records import ProcessRecord, RoadLock, record_folder
from moss.road_runs import StageView, finished_view
from moss.road_table import ChangeLines, LiveTable, print_stages

if TYPE_CHECKING:
    from actors.road_jobs import RoadJobs

RUNTIME_ENV = ROOT / "platform" / "runtime_env.yaml"


def walk(config: RoadConfig, *, restart: Sequence[str] = ()) -> None:
    """Check everything, run what is not finished, print the evaluation and the chat address.

    Args:
        restart: run ids that are made again, with all that need them.

    Raises:
        MossError: what is wrong before anything starts, or `StageFailedError`.
    """
    check_layout()
    plan = make_plan(config)
    folder = record_folder(plan.workspace, config.run_id, plan.name)
    with RoadLock(folder), _interrupted_by_sigterm():
        services = RoadServices(config, folder, say=print)
        services.records.add(DRIVER, ProcessRecord.of(os.getpid()))
        try:
            for run_id in restart:
                for stage in downstream(plan.road.stages, run_id):
                    discard_run(plan.folder(stage))
            plan.skip_finished()
            if plan.road.complete:
                print_stages(f"road {plan.name}: all finished earlier", views(plan))
            else:
                _run_stages(plan, services)
        finally:
            services.end_teacher()
            services.records.remove(DRIVER)
    print_results(plan)


def show_plan(config: RoadConfig) -> None:
    """Print the stages in order, those that are finished already marked, and start nothing."""
    plan = make_plan(config)
    plan.skip_finished()
    print_stages(f"road {plan.name} in {plan.workspace}", views(plan))
    for stage in plan.road.in_state("waiting"):
        print(plan.entrypoint(stage))


def stop(config: RoadConfig) -> None:
    """End what the road started on this machine."""
    workspace = storage.absolute(config.workspace)
    folder = record_folder(workspace, config.run_id, road_id(config.run_id, workspace))
    ended = RoadServices(config, folder, say=lambda _: None).stop()
    print("ended: " + ", ".join(ended) if ended else "nothing of this road was running")


def make_plan(config: RoadConfig) -> RoadPlan:
    """The road with its stages' configs; stages elsewhere use that cluster's own Python."""
    return RoadPlan(config, python=sys.executable if config.address is None else "python")


def views(plan: RoadPlan) -> list[StageView]:
    """Rows of a road of which nothing runs."""
    rows = []
    for stage in plan.road.stages:
        state = plan.road.state(stage.run_id)
        manifest = plan.manifest(stage) if state in ("done", "skipped") else None
        rows.append(
            finished_view(stage.run_id, stage.job, state, manifest)
            if manifest
            else StageView(stage.run_id, stage.job, state)
        )
    return rows


def _run_stages(plan: RoadPlan, services: RoadServices) -> None:
    config = plan.config
    env = {"PYTHONUNBUFFERED": "1"}
    if config.address is None:
        check_machine(config, plan.workspace)
    if plan.road.teacher_needed:
        env[BASE_URL_ENV] = services.teacher().base_url or ""
    if config.address is None:
        address, runtime_env = services.cluster().dashboard_url, {}
        env["PYTHONPATH"] = python_path()
    else:
        address, runtime_env = config.address, uploaded_runtime_env()
    jobs = _connect(plan, address, runtime_env)
    from actors.road_controller import RoadController

    def end_unneeded(road: Road) -> None:
        if not road.teacher_needed:
            services.end_teacher()

    title = f"road {plan.name} on {address}"
    with LiveTable(title) if sys.stdout.isatty() else ChangeLines(sys.stdout) as display:
        controller = RoadController(
            plan.road, jobs, plan, config=config, name=plan.name, env=env,
            display=display, on_change=end_unneeded,
        )  # fmt: skip
        try:
            controller.run()
        except BaseException:
            with suppress(MossError):  # the first error says more than a cluster that is gone
                controller.stop_running()
            raise


def _connect(plan: RoadPlan, address: str, runtime_env: dict[str, object]) -> RoadJobs:
    from actors.road_jobs import RoadJobs  # Ray reads the cluster's token settings when imported

    return RoadJobs(
        address,
        runtime_env=runtime_env,
        entrypoint_num_cpus=plan.config.entrypoint_num_cpus,
        request_timeout_s=plan.config.request_timeout_s,
    )


def uploaded_runtime_env() -> dict[str, object]:
    """`platform/runtime_env.yaml` with this checkout as working directory, paths made absolute."""
    declared = yaml.safe_load(RUNTIME_ENV.read_text(encoding="utf-8"))
    modules = [str(ROOT / module) for module in declared["py_modules"]]
    return {**declared, "py_modules": modules, "working_dir": str(ROOT)}


def print_results(plan: RoadPlan) -> None:
    """The evaluation's table, and where the chat page is."""
    from moss.evaluation.report import load_report, print_report, report_console

    for stage in plan.road.stages:
        if stage.job == "evaluate":
            path = storage.join(plan.folder(stage), "report.json")
            print_report(load_report(path), report_console())
            print(f"full report: {storage.join(plan.folder(stage), 'report.html')}")
    for stage in plan.road.stages:
        if stage.kind == "service":
            served = plan.manifest(stage)
            url = service_url(plan.folder(stage), served.model_name) if served else None
            print(f"chat page: {url or 'does not answer; run the road again to deploy it'}")
            if url and plan.config.open_page:
                open_page(url, os.environ)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the road as Ctrl-C does, so that its stages are stopped."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
