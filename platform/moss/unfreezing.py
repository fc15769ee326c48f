"""Gradual parameter unfreezing: which parameters move in which steps (paper section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from moss.config.unfreezing import UnfreezingConfig
from moss.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps `start` to `end` (not included)."""

    start: int
    end: int
    trainable: Literal["new_rows", "embeddings_and_edges", "all"]


def plan_phases(config: UnfreezingConfig | None, num_steps: int) -> list[Phase]:
    """Cut `num_steps` into phases; without a config, one phase in which everything moves.

    A phase too short for one step is left out.
    """
    if config is None:
        return [Phase(0, num_steps, "all")]
    phases: list[Phase] = []
    start, share = 0, 0.0
    for phase in config.phases:
        share += phase.share
        end = num_steps if phase is config.phases[-1] else round(share * num_steps)
        if end > start:
            phases.append(Phase(start, end, phase.trainable))
            start = end
    return phases


def freeze_for_phase(
    model: PreTrainedModel, phase: Phase, *, num_edge_layers: int, num_base_rows: int
) -> None:
    """Set `requires_grad` for a phase, on a model fresh from `build_policy` or a checkpoint.

    In a `new_rows` phase the base rows of embedding and head get zero gradient. That keeps them
    bitwise as they are only without weight decay, which the trainer switches off for the phase.

    Raises:
        ConfigError: the model has no more rows than the base vocabulary.
    """
    if phase.trainable == "all":
        return
    ends = _embedding_and_head(model)
    names = {id(parameter) for parameter in ends}
    if phase.trainable == "embeddings_and_edges":
        layers = _blocks(model)
        edges = [*layers[:num_edge_layers], *layers[max(0, len(layers) - num_edge_layers) :]]
        names |= {id(parameter) for layer in edges for parameter in layer.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in names)
    if phase.trainable == "new_rows" and num_base_rows:
        rows = ends[0].shape[0]
        if num_base_rows >= rows:
            raise ConfigError(
                f"unfreezing.num_base_rows={num_base_rows}, but the model has {rows} rows in all: "
                "there is no new row to train; correct it or drop the new_rows phase"
            )
        for parameter in ends:
            Tensor.register_hook(parameter, _still_rows(num_base_rows))  # type: ignore[no-untyped-call]


def _still_rows(num_rows: int) -> Callable[[Tensor], Tensor]:
    def zero_base_rows(gradient: Tensor) -> Tensor:
        still = gradient.clone()
        still[:num_rows] = 0
        return still

    return zero_base_rows


def _embedding_and_head(model: PreTrainedModel) -> list[nn.Parameter]:
    """Weights of the input embedding and LM head; one when they are tied."""
    found: dict[int, nn.Parameter] = {}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for parameter in module.parameters():
            found[id(parameter)] = parameter
    return list(found.values())


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    body = model.base_model
    return list(body.layers if hasattr(body, "layers") else body.h)
