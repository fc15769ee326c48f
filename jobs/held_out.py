"""Held-out prompts and verdicts on the responses to them; `evaluate` and `compare` share both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.session import TeacherSession
from jobs.evaluation_models import EvaluatedModel
from moss import storage
from moss.chat import Conversation
from moss.config.evaluation import HeldOutConfig
from moss.evaluation.comparisons import Comparison
from moss.evaluation.prompts import HeldOut, held_out_histories, training_fingerprints
from moss.evaluation.statistics import WinRate
from moss.evaluation.winrate import comparison_rows, count_wins
from moss.judge import JudgePair
from moss.outputs import read_named_rows
from moss.recipes import Row


def find_held_out(config: HeldOutConfig) -> tuple[HeldOut, list[str], set[str]]:
    """Prompts that no training set holds and that fit the models.

    Returns: them, notes for readers of the results, and the fingerprints of trained prompts.
    """
    trained = training_fingerprints(_training_rows(config))
    wanted = max(config.win_rate.num_prompts, config.quality_control.num_prompts)
    rows = _conversation_rows(config, config.conversations)
    model = EvaluatedModel(config.run_path(config.sft), config.generation)
    fitting = [row for row in rows if model.fits(Conversation.from_json(str(row["conversation"])))]
    held_out = held_out_histories(fitting, trained, num_prompts=wanted, seed=config.seed)
    found = len(held_out.histories)
    notes = [
        f"{found} held-out prompts; {held_out.num_leaked} more of the eval split left out because "
        f"a training set of {', '.join(config.training_data)} holds their text"
    ]
    if found < wanted:
        notes.append(f"{wanted} prompts were asked for, the eval split has {found}")
    return held_out, notes, trained


def judge_pairs(
    config: HeldOutConfig,
    session: TeacherSession,
    pairs: Sequence[Comparison],
    responses: Mapping[str, Mapping[str, str]],
    held_out: HeldOut,
) -> tuple[list[Row], dict[Comparison, WinRate]]:
    """The judge's verdict on two models' responses to every prompt, pair of models by pair.

    Returns: the judged rows, and wins of each pair's first model.
    """
    rows = [
        row
        for model, against in pairs
        for row in comparison_rows(
            model, against, responses, held_out.histories, languages=held_out.languages
        )
    ]
    recipe = JudgePair(session.teacher.model("judge"), config.win_rate.judge_sampling)
    judged = session.ask(rows, recipe)
    results = {}
    for model, against in pairs:
        mine = [row for row in judged if {row["model_a"], row["model_b"]} == {model, against}]
        results[model, against] = count_wins(model, mine)
    return judged, results


def _training_rows(config: HeldOutConfig) -> list[Row]:
    rows: list[Row] = []
    for reference in config.training_data:
        rows += _conversation_rows(config, reference)
    return rows


def _conversation_rows(config: HeldOutConfig, reference: str) -> list[Row]:
    folder = config.run_path(reference)
    names = [name for name in storage.list_files(folder) if name.endswith("conversations.parquet")]
    rows = [row for name in names for row in read_named_rows(folder, name)]
    return [row for row in rows if row["status"] == "ok"]
