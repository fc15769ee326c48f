"""Collection of served prompts: clean, classify, select the next round's seeds."""

from __future__ import annotations

from collections.abc import Sequence

from actors.session import TeacherSession
from moss.collection import SimulateVisitor, clean, visitor_rows
from moss.config.synthesis import CollectPromptsConfig
from moss.recipes import Row
from moss.synthesis_rows import Outcome, status_counts
from moss.usecases import DOMAINS, UNKNOWN, ClassifyPrompt, SeedCandidate, select_seeds

SIMULATED_NOTE = "no served prompts yet: visitors were simulated by the teacher (source=simulated)"


def collect_prompts(
    config: CollectPromptsConfig, session: TeacherSession, *, served: Sequence[Row] | None
) -> Outcome:
    """Served prompts to seeds (section 6).

    Args:
        served: rows of `moss.collection.read_served_prompts`; None simulates visitors.
    """
    counts: dict[str, dict[str, int]] = {}
    notes: list[str] = []
    if served is None:
        visits = visitor_rows(config.visitors, seed=config.seed)
        visitor = SimulateVisitor(session.teacher.model("user_simulator"), config.visitors.sampling)
        served = session.ask(visits, visitor)
        counts["visit"] = status_counts(served)
        notes.append(SIMULATED_NOTE)
    cleaned = clean(served, config.dedup)
    counts["clean"] = status_counts(cleaned)
    recipe = ClassifyPrompt(
        session.teacher.model("classifier"), session.teacher.model("difficulty"), config.sampling
    )
    classified = session.ask([row for row in cleaned if row["status"] == "ok"], recipe)
    counts["classify"] = status_counts(classified)
    selected = _select(classified, config)
    counts["select"] = status_counts(selected)
    dropped = [row for row in cleaned if row["status"] != "ok"]
    return Outcome(
        datasets={"collected": [*selected, *dropped]},
        counts=counts,
        usage=session.usage,
        notes=notes,
    )


def _select(classified: Sequence[Row], config: CollectPromptsConfig) -> list[Row]:
    """The rows with the status of selection: `ok` is a seed, `skipped` is not."""
    candidates = [
        SeedCandidate(
            id=str(row["id"]),
            use_case=str(row["use_case"]),
            frequency=int(str(row["frequency"])),
            difficulty=int(str(row["difficulty"])),
        )
        for row in classified
        if row["status"] == "ok"
    ]
    chosen = {seed.id for seed in select_seeds(candidates, config.num_seeds, seed=config.seed)}
    selected: list[Row] = []
    for row in classified:
        if row["status"] != "ok":
            selected.append(row)
            continue
        use_case = str(row["use_case"])
        is_seed = row["id"] in chosen
        reason = "unknown use case" if use_case == UNKNOWN else "not among the seeds"
        selected.append(
            {
                **row,
                "step": "select",
                "status": "ok" if is_seed else "skipped",
                "reason": "" if is_seed else reason,
                "category": DOMAINS.get(use_case, UNKNOWN),
            }
        )
    return selected
