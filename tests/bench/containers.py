"""What `make bench` measures of archives and Parquet files, against a folder of the same pictures."""

import io
import os
import random
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from zsclip.engine.options import Computing
from zsclip.kept.store import EmbeddingStore
from zsclip.pictures.files import find_images
from zsclip.pictures.identity import GRAIN_NS, Sight, content_of
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

Row = Callable[..., None]
SMALL, STORED = int(os.environ.get("SMALL", "10000")), int(os.environ.get("STORED", "100000"))


def small_jpegs(count: int) -> Iterable[tuple[str, bytes]]:
    """Yield pictures of 128 x 96 pixels, each another one."""
    chance = np.random.default_rng(0)
    for i in range(count):
        file = io.BytesIO()
        shapes = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((128, 96))
        shapes.save(file, "JPEG", quality=85)
        yield f"{i:06d}.jpg", file.getvalue()


def write_all(folder: Path, pictures: Iterable[tuple[str, bytes]], name: str) -> None:
    """Write pictures into a folder, a tar and, with pyarrow, a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / name).mkdir()
    column = []
    with tarfile.open(folder / f"{name}.tar", "w") as archive:
        for path, data in pictures:
            (folder / name / path).write_bytes(data)
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            column.append({"bytes": data, "path": path})
    pq.write_table(pa.table({"image": column}), folder / f"{name}.parquet", row_group_size=1000)


def containers(folder: Path, row: Row, whole: Callable[[Sequence[str]], float], labels: str) -> None:
    """The same small JPEGs as a folder, a tar and a Parquet file, with the bundled model; nothing is kept."""
    write_all(folder, small_jpegs(SMALL), "jpegs")
    command = [sys.executable, "-m", "zsclip", "classify", "--labels", labels, "--model", "tiny", "--device", "cpu"]
    command += ["-q", "--format", "jsonl", "--no-store"]
    for kind in ("tar", "parquet"):
        theirs, ours = ([*command, str(folder / name)] for name in ("jpegs", f"jpegs.{kind}"))
        row(f"{SMALL:,} small JPEGs in a container, .{kind}", "our run over the folder", whole, theirs, ours, runs=2)


def stored_members(folder: Path, row: Row, whole: Callable[[Sequence[str]], float], labels: str) -> None:
    """Relabelling pictures that are stored: in a tar, against the same in a folder."""
    pictures = [(f"{i:06d}.ppm", b"P6 1 1 255 %06d" % i) for i in range(STORED)]
    write_all(folder, pictures, "stored")
    time.sleep(GRAIN_NS / 1e9 + 0.1)  # a file that was just written has no keys
    encoder = Computing(device="cpu", precision="fp32").encoder("tiny", True)
    vectors = np.random.default_rng(0).normal(size=(STORED, encoder.embed_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = EmbeddingStore(encoder.image_recipe(False), "bench", encoder.embed_dim, max_pixels=DEFAULT_MAX_PIXELS)
    for root in ("stored", "stored.tar"):
        number = 0
        for some in find_images([str(folder / root)]).rest():
            keys = some.keys(0, len(some)) or ()
            store.keep(
                (Sight(str(name), content_of(pictures[number + i][1]), keys[i]), vectors[number + i])
                for i, name in enumerate(some.names)
            )
            number += len(some)
    store.close()
    command = [sys.executable, "-m", "zsclip", "classify", "--labels", labels, "--model", "tiny", "--device", "cpu"]
    command += ["--precision", "fp32", "-q", "--format", "jsonl"]
    theirs, ours = ([*command, str(folder / name)] for name in ("stored", "stored.tar"))
    row(f"{STORED:,} stored pictures of a container, .tar", "our run over the folder", whole, theirs, ours, runs=3)


def memory_of_a_tar(folder: Path, peak_megabytes: Callable[[Sequence[str]], float], labels: str) -> None:
    """Peak memory at 1,000 and at 20,000 pictures of one tar."""
    some = list(islice(small_jpegs(200), 200))
    with tarfile.open(folder / "many.tar", "w") as archive:
        for i in range(20_000):
            member = tarfile.TarInfo(f"{i:06d}.jpg")
            data = some[i % len(some)][1] + random.Random(i).randbytes(20_000)  # behind its end, as in some photographs
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    command = [sys.executable, "-m", "zsclip", "classify", str(folder / "many.tar"), "--labels", labels]
    command += ["--model", "tiny", "--device", "cpu", "-q", "--no-store"]
    few, many = (peak_megabytes([*command, "--limit", str(limit)]) for limit in (1000, 20_000))
    print(f"\npeak memory of a tar: {few:.0f} MB at 1,000 images, {many:.0f} MB at 20,000: {many - few:+.0f} MB")
