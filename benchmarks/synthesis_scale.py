"""A rehearsal of prompt synthesis at the paper's scale: flat memory, constant time per row.

Usage: python -m benchmarks.synthesis_scale [--rows 1000000] [--round-iterations 1250] [--folder F]

Runs the stage `synthesize_prompts` on a Ray cluster of its own, whole: Self-Instruct in rounds, Ray
Data callers with ledger and limits, deduplication, quotas, Parquet, report, manifest. Only the
endpoint is a stand-in (`benchmarks/instant_teacher.py`). A row is one prompt that the teacher
wrote, kept or not. At 10, 50 and 100 % of the rows it prints

- resident memory of the driver and of the largest worker, MiB: the peak within the tenth of the
  rows that ends there, less pages shared with other processes (the object store has a size of its
  own); writing the files, the report and the viewer, whose pages have a fixed size, stands apart
  (`driver_mib_finish`);
- microseconds per row over that tenth; the first begins with the first row, so that starting Ray's
  first workers is reported apart (`startup_s`).

The last line is one JSON object. Exit code 1: more than 20 % growth of memory from 10 to 100 %, or
more than 20 % between the slowest and the fastest of these three tenths, or another number of rows
kept than expected. Times are compared after division by how slow the machine itself was in that
tenth (`slowness_*`): a sampler does the same small piece of work twice a second throughout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from actors.caller import Stage
from actors.session import TeacherSession, teacher_session
from actors.synthesis import synthesize_prompts
from benchmarks import instant_teacher
from moss.config.synthesis import SynthesizePromptsConfig
from moss.lineage import Manifest, Run
from moss.recipes import Row
from moss.synthesis_inputs import load_prompt_seeds, load_red_team_rows

ROOT = Path(__file__).resolve().parents[1]
BUCKETS = {"helpfulness": ("en", "zh"), "honesty": ("en", "zh")}
NUM_BUCKETS = 4
MARKS = (10, 50, 100)
LIMIT = 1.2
SAMPLE_S = 0.5
OBJECT_STORE_BYTES = 200_000_000
MIB = 1 << 20


@dataclass
class Meter:
    """Time and memory by tenth of the rows."""

    num_expected: int
    num_rows: int = 0
    opened: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    """When the first row came."""
    ends: list[float] = field(default_factory=list)
    """When each tenth was done, seconds from the start."""
    rows_at: list[int] = field(default_factory=list)
    driver_mib: list[float] = field(default_factory=lambda: [0.0] * 11)
    """By tenth, and while the run is finished."""
    worker_mib: list[float] = field(default_factory=lambda: [0.0] * 11)
    same_work_s: list[list[float]] = field(default_factory=lambda: [[] for _ in range(11)])
    """By tenth: CPU seconds of the same small work, which tell how fast the machine was then."""
    finished: threading.Event = field(default_factory=threading.Event)

    def add(self, num_rows: int) -> None:
        """Count rows; notes the end of a tenth."""
        if num_rows and not self.num_rows:
            self.started = time.perf_counter()
        self.num_rows += num_rows
        while len(self.ends) < 9 and self.num_rows * 10 >= self.num_expected * (len(self.ends) + 1):
            self.end_tenth()

    def end_tenth(self) -> None:
        """The tenth that runs is over."""
        self.ends.append(time.perf_counter() - self.started)
        self.rows_at.append(self.num_rows)
        if len(self.ends) * 10 in MARKS:
            print(self.line(len(self.ends) * 10), flush=True)

    def sample_until_finished(self) -> None:
        """Keep the peaks; runs in a thread."""
        me = psutil.Process()
        while not self.finished.wait(SAMPLE_S):
            tenth = len(self.ends)
            self.driver_mib[tenth] = max(self.driver_mib[tenth], _private_mib(me))
            workers = [_private_mib(worker) for worker in _workers(me)]
            self.worker_mib[tenth] = max(self.worker_mib[tenth], *workers, 0.0)
            began = time.thread_time()
            _same_work()
            self.same_work_s[tenth].append(time.thread_time() - began)

    def slowness(self, mark: int) -> float:
        """Of the machine in the tenth that ends at `mark` percent, against its median."""
        everything = [seconds for tenth in self.same_work_s[:10] for seconds in tenth]
        return statistics.median(self.same_work_s[mark // 10 - 1]) / statistics.median(everything)

    def us_per_row(self, mark: int) -> float:
        """Over the tenth that ends at `mark` percent."""
        last = mark // 10 - 1
        seconds = self.ends[last] - (self.ends[last - 1] if last else 0.0)
        rows = self.rows_at[last] - (self.rows_at[last - 1] if last else 0)
        return seconds / max(rows, 1) * 1e6

    def line(self, mark: int) -> str:
        """What is printed at a mark."""
        last = mark // 10 - 1
        return (
            f"{mark:>3} %  {self.rows_at[last]:>9,} rows  {self.ends[last]:7.0f} s  "
            f"driver {self.driver_mib[last]:6.0f} MiB  worker {self.worker_mib[last]:6.0f} MiB  "
            f"{self.us_per_row(mark):6.0f} us/row"
        )


def _same_work() -> None:
    """A few milliseconds of what rows cost as well: JSON and hashes."""
    for number in range(100):
        text = json.dumps({"id": number, "texts": ["What is the height of this tower?"] * 8})
        hashlib.blake2b(json.dumps(json.loads(text)).encode()).hexdigest()


def _private_mib(process: psutil.Process) -> float:
    try:
        memory = process.memory_info()
        return float(memory.rss - memory.shared) / MIB
    except psutil.Error:
        return 0.0


def _workers(driver: psutil.Process) -> Iterator[psutil.Process]:
    for child in driver.children(recursive=True):
        try:
            if child.name().startswith("ray::") or child.cmdline()[:1][0].startswith("ray::"):
                yield child
        except (psutil.Error, IndexError):
            continue


def count_rows(session: TeacherSession, meter: Meter) -> None:
    """Let the meter see every answer of the session."""
    plain = session.stream

    def stream(
        rows: Iterable[Row], stages: Sequence[Stage], *, advance: bool = True
    ) -> Iterator[Row]:
        for row in plain(rows, stages, advance=advance):
            texts = row.get("texts")
            meter.add(len(texts) if isinstance(texts, list) else 0)
            yield row

    session.stream = stream  # type: ignore[method-assign]


def made_config(args: argparse.Namespace, workspace: str) -> SynthesizePromptsConfig:
    """A run whose quotas take about `args.rows` prompts of the stand-in to fill."""
    calls = args.rows // (NUM_BUCKETS * instant_teacher.PROMPTS)
    quota = calls * instant_teacher.FRESH
    return SynthesizePromptsConfig.model_validate(
        {
            "workspace": workspace,
            "run_id": "rehearsal",
            "quotas": {name: dict.fromkeys(of, quota) for name, of in BUCKETS.items()},
            "self_instruct": {"round_iterations": args.round_iterations},
            "teacher": {"base_url": "http://instant.invalid/v1", "num_callers": args.callers},
        }
    )


def run_stage(config: SynthesizePromptsConfig, meter: Meter) -> Manifest:
    """The stage as its job runs it, but for the endpoint."""
    with Run.open(config, "synthesize_prompts", inputs={}) as run:
        teacher = config.teacher
        with teacher_session(config, teacher, run, total=None, unit="prompts") as session:
            count_rows(session, meter)
            meter.opened = time.perf_counter()
            outcome = synthesize_prompts(
                config, session, seeds=load_prompt_seeds(config), red_team=load_red_team_rows()
            )
            meter.end_tenth()
            manifest = session.finish(run, outcome)
            finish_s = time.perf_counter() - meter.started - meter.ends[-1]
            print(f"files, report, viewer, manifest: {finish_s:.0f} s", flush=True)
            return manifest


def report(meter: Meter, manifest: Manifest, config: SynthesizePromptsConfig) -> dict[str, object]:
    """The last line; `faults` says what does not hold."""
    quota = sum(sum(of.values()) for of in config.quotas.values())
    repeats = quota // instant_teacher.FRESH * (instant_teacher.PROMPTS - instant_teacher.FRESH)
    select = manifest.counts["select"]
    times = [meter.us_per_row(mark) for mark in MARKS]
    slowness = [meter.slowness(mark) for mark in MARKS]
    steady = [taken / slow for taken, slow in zip(times, slowness, strict=True)]
    growth = [mib[9] / max(mib[0], 1.0) for mib in (meter.driver_mib, meter.worker_mib)]
    faults = []
    if (select.ok, select.filtered) != (quota, repeats):
        faults.append(
            f"kept {select.ok} and filtered {select.filtered}, expected {quota} and {repeats}"
        )
    if max(steady) > LIMIT * min(steady):
        faults.append(f"time per row differs by more than {LIMIT - 1:.0%}")
    if max(growth) > LIMIT:
        faults.append(f"memory grew by more than {LIMIT - 1:.0%}")
    values: dict[str, object] = {
        "rows": meter.num_rows,
        "kept": select.ok,
        "filtered": select.filtered,
        "skipped": select.skipped,
        "calls": manifest.counts["extend"].ok,
        "stand_in": True,
    }
    for name, tenths in (("driver_mib", meter.driver_mib), ("worker_mib", meter.worker_mib)):
        values |= {f"{name}_{mark}": round(tenths[mark // 10 - 1], 1) for mark in MARKS}
    values |= {f"us_per_row_{m}": round(t, 1) for m, t in zip(MARKS, times, strict=True)}
    values |= {f"slowness_{m}": round(s, 3) for m, s in zip(MARKS, slowness, strict=True)}
    values["driver_mib_finish"] = round(meter.driver_mib[10], 1)
    return values | {
        "time_ratio": round(max(steady) / min(steady), 3),
        "time_ratio_uncorrected": round(max(times) / min(times), 3),
        "memory_ratio": round(max(growth), 3),
        "startup_s": round(meter.started - meter.opened, 1),
        "stage_s": round(meter.ends[-1], 1),
        "total_s": round(time.perf_counter() - meter.started, 1),
        "faults": faults,
    }


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="prompts to generate")
    parser.add_argument(
        "--round-iterations",
        type=int,
        default=1250,
        help="Self-Instruct iterations (8 prompts each) per round",
    )
    parser.add_argument("--callers", type=int, default=1, help="caller actors")
    parser.add_argument("--folder", default=None, help="workspace; a temporary one if left out")
    args = parser.parse_args()
    # Workers are new processes: they find the packages by this.
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'platform'}"
    import ray

    instant_teacher.install()
    with tempfile.TemporaryDirectory(prefix="scale-", dir=args.folder) as workspace:
        config = made_config(args, workspace)
        meter = Meter(args.rows)
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env={"worker_process_setup_hook": "benchmarks.instant_teacher.install"},
        )
        threading.Thread(target=meter.sample_until_finished, daemon=True).start()
        try:
            manifest = run_stage(config, meter)
            values = report(meter, manifest, config)
        finally:
            meter.finished.set()
            ray.shutdown()
    print(json.dumps(values))
    return int(bool(values["faults"]))


if __name__ == "__main__":
    raise SystemExit(main())
