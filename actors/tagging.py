"""Scoring conversations with the preference model, as a Ray Data stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moss import storage
from moss.chat import quality_tag
from moss.chat_rendering import ChatRenderer
from moss.config.training import TrainPATConfig
from moss.errors import DataError
from moss.lineage import Run, shared_folder
from moss.manifest import load_manifest
from moss.pat_data import prompt_rows, sample_conversations, scored_rows, tag_examples
from moss.quality import QualityBuckets
from moss.quality_page import QUALITY_PAGE, render_quality_page
from moss.sft_data import Example, select_examples
from moss.tokenizer import MossTokenizer
from moss.types import QUALITY_LEVELS

BATCH_ROWS = 256


class ScorePreference:
    """Adds `score`, the preference model's reading of each sequence; one instance per worker.

    Takes columns `index` and `ids` (token ids of a whole conversation).
    """

    def __init__(self, checkpoint: str, *, num_threads: int, token_budget: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        from moss.models import PreferenceModel

        self._model = PreferenceModel.load(checkpoint).eval()
        self._token_budget = token_budget

    def __call__(self, batch: dict[str, npt.NDArray[np.generic]]) -> dict[str, object]:
        """Score one batch."""
        from moss.scoring import score_sequences

        sequences = [[int(token) for token in ids] for ids in batch["ids"]]
        scores = score_sequences(self._model, sequences, token_budget=self._token_budget)
        return {"index": batch["index"], "score": scores}


def score_conversations(
    sequences: Sequence[Sequence[int]],
    *,
    checkpoint: str,
    scorers: int,
    num_threads: int,
    token_budget: int,
) -> list[float]:
    """Preference score of each sequence, in order, on the connected cluster.

    Raises:
        DataError: a score is missing or not finite.
    """
    import ray.data

    rows = [{"index": index, "ids": list(ids)} for index, ids in enumerate(sequences)]
    scored = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH_ROWS))
    scored = scored.map_batches(
        ScorePreference,
        fn_constructor_args=(checkpoint,),
        fn_constructor_kwargs={"num_threads": num_threads, "token_budget": token_budget},
        batch_size=BATCH_ROWS,
        compute=ray.data.ActorPoolStrategy(size=scorers),
        num_cpus=1,
    )
    scores = {int(row["index"]): float(row["score"]) for row in scored.take_all()}
    faulty = [i for i in range(len(rows)) if not np.isfinite(scores.get(i, np.nan))]
    if faulty:
        raise DataError(
            f"{len(faulty)} of {len(rows)} conversations have no finite score, first {faulty[:5]}; "
            "the preference model has diverged or a scoring worker lost rows"
        )
    return [scores[index] for index in range(len(rows))]


@dataclass(frozen=True, slots=True)
class TaggedData:
    """What preference-aware training reads."""

    examples: list[Example]
    """Conversations with a quality tag on the last turn."""
    renderer: ChatRenderer
    counts: dict[str, dict[str, int]]
    tags: dict[int, str]
    """The exact text of each level's tag."""


def tag_by_preference(
    config: TrainPATConfig, run: Run, inputs: Mapping[str, str], tokenizer_folder: str
) -> TaggedData:
    """Sample, score, sort into buckets, tag; writes scored conversations, prompts and bounds.

    Args:
        inputs: run folder of the preference model and of each source.
        tokenizer_folder: checkpoint of the policy that will be trained.
    """
    renderer = ChatRenderer(MossTokenizer.load(tokenizer_folder), config.loss_on)
    folders = [inputs[source.run] for source in config.sources]
    selection = select_examples(config.sources, folders, seed=config.seed)
    sample = sample_conversations(
        selection.examples,
        renderer,
        num_conversations=config.num_conversations,
        max_length=config.training.max_length,
        seed=config.seed,
    )
    scores = score_conversations(
        [renderer.render(example.conversation).ids for example in sample.scored],
        checkpoint=shared_folder(f"{inputs['preference_model']}/checkpoint"),
        scorers=config.scorers,
        num_threads=config.training.parallel.num_threads,
        token_budget=config.training.micro_batch_tokens,
    )
    buckets = QualityBuckets.fit(scores, config.quality)
    storage.write_rows(run.path("data/scored.parquet"), scored_rows(sample, scores, buckets))
    storage.write_rows(run.path("data/prompts.parquet"), prompt_rows(sample))
    digest = load_manifest(inputs["preference_model"]).manifest_digest
    buckets.save(run.path("quality.json"), scores=scores, preference_model_digest=digest)
    scored_by = f"{config.preference_model} (version {digest[:12]})"
    page = render_quality_page(buckets, scores, scored_by=scored_by, model=config.run_id)
    storage.write_text(run.path(QUALITY_PAGE), page)
    return TaggedData(
        tag_examples(sample, scores, buckets),
        renderer,
        selection.counts | {"score": sample.counts},
        {level: quality_tag(level) for level in QUALITY_LEVELS},
    )
