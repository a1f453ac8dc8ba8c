"""One image file -> pixels ready for a model, or the reason why there are none. Pixels stay uint8: no torch here."""

import io
import traceback
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from zsclip.pictures.refused import Refused
from zsclip.pixels.alpha import on_white, scale_key, with_key
from zsclip.pixels.animation import show_a_frame
from zsclip.pixels.colours import has_other_colours
from zsclip.pixels.costs import bytes_for, bytes_for_samples
from zsclip.pixels.declared_colours import declared_profile
from zsclip.pixels.fit import Preprocess, fit, jpeg_scale
from zsclip.pixels.jpeg import check_jpeg
from zsclip.pixels.kinds import RAW, kind_of, known_kind_of
from zsclip.pixels.layout import ORIENTATION, Layout, check_samples, read_layout
from zsclip.pixels.libtiff import whole_pixels
from zsclip.pixels.limits import DEFAULT_DECODING, MOST_MEMORY, Decoding
from zsclip.pixels.pillow_setup import readable_formats, set_up_pillow
from zsclip.pixels.reasons import check_file, skipped
from zsclip.pixels.repair import Repaired, repaired
from zsclip.pixels.samples import bands_of, grey_picture, tiff_picture
from zsclip.pixels.skipped import Skipped

MAX_REPAIRED = 1 << 28  # bytes of a file that is read whole for a second try
_MOST_ROW_BITS = 2**31 - 64  # Pillow counts them in an int
_START = 512  # bytes that tell what a file is
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


