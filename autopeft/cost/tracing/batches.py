"""Batches: what a trainer would feed to a model of any family, of the true shape and made-up content."""

from __future__ import annotations

import math
from typing import assert_never

import torch
from transformers import PretrainedConfig

from autopeft.errors import InputError
from autopeft.methods.heads import head_family
from autopeft.workload.base_model import Family
from autopeft.workload.batching import require_packable
from autopeft.workload.senses import (
    hears_waveforms,
    image_channels,
    image_side,
    masks_sounds,
    samples_of,
    spectrogram_frames,
)
from autopeft.workload.tasks import TASKS, Task

Batch = dict[str, torch.Tensor]

# Side in pixels of an image where the model takes any size, as long as it fits into half of the row.
_USUAL_SIDE = 448
_ANY_SIZE = frozenset(("qwen2_vl",))
_FIXED_SIZE = frozenset(("llava",))
_WORD, _OTHER_WORD = 1, 3


def make_batch(
    config: PretrainedConfig,
    family: Family,
    task: Task,
    *,
    rows: int,
    length: int,
    padded: bool,
    labels: int,
    packed: bool = False,
    target_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Make a micro-batch for the model that a configuration describes.

    A row is text of `length` tokens; for an encoder-decoder, a source of `length` and a target of
    `target_length`; for a vision model, one image of the size that its processor makes; for Whisper, 30
    seconds of sound and a transcript of `length`; for a model of waveforms, the samples of `length` places;
    for a model of images and text, one image and text, `length` tokens together (`assumptions` says what is
    made up).

    A pair of answers is two rows, each of `length` with its prompt.

    Args:
        length: tokens of a row.
        padded: one row is a token shorter than the others, so that its padding has to be masked.
        labels: how many numbers a new head gives; 1 is a regression.
        packed: rows are packed documents without padding, in the one long row that TRL makes of them.
        target_length: tokens of a target; None takes it to be as long as its source.
        dtype: what the weights are kept in; spectrograms come in it, pixels always as float32.

    Raises:
        InputError: a row does not fit the model, or an image does not fit the row.
        UnsupportedError: such batches cannot be packed, or nobody knows what they look like.
    """
    kind = head_family(family, config.model_type)
    rows = 2 * rows if task == "dpo" else rows
    if packed:
        require_packable(kind, config.model_type, task)
    target = target_length or length
    batch: Batch
    match kind:
        case "decoder" | "encoder":
            batch = _packed(rows, length) if packed else _text(rows, length, padded=padded)
        case "encoder-decoder":
            batch = _source(config, rows, length, padded=padded)
        case "vision":
            batch = {"pixel_values": _images(config, rows)}
        case "speech":
            batch = _sounds(config, rows, length, dtype, padded=padded)
            target = _transcript_length(config, target) if task == "sft" else target
        case "multimodal":
            batch = _text_with_image(config, rows, length, padded=padded)
        case _:
            assert_never(kind)
    if TASKS[task].new_head and TASKS[task].each_token:
        batch["labels"] = torch.zeros((rows, length), dtype=torch.int64)
    elif TASKS[task].new_head:
        batch["labels"] = torch.zeros(rows, dtype=torch.float32 if labels == 1 else torch.int64)
    elif kind in ("encoder-decoder", "speech"):
        batch["labels"] = torch.ones((rows, target), dtype=torch.int64)
    else:
        batch["labels"] = batch["input_ids"].clone()
    return batch


def assumptions(
    config: PretrainedConfig, family: Family, task: Task, length: int, target_length: int | None = None
) -> tuple[str, ...]:
    """Say what `make_batch` made up beside the length of a row, each in one phrase."""
    kind = head_family(family, config.model_type)
    if kind == "encoder-decoder" and task == "sft" and target_length is None:
        return ("targets taken to be as long as their sources",)
    if kind == "vision":
        return (f"images of {image_side(config)} x {image_side(config)} pixels",)
    if kind == "multimodal" and config.model_type in _ANY_SIZE:
        side = _open_side(config, length)
        return (f"one image of {side} x {side} pixels in each row",)
    if kind == "multimodal":
        return ("one image in each row" if config.model_type in _FIXED_SIZE else "rows without images",)
    return ()


def _text(rows: int, length: int, *, padded: bool) -> Batch:
    ids = torch.ones((rows, length), dtype=torch.int64)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _packed(rows: int, length: int) -> Batch:
    """Join rows to one, each of two documents: two are as good as many, one would be no packing."""
    half = length // 2
    positions = [*range(half), *range(length - half)] * rows
    return {
        "input_ids": torch.ones((1, rows * length), dtype=torch.int64),
        "position_ids": torch.tensor([positions]),
    }


def _source(config: PretrainedConfig, rows: int, length: int, *, padded: bool) -> Batch:
    """Make text that ends with one end token, which is where a classification head of BART or T5 reads."""
    end = config.eos_token_id if isinstance(config.eos_token_id, int) else _WORD
    word = _WORD if end != _WORD else _OTHER_WORD
    ids = [[word] * (length - 1) + [end] for _ in range(rows)]
    if padded:
        ids[0] = [*ids[0][1:], word]
    return _read_by_model(ids, padded=padded)


def _read_by_model(ids: list[list[int]], *, padded: bool) -> Batch:
    """Make text whose values the model looks into; of tensors made from lists, tracing knows them."""
    mask = [[1] * len(row) for row in ids]
    if padded:
        mask[0][-1] = 0
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _images(config: PretrainedConfig, rows: int) -> torch.Tensor:
    side = image_side(config)
    return torch.zeros((rows, image_channels(config), side, side))


def _sounds(config: PretrainedConfig, rows: int, length: int, dtype: torch.dtype, *, padded: bool) -> Batch:
    """Make what a model hears: a spectrogram of one size, or the samples of `length` places."""
    if not hears_waveforms(config.model_type):
        frames = spectrogram_frames(config)
        return {"input_features": torch.zeros((rows, config.num_mel_bins, frames), dtype=dtype)}
    samples = samples_of(config.to_dict(), length)
    batch = {"input_values": torch.zeros((rows, samples), dtype=dtype)}
    if masks_sounds(config):
        mask = torch.ones((rows, samples), dtype=torch.int64)
        if padded:
            mask[0, samples_of(config.to_dict(), max(1, length - 1)) :] = 0
        batch["attention_mask"] = mask
    return batch


def _transcript_length(config: PretrainedConfig, length: int) -> int:
    if length > config.max_target_positions:
        raise InputError(
            f"`seq_len <= {config.max_target_positions}` must hold for the transcripts of "
            f"{config.model_type}, but got {length}."
        )
    return length


def _text_with_image(config: PretrainedConfig, rows: int, length: int, *, padded: bool) -> Batch:
    """Make rows of an image and text; of text alone where it is not known how images are fed."""
    if config.model_type in _FIXED_SIZE:
        vision = config.vision_config
        whole = int(config.vision_feature_select_strategy != "default")
        tokens = (vision.image_size // vision.patch_size) ** 2 + whole
        batch = _around(config, tokens, rows, length, padded=padded)
        return {**batch, "pixel_values": _images(config, rows)}
    if config.model_type in _ANY_SIZE:
        vision = config.vision_config
        grid = _open_side(config, length) // vision.patch_size
        tokens = (grid // vision.spatial_merge_size) ** 2
        batch = _around(config, tokens, rows, length, padded=padded)
        # One frame, repeated to fill the time that a patch spans.
        pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            **batch,
            # Given, because the model would find the positions by reading values of its own making.
            "position_ids": torch.zeros((3, rows, length), dtype=torch.int64),
            "pixel_values": torch.zeros((rows * grid * grid, pixels)),
            "image_grid_thw": torch.tensor([[1, grid, grid]] * rows),
        }
    return _text(rows, length, padded=padded)


def _around(config: PretrainedConfig, tokens: int, rows: int, length: int, *, padded: bool) -> Batch:
    """Make text around the tokens that an image takes."""
    if length < tokens + 3:
        raise InputError(
            f"`seq_len >= {tokens + 3}` must hold for {config.model_type}, whose image alone takes {tokens} "
            f"tokens, but got {length}."
        )
    image = config.image_token_id
    word = _WORD if image != _WORD else _OTHER_WORD
    row = [word] + [image] * tokens + [word] * (length - tokens - 1)
    return _read_by_model([row] * rows, padded=padded)


def _open_side(config: PretrainedConfig, length: int) -> int:
    """Return the side in pixels of a square image, usual or as large as half the row can hold."""
    vision = config.vision_config
    step = vision.patch_size * vision.spatial_merge_size
    return int(step * max(1, min(_USUAL_SIDE // step, math.isqrt(length // 2))))
