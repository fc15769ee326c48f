"""How a model is trained: optimizer, schedule, workers and batch arithmetic."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config
from moss.config.tracking import TrackingConfig


class OptimizerConfig(Config):
    """An optimizer with linear warmup and cosine decay."""

    name: Literal["adamw", "muon"] = "adamw"
    """`muon` updates hidden matrices with Muon and the rest with AdamW: for small models trained
    from nothing. The paper's figures are all AdamW's."""
    muon_ratio: float = Field(5.0, gt=0)
    """Muon's learning rate over AdamW's."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    """Section 3 of the paper (0.9 and 0.95)."""
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    """Section 3; decoupled (AdamW), on matrices only, not on norms and biases."""
    warmup_ratio: float = Field(0.02, ge=0, lt=1)
    """Share of all steps in which the rate rises linearly (2 % in section 3)."""
    final_ratio: float = Field(0.1, ge=0, le=1)
    """Rate at the last step over the peak (3e-6 of 3e-5 in section 3)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm; the paper gives none."""

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Rate of optimizer step `step` (from 0) of `num_steps`.

        The first step is already positive, the peak is reached at the end of the warmup, the last
        step has `final_ratio` of the peak.
        """
        num_warmup = round(self.warmup_ratio * num_steps)
        if step < num_warmup:
            return self.learning_rate * ((step + 1) / num_warmup)
        progress = min(1.0, (step - num_warmup) / max(1, num_steps - 1 - num_warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.learning_rate * (self.final_ratio + (1.0 - self.final_ratio) * cosine)


class ParallelConfig(Config):
    """Workers of one training job and what each of them gets."""

    execution_keys: ClassVar[frozenset[str]] = frozenset(
        {"cpus_per_worker", "collective_timeout_s"}
    )

    num_workers: int = Field(1, ge=1)
    """Processes; one per GPU where there are GPUs."""
    pipeline_stages: int = Field(1, ge=1)
    """Workers that share one copy of the model by layers (2 in section 3)."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: what is sharded over data-parallel workers (1 in section 3, 3 in 5.3)."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (section 5.3)."""
    num_threads: int = Field(2, ge=1)
    """Torch threads of a worker; results repeat bit for bit only at the same count. Threads that
    have to share a core wait for each other busily and lose most of the time: on a machine with
    other work, two workers of one thread are several times faster than one worker of two."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """What Ray reserves for a worker, besides one GPU when `device` is cuda."""
    collective_timeout_s: float = Field(300.0, gt=0)
    """Longest wait of one worker for the others."""

    @model_validator(mode="after")
    def pipeline_stages_divide_workers(self) -> Self:
        """Every pipeline is complete."""
        if self.num_workers % self.pipeline_stages:
            raise ValueError(
                f"num_workers={self.num_workers} does not split into pipelines of pipeline_stages="
                f"{self.pipeline_stages} workers; choose a multiple"
            )
        return self

    @property
    def num_data_workers(self) -> int:
        """Workers, or whole pipelines, that see different examples."""
        return self.num_workers // self.pipeline_stages


class TrainingConfig(Config):
    """One training run: batches, epochs, optimizer, workers, checkpoints."""

    execution_keys: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every_steps", "keep_checkpoints", "max_failures"}
    )

    batch_size: int = Field(32, gt=0)
    """Examples (sequences or preference pairs) per optimizer step over all workers."""
    max_length: int = Field(2048, gt=1)
    """Tokens of the longest example; a longer one is recorded as filtered, never cut."""
    micro_batch_tokens: int = Field(8192, gt=1)
    """Padded tokens that one worker runs forward and backward at once. Changes speed and memory,
    not the result: losses are normalised over the whole batch."""
    num_epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    """Upper bound on optimizer steps, below what the epochs give."""
    checkpoint_every_steps: int = Field(200, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    log_every_steps: int = Field(10, ge=1)
    max_failures: int = Field(0, ge=0)
    """Restarts of crashed workers from the last checkpoint before the job fails."""
    optimizer: OptimizerConfig
    parallel: ParallelConfig = ParallelConfig()
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go besides `metrics.jsonl` and TensorBoard."""

    @model_validator(mode="after")
    def batch_splits_over_workers(self) -> Self:
        """Every data-parallel worker gets the same whole number of examples."""
        workers = self.parallel.num_data_workers
        if self.batch_size % workers:
            lower = self.batch_size // workers * workers
            raise ValueError(
                f"batch_size={self.batch_size} over {workers} data-parallel workers "
                f"(num_workers={self.parallel.num_workers} / pipeline_stages="
                f"{self.parallel.pipeline_stages}) is {self.batch_size / workers:.2f} examples "
                f"each; choose {' or '.join(str(n) for n in (lower, lower + workers) if n)}"
            )
        return self

    @model_validator(mode="after")
    def muon_needs_whole_matrices(self) -> Self:
        """A shard of a matrix has no orthogonal neighbor, and bf16 steps are clipped elsewhere."""
        parallel = self.parallel
        whole = parallel.zero_stage == 0 and parallel.precision == "fp32"
        if self.optimizer.name == "muon" and not whole:
            raise ValueError(
                f"optimizer.name=muon with zero_stage={parallel.zero_stage}, precision="
                f"{parallel.precision}; muon runs with zero_stage=0 and precision=fp32 only, "
                "choose adamw"
            )
        return self

    @model_validator(mode="after")
    def longest_example_fits_micro_batch(self) -> Self:
        """One example of `max_length` fits into one micro-batch."""
        if self.micro_batch_tokens < self.max_length:
            raise ValueError(
                f"micro_batch_tokens={self.micro_batch_tokens} is below max_length="
                f"{self.max_length}, so the longest example fits no micro-batch; raise the first"
            )
        return self

    def num_steps(self, num_examples: int) -> int:
        """Optimizer steps over `num_epochs` of `num_examples`; only whole batches count."""
        steps = num_examples * self.num_epochs // self.batch_size
        return steps if self.max_steps is None else min(steps, self.max_steps)
