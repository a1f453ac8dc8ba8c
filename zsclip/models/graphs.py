"""ONNX graphs of a model: where they are, and whether they are what was exported.

A folder holds the graphs of one model and a description of them with the digests of all files. What is damaged, cut
short or of another model does not match its digest and counts as absent.
"""

import importlib.util
import json
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zsclip.errors import ModelError, ZsclipError, first_line
from zsclip.kept.cache import cache_dir, fingerprint, read_rows, write_rows
from zsclip.models.find import TINY_DIR
from zsclip.models.spec import ModelSpec, file_digest

FOLDER, _FOLDERS = "graphs-v2", "graphs-v*"
IMAGE, TEXT = "image.onnx", "text.onnx"
ABOUT = "graphs.json"
_HINTS = "hints"  # the kind of row
_MAX_BYTES = 100_000  # of the description


@dataclass(frozen=True)
class About:
    """What is known about exported graphs.

    key: of the model, see `graphs_key`. files: name -> size in bytes and SHA-256, of all files that were written.
    packed: whether the text graph takes packs of prompts, or else whole contexts. end: the token that is pooled in
    packs; None if it is the one with the largest number. own_tokens: whether our tokenizer does what open_clip's does.
    agreement: the share of answers that int8 did not change; None for graphs in fp32.
    """

    key: str
    files: dict[str, tuple[int, str]]
    logit_scale: float
    logit_bias: float | None
    packed: bool
    end: int | None
    own_tokens: bool
    agreement: float | None = None


@dataclass(frozen=True)
class Graphs:
    """Graphs that are complete, and the folder that holds them."""

    folder: Path
    about: About

    @property
    def size(self) -> int:
        """Their size in bytes."""
        return sum(size for size, _ in self.about.files.values())


def graphs_key(spec: ModelSpec, *, in_int8: bool = False) -> str:
    """Give the fingerprint of everything that the graphs of a model depend on."""
    preprocess = spec.preprocess
    precision = ["int8"] if in_int8 else []  # fp32 came first, without a name
    return fingerprint(FOLDER, spec.recipe, preprocess.size, preprocess.mean, preprocess.std, *precision)


def find_graphs(spec: ModelSpec) -> Graphs | None:
    """Give the graphs of a model; None if they are not there, not complete or not as exported.

    The bundled model has its graphs beside its weights, which they read; those of all others are in the cache.
    """
    key = graphs_key(spec)
    is_bundled = spec.weights is not None and os.path.dirname(spec.weights) == str(TINY_DIR)
    return (read_graphs(TINY_DIR, key) if is_bundled else None) or read_graphs(_folder(spec), key)


def graphs_to_run(spec: ModelSpec, *, is_wanted: bool) -> Graphs | None:
    """Give the graphs of a model if ONNX Runtime is there to run them; None if one is missing and they are not wanted.

    Raises:
        ModelError: they are wanted, but the graphs or ONNX Runtime are not there.
    """
    if importlib.util.find_spec("onnxruntime") is None:  # found without importing it
        if is_wanted:
            raise ModelError("--runtime onnx: needs ONNX Runtime: pip install 'zsclip[onnx]'")
        return None
    graphs = find_graphs(spec)
    if graphs is None and is_wanted:
        raise ModelError(f"{spec.name}: has no ONNX graphs in the cache; run `zsclip models export {spec.name}` first")
    return graphs


def int8_graph_to_run(spec: ModelSpec) -> Graphs:
    """Give the graph of a model's image tower in int8.

    Raises:
        ModelError: it is not there.
    """
    graph = find_int8_graph(spec)
    if graph is None:
        cure = f"run `zsclip models export {spec.name} --precision int8` first"
        raise ModelError(f"{spec.name}: has no int8 graph in the cache; {cure}")
    return graph


def missing_to_export() -> list[str]:
    """Give the libraries that exporting needs and that are not installed."""
    return [name for name in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]


