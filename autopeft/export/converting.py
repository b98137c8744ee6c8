"""Converting: a trained candidate in another form, with what that costs measured on what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from autopeft.errors import StorageError
from autopeft.export.bundle import Bundle, Evaluated, Fidelity
from autopeft.export.check import compare_in_fresh_process
from autopeft.export.loading import load_model
from autopeft.export.swap import replacing
from autopeft.export.writer import describe, record, reference_batch, reference_logits, settle_scale

if TYPE_CHECKING:
    from torch import nn

    from autopeft.train.trainer import Trainer

Filler = Callable[[Path, "Trainer", Bundle], tuple[Bundle, str]]
"""Writes the weights of a form into a folder; returns the bundle and what was done, in words."""
Judge = Callable[["nn.Module", Bundle, Fidelity], tuple[Evaluated | None, Fidelity]]
"""Scores the model of a form, where it can, and completes how far it is from what was trained."""
After = Callable[[Path, Bundle], object]


def write_converted(
    draft: Bundle,
    trainer: Trainer,
    filler: Filler,
    judge: Judge,
    *,
    after: After | None = None,
    force: bool = False,
) -> Bundle:
    """Export a trained candidate in another form to `draft.path`; the trainer is used up.

    The logits and the score are those of what was written, loaded again.

    Args:
        after: adds files, before all are described.

    Raises:
        UnsupportedError: the method has no such form.
        ExportError: the directory exists, or the export does not load.
        StorageError: it cannot be written.
    """
    target = Path(draft.path)
    try:
        with replacing(target, force=force) as staging:
            settled = settle_scale(trainer, draft)
            batch = reference_batch(trainer)
            trained = reference_logits(trainer.model, batch)
            made, words = filler(staging, trainer, settled)
            trainer.feed.save(staging)
            if made.form == "merged":
                batch.pop("task_ids", None)
            model = load_model(made.model_copy(update={"path": str(staging)}))
            apart = (record(staging, model, batch) - trained).abs().max() / trained.abs().max().clamp(min=1)
            staged = made.model_copy(update={"path": str(staging)})
            earned, fidelity = judge(model, staged, Fidelity(made=words, logits=float(apart)))
            del model
            if after is not None:
                after(staging, made)
            difference = compare_in_fresh_process(staging, made, str(trainer.device))
            of_form = {} if earned is None else {"test_score": earned.score, "low": earned.low,
                                                 "high": earned.high, "further": earned.further}  # fmt: skip
            whole = made.model_copy(
                update={"fidelity": fidelity, "reference_difference": difference, **of_form}
            )
            return describe(staging, whole, earned)
    except SafetensorError as error:
        raise StorageError(f"the bundle {target} cannot be written: {error}.") from None
    except OSError as error:
        raise StorageError(f"the bundle {target} cannot be written: {error.strerror}.") from None
