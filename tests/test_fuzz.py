"""Any file becomes a row, its own: thousands of damaged pictures of every format that is read."""

import io
import itertools
import os
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from profiles import DISPLAY_P3, grey_profile, matrix_profile, table_profile
from test_decode import png
from tiffs import BLACK_IS_ZERO, LAB, PALETTE, RGB, WHITE_IS_ZERO, YCBCR, tiff, with_tags

SIZE = (24, 18)


def picture() -> Image.Image:
    gradient = Image.linear_gradient("L").resize(SIZE)
    return Image.merge("RGB", (gradient, gradient.rotate(90), Image.effect_noise(SIZE, 90)))


def saved(mode: str, name: str, **options: object) -> bytes:
    data = io.BytesIO()
    picture().convert(mode).save(data, name, **options)
    return data.getvalue()


def valid_files() -> dict[str, bytes]:
    """A small file of each format and of the codings that differ most."""
    files = {
        "jpg": saved("RGB", "JPEG"),
        "progressive.jpg": saved("RGB", "JPEG", progressive=True),
        "cmyk.jpg": saved("CMYK", "JPEG"),
        "mpo": saved("RGB", "MPO", save_all=True, append_images=[picture()]),
        "png": saved("RGBA", "PNG"),
        "palette.png": saved("P", "PNG", transparency=3),
        "grey.png": saved("I;16", "PNG"),
        "apng": saved("RGB", "PNG", save_all=True, append_images=[picture().rotate(180)]),
        "webp": saved("RGBA", "WEBP"),
        "lossless.webp": saved("RGB", "WEBP", lossless=True),
        "gif": saved("P", "GIF", save_all=True, append_images=[picture().convert("P").rotate(180)]),
        "bmp": saved("RGB", "BMP"),
        "dib": saved("RGB", "DIB"),
        "tif": saved("RGB", "TIFF"),
        "jp2": saved("RGB", "JPEG2000"),
        "ppm": saved("RGB", "PPM"),
        "pgm": saved("L", "PPM"),
        "avif": saved("RGB", "AVIF"),
    }
    for coding in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        files[f"{coding}.tif"] = saved("RGB", "TIFF", compression=coding)
    for coding in ("group3", "group4", "tiff_ccitt"):
        files[f"{coding}.tif"] = saved("1", "TIFF", compression=coding)
    files["big.tif"] = saved("RGB", "TIFF", big_tiff=True)
    files["inks.tif"] = saved("CMYK", "TIFF", compression="tiff_lzw")
    files |= {f"{number}.tif": data for number, data in enumerate(odd_tiffs())}
    profile = matrix_profile(DISPLAY_P3)
    for name, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("TIFF", "RGB")):
        files[f"{mode} profile.{name}"] = saved(mode, name, icc_profile=profile)
    files["no end.jpg"] = saved("RGB", "JPEG")[:-2]
    files["no end, progressive.jpg"] = saved("RGB", "JPEG", progressive=True)[:-2] + b"trailer"
    files |= with_metadata(profile)
    files["apng that begins empty"] = saved("RGBA", "PNG", save_all=True, append_images=[picture().convert("RGBA")])
    try:
        import pillow_heif
    except ImportError:
        return files
    heif = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(heif)
    return files | {"heic": heif.getvalue()}


