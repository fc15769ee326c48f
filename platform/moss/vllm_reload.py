"""New weights in a running vLLM engine on CPU, by the copies that vLLM's own reload comes to.

`reload_weights` rebuilds every layer on the meta device, wraps its loaders and loads each tensor
twice: for a small model that takes longer than to copy the weights and to pack them. Where loading
is nothing but copies of whole tensors, a `ReloadPlan` writes them down once, and each push repeats
them and packs again, one layer after the other through one buffer.

This is the one module that leans on what lies inside vLLM's layers. `plan_reload` answers None
wherever something is not as it was tested (GPUs, other releases, processors and quantisations,
layers that are loaded otherwise), and then vLLM's reload has to do the work.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch._ops import OpOverload

_TESTED_RELEASE: Final = "0.32."

_Packing = Callable[[nn.Module], None]
"""Makes the kernel's form of a layer's weight from the plain one."""

_log = logging.getLogger(__name__)


def plan_reload(model: nn.Module, weights: Mapping[str, Tensor]) -> ReloadPlan | None:
    """The copies that load a model, or None where loading is more than copies of whole tensors.

    The model keeps what it holds where the kernels have packed it; what it holds in plain form is
    loaded with `weights`.
    """
    try:
        _require_tested_engine(model)
        return _record(model, weights)
    except Exception as reason:  # a model's loader may raise anything; vLLM's reload decides then
        _log.info("pushed weights go through vLLM's own reload: %s", reason)
        return None


class ReloadPlan:
    """Which pushed tensor goes where, and what the kernels have to pack again after."""

    def __init__(
        self,
        plain: Sequence[_Copy],
        packed: Sequence[_PackedLayer],
        with_packed_copy: Sequence[tuple[nn.Module, _Packing]],
    ) -> None:
        """Args:
        plain: into what the model holds as it was pushed: embeddings, norms, biases.
        packed: layers that hold a packed matrix alone.
        with_packed_copy: those that hold one beside the plain one, which may be another's, as a
            tied head's is.
        """
        self._plain, self._packed, self._with_copy = plain, packed, with_packed_copy

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights of the names and shapes that were planned into the model."""
        for copy in self._plain:
            copy.target.copy_(weights[copy.source])
        for layer in self._packed:
            layer.load(weights)
        for module, pack in self._with_copy:
            pack(module)


class _UnplannedError(Exception):
    """Why a model has no plan."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A whole pushed tensor to its place."""

    source: str
    target: Tensor


@dataclass(frozen=True, slots=True)
class _PackedLayer:
    """A layer whose kernel keeps a packed matrix in the place of its weight."""

    module: nn.Module
    pack: _Packing
    held: nn.Parameter
    """What stands for the weight once it is packed: nothing, with vLLM's marks on it."""
    raw: nn.Parameter
    """What the matrix is packed from, in memory that all layers share."""
    copies: list[_Copy]
    """Into `raw`; they cover it."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        for copy in self.copies:
            copy.target.copy_(weights[copy.source])
        self.module.weight = self.raw
        try:
            self.pack(self.module)
        finally:
            self.module.weight = self.held


class _CopyRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every copy of a pushed tensor; anything else that writes ends the recording."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {_place(tensor): name for name, tensor in weights.items()}
        self.copies: list[_Copy] = []
        self.padding: list[Tensor] = []
        """Parts that loading sets to a constant, for good."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is torch.ops.aten.copy_.default:
            name = self._names.get(_place(args[1]))
            if name is None or args[0].shape != args[1].shape:
                raise _UnplannedError("its loading copies something else than whole tensors")
            self.copies.append(_Copy(name, args[0]))
        elif func is torch.ops.aten.fill_.Scalar:
            self.padding.append(args[0])
        elif func._schema.is_mutable:
            raise _UnplannedError(f"its loading calls {func}")
        return func(*args, **(kwargs or {}))


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _require_tested_engine(model: nn.Module) -> None:
    import vllm
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.platforms import CpuArchEnum, current_platform

    if not vllm.__version__.startswith(_TESTED_RELEASE):
        raise _UnplannedError(f"vLLM {vllm.__version__} is not {_TESTED_RELEASE}x, as tested")
    if not current_platform.is_cpu() or current_platform.is_zen_cpu():
        raise _UnplannedError("only vLLM's own CPU kernels were tested")
    if current_platform.get_cpu_architecture() != CpuArchEnum.X86:
        raise _UnplannedError("only the kernels of x86 processors were tested")
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()):
        raise _UnplannedError("only fp32 weights on the CPU were tested")
    tested = {type(None), UnquantizedLinearMethod, UnquantizedEmbeddingMethod}
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if type(method) not in tested:
            raise _UnplannedError(f"{type(method).__name__} was not tested")
        # The attention layer itself keeps nothing that is computed from weights.
        if hasattr(module, "process_weights_after_loading") and type(module) is not Attention:
            raise _UnplannedError(f"{type(module).__name__} processes weights of its own")


