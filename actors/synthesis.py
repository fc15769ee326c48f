"""The synthesis stages as chains of Ray Data stages around one teacher session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from actors.session import TeacherSession
from moss.config.synthesis import SynthesizeConversationsConfig, SynthesizePromptsConfig
from moss.conversations import OneInstruction, TwoInstructions
from moss.manifest import STATUSES
from moss.recipes import Row
from moss.row_spool import RowSpool
from moss.selfinstruct import (
    Candidate,
    Coordinator,
    Example,
    ExtendPrompts,
    Iteration,
    render_examples,
)
from moss.sketches import Sketch
from moss.spend import calls_of
from moss.synthesis_plan import ConversationPlan, bucket_of, quotas_of, red_team_rows, turn_notes
from moss.synthesis_rows import Outcome, status_counts

SYNTHETIC = "synthetic"
"""Column `source` of prompts that a teacher wrote."""


@dataclass(slots=True)
class Extended:
    """What rounds of Self-Instruct brought."""

    rows: RowSpool = field(default_factory=RowSpool)
    """Every candidate prompt (`bucket`, `text`), and every call that failed."""
    asked: Counter[str] = field(default_factory=Counter)
    """Calls by status."""
    candidates: Counter[str] = field(default_factory=Counter)
    """Candidates by status."""
    num_planned: int = 0
    """Calls planned."""
    num_texts: int = 0
    """Prompts in the answers."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Step -> status -> rows."""
        return {
            "extend": {status: self.asked[status] for status in STATUSES},
            "select": {status: self.candidates[status] for status in STATUSES},
        }

    def rows_in(self) -> dict[str, int]:
        """Step -> rows that entered it."""
        return {"extend": self.num_planned, "select": self.num_texts}


def extend(coordinator: Coordinator, recipe: ExtendPrompts, session: TeacherSession) -> Extended:
    """Run rounds of Self-Instruct until the coordinator has enough; rows go to disk as they come.

    Within a round calls are made, and their answers judged, in ascending order of id.
    """
    extended = Extended()
    num_accepted = 0
    while planned := coordinator.plan_round():
        planned.sort(key=lambda iteration: iteration.id)
        extended.num_planned += len(planned)
        accepted = Counter({item.bucket: 0 for item in planned})
        answered = session.stream(
            map(_iteration_row, planned), [session.call_stage(recipe)], advance=False
        )
        for item, row in zip(planned, answered, strict=True):
            assert item.id == row["id"], "stages keep the order of rows"
            num_new = _collect(coordinator, item, row, extended)
            accepted[item.bucket] += num_new
            num_accepted += num_new
            session.progress.update(done=num_accepted)
        coordinator.end_round(accepted)
    return extended


def _collect(coordinator: Coordinator, item: Iteration, row: Row, extended: Extended) -> int:
    """Store what came of one call; returns how many of its prompts were accepted."""
    status = str(row["status"])
    extended.asked[status] += 1
    if status != "ok":
        extended.rows.append(_unanswered_row(row))
    texts = _texts(row, "texts")
    extended.num_texts += len(texts)
    calls = [replace(call, shared_by=len(texts)).as_row() for call in calls_of(row)]
    sketches = [Sketch.unpack(packed) for packed in _texts(row, "sketches")]
    found = coordinator.collect(item, texts, sketches)
    for candidate in found:
        extended.candidates[candidate.status] += 1
        extended.rows.append({**_candidate_row(candidate, item, row), "calls": calls})
    return sum(candidate.status == "ok" for candidate in found)


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
    recipe = ExtendPrompts(session.teacher.model("prompts"), config.self_instruct, config.dedup)
    extended = extend(coordinator, recipe, session)
    imported, notes = red_team_rows(config, red_team)
    notes += [
        f"bucket {bucket} is {missing} prompts short of its quota"
        for bucket, missing in coordinator.shortfalls().items()
    ]
    for row in imported:
        extended.rows.append(row)
    return Outcome(
        datasets={"prompts": extended.rows},
        counts={**extended.counts(), "import": status_counts(imported)},
        rows_in={**extended.rows_in(), "import": len(red_team)},
        num_seeds={bucket: len(examples) for bucket, examples in seeds.items()},
        usage=session.usage,
        notes=notes,
    )


def synthesize_conversations(
    config: SynthesizeConversationsConfig, session: TeacherSession, *, prompts: Iterable[Row]
) -> Outcome:
    """Prompts to conversations by the configured recipe (sections 5.2, 6).

    Args:
        prompts: in ascending order of id; may be read twice.
    """
    model = session.teacher.model(
        "warmup_conversations" if config.recipe == "one_instruction" else "conversations"
    )
    plan = ConversationPlan(config, prompts, model)
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
    finished = RowSpool(session.stream(plan, [session.call_stage(recipe)]))
    return Outcome(
        datasets={"conversations": finished},
        counts={"converse": finished.counts()},
        rows_in={"converse": plan.num_rows},
        usage=session.usage,
        notes=turn_notes(plan.num_clipped, plan.num_rows, config.turns.max_turns),
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
        "bucket": iteration.bucket,
        "source": SYNTHETIC,
        "text": candidate.text,
        "category": category,
        "language": language,
    }


def _unanswered_row(row: Row) -> Row:
    """A call that brought no prompt, less its examples, which its parents name."""
    return {name: value for name, value in row.items() if name != "examples"} | {
        "source": SYNTHETIC
    }


def _texts(row: Row, column: str) -> list[str]:
    texts = row.get(column)
    return [str(text) for text in texts] if isinstance(texts, list) else []
