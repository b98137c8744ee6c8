"""As LoRA: the update of another method as plain LoRA, by peft's truncated singular values, for servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora.conversion import convert_to_lora
from safetensors.torch import save_file

from autopeft.errors import ExportError, UnsupportedError
from autopeft.export.bundle import Bundle
from autopeft.export.writer import loading_of
from autopeft.files import write_atomically
from autopeft.methods.quantization.loading import packing_of
from autopeft.methods.registry import METHODS

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

RANK = 16
"""Rank where nobody says another; what it loses is measured."""

_LORA_FACTORS = (".lora_A.weight", ".lora_B.weight")


def fill_lora(folder: Path, trainer: Trainer, draft: Bundle, rank: int | None = None) -> tuple[Bundle, str]:
    """Write what a trainer trained as plain LoRA of one rank, its head as it is.

    Returns:
        The bundle, and what was done, in words.

    Raises:
        UnsupportedError: the method is no update of matrices, is LoRA already, or the rank is too large.
        ExportError: peft cannot convert it here.
    """
    spec, model, chosen = METHODS[draft.candidate.method], trainer.model, rank or RANK
    if _is_plain_lora(model) and "vllm" in spec.served:
        raise UnsupportedError(f"{spec.name} is exported as plain LoRA anyway: leave out --to-lora.")
    if not isinstance(model, PeftModel) or not model.supports_lora_conversion():
        raise UnsupportedError(
            f"peft has no conversion of {spec.name} to LoRA: export it as it is, or --merged where its "
            "update folds into the weights (`autopeft methods --merges`)."
        )
    bundle = draft.model_copy(
        update={
            "form": "lora",
            "format": "peft",
            "loading": loading_of(trainer),
            "packing": packing_of(model),
        }
    )
    try:
        config, converted = convert_to_lora(model, rank=chosen)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"{spec.name} cannot be converted to LoRA of rank {chosen}: {reason}") from None
    _write(folder, model, config, converted)
    return (
        bundle,
        f"the update of {spec.name} as LoRA of rank {chosen}, the closest of that rank to each matrix",
    )


def _write(folder: Path, model: PeftModel, config: LoraConfig, converted: dict[str, Any]) -> None:
    """Write config and weights; the trained head is taken as peft saves it."""
    config.task_type = model.active_peft_config.task_type
    config.inference_mode = True
    targets = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in converted
               if name.endswith(_LORA_FACTORS)}  # fmt: skip
    config.layers_to_transform = config.layers_pattern = None
    factors = {name: each.contiguous() for name, each in converted.items() if name.endswith(_LORA_FACTORS)}
    saved = {f".{kept}." for kept in model.modules_to_save or ()}
    heads = {
        name: each.contiguous()
        for name, each in get_peft_model_state_dict(model).items()
        if any(part in f".{name}." for part in saved)
    }
    save_file({**factors, **heads}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = config.to_dict() | {"target_modules": sorted(targets)}
    fields = {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}
    write_atomically(folder / "adapter_config.json", json.dumps(fields, indent=2, default=str))


def _is_plain_lora(model: object) -> bool:
    if not isinstance(model, PeftModel):
        return False
    config = model.active_peft_config
    return isinstance(config, LoraConfig) and not getattr(config, "use_dora", False)
