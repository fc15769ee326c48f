"""Measures everything the evaluation reports; see `jobs.evaluate`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.session import TeacherSession
from jobs.evaluation_models import EvaluatedModel, Scorer, walk_tool_turns
from jobs.held_out import find_held_out, judge_pairs
from moss import storage
from moss.chat import Command, format_commands
from moss.config.evaluation import EvaluateConfig
from moss.evaluation.findings import Findings
from moss.evaluation.preference import PairAccuracy, pair_accuracy
from moss.evaluation.prompts import HeldOut, ToolQuery, fresh_tool_queries
from moss.evaluation.quality_control import QualityControl, quality_control
from moss.evaluation.report import Report, save_report
from moss.evaluation.report_html import render_html
from moss.evaluation.tool_turns import ToolTurn, tool_benefit, tool_control
from moss.evaluation.winrate import count_score_wins
from moss.lineage import Run
from moss.outputs import read_named_rows
from moss.preference_data import collect_judged
from moss.recipes import Row
from moss.types import QUALITY_LEVELS
from moss.world.toolplans import plan_tools

BEST_QUALITY = max(QUALITY_LEVELS)


@dataclass(slots=True)
class Measured:
    """Findings, and the rows behind them."""

    findings: Findings
    judgments: list[Row]
    responses: list[Row]
    turns: list[Row]

    @property
    def turn_counts(self) -> dict[str, int]:
        """Statuses of the tool turns."""
        num_failed = sum(bool(row["failure"]) for row in self.turns)
        return {"ok": len(self.turns) - num_failed, "failed": num_failed}


def measure(config: EvaluateConfig, session: TeacherSession) -> Measured:
    """Generate, score, judge, walk tool turns."""
    held_out, notes, trained = find_held_out(config)
    scorer = Scorer(config.run_path(config.preference_model), config.generation)
    tagged, responses = _respond(config, held_out, session)
    scores = {name: scorer.score(held_out.histories, own) for name, own in responses.items()}
    pairs = [(config.pat, config.sft), (config.ppo, config.sft), (config.pat, config.ppo)]
    judgments, judged = judge_pairs(config, session, pairs, responses, held_out)
    queries = fresh_tool_queries(config.tool_evaluation, trained, seed=config.seed)
    model = EvaluatedModel(config.run_path(config.tool_model), config.generation)
    turns = walk_tool_turns(model, queries, config, session.progress.advance)
    plans = {query.id: _plan(query) for query in queries}
    tools = config.tool_evaluation.tools
    findings = Findings(
        accuracy=_accuracy(config, scorer),
        quality=_quality(config, scorer, held_out, tagged),
        judged=judged,
        scored={pair: count_score_wins(scores[pair[0]], scores[pair[1]]) for pair in judged},
        control={tool: tool_control(turns, tool) for tool in tools},
        benefit={tool: tool_benefit(turns, tool, plans) for tool in tools},
        judge=session.teacher.model("judge"),
        stand_in=session.endpoint.stand_in,
        notes=(*notes, *_query_notes(config, queries)),
    )
    return Measured(
        findings=findings,
        judgments=judgments,
        responses=_response_rows(held_out, responses, tagged),
        turns=[_turn_row(turn) for turn in turns],
    )


def input_runs(config: EvaluateConfig) -> dict[str, str]:
    """Run -> folder of everything that is read."""
    data = {config.conversations, *config.training_data, config.preferences}
    models = {config.preference_model, config.sft, config.pat, config.ppo, config.tool_model}
    return {name: config.run_path(name) for name in sorted(data | models)}


def num_steps(config: EvaluateConfig) -> int:
    """Most responses, judgments and turns that the live line can count."""
    compared = 2 * 3 * config.win_rate.num_prompts
    tagged = (len(QUALITY_LEVELS) - 1) * config.quality_control.num_prompts
    turns = 3 * len(config.tool_evaluation.tools) * config.tool_evaluation.num_queries
    return compared + tagged + turns


def write_files(run: Run, measured: Measured, report: Report) -> list[str]:
    """Write the report and the rows behind it; returns the files, relative to the run."""
    save_report(report, run.path("report.json"))
    storage.write_text(run.path("report.html"), render_html(report))
    files = {
        "data/responses.parquet": measured.responses,
        "data/judgments.parquet": measured.judgments,
        "data/tool_turns.parquet": measured.turns,
    }
    for name, rows in files.items():
        storage.write_rows(run.path(name), rows)
    return ["report.json", "report.html", *files]


def _respond(
    config: EvaluateConfig, held_out: HeldOut, session: TeacherSession
) -> tuple[dict[int, dict[str, str]], dict[str, dict[str, str]]]:
    """Responses of PAT by tag (to the first prompts), and of each model (to all)."""
    advance = session.progress.advance
    few = dict(itertools.islice(held_out.histories.items(), config.quality_control.num_prompts))
    pat = EvaluatedModel(config.run_path(config.pat), config.generation)
    tagged: dict[int, dict[str, str]] = {}
    for quality in QUALITY_LEVELS:
        asked = held_out.histories if quality == BEST_QUALITY else few
        tagged[quality] = pat.respond(asked, quality=quality, seed=config.seed, advance=advance)
    responses = {config.pat: tagged[BEST_QUALITY]}
    for name in (config.sft, config.ppo):
        model = EvaluatedModel(config.run_path(name), config.generation)
        responses[name] = model.respond(
            held_out.histories, quality=None, seed=config.seed, advance=advance
        )
    return tagged, responses


def _accuracy(config: EvaluateConfig, scorer: Scorer) -> PairAccuracy:
    rows = read_named_rows(config.run_path(config.preferences), "data/pairs.parquet")
    prompts, counts = collect_judged(
        rows, scorer.renderer, split="validation", max_length=scorer.max_positions
    )
    flat = scorer.score_ids([ids for prompt in prompts for ids in prompt.sequences])
    remaining = iter(flat)
    scores = [list(itertools.islice(remaining, len(prompt.sequences))) for prompt in prompts]
    return pair_accuracy(prompts, scores, num_undecided=counts["filtered"], seed=config.seed)


def _quality(
    config: EvaluateConfig,
    scorer: Scorer,
    held_out: HeldOut,
    tagged: Mapping[int, Mapping[str, str]],
) -> QualityControl:
    few = dict(itertools.islice(held_out.histories.items(), config.quality_control.num_prompts))
    scores = {level: scorer.score(few, responses) for level, responses in tagged.items()}
    return quality_control(scores, seed=config.seed)


def _plan(query: ToolQuery) -> tuple[Command, ...]:
    enabled = frozenset(query.others | {query.tool})
    return plan_tools(query.question, enabled, random.Random(query.id))[1]


def _query_notes(config: EvaluateConfig, queries: Sequence[ToolQuery]) -> list[str]:
    wanted = config.tool_evaluation.num_queries
    notes = []
    for tool in config.tool_evaluation.tools:
        found = sum(query.tool == tool for query in queries)
        if found < wanted:
            notes.append(
                f"{tool}: {found} queries instead of {wanted}; the training sets hold most others"
            )
    return notes


def _response_rows(
    held_out: HeldOut,
    responses: Mapping[str, Mapping[str, str]],
    tagged: Mapping[int, Mapping[str, str]],
) -> list[Row]:
    everything = [(name, -1, own) for name, own in responses.items()]
    everything += [("tagged", level, own) for level, own in tagged.items()]
    return [
        {
            "prompt_id": prompt_id,
            "model": name,
            "quality": level,
            "prompt": held_out.histories[prompt_id].turns[-1].human,
            "response": text,
        }
        for name, level, own in everything
        for prompt_id, text in own.items()
    ]


def _turn_row(turn: ToolTurn) -> Row:
    query = turn.query
    return {
        "id": f"{query.id}-{turn.arm}",
        "tool": query.tool,
        "arm": turn.arm,
        "language": query.question.language,
        "query": query.question.text,
        "answer": query.question.answer,
        "commands": format_commands(turn.wanted),
        "results": "\n".join(result.text for result in turn.executed),
        "reply": turn.reply,
        "right": turn.right,
        "failure": turn.failure,
    }
