"""The best of several responses to each prompt, by preference score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jobs.evaluation_models import EvaluatedModel, Scorer
from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.config.rejection import TrainRejectionSamplingConfig
from moss.errors import DataError
from moss.outputs import read_named_rows
from moss.progress import Progress
from moss.recipes import Row, stable_unit
from moss.sft_data import Example


@dataclass(frozen=True, slots=True)
class Chosen:
    """What rejection sampling trains on."""

    examples: list[Example]
    rows: list[Row]
    """One per prompt: the kept response, its score, and the mean score of all its responses."""
    counts: dict[str, int]
    """Prompts by status: filtered = no room for a response, skipped = beyond the number asked."""
    renderer: ChatRenderer
    num_sampled_tokens: int
    """Of prompts and responses."""


def choose_responses(
    config: TrainRejectionSamplingConfig, run_folder: str, inputs: Mapping[str, str]
) -> Chosen:
    """Answer every prompt `num_samples` times and keep the response that scores highest.

    Args:
        inputs: run folder of base, preference model and prompts.
    Raises:
        DataError: no prompt leaves room for a response.
    """
    import torch

    torch.set_num_threads(config.generation.num_threads)
    model = EvaluatedModel(inputs["base"], config.generation)
    scorer = Scorer(inputs["preference_model"], config.generation)
    rows = read_named_rows(inputs["prompts"], "data/prompts.parquet")
    rows.sort(key=lambda row: stable_unit(config.seed, "rejection", row["id"]))
    drawn = {
        str(row["id"]): Conversation.from_json(str(row["conversation"]))
        for row in rows[: config.num_prompts]
    }
    histories = {name: history for name, history in drawn.items() if model.fits(history)}
    if not histories:
        raise DataError(
            f"none of {len(drawn)} prompts leaves room for generation.max_new_tokens="
            f"{config.generation.max_new_tokens} in the model's {model.max_positions} positions"
        )
    texts, num_tokens = _sample(config, model, histories, run_folder)
    scores = [scorer.score(histories, own) for own in texts]
    by_id = {str(row["id"]): row for row in rows}
    kept = [
        _keep(name, histories[name], [t[name] for t in texts], [s[i] for s in scores])
        for i, name in enumerate(histories)
    ]
    return Chosen(
        examples=[_example(row, by_id[str(row["id"])]) for row in kept],
        rows=kept,
        counts={
            "ok": len(histories),
            "failed": 0,
            "filtered": len(drawn) - len(histories),
            "skipped": len(rows) - len(drawn),
        },
        renderer=ChatRenderer(model.renderer.tokenizer),
        num_sampled_tokens=num_tokens,
    )


def _sample(
    config: TrainRejectionSamplingConfig,
    model: EvaluatedModel,
    histories: Mapping[str, Conversation],
    run_folder: str,
) -> tuple[list[dict[str, str]], int]:
    """`num_samples` times prompt id -> response, and the tokens of all."""
    texts: list[dict[str, str]] = []
    num_tokens = 0
    total = config.num_samples * len(histories)
    with Progress(config.run_id, total, "responses", run_folder) as progress:
        for number in range(config.num_samples):
            rollouts = model.sample(
                histories,
                model.sampling,
                quality=None,
                seed=config.seed + number,
                advance=progress.advance,
            )
            texts.append({name: model.text_of(rollout) for name, rollout in rollouts.items()})
            num_tokens += sum(len(r.prompt_ids) + len(r.response_ids) for r in rollouts.values())
    return texts, num_tokens


def _keep(name: str, history: Conversation, texts: list[str], scores: list[float]) -> Row:
    best = max(range(len(scores)), key=scores.__getitem__)
    *earlier, last = history.turns
    answered = Conversation(history.meta, (*earlier, replace(last, moss=texts[best])))
    return {
        "id": name,
        "conversation": answered.to_json(),
        "score": scores[best],
        "mean_score": sum(scores) / len(scores),
    }


def _example(row: Row, source: Row) -> Example:
    return Example(
        row_id=str(row["id"]),
        prompt_id=str(source["prompt_id"]),
        language=str(source["language"]),
        category=str(source["category"]),
        conversation=Conversation.from_json(str(row["conversation"])),
    )
