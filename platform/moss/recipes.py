"""Carry one row through the calls of a recipe, so that the row comes back whatever happens.

A recipe is plain async code: it reads a row, asks, and returns the columns it adds. It runs the
same inside a Ray Data stage (`actors.caller`), in a test, or in a notebook.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, Protocol

from moss.config.synthesis import SamplingConfig
from moss.config.teacher import TeacherConfig
from moss.errors import DataError, TeacherResponseError
from moss.limits import price
from moss.spend import CallRecord
from moss.teacher import Message, Teacher, TeacherAnswer, TeacherRequest
from moss.templates import Template

Row = dict[str, object]
"""One row on its way through a stage: JSON values only."""

Status = Literal["ok", "failed", "filtered", "skipped"]
USAGE = "_usage"
"""Transport column: calls and tokens per model behind a row; taken off before writing."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one call samples."""

    config: SamplingConfig
    stop: tuple[str, ...] = ()


class Calls:
    """The calls that one row makes in one step; collects its ledger keys, answers and usage.

    A row's `attempts` are answers used, repairs and second tries included; refused HTTP requests
    stand in the ledger only, so that a busy endpoint does not change the data.
    """

    def __init__(
        self, teacher: Teacher, config: TeacherConfig, *, seed: int, row_id: str, step: str
    ) -> None:
        self._teacher = teacher
        self._config = config
        self._seed = seed
        self._row_id = row_id
        self._step = step
        self.records: list[CallRecord] = []
        self.ledger_keys: list[str] = []
        self.num_answers = 0
        self.usage: dict[str, list[int]] = {}

    async def chat(
        self,
        model: str,
        messages: Iterable[Message],
        sampling: Sampling,
        *,
        step: str,
        template: Template,
    ) -> TeacherAnswer:
        """A chat answer.

        Args:
            step: name of the call; makes the sampling seed unique within the row.
            template: what the messages were rendered from; recorded in the row's `calls`.
        """
        request = TeacherRequest(model=model, messages=tuple(messages))
        return await self._ask(request, sampling, step=step, template=template)

    async def complete(
        self, model: str, prompt: str, sampling: Sampling, *, step: str, template: Template
    ) -> TeacherAnswer:
        """What continues `prompt`; see `chat`."""
        request = TeacherRequest(model=model, prompt=prompt)
        return await self._ask(request, sampling, step=step, template=template)

    async def ask(
        self, model: str, prompt: str, sampling: Sampling, *, step: str, template: Template
    ) -> TeacherAnswer:
        """Answer to a single prompt, by chat unless the model only completes; see `chat`."""
        if self.only_completes(model):
            return await self.complete(model, prompt, sampling, step=step, template=template)
        messages = [Message("user", prompt)]
        return await self.chat(model, messages, sampling, step=step, template=template)

    def only_completes(self, model: str) -> bool:
        """Whether the model has no chat route."""
        return model in self._config.completion_models

    async def _ask(
        self, request: TeacherRequest, sampling: Sampling, *, step: str, template: Template
    ) -> TeacherAnswer:
        answer = await self._teacher.complete(
            replace(
                request,
                max_tokens=sampling.config.max_tokens,
                temperature=sampling.config.temperature,
                top_p=sampling.config.top_p,
                stop=sampling.stop,
                seed=stable_int(self._seed, self._row_id, step) % 2**31,
            )
        )
        self.ledger_keys.append(answer.key)
        self.num_answers += 1
        record = CallRecord(
            step=self._step,
            call=step,
            model=answer.model,
            template=template.label,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        self.records.append(record)
        add_usage(self.usage, {answer.model: [1, answer.prompt_tokens, answer.completion_tokens]})
        return answer


class Recipe(Protocol):
    """What one row goes through; instances are picklable."""

    @property
    def step(self) -> str:
        """Name of the step in counts and failure reports."""

    async def run(self, row: Row, calls: Calls) -> Row:
        """Columns to add to `row`; may set `status` and `reason` itself.

        Raises:
            DataError, TeacherResponseError: the row fails, the run goes on.
        """


async def apply_recipe(
    recipe: Recipe, row: Row, *, teacher: Teacher, config: TeacherConfig, seed: int
) -> Row:
    """Run `recipe` on a row that is still ok; the row comes back with its status and usage."""
    if row.get("status", "ok") != "ok":
        return row
    calls = Calls(teacher, config, seed=seed, row_id=str(row["id"]), step=recipe.step)
    added: Row
    try:
        added = await recipe.run(row, calls)
    except (DataError, TeacherResponseError) as error:
        added = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    usage = _usage_of(row)
    add_usage(usage, calls.usage)
    return {
        "status": "ok",
        "reason": "",
        **row,
        "step": recipe.step,
        **added,
        "attempts": _int(row.get("attempts")) + calls.num_answers,
        "ledger_keys": [*_list(row.get("ledger_keys")), *calls.ledger_keys],
        "calls": [*_list(row.get("calls")), *(record.as_row() for record in calls.records)],
        USAGE: usage,
    }


def take_usage(rows: Iterable[Row]) -> dict[str, list[int]]:
    """Take the usage column off; returns its sum, model -> [calls, prompt, completion]."""
    total: dict[str, list[int]] = {}
    for row in rows:
        add_usage(total, _usage_of(row))
        row.pop(USAGE, None)
    return total


def add_usage(total: dict[str, list[int]], more: Mapping[str, list[int]]) -> None:
    """Add `more` into `total`."""
    for model, counts in more.items():
        old = total.get(model, [0, 0, 0])
        total[model] = [a + b for a, b in zip(old, counts, strict=True)]


def usage_usd(usage: Mapping[str, list[int]], config: TeacherConfig) -> Decimal | None:
    """Price of a usage; None when a model in it has no price."""
    if not usage or any(model not in config.prices for model in usage):
        return None
    return sum(
        (price(m, prompt, completion, config).usd for m, (_, prompt, completion) in usage.items()),
        Decimal(0),
    )


def stable_int(*parts: object) -> int:
    """A 63-bit number that depends on `parts` only: not on the process, platform or run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stable_unit(*parts: object) -> float:
    """Like `stable_int`, uniform in (0, 1)."""
    return (stable_int(*parts) + 0.5) / 2**63


def text_of(row: Mapping[str, object], key: str) -> str:
    """A text column.

    Raises:
        DataError: absent or not text.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"row {row.get('id')!r}: column {key!r} is {value!r}, expected text")
    return value


def _usage_of(row: Row) -> dict[str, list[int]]:
    usage = row.get(USAGE)
    if not isinstance(usage, dict):
        return {}
    return {str(model): [int(n) for n in counts] for model, counts in usage.items()}


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
