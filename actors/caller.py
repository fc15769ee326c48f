"""The Ray Data stage that carries rows to the teacher, and the stream that runs such stages.

Rows travel as JSON text in one column, `row`: recipes add nested columns whose types Ray would
otherwise have to infer block by block.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import queue
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import numpy as np
import ray
import ray.data
from ray.actor import ActorHandle

from actors.limiter import LeasedLimits
from moss import errors
from moss.config.synthesis import CallerConfig
from moss.config.teacher import TeacherConfig
from moss.errors import MossError, WaitTimeoutError
from moss.ledger import Ledger
from moss.recipes import Recipe, Row, apply_recipe
from moss.secret_keys import adopt_keys
from moss.teacher import Endpoint, Teacher

Batch = dict[str, "np.ndarray[tuple[int], np.dtype[np.object_]]"]
ROW = "row"
STOP_POLL_S = 0.5
"""How soon a stream whose reader went away notices."""
FATAL = "_fatal"
"""Transport column: class and message of the error that ended a caller."""
CLOSE_TIMEOUT_S = 5.0
ROWS_AT_HAND_PER_SLOT = 24
"""A block ends with its slowest row, after several waits; meanwhile others fill the slots."""
MAX_TASKS = 16
WAITING_TASKS = 2
"""Blocks that wait at an actor; few, so that the first one up leaves enough for the others."""
GARBAGE_THRESHOLD = 20_000
"""New objects until the youngest are collected; Python's default is 700."""
ROWS_AT_WORK_PER_SLOT = 2
"""More than one, since rows wait between attempts; few, so that answers need not queue behind the
first steps of hundreds of new rows."""


@dataclass(frozen=True, slots=True)
class CallerSetup:
    """What every caller of a run shares."""

    teacher: TeacherConfig
    endpoint: Endpoint
    ledger_folder: str
    seed: int
    run: str
    """Name of this attempt of the run; its callers share its limits."""
    budget: ActorHandle | None
    """None where nothing is capped."""
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """The driver's key by environment variable."""


class Caller:
    """Carries each row of a batch through a recipe; one instance per actor.

    A row that fails comes back as a row. An error that no row can escape (key, quota, endpoint
    gone) comes back in the column `FATAL`, because Ray Data keeps no exception's type; no further
    call is made after it, and `stream_rows` raises it. What was paid is in the ledger.
    """

    def __init__(self, recipe: Recipe, setup: CallerSetup) -> None:
        adopt_keys(setup.keys)
        self._recipe = recipe
        self._setup = setup
        self._ledger = Ledger(setup.ledger_folder)
        self._teacher: Teacher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fatal: MossError | None = None
        self._at_work = asyncio.Semaphore(ROWS_AT_WORK_PER_SLOT * setup.teacher.concurrency)
        _collect_garbage_seldom()

    def __del__(self) -> None:
        """Close connections when Ray ends the actor; the loop runs in a thread of its own."""
        if self._teacher is not None and self._loop is not None and self._loop.is_running():
            with contextlib.suppress(Exception):
                closing = asyncio.run_coroutine_threadsafe(self._teacher.close(), self._loop)
                closing.result(CLOSE_TIMEOUT_S)
                self._ledger.close()

    async def __call__(self, batch: Batch) -> AsyncIterator[Batch]:
        """Rows in, rows out, in the same order."""
        rows = await asyncio.gather(*(self._carry(text) for text in batch[ROW]))
        yield as_batch(rows)

    async def _carry(self, text: str) -> Row:
        row: Row = json.loads(text)
        try:
            async with self._at_work:
                if self._fatal is None:
                    return await self._apply(row)
        except MossError as error:
            self._fatal = self._fatal or error
        assert self._fatal is not None
        if self._teacher is not None:
            # The driver ends the stage at this row; what is paid must be recorded by then.
            await self._teacher.drain()
        fatal = [type(self._fatal).__name__, str(self._fatal)]
        return {**row, "status": "failed", FATAL: fatal}

    async def _apply(self, row: Row) -> Row:
        setup = self._setup
        if self._teacher is None:  # made here: the client belongs to the loop that runs batches
            self._loop = asyncio.get_running_loop()
            self._teacher = Teacher(
                setup.teacher,
                setup.endpoint,
                ledger=self._ledger,
                limits=LeasedLimits(setup.teacher, run=setup.run, budget=setup.budget),
            )
        return await apply_recipe(
            self._recipe,
            row,
            teacher=self._teacher,
            config=setup.teacher,
            seed=setup.seed,
        )


