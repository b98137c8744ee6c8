"""Write a bundle: all of it in a folder beside the target, checked, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel

from autopeft.errors import ExportError, StorageError
from autopeft.export.bundle import Bundle
from autopeft.export.card import model_card
from autopeft.export.check import REFERENCE, compare_in_fresh_process
from autopeft.export.scale import fold_scale
from autopeft.files import make_folder, write_atomically
from autopeft.methods.quantization.loading import loading_recipe
from autopeft.methods.registry import METHODS
from autopeft.methods.starts import save_adapter
from autopeft.workload.tasks import TASKS

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

_WIDE = 1024
"""Numbers at each place of a row from which on only the last place is compared: a vocabulary."""


def write_bundle(draft: Bundle, trainer: Trainer, *, force: bool = False) -> Bundle:
    """Export a trained candidate to `draft.path`.

    Args:
        draft: what is known of the bundle; the check's result and the checksums are added.
        trainer: holds the trained model.
        force: replace an existing directory.

    Returns:
        The bundle as written.

    Raises:
        ExportError: the method has no export, the directory exists, or the export does not reproduce the
            logits.
        StorageError: it cannot be written.
    """
    if draft.format == "none":
        raise ExportError(
            f"{draft.candidate.method} cannot be exported, as peft does not save it so that it loads again: "
            "export a trial of another method."
        )
    target = Path(draft.path)
    if target.exists() and not force:
        raise ExportError(f"{target} exists already; name another place with --out or pass --force.")
    make_folder(target.parent)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        draft = draft.model_copy(update={"loading": _loading(trainer)})
        if TASKS[draft.task].outputs == "number":
            draft = draft.model_copy(update={"scale": fold_scale(trainer.model, trainer.dataset.scale)})
        _fill(staging, trainer, draft)
        packing = loading_recipe(trainer.model)
        difference = compare_in_fresh_process(
            staging,
            draft.format,
            draft.head,
            draft.loading,
            draft.candidate.training.precision,
            str(trainer.device),
            packing,
        )
        checked = draft.model_copy(update={"reference_difference": difference, "packing": packing})
        write_atomically(staging / "README.md", model_card(checked))
        bundle = checked.model_copy(update={"files": _checksums(staging)})
        write_atomically(staging / "autopeft.json", bundle.model_dump_json(indent=1))
        staging.chmod(0o755)
        _swap(staging, target)
    except SafetensorError as error:
        raise StorageError(f"the bundle {target} cannot be written: {error}.") from None
    except OSError as error:
        raise StorageError(f"the bundle {target} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return bundle


def bundle_format(method: str) -> str:
    """Return how a method's export loads: "peft", "autopeft", "model" or "none"."""
    return METHODS[method].exports


def _loading(trainer: Trainer) -> dict[str, int]:
    """Say what a new head needs: its size, and by which token a decoder's knows where a row ends."""
    if not trainer.dataset.outputs:
        return {}
    pad: dict[str, int] = {}
    if trainer.base.family == "decoder":
        config: Any = trainer.model.config
        pad = {"pad_token_id": config.pad_token_id}
    return {"num_labels": trainer.dataset.outputs, **pad}


def _fill(folder: Path, trainer: Trainer, draft: Bundle) -> None:
    model = trainer.model
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.inference_mode = True
    elif isinstance(model, PreTrainedModel) and draft.labels:
        model.config.id2label = dict(enumerate(draft.labels))
        model.config.label2id = {name: index for index, name in enumerate(draft.labels)}
    if isinstance(model, PeftModel):
        save_adapter(model, folder)
    elif isinstance(model, PreTrainedModel):
        model.save_pretrained(str(folder))
    trainer.feed.save(folder)
    batch = {name: tensor.to(trainer.device) for name, tensor in trainer.feed.reference().items()}
    if METHODS[draft.candidate.method].named_task:
        rows = len(next(iter(batch.values())))
        batch["task_ids"] = torch.zeros(rows, dtype=torch.int64, device=trainer.device)
    model.eval()
    with torch.inference_mode():
        logits = model(**batch).logits
    if logits.dim() == 3 and logits.shape[-1] > _WIDE:
        logits = logits[:, -1:]
    reference = {name: tensor.tolist() for name, tensor in batch.items()} | {"logits": logits.tolist()}
    write_atomically(folder / REFERENCE, json.dumps(reference))


def _checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def _swap(staging: Path, target: Path) -> None:
    """Put the finished folder in place of the old; a crash leaves one of them whole."""
    if target.exists():
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
        target.rename(old / target.name)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)
