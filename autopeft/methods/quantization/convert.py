"""Quantise a built model in place: real tensors to real layers, fake ones to stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationMethod

from autopeft.errors import UnsupportedError
from autopeft.methods.quantization import packed, rowwise
from autopeft.methods.quantization.schemes import Quantization, find_quantization
from autopeft.optional import require

# What transformers calls the heads that are made anew for a task, which must stay trainable.
_HEADS = frozenset(("score", "classifier", "classification_head", "pre_classifier", "qa_outputs"))
_METHODS = {
    "4bit": QuantizationMethod.BITS_AND_BYTES,
    "8bit": QuantizationMethod.BITS_AND_BYTES,
    "int8": QuantizationMethod.TORCHAO,
    "float8_e4m3fn": QuantizationMethod.TORCHAO,
    "torchao": QuantizationMethod.TORCHAO,
    "gptq": QuantizationMethod.GPTQ,
    "awq": QuantizationMethod.AWQ,
    "hqq": QuantizationMethod.HQQ,
}


def quantize(model: PreTrainedModel, scheme: str | Quantization, compute_dtype: torch.dtype) -> list[str]:
    """Replace the linear layers that transformers would quantise, and mark the model as it would.

    Fake and meta tensors become stand-ins that allocate on whatever mode is active; real tensors are
    quantised where they are. Output embeddings, tied layers and task heads stay as they are.

    Returns:
        What a user should know: weights that this scheme leaves alone, and what was guessed.

    Raises:
        UnknownNameError: nobody knows the scheme.
        UnsupportedError: real weights cannot be quantised so here.
        MissingExtraError: the library is not installed.
    """
    row = find_quantization(scheme) if isinstance(scheme, str) else scheme
    if row.kind == "none":
        return []
    shapes_only = _has_no_data(model)
    if not shapes_only and (row.ready_made or not row.trainable):
        raise UnsupportedError(
            f"{row.name} can be planned, but autopeft cannot make it; take nf4-dq or int8."
        )
    require_library(row)
    keep = kept_modules(model)
    for name, module in list(model.named_modules()):
        if not (_converts(module, row) and should_convert_module(name, keep)):
            continue
        new = _stand_in(module, row, compute_dtype) if shapes_only else _quantised(module, row, compute_dtype)
        new.bias = module.bias
        new.train(module.training)
        new.source_cls = type(module)
        model.set_submodule(name, new)
        new.requires_grad_(False)
    _mark(model, row)
    return notes_on(model, row)


def notes_on(model: nn.Module, scheme: Quantization) -> list[str]:
    """Say what a scheme leaves in full precision, and what about it is a guess."""
    notes = []
    stacked = [p for _, p in stacked_experts(model)]
    if stacked:
        size = sum(p.numel() for p in stacked)
        text = (
            f"{size / 1e9:.1f} B weights of experts lie in 3-D parameters, which {scheme.name} leaves as "
            "they are"
        )
        if scheme.ready_made:
            text += "; a checkpoint that holds them quantised needs less"
        notes.append(f"{text}.")
    if scheme.modelled:
        notes.append(f"{scheme.name} is modelled after {scheme.source}, not measured.")
    if scheme.kind == "8bit":
        notes.append("int8: no column of activations is taken to hold outliers.")
    return notes


def stacked_experts(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that hold a matrix per expert; only `nn.Linear` is ever quantised."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 3 and "expert" in name:
            yield name, parameter


def kept_modules(model: PreTrainedModel) -> list[str]:
    """Name the modules that stay in full precision, as transformers' `*_skip_modules` wants them.

    transformers' own choice, which misses a task head with a bias, and the heads.
    """
    keep = {*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())}
    keep |= {name for name, _ in model.named_children() if name in _HEADS}
    return sorted(keep)


def state_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield what a quantised model holds beside its packed weights: scales, zeros, code tables."""
    for module in model.modules():
        if isinstance(module, packed.PackedLinear):
            yield from packed.state_of(module)
        elif isinstance(module, nn.Linear):
            yield from rowwise.state_of(module) or _bnb_state(module)


def materialise(model: nn.Module) -> None:
    """Give tensors on the meta device memory under the active mode, each shared one once."""
    made: dict[int, Any] = {}

    def fresh(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            new = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
            made[id(tensor)] = (tensor, new)
        new_tensor: torch.Tensor = made[id(tensor)][1]
        return new_tensor

    for module in model.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for held in places:
            for name, value in held.items():
                if isinstance(value, torch.Tensor) and _is_meta(value):
                    held[name] = fresh(value)


def require_library(scheme: Quantization) -> None:
    """Check that the library is there whose classes peft must recognise.

    Raises:
        MissingExtraError: it is not.
    """
    if scheme.library == "bitsandbytes":
        require("bitsandbytes", extra="quant", purpose=f"quantization {scheme.name}")


def _converts(module: nn.Module, scheme: Quantization) -> bool:
    """Say whether a library takes modules of this very type: Conv1D is GPT-2's transposed linear."""
    also_conv1d = scheme.library == "bitsandbytes" or scheme.code == "gptq"
    return type(module) is nn.Linear or (also_conv1d and isinstance(module, Conv1D))


def _stand_in(module: Any, scheme: Quantization, compute_dtype: torch.dtype) -> nn.Linear:
    weight = module.weight
    shape = weight.shape[::-1] if isinstance(module, Conv1D) else weight.shape
    if scheme.kind == "rowwise":
        return rowwise.fake_linear(shape, scheme, weight.dtype)
    if scheme.kind == "packed":
        return packed.fake_linear(shape, scheme, compute_dtype)
    from autopeft.methods.quantization import bnb

    return bnb.fake_linear(shape, scheme, weight.dtype, compute_dtype)


def _quantised(module: Any, scheme: Quantization, compute_dtype: torch.dtype) -> Any:
    weight = module.weight.data
    weight = weight.T if isinstance(module, Conv1D) else weight
    if scheme.kind == "rowwise":
        require("torchao", extra="quant", purpose=f"quantization {scheme.name}")
        return rowwise.real_linear(weight, scheme)
    from autopeft.methods.quantization import bnb

    return bnb.real_linear(weight, scheme, compute_dtype)


def _bnb_state(module: nn.Linear) -> list[torch.Tensor]:
    """Return bitsandbytes' statistics without importing it for a model that has none."""
    if not any(base.__module__.startswith("bitsandbytes.") for base in type(module).__mro__):
        return []
    from autopeft.methods.quantization import bnb

    return bnb.state_of(module)


def _mark(model: Any, scheme: Quantization) -> None:
    """Set what transformers sets on load and peft reads to choose its layers."""
    model.is_quantized = True
    model.quantization_method = _METHODS[scheme.kind if scheme.library == "bitsandbytes" else scheme.code]
    if scheme.library == "bitsandbytes":
        setattr(model, f"is_loaded_in_{scheme.kind}", True)


def _has_no_data(model: nn.Module) -> bool:
    return any(isinstance(p, FakeTensor) or _is_meta(p) for p in model.parameters())


def _is_meta(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "meta" and not isinstance(tensor, FakeTensor)
