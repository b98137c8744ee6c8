"""What a model sees and hears: the shapes of its images and sounds, as its configuration has them.

Training makes its batches of these shapes and the cost model its fake ones, so that both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.errors import InputError, UnsupportedError
from autopeft.workload import hub
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Medium

SAMPLING_RATE = 16_000
"""Samples a second of what speech models were trained on, where their directory does not say."""
_WAVEFORMS = frozenset(("hubert", "wav2vec2", "wavlm"))
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_READ_BY: dict[Medium, str] = {"text": "reads text", "image": "sees images", "sound": "hears sounds"}

# Image processors that crop to another size than `image_size`, which is that of the last, short phase of
# pretraining. Source: preprocessor_config.json beside the weights (facebook/dinov2-base: crop_size 224).
_CROPPED = {"dinov2": 224, "dinov2_with_registers": 224}


def image_side(config: Any) -> int:
    """Return the side in pixels of the images that a model is shown.

    Args:
        config: the whole transformers configuration.

    Raises:
        UnsupportedError: the configuration does not say.
    """
    vision = getattr(config, "vision_config", config)
    own = getattr(vision, "image_size", None)
    if own is None:
        raise UnsupportedError(
            f"the size of images for {config.model_type} is not known: its configuration has no image_size."
        )
    side = int(max(own) if isinstance(own, Sequence) else own)
    return min(side, _CROPPED.get(config.model_type, side))


def image_channels(config: Any) -> int:
    """Return how many colours an image has: 3, or 1 of grey."""
    return int(getattr(getattr(config, "vision_config", config), "num_channels", 3))


def hears_waveforms(model_type: str) -> bool:
    """Say whether a speech model takes the samples of a sound themselves, and no spectrogram."""
    return model_type in _WAVEFORMS


def masks_sounds(config: Any) -> bool:
    """Say whether a model of waveforms has to be told what is padding.

    Those that normalise each of their first features over time (`group`) were trained without a mask.
    Source: the documentation of `Wav2Vec2Model.forward`, `attention_mask`.
    """
    return bool(getattr(config, "feat_extract_norm", "group") == "layer")


def frames_of(config: Mapping[str, Any], samples: int) -> int:
    """Return how many places a model of waveforms makes of that many samples."""
    for kernel, stride in _convolutions(config):
        samples = (samples - kernel) // stride + 1
    return max(samples, 0)


def samples_of(config: Mapping[str, Any], frames: int) -> int:
    """Return the fewest samples of which a model of waveforms makes that many places."""
    for kernel, stride in reversed(_convolutions(config)):
        frames = (frames - 1) * stride + kernel
    return frames


def spectrogram_frames(config: Any) -> int:
    """Return how many frames a model of spectrograms hears: two for each position of its encoder, as Whisper.

    Raises:
        UnsupportedError: nobody knows what the model hears.
    """
    if not hasattr(config, "num_mel_bins") or not hasattr(config, "max_source_positions"):
        raise UnsupportedError(
            f"what {config.model_type} hears is not known to autopeft, only what Whisper and models of "
            f"waveforms ({', '.join(sorted(_WAVEFORMS))}) do: its configuration has no num_mel_bins and "
            "max_source_positions."
        )
    return 2 * int(config.max_source_positions)


def _convolutions(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return kernel and stride of each convolution over the samples; where not said, the usual ones."""
    kernels = config.get("conv_kernel") or (10, 3, 3, 3, 3, 2, 2)
    strides = config.get("conv_stride") or (5, 2, 2, 2, 2, 2, 2)
    return list(zip(kernels, strides, strict=True))


def require_medium(base: BaseModel, dataset: Dataset, medium: Medium) -> None:
    """Check that a model takes what a dataset holds.

    Args:
        medium: what the model takes.

    Raises:
        InputError: it does not.
    """
    if dataset.medium != medium:
        raise InputError(
            f"{base.name} {_READ_BY[medium]}, but the rows of {dataset.source} are {dataset.medium}s: name "
            f"a model that {_READ_BY[dataset.medium]} (`autopeft models`), or other data."
        )


def processor_place(base: BaseModel) -> str | None:
    """Return where a model's processor of images or sounds is; None where it has none.

    Raises:
        InputError: only the architecture of the model is known.
    """
    if base.path is None:
        raise InputError(
            f"what prepares the input of {base.name!r} is needed, but only its architecture is known: "
            "name a directory that holds its weights."
        )
    folder = Path(base.path)
    if folder.is_dir():
        return base.path if any((folder / name).is_file() for name in _PROCESSOR_FILES) else None
    try:
        hub.fetch(base.path, _PROCESSOR_FILES[0])
    except InputError:
        return None
    return base.path
