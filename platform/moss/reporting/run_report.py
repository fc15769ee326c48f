"""The report of a synthesis or labelling run as data: `report.json`.

One pass over the run's files with bounded memory. A report whose counts do not add up is an error,
so a run with such counts does not finish. Nothing here depends on time or place: equal work gives
equal reports, but for the calls that a kill or the endpoint left without an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from moss.config.base import Config, StageConfig
from moss.config.labelling import LabelPreferencesConfig
from moss.config.synthesis import (
    CollectPromptsConfig,
    SynthesisConfig,
    SynthesizeConversationsConfig,
    SynthesizePromptsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.config.teacher import TeacherConfig
from moss.errors import ConfigError
from moss.ledger import Bill
from moss.recipes import Row
from moss.reporting.accounts import (
    FileAccount,
    ReasonClass,
    Reasons,
    StepAccount,
    WrittenRows,
    step_accounts,
)
from moss.reporting.blocks import Section
from moss.reporting.stage import StageTally
from moss.reporting.stage_collection import CollectionTally
from moss.reporting.stage_conversations import ConversationsTally
from moss.reporting.stage_preferences import PreferencesTally
from moss.reporting.stage_prompts import PromptsTally
from moss.reporting.stage_tools import ToolsTally
from moss.spend import SpendLine, SpendTable, check_spend, lines_without_answer
from moss.synthesis_rows import Dataset, Outcome

REPORT_JSON = "report.json"
STAND_IN_NOTE = "made with the offline teacher, a rule-based stand-in for a language model"


class SpendRow(Config):
    """What one step spent on one model."""

    step: str
    model: str
    num_calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: Decimal | None
    """None where the model has no price."""


class RunReport(Config):
    """Everything the page shows, and the figures behind it."""

    stage: str
    run_id: str
    stand_in: bool
    """The offline teacher answered, not a language model."""
    notes: tuple[str, ...]
    num_ok: int
    """Rows of the run's last file that came through: what later runs read."""
    steps: tuple[StepAccount, ...]
    files: tuple[FileAccount, ...]
    spend: tuple[SpendRow, ...]
    usd: Decimal | None
    """All spend; None where a price is unknown."""
    without_answer: tuple[SpendRow, ...]
    """Calls that brought no usable answer, by kind in place of a step; tokens and price are the
    most that they can have cost. Budgets count them too."""
    reasons: tuple[ReasonClass, ...]
    metrics: dict[str, float]
    sections: tuple[Section, ...]


def tally_for(config: StageConfig, outcome: Outcome) -> StageTally:
    """What a stage counts beside the common figures.

    Raises:
        ConfigError: the stage has no report of rows.
    """
    match config:
        case SynthesizePromptsConfig():
            return PromptsTally(config, outcome.num_seeds)
        case SynthesizeConversationsConfig():
            return ConversationsTally(config)
        case SynthesizeToolConversationsConfig():
            return ToolsTally(config, outcome.num_seeds)
        case CollectPromptsConfig():
            return CollectionTally()
        case LabelPreferencesConfig():
            return PreferencesTally()
    raise ConfigError(f"no report of rows for a {type(config).__name__}")


def make_report(
    config: SynthesisConfig,
    stage: str,
    outcome: Outcome,
    files: Mapping[Dataset, Iterable[Row]],
    *,
    teacher: TeacherConfig,
    stand_in: bool,
    bill: Bill,
) -> RunReport:
    """Read a run's files once and report on them.

    Args:
        files: rows of each file, as written.
        bill: of the run's ledger; files do not tell of calls without an answer.
    Raises:
        DataError: counts or spend do not add up.
    """
    accounts = step_accounts(outcome.counts, outcome.rows_in)
    written, reasons, spend = WrittenRows(), Reasons(), SpendTable(teacher)
    tally = tally_for(config, outcome)
    for dataset, rows in files.items():
        for row in rows:
            written.add(dataset, row)
            reasons.add(row)
            spend.add(row)
            tally.add(dataset, row)
    written.check(accounts)
    in_files = written.files(files)
    lines = spend.lines()
    check_spend(lines, {model: list(counts) for model, counts in outcome.usage.items()})
    return RunReport(
        stage=stage,
        run_id=config.run_id,
        stand_in=stand_in,
        notes=(*([STAND_IN_NOTE] if stand_in else []), *outcome.notes),
        num_ok=in_files[-1].ok,
        steps=accounts,
        files=in_files,
        spend=tuple(_spend_row(line) for line in lines),
        usd=total_usd(lines),
        without_answer=tuple(_spend_row(line) for line in lines_without_answer(bill, teacher)),
        reasons=reasons.classes(),
        metrics=tally.metrics(),
        sections=tuple(tally.sections()),
    )


def total_usd(lines: Iterable[SpendLine]) -> Decimal | None:
    """The price of all lines; None where one is unknown or there is none."""
    prices = [line.usd for line in lines]
    known = [usd for usd in prices if usd is not None]
    return sum(known, Decimal(0)) if prices and len(known) == len(prices) else None


def _spend_row(line: SpendLine) -> SpendRow:
    return SpendRow(
        step=line.step,
        model=line.model,
        num_calls=line.num_calls,
        prompt_tokens=line.prompt_tokens,
        completion_tokens=line.completion_tokens,
        usd=line.usd,
    )