def _collect_garbage_seldom() -> None:
    """Spare requests what collection costs by default: a pause of 0.15 s over the objects of the
    imported libraries now and then, and an eighth of all CPU time over those of each request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


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
    num_tasks: int = 1
    """Blocks that one actor works on at the same time."""


def call_stage(recipe: Recipe, setup: CallerSetup, config: CallerConfig) -> Stage:
    """A stage of callers, each with enough blocks at once to keep its slots busy.

    Ray Data awaits four batches of a block together and hands blocks on in order, so one block at a
    time would leave slots idle at its end.
    """
    slots = -(-setup.teacher.concurrency // setup.teacher.num_callers)
    rows_at_hand = ROWS_AT_HAND_PER_SLOT * slots
    return Stage(
        stage_class=Caller,
        arguments=(recipe, setup),
        num_actors=setup.teacher.num_callers,
        num_cpus=config.num_cpus,
        batch_rows=config.batch_rows,
        num_tasks=min(MAX_TASKS, max(2, -(-rows_at_hand // config.block_rows))),
    )


def stream_rows(
    rows: Iterable[Row], stages: Sequence[Stage], *, config: CallerConfig
) -> Iterator[Row]:
    """Carry rows through a chain of stages; yields them in order, as they finish.

    Rows are taken from `rows` as they are needed: at most `config.wave_rows` are on their way.

    Raises:
        MossError: what a stage raised, as it was raised there.
        WaitTimeoutError: no row finished for `config.wait_s`.
    """
    rows = iter(rows)
    while wave := list(islice(rows, config.wave_rows)):
        yield from _stream_wave(wave, stages, config)


def _stream_wave(
    wave: Sequence[Row], stages: Sequence[Stage], config: CallerConfig
) -> Iterator[Row]:
    finished: queue.Queue[Row | Exception | None] = queue.Queue(maxsize=2 * config.block_rows)
    stopped = threading.Event()
    dataset = _dataset(wave, stages, config)
    threading.Thread(target=_drain, args=(dataset, finished, stopped), daemon=True).start()
    try:
        while (item := _next_finished(finished, config)) is not None:
            if isinstance(item, Exception):
                raise item
            if FATAL in item:
                raise _fatal_error(item)
            yield item
    finally:  # also when the reader goes away
        stopped.set()


def _next_finished(
    finished: queue.Queue[Row | Exception | None], config: CallerConfig
) -> Row | Exception | None:
    try:
        return finished.get(timeout=config.wait_s)
    except queue.Empty as error:
        raise WaitTimeoutError(
            f"no row finished for {config.wait_s:g} s (caller.wait_s); look at the endpoint "
            "and the cluster, then run again: paid answers are kept"
        ) from error


def _dataset(
    rows: Sequence[Row], stages: Sequence[Stage], config: CallerConfig
) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own live line says it
    context.execution_options.preserve_order = True
    context.memory_usage_poll_interval_s = None  # polling /proc costs callers 6 % of their time
    items = [{ROW: json.dumps(row, ensure_ascii=False)} for row in rows]
    num_blocks = -(-len(items) // config.block_rows)
    dataset = ray.data.from_items(items, override_num_blocks=num_blocks)
    for stage in stages:
        dataset = dataset.map_batches(
            stage.stage_class,
            fn_constructor_args=stage.arguments,
            compute=ray.data.ActorPoolStrategy(
                size=stage.num_actors,
                max_tasks_in_flight_per_actor=stage.num_tasks + WAITING_TASKS,
                max_concurrent_calls_per_actor=stage.num_tasks,
            ),
            batch_size=stage.batch_rows,
            num_cpus=stage.num_cpus,
        )
    return dataset


def _drain(
    dataset: ray.data.Dataset,
    finished: queue.Queue[Row | Exception | None],
    stopped: threading.Event,
) -> None:
    """Hand rows on one block at a time; waits while the reader is behind."""

    def hand_on(item: Row | Exception | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                finished.put(item, timeout=STOP_POLL_S)
                return

    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            for text in batch[ROW]:
                hand_on(json.loads(text))
            if stopped.is_set():
                return
        hand_on(None)
    except Exception as error:
        hand_on(error)


def _fatal_error(row: Row) -> MossError:
    name, message = cast(list[str], row[FATAL])
    error_class = getattr(errors, name, MossError)
    assert issubclass(error_class, MossError)
    return error_class(message)