def with_metadata(profile: bytes) -> dict[str, bytes]:
    """Pictures with chunks, segments and profiles beside their pixels."""
    text = b"\0\0\0\3tEXta\0b\0\0\0\1"
    whole = saved("RGB", "PNG", icc_profile=profile)
    turned, texts = Image.Exif(), PngImagePlugin.PngInfo()
    turned[0x0112] = 6
    texts.add_text("a", "b" * 40, zip=True)
    texts.add_itxt("c", "d" * 40, zip=True)
    for name, content in (
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", struct.pack(">8I", *[31270] * 8)),
        (b"pHYs", b"\0\0\1\0\0\0\1\0\1"),
    ):
        texts.add(name, content)
    rows = b"".join(b"\0" + bytes(range(0, 240, 5)) * 3 for _ in range(SIZE[1]))
    press = {inks: (100.0 - 20 * sum(inks), 0.0, 0.0) for inks in itertools.product((0, 1), repeat=4)}
    table = {rgb: (33.0 * sum(rgb), 0.0, 0.0) for rgb in itertools.product((0, 1), repeat=3)}
    return {
        "text.png": whole[:33] + text + whole[33:],
        "chunks.png": saved("RGB", "PNG", pnginfo=texts, exif=turned, transparency=(1, 2, 3)),
        "key of 16 bits.png": png(*SIZE, 16, 2, rows, (b"tRNS", bytes(range(0, 30, 5)))),
        "turned.jpg": saved("RGB", "JPEG", exif=turned, comment=b"c" * 30, restart_marker_rows=1),
        "turned.webp": saved("RGB", "WEBP", exif=turned, xmp=b"<x/>", icc_profile=profile),
        "press.jpg": saved("CMYK", "JPEG", icc_profile=table_profile(b"CMYK", press)),
        "one table.jpg": saved("RGB", "JPEG", icc_profile=table_profile(b"RGB ", table, version=4), keep_rgb=True),
        "grey profile.png": saved("L", "PNG", icc_profile=grey_profile(1.8)),
    }


