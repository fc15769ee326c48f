"""Collection of served prompts: clean, classify, select the next round's seeds."""

from __future__ import annotations

from collections.abc import Sequence

from actors.session import TeacherSession
from moss.categories import DOMAINS
from moss.collection import SimulateVisitor, clean, visitor_rows
from moss.config.synthesis import CollectPromptsConfig
from moss.recipes import Row
from moss.synthesis_rows import Outcome, status_counts
from moss.usecases import UNKNOWN, ClassifyPrompt, SeedCandidate, select_seeds

SIMULATED_NOTE = "no served prompts yet: visitors were simulated by the teacher (source=simulated)"


def collect_prompts(
    config: CollectPromptsConfig, session: TeacherSession, *, served: Sequence[Row] | None
) -> Outcome:
    """Served prompts to seeds (section 6).

    Args:
        served: rows of `moss.served_prompts.read_served_prompts`; None simulates visitors.
    """
    counts: dict[str, dict[str, int]] = {}
    rows_in: dict[str, int] = {}
    notes: list[str] = []
    unwritten: list[Row] = []
    if served is None:
        visits = visitor_rows(config.visitors, seed=config.seed)
        visitor = SimulateVisitor(session.teacher.model("user_simulator"), config.visitors.sampling)
        visited = session.ask(visits, visitor)
        counts["visit"], rows_in["visit"] = status_counts(visited), len(visits)
        served = [row for row in visited if row["status"] == "ok"]
        unwritten = [row for row in visited if row["status"] != "ok"]
        notes.append(SIMULATED_NOTE)
    cleaned = clean(served, config.dedup)
    counts["clean"], rows_in["clean"] = status_counts(cleaned), len(served)
    recipe = ClassifyPrompt(
        session.teacher.model("classifier"), session.teacher.model("difficulty"), config.sampling
    )
    unique = [row for row in cleaned if row["status"] == "ok"]
    classified = session.ask(unique, recipe)
    counts["classify"], rows_in["classify"] = status_counts(classified), len(unique)
    candidates = [row for row in classified if row["status"] == "ok"]
    selected = _select(candidates, config)
    counts["select"], rows_in["select"] = status_counts(selected), len(candidates)
    dropped = [row for row in (*cleaned, *classified) if row["status"] != "ok"]
    return Outcome(
        datasets={"collected": [*selected, *unwritten, *dropped]},
        counts=counts,
        rows_in=rows_in,
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
    ]
    chosen = {seed.id for seed in select_seeds(candidates, config.num_seeds, seed=config.seed)}
    selected: list[Row] = []
    for row in classified:
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
