"""Loading: the lines of Python that load a bundle, as a user would type them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autopeft.errors import ExportError
from autopeft.export.bundle import Bundle
from autopeft.space.candidate import Precision

if TYPE_CHECKING:
    from torch import nn

DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_PEFT_LOADS = ("CausalLM", "Seq2SeqLM", "SequenceClassification", "TokenClassification")
"""Heads that peft has an `AutoPeftModelFor...` of."""


def dtype_of(bundle: Bundle) -> str:
    """Return the dtype that a bundle's weights are loaded in, as torch calls it."""
    return bundle.dtype or DTYPES[bundle.candidate.training.precision]


def loading_code(bundle: Bundle, path: str) -> tuple[str, str]:
    """Return the imports and the expression that load a bundle.

    Args:
        path: an expression of the bundle's directory.
    """
    head, packing = bundle.head, bundle.packing
    imports, packed = (packing.imports, packing.argument) if packing else ("", "")
    more = f', dtype="{dtype_of(bundle)}"{packed}'
    if bundle.format == "model":
        return f"from transformers import {head}", f"{head}.from_pretrained({path}{more})"
    more += "".join(f", {name}={value}" for name, value in bundle.loading.items())
    ours = "import autopeft.adapters\n" if bundle.format == "autopeft" else ""
    of = head.removeprefix("AutoModelFor")
    if of in _PEFT_LOADS:
        auto = f"AutoPeftModelFor{of}"
        return f"{imports}{ours}from peft import {auto}", f"{auto}.from_pretrained({path}{more})"
    base = f"PeftConfig.from_pretrained({path}).base_model_name_or_path"
    return (
        f"{imports}{ours}from peft import PeftConfig, PeftModel\nfrom transformers import {head}",
        f"PeftModel.from_pretrained({head}.from_pretrained({base}{more}), {path})",
    )


def load_model(bundle: Bundle) -> nn.Module:
    """Load a bundle's model by the lines of its card, onto the GPU where there is one.

    Raises:
        ExportError: it does not load.
    """
    import torch

    imports, loader = loading_code(bundle, "folder")
    names: dict[str, Any] = {"folder": bundle.path}
    try:
        # Lines of our own, made of the manifest's data: numbers, and words out of fixed lists.
        exec(imports, names)  # noqa: S102
        model: nn.Module = eval(loader, names)  # noqa: S307
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"the bundle {bundle.path} does not load: {reason}") from None
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # a kernel of bitsandbytes that rounds to bf16
            module.support_avx512bf16_for_cpu = False
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
