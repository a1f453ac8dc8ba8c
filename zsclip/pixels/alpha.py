"""Transparent pictures -> opaque ones, on white."""

import numpy as np
from PIL import Image, PngImagePlugin

from zsclip.pixels.samples import bands_of


def on_white(image: Image.Image) -> Image.Image:
    """Put a picture with transparency data on white, in mode RGB.

    Alpha that is zero everywhere means nothing, and is ignored.
    """
    shown, is_empty = Image.new("RGB", image.size, "white"), True
    for y, band in bands_of(image):
        rgba = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
        is_empty = is_empty and rgba.getchannel("A").getbbox() is None
        shown.paste(rgba, (0, y), mask=rgba)
    if is_empty:
        for y, band in bands_of(image):
            shown.paste(_opaque(band), (0, y))
    if (profile := image.info.get("icc_profile")) is None:
        return shown
    if image.mode in ("L", "LA", "La"):  # its profile may be for grey
        shown = shown.convert("L")
    shown.info["icc_profile"] = profile
    return shown


def _opaque(image: Image.Image) -> Image.Image:
    if "transparency" in image.info:
        image = image.copy()  # the picture may be the caller's own
        del image.info["transparency"]
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def scale_key(opened: Image.Image) -> Image.Image | None:
    """Scale the transparent colour of an unloaded PNG to the bit depth that Pillow will give.

    Returns:
        A mask in mode L of the pixels that match a 16-bit transparent colour, since Pillow reduces them to 8 bits.
    """
    key = opened.info.get("transparency")
    if not isinstance(opened, PngImagePlugin.PngImageFile) or not opened.tile or not isinstance(key, int | tuple):
        return None
    depth = {"L;2": 2, "L;4": 4, "L": 8, "RGB": 8}.get(str(opened.tile[0].args))
    if depth is not None:
        scaled = tuple((each & (2**depth - 1)) * 255 // (2**depth - 1) for each in np.atleast_1d(key).tolist())
        opened.info["transparency"] = scaled if isinstance(key, tuple) else scaled[0]
    if opened.tile[0].args != "RGB;16B" or not isinstance(key, tuple) or opened.fp is None:
        return None
    opened.info["transparency"] = tuple(each >> 8 for each in key)
    place = opened.fp.tell()
    opened.fp.seek(0)
    with Image.open(opened.fp, formats=("PNG",)) as low:  # the lower bytes of its samples
        low.tile = [low.tile[0]._replace(args="RGB;16L")]
        low.load()
        mask = Image.new("L", low.size)
        for y, band in bands_of(low):
            is_key = (np.asarray(band) == np.array(key) % 256).all(axis=2)  # (rows, W)
            mask.paste(Image.fromarray(is_key.astype(np.uint8) * np.uint8(255)), (0, y))
    opened.fp.seek(place)
    return mask


def with_key(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Make pixels transparent whose upper bytes match the colour and whose lower bytes are in the mask. RGBA."""
    upper = np.array(image.info["transparency"])
    rgba = Image.new("RGBA", image.size)
    for (y, band), (_, low) in zip(bands_of(image), bands_of(mask), strict=True):
        pixels = np.asarray(band)
        clear = (pixels == upper).all(axis=2) & (np.asarray(low) == 255)
        rgba.paste(Image.fromarray(np.dstack((pixels, np.where(clear, 0, 255).astype(np.uint8)))), (0, y))
    return rgba
