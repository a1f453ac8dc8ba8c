"""One image file -> pixels ready for a model, or the reason why there are none. Pixels stay uint8: no torch here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsclip.pixels.fit import Preprocess, fit, jpeg_scale
from zsclip.pixels.formats import readable_formats, set_up_pillow
from zsclip.pixels.limits import DEFAULT_DECODING, Decoding
from zsclip.pixels.reasons import check_file, skipped
from zsclip.pixels.skipped import Skipped

RULES = "decode-v1"  # change it when a file gives other pixels than before; kept embeddings depend on it

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset(
    {Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90}
)
SIXTEEN_TO_EIGHT = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # (65536,), 65535 is white


def decode_image(
    path: str, preprocess: Preprocess, decoding: Decoding = DEFAULT_DECODING
) -> NDArray[np.uint8] | Skipped:
    """Decode one image file to pixels for the model, or say why that failed. Nothing but a signal is raised.

    The first frame, turned upright as EXIF says, on white where it is transparent, in RGB, resized and cropped. For
    opaque upright RGB and grey files the pixels are those of open_clip's own inference transform.

    Returns:
        (3, H, W) uint8.
    """
    try:
        check_file(path)
        with open(path, "rb") as file:
            return decode_file(file, preprocess, decoding)
    except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
        return skipped(e, path, decoding)


def decode_file(file: IO[bytes], preprocess: Preprocess, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode an open file (or file-like object) as `decode_image` does; (3, H, W) uint8.

    Raises:
        Exception: of any type; decoders raise anything at all.
    """
    with upright(file, decoding, preprocess) as image:
        return to_pixels(image, preprocess)


def to_pixels(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop an upright picture for the model. (3, H, W) uint8."""
    pixels = np.asarray(fit(image, preprocess).convert("RGB"))  # (H, W, 3)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def upright(
    file: IO[bytes], decoding: Decoding = DEFAULT_DECODING, preprocess: Preprocess | None = None
) -> Iterator[Image.Image]:
    """Decode a picture to mode RGB or L, turned upright as EXIF says, on white where it is transparent.

    Args:
        preprocess: how it will be resized; `fast_jpeg` needs to know.

    Raises:
        Exception: of any type; decoders raise anything at all.
    """
    with set_up_pillow(decoding.max_pixels), Image.open(file, formats=readable_formats()) as opened:
        if opened.width * opened.height > decoding.max_pixels:
            raise Image.DecompressionBombError(f"{opened.width * opened.height} pixels")
        if decoding.fast_jpeg and preprocess is not None and opened.format in ("JPEG", "MPO"):
            _reduce(opened, preprocess)
        with decoding.budget.held(opened.width * opened.height):
            yield as_seen(opened)


def as_seen(opened: Image.Image) -> Image.Image:
    """Load a picture, and bring it to mode RGB or L, turned upright as EXIF says, on white where it is transparent.

    Returns:
        The picture itself where it is like that already.
    """
    opened.load()  # a TIFF is turned by Pillow, which forgets its orientation then
    image, turn = _rgb_or_grey(opened), _turn(opened)
    return image if turn is None else image.transpose(turn)


def _reduce(jpeg: Image.Image, preprocess: Preprocess) -> None:
    """Let the decoder itself reduce the picture."""
    size = (jpeg.height, jpeg.width) if _turn(jpeg) in SIDEWAYS else jpeg.size
    scale = jpeg_scale(size, preprocess)
    if scale > 1:
        jpeg.draft(None, (jpeg.width // scale, jpeg.height // scale))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block must not cost the picture
        return None


def _rgb_or_grey(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB or L, the two that resize well, with transparent areas white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image)
    if image.has_transparency_data:
        transparency = image.info.get("transparency")
        if isinstance(transparency, tuple) and max(transparency) > 255:
            # The key colour of a 16-bit PNG, which Pillow reads as 8-bit. The picture may be the caller's own.
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in transparency)
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float grey to mode L; transparent pixels become white.

    Integers within 0..65535 count as 16-bit, and floats within [0, 1] or [0, 255] as such; others are stretched from
    their lowest to their highest value. NaN is black.
    """
    values = np.asarray(image)  # (H, W)
    grey = SIXTEEN_TO_EIGHT[values] if _is_sixteen_bit(values) else _stretched(values)
    if "transparency" in image.info:
        grey = np.where(values == image.info["transparency"], np.uint8(255), grey)
    return Image.fromarray(grey)


def _is_sixteen_bit(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535


def _stretched(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if values.dtype.kind == "f" and low >= 0 and high <= 255:
        low, high = 0, 1 if high <= 1 else 255
    scaled = (numbers.clip(low, high) - low) * (255 / (high - low) if high > low else 0)  # infinities are clipped, too
    return np.nan_to_num(scaled).round().astype(np.uint8)
