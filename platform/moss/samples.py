"""A few prompts with their responses, kept every so many iterations: what PPO does to the text.

`samples.jsonl` holds one object a line: iteration, prompt, response, score, kl_nats, length_tokens,
finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from moss import storage
from moss.experience import ScoredRollouts
from moss.tracking import read_json_lines

SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout for people to read."""

    prompt: str
    response: str
    score: float
    kl_nats: float
    """log pi(y|x) - log pi_ref(y|x) of this response."""
    length_tokens: int
    finished: bool


def pick_samples(
    scored: ScoredRollouts, decode: Callable[[list[int]], str], *, num_samples: int
) -> list[Sample]:
    """The first rollouts of a batch, as text; their prompts were drawn at random."""
    rollouts = scored.rollouts
    kl_B = ((scored.logprobs_BT - scored.reference_logprobs_BT) * rollouts.mask_BT).sum(1)
    samples = []
    for row in range(min(num_samples, rollouts.num_rollouts)):
        mask, length = rollouts.mask_BT[row], int(rollouts.lengths_B[row])
        prompt_length = int(mask.argmax())
        ids = [int(token) for token in rollouts.tokens_BT[row, :length]]
        samples.append(
            Sample(
                prompt=decode(ids[:prompt_length]),
                response=decode(ids[prompt_length:]),
                score=float(scored.scores_B[row]),
                kl_nats=float(kl_B[row]),
                length_tokens=length - prompt_length,
                finished=bool(rollouts.finished_B[row]),
            )
        )
    return samples


def samples_markdown(samples: Sequence[Sample]) -> str:
    """The samples as a Markdown table."""
    lines = ["| score | KL | tokens | prompt | response |", "|---|---|---|---|---|"]
    for one in samples:
        tokens = f"{one.length_tokens}{'' if one.finished else ' (cut)'}"
        texts = (_cell(one.prompt), _cell(one.response))
        cells = (f"{one.score:.2f}", f"{one.kl_nats:.2f}", tokens, *texts)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class SampleLog:
    """Appends to `samples.jsonl` of a local run; a resumed run drops what it will make again."""

    def __init__(self, run_folder: str, *, resume_step: int) -> None:
        path = storage.join(run_folder, SAMPLES_FILE)
        kept = [row for row in read_json_lines(path) if _iteration_of(row) <= resume_step]
        storage.write_text(path, "".join(f"{json.dumps(row)}\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed by __exit__

    def write(self, iteration: int, samples: Sequence[Sample]) -> None:
        """The samples of one iteration."""
        for sample in samples:
            print(json.dumps({"iteration": iteration} | asdict(sample)), file=self._file)
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _iteration_of(row: dict[str, object]) -> int:
    iteration = row.get("iteration")
    return iteration if isinstance(iteration, int) else 0


def _cell(text: str) -> str:
    """Text that neither ends a table's row or cell nor turns into HTML."""
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return "<br>".join(shown.splitlines())
