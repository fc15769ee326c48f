"""From measurements to the report: tables, charts, and each target with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moss.config.evaluation import EvaluateConfig
from moss.evaluation.answers import ERROR_CLASSES
from moss.evaluation.comparisons import (
    STAND_IN_NOTE,
    Comparison,
    counted,
    tag_table,
    win_chart,
    win_table,
    win_targets,
)
from moss.evaluation.preference import PairAccuracy
from moss.evaluation.quality_control import QualityControl
from moss.evaluation.report import (
    Bar,
    BarChart,
    Report,
    Table,
    Target,
    bar,
    percent,
)
from moss.evaluation.statistics import WinRate
from moss.evaluation.tool_turns import ToolBenefit, ToolControl
from moss.types import ToolName


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was measured."""

    accuracy: PairAccuracy
    quality: QualityControl
    judged: Mapping[Comparison, WinRate]
    """By the LLM judge."""
    scored: Mapping[Comparison, WinRate]
    """By the preference model, which training itself optimized: a second opinion only."""
    control: Mapping[ToolName, ToolControl]
    benefit: Mapping[ToolName, ToolBenefit]
    judge: str
    stand_in: bool
    notes: Sequence[str] = ()


def make_report(findings: Findings, config: EvaluateConfig) -> Report:
    """The report of one evaluation."""
    notes = [STAND_IN_NOTE] if findings.stand_in else []
    return Report(
        title=f"Evaluation of {config.sft}, {config.pat} and {config.ppo}",
        notes=(*notes, *findings.notes),
        targets=tuple(_targets(findings, config)),
        tables=(
            _accuracy_table(findings),
            tag_table(
                findings.quality,
                title=f"{config.pat}: preference score by requested quality tag",
            ),
            _win_table(findings),
            _control_table(findings, config),
            _benefit_table(findings, config),
            _error_table(findings),
        ),
        bar_charts=tuple(_bar_charts(findings, config)),
        share_charts=(win_chart(findings.judge, findings.judged),),
    )


def _targets(findings: Findings, config: EvaluateConfig) -> list[Target]:
    limits = config.targets
    accuracy, rank = findings.accuracy.overall, findings.quality.spearman_of_means
    targets = [
        Target(
            name="preference model agrees with the judge",
            measured=counted(accuracy),
            required=f">= {100 * limits.preference_accuracy:.0f} %",
            met=accuracy.value >= limits.preference_accuracy,
        ),
        Target(
            name="score rises with the requested tag",
            measured=f"Spearman {rank:.2f} over {len(findings.quality.by_level)} tags",
            required=f">= {limits.quality_spearman:.1f}",
            met=rank >= limits.quality_spearman,
        ),
    ]
    targets += win_targets(findings.judged, (config.pat, config.ppo), against=config.sft)
    for tool in findings.control:
        targets += _tool_targets(findings, config, tool)
    return targets


def _tool_targets(findings: Findings, config: EvaluateConfig, tool: ToolName) -> list[Target]:
    control, benefit = findings.control[tool], findings.benefit[tool]
    recall, false_calls = config.targets.tool_recall, config.targets.tool_false_calls
    return [
        Target(
            name=f"{tool}: called when on",
            measured=counted(control.recall),
            required=f">= {100 * recall:.0f} %",
            met=control.recall.value >= recall,
        ),
        Target(
            name=f"{tool}: called when off, before enforcement",
            measured=counted(control.false_calls),
            required=f"<= {100 * false_calls:.0f} %",
            met=control.false_calls.value <= false_calls,
        ),
        Target(
            name=f"{tool}: ran when off, after enforcement",
            measured=counted(control.false_calls_enforced),
            required="0",
            met=control.false_calls_enforced.value == 0,
        ),
        Target(
            name=f"{tool}: raises the share of right answers",
            measured=f"{percent(benefit.without_tool)} -> {counted(benefit.with_tool)}",
            required="higher, McNemar p < 0.05",
            met=benefit.with_tool.value > benefit.without_tool.value and benefit.p_value < 0.05,
        ),
    ]


