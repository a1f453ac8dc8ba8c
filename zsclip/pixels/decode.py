"""One image file -> the pixels a model wants to see, or why there are none. Pixels stay uint8: no torch here."""

import contextlib
import errno
import functools
import importlib
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zsclip.pixels.skipped import ErrorKind, Skipped

RULES = "decode-v1"  # another name once a file gives other pixels than before: embeddings that are kept depend on it
DEFAULT_MAX_PIXELS = 178_956_970  # Pillow's own limit
FAST_JPEG_MARGIN = 3  # at twice the size 5 of 41 photographs differed by a cosine below 0.999 (`tiny`), at 3 none
MAX_RESIZED_PIXELS = 16_000_000  # a resized picture larger than this is computed only where the crop is

# Never EPS (runs Ghostscript), TGA (no magic number: takes any bytes) nor ICO (Pillow decodes what is in it before its
# size is known). JPEG opens MPO too.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Jpeg2K", "Ppm")
CPU_SECONDS = 60  # a picture that has kept a processor busy for longer is given up
WALL_SECONDS = 600  # and one that has been waited for this long, busy or not
RAW_ENDINGS = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"}
    | {".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
VIDEO_ENDINGS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv"}
)
DRAWING_ENDINGS = frozenset({".ai", ".eps", ".pdf", ".ps", ".svg", ".svgz"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
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
REFUSED_ENDINGS = {
    RAW_ENDINGS: "camera RAW is not read; export it as JPEG first",
    VIDEO_ENDINGS: "a video; extract frames first, for example with ffmpeg",
    DRAWING_ENDINGS: "a drawing or document; export it as PNG first",
}
SIXTEEN_TO_EIGHT = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # (65536,), 65535 is white
_PILLOW_MODULES = re.compile(r"PIL\.")
_NO_LOG = logging.NullHandler()


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its pictures, in open_clip's words.

    size: (H, W); mean, std: of channels in [0, 1], applied by the model itself; interpolation: `bicubic` or
    `bilinear`; resize_mode: `shortest` side to the size and cropped, `longest` side and padded with `fill_color`, or
    `squash`.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0


class PixelBudget:
    """Decoded pixels that may be in memory at once, over all threads; a picture larger than all of it goes alone."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._held: dict[int, int] = {}  # by thread
        self._waiting: set[int] = set()  # threads
        self._changed = threading.Condition()

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels are free, and hold them."""
        pixels, thread = min(pixels, self._all), threading.get_ident()
        with self._changed:
            self._waiting.add(thread)
            try:
                self._changed.wait_for(lambda: self._free >= pixels)
            finally:
                self._waiting.discard(thread)
            self._free -= pixels
            self._held[thread] = pixels
        try:
            yield
        finally:
            self.give_back(thread)

    def is_waited_for(self, thread: int) -> bool:
        """Tell whether a thread does nothing yet but wait for pixels."""
        return thread in self._waiting

    def give_back(self, thread: int) -> None:
        """Free what a thread holds, if anything: it is done, or was given up."""
        with self._changed:
            self._free += self._held.pop(thread, 0)
            self._changed.notify_all()


PIXEL_BUDGET = PixelBudget(200_000_000)  # 16 camera photos of 12 megapixels: 0.6 GB in RGB


@dataclass(frozen=True)
class Decoding:
    """How files are decoded.

    max_pixels: refuse larger pictures. fast_jpeg: let the JPEG decoder reduce large photos itself, to no less than
    three times the size they are resized to. budget: what all decoding shares.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    fast_jpeg: bool = False
    budget: PixelBudget = PIXEL_BUDGET


DEFAULT_DECODING = Decoding()


def decode_image(
    path: str, preprocess: Preprocess, decoding: Decoding = DEFAULT_DECODING
) -> NDArray[np.uint8] | Skipped:
    """Decode one image file to what the model wants to see, or say why not. Only a signal ends it otherwise.

    The first frame, turned upright as EXIF says, on white where it is transparent, in RGB, resized and cropped. For
    opaque upright RGB and grey files the pixels are those of open_clip's own inference transform.

    Returns:
        (3, H, W) uint8.
    """
    set_up_pillow(decoding.max_pixels)
    try:
        check_file(path)
        with open(path, "rb") as file:
            return decode_file(file, preprocess, decoding)
    except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
        return skipped(e, path, decoding)


def decode_file(file: IO[bytes], preprocess: Preprocess, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode an open file, or what stands for one, as `decode_image` does; (3, H, W) uint8.

    Raises:
        Exception: of any type; decoders raise anything at all.
    """
    with upright(file, decoding, preprocess) as image:
        return to_pixels(image, preprocess)


def given_up(path: str, thread: int, decoding: Decoding = DEFAULT_DECODING) -> Skipped | None:
    """Make a row of a picture whose decoder hangs, and free what its thread holds; None if it has not begun."""
    if decoding.budget.is_waited_for(thread):
        return None
    decoding.budget.give_back(thread)
    limits = f"{CPU_SECONDS} s of computing or {WALL_SECONDS} s of waiting"
    return Skipped(path, "timeout", f"not decoded within {limits}; convert it first")


def to_pixels(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop an upright picture to what the model wants to see. (3, H, W) uint8."""
    pixels = np.asarray(fit(image, preprocess).convert("RGB"))  # (H, W, 3)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def upright(
    file: IO[bytes], decoding: Decoding = DEFAULT_DECODING, preprocess: Preprocess | None = None
) -> Iterator[Image.Image]:
    """Decode a picture to mode RGB or L, turned upright as EXIF says, on white where it is transparent.

    Args:
        preprocess: what it will be resized for, which `fast_jpeg` has to know.

    Raises:
        Exception: of any type; decoders raise anything at all.
    """
    with Image.open(file, formats=_formats()) as opened:
        if opened.width * opened.height > decoding.max_pixels:
            raise Image.DecompressionBombError(f"{opened.width * opened.height} pixels")
        if decoding.fast_jpeg and preprocess is not None and opened.format in ("JPEG", "MPO"):
            _reduce(opened, preprocess)
        with decoding.budget.held(opened.width * opened.height):
            opened.load()
            image = _rgb_or_grey(opened)
            turn = _turn(opened)
            yield image if turn is None else image.transpose(turn)


def _reduce(jpeg: Image.Image, preprocess: Preprocess) -> None:
    """Let the decoder itself give the picture smaller."""
    size = (jpeg.height, jpeg.width) if _turn(jpeg) in SIDEWAYS else jpeg.size
    scale = jpeg_scale(size, preprocess)
    if scale > 1:
        jpeg.draft(None, (jpeg.width // scale, jpeg.height // scale))


def jpeg_scale(size: tuple[int, int], preprocess: Preprocess) -> int:
    """Give by how much the decoder may reduce an upright JPEG: enough must be left, and no border be lost."""
    times = min(side / needed for side, needed in zip(size, _resized_size(*size, preprocess), strict=True))
    for scale in (8, 4, 2):
        if times >= FAST_JPEG_MARGIN * scale and not size[0] % scale and not size[1] % scale:
            return scale
    return 1


class _Refused(Exception):
    """A file that is not opened, for the reason given: (error kind, message)."""


def check_file(path: str) -> None:
    """Look at a file from outside: a pipe or a device must not even be opened, it could wait for ever."""
    if "\0" in path:
        raise _Refused("missing", "the path holds a NUL byte; paths separated by NUL need --null")
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE):
            raise _Refused("not-a-file", "a URL; download it first and give the file") from None
        raise
    if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
        raise _Refused("permission", "a folder that may not be read")
    if not stat.S_ISREG(status.st_mode):
        raise _Refused("not-a-file", "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device")
    if status.st_size == 0:
        raise _Refused("unreadable", "the file is empty")
    ending = os.path.splitext(path)[1].lower()
    for endings, reason in REFUSED_ENDINGS.items():
        if ending in endings:
            raise _Refused("unreadable", reason)


def skipped(error: Exception, path: str, decoding: Decoding = DEFAULT_DECODING) -> Skipped:
    """Tell in one line why a picture could not be had."""
    return Skipped(path, *_explain(error, path, decoding.max_pixels))


def _explain(error: Exception, path: str, max_pixels: int) -> tuple[ErrorKind, str]:
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    match error:
        case _Refused(args=(kind, message)):
            return kind, message
        case MemoryError():
            return "out-of-memory", "not enough memory to decode it; use fewer --threads"
        case Image.DecompressionBombError():
            # Pillow checks at twice its limit, before we learn the size, but names it.
            count = re.search(r"\d+(?= pixels)", text)
            return "too-large", f"{count[0] if count else 'too many'} pixels, more than --max-pixels {max_pixels}"
        case UnidentifiedImageError():
            return "unreadable", _what_it_is(path)
        case PermissionError():
            return "permission", text.lower()
        case OSError(errno=errno.ENOENT | errno.ENOTDIR | errno.ELOOP | errno.ENAMETOOLONG):
            return "missing", text.lower()
    return "unreadable", f"cannot decode: {text:.200}"


def _what_it_is(path: str) -> str:
    """Name what is often found where a picture should be."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(64).lstrip()
        if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and "HEIF" not in _formats():
            return "a HEIC picture; to read it: pip install 'zsclip[heic]'"
        if start.startswith(b"<"):
            return "a web page or drawing (HTML, SVG), not a picture"
    return "damaged, or not a picture of a kind that is read"


def set_up_pillow(max_pixels: int) -> None:
    """Let Pillow read up to max_pixels and keep its warnings to itself.

    Both are process-wide: Pillow knows no other limit, and `warnings.catch_warnings` is not safe on threads.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    if not any(module == _PILLOW_MODULES for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
    logging.getLogger("PIL").addHandler(_NO_LOG)  # else errors of its TIFF reader go to stderr
    _formats()


@functools.cache
def _formats() -> tuple[str, ...]:
    for plugin in PLUGINS:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block is no reason to refuse the picture
        return None


def _rgb_or_grey(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB or L, the two that resize well, with white under what is transparent."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image)
    if image.has_transparency_data:
        transparency = image.info.get("transparency")
        if isinstance(transparency, tuple) and max(transparency) > 255:
            # The key colour of a 16-bit PNG, which Pillow reads as 8-bit.
            image.info["transparency"] = tuple(value >> 8 for value in transparency)
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float grey to mode L; transparent pixels become white.

    Integers within 0..65535 are 16-bit, floats within [0, 1] or [0, 255] are what they seem; all else is stretched from
    its lowest to its highest value. NaN is black.
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
    scaled = (numbers.clip(low, high) - low) * (255 / (high - low) if high > low else 0)  # infinities are clipped
    return np.nan_to_num(scaled).round().astype(np.uint8)


def fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and crop (or pad) as open_clip's inference transform does, to the pixel."""
    height, width = preprocess.size
    new_width, new_height = _resized_size(image.width, image.height, preprocess)
    # open_clip's `shortest` for a size that is not square knows only bicubic.
    only_bicubic = preprocess.resize_mode == "shortest" and height != width
    bilinear = preprocess.interpolation == "bilinear" and not only_bicubic
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    left, top = _margin(new_width, width), _margin(new_height, height)
    if new_width * new_height > MAX_RESIZED_PIXELS:
        # A strip, 1 x 50000, would be blown up to gigabytes first. This is within 2 grey levels of resizing all of it
        # (Pillow orders its two passes by cost), or more where bicubic overshoots black or white in between.
        x, y = image.width / new_width, image.height / new_height
        return image.resize((width, height), resample, (left * x, top * y, (left + width) * x, (top + height) * y))
    if image.size != (new_width, new_height):
        image = image.resize((new_width, new_height), resample)
    fill = preprocess.fill_color if preprocess.resize_mode == "longest" else 0
    fitted = Image.new(image.mode, (width, height), fill if image.mode == "L" else (fill, fill, fill))
    fitted.paste(image, (-left, -top))
    return fitted


def _resized_size(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    target_height, target_width = preprocess.size
    if preprocess.resize_mode == "squash":
        return target_width, target_height
    if preprocess.resize_mode == "shortest" and target_height == target_width:
        # torchvision's Resize cuts the long side down, where the others round it.
        side = target_width
        return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocess.resize_mode == "longest" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _margin(size: int, target: int) -> int:
    """Return how much to cut off at the left or top; negative where padding is needed."""
    return round((size - target) / 2) if size >= target else -((target - size) // 2)
