"""Colour declarations that Pillow does not read -> an ICC profile."""

import functools
import struct
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageFile

Primaries = tuple[float, ...]  # x, y of white, red, green and blue

_WHITE = (0.3127, 0.3290)  # D65
_SRGB: Primaries = (*_WHITE, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB: Primaries = (*_WHITE, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_CICP_PRIMARIES: dict[int, Primaries] = {
    1: _SRGB,
    9: (*_WHITE, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (*_WHITE, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_CICP_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 13: 0.0}  # 0: the curve of sRGB
_COLOR_SPACE, _UNCALIBRATED, _EXIF_IFD, _INTEROPERABILITY_IFD = 0xA001, 0xFFFF, 0x8769, 0xA005
_USUAL_GAMMA = 2.2
_MOST_PROFILE = 1 << 24  # bytes
_MOST_READ = 1 << 20  # bytes of a file that are searched
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def declared_profile(opened: Image.Image) -> bytes | None:
    """Give the profile for a picture that is not loaded yet; None if it has one already, or does not say.

    What is broken in it is ignored, as it must not cost the picture.
    """
    find = _FINDERS.get(opened.format or "")
    if find is None or not isinstance(opened, ImageFile.ImageFile) or opened.fp is None:
        return None
    if not opened.tile and opened.format != "HEIF":  # which never has any
        return None
    if opened.info.get("icc_profile") and opened.format != "PNG":
        return None
    place = opened.fp.tell()
    try:
        return find(opened, opened.fp)
    except Exception:
        return None
    finally:
        opened.fp.seek(place)


def _png(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    """Read the chunks that say it, the most telling one first: cICP, a profile or sRGB, gAMA with cHRM."""
    chunks = dict(_png_chunks(file))
    codes = chunks.get(b"cICP", b"")
    if len(codes) == 4 and codes[2:] == b"\0\1" and (profile := _of_codes(*codes[:2])) is not None:
        return profile
    if opened.info.get("icc_profile") or b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return None
    gamma = 100_000 / int.from_bytes(chunks[b"gAMA"], "big")
    if not 0.5 <= gamma <= 4:
        return None
    if abs(gamma / _USUAL_GAMMA - 1) < 0.05:
        gamma = 0  # what is written for sRGB
    values = chunks.get(b"cHRM", b"")
    primaries = tuple(value / 100_000 for value in struct.unpack(">8I", values)) if len(values) == 32 else _SRGB
    return None if gamma == 0 and np.allclose(primaries, _SRGB, atol=0.01) else profile_of(primaries, gamma)


def _of_codes(primaries: int, gamma: int) -> bytes | None:
    """Give the profile for the codes of ITU-T H.273; None for those of brighter screens, and others."""
    if primaries not in _CICP_PRIMARIES or gamma not in _CICP_GAMMAS:
        return None
    return profile_of(_CICP_PRIMARIES[primaries], _CICP_GAMMAS[gamma])


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks that say something of colours."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        size = int.from_bytes(head[:4], "big")
        if head[4:] in (b"cICP", b"gAMA", b"cHRM", b"sRGB"):
            yield head[4:], file.read(min(size, 64))
            file.seek(4 + max(0, size - 64), 1)
        else:
            file.seek(size + 4, 1)


def _jpeg(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    """Read the way in which cameras say that it is Adobe RGB."""
    if b"R03" not in opened.info.get("exif", b""):
        return None
    exif = opened.getexif()
    is_uncalibrated = exif.get_ifd(_EXIF_IFD).get(_COLOR_SPACE) == _UNCALIBRATED
    name = exif.get_ifd(_INTEROPERABILITY_IFD).get(1)
    return profile_of(_ADOBE_RGB, 563 / 256) if is_uncalibrated and name == "R03" else None


def _jpeg_2000(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    file.seek(0)
    start = file.read(_MOST_READ)
    for kind, content in _boxes(start):
        for inner, values in _boxes(content) if kind == b"jp2h" else ():
            if inner == b"colr" and values[0] in (2, 3):
                return values[3:]
    return None


def _avif(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    """Read the codes in the boxes before the pixels, if all pictures in the file have the same."""
    file.seek(0)
    boxes = file.read(_MOST_READ).partition(b"mdat")[0]
    codes = {part[:4] for part in boxes.split(b"colrnclx")[1:]}
    return _of_codes(*struct.unpack(">HH", codes.pop())) if len(codes) == 1 else None


def _heif(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    codes = opened.info["nclx_profile"]
    return _of_codes(codes["color_primaries"], codes["transfer_characteristics"])


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:  # to the end, or longer than can be said
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def _bmp(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    file.seek(14)
    header = file.read(124)
    if int.from_bytes(header[:4], "little") != 124 or header[56:60] != b"DEBM":  # embedded
        return None
    begin, size = struct.unpack("<II", header[112:120])
    file.seek(14 + begin)
    return file.read(min(size, _MOST_PROFILE)) or None


def _gif(opened: Image.Image, file: IO[bytes]) -> bytes | None:
    file.seek(0)
    data = file.read(_MOST_READ)
    at = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        name = data[at + 3 : at + 3 + data[at + 2]]
        parts, at = [], at + 3 + data[at + 2]
        while size := data[at]:
            parts.append(data[at + 1 : at + 1 + size])
            at += 1 + size
        at += 1
        if name == b"ICCRGBG1012":
            return b"".join(parts)
    return None


_FINDERS = {
    "PNG": _png, "JPEG": _jpeg, "MPO": _jpeg, "JPEG2000": _jpeg_2000, "BMP": _bmp, "GIF": _gif, "AVIF": _avif,
    "HEIF": _heif,
}  # fmt: skip


@functools.lru_cache(maxsize=32)
def profile_of(primaries: Primaries, gamma: float) -> bytes:
    """Write the profile of light in three primaries, as the ICC defines it; gamma 0 is the curve of sRGB."""
    x, y = np.array(primaries).reshape(4, 2).T  # (white R G B)
    white, *colours = np.array((x / y, np.ones(4), (1 - x - y) / y)).T
    matrix = np.array(colours).T  # (X Y Z, R G B)
    matrix = matrix * np.linalg.solve(matrix, white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD @ matrix
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    if not gamma:
        curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
        curve += b"".join(map(_fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
    text = b"desc" + bytes(4) + struct.pack(">I", 9) + b"declared\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(_D50)}
    tags |= {f"{name}XYZ".encode(): _xyz(adapted[:, i]) for i, name in enumerate("rgb")}
    tags |= {f"{name}TRC".encode(): curve for name in "rgb"}
    place, entries, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        entries += tag + struct.pack(">II", place + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI4s4s4s", place + len(data), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + data


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: "np.ndarray") -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))
