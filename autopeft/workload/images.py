"""Images: what a file must hold to be one, and reading it as three bytes a pixel."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_PIXELS = 50_000_000
"""More is an archive of pixels made to exhaust memory, or a scan that no model takes as it is."""

# Formats whose decoder is Pillow's own; others start a program (EPS) or read further files.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


def image_fault(data: bytes) -> str:
    """Say what keeps the content of a file from being an image to learn from; "" where nothing does.

    All of it is decoded (a JPEG at an eighth of its size), so that a file cut short is found here and not in
    the middle of a training.
    """
    try:
        with _open(data) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                return f"it has {width} x {height} pixels, more than {MOST_PIXELS // 10**6} million"
            if image.mode not in _MODES:
                return f"its pixels of mode {image.mode!r} have not 8 bits a channel: save it as 8-bit PNG"
            image.draft(None, (1, 1))
            image.load()
    except _FAILURES as error:
        return _reason(error)
    return ""


def read_image(file: str | Path) -> Image:
    """Read an image upright and in RGB; what is transparent becomes white.

    Raises:
        DataError: it is gone, or no image any more.
    """
    from PIL import Image, ImageOps

    try:
        with _open(Path(file).read_bytes()) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                white = Image.new("RGBA", layer.size, "white")
                return Image.alpha_composite(white, layer).convert("RGB")
            return upright.convert("RGB")
    except _FAILURES as error:
        raise DataError(f"{file} must be an image, but {_reason(error)}.") from None


# What Pillow raises on files that are malformed: anything of these, by its documentation and by trying.
_FAILURES = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, MemoryError, ArithmeticError)


def _open(data: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own, smaller limit; ours is asked for by the caller
        try:
            return Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError:
            raise ValueError(f"it has more than {MOST_PIXELS // 10**6} million pixels") from None
        except UnidentifiedImageError:
            raise ValueError(f"it is none of {', '.join(_FORMATS)}") from None


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or f"reading it ends in {type(error).__name__}"