@torch.no_grad()
def _record(model: nn.Module, weights: Mapping[str, Tensor]) -> ReloadPlan:
    """Load once, with meta tensors in the place of weights that only kernels hold."""
    load: Callable[[Iterator[tuple[str, Tensor]]], object] | None
    load = getattr(model, "load_weights", None)
    if load is None:
        raise _UnplannedError(f"{type(model).__name__} has no load_weights")
    emptied = {
        module: weight
        for module in model.modules()
        if (weight := module._parameters.get("weight")) is not None and not weight.numel()
    }
    metas = {module: _meta_weight(module) for module in emptied}
    recorder = _CopyRecorder(weights)
    try:
        for module, meta in metas.items():
            module.weight = meta
        with recorder:
            load(iter(weights.items()))
        _require_whole(model, weights, recorder)
    finally:
        for module, weight in emptied.items():
            module.weight = weight
    return _plan(model, emptied, metas, recorder.copies)


def _plan(
    model: nn.Module,
    emptied: Mapping[nn.Module, nn.Parameter],
    metas: Mapping[nn.Module, nn.Parameter],
    copies: Sequence[_Copy],
) -> ReloadPlan:
    copies_to: defaultdict[int, list[_Copy]] = defaultdict(list)
    for copy in copies:
        copies_to[_storage(copy.target)].append(copy)
    shared = torch.empty(max((meta.numel() for meta in metas.values()), default=0))

    def in_shared(meta: Tensor) -> Tensor:
        return shared.as_strided(meta.shape, meta.stride(), meta.storage_offset())

    packed: list[_PackedLayer] = []
    with_copy: list[tuple[nn.Module, _Packing]] = []
    for module in model.modules():
        pack = _packing(module)
        if pack is None:
            continue
        if module not in emptied:
            with_copy.append((module, pack))
            continue
        meta = metas[module]
        raw = nn.Parameter(in_shared(meta), requires_grad=False)
        into = [_Copy(c.source, in_shared(c.target)) for c in copies_to.pop(_storage(meta))]
        packed.append(_PackedLayer(module, pack, emptied[module], raw, into))
    plain = [copy for group in copies_to.values() for copy in group]
    if any(copy.target.is_meta for copy in plain):
        raise _UnplannedError("a layer without a weight has nothing to pack it with")
    return ReloadPlan(plain, packed, with_copy)


def _packing(module: nn.Module) -> _Packing | None:
    method = getattr(module, "quant_method", None)
    pack: _Packing | None = getattr(method, "process_weights_after_loading", None)
    return pack


def _require_whole(
    model: nn.Module, weights: Mapping[str, Tensor], recorder: _CopyRecorder
) -> None:
    """Refuse a loading that leaves a tensor out, or does not write each parameter once."""
    unread = weights.keys() - {copy.source for copy in recorder.copies}
    if unread:
        raise _UnplannedError(f"its loading does not copy {min(unread)}")
    written: defaultdict[int, list[Tensor]] = defaultdict(list)
    for target in [*(copy.target for copy in recorder.copies), *recorder.padding]:
        written[_storage(target)].append(target)
    for name, parameter in model.named_parameters():
        times = torch.zeros(parameter.untyped_storage().nbytes() // 4, dtype=torch.uint8)
        for target in written.pop(_storage(parameter), []):
            times.as_strided(target.shape, target.stride(), target.storage_offset()).add_(1)
        if not bool((times == 1).all()):
            raise _UnplannedError(f"its loading does not write each value of {name} once")
    if written:
        raise _UnplannedError("its loading writes more than parameters")


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor is a view of; meta tensors, which have no address, have this too."""
    return int(tensor.untyped_storage()._cdata)


def _meta_weight(module: nn.Module) -> nn.Parameter:
    """The weight as it was before it was packed, with its loader, without its values."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.meta import to_meta_tensor
    from vllm.model_executor.model_loader.reload.sanitize import restore_layer_refs

    weight = get_layerwise_info(module).restore_metadata[0].get("weight")
    if weight is None:
        raise _UnplannedError(f"vLLM has no record of the weight of {type(module).__name__}")
    meta: nn.Parameter = restore_layer_refs(to_meta_tensor(weight), module)
    return meta
