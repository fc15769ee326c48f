"""The Ray Data stage that carries rows to the teacher, and the stream that runs such stages.

Rows travel as JSON text in one column, `row`: recipes add nested columns whose types Ray would
otherwise have to infer block by block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray
import ray.data
from ray.actor import ActorHandle

from actors.limiter import LeasedLimits
from moss.config.synthesis import CallerConfig
from moss.config.teacher import TeacherConfig
from moss.errors import MossError, WaitTimeoutError
from moss.ledger import Ledger
from moss.recipes import Recipe, Row, apply_recipe
from moss.teacher import Endpoint, Teacher

Batch = dict[str, "np.ndarray[tuple[int], np.dtype[np.object_]]"]
ROW = "row"
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class CallerSetup:
    """What every caller of a run shares."""

    teacher: TeacherConfig
    endpoint: Endpoint
    ledger_folder: str
    seed: int
    limiter: ActorHandle


class Caller:
    """Carries each row of a batch through a recipe; one instance per actor.

    A row that fails comes back as a row. An error that no row can escape (key, quota, endpoint
    gone) is raised and ends the stage; what was paid until then is in the ledger.
    """

    def __init__(self, recipe: Recipe, setup: CallerSetup) -> None:
        self._recipe = recipe
        self._setup = setup
        self._ledger = Ledger(setup.ledger_folder)
        self._teacher: Teacher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __del__(self) -> None:
        """Close connections when Ray ends the actor; the loop runs in a thread of its own."""
        if self._teacher is not None and self._loop is not None and self._loop.is_running():
            with contextlib.suppress(Exception):
                closing = asyncio.run_coroutine_threadsafe(self._teacher.close(), self._loop)
                closing.result(CLOSE_TIMEOUT_S)

    async def __call__(self, batch: Batch) -> AsyncIterator[Batch]:
        """Rows in, rows out, in the same order."""
        rows = await asyncio.gather(*(self._carry(text) for text in batch[ROW]))
        yield as_batch(rows)

    async def _carry(self, text: str) -> Row:
        setup = self._setup
        if self._teacher is None:  # made here: the client belongs to the loop that runs batches
            self._loop = asyncio.get_running_loop()
            self._teacher = Teacher(
                setup.teacher,
                setup.endpoint,
                ledger=self._ledger,
                limits=LeasedLimits(setup.limiter, setup.teacher),
            )
        return await apply_recipe(
            self._recipe,
            json.loads(text),
            teacher=self._teacher,
            config=setup.teacher,
            seed=setup.seed,
        )


def as_batch(rows: Sequence[Row]) -> Batch:
    """Rows as the one-column batch that stages exchange."""
    return {ROW: np.array([json.dumps(row, ensure_ascii=False) for row in rows], dtype=object)}


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a chain: a class that Ray makes actors of, and what they take."""

    stage_class: type
    arguments: tuple[object, ...]
    num_actors: int
    num_cpus: float
    batch_rows: int
    num_tasks_in_flight: int = 2


def call_stage(recipe: Recipe, setup: CallerSetup, config: CallerConfig) -> Stage:
    """A stage of callers."""
    return Stage(
        stage_class=Caller,
        arguments=(recipe, setup),
        num_actors=setup.teacher.num_callers,
        num_cpus=config.num_cpus,
        batch_rows=config.batch_rows,
    )


def stream_rows(
    rows: Sequence[Row], stages: Sequence[Stage], *, config: CallerConfig
) -> Iterator[Row]:
    """Carry rows through a chain of stages; yields them in order, as they finish.

    Raises:
        MossError: what a stage raised, as it was raised there.
        WaitTimeoutError: no row finished for `config.wait_s`.
    """
    if not rows:
        return
    finished: queue.SimpleQueue[Row | Exception | None] = queue.SimpleQueue()
    dataset = _dataset(rows, stages, config)
    threading.Thread(target=_drain, args=(dataset, finished), daemon=True).start()
    while True:
        try:
            item = finished.get(timeout=config.wait_s)
        except queue.Empty as error:
            raise WaitTimeoutError(
                f"no row finished for {config.wait_s:g} s (caller.wait_s); look at the endpoint "
                "and the cluster, then run again: paid answers are kept"
            ) from error
        if item is None:
            return
        if isinstance(item, Exception):
            raise _original(item)
        yield item


def _dataset(
    rows: Sequence[Row], stages: Sequence[Stage], config: CallerConfig
) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own live line says it
    context.execution_options.preserve_order = True
    items = [{ROW: json.dumps(row, ensure_ascii=False)} for row in rows]
    num_blocks = -(-len(items) // config.block_rows)
    dataset = ray.data.from_items(items, override_num_blocks=num_blocks)
    for stage in stages:
        dataset = dataset.map_batches(
            stage.stage_class,
            fn_constructor_args=stage.arguments,
            compute=ray.data.ActorPoolStrategy(
                size=stage.num_actors,
                max_tasks_in_flight_per_actor=stage.num_tasks_in_flight,
            ),
            batch_size=stage.batch_rows,
            num_cpus=stage.num_cpus,
        )
    return dataset


def _drain(dataset: ray.data.Dataset, finished: queue.SimpleQueue[Row | Exception | None]) -> None:
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            for text in batch[ROW]:
                finished.put(json.loads(text))
        finished.put(None)
    except Exception as error:
        finished.put(error)


def _original(error: BaseException) -> BaseException:
    """The MossError inside Ray's wrappers, as its own plain class; else the error itself."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MossError):
            return _plain(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def _plain(error: MossError) -> MossError:
    """Ray raises a subclass it makes on the fly; its message repeats the remote traceback."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, MossError) else error
