"""Extend seed prompts to many (paper section 5.1; Wang et al. 2023, Self-Instruct).

Work is counted in *iterations*: one teacher call per (category, language) bucket, 8 examples in, up
to 8 prompts out. The first 50 iterations of a bucket draw their examples from seeds only, later
ones 4 from seeds and 4 from synthetic prompts. Iteration numbers are handed out by one coordinator
per run, so N workers do not make N times 50 seed-only calls.

Iterations run in rounds: those of one round see the synthetic prompts accepted before the round
began, which makes the outcome independent of how many workers run and of when they are killed.
Memory holds one round's calls; accepted prompts and what deduplication knows of them are on disk.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from moss.config.synthesis import DedupConfig, SelfInstructConfig
from moss.dedup import is_too_short
from moss.duplicate_index import DuplicateIndex
from moss.errors import TeacherResponseError
from moss.example_pool import Example as Example
from moss.example_pool import ExamplePool
from moss.numbered_prompts import parse_prompts as parse_prompts
from moss.recipes import Calls, Row, Sampling, stable_int, text_of
from moss.sketches import Sketch, sketch_texts
from moss.templates import load_template
from moss.types import Language

MARGIN = 1.2
"""Calls planned over those that should meet a quota: a further round costs more than some calls."""
MIN_YIELD = 0.1
"""Least share of new prompts that a plan assumes, so that a poor start does not plan too many."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One teacher call to be made."""

    bucket: str
    number: int
    """1-based, global within the bucket."""
    examples: tuple[Example, ...]

    @property
    def id(self) -> str:
        """Sorts by bucket, then number."""
        return f"{self.bucket}-{self.number:07d}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One parsed prompt and what became of it."""

    id: str
    text: str
    iteration: str
    parents: tuple[str, ...]
    """Ids of the examples that the call showed."""
    status: str = "ok"
    reason: str = ""


@dataclass(slots=True)
class _Bucket:
    quota: int
    seeds: tuple[Example, ...]
    num_accepted: int = 0
    next_iteration: int = 1
    is_exhausted: bool = False
    num_candidates: int = 0

    @property
    def num_missing(self) -> int:
        """Prompts still wanted."""
        return self.quota - self.num_accepted

    def iterations_wanted(self, num_prompts: int) -> int:
        """Calls that meet the quota, with a margin, if they yield what the calls so far did."""
        share = self.num_accepted / self.num_candidates if self.num_candidates else 1.0
        return math.ceil(MARGIN * self.num_missing / (num_prompts * max(share, MIN_YIELD)))


