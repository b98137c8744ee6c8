"""Processors: what turns an image or a sound into a model's numbers, from the model's own directory."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from autopeft.errors import InputError
from autopeft.workload.base_model import BaseModel
from autopeft.workload.senses import (
    hears_waveforms,
    image_channels,
    image_side,
    masks_sounds,
    processor_place,
    spectrogram_frames,
)


def load_image_processor(base: BaseModel, config: PretrainedConfig) -> Any:
    """Load what scales and normalises images, so that it makes images of the size that is planned for.

    It is the model's own, on the path that needs Pillow alone. A model without one gets one that resizes
    and maps colours to -1 to 1.

    Raises:
        InputError: the model has no directory at hand, or what is there cannot be read.
    """
    side, channels = image_side(config), image_channels(config)
    place = processor_place(base)
    if place is None:
        half = [0.5] * channels
        return ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=half, image_std=half)
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(place, backend="pil", trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (a malformed file makes transformers raise almost anything)
        raise InputError(
            f"the image processor of {base.name!r} cannot be loaded: {_first_line(error)}"
        ) from None
    return _sized(processor, side)


def load_feature_extractor(base: BaseModel, config: PretrainedConfig) -> Any:
    """Load what normalises sounds, or makes spectrograms of them of the size that is planned for.

    It is the model's own; a model without one gets the usual one of its kind, for 16,000 samples a second.

    Raises:
        InputError: the model has no directory at hand, or what is there cannot be read or does not suit it.
    """
    waveforms = hears_waveforms(config.model_type)
    place = processor_place(base)
    if place is None:
        from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

        if waveforms:
            return Wav2Vec2FeatureExtractor(return_attention_mask=masks_sounds(config))
        return _lasting(WhisperFeatureExtractor(feature_size=config.num_mel_bins), config)
    from transformers import AutoFeatureExtractor

    try:
        extractor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (a malformed file makes transformers raise almost anything)
        raise InputError(
            f"the feature extractor of {base.name!r} cannot be loaded: {_first_line(error)}"
        ) from None
    if waveforms:
        extractor.return_attention_mask = masks_sounds(config)
        return extractor
    if extractor.feature_size != config.num_mel_bins:
        raise InputError(
            f"the feature extractor of {base.name!r} must make {config.num_mel_bins} bands (num_mel_bins of "
            f"config.json), but makes {extractor.feature_size}."
        )
    return _lasting(extractor, config)


def _lasting(extractor: Any, config: PretrainedConfig) -> Any:
    """Make spectrograms as long as the model's encoder: whole seconds, as transformers saves no other."""
    frames = spectrogram_frames(config)
    samples = frames * extractor.hop_length
    extractor.nb_max_frames, extractor.n_samples = frames, samples
    if samples % extractor.sampling_rate:
        raise InputError(
            f"the encoder must hear whole seconds of {extractor.sampling_rate} samples, but hears {samples} "
            "samples: change max_source_positions of config.json, or name another model."
        )
    extractor.chunk_length = samples // extractor.sampling_rate
    return extractor


def _sized(processor: Any, side: int) -> Any:
    """Make a processor return squares of `side` pixels; a crop keeps its share of what it is cut from."""
    square = {"height": side, "width": side}
    size = dict(processor.size or {})
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size or square)
        shortest = size.get("shortest_edge")
        if shortest:
            processor.size = {"shortest_edge": max(side, round(shortest * side / min(crop.values())))}
        else:
            processor.size = square
        processor.crop_size = square
    else:
        processor.do_resize, processor.size = True, square
    return processor


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
