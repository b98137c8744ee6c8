"""Loaded: what a model is given in place of labels by a method that takes no loss once it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.utils.other import shift_tokens_right
from torch import nn

_NO_LOSS = ("adalora",)
"""peft's AdaLoRA adds a penalty to every loss, of the adapter that trains; where none trains, it fails."""


def takes_loss(method: str) -> bool:
    """Say whether a method's adapter, loaded for use, may be given labels."""
    return method not in _NO_LOSS


def without_labels(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give an encoder-decoder what it would make its decoder's inputs of; its logits stay the same."""
    given = dict(batch)
    labels = given.pop("labels", None)
    if labels is not None:
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        config = model.config
        given["decoder_input_ids"] = (
            shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)
            if shift is None
            else shift(labels=labels)
        )
    return given


def drop_labels(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do so before every call; a forward hook."""
    return args, without_labels(module, kwargs)
