"""Colour profiles, written by hand as the ICC defines them."""

import struct

import numpy as np

SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))  # x, y of red, green and blue
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_TO_D50 = np.array(
    [[1.0479298, 0.0229468, -0.0501922], [0.0296278, 0.9904345, -0.0170738], [-0.0092430, 0.0150552, 0.7518743]]
)


def matrix_of(primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = D65) -> "np.ndarray":
    """Light in the primaries -> XYZ under D50."""
    columns = np.array([_xyz(*each) for each in primaries]).T
    matrix = columns * np.linalg.solve(columns, _xyz(*white))  # (X Y Z, R G B)
    return _TO_D50 @ matrix if white == D65 else matrix


def matrix_profile(
    primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = D65, gamma: float = 0
) -> bytes:
    """A profile of three primaries; gamma 0 is the curve of sRGB."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, _SRGB_CURVE))
    if gamma:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    matrix = matrix_of(primaries, white)
    tags = {f"{c}XYZ".encode(): _xyz_tag(matrix[:, i]) for i, c in enumerate("rgb")}
    tags |= {f"{c}TRC".encode(): curve for c in "rgb"}
    return _profile(b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": curve})


def table_profile(
    space: bytes, corners: dict[tuple[int, ...], tuple[float, float, float]], *, version: int = 2, intents: int = 1
) -> bytes:
    """A profile of a table for each of some intents: the L, a, b of each combination of no and full ink or light."""
    channels = len(next(iter(corners)))
    lab = [corners[corner] for corner in sorted(corners)]  # the last channel changes fastest
    table = bytes(round(v) for L, a, b in lab for v in (L * 2.55, a + 128, b + 128))
    straight = bytes(range(256))
    identity = b"".join(_fixed(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut = b"mft1" + bytes(4) + bytes((channels, 3, 2, 0)) + identity + straight * channels + table + straight * 3
    return _profile(space, b"Lab ", {f"A2B{intent}".encode(): lut for intent in range(intents)}, version)


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], version: int = 2) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz_tag(_xyz(*D50)), **tags}
    place, entries, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        entries += name + struct.pack(">II", place + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = place + len(data)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", size, b"test", (version << 24) + 0x400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _xyz(*D50)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + data


def _xyz(x: float, y: float) -> "np.ndarray":
    return np.array((x / y, 1, (1 - x - y) / y))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz_tag(xyz: "np.ndarray") -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, xyz))
