"""The synthesis stages as chains of Ray Data stages around one teacher session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.session import TeacherSession
from moss.config.synthesis import SynthesizeConversationsConfig, SynthesizePromptsConfig
from moss.conversations import OneInstruction, TwoInstructions
from moss.recipes import Row
from moss.selfinstruct import (
    Candidate,
    Coordinator,
    Example,
    ExtendPrompts,
    Iteration,
    render_examples,
)
from moss.spend import calls_of
from moss.synthesis_plan import bucket_of, conversation_rows, quotas_of, red_team_rows, turn_notes
from moss.synthesis_rows import Outcome, status_counts


def extend(
    coordinator: Coordinator, recipe: ExtendPrompts, session: TeacherSession
) -> tuple[list[Row], list[Row]]:
    """Run rounds of Self-Instruct until the coordinator has enough.

    Returns: one row per iteration, and one per candidate prompt with `bucket`, `text`.
    """
    asked: list[Row] = []
    candidates: list[Row] = []
    num_accepted = 0
    while planned := coordinator.plan_round():
        rows = session.ask([_iteration_row(item) for item in planned], recipe, advance=False)
        answered = {str(row["id"]): row for row in rows}
        accepted = Counter({item.bucket: 0 for item in planned})
        for item in sorted(planned, key=lambda iteration: iteration.id):
            row = answered[item.id]
            asked.append(row)
            for candidate in coordinator.collect(item, _texts(row)):
                candidates.append(_candidate_row(candidate, item, row))
                accepted[item.bucket] += candidate.status == "ok"
        coordinator.end_round(accepted)
        num_accepted += accepted.total()
        session.progress.update(done=num_accepted)
    return asked, candidates


def written_prompts(asked: Sequence[Row], candidates: Sequence[Row]) -> list[Row]:
    """Rows to write of what `extend` returned: every candidate, and the calls that failed."""
    failed = [row for row in asked if row["status"] != "ok"]
    return [{**row, "source": "synthetic"} for row in (*candidates, *failed)]


def num_texts(asked: Sequence[Row]) -> int:
    """Prompts in the answers to Self-Instruct's calls."""
    return sum(len(_texts(row)) for row in asked)


def synthesize_prompts(
    config: SynthesizePromptsConfig,
    session: TeacherSession,
    *,
    seeds: Mapping[str, Sequence[Example]],
    red_team: Sequence[Row],
) -> Outcome:
    """Seeds to prompts, per bucket quotas; red-team prompts are added, never shown (section 5.1).

    Args:
        seeds: bucket -> seeds.
        red_team: imported prompts with id, language, text.
    """
    coordinator = Coordinator(
        quotas_of(config.quotas),
        seeds,
        config=config.self_instruct,
        dedup=config.dedup,
        seed=config.seed,
    )
    recipe = ExtendPrompts(session.teacher.model("prompts"), config.self_instruct)
    asked, candidates = extend(coordinator, recipe, session)
    imported, notes = red_team_rows(config, red_team)
    notes += [
        f"bucket {bucket} is {missing} prompts short of its quota"
        for bucket, missing in coordinator.shortfalls().items()
    ]
    written = written_prompts(asked, candidates)
    return Outcome(
        datasets={"prompts": [*written, *imported]},
        counts={
            "extend": status_counts(asked),
            "select": status_counts(candidates),
            "import": status_counts(imported),
        },
        rows_in={
            "extend": len(asked),
            "select": num_texts(asked),
            "import": len(red_team),
        },
        num_seeds={bucket: len(examples) for bucket, examples in seeds.items()},
        usage=session.usage,
        notes=notes,
    )


def synthesize_conversations(
    config: SynthesizeConversationsConfig, session: TeacherSession, *, prompts: Sequence[Row]
) -> Outcome:
    """Prompts to conversations by the configured recipe (sections 5.2, 6)."""
    model = session.teacher.model(
        "warmup_conversations" if config.recipe == "one_instruction" else "conversations"
    )
    rows, num_clipped = conversation_rows(config, prompts, default_model=model)
    recipe: OneInstruction | TwoInstructions
    if config.recipe == "one_instruction":
        recipe = OneInstruction(config.persona, config.meta_version, config.sampling)
    else:
        recipe = TwoInstructions(
            config.persona,
            config.meta_version,
            session.teacher.model("user_simulator"),
            config.sampling,
        )
    finished = session.ask(rows, recipe)
    return Outcome(
        datasets={"conversations": finished},
        counts={"converse": status_counts(finished)},
        rows_in={"converse": len(rows)},
        usage=session.usage,
        notes=turn_notes(num_clipped, len(rows), config.turns.max_turns),
    )


def _iteration_row(iteration: Iteration) -> Row:
    category, language = bucket_of(iteration.bucket)
    return {
        "id": iteration.id,
        "category": category,
        "language": language,
        "examples": render_examples(iteration.examples),
        "parents": [example.id for example in iteration.examples],
    }


def _candidate_row(candidate: Candidate, iteration: Iteration, row: Row) -> Row:
    category, language = bucket_of(iteration.bucket)
    return {
        "id": candidate.id,
        "status": candidate.status,
        "step": "select",
        "reason": candidate.reason,
        "attempts": row["attempts"],
        "parents": list(candidate.parents),
        "model": row["model"],
        "ledger_keys": row["ledger_keys"],
        "calls": [replace(call, shared_by=len(_texts(row))).as_row() for call in calls_of(row)],
        "bucket": iteration.bucket,
        "text": candidate.text,
        "category": category,
        "language": language,
    }


def _texts(row: Row) -> list[str]:
    texts = row.get("texts")
    return [str(text) for text in texts] if isinstance(texts, list) else []
