"""Thirty images with odd names, some damaged, and what writes them into every kind of container."""

import csv
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsclip.pictures.files import find_images
from zsclip.pictures.pictures import Paths
from zsclip.pictures.refused import Refused

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Run = Callable[..., subprocess.CompletedProcess[bytes]]


LABELS = ("--labels", "red,green,blue,a dog,w7")


KINDS = ("a.tar", "a.tar.gz", "a.zip", "struct.parquet", "binary.parquet", "paths.parquet", "a.csv", "a.tsv", "a.jsonl")


def picture(chance: np.random.Generator, kind: str = "PNG") -> bytes:
    """A picture of coarse noise."""
    size = tuple(int(side) for side in chance.integers(8, 90, 2))
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size).save(file, kind)  # type: ignore[arg-type]
    return file.getvalue()


def make_album() -> dict[str, bytes]:
    """Thirty files by name, in the order of a folder: pictures, some of them damaged, some with odd names."""
    chance = np.random.default_rng(0)
    album = {
        f"{'below/' * (i % 3)}{i:02}.{kind.lower()}": picture(chance, kind)
        for i in range(9)
        for kind in ("PNG", "JPEG")
    }
    odd = [
        "caf\u00e9.png",
        "cafe\u0301.png",
        "#17.png",
        "two\nlines.png",
        'a b, "c".png',
        "=1+1.png",
        "x" * 120 + ".png",
    ]
    album |= {name: picture(chance) for name in odd}
    album |= {os.fsdecode(b"bad\xe9.png"): picture(chance)}
    album |= {
        "damaged.jpeg": album["00.jpeg"][:-40],
        "empty.jpg": b"",
        "text.jpg": b"no picture at all",
        "cut.png": album["00.png"][:60],
    }
    return album


ALBUM = make_album()


def folder_of(root: Path, album: Mapping[str, bytes] = ALBUM) -> list[str]:
    """Write the files, and give their names in the order in which a folder is walked."""
    for name, data in album.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return [os.path.relpath(path, root) for path in find_images([str(root)])]


def write_tar(
    path: Path, album: Sequence[tuple[str, bytes]], *, mode: str = "w", format: int = tarfile.PAX_FORMAT
) -> None:
    with tarfile.open(path, mode, format=format, encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for name, data in album:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_zip(path: Path, album: Sequence[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, data) in enumerate(album):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(name.replace("\udce9", "@"), data, kind)
    if any("\udce9" in name for name, _ in album):
        path.write_bytes(path.read_bytes().replace(b"bad@.png", b"bad\xe9.png"))


def write(path: Path, album: Sequence[tuple[str, bytes]], folder: str) -> None:
    """Write the pictures, or with the same names as in the folder their paths, in the way that the ending says."""
    names, data = [f"{folder}/{name}" for name, _ in album], [data for _, data in album]
    if path.name.endswith((".tar", ".gz")):
        write_tar(path, album, mode="w:gz" if path.suffix == ".gz" else "w")
    elif path.suffix == ".zip":
        write_zip(path, album)
    elif path.name == "paths.parquet":
        pq.write_table(pa.table({"id": range(len(names)), "path": names}), path)
    elif path.suffix == ".parquet":
        structs = [{"bytes": each, "path": None} for each in data]
        column = pa.array(structs if path.stem == "struct" else data)
        pq.write_table(pa.table({"label": range(len(data)), "picture": column}), path, row_group_size=7)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"file_name": name, "x": 1}) + "\n" for name in names))
    else:
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([["x", "image"], *([number, name] for number, name in enumerate(names))])


def rows_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def content_of(paths: Paths) -> list[tuple[str, bytes | str]]:
    """Read all pictures; give the kind of error and the message in place of one that cannot be read."""
    found: list[tuple[str, bytes | str]] = []
    for some in paths.rest():
        for place, name in enumerate(some.names):
            try:
                with some.open(place) as file:
                    found.append((str(name), file.read()))
            except Refused as e:
                found.append((str(name), f"{e.kind}: {e.message}"))
    return found


def numbers_of(row: Mapping[str, Any]) -> list[float]:
    return [row["score"] or 0.0, *(each[key] for each in row["predictions"] for key in ("score", "cosine"))]


def good_album() -> list[tuple[str, bytes]]:
    return [(f"{name}", data) for name, data in ALBUM.items() if name[0] in "0b" and "\udce9" not in name]
