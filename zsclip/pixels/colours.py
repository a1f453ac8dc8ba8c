"""Colours of any profile -> sRGB."""

import functools
import io
import itertools
from typing import cast

import numpy as np
from PIL import Image, ImageCms

NEAR = 2  # levels; a profile whose colours are all this near to sRGB is sRGB, and its pixels stay as they are
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile -> the mode of its pictures
_PERCEPTUAL, _RELATIVE = ImageCms.Intent.PERCEPTUAL, ImageCms.Intent.RELATIVE_COLORIMETRIC
_STEPS = (*range(0, 256, 32), 255)
_COLOURS = Image.frombytes("RGB", (729, 1), bytes(itertools.chain(*itertools.product(_STEPS, repeat=3))))


def in_srgb(image: Image.Image) -> Image.Image:
    """Convert a picture in mode RGB, L, CMYK or LAB to sRGB, as its profile says; to mode RGB, or L if it was L.

    It is fastest after resizing. A profile that is broken or for other pictures is ignored.
    """
    profile = image.info.get("icc_profile")
    converted = _converted(image, profile) if profile or image.mode == "LAB" else None
    if converted is None:
        return image if image.mode in ("RGB", "L") else image.convert("RGB")
    converted.info.pop("icc_profile", None)
    return converted


def has_other_colours(image: Image.Image) -> bool:
    """Whether `in_srgb` would convert this picture by a profile."""
    profile = image.info.get("icc_profile")
    return bool(image.mode == "LAB" or profile) and _transform(profile or b"", _mode_for(image, profile)) is not None


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    mode = _mode_for(image, profile)
    transform = _transform(profile or b"", mode)
    if transform is None:
        return None
    return ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)


def _mode_for(image: Image.Image, profile: bytes | None) -> str:
    """Give the mode to convert from: grey pictures often have a profile for colours."""
    return "RGB" if image.mode == "L" and profile and profile[16:20] == b"RGB " else image.mode


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Give the way to sRGB; None where there is none, or the profile is sRGB itself."""
    try:
        if mode == "LAB":
            return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        if _SPACES.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION  # its own black becomes black
        transform = ImageCms.buildTransform(opened, _srgb(), mode, "RGB", _intent(opened.profile), flags)
        return None if mode in ("RGB", "L") and _is_near_srgb(transform, mode) else transform
    except Exception:  # a broken profile must not cost the picture, and there are many ways to be broken
        return None


def _intent(profile: ImageCms.core.CmsProfile) -> ImageCms.Intent:
    """Choose the usual intent, perceptual, unless a version 4 profile has only one table, as XYB's has.

    littleCMS takes for granted that the black of a perceptual table has 0.3% light, and would make all of it darker.
    """
    tables = profile.clut or {}
    has_one = any(tables.get(_PERCEPTUAL, ())) and not any(tables.get(_RELATIVE, ()))
    return _RELATIVE if has_one and profile.version >= 4 else _PERCEPTUAL


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _is_near_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    before = _COLOURS if mode == "RGB" else Image.frombytes("L", (256, 1), bytes(range(256)))
    after = cast(Image.Image, ImageCms.applyTransform(before, transform))
    return bool(np.abs(np.subtract(np.asarray(after), np.asarray(before.convert("RGB")), dtype=int)).max() <= NEAR)
