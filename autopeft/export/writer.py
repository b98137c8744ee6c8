"""Write a bundle: all of it in a folder beside the target, checked, then put into place at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel

from autopeft.errors import ExportError, StorageError
from autopeft.export.bundle import Bundle, Evaluated
from autopeft.export.card import model_card
from autopeft.export.check import compare_in_fresh_process
from autopeft.export.names import CARD, EVALUATION, MANIFEST, REFERENCE
from autopeft.export.opening import checksums, names_in
from autopeft.export.scale import fold_scale
from autopeft.export.serving import rank_of
from autopeft.export.swap import replacing
from autopeft.files import write_atomically
from autopeft.methods.loaded import takes_loss, without_labels
from autopeft.methods.quantization.loading import packing_of
from autopeft.methods.registry import METHODS
from autopeft.methods.starts import save_adapter
from autopeft.workload.tasks import TASKS

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

_WIDE = 1024
"""Numbers at each place of a row from which on only the last place is compared: a vocabulary."""


def write_bundle(
    draft: Bundle,
    trainer: Trainer,
    *,
    evaluated: Evaluated | None = None,
    after: Callable[[Path, Bundle], object] | None = None,
    force: bool = False,
) -> Bundle:
    """Export a trained candidate to `draft.path`.

    Args:
        draft: what is known of the bundle; the check's result and the checksums are added.
        trainer: holds the trained model.
        evaluated: what it earned on the test rows, row by row.
        after: adds files, before all are described.
        force: replace an existing directory.

    Returns:
        The bundle as written.

    Raises:
        ExportError: the method has no export, the directory exists, or the export does not reproduce the
            logits.
        StorageError: it cannot be written.
    """
    require_exportable(draft.candidate.method)
    target = Path(draft.path)
    try:
        with replacing(target, force=force) as staging:
            filled = fill(staging, trainer, draft)
            if after is not None:
                after(staging, filled)
            difference = compare_in_fresh_process(staging, filled, str(trainer.device))
            checked = filled.model_copy(update={"reference_difference": difference})
            return describe(staging, checked, evaluated)
    except SafetensorError as error:
        raise StorageError(f"the bundle {target} cannot be written: {error}.") from None
    except OSError as error:
        raise StorageError(f"the bundle {target} cannot be written: {error.strerror}.") from None


def require_exportable(method: str) -> None:
    """Check that a method has an export.

    Raises:
        ExportError: it has none.
    """
    if bundle_format(method) == "none":
        raise ExportError(
            f"{method} cannot be exported, as peft does not save it so that it loads again: "
            "export a trial of another method."
        )


def bundle_format(method: str) -> Literal["peft", "autopeft", "model", "none"]:
    """Return how a method's export loads: "peft", "autopeft", "model" or "none"."""
    return METHODS[method].exports


def fill(folder: Path, trainer: Trainer, draft: Bundle) -> Bundle:
    """Write weights, what makes inputs, and the reference's logits; return the bundle that they make."""
    model = trainer.model
    filled = settle_scale(trainer, draft).model_copy(
        update={"loading": loading_of(trainer), "packing": packing_of(model)}
    )
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.inference_mode = True
        save_adapter(model, folder)
    elif isinstance(model, PreTrainedModel):
        name_labels(model, draft.labels)
        model.save_pretrained(str(folder))
    trainer.feed.save(folder)
    record(folder, model, reference_batch(trainer))
    return filled


def settle_scale(trainer: Trainer, draft: Bundle) -> Bundle:
    """Have a model that learnt scaled numbers give the user's, or the bundle say how to have them; once."""
    if TASKS[draft.task].outputs != "number":
        return draft
    return draft.model_copy(update={"scale": fold_scale(trainer.model, trainer.dataset.scale)})


def record(folder: Path, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Write the reference: inputs that hold nothing of the user's data, and the logits that they give."""
    logits = reference_logits(model, batch)
    reference = {name: tensor.tolist() for name, tensor in batch.items()} | {"logits": logits.tolist()}
    write_atomically(folder / REFERENCE, json.dumps(reference))
    return logits


def describe(folder: Path, bundle: Bundle, evaluated: Evaluated | None) -> Bundle:
    """Write the evaluation, the card and the manifest with the checksums of all."""
    if evaluated is not None:
        write_atomically(folder / EVALUATION, evaluated.model_dump_json())
    ranked = bundle.model_copy(
        update={"lora_rank": rank_of(folder), "files": dict.fromkeys(names_in(folder), "")}
    )
    write_atomically(folder / CARD, model_card(ranked))
    whole = ranked.model_copy(update={"files": checksums(folder)})
    write_atomically(folder / MANIFEST, whole.model_dump_json(indent=1))
    return whole


def name_labels(model: PreTrainedModel, labels: tuple[str, ...]) -> None:
    """Have a whole model's configuration say what its classes are called."""
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {name: index for index, name in enumerate(labels)}


def reference_batch(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return inputs that hold nothing of the user's data."""
    batch = {name: tensor.to(trainer.device) for name, tensor in trainer.feed.reference().items()}
    if METHODS[trainer.candidate.method].named_task:
        rows = len(next(iter(batch.values())))
        batch["task_ids"] = torch.zeros(rows, dtype=torch.int64, device=trainer.device)
    return batch if takes_loss(trainer.candidate.method) else without_labels(trainer.model, batch)


def reference_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of the reference; of a vocabulary's at the last place alone."""
    model.eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(**batch).logits.float().cpu()
    return logits[:, -1:] if logits.dim() == 3 and logits.shape[-1] > _WIDE else logits


def loading_of(trainer: Trainer) -> dict[str, int]:
    """Say what a new head needs: its size, and by which token a decoder's knows where a row ends."""
    if not trainer.dataset.outputs:
        return {}
    pad: dict[str, int] = {}
    if trainer.base.family == "decoder":
        config: Any = trainer.model.config
        pad = {"pad_token_id": config.pad_token_id}
    return {"num_labels": trainer.dataset.outputs, **pad}