def is_first_hint(spec: ModelSpec) -> bool:
    """Whether nobody has been told yet that this model can be exported; from now on, somebody has been.

    Where the cache cannot be written, everybody has been, or the hint would come with every run.
    """
    key = fingerprint("export", spec.recipe)
    if read_rows(_HINTS, [key]):
        return False
    write_rows(_HINTS, {key: b"given"})
    return bool(read_rows(_HINTS, [key]))


def find_int8_graph(spec: ModelSpec) -> Graphs | None:
    """Give the graph of a model's image tower in int8, as `find_graphs` does; text towers are in fp32 alone."""
    return read_graphs(_folder(spec, in_int8=True), graphs_key(spec, in_int8=True))


def read_graphs(folder: Path, key: str) -> Graphs | None:
    """Give the graphs in a folder; None if they are not complete, not as exported, or those of another model."""
    try:
        if not 0 < _size(folder / ABOUT) <= _MAX_BYTES:
            return None
        kept = json.loads((folder / ABOUT).read_bytes())
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


def keep_graphs(spec: ModelSpec, export: Callable[[Path], dict[str, Any]], *, in_int8: bool = False) -> Graphs:
    """Export graphs into a new folder, and put it in its place in the cache when it is complete.

    Args:
        export: writes the files into a folder, and gives the fields of `About` besides key and files.

    Raises:
        ZsclipError: the cache cannot be written.
    """
    import tempfile  # here, as most runs only read

    key, place = graphs_key(spec, in_int8=in_int8), _folder(spec, in_int8=in_int8)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
    except OSError as e:
        raise _cannot_write(place.parent, e) from e
    try:
        found = export(made)
        describe(made, key, [path.name for path in sorted(made.iterdir())], found)
        graphs = _put(made, place, key)
    except OSError as e:
        raise _cannot_write(place.parent, e) from e
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if graphs is None:
        raise ZsclipError(f"{place}: the graphs were changed as they were written; export them again")
    return graphs


def describe(folder: Path, key: str, names: Sequence[str], found: dict[str, Any]) -> None:
    """Write the description of graphs.

    Args:
        key: their key, see `graphs_key`. names: of their files. found: the fields of `About` besides key and files.
    """
    files = {name: ((folder / name).stat().st_size, file_digest(folder / name)) for name in names}
    about = asdict(About(key=key, files=files, **found))
    (folder / ABOUT).write_text(json.dumps({"about": about, "digest": fingerprint(about)}), encoding="utf-8")


def size_on_disk() -> int:
    """Give the total size of all graphs in the cache."""
    return sum(max(0, _size(path)) for path in cache_dir().glob(f"{_FOLDERS}/*/*"))


def clear() -> int:
    """Delete all graphs from the cache; give the bytes freed.

    Raises:
        OSError: a file could not be deleted.
    """
    freed = size_on_disk()
    for folder in cache_dir().glob(_FOLDERS):
        shutil.rmtree(folder)
    return freed


def _put(made: Path, place: Path, key: str) -> Graphs | None:
    """Move a folder to its place, unless another process has put one there that is as good; give what is there now.

    One process at a time, or one moves away the good folder that another has just put in place of a damaged one.
    """
    import tempfile

    from zsclip.kept.folders import alone_in

    with alone_in(str(place.parent)):
        if (graphs := read_graphs(place, key)) is not None:
            return graphs
        with tempfile.TemporaryDirectory(prefix=".old-", dir=place.parent, ignore_cleanup_errors=True) as old:
            with suppress(FileNotFoundError):
                os.rename(place, os.path.join(old, "graphs"))
            os.rename(made, place)
        return read_graphs(place, key)


def _folder(spec: ModelSpec, *, in_int8: bool = False) -> Path:
    return cache_dir() / FOLDER / graphs_key(spec, in_int8=in_int8)


def _size(path: Path) -> int:
    """Give the size of a regular file; -1 for anything else."""
    try:
        about = os.stat(path)
    except OSError:
        return -1
    return about.st_size if stat.S_ISREG(about.st_mode) else -1


def _cannot_write(folder: Path, e: OSError) -> ZsclipError:
    return ZsclipError(f"{folder}: cannot keep the graphs: {e.strerror or first_line(e)}; set ZSCLIP_CACHE_DIR")
