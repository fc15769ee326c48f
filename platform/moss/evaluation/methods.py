"""SFT, PAT, PPO and others side by side (section 7.2, Fig. 8): what each gives, what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moss import metrics as names
from moss.config.evaluation import CompareConfig
from moss.evaluation.comparisons import (
    STAND_IN_NOTE,
    Comparison,
    tag_table,
    win_chart,
    win_table,
    win_targets,
)
from moss.evaluation.quality_control import QualityControl
from moss.evaluation.report import (
    BarChart,
    Report,
    Table,
    Target,
    bar,
    decimal,
)
from moss.evaluation.statistics import Estimate, WinRate
from moss.manifest import Manifest

_GIB = 1024**3
_NOT_KNOWN = "–"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one method took, as far as it is on record."""

    seconds: float | None = None
    """Wall time of the training run."""
    cpu_s: float | None = None
    gpu_s: float | None = None
    tokens: float | None = None
    """Tokens that training read or sampled."""
    peak_bytes: float | None = None
    """Peaks of all its processes, summed."""
    gpu_peak_bytes: float | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Cost:
        """What a training run's manifest says; what it lacks is not known, never 0."""
        found = manifest.metrics.get
        return cls(
            seconds=manifest.seconds,
            cpu_s=found(names.COST_CPU),
            gpu_s=found(names.COST_GPU),
            tokens=found(names.TRAIN_TOKENS),
            peak_bytes=found(names.MEMORY_PEAK),
            gpu_peak_bytes=found(names.MEMORY_GPU_PEAK),
        )


@dataclass(frozen=True, slots=True)
class Method:
    """One way to use the preference model, measured on the shared prompts."""

    name: str
    score: Estimate
    """Mean preference score of the responses; bootstrap interval."""
    kl_nats: Estimate | None
    """KL from SFT per response; None for SFT itself and where only a bound is known."""
    kl_bound_nats: float | None
    length_tokens: Estimate
    response_s: float
    """Seconds to answer one prompt here, batched."""
    cost: Cost | None
    """Of its training run; None where nothing is trained."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """All that was measured."""

    methods: Sequence[Method]
    """SFT first."""
    judged: Mapping[Comparison, WinRate]
    scored: Mapping[Comparison, WinRate]
    """By the preference model."""
    quality: QualityControl
    judge: str
    preference_model: str
    """Name and digest of the version that scored."""
    stand_in: bool
    notes: Sequence[str] = ()


def best_of_n_kl_bound(num_samples: int) -> float:
    """Most that best-of-n can move from its policy, nats: log n - (n - 1) / n (Stiennon et al.
    2020, app. G.3; an upper bound: Beirami et al. 2024, theorem 1)."""
    return math.log(num_samples) - (num_samples - 1) / num_samples


def compare_report(found: Comparisons, config: CompareConfig) -> Report:
    """The report of one comparison."""
    notes = [STAND_IN_NOTE] if found.stand_in else []
    notes.append(f"scores are those of {found.preference_model}")
    return Report(
        title="Fig. 8: " + ", ".join(method.name for method in found.methods),
        notes=(*notes, *found.notes),
        targets=tuple(_targets(found, config)),
        tables=(
            _win_table(found),
            _method_table(found),
            _cost_table(found),
            tag_table(found.quality, title=f"{config.pat}: score by requested tag"),
        ),
        share_charts=(win_chart(found.judge, found.judged),),
        bar_charts=(
            BarChart(
                title="Mean preference score",
                unit="score",
                bars=tuple(bar(method.name, method.score) for method in found.methods),
            ),
            BarChart(
                title=f"{config.pat}: mean score by requested tag",
                unit="score",
                bars=tuple(bar(str(k), v) for k, v in found.quality.by_level.items()),
            ),
        ),
    )


def _targets(found: Comparisons, config: CompareConfig) -> list[Target]:
    rank = found.quality.spearman_of_means
    targets = [
        Target(
            name=f"score of {config.pat} rises with the tag",
            measured=f"Spearman {rank:.2f} over {len(found.quality.by_level)} tags",
            required=f">= {config.quality_spearman:.1f}",
            met=rank >= config.quality_spearman,
        )
    ]
    return targets + win_targets(found.judged, (config.pat, config.ppo), against=config.sft)


def _win_table(found: Comparisons) -> Table:
    return win_table(
        found.judge,
        found.judged,
        found.scored,
        title="Win rates on the same held-out prompts",
        caption="Two verdicts that disagree when the order is swapped are a tie. Every method but "
        "SFT was made with the preference model, so its opinion is not independent. Wilson "
        "intervals.",
    )


def _method_table(found: Comparisons) -> Table:
    return Table(
        title="Score, distance and length",
        columns=("method", "n", "mean score", "KL from SFT, nats", "tokens", "s/response"),
        rows=tuple(
            (
                method.name,
                str(method.score.n),
                decimal(method.score),
                _kl(method),
                decimal(method.length_tokens),
                f"{method.response_s:.3f}",
            )
            for method in found.methods
        ),
        caption="KL per response, of responses sampled at temperature 1 with no cut; for best-of-n "
        "its upper bound. Seconds per response are those of this job's own sampling, scoring "
        "included where a method needs it. Bootstrap intervals.",
    )


def _cost_table(found: Comparisons) -> Table:
    columns = ("method", "wall s", "CPU s", "GPU s", "tokens", "peak GiB", "GPU peak GiB")
    rows = [(method.name, *_cost_cells(method.cost)) for method in found.methods]
    return Table(
        title="Cost of each method's training run",
        columns=columns,
        rows=tuple(rows),
        caption="From the manifests, of the attempt that finished. Peaks are sums over processes, "
        "whose own peaks may lie apart. A dash: the run did not record it.",
    )


def _kl(method: Method) -> str:
    if method.kl_bound_nats is not None:
        return f"<= {method.kl_bound_nats:.3f}"
    return decimal(method.kl_nats) if method.kl_nats is not None else "0"


def _cost_cells(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return (*("none",) * 4, *(_NOT_KNOWN,) * 2)
    counted = (cost.seconds, cost.cpu_s, cost.gpu_s, cost.tokens)
    return (*map(_number, counted), *map(_gib, (cost.peak_bytes, cost.gpu_peak_bytes)))


def _number(value: float | None) -> str:
    return _NOT_KNOWN if value is None else f"{value:,.0f}"


def _gib(value: float | None) -> str:
    return _NOT_KNOWN if value is None else f"{value / _GIB:.2f}"
