"""Preference candidates: one history, six responses, fifteen pairs (paper section 7.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from moss.chat import Conversation
from moss.config.labelling import LabelPreferencesConfig
from moss.config.synthesis import SamplingConfig
from moss.conversations import (
    Exchange,
    assistant_messages,
    assistant_template,
    language_of,
    parse_chat_reply,
)
from moss.errors import DataError
from moss.judge import make_pairs
from moss.recipes import Calls, Row, Sampling, stable_unit, text_of
from moss.subsets import draw_rows


def history_rows(config: LabelPreferencesConfig, conversations: Iterable[Row]) -> Iterator[Row]:
    """Rows to respond to: the `preference` split, last reply emptied, split by prompt.

    Args:
        conversations: in ascending order of id; read twice.

    Raises:
        DataError: nothing is in that split.
    """

    def lot(row: Row) -> float | None:
        if row["split"] != "preference":
            return None
        return stable_unit(config.seed, "history", row["id"])

    is_empty = True
    for row in draw_rows(conversations, config.num_prompts, lot):
        is_empty = False
        yield _history_row(config, row)
    if is_empty:
        raise DataError(
            f"run {config.conversations} has no conversation in its preference split; raise "
            "splits.preference there"
        )


def _history_row(config: LabelPreferencesConfig, row: Row) -> Row:
    prompt_id = text_of(row, "prompt_id")
    conversation = Conversation.from_json(text_of(row, "conversation"))
    last = replace(conversation.turns[-1], moss="")
    history = Conversation(conversation.meta, (*conversation.turns[:-1], last))
    is_validation = stable_unit(config.seed, "validation", prompt_id) < config.validation_share
    return {
        "id": f"responses-{prompt_id}",
        "prompt_id": prompt_id,
        "language": row["language"],
        "category": row["category"],
        "split": "validation" if is_validation else "train",
        "conversation": history.to_json(),
        "responses": [],
        "parents": [row["id"]],
    }


@dataclass(frozen=True, slots=True)
class Respond:
    """Recipe of one history: adds a response of every model of the teacher to `responses`.

    A model that gives none fails the row, so no row is judged with fewer pairs than the others.
    """

    models: tuple[str, ...]
    persona: str
    sampling: SamplingConfig
    step: str = "respond"

    async def run(self, row: Row, calls: Calls) -> Row:
        """One chat call per model."""
        conversation = Conversation.from_json(text_of(row, "conversation"))
        *earlier, last = conversation.turns
        messages = assistant_messages(
            [Exchange(turn.human, turn.moss) for turn in earlier],
            last.human,
            language_of(row),
            persona=self.persona,
        )
        responses = list(responses_of(row))
        for model in self.models:
            answer = await calls.chat(
                model,
                messages,
                Sampling(self.sampling),
                step=f"{self.step}-{model}",
                template=assistant_template(language_of(row)),
            )
            responses.append({"model": model, "text": parse_chat_reply(answer.text)})
        return {"responses": responses}


def responses_of(row: Mapping[str, object]) -> list[dict[str, str]]:
    """The responses that a row has so far.

    Raises:
        DataError: the column is not a list of model and text.
    """
    responses = row.get("responses")
    if not isinstance(responses, list):
        raise DataError(f"row {row.get('id')!r}: responses is {responses!r}, expected a list")
    return [{"model": str(item["model"]), "text": str(item["text"])} for item in responses]


def pair_rows(row: Row, *, judge_model: str) -> list[Row]:
    """The judged pairs of one row: 15 of six responses, no two of one model.

    Which of the two is `a` is drawn by pair, so that seats do not go with models.
    """
    texts = {item["model"]: item["text"] for item in responses_of(row)}
    rows: list[Row] = []
    for number, pair in enumerate(make_pairs([item["model"] for item in responses_of(row)]), 1):
        pair_id = f"pair-{row['prompt_id']}-{number:02d}"
        a, b = pair if stable_unit("seat", pair_id) < 0.5 else pair[::-1]
        rows.append(
            {
                "id": pair_id,
                "prompt_id": row["prompt_id"],
                "language": row["language"],
                "split": row["split"],
                "conversation": row["conversation"],
                "model_a": a,
                "model_b": b,
                "response_a": texts[a],
                "response_b": texts[b],
                "label": "",
                "model": judge_model,
                "parents": [row["id"]],
            }
        )
    return rows