def render_examples(examples: Sequence[Example]) -> str:
    """The numbered example lines of the few-shot prompt; line breaks inside become spaces."""
    lines = [
        f"[Question {number}]: {' '.join(example.text.split())}"
        for number, example in enumerate(examples, 1)
    ]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ExtendPrompts:
    """Recipe of one iteration: adds `texts`, the prompts that the teacher wrote, and `sketches`,
    which deduplication looks them up by; made here because the coordinator is one process.
    """

    model: str
    config: SelfInstructConfig
    dedup: DedupConfig
    template: Literal["extend_prompts", "tool_queries"] = "extend_prompts"
    """`tool_queries` names the row's category, a tool, besides the examples."""
    step: str = "extend"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Ask once and parse.

        Raises:
            TeacherResponseError: no prompt in the answer.
        """
        language = cast(Language, text_of(row, "language"))
        slots = {"tool": text_of(row, "category")} if self.template == "tool_queries" else {}
        template = load_template(self.template, language)
        prompt = template.render(
            examples=text_of(row, "examples"), count=self.config.num_prompts, **slots
        )
        sampling = Sampling(self.config.sampling)
        answer = await calls.ask(self.model, prompt, sampling, step=self.step, template=template)
        texts = parse_prompts(
            answer.text,
            count=self.config.num_prompts,
            is_truncated=answer.finish_reason == "length",
        )
        if not texts:
            raise TeacherResponseError(f"no numbered prompt in the answer {answer.text[:120]!r}")
        sketches = [sketch.pack() for sketch in sketch_texts(texts, self.dedup)]
        return {"texts": texts, "sketches": sketches, "model": self.model}


class Coordinator:
    """Plans iterations and collects their prompts until every bucket's quota is met.

    Args:
        quotas: bucket -> prompts wanted.
        seeds: bucket -> handwritten or selected seeds.
    """

    def __init__(
        self,
        quotas: Mapping[str, int],
        seeds: Mapping[str, Sequence[Example]],
        *,
        config: SelfInstructConfig,
        dedup: DedupConfig,
        seed: int,
    ) -> None:
        self._config = config
        self._dedup = dedup
        self._seed = seed
        self._index = DuplicateIndex(dedup)
        self._pool = ExamplePool()
        self._buckets = {
            bucket: _Bucket(
                quota=quotas[bucket],
                seeds=tuple(seeds[bucket]),
                is_exhausted=not seeds[bucket],
            )
            for bucket in sorted(quotas)
        }
        for state in self._buckets.values():
            for example in state.seeds:
                self._index.add(example.id, example.text)

    def plan_round(self) -> list[Iteration]:
        """Iterations of the next round; empty when nothing is left to do.

        A round holds what each bucket still needs at its yield so far, at most `round_iterations`
        a bucket, and never crosses from seeds-only into mixed examples.
        """
        planned: list[Iteration] = []
        for bucket, state in self._buckets.items():
            wanted = state.iterations_wanted(self._config.num_prompts)
            if wanted <= 0 or state.is_exhausted:
                continue
            first = state.next_iteration
            last = min(first + min(wanted, self._config.round_iterations), self._last() + 1)
            if first <= self._config.seed_only_iterations:
                last = min(last, self._config.seed_only_iterations + 1)
            planned += [
                Iteration(bucket, number, self._examples(bucket, state, number))
                for number in range(first, last)
            ]
            state.next_iteration = last
        return planned

    def collect(
        self, iteration: Iteration, texts: Sequence[str], sketches: Sequence[Sketch] | None = None
    ) -> list[Candidate]:
        """Judge the prompts of one iteration; call in ascending order of iteration id.

        Args:
            sketches: of `texts`, if a worker has made them.
        """
        if sketches is None:
            sketches = sketch_texts(texts, self._dedup)
        state = self._buckets[iteration.bucket]
        parents = tuple(example.id for example in iteration.examples)
        candidates = []
        state.num_candidates += max(len(texts), 1)
        for position, (text, sketch) in enumerate(zip(texts, sketches, strict=True), 1):
            candidate_id = f"{iteration.id}-{position}"
            status, reason = self._judge(state, candidate_id, text, sketch)
            if status == "ok":
                example = Example(candidate_id, text)
                self._pool.put(iteration.bucket, state.num_accepted, example)
                state.num_accepted += 1
            candidates.append(Candidate(candidate_id, text, iteration.id, parents, status, reason))
        return candidates

    def end_round(self, num_accepted: Mapping[str, int]) -> None:
        """Give up on buckets whose round brought nothing new, or that reached their last call."""
        for bucket, state in self._buckets.items():
            if num_accepted.get(bucket) == 0 or state.next_iteration > self._last():
                state.is_exhausted = True

    def shortfalls(self) -> dict[str, int]:
        """Bucket -> prompts missing to its quota."""
        return {b: s.num_missing for b, s in self._buckets.items() if s.num_missing > 0}

    def _last(self) -> int:
        return self._config.max_iterations

    def _examples(self, bucket: str, state: _Bucket, number: int) -> tuple[Example, ...]:
        """Examples of one call, drawn by a generator that knows only bucket and number."""
        rng = random.Random(stable_int(self._seed, bucket, number))
        num_examples = self._config.num_examples
        from_pool = 0
        if number > self._config.seed_only_iterations:
            from_pool = min(self._config.num_synthetic_examples, state.num_accepted)
        from_seeds = min(num_examples - from_pool, len(state.seeds))
        chosen = rng.sample(state.seeds, from_seeds)
        positions = rng.sample(range(state.num_accepted), from_pool)
        chosen += [self._pool.get(bucket, position) for position in positions]
        rng.shuffle(chosen)
        return tuple(chosen)

    def _judge(
        self, state: _Bucket, candidate_id: str, text: str, sketch: Sketch
    ) -> tuple[str, str]:
        if state.num_missing <= 0:
            return "skipped", "quota met"
        if len(text) > self._config.max_characters:
            return "filtered", f"longer than {self._config.max_characters} characters"
        if is_too_short(text, self._dedup):
            return "filtered", "too short"
        verdict = self._index.add(candidate_id, text, sketch)
        if verdict.reason:
            return "filtered", f"{verdict.reason} of {verdict.kept_id}"
        return "ok", ""
