"""Colour and depth images of RGB-D frames: decoded with every failure named, resized, encoded.

Sizes are (width, height). `where` names the file (and the frame in it) for errors. Only JPEG and PNG are read.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from PIL import Image

from gcbench.errors import DataError
from gcbench.structures import UInt8Array, UInt16Array

MAX_PIXELS = 2**26
"""Larger images are refused before their pixels are decoded (Pillow itself only warns up to 2.7 times as many)."""

_JPEG_QUALITY = 95
_JPEG_SUBSAMPLING = 0  # 4:4:4. Against 4:2:0 on 640 x 480: largest error 10 instead of 43, for a fifth more bytes
_PNG_LEVEL = 4  # a third of the time of Pillow's 6, for 2 to 25 % more bytes
IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""All that Pillow is known to raise for damaged files."""


def decode_depth(content: Any, where: object) -> UInt16Array:
    """A depth PNG of one channel of 16 bits: [H, W] uint16 in the file's unit.

    Raises:
        DataError: the image is broken, too large or of another kind.
    """
    with _opened(content, ("PNG",), "depth", where) as image:
        depth = depth_values(image)
    if depth is None:
        raise DataError(f"{where}: depth must be one channel of 16 bits (millimetres).")
    return depth


def depth_values(image: Image.Image) -> UInt16Array | None:
    """[H, W] uint16 of an opened image, None where it has no single channel of 16 bits.

    Depending on its version, Pillow opens a 16-bit PNG as ``I;16`` (in either byte order) or as ``I``, 32 bits wide.
    """
    if not image.mode.startswith("I"):
        return None
    values = np.asarray(image)
    if image.mode == "I" and values.size and not 0 <= values.min() <= values.max() < 2**16:
        return None
    return values.astype(np.uint16)


def encode_depth(depth: UInt16Array) -> bytes:
    """[H, W] uint16 as a PNG: lossless."""
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def resize_nearest(image: UInt16Array, size: tuple[int, int]) -> UInt16Array:
    """[H, W] resized to (width, height): each pixel takes the one its centre falls on."""
    rows = ((np.arange(size[1]) + 0.5) * image.shape[0] / size[1]).astype(np.int64)
    columns = ((np.arange(size[0]) + 0.5) * image.shape[1] / size[0]).astype(np.int64)
    return cast(UInt16Array, image[rows[:, None], columns])


def fit_color(content: bytes, size: tuple[int, int], where: object) -> bytes:
    """The colour image at `size`: the same bytes if it is RGB of that size, else resized by area and encoded as JPEG.

    It is decoded at its full size: a JPEG decoded straight to half its size is quicker, but differs by up to 25 of 255.

    Raises:
        DataError: the image is broken or too large.
    """
    with _opened(content, ("JPEG", "PNG"), "colour", where) as image:
        image.load()
        if image.size == size and image.mode == "RGB":
            return content
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        resized = rgb.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    resized.save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=_JPEG_SUBSAMPLING)
    return buffer.getvalue()


def decode_color(content: Any, size: tuple[int, int], where: object) -> UInt8Array:
    """The stored colour image resized by area to `size`: [H, W, 3] uint8.

    Raises:
        DataError: the image is broken or too large.
    """
    with _opened(content, ("JPEG", "PNG"), "colour", where) as image:
        if image.width % size[0] == 0 and image.height % size[1] == 0:
            image.draft("RGB", size)  # JPEG decodes straight to 1/2, 1/4 or 1/8, several times faster
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BILINEAR))


def encode_color(color: UInt8Array) -> bytes:
    """[H, W, 3] uint8 as a PNG: lossless."""
    buffer = io.BytesIO()
    Image.fromarray(color).save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


@contextmanager
def _opened(content: Any, formats: tuple[str, ...], what: str, where: object) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than a camera has")
            yield image
    except IMAGE_ERRORS as error:
        raise DataError(f"{where}: the {what} image is broken ({error}).") from error
