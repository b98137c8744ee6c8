"""Merged: the update folded into the weights, as a whole model that needs no peft."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import PeftModel

from autopeft.errors import ExportError, UnsupportedError
from autopeft.export.bundle import Bundle
from autopeft.export.writer import name_labels
from autopeft.methods.quantization.loading import packing_of
from autopeft.methods.registry import METHODS
from autopeft.methods.starts import save_adapter

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

Dtype = Literal["float32", "bfloat16"]
_TRAINED: dict[str, Dtype] = {"fp32": "float32", "bf16": "bfloat16"}


def fill_merged(
    folder: Path, trainer: Trainer, draft: Bundle, dtype: Dtype | None = None
) -> tuple[Bundle, str]:
    """Fold what a trainer trained into the weights and write the whole model; the trainer is used up.

    A packed base is unpacked first: its weights are those that the adapter was trained on, not the
    checkpoint's.

    Args:
        dtype: of the weights written; None is that of the training.

    Returns:
        The bundle, and what was done, in words.

    Raises:
        UnsupportedError: the method does not fold into weights.
        ExportError: peft cannot fold it here.
    """
    spec = METHODS[draft.candidate.method]
    if not (spec.mergeable or spec.exports == "model"):
        raise UnsupportedError(
            f"{spec.name} does not fold into the weights of a model: export it as it is, or take a method "
            "that does (`autopeft methods --merges`)."
        )
    as_trained = _TRAINED.get(draft.candidate.training.precision, "float32")
    chosen: Dtype = dtype or as_trained
    packed = packing_of(trainer.model)
    bundle = draft.model_copy(
        update={"form": "merged", "format": "model", "dtype": chosen, "loading": {}, "packing": None}
    )
    try:
        model = _unpacked(trainer, draft) if packed else trainer.model
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"{spec.name} cannot be folded into this model: {reason}") from None
    whole: Any = model.to(getattr(torch, chosen))
    name_labels(whole, draft.labels)
    whole.save_pretrained(str(folder))
    parts = ["the update folded into the weights"] if spec.exports != "model" else ["the whole model"]
    if packed:
        parts.insert(0, f"the base unpacked from {draft.candidate.quantization}")
    if chosen != as_trained:
        parts.append(f"rounded to {chosen}")
    return bundle, ", ".join(parts)


def _unpacked(trainer: Trainer, draft: Bundle) -> Any:
    """Return the adapter on its base, whose packed weights are numbers again."""
    from autopeft.train.stock import load_backbone

    if not isinstance(trainer.model, PeftModel):
        raise ExportError(
            f"{draft.candidate.method} trains parts of a packed model in place, which cannot be unpacked."
        )
    torch.manual_seed(trainer.seed)
    base: Any = load_backbone(trainer.base, trainer.dataset, trainer.candidate)
    with tempfile.TemporaryDirectory() as place:
        save_adapter(trainer.model, Path(place))
        dtype = getattr(torch, _TRAINED.get(draft.candidate.training.precision, "float32"))
        return PeftModel.from_pretrained(base.dequantize(dtype=dtype), place)
