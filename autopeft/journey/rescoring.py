"""Rescoring: a bundle scored on its test rows, by a process that has nothing but the bundle and the data.

python -m autopeft.journey.rescoring < asked.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError, InputError
from autopeft.export.bundle import Bundle, Evaluated
from autopeft.export.loading import load_model
from autopeft.export.opening import read_bundle
from autopeft.journey.contest import evaluated
from autopeft.journey.inputs import load_data
from autopeft.message import Message
from autopeft.methods.registry import METHODS
from autopeft.request import Request
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Scale
from autopeft.workload.splits import rows_fingerprint

if TYPE_CHECKING:
    from torch import nn


class Asked(Message):
    """What is to be scored, and on what.

    Attributes:
        rows: fingerprint that the test rows must have.
    """

    place: str
    request: Request
    rows: str


class Rescored(Message):
    """What came of it: a score, or why there is none."""

    evaluated: Evaluated | None = None
    reason: str = ""


def rescore(asked: Asked) -> Evaluated:
    """Load a bundle, whose files the caller has checked, as its card says, and score it on the test rows.

    Raises:
        InputError: the rows cannot be read, or are others.
        ExportError: the bundle does not load.
    """
    bundle = read_bundle(Path(asked.place))
    base, dataset = load_data(asked.request)
    if dataset is None or rows_fingerprint(dataset.test) != asked.rows:
        raise InputError(
            f"the test rows of {bundle.data} are not those that the bundle was scored on; put the old file "
            "back, or name it with --data."
        )
    return score_of(load_model(bundle), bundle, base, dataset)


def score_of(model: nn.Module, bundle: Bundle, base: BaseModel, dataset: Dataset) -> Evaluated:
    """Score a bundle's model on the test rows, which the bundle's own tokenizer or processor makes ready."""
    import torch

    from autopeft.methods.additive import name_task
    from autopeft.methods.loaded import drop_labels, takes_loss
    from autopeft.train.evaluate import evaluate
    from autopeft.train.feed import make_feed
    from autopeft.train.scoring import make_scoring

    training = bundle.candidate.training
    if METHODS[bundle.candidate.method].named_task and bundle.form == "adapter":
        model.register_forward_pre_hook(name_task, with_kwargs=True)
    if not takes_loss(bundle.candidate.method):
        model.register_forward_pre_hook(drop_labels, with_kwargs=True)
    if bundle.task == "regression" and bundle.scale is None:
        _scale_back(model, dataset.scale)
    feed = make_feed(base.model_copy(update={"path": bundle.path}), dataset, training)
    scored = evaluate(
        model,
        feed,
        feed.rows("test"),
        make_scoring(base, dataset, training),
        batch_size=training.batch_size,
        device=torch.device(next(model.parameters()).device),
    )
    return evaluated(bundle.trial, scored, dataset)


def _scale_back(model: nn.Module, scale: Scale) -> None:
    """Have a model that gives the user's numbers give scaled ones, which is what scores are made of."""

    def hook(module: nn.Module, inputs: object, output: Any) -> Any:
        del module, inputs
        output.logits = (output.logits - scale.mean) / scale.deviation
        return output

    model.register_forward_hook(hook)


def main() -> None:
    """Score what stdin asks for, and write the answer on stdout as the last line."""
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    try:
        answer = Rescored(evaluated=rescore(Asked.model_validate_json(sys.stdin.read())))
    except AutopeftError as error:
        answer = Rescored(reason=str(error))
    sys.stdout.write(f"\n{answer.model_dump_json()}\n")


if __name__ == "__main__":
    main()
