"""Where every row went, and whether the counts add up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from moss.chat import Conversation
from moss.config.base import Config
from moss.errors import ChatFormatError, DataError
from moss.lineage import Counts, check_counts
from moss.manifest import STATUSES
from moss.recipes import Row

MAX_CLASSES = 200
"""Reasons told apart; what comes later counts as `OTHER`."""
MAX_EXAMPLES = 3
MAX_EXAMPLE_CHARACTERS = 300
OTHER = "other reasons"

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBERED = re.compile(r"\S*\d\S*")
_MAX_CLASS_CHARACTERS = 100


class StepAccount(Config):
    """Rows that entered one step, and what became of them."""

    step: str
    rows_in: int
    ok: int
    failed: int
    filtered: int
    skipped: int


class FileAccount(Config):
    """Rows of one file of the run."""

    file: str
    rows: int
    """All of them, whatever became of them."""
    ok: int


class Example(Config):
    """One row that did not come through."""

    id: str
    reason: str
    text: str
    """What it holds, cut."""


class ReasonClass(Config):
    """Rows that one step ended for one kind of reason."""

    step: str
    status: str
    reason: str
    """The reason with what differs from row to row left out."""
    count: int
    examples: tuple[Example, ...]


def step_accounts(counts: Counts, rows_in: Mapping[str, int]) -> tuple[StepAccount, ...]:
    """One account per step, in the order of `counts`.

    Raises:
        DataError: in differs from ok + failed + filtered + skipped, or one of the two is absent.
    """
    if set(counts) != set(rows_in):
        raise DataError(
            f"steps {sorted(counts)} are counted, but rows went into {sorted(rows_in)}; a stage "
            "must give both for each of its steps"
        )
    for step, by_status in counts.items():
        check_counts(rows_in[step], by_status, step=step)
    return tuple(
        StepAccount(
            step=step,
            rows_in=rows_in[step],
            **{status: by_status.get(status, 0) for status in STATUSES},
        )
        for step, by_status in counts.items()
    )


class WrittenRows:
    """Counts the rows of a run's files, to hold them against its steps."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._by_file: Counter[tuple[str, str]] = Counter()

    def add(self, file: str, row: Row) -> None:
        """Count one row."""
        self._counts[str(row["step"]), str(row["status"])] += 1
        self._by_file[file, str(row["status"])] += 1

    def files(self, names: Iterable[str]) -> tuple[FileAccount, ...]:
        """The rows of each file, in the order of `names`."""
        return tuple(
            FileAccount(
                file=name,
                rows=sum(self._by_file[name, status] for status in STATUSES),
                ok=self._by_file[name, "ok"],
            )
            for name in names
        )

    def check(self, accounts: tuple[StepAccount, ...]) -> None:
        """Raise DataError unless each row that left a step stands in a file, and none twice.

        Rows that came through a step stand in the files or went on to the next step; all others
        end where they are.
        """
        faults = []
        for status in STATUSES[1:]:
            counted = sum(getattr(account, status) for account in accounts)
            written = sum(n for (_, found), n in self._counts.items() if found == status)
            if written != counted:
                faults.append(f"{counted} {status} were counted, the files hold {written}")
        for account in accounts:
            written = self._counts[account.step, "ok"]
            if written not in (0, account.ok):
                faults.append(
                    f"{account.ok} came through {account.step!r}, the files hold {written}"
                )
        if faults:
            raise DataError(
                f"rows do not add up: {'; '.join(faults)}; look for rows that a step dropped or "
                "wrote twice"
            )


class Reasons:
    """Groups rows that did not come through by step, status and kind of reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._examples: dict[tuple[str, str, str], list[Example]] = {}

    def add(self, row: Row) -> None:
        """Count a row; one that is ok has no reason."""
        if row["status"] == "ok":
            return
        key = (str(row["step"]), str(row["status"]), reason_class(str(row["reason"])))
        if key not in self._counts and len(self._counts) >= MAX_CLASSES:
            key = (*key[:2], OTHER)
        self._counts[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(
                Example(
                    id=str(row["id"]),
                    reason=str(row["reason"])[:MAX_EXAMPLE_CHARACTERS],
                    text=excerpt(row),
                )
            )

    def classes(self) -> tuple[ReasonClass, ...]:
        """The classes: failures first, then the most frequent."""
        ranked = sorted(self._counts.items(), key=lambda item: (item[0][1] != "failed", -item[1]))
        return tuple(
            ReasonClass(
                step=step,
                status=status,
                reason=reason,
                count=count,
                examples=tuple(self._examples[step, status, reason]),
            )
            for (step, status, reason), count in ranked
        )


def reason_class(reason: str) -> str:
    """A reason less its quotations, numbers and ids, cut after its second part."""
    plain = _NUMBERED.sub("…", _QUOTED.sub("…", reason))
    parts = plain.split(": ")
    return ": ".join(parts[:2])[:_MAX_CLASS_CHARACTERS].strip() or "no reason given"


def excerpt(row: Row) -> str:
    """What a row holds, in a few words: its text, or its conversation's first message."""
    if text := row.get("text") or row.get("query"):
        return str(text)[:MAX_EXAMPLE_CHARACTERS]
    try:
        turns = Conversation.from_json(str(row.get("conversation") or "")).turns
    except ChatFormatError:
        return ""
    return turns[0].human[:MAX_EXAMPLE_CHARACTERS] if turns else ""
