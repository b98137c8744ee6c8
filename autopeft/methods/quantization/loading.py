"""What `from_pretrained` needs to load a base model quantised."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from autopeft.errors import UnsupportedError
from autopeft.methods.quantization import rowwise
from autopeft.methods.quantization.convert import kept_modules
from autopeft.methods.quantization.packing import Packing
from autopeft.methods.quantization.schemes import OUTLIER_THRESHOLD, Quantization
from autopeft.optional import require
from autopeft.workload.base_model import BaseModel


def loading_options(
    base: BaseModel, shapes: PreTrainedModel, scheme: Quantization, compute_dtype: torch.dtype
) -> dict[str, Any]:
    """Make the keyword arguments that let `from_pretrained` quantise as `quantize` does.

    Args:
        shapes: the same model on the meta device, to know which modules stay as they are.

    Raises:
        UnsupportedError: the scheme cannot be trained, or needs another checkpoint or a package.
        MissingExtraError: the library is not installed.
    """
    if scheme.ready_made:
        _require_checkpoint(base, scheme)
        return {}
    if not scheme.trainable:
        raise UnsupportedError(f"{scheme.name} can be planned but not trained; train with nf4-dq or int8.")
    if scheme.library == "torchao":
        require("torchao", extra="quant", purpose=f"quantization {scheme.name}")
        options = TorchAoConfig(rowwise.config_of(scheme), modules_to_not_convert=kept_modules(shapes))
        return {"quantization_config": options}
    require("bitsandbytes", extra="quant", purpose=f"quantization {scheme.name}")
    four = scheme.kind == "4bit"
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=four,
            load_in_8bit=not four,
            llm_int8_threshold=OUTLIER_THRESHOLD,
            llm_int8_skip_modules=kept_modules(shapes),
            bnb_4bit_compute_dtype=compute_dtype,
            bnb_4bit_quant_type=scheme.code if four else "fp4",
            bnb_4bit_use_double_quant=scheme.nested,
        )
    }


def packing_of(model: Any) -> Packing | None:
    """Say how to load a base packed as this one is; None where it is not packed."""
    config = getattr(model.config, "quantization_config", None)
    if isinstance(config, BitsAndBytesConfig):
        skipped: Any = config.llm_int8_skip_modules
        dtype: Any = str(config.bnb_4bit_compute_dtype).removeprefix("torch.")
        four = config.load_in_4bit
        return Packing(
            kind="4bit" if four else "8bit",
            skipped=None if skipped is None else tuple(skipped),
            code=config.bnb_4bit_quant_type if four else "fp4",
            nested=config.bnb_4bit_use_double_quant,
            compute_dtype=dtype,
        )
    if isinstance(config, TorchAoConfig):
        kept = config.modules_to_not_convert
        kind: Any = type(config.quant_type).__name__
        return Packing(kind=kind, skipped=None if kept is None else tuple(kept))
    return None


def _require_checkpoint(base: BaseModel, scheme: Quantization) -> None:
    stored = base.config.get("quantization_config") or {}
    if stored.get("quant_method") != scheme.code or stored.get("bits", scheme.bits) != scheme.bits:
        raise UnsupportedError(
            f"{scheme.name} needs a checkpoint of {base.name} that is already quantised so; this one says "
            f"quant_method={stored.get('quant_method')!r}, bits={stored.get('bits')!r}."
        )
    if find_spec(scheme.library) is None:
        raise UnsupportedError(
            f"{scheme.name} can be planned, but to train it install {scheme.library} first."
        )
