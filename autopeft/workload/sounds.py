"""Sounds: what a file must hold to be one, and reading it as one channel at a model's rate."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import DataError
from autopeft.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LONGEST_SECONDS = 3600
_RATES = (1_000, 400_000)
_WAVE = b"RIFF"


def sound_fault(data: bytes) -> str:
    """Say what keeps the content of a file from being a sound to learn from; "" where nothing does.

    Raises:
        MissingExtraError: it is no WAV file, and the package that reads the others is not installed.
    """
    import numpy as np

    try:
        rate, samples = _decode(data)
    except _FAILURES as error:
        return _reason(error)
    if not samples.size:
        return "it holds no samples"
    if fault := _unbelievable(rate, len(samples)):
        return fault
    if not np.isfinite(samples).all():
        return "some of its samples are not finite"
    return ""


def read_sound(file: str | Path, rate: int) -> NDArray[np.float32]:
    """Read a sound as the mean of its channels between -1 and 1, shape (samples,), at `rate` hertz.

    Another rate is changed by `scipy.signal.resample_poly`, which filters what would fold back.

    Raises:
        DataError: it is gone, or no sound any more.
    """
    import numpy as np

    try:
        own, samples = _decode(Path(file).read_bytes())
    except _FAILURES as error:
        raise DataError(f"{file} must be a sound, but {_reason(error)}.") from None
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if own != rate:
        from scipy.signal import resample_poly

        shared = math.gcd(own, rate)
        samples = resample_poly(samples, rate // shared, own // shared)
    return np.ascontiguousarray(samples, dtype=np.float32)


def sound_seconds(file: str | Path) -> float:
    """Return how long a sound lasts.

    Raises:
        DataError: it is gone, or no sound any more.
    """
    try:
        rate, samples = _decode(Path(file).read_bytes())
    except _FAILURES as error:
        raise DataError(f"{file} must be a sound, but {_reason(error)}.") from None
    return len(samples) / rate


# What the readers raise on files that are malformed.
_FAILURES = (OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)


def _decode(data: bytes) -> tuple[int, NDArray[np.float32]]:
    """Return samples a second, and samples between -1 and 1 of shape (samples,) or (samples, channels)."""
    import numpy as np

    if not data.startswith(_WAVE):
        return _decode_other(data)
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of chunks that are no samples
        try:
            rate, samples = wavfile.read(io.BytesIO(data))
        except Exception as error:  # noqa: BLE001 (struct.error and whatever else a malformed header leads to)
            raise ValueError(_reason(error)) from None
    if samples.dtype == np.uint8:
        return int(rate), (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return int(rate), samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return int(rate), samples.astype(np.float32)


def _decode_other(data: bytes) -> tuple[int, NDArray[np.float32]]:
    if not data.startswith((b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")):
        raise ValueError("it is no WAV, FLAC, OGG or MP3")
    soundfile = require("soundfile", extra="sound", purpose="a sound that is no WAV file")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            if fault := _unbelievable(sound.samplerate, sound.frames):
                raise ValueError(fault)
            return int(sound.samplerate), sound.read(dtype="float32")
    except RuntimeError:  # whose message names an object of ours
        raise ValueError("it is cut short or malformed") from None


def _unbelievable(rate: int, frames: int) -> str:
    """Say what is wrong with a rate and a length, which a header tells before a file is unpacked."""
    if not _RATES[0] <= rate <= _RATES[1]:
        return f"it has {rate} samples a second, where {_RATES[0]} to {_RATES[1]} are believed"
    if frames / rate > LONGEST_SECONDS:
        return f"it lasts {frames / rate:.0f} seconds, more than an hour: cut it"
    return ""


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or f"reading it ends in {type(error).__name__}"
