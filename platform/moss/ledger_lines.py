"""The lines of a ledger: sold answers, charges without an answer, and requests about to be sent.

    {"key": ..., "model": ..., "text": ...}     a sold answer
    {"charge": key, "model": ..., ...}          billed, or perhaps billed, and nothing usable came
    {"sent": key, "model": ..., ...}            worst case of a request that is about to be sent
    {"unsold": key}                             that request was refused; nothing is owed

`sent` lines are written only where a budget is capped. One without a later line for its key was in
flight when its writer died, and counts at its worst case.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from moss.errors import DataError


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """One sold answer."""

    key: str
    """sha256 of the request's content, hex; see `content_key`."""
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    """HTTP requests made for it, refused ones included."""


@dataclass(frozen=True, slots=True)
class Charge:
    """Tokens that were billed, or may have been, for a request without a usable answer."""

    key: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cause: str = ""


Totals = dict[str, list[int]]
"""Model -> calls, prompt tokens, completion tokens."""


@dataclass(slots=True)
class Bill:
    """All that was paid, or may have been, and the parts of it that brought no answer."""

    totals: Totals = field(default_factory=dict)
    charges: Totals = field(default_factory=dict)
    """Billed, or perhaps billed, and nothing usable came."""
    in_flight: Totals = field(default_factory=dict)
    """In flight when their writer died, at their worst case."""

    def add(self, more: Bill) -> None:
        """Add `more` into this one."""
        for total, other in (
            (self.totals, more.totals),
            (self.charges, more.charges),
            (self.in_flight, more.in_flight),
        ):
            add_totals(total, other)


def content_key(endpoint: str, body: dict[str, object], sample: int) -> str:
    """Key of a request: endpoint, everything sent, and the sample number, nothing else.

    Code, data set and row order are left out on purpose: an edited recipe still finds what it paid.
    """
    content = {"endpoint": endpoint, "body": body, "sample": sample}
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def record_line(record: LedgerRecord) -> bytes:
    """A sold answer as one line, its end included."""
    return _line(
        {
            "key": record.key,
            "model": record.model,
            "text": record.text,
            "finish_reason": record.finish_reason,
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "attempts": record.attempts,
        }
    )


def charge_line(charge: Charge) -> bytes:
    """A charge as one line."""
    return _line(
        {
            "charge": charge.key,
            "model": charge.model,
            "prompt_tokens": charge.prompt_tokens,
            "completion_tokens": charge.completion_tokens,
            "cause": charge.cause,
        }
    )


def sent_line(worst: Charge) -> bytes:
    """What a request that is about to be sent may cost."""
    return _line(
        {
            "sent": worst.key,
            "model": worst.model,
            "prompt_tokens": worst.prompt_tokens,
            "completion_tokens": worst.completion_tokens,
        }
    )


def unsold_line(key: str) -> bytes:
    """A sent request that was refused."""
    return _line({"unsold": key})


def parse_record(line: bytes, *, where: str) -> LedgerRecord:
    """A sold answer back from its line. Raises DataError if it is none."""
    try:
        return LedgerRecord(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise _foreign(line, where) from error


def add_totals(total: Totals, more: Totals) -> None:
    """Add `more` into `total`."""
    for model, counts in more.items():
        old = total.get(model, [0, 0, 0])
        total[model] = [a + b for a, b in zip(old, counts, strict=True)]


class Scan:
    """Reads the lines of files, by name, oldest first; counts as it goes."""

    def __init__(self) -> None:
        self._counted = Bill()
        self._in_flight: dict[tuple[str, str], Charge] = {}
        self._name = self._writer = ""

    def answers(self, name: str, lines: Iterable[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
        """(offset, key in 32 bytes, line) of every sold answer of one file.

        A torn last line is left out.

        Raises:
            DataError: a line is none of a ledger's.
        """
        self._name = name
        self._writer = writer_of(name)
        offset = 0
        for line in lines:
            if line.endswith(b"\n"):
                key = self._take(line)
                if key is not None:
                    yield offset, key, line
            offset += len(line)

    def bill(self) -> Bill:
        """Answers, charges, and what was in flight after the last line."""
        bill = Bill()
        bill.add(self._counted)
        for worst in self._in_flight.values():
            counts = {worst.model: [1, worst.prompt_tokens, worst.completion_tokens]}
            bill.add(Bill(counts, in_flight=counts))
        return bill

    def _take(self, line: bytes) -> bytes | None:
        try:
            value = json.loads(line)
            if "unsold" in value:
                self._in_flight.pop((self._writer, value["unsold"]), None)
                return None
            kind = next(name for name in ("key", "charge", "sent") if name in value)
            key = value[kind]
            charge = Charge(key, value["model"], value["prompt_tokens"], value["completion_tokens"])
            packed = bytes.fromhex(key)
        except (ValueError, TypeError, KeyError, StopIteration) as error:
            raise _foreign(line, self._name) from error
        if kind == "sent":
            self._in_flight[self._writer, key] = charge
            return None
        self._in_flight.pop((self._writer, key), None)
        counts = {charge.model: [1, charge.prompt_tokens, charge.completion_tokens]}
        self._counted.add(Bill(counts, charges=counts if kind == "charge" else {}))
        return packed if kind == "key" else None


def writer_of(name: str) -> str:
    """Which writer a data file, named `<time>-<writer>`, is of; one may write many."""
    return name.partition("-")[2]


def _line(value: dict[str, object]) -> bytes:
    # A lone surrogate from an endpoint's JSON is no UTF-8; escaped it survives the way back.
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def _foreign(line: bytes, where: str) -> DataError:
    return DataError(
        f"ledger {where} holds a line that is not a record: {line[:120]!r}; move the file out "
        "of the folder (its requests will be paid again)"
    )
