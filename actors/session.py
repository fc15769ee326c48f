"""What one run needs to ask its teacher through Ray: cluster, limiter, ledger, progress."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from actors.caller import CallerSetup, Stage, call_stage, stream_rows
from actors.cluster import connect
from actors.limiter import reach_limiter, start_budget
from moss import storage
from moss.config.synthesis import SynthesisConfig
from moss.config.teacher import TeacherConfig
from moss.endpoint import check_endpoint
from moss.errors import DataError
from moss.ledger import Ledger
from moss.ledger_compaction import compact
from moss.limits import Spend, price
from moss.lineage import Manifest, Run
from moss.progress import Progress
from moss.recipes import Recipe, Row, add_usage, take_usage, usage_usd
from moss.reporting.finish import finish_run
from moss.secret_keys import collect_keys
from moss.synthesis_rows import Outcome
from moss.teacher import Endpoint


class TeacherSession:
    """Carries rows through stages; keeps the sum of usage and the live line up to date."""

    def __init__(self, config: SynthesisConfig, setup: CallerSetup, progress: Progress) -> None:
        self.setup = setup
        self.progress = progress
        self.usage: dict[str, list[int]] = {}
        self._config = config
        self._num_failed = 0

    @property
    def teacher(self) -> TeacherConfig:
        """The teacher's config, base URL resolved."""
        return self.setup.teacher

    @property
    def endpoint(self) -> Endpoint:
        """What answers at it."""
        return self.setup.endpoint

    def ask(self, rows: Sequence[Row], recipe: Recipe, *, advance: bool = True) -> list[Row]:
        """Carry rows through one recipe; see `carry`."""
        return self.carry(rows, [self.call_stage(recipe)], advance=advance)

    def call_stage(self, recipe: Recipe) -> Stage:
        """A stage of callers of this run."""
        return call_stage(recipe, self.setup, self._config.caller)

    def carry(
        self, rows: Sequence[Row], stages: Sequence[Stage], *, advance: bool = True
    ) -> list[Row]:
        """All rows after all stages, in memory; see `stream`."""
        return list(self.stream(rows, stages, advance=advance))

    def stream(
        self, rows: Iterable[Row], stages: Sequence[Stage], *, advance: bool = True
    ) -> Iterator[Row]:
        """Rows after all stages, in order, as they finish; see `stream_rows` for further errors.

        Args:
            advance: count each finished row on the live line.

        Raises:
            DataError: every single row failed, so what follows would have nothing to work on.
        """
        statuses = _Statuses()
        for row in stream_rows(rows, stages, config=self._config.caller):
            add_usage(self.usage, take_usage([row]))
            statuses.count(row)
            self._num_failed += row.get("status") == "failed"
            usd = usage_usd(self.usage, self.teacher)
            self.progress.update(
                failed=self._num_failed,
                spend_usd=None if usd is None else float(usd),
                spend_tokens=sum(prompt + done for _, prompt, done in self.usage.values()),
            )
            if advance:
                self.progress.advance()
            yield row
        statuses.refuse_total_failure()

    def finish(self, run: Run, outcome: Outcome) -> Manifest:
        """Write files, report and manifest of the run; see `moss.reporting.finish`."""
        with Ledger(self.setup.ledger_folder) as ledger:
            bill = ledger.bill()
        return finish_run(
            self._config,
            run,
            outcome,
            teacher=self.teacher,
            stand_in=self.endpoint.stand_in,
            bill=bill,
        )


@dataclass(slots=True)
class _Statuses:
    """Of the rows of one stream."""

    num_rows: int = 0
    num_failed: int = 0
    first_failure: str = ""

    def count(self, row: Row) -> None:
        self.num_rows += 1
        if row.get("status") == "failed":
            self.num_failed += 1
            self.first_failure = (
                self.first_failure or f"step {row.get('step')!r}: {row.get('reason')}"
            )

    def refuse_total_failure(self) -> None:
        if self.num_rows and self.num_failed == self.num_rows:
            raise DataError(f"all {self.num_rows} rows failed, the first in {self.first_failure}")


@contextmanager
def teacher_session(
    config: SynthesisConfig,
    teacher: TeacherConfig,
    run: Run,
    *,
    total: int | None,
    unit: str,
    other_cpus: float = 0.0,
) -> Iterator[TeacherSession]:
    """A session while the block runs. The endpoint is checked before the cluster is touched.

    Args:
        teacher: `config.teacher` with its base URL resolved.
        total: units on the live line; None if unknown.
        other_cpus: what actors besides the callers hold.

    Raises:
        ConfigError, TeacherError: see `moss.endpoint.check_endpoint`.
        ResourceError: the cluster is too small.
    """
    endpoint = check_endpoint(teacher, config.models_asked())
    ledger_folder = ledger_beside(run.folder)
    num_cpus = config.caller.num_cpus * teacher.num_callers + other_cpus
    with (
        connect(num_cpus_needed=num_cpus, what=f"{config.run_id} with its callers"),
        Progress(config.run_id, total, unit, run.folder) as progress,
    ):
        compact(ledger_folder)
        reach_limiter(teacher)  # its process starts while the first blocks are made
        setup = CallerSetup(
            teacher=teacher,
            endpoint=endpoint,
            ledger_folder=ledger_folder,
            seed=config.seed,
            run=f"{config.run_id}-{uuid.uuid4().hex[:8]}",
            budget=(
                start_budget(teacher, *spent_so_far(ledger_folder, teacher))
                if teacher.is_capped
                else None
            ),
            keys=collect_keys([teacher.api_key_env]),
        )
        yield TeacherSession(config, setup, progress)


def ledger_beside(run_folder: str) -> str:
    """Where a run's ledger lies: beside the run, so that `--restart` pays nothing again."""
    workspace, _, run_id = run_folder.rpartition("/")
    return storage.join(workspace, "ledgers", run_id)


def spent_so_far(ledger_folder: str, teacher: TeacherConfig) -> tuple[Spend, Spend]:
    """What earlier attempts of the run paid, and what was in flight when they were killed.

    Both at today's prices, the second at its worst case.
    """
    with Ledger(ledger_folder) as ledger:
        bill = ledger.bill()
    whole, in_doubt = (
        sum(
            (price(model, prompt, done, teacher) for model, (_, prompt, done) in totals.items()),
            Spend(),
        )
        for totals in (bill.totals, bill.in_flight)
    )
    return whole - in_doubt, in_doubt
