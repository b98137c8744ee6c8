"""Stock: what the trials of one worker process share, so that none of them makes it anew."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from transformers import PreTrainedModel

from autopeft.methods.backbone import build_backbone
from autopeft.methods.registry import find_method
from autopeft.space.candidate import Candidate, Training
from autopeft.train.feed import Feed, make_feed
from autopeft.train.pristine import Pristine
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset

MOST_BASES = 4
"""Bases that are kept: one for each dtype, quantisation, dropout and seed that the last trials had."""

# What neither a base nor rows depend on; and what rows do not depend on either.
_OF_THE_STEPS = (
    *("learning_rate", "batch_size", "grad_accum", "epochs", "warmup_share", "schedule", "weight_decay"),
    *("max_grad_norm", "optimizer", "loss", "beta", "packing"),
)
_OF_THE_BASE = ("dropout", "gradient_checkpointing", "attention")

_Key = tuple[str, bytes]
"""What a base depends on: the candidate without what it does not depend on, and torch's generator."""


class Stock:
    """Rows made ready and base models, kept from trial to trial; empty in every new process.

    Of rows those of the last trial are kept; of bases `MOST_BASES`, but only one that the process holds in
    memory of its own (see `Pristine`).
    """

    def __init__(self, base: BaseModel, dataset: Dataset) -> None:
        self._base = base
        self._dataset = dataset
        self._feed: tuple[Training, Feed[Any]] | None = None
        self._bases: OrderedDict[_Key, tuple[Pristine, torch.Tensor]] = OrderedDict()
        self._unfit: set[str] = set()

    def __reduce__(self) -> tuple[type, tuple[BaseModel, Dataset]]:
        """Travel empty to other processes."""
        return Stock, (self._base, self._dataset)

    def feed(self, training: Training) -> Feed[Any]:
        """Return what feeds the dataset; rows that it made ready stay so.

        Raises:
            InputError: the model's tokenizer or processor is missing or malformed.
        """
        asked = _without(training, _OF_THE_STEPS + _OF_THE_BASE)
        if self._feed is None or self._feed[0] != asked:
            self._feed = None
            self._feed = asked, make_feed(self._base, self._dataset, asked)
        return self._feed[1]

    def backbone(self, candidate: Candidate) -> PreTrainedModel:
        """Return the base model of a candidate, to the bit as `build_backbone` would load it.

        A new head is drawn from torch's generator, so its state is part of what a base is known by, and it
        is left as loading leaves it. A method that writes to the whole base would hold it twice where it
        lies in memory: such a method loads its own, and none is held in memory beside it.

        Raises: as `build_backbone`.
        """
        asked = Candidate(
            method="full",
            quantization=candidate.quantization,
            training=_without(candidate.training, _OF_THE_STEPS),
        )
        state = torch.get_rng_state()
        key = asked.key, state.numpy().tobytes()
        writes = _writes(candidate)
        if writes:
            self._drop_those_in_memory()
        if key in self._bases:
            self._bases.move_to_end(key)
            pristine, after = self._bases[key]
            torch.set_rng_state(after)
            return pristine.copy()
        model = load_backbone(self._base, self._dataset, asked)
        if writes or key[0] in self._unfit:
            return model
        after = torch.get_rng_state()
        try:
            pristine = Pristine(model)
            found = pristine.copy()
        except (OSError, TypeError, RuntimeError):  # weights that cannot be kept, a module that has no copy
            self._unfit.add(key[0])
            torch.set_rng_state(state)
            return load_backbone(self._base, self._dataset, asked)
        self._keep(key, pristine, after)
        return found

    def _keep(self, key: _Key, pristine: Pristine, after: torch.Tensor) -> None:
        if pristine.bytes_in_memory:
            self._drop_those_in_memory()
        self._bases[key] = pristine, after
        if len(self._bases) > MOST_BASES:
            self._bases.popitem(last=False)

    def _drop_those_in_memory(self) -> None:
        for key in [key for key, (pristine, _) in self._bases.items() if pristine.bytes_in_memory]:
            del self._bases[key]


def load_backbone(base: BaseModel, dataset: Dataset, candidate: Candidate) -> PreTrainedModel:
    """Load the base model that a candidate adapts, with the head that the dataset needs.

    Raises: as `build_backbone`.
    """
    return build_backbone(
        *(base, dataset.task, dataset.outputs, candidate.training),
        weights=True,
        quantization=candidate.quantization,
    )


def _writes(candidate: Candidate) -> bool:
    """Say whether a method writes to the whole base."""
    spec = find_method(candidate.method)
    return spec.exports == "model" or spec.moves_base


def _without(training: Training, fields: tuple[str, ...]) -> Training:
    """Return the training with some knobs at their defaults."""
    defaults = {name: Training.model_fields[name].default for name in fields}
    return training.model_copy(update=defaults)
