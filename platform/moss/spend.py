"""What the answers behind rows cost: one record per answer, summed exactly per step and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import ClassVar

from moss.config.teacher import TeacherConfig
from moss.errors import DataError
from moss.ledger_lines import Bill
from moss.limits import price

COST_UNIT = Decimal("1e-12")
"""US dollars; what a row's share of a shared answer is rounded to."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One answer that a row used; the row's `ledger_keys` stand in the same order."""

    step: str
    """Step of the run that asked."""
    call: str
    """Name of the call within the row (`converse-2`)."""
    model: str
    template: str
    """Label of the prompt template (`judge_pair.en@1`)."""
    prompt_tokens: int
    completion_tokens: int
    shared_by: int = 1
    """Rows that came out of this one answer, each of which holds this record."""

    TEXTS: ClassVar = ("step", "call", "model", "template")
    NUMBERS: ClassVar = ("prompt_tokens", "completion_tokens", "shared_by")

    def as_row(self) -> dict[str, object]:
        """The record as it is stored in the column `calls`."""
        return asdict(self)


def calls_of(row: Mapping[str, object]) -> list[CallRecord]:
    """The answers that a row used.

    Raises:
        DataError: the column `calls` is not a list of such records.
    """
    calls = row.get("calls") or []
    try:
        assert isinstance(calls, list)
        return [CallRecord(**call) for call in calls]
    except (AssertionError, TypeError) as error:
        raise DataError(f"row {row.get('id')!r}: calls is {calls!r}, expected records") from error


def row_cost(row: Mapping[str, object], config: TeacherConfig) -> Decimal | None:
    """A row's cost in US dollars, its share of shared answers included.

    None where it used a model without a price; 0 where it asked nothing.
    """
    calls = calls_of(row)
    if any(call.model not in config.prices for call in calls):
        return None
    total = sum((_usd(call, config) for call in calls), Decimal(0))
    return total.quantize(COST_UNIT, rounding=ROUND_HALF_EVEN)


def _usd(call: CallRecord, config: TeacherConfig) -> Decimal:
    whole = price(call.model, call.prompt_tokens, call.completion_tokens, config).usd
    return whole / call.shared_by


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one step spent on one model."""

    step: str
    model: str
    num_calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: Decimal | None
    """None where the model has no price."""


class SpendTable:
    """Sums the answers of rows; a shared answer counts once, however its rows are spread."""

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        self._sums: dict[tuple[str, str], dict[int, list[int]]] = {}

    def add(self, row: Mapping[str, object]) -> None:
        """Count the answers of one row."""
        for call in calls_of(row):
            by_share = self._sums.setdefault((call.step, call.model), {})
            sums = by_share.setdefault(call.shared_by, [0, 0, 0])
            for index, count in enumerate((1, call.prompt_tokens, call.completion_tokens)):
                sums[index] += count

    def lines(self) -> list[SpendLine]:
        """One line per step and model, sorted.

        Raises:
            DataError: some of the rows that share an answer are missing.
        """
        return [
            self._line(step, model, by_share)
            for (step, model), by_share in sorted(self._sums.items())
        ]

    def _line(self, step: str, model: str, by_share: Mapping[int, list[int]]) -> SpendLine:
        totals = [
            sum((Fraction(sums[index], share) for share, sums in by_share.items()), Fraction(0))
            for index in range(3)
        ]
        if any(total.denominator != 1 for total in totals):
            raise DataError(
                f"spend of step {step!r} on {model} does not add up: rows that share an answer are "
                "missing from the run's files; each row must be written, whatever its status"
            )
        num_calls, prompt_tokens, completion_tokens = (int(total) for total in totals)
        is_priced = model in self._config.prices
        usd = price(model, prompt_tokens, completion_tokens, self._config).usd
        return SpendLine(
            step, model, num_calls, prompt_tokens, completion_tokens, usd if is_priced else None
        )


def lines_without_answer(bill: Bill, config: TeacherConfig) -> list[SpendLine]:
    """What was paid, or may have been, and brought no usable answer: upper bounds, by model."""
    kinds = (("sent, not answered", bill.in_flight), ("no usable answer", bill.charges))
    return [
        SpendLine(
            step=kind,
            model=model,
            num_calls=num_calls,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            usd=(
                price(model, prompt_tokens, completion_tokens, config).usd
                if model in config.prices
                else None
            ),
        )
        for kind, totals in kinds
        for model, (num_calls, prompt_tokens, completion_tokens) in sorted(totals.items())
    ]


def check_spend(lines: list[SpendLine], usage: Mapping[str, list[int] | tuple[int, ...]]) -> None:
    """Raise DataError unless the rows' answers are those that the run counted, model by model."""
    found: dict[str, list[int]] = {}
    for line in lines:
        sums = found.setdefault(line.model, [0, 0, 0])
        for index, count in enumerate((line.num_calls, line.prompt_tokens, line.completion_tokens)):
            sums[index] += count
    counted = {model: list(counts) for model, counts in usage.items()}
    if found != counted:
        wrong = sorted(m for m in {*found, *counted} if found.get(m) != counted.get(m))
        raise DataError(
            "spend does not add up, in calls, prompt and completion tokens: "
            + "; ".join(f"{m}: rows hold {found.get(m)}, counted {counted.get(m)}" for m in wrong)
        )