def odd_tiffs() -> Iterator[bytes]:
    """Kinds that Pillow does not read, or reads wrongly."""
    colours = np.asarray(picture())
    for dtype, photometric, how in (
        ("u2", RGB, {"planar": True}),
        ("u2", RGB, {"tile": (16, 16), "codec": "lzw", "predictor": 2}),
        ("i1", RGB, {"order": ">"}),
        ("i4", RGB, {"codec": "deflate", "predictor": 2, "planar": True}),
        ("f4", RGB, {"codec": "deflate", "predictor": 3}),
        ("u4", WHITE_IS_ZERO, {"tags": {281: ("I", (255,))}}),
        ("u2", PALETTE, {"bits": 12, "tags": {320: ("H", tuple(range(0, 61440, 5)))}}),
        ("u2", LAB, {}),
        ("u2", BLACK_IS_ZERO, {"bits": 10, "order": ">"}),
        ("u1", RGB, {"planar": True, "tile": (16, 16), "codec": "zstd"}),
        ("i2", BLACK_IS_ZERO, {"tile": (16, 16), "codec": "packbits", "order": ">"}),
        ("u2", RGB, {"tags": {266: ("H", (2,)), 34675: ("B", tuple(matrix_profile(DISPLAY_P3)))}}),
    ):
        samples = colours if photometric in (RGB, LAB) else colours[..., :1]
        yield tiff(samples.astype(dtype), photometric, **how)  # type: ignore[arg-type]
    tags = {256: SIZE[0], 257: SIZE[1], 259: 1, 262: YCBCR, 277: 3, 278: SIZE[1]}
    blocks = np.resize(colours, (SIZE[1] // 2, SIZE[0] // 2, 6)).tobytes()
    of_blocks = {258: ("H", (8, 8, 8)), 530: ("H", (2, 2))}
    yield with_tags({tag: ("I", (value,)) for tag, value in tags.items()} | of_blocks, [blocks])
    yield tiff(np.dstack((colours, colours[..., :1])).astype("u2") * 257, RGB, extra=(1,), tags={274: ("H", (6,))})


def mutant(files: list[bytes], chance: random.Random) -> bytes:
    """Flip bits, cut, splice, or write sizes that lie."""
    data = bytearray(chance.choice(files))
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 200))
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                number = chance.choice((0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
                data[at : at + 4] = number.to_bytes(4, chance.choice(("big", "little")))
            case 3:
                del data[max(at, 1) :]
            case 4:
                other = chance.choice(files)
                cut = chance.randrange(len(other))
                data[at : at + chance.randrange(1, 200)] = other[cut : cut + chance.randrange(1, 200)]
            case 5:
                data[at:at] = data[at : at + chance.randrange(1, 50)]
    return bytes(data)


# In a process of its own: a decoder that crashes takes its process along.
DECODE = textwrap.dedent("""
    import resource, sys
    from pathlib import Path

    import numpy as np

    from decoded import decode_batches
    from zsclip.kept.store import EmbeddingStore
    from zsclip.models.embed import look_ahead
    from zsclip.pictures.pictures import Pictures
    from zsclip.pixels.fit import Preprocess
    from zsclip.pixels.limits import Decoding
    from zsclip.pixels.skipped import Skipped
    from zsclip.pixels.workers import worker_pool

    paths = sorted(str(path) for path in Path(sys.argv[1]).iterdir())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, pixels = [], []
    preprocess = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3)
    for batch in decode_batches(paths, preprocess, batch_size=50, threads=2, decoding=Decoding(2_000_000)):
        rows += batch.rows
        pixels += [each for row, each in zip([r for r in batch.rows if isinstance(r, str)], batch.pixels, strict=True)
                   if row.endswith(".good.png")]
    assert [row.file_name if isinstance(row, Skipped) else row for row in rows] == paths
    store = EmbeddingStore("r", "none", 3, max_pixels=2_000_000)
    with look_ahead([Pictures(paths)], preprocess, Decoding(2_000_000), store, batch_size=50, threads=2) as ahead:
        outcomes = [outcome for batch in ahead.batches(50) for _, outcome in batch]
    with worker_pool(preprocess, Decoding(2_000_000), 6, processes=6, soon=0) as elsewhere:  # and in processes
        done = [elsewhere(path) for path in paths]
    for row, outcome, other in zip(rows, outcomes, done, strict=True):
        assert isinstance(row, Skipped) == isinstance(outcome, Skipped) == (other is None), row
        if other is not None:
            assert np.array_equal(outcome.pixels, other[0]), row
    good = [path for path in paths if path.endswith(".good.png")]
    assert len(pixels) == len(good) > 0
    assert all(np.array_equal(each, pixels[0]) for each in pixels)
    kinds = {row.error for row in rows if isinstance(row, Skipped)}
    assert kinds <= {"unreadable", "too-large", "out-of-memory", "unsupported"}, kinds
    failed = sum(isinstance(row, Skipped) for row in rows)
    assert len(paths) // 20 < failed < len(paths) * 19 // 20, failed
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(megabytes)
""")


def decode_mutants(folder: Path, count: int, seed: int) -> None:
    files, chance = list(valid_files().values()), random.Random(seed)
    good = saved("RGB", "PNG")
    folder.mkdir()
    for i in range(count):
        name = f"{i:05d}.good.png" if i % 50 == 0 else f"{i:05d}.jpg"
        (folder / name).write_bytes(good if i % 50 == 0 else mutant(files, chance))

    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(folder)], capture_output=True, text=True, cwd=Path(__file__).parent
    )

    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    assert float(done.stdout) < 500


def test_every_format_is_read_before_it_is_damaged(tmp_path: Path) -> None:
    from zsclip.pixels.decode import decode_image
    from zsclip.pixels.fit import Preprocess

    for name, data in valid_files().items():
        path = tmp_path / f"x.{name}"
        path.write_bytes(data)
        assert getattr(decode_image(str(path), Preprocess((8, 8), (0,) * 3, (1,) * 3)), "shape", None) == (3, 8, 8), (
            name
        )


def test_damaged_pictures_become_rows(tmp_path: Path) -> None:
    decode_mutants(tmp_path / "mutants", 600, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_damaged_pictures_become_rows(tmp_path: Path, seed: int) -> None:
    decode_mutants(tmp_path / "mutants", 2_600, int(os.environ.get("FUZZ_SEED", "0")) + seed)
