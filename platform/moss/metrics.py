"""Names of all metrics, `stage/quantity_unit`, and the units they may end in.

`UNITS` lists each unit with its meaning; a name ends in `_<unit>`, or its quantity is the unit
itself (`rollout/score`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from moss.errors import DataError

UNITS: Mapping[str, str] = {
    "nats": "natural-log units",
    "tokens": "tokens",
    "tokens_per_s": "tokens per second",
    "samples_per_s": "rows or responses per second",
    "s": "seconds of wall time",
    "cpu_s": "seconds of processor time",
    "gpu_s": "seconds of wall time times reserved GPUs",
    "bytes": "bytes",
    "usd": "US dollars",
    "count": "number of things",
    "fraction": "share between 0 and 1",
    "score": "units of the preference model's output",
    "norm": "Euclidean norm",
    "rate": "optimizer learning rate",
    "coefficient": "weight of a loss term, no unit",
    "ratio": "quotient of two like quantities",
    "squared_score": "square of preference-model units",
    "versions": "policy versions",
}

TRAIN_LOSS = "train/loss_nats"
TRAIN_GRADIENT_NORM = "train/gradient_norm"
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_TOKENS = "train/seen_tokens"
TRAIN_THROUGHPUT = "train/tokens_per_s"
VALIDATION_LOSS = "validation/loss_nats"
VALIDATION_ACCURACY = "validation/accuracy_fraction"

PREFERENCE_LOSS = "preference/loss_nats"
PREFERENCE_ACCURACY = "preference/accuracy_fraction"
PREFERENCE_MARGIN = "preference/margin_score"

ROLLOUT_SCORE = "rollout/score"
ROLLOUT_LENGTH = "rollout/length_tokens"
ROLLOUT_STOPPED = "rollout/stopped_fraction"
ROLLOUT_KL = "rollout/kl_nats"
ROLLOUT_REPETITION = "rollout/repetition_fraction"
ROLLOUT_STALENESS = "rollout/staleness_versions"
ROLLOUT_LOGPROB_GAP = "rollout/logprob_gap_nats"

ROLLOUT_TOOL_CALLS = "rollout/tool_calls_count"
ROLLOUT_FAILED_CALLS = "rollout/failed_tool_calls_count"

REWARD_FAILED = "reward/failed_count"

PPO_POLICY_LOSS = "ppo/policy_loss_score"
PPO_VALUE_LOSS = "ppo/value_loss_squared_score"
PPO_CLIPPED = "ppo/clipped_fraction"
PPO_VALUE_CLIPPED = "ppo/value_clipped_fraction"
PPO_KL = "ppo/kl_nats"
PPO_LEFT_OUT = "ppo/left_out_minibatches_count"
PPO_POLICY_SKIPPED = "ppo/policy_skipped_steps_count"
PPO_VALUE_SKIPPED = "ppo/value_skipped_steps_count"
PPO_KL_COEFFICIENT = "ppo/kl_coefficient"
PPO_ENTROPY = "ppo/entropy_nats"
PPO_FIRST_RATIO_GAP = "ppo/first_gap_ratio"
PPO_IMPORTANCE_WEIGHT = "ppo/importance_weight_ratio"
PPO_IMPORTANCE_CAPPED = "ppo/importance_capped_fraction"
PPO_EXPLAINED_VARIANCE = "ppo/explained_variance_fraction"
PPO_POLICY_GRADIENT_NORM = "ppo/policy_gradient_norm"
PPO_VALUE_GRADIENT_NORM = "ppo/value_gradient_norm"

TIME_STEP = "time/step_s"
TIME_THROUGHPUT = "time/response_tokens_per_s"
TIME_ROLLOUT = "time/rollout_s"
TIME_SCORE = "time/score_s"
TIME_UPDATE = "time/update_s"
TIME_WEIGHT_PUSH = "time/weight_push_s"
TIME_CHECKPOINT = "time/checkpoint_s"
COST_CPU = "cost/cpu_s"
COST_GPU = "cost/gpu_s"
MEMORY_PEAK = "memory/peak_bytes"
MEMORY_GPU_PEAK = "memory/gpu_peak_bytes"

FAULT_RESTARTS = "faults/restarts_count"
FAULT_RESUMES = "faults/resumes_count"
FAULT_FAILED_SAVES = "faults/failed_saves_count"

TEACHER_CALLS = "teacher/calls_count"
TEACHER_FAILED = "teacher/failed_count"
TEACHER_PROMPT_TOKENS = "teacher/prompt_tokens"
TEACHER_COMPLETION_TOKENS = "teacher/completion_tokens"
TEACHER_SPEND = "teacher/spend_usd"
TEACHER_THROUGHPUT = "teacher/samples_per_s"

METRICS: tuple[str, ...] = tuple(
    value
    for name, value in sorted(globals().items())
    if name.isupper() and isinstance(value, str) and "/" in value
)
"""Every name above."""

PROMETHEUS_METRICS: tuple[str, ...] = (
    ROLLOUT_SCORE,
    ROLLOUT_KL,
    ROLLOUT_LENGTH,
    ROLLOUT_REPETITION,
    ROLLOUT_STOPPED,
    TIME_THROUGHPUT,
    PPO_KL_COEFFICIENT,
    PPO_ENTROPY,
    PPO_POLICY_LOSS,
    PPO_VALUE_LOSS,
    TIME_STEP,
    TIME_ROLLOUT,
    TIME_SCORE,
    TIME_UPDATE,
    TIME_WEIGHT_PUSH,
)
"""The series of PPO that a cluster's Prometheus gets; see `prometheus_name`."""

_NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_@.-]+)+")


def reward_score(name: str) -> str:
    """Name of the metric of one of several rewards."""
    return f"reward/{name}_score"


def unit_of(name: str) -> str:
    """The unit a metric's name ends in, the longest that fits.

    Raises:
        DataError: the name is not `stage/quantity_unit`, or its unit is not in `UNITS`.
    """
    check_name(name)
    quantity = name.rpartition("/")[2]
    fitting = [unit for unit in UNITS if quantity == unit or quantity.endswith(f"_{unit}")]
    if not fitting:
        raise DataError(f"metric {name!r} ends in no known unit; units are {', '.join(UNITS)}")
    return max(fitting, key=len)


def check_name(name: str) -> None:
    """Raise DataError unless a name has the form `stage/quantity_unit`."""
    if not _NAME.fullmatch(name):
        raise DataError(f"metric {name!r} is not of the form stage/quantity_unit, lower case")


def prometheus_name(name: str) -> str:
    """The name as Ray takes it; Prometheus shows it with Ray's prefix `ray_`.

    >>> prometheus_name("rollout/kl_nats")
    'moss_rollout_kl_nats'
    """
    return f"moss_{name.replace('/', '_')}"