def _accuracy_table(findings: Findings) -> Table:
    pairs = [*findings.accuracy.by_model_pair.items(), ("all pairs", findings.accuracy.overall)]
    return Table(
        title="Preference model: agreement with the judge",
        columns=("model pair", "n", "accuracy"),
        rows=tuple((name, str(found.n), percent(found)) for name, found in pairs),
        caption=(
            f"Validation pairs of {findings.judge}, split by prompt; "
            f"{findings.accuracy.num_undecided} undecided pairs left out. All pairs: bootstrap "
            "over prompts; single model pairs: Wilson."
        ),
    )


def _win_table(findings: Findings) -> Table:
    return win_table(
        findings.judge,
        findings.judged,
        findings.scored,
        title="Win rates on held-out prompts",
        caption=(
            "The judge is asked in both orders; two verdicts that disagree are a tie. The "
            "preference model is what PAT and PPO were trained against, so its opinion is not "
            "independent. Wilson intervals."
        ),
    )


def _control_table(findings: Findings, config: EvaluateConfig) -> Table:
    rows = [
        (
            tool,
            str(control.recall.n),
            percent(control.recall),
            percent(control.false_calls),
            percent(control.false_calls_enforced),
        )
        for tool, control in findings.control.items()
    ]
    return Table(
        title=f"Tool control of {config.tool_model}",
        columns=("tool", "n", "called when on", "called when off", "ran when off, enforced"),
        rows=tuple(rows),
        caption="Fresh queries that need the tool. A call counts if it parses and names the "
        "right API. Wilson intervals.",
    )


def _benefit_table(findings: Findings, config: EvaluateConfig) -> Table:
    rows = [
        (
            tool,
            str(benefit.with_tool.n),
            percent(benefit.with_tool),
            percent(benefit.without_tool),
            f"{benefit.num_only_with}/{benefit.num_only_without}",
            f"{benefit.p_value:.1e}",
        )
        for tool, benefit in findings.benefit.items()
    ]
    return Table(
        title=f"Tool benefit of {config.tool_model}: right answers",
        columns=("tool", "n", "with", "without", "only with/without", "McNemar p"),
        rows=tuple(rows),
        caption="The same questions with the tool on and off. Wilson intervals.",
    )


def _error_table(findings: Findings) -> Table:
    rows = [
        (tool, *(str(benefit.errors[name]) for name in ERROR_CLASSES))
        for tool, benefit in findings.benefit.items()
    ]
    return Table(
        title="Wrong answers with the tool on, by the first step that failed",
        columns=("tool", *ERROR_CLASSES),
        rows=tuple(rows),
    )


def _bar_charts(findings: Findings, config: EvaluateConfig) -> list[BarChart]:
    control: list[Bar] = []
    benefit: list[Bar] = []
    for tool, measured in findings.control.items():
        control.append(bar(f"{tool}, on", measured.recall))
        control.append(bar(f"{tool}, off", measured.false_calls))
        benefit.append(bar(f"{tool}, with", findings.benefit[tool].with_tool))
        benefit.append(bar(f"{tool}, without", findings.benefit[tool].without_tool))
    pairs = findings.accuracy.by_model_pair.items()
    levels = findings.quality.by_level.items()
    return [
        BarChart(
            title=f"{config.pat}: score by requested tag",
            unit="score",
            bars=tuple(bar(str(level), mean) for level, mean in levels),
        ),
        BarChart(
            title="Preference model: accuracy by model pair",
            unit="share",
            bars=tuple(bar(name, estimate) for name, estimate in pairs),
        ),
        BarChart(title="Tool calls, on and off", unit="share", bars=tuple(control)),
        BarChart(title="Right answers, with and without tool", unit="share", bars=tuple(benefit)),
    ]
