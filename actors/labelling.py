"""Preference labelling: six responses per history, then all pairs judged in both orders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from actors.caller import ROW, Batch, Stage, as_batch
from actors.session import TeacherSession
from moss.chat import Conversation
from moss.config.labelling import LabelPreferencesConfig
from moss.judge import JudgePair
from moss.recipes import Row, stable_int, text_of
from moss.responding import Respond, history_rows, pair_rows, responses_of
from moss.row_spool import RowSpool
from moss.synthesis_rows import Counted, Outcome


class RespondWithPolicy:
    """Adds the response of one of our checkpoints; loads it once per actor.

    A history too long for the model fails its row.
    """

    def __init__(self, checkpoint_folder: str, config: LabelPreferencesConfig) -> None:
        import torch

        from moss.chat_rendering import ChatRenderer
        from moss.models import load_policy
        from moss.sampling import TransformersSampler
        from moss.tokenizer import MossTokenizer

        torch.set_num_threads(config.response.num_threads)
        self._config = config
        tokenizer = MossTokenizer.load(checkpoint_folder)
        model = load_policy(checkpoint_folder)
        self._max_positions = int(model.config.max_position_embeddings)
        self._renderer = ChatRenderer(tokenizer)
        self._sampler = TransformersSampler(model, pad_id=tokenizer.pad_id)

    def __call__(self, batch: Batch) -> Batch:
        """Rows in, rows out, in the same order."""
        rows: list[Row] = [json.loads(text) for text in batch[ROW]]
        open_rows = [row for row in rows if row["status"] == "ok"]
        prompts = [self._prompt_ids(row) for row in open_rows]
        limit = self._max_positions - self._config.response.max_tokens
        fitting = []
        for row, ids in zip(open_rows, prompts, strict=True):
            if len(ids) <= limit:
                fitting.append((row, ids))
            else:
                row["status"] = "failed"
                row["reason"] = (
                    f"{len(ids)} prompt tokens leave less than {self._config.response.max_tokens} "
                    f"of {self._max_positions} positions for a response"
                )
            row["step"] = "respond"
        self._respond(fitting)
        return as_batch(rows)

    def _prompt_ids(self, row: Row) -> list[int]:
        conversation = Conversation.from_json(text_of(row, "conversation"))
        return self._renderer.prompt_ids(conversation, "moss")

    def _respond(self, fitting: Sequence[tuple[Row, list[int]]]) -> None:
        from moss.config.ppo import SamplingParams
        from moss.rollouts import SampleRequest

        if not fitting:
            return
        config = self._config.response
        params = SamplingParams(
            temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_tokens
        )
        requests = [
            SampleRequest(ids, seed=stable_int(self._config.seed, row["id"]) % 2**31)
            for row, ids in fitting
        ]
        rollouts = self._sampler.generate(requests, params, [self._renderer.end_id("moss")])
        for (row, _), rollout in zip(fitting, rollouts, strict=True):
            text = self._renderer.decode_section(rollout.response_ids, "moss")
            response = {"model": self._config.checkpoint_name, "text": text}
            row["responses"] = [*responses_of(row), response]


def label_preferences(
    config: LabelPreferencesConfig,
    session: TeacherSession,
    *,
    conversations: Iterable[Row],
    checkpoint_folder: str,
) -> Outcome:
    """Conversations to responses and judged pairs (section 7.1).

    Args:
        conversations: in ascending order of id; read twice.
    """
    histories = Counted(history_rows(config, conversations))
    responding = session.stream(
        histories,
        [
            session.call_stage(Respond(config.response_models, config.persona, config.sampling)),
            Stage(
                stage_class=RespondWithPolicy,
                arguments=(checkpoint_folder, config),
                num_actors=1,
                num_cpus=config.response.num_cpus,
                batch_rows=config.response.batch_rows,
            ),
        ],
    )
    responded = RowSpool(responding)
    judge = session.teacher.model("judge")
    pairs = Counted(
        pair for row in responded.with_status("ok") for pair in pair_rows(row, judge_model=judge)
    )
    recipe = JudgePair(judge, config.judge_sampling)
    judged = RowSpool(session.stream(pairs, [session.call_stage(recipe)]))
    num_skipped = judged.counts()["skipped"]
    return Outcome(
        datasets={"responses": responded, "pairs": judged},
        counts={"respond": responded.counts(), "judge": judged.counts()},
        rows_in={"respond": histories.num_rows, "judge": pairs.num_rows},
        usage=session.usage,
        notes=judge_notes(num_skipped, judge=judge, responders=config.response_models),
        metrics=judge_metrics(judged),
    )


def judge_metrics(judged: Iterable[Row]) -> dict[str, float]:
    """Shares of asked pairs: order flips, ties, unreadable verdicts; how often the longer wins."""
    counts: Counter[str] = Counter()
    for row in judged:
        if row["status"] != "skipped":
            counts.update(_traits(row))
    num_asked, num_won = counts["asked"], counts["won"]
    metrics = {
        f"judge/{name}_fraction": counts[name] / num_asked
        for name in ("flipped", "tie", "invalid")
        if num_asked
    }
    if num_won:
        metrics["judge/longer_wins_fraction"] = counts["longer_won"] / num_won
    return metrics


def _traits(row: Row) -> Iterator[str]:
    """What `judge_metrics` counts a pair under."""
    label = row["label"]
    yield "asked"
    if label in ("tie", "invalid"):
        yield str(label)
    if label == "tie" and row["verdict_ab"] == row["verdict_ba"] != "tie":
        yield "flipped"
    longer = _length(row, "a") - _length(row, "b")
    if label in ("a", "b") and longer:
        yield "won"
        if (label == "a") == (longer > 0):
            yield "longer_won"


def judge_notes(num_skipped: int, *, judge: str, responders: Sequence[str]) -> list[str]:
    """What a reader must know: a judge that judges itself, pairs that were not asked about."""
    notes = []
    if judge in responders:
        notes.append(f"judge {judge} also wrote responses; its verdicts may favor its own")
    if num_skipped:
        notes.append(
            f"{num_skipped} pairs of identical responses were skipped: nothing to ask the judge"
        )
    return notes


def _length(row: Row, seat: str) -> int:
    return len(text_of(row, f"response_{seat}"))
