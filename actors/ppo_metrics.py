"""One PPO iteration as numbers: named metrics, the live line, Ray's gauges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from actors.ppo_trainer import IterationReport
from moss import metrics as names
from moss.experience import ScoredRollouts
from moss.monitors import repetition_of
from moss.staleness import staleness_of

if TYPE_CHECKING:
    from ray.util.metrics import Gauge


def report_metrics(report: IterationReport, *, ngram_tokens: int) -> dict[str, float]:
    """An iteration as named metrics; those of a model that was not updated are left out.

    Args:
        ngram_tokens: length of the n-grams whose repetition is counted.
    """
    seen, seconds = report.experience, report.seconds
    measured = {
        names.ROLLOUT_SCORE: seen.score,
        names.ROLLOUT_LENGTH: seen.length_tokens,
        names.ROLLOUT_STOPPED: seen.stopped_fraction,
        names.ROLLOUT_KL: seen.kl_nats,
        names.ROLLOUT_REPETITION: _repetition(report.scored, ngram_tokens=ngram_tokens),
        names.TIME_THROUGHPUT: report.num_response_tokens / sum(seconds.values()),
        names.PPO_ENTROPY: sampled_entropy(report.scored),
        names.ROLLOUT_LOGPROB_GAP: seen.logprob_gap_nats,
        names.ROLLOUT_STALENESS: _staleness(report),
        names.REWARD_FAILED: float(len(report.dropped)),
        **report.optional_metrics,
        names.PPO_KL_COEFFICIENT: report.kl_coefficient,
        names.TIME_ROLLOUT: seconds["rollout"],
        names.TIME_SCORE: seconds["score"],
        names.TIME_UPDATE: seconds["update"],
        names.TIME_WEIGHT_PUSH: seconds["weight_push"],
        names.TIME_STEP: sum(seconds.values()),
    }
    if seen.explained_variance is not None:
        measured[names.PPO_EXPLAINED_VARIANCE] = seen.explained_variance
    if seen.importance is not None:
        measured[names.PPO_IMPORTANCE_WEIGHT] = seen.importance.weight
        measured[names.PPO_IMPORTANCE_CAPPED] = seen.importance.capped_fraction
    if report.critic is not None:
        measured |= {
            names.PPO_VALUE_LOSS: report.critic.loss,
            names.PPO_VALUE_CLIPPED: report.critic.clip_fraction,
            names.PPO_VALUE_GRADIENT_NORM: report.critic.gradient_norm,
            names.PPO_VALUE_SKIPPED: float(report.critic.num_skipped),
        }
    if report.policy is not None:
        measured |= {
            names.PPO_POLICY_LOSS: report.policy.loss,
            names.PPO_CLIPPED: report.policy.clip_fraction,
            names.PPO_KL: report.policy.approximate_kl,
            names.PPO_FIRST_RATIO_GAP: report.policy.first_ratio_gap,
            names.PPO_LEFT_OUT: float(report.policy.num_left_out),
            names.PPO_POLICY_GRADIENT_NORM: report.policy.gradient_norm,
            names.PPO_POLICY_SKIPPED: float(report.policy.num_skipped),
            names.TRAIN_LEARNING_RATE: report.policy.learning_rate,
        }
    return measured


def sampled_entropy(scored: ScoredRollouts) -> float:
    """Mean -log pi of the sampled tokens, nats: an unbiased estimate of the policy's entropy per
    token where nothing is cut off the distribution (`top_p` = 1), and free."""
    return -float(scored.logprobs_BT[scored.rollouts.mask_BT].mean())


def _staleness(report: IterationReport) -> float:
    return float(staleness_of(report.scored.rollouts, policy_version=report.iteration - 1))


def _repetition(scored: ScoredRollouts, *, ngram_tokens: int) -> float:
    rollouts = scored.rollouts
    responses = [
        tokens_T[mask_T]
        for tokens_T, mask_T in zip(rollouts.tokens_BT, rollouts.mask_BT, strict=True)
    ]
    return repetition_of(responses, ngram_tokens=ngram_tokens)


def live_note(report: IterationReport) -> str:
    """The numbers of the live line, beside counts and ETA."""
    seen = report.experience
    tokens_per_s = report.num_response_tokens / sum(report.seconds.values())
    phases = " ".join(f"{phase} {seconds:.2f}" for phase, seconds in report.seconds.items())
    return (
        f"score {seen.score:.2f} kl {seen.kl_nats:.2f} length {seen.length_tokens:.0f} "
        f"{tokens_per_s:.0f} tokens/s ({phases} s)"
    )


class RayGauges:
    """The main series as Ray metrics, tagged with the run; Ray exports them to Prometheus."""

    def __init__(self, run_id: str) -> None:
        from ray.util.metrics import Gauge

        self._tags = {"run_id": run_id}
        self._gauges: dict[str, Gauge] = {
            name: Gauge(names.prometheus_name(name), f"PPO: {name}", tag_keys=("run_id",))
            for name in names.PROMETHEUS_METRICS
        }

    def set(self, metrics: Mapping[str, float]) -> None:
        """The values of one iteration; a series without one keeps its last."""
        for name, gauge in self._gauges.items():
            if name in metrics:
                gauge.set(metrics[name], tags=self._tags)
