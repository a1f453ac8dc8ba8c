"""The embeddings of a data set by a locked image tower: computed once and kept in one file.

The file holds the first n rows, so a killed run continues where it was. It has a fingerprint of everything
that its rows depend on, and a digest of the rows; a stale or damaged file counts as absent.
"""

import json
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from zsclip.kept.cache import fingerprint
from zsclip.models.spec import ModelSpec
from zsclip.models.torch_encoder import ClipModel
from zsclip.training.checkpoint import write_tensors
from zsclip.training.log import EncodingProgress
from zsclip.training.pairs import Pairs

FEATURES_FILE = "features.safetensors"


def build_features(
    pairs: Pairs,
    spec: ModelSpec,
    path: Path,
    *,
    device: str,
    precision: str,
    threads: int = 1,
    checkpoint_seconds: float = 180,
    progress: Callable[[EncodingProgress], None] = lambda event: None,
    note: Callable[[str], None] = lambda message: None,
) -> NDArray[np.float32]:
    """Encode every whole picture once, as the model sees it in use, or read from `path` what was encoded before.

    All rows are in memory: 230,000 pictures with D = 512 take 470 MB, and three times as much while they are written.

    Args:
        path: written every `checkpoint_seconds`, at the end, and when the user interrupts the run.
        progress: called after every batch; an exception it raises ends the run at once.
        note: called with one line if pictures that an earlier run could not read are left out again.

    Returns:
        (N, D) float32, rows of length 1; row i is pair i. A row of NaN is a picture that cannot be read, or a pair
        without words.

    Raises:
        ModelError: the tower cannot be loaded, or produces NaN or infinity.
        OutputError: the file cannot be written; what was there before is kept.
    """
    key = fingerprint("features-v1", pairs.digest, pairs.stamp(), spec.image_recipe(device, precision, False, False))
    embeddings = np.full((len(pairs.names), spec.embed_dim), np.nan, np.float32)  # (N, D)
    usable = pairs.usable
    kept = _read_rows(path, key)  # (n, D), the first n
    place = 0  # index in `usable` of the first picture to encode
    if kept is not None:
        embeddings[: len(kept)] = kept
        place = int(np.searchsorted(usable, len(kept)))
        missing = int(np.isnan(embeddings[usable[:place], 0]).sum())
        if missing:
            note(f"{path}: unreadable images left out: {missing:,}; delete the file to try them again")
    if place == len(usable):
        return embeddings

    model = ClipModel(spec, device, precision)
    size = model.batch_size
    started = saved = time.monotonic()
    batches = pairs.pictures(usable[place:], spec.preprocess, batch_size=size, threads=threads)
    ends = range(place + size, len(usable) + size, size)
    rows = len(kept) if kept is not None else 0
    try:
        for end, (numbers, pixels) in zip(ends, batches, strict=True):
            if len(numbers):
                embeddings[numbers] = model.encode_images(pixels).numpy()
            done = min(end, len(usable))
            rows = int(usable[done - 1]) + 1
            now = time.monotonic()
            speed = (done - place) / max(now - started, 1e-9)
            if done == len(usable) or now - saved >= checkpoint_seconds:
                _write_rows(path, key, embeddings[:rows])
                saved = time.monotonic()
            progress(EncodingProgress(done, len(usable), speed, (len(usable) - done) / speed))
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or how the command line ends at SIGTERM
        _write_rows(path, key, embeddings[:rows])
        raise
    return embeddings


def _read_rows(path: Path, key: str) -> NDArray[np.float32] | None:
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads(file.metadata()["zsclip"])
            rows: NDArray[np.float32] = file.get_tensor("embeddings")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return rows if about == _about(key, rows) else None


def _write_rows(path: Path, key: str, rows: NDArray[np.float32]) -> None:
    write_tensors(path, {"embeddings": torch.from_numpy(rows)}, {"zsclip": json.dumps(_about(key, rows))})


def _about(key: str, rows: NDArray[np.float32]) -> dict[str, str]:
    digest = blake2b(f"{rows.dtype} {rows.shape}\0".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(rows).data)
    return {"key": key, "digest": digest.hexdigest()}