def decode_image(
    path: str, preprocess: Preprocess, decoding: Decoding = DEFAULT_DECODING
) -> NDArray[np.uint8] | Skipped:
    """Decode one image file to pixels for the model, or say why that failed. Nothing but a signal is raised.

    The first frame that is not empty, turned upright as EXIF says, on white where it is transparent, resized, cropped,
    and in sRGB. For opaque upright RGB and grey files in sRGB the pixels are those of open_clip's own inference
    transform.

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
    """Decode a picture, turned upright as EXIF says, on white where it is transparent. It lives as long as the block.

    It is in mode RGB or L, or in CMYK or LAB if its colours need a conversion that is still to be done: `in_srgb` does
    it, which is cheaper once the picture has been resized.

    Args:
        preprocess: how it will be resized; `fast_jpeg` needs to know.

    Raises:
        Exception: of any type; decoders raise anything at all.
    """
    with set_up_pillow(decoding.max_pixels), ExitStack() as held:
        image = _decoded(file, decoding, preprocess, held)
        held.callback(Image.Image.close, image)  # its pixels are freed before their memory is given back
        yield image


def _decoded(file: IO[bytes], decoding: Decoding, preprocess: Preprocess | None, held: ExitStack) -> Image.Image:
    """Decode a file; what it takes is held until the picture is done with."""
    layout = read_layout(file)
    file.seek(0)
    try:
        if layout is not None:
            return _decoded_tiff(file, layout, decoding, held)
        return _by_pillow(file, decoding, preprocess, held)
    except (Image.DecompressionBombError, MemoryError, Refused):
        raise
    except Exception as e:
        traceback.clear_frames(e.__traceback__)  # the pixels are in the frames that it ended in
        held.close()
        if layout is None and (again := _second_try(file, decoding, preprocess, held)) is not None:
            return again
        if isinstance(e, UnidentifiedImageError):
            raise Refused(*kind_of(_start(file))) from e
        raise


def _by_pillow(
    file: IO[bytes],
    decoding: Decoding,
    preprocess: Preprocess | None,
    held: ExitStack,
    found: Repaired | None = None,
) -> Image.Image:
    opened = held.enter_context(Image.open(file, formats=readable_formats()))
    _check_size(opened.width * opened.height, decoding)
    if opened.width * len(opened.getbands()) * _row_depth(opened) > _MOST_ROW_BITS:
        raise Refused("too-large", f"rows of {opened.width} pixels, more than decoders allow")
    if found is not None:
        opened.info |= {"icc_profile": found.profile, "exif": found.exif or b""}
    is_jpeg = opened.format in ("JPEG", "MPO")
    turn = _turn(opened) if is_jpeg else None  # for other formats, reading EXIF would load the picture
    if is_jpeg and decoding.fast_jpeg and preprocess is not None:
        _reduce(opened, turn, preprocess)
    may_be_turned = turn is not None or (not is_jpeg and "exif" in opened.info)
    held.enter_context(_memory(bytes_for(opened, may_be_turned), decoding))
    held.callback(Image.Image.close, opened)
    if is_jpeg:
        check_jpeg(opened, file, found)
    image, turn = _not_turned(opened)
    if image is not opened:
        Image.Image.close(opened)  # its pixels, not its file
    return image if turn is None else image.transpose(turn)


def _decoded_tiff(file: IO[bytes], layout: Layout, decoding: Decoding, held: ExitStack) -> Image.Image:
    if layout.is_raw or known_kind_of(_start(file)) is not None:
        raise Refused("unsupported", RAW)
    if layout.is_for_pillow:
        try:
            return _by_pillow(file, decoding, None, held)
        except (Image.DecompressionBombError, MemoryError):
            raise
        except Exception as e:  # broken metadata, or a kind that Pillow does not know
            held.close()
            try:
                check_samples(layout)
            except Refused as refused:
                raise refused if isinstance(e, UnidentifiedImageError) else e from None
    check_samples(layout)
    _check_size(layout.width * layout.height, decoding)
    held.enter_context(_memory(bytes_for_samples(layout), decoding))
    image, turn = _from_samples(file, layout)
    return image if turn is None else image.transpose(turn)


def _memory(count: int, decoding: Decoding) -> AbstractContextManager[None]:
    """Reserve memory for a picture; refuse it if that is far more than its pixel count explains (one pixel wide)."""
    if count > max(MOST_MEMORY, 9 * decoding.max_pixels):
        raise Refused("too-large", f"takes {count / 1e9:.1f} GB of memory to decode; convert it first")
    return decoding.budget.held(count)


def _second_try(
    file: IO[bytes], decoding: Decoding, preprocess: Preprocess | None, held: ExitStack
) -> Image.Image | None:
    """Decode a file without its metadata; None if that fails, or pixels are missing."""
    file.seek(0)
    data = file.read(MAX_REPAIRED + 1)
    try:
        found = repaired(data) if len(data) <= MAX_REPAIRED else None
        if found is None:
            return None
        sums = set()
        image = None
        for ending in reversed(found.endings):  # the picture with the first one is kept
            image = None  # before the next one is decoded
            held.close()
            tried = replace(found, endings=(ending,))
            image = _by_pillow(io.BytesIO(found.data + ending), decoding, preprocess, held, tried)
            sums.add(_sum_of(image) if len(found.endings) > 1 else 0)
        return image if len(sums) == 1 else None
    except Exception:  # the first error says what is wrong with the file as it is
        held.close()
        return None


def _sum_of(image: Image.Image) -> int:
    total = 0
    for _, band in bands_of(image):
        total = zlib.crc32(band.tobytes(), total)
    return total


def as_seen(opened: Image.Image) -> Image.Image:
    """Load a picture, and bring it into the form that `upright` gives.

    Returns:
        The picture itself where it is like that already.
    """
    with set_up_pillow(0):  # whoever opened it has chosen the limit
        image, turn = _not_turned(opened)
    return image if turn is None else image.transpose(turn)


def _not_turned(opened: Image.Image) -> tuple[Image.Image, Image.Transpose | None]:
    """Load a picture; give it on white, and how to turn it."""
    unread = _unread_tiff(opened)
    if unread is not None:
        return _from_samples(*unread)
    if (profile := declared_profile(opened)) is not None:
        opened.info["icc_profile"] = profile
    mask = scale_key(opened)
    with whole_pixels(opened):
        opened.load()  # a TIFF is turned by Pillow, which forgets its orientation then
    show_a_frame(opened)
    turn = _turn(opened)
    return _opaque(opened if mask is None else with_key(opened, mask)), turn


def _unread_tiff(opened: Image.Image) -> tuple[IO[bytes], Layout] | None:
    """Give the file and layout of a TIFF that somebody opened, and that Pillow would read wrongly."""
    if not isinstance(opened, ImageFile.ImageFile) or opened.format != "TIFF" or not opened.tile or opened.tell() != 0:
        return None
    layout = read_layout(opened.fp) if opened.fp is not None else None
    return None if opened.fp is None or layout is None or layout.is_for_pillow else (opened.fp, layout)


def _from_samples(file: IO[bytes], layout: Layout) -> tuple[Image.Image, Image.Transpose | None]:
    image = tiff_picture(file, layout)
    if layout.profile is not None:
        image.info["icc_profile"] = layout.profile
    return _opaque(image), UPRIGHT.get(int(layout.tags.get(ORIENTATION, (1,))[0]))


def _start(file: IO[bytes]) -> bytes:
    file.seek(0)
    start = file.read(_START)
    file.seek(0)
    return start


def _check_size(pixels: int, decoding: Decoding) -> None:
    if pixels > decoding.max_pixels:
        raise Image.DecompressionBombError(f"{pixels} pixels")


def _row_depth(opened: Image.Image) -> int:
    """Bits of a sample while it is decoded; at most."""
    arguments = str(opened.tile[0].args) if isinstance(opened, ImageFile.ImageFile) and opened.tile else ""
    return 16 if ";16" in arguments else 8


def _reduce(jpeg: Image.Image, turn: Image.Transpose | None, preprocess: Preprocess) -> None:
    """Let the decoder itself reduce the picture."""
    size = (jpeg.height, jpeg.width) if turn in SIDEWAYS else jpeg.size
    scale = jpeg_scale(size, preprocess)
    if scale > 1:
        jpeg.draft(None, (jpeg.width // scale, jpeg.height // scale))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block must not cost the picture
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """Bring a picture to the mode it is resized in: RGB, L, or that of its profile; transparent areas are white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return grey_picture(image)
    if image.has_transparency_data:
        return on_white(image)
    is_resized_as_it_is = image.mode in ("RGB", "L") or (image.mode in ("CMYK", "LAB") and has_other_colours(image))
    return image if is_resized_as_it_is else image.convert("RGB")
