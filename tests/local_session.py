"""A teacher session without Ray: the stages' own code, with every row carried in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from actors.caller import ROW, Stage, as_batch
from moss.config.synthesis import SynthesisConfig
from moss.endpoint_limits import RunLimits
from moss.ledger import Ledger
from moss.limits import Budget
from moss.lineage import Manifest, Run
from moss.local_limits import LocalLimits
from moss.recipes import Recipe, Row, add_usage, apply_recipe, take_usage
from moss.reporting.finish import finish_run
from moss.synthesis_rows import Outcome
from moss.teacher import Endpoint, Teacher

if TYPE_CHECKING:
    from actors.session import TeacherSession


class _NoProgress:
    def update(self, **_: object) -> None:
        """Nothing to show."""


class LocalSession:
    """What the stages use of `actors.session.TeacherSession`."""

    def __init__(
        self, config: SynthesisConfig, ledger_folder: str, *, owner: str = "s", seed: int = 42
    ) -> None:
        self.teacher = config.teacher
        self.endpoint = Endpoint(owner, stand_in=True)
        self.progress = _NoProgress()
        self.usage: dict[str, list[int]] = {}
        self._config = config
        self._ledger_folder = ledger_folder
        self._seed = seed

    def as_session(self) -> TeacherSession:
        """Itself, as the stages name it."""
        return cast("TeacherSession", self)

    def finish(self, run: Run, outcome: Outcome) -> Manifest:
        with Ledger(self._ledger_folder) as ledger:
            bill = ledger.bill()
        return finish_run(
            self._config, run, outcome, teacher=self.teacher, stand_in=True, bill=bill
        )

    def call_stage(self, recipe: Recipe) -> Recipe:
        return recipe

    def ask(self, rows: Sequence[Row], recipe: Recipe, *, advance: bool = True) -> list[Row]:
        return self.carry(rows, [recipe])

    def stream(
        self, rows: Iterable[Row], stages: Sequence[Recipe | Stage], *, advance: bool = True
    ) -> Iterator[Row]:
        yield from self.carry(list(rows), stages)

    def carry(self, rows: Sequence[Row], stages: Sequence[Recipe | Stage]) -> list[Row]:
        carried = [json.loads(json.dumps(row)) for row in rows]
        for stage in stages:
            if isinstance(stage, Stage):
                batch = stage.stage_class(*stage.arguments)(as_batch(carried))
                carried = [json.loads(text) for text in batch[ROW]]
            else:
                carried = asyncio.run(self._apply(stage, carried))
        add_usage(self.usage, take_usage(carried))
        return carried

    async def _apply(self, recipe: Recipe, rows: Sequence[Row]) -> list[Row]:
        limits = LocalLimits(RunLimits(concurrency=16), Budget(tokens=None, usd=None))
        with Ledger(self._ledger_folder) as ledger:
            async with Teacher(
                self.teacher, self.endpoint, ledger=ledger, limits=limits
            ) as teacher:
                applied = (
                    apply_recipe(recipe, row, teacher=teacher, config=self.teacher, seed=self._seed)
                    for row in rows
                )
                return list(await asyncio.gather(*applied))
