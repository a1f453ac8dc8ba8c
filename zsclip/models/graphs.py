"""ONNX graphs of a model in the cache: where they are, and whether they are what was exported.

A folder holds the graphs of one model and a description of them with the digests of all files. What is damaged, cut
short or of another model does not match its digest and counts as absent.
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zsclip.errors import ZsclipError, first_line
from zsclip.kept.cache import cache_dir, fingerprint
from zsclip.models.spec import ModelSpec, file_digest

FOLDER = "graphs-v1"
IMAGE, TEXT = "image.onnx", "text.onnx"
_ABOUT = "about.json"
_MAX_BYTES = 100_000  # of the description


@dataclass(frozen=True)
class About:
    """What is known about exported graphs.

    key: of the model, see `graphs_key`. files: name -> size in bytes and SHA-256, of all files besides the description.
    packed: whether the text graph takes packs of prompts, or else whole contexts. end: the token that is pooled in
    packs; None if it is the one with the largest number. own_tokens: whether our tokenizer does what open_clip's does.
    """

    key: str
    files: dict[str, tuple[int, str]]
    logit_scale: float
    logit_bias: float | None
    packed: bool
    end: int | None
    own_tokens: bool


@dataclass(frozen=True)
class Graphs:
    """Graphs that are complete, and the folder that holds them."""

    folder: Path
    about: About

    @property
    def size(self) -> int:
        """Their size in bytes."""
        return sum(size for size, _ in self.about.files.values())


def graphs_key(spec: ModelSpec) -> str:
    """Give the fingerprint of everything that the graphs of a model depend on."""
    preprocess = spec.preprocess
    return fingerprint("graphs-v1", spec.recipe, preprocess.size, preprocess.mean, preprocess.std)


def find_graphs(spec: ModelSpec) -> Graphs | None:
    """Give the graphs of a model from the cache; None if they are not there, not complete or not as exported."""
    return read_graphs(_folder(spec), graphs_key(spec))


def read_graphs(folder: Path, key: str) -> Graphs | None:
    """Give the graphs in a folder; None if they are not complete, not as exported, or those of another model."""
    try:
        if not 0 < _size(folder / _ABOUT) <= _MAX_BYTES:
            return None
        kept = json.loads((folder / _ABOUT).read_bytes())
        values = kept["about"]
        if kept["digest"] != fingerprint(values) or values["key"] != key:
            return None
        about = About(**values)
        # The sizes first: nothing is read of a pipe, or of a file of another length.
        if all(_size(folder / name) == size for name, (size, _) in about.files.items()) and all(
            file_digest(folder / name) == digest for name, (_, digest) in about.files.items()
        ):
            return Graphs(folder, about)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None


def keep_graphs(spec: ModelSpec, export: Callable[[Path], dict[str, Any]]) -> Graphs:
    """Export graphs into a new folder, and put it in its place in the cache when it is complete.

    Args:
        export: writes the files into a folder, and gives the fields of `About` besides key and files.

    Raises:
        ZsclipError: the cache cannot be written.
    """
    key, place = graphs_key(spec), _folder(spec)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
    except OSError as e:
        raise _cannot_write(place.parent, e) from e
    try:
        found = export(made)
        files = {path.name: (path.stat().st_size, file_digest(path)) for path in sorted(made.iterdir())}
        about = asdict(About(key=key, files=files, **found))
        (made / _ABOUT).write_text(json.dumps({"about": about, "digest": fingerprint(about)}), encoding="utf-8")
        _put(made, place, key)
    except OSError as e:
        raise _cannot_write(place.parent, e) from e
    finally:
        shutil.rmtree(made, ignore_errors=True)
    graphs = read_graphs(place, key)
    if graphs is None:
        raise ZsclipError(f"{place}: the graphs were changed as they were written; export them again")
    return graphs


def size_on_disk() -> int:
    """Give the total size of all graphs in the cache."""
    return sum(max(0, _size(path)) for path in (cache_dir() / FOLDER).glob("*/*"))


def clear() -> int:
    """Delete all graphs from the cache; give the bytes freed.

    Raises:
        OSError: a file could not be deleted.
    """
    freed, folder = size_on_disk(), cache_dir() / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    return freed


def _put(made: Path, place: Path, key: str) -> None:
    """Move a folder to its place, unless another process has put one there that is as good."""
    for _attempt in range(3):
        if read_graphs(place, key) is not None:
            return
        with (
            tempfile.TemporaryDirectory(prefix=".old-", dir=place.parent, ignore_cleanup_errors=True) as old,
            suppress(OSError),  # there is none, or another process was faster
        ):
            os.rename(place, os.path.join(old, "graphs"))
        with suppress(OSError):
            os.rename(made, place)
            return


def _folder(spec: ModelSpec) -> Path:
    return cache_dir() / FOLDER / graphs_key(spec)


def _size(path: Path) -> int:
    """Give the size of a regular file; -1 for anything else."""
    try:
        about = os.stat(path)
    except OSError:
        return -1
    return about.st_size if stat.S_ISREG(about.st_mode) else -1


def _cannot_write(folder: Path, e: OSError) -> ZsclipError:
    return ZsclipError(f"{folder}: cannot keep the graphs: {e.strerror or first_line(e)}; set ZSCLIP_CACHE_DIR")
