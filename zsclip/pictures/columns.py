"""Pictures in a column of a Parquet file, or the paths of pictures. No row is read before it is wanted."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Literal

from zsclip.errors import InputError, first_line
from zsclip.pictures.containers import split_member
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.shards import TOGETHER, Blocks, Shard, Stream, Takes, check_not_empty, failed
from zsclip.pictures.stdin import PICTURE_OF_THE_WEB
from zsclip.pictures.tables import is_ours
from zsclip.pictures.urls import is_remote, is_url, quoted

PATH_COLUMNS = ("file_name", "path", "image")  # of a list, the best first
NO_PATH = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of a pair; the others stand for bytes of a name
_RAW_NAME = "file_name_bytes"  # in our own rows: a name that is not UTF-8
_BINARY_NAMES = ("image", "jpg", "jpeg", "png", "webp", "bytes", "content")
_PEEK_BYTES, _PEEK_ROWS = 1 << 16, 8  # of a column, to see what it holds
_BLOCK_BYTES = 1 << 25  # of pictures that are read together
_BLOCKS: Blocks[Any] = Blocks()
_READERS: "dict[_Rows, tuple[int, Iterator[Any]]]" = {}  # by row group, with the place of each in it
_MOST_READERS = 2


@dataclass(frozen=True)
class Column:
    """A column with pictures: `struct` has their bytes and path, as Hugging Face writes them, `path` only paths."""

    name: str
    kind: Literal["struct", "binary", "path"]

    @property
    def leaf(self) -> str:
        """The path of the bytes in the file's schema."""
        return f"{self.name}.bytes" if self.kind == "struct" else self.name


def check_parquet(path: str, wanted: str | None, network: Network) -> None:
    """Find the column with the pictures, before anything slow. A file that is damaged becomes a row later.

    Raises:
        InputError: pyarrow is missing, there is no such column, or there are several.
    """
    try:
        with open_parquet(network.open(path)) as file:
            schema = file.schema_arrow
    except InputError:
        raise
    except Exception:  # pyarrow raises anything on damaged files
        return
    find_column(path, schema, wanted)


def further_columns(path: str, network: Network) -> str:
    """Say that further columns hold pictures beside the one that is found; "" if none does, or the file is damaged."""
    try:
        with open_parquet(network.open(path), buffer_bytes=_PEEK_BYTES) as file:
            column = find_column(path, file.schema_arrow, None)
            others = " or ".join(map(repr, _others(file, column)))
    except Exception:  # pyarrow raises anything on damaged files; their rows will say so
        return ""
    return others and f"images are read from column {column.name!r}, not from {others}; choose with --column"


def _others(file: Any, taken: Column) -> list[str]:
    """Give the other columns whose first value is a picture."""
    kinds = {field.name: _kind(field.type) for field in file.schema_arrow}
    names = [name for name, kind in kinds.items() if kind in ("struct", "binary") and name != taken.name]
    found = []
    for name in names if file.num_row_groups else ():
        rows = next(file.iter_batches(_PEEK_ROWS, row_groups=[0], columns=[name]), None)
        values = [] if rows is None else rows.column(0).to_pylist()
        data = (value.get("bytes") if isinstance(value, dict) else value for value in values)
        if PICTURE_OF_THE_WEB.match(next(filter(None, data), b"")):
            found.append(name)
    return found


def find_in_parquet(path: str, wanted: str | None, takes: Takes, network: Network) -> Iterator[Pictures]:
    """Yield the pictures of a Parquet file, row by row.

    Args:
        wanted: the column they are in; None finds it.
        takes: whether a row of this number, or a file of this path, is a picture of the run.
        network: fetches parts of a file on a server, and files that rows name.
    """
    try:
        shard = network.open(path)
        with open_parquet(shard) as file:
            column = find_column(path, file.schema_arrow, wanted)
            if column.kind == "path":
                yield from path_groups(_paths(file, shard, column), takes)
                return
            about = file.metadata
            first = 0
            for group in range(about.num_row_groups):
                of_group = about.row_group(group)
                columns = map(of_group.column, range(of_group.num_columns))
                size = sum(
                    each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] == column.name
                )
                numbers = range(first, first + of_group.num_rows)
                together = max(1, min(TOGETHER, len(numbers) * _BLOCK_BYTES // max(size, 1)))
                rows = _Rows(shard, column.name, group, together, about)
                for start in range(0, len(numbers), together):
                    yield _pictures(rows, start, numbers[start : start + together], takes, network)
                first = numbers.stop
    except InputError:
        raise
    except Refused as e:
        yield failed(path, e)
    except Exception as e:  # pyarrow raises anything on damaged files
        is_of_the_disk = isinstance(e, OSError) and e.errno is not None
        yield failed(path, e if is_of_the_disk else Refused("unreadable", f"damaged, or not Parquet: {first_line(e)}"))


@dataclass(frozen=True)
class _Rows:
    """A row group that is read in blocks of rows.

    about: the metadata of the file, which may have thousands of groups.
    """

    shard: Shard
    column: str
    group: int
    together: int
    about: Any = field(compare=False)


def _pictures(rows: _Rows, start: int, numbers: Sequence[int], takes: Takes, network: Network) -> Pictures:
    """Give the pictures of one block of rows.

    Args:
        start: the first one's place in its row group. numbers: of all of them in the file.
    """
    shard = rows.shard
    taken = [place for place, number in enumerate(numbers) if takes(str(number))]
    files: set[int] = set()  # pictures that are files of their own; only these have keys that show a change

    def read(place: int) -> bytes | BinaryIO:
        value = _BLOCKS.read((rows, start), partial(_read_block, rows, start))[taken[place]].as_py()
        about = value if isinstance(value, dict) else {"bytes": value}
        data, path = about.get("bytes"), about.get("path")
        if data is None and isinstance(path, str) and path:
            files.add(place)
            found = relative_to(os.path.dirname(shard.path), path)
            if not isinstance(found, str):
                raise found or Refused("missing", "the row has no image")
            return network.read(found)
        if data is None:
            raise Refused("missing", "the row has no image")
        check_not_empty(len(data))
        return bytes(data)

    def key(place: int) -> bytes | None:
        return None if place in files else shard.key_of(numbers[taken[place]])

    return Pictures([f"{shard.path}#{numbers[place]}" for place in taken], read, key)


def _read_block(rows: _Rows, start: int) -> Any:
    """Read some rows, by going on where a reader of their row group is; called by one thread at a time."""
    place, reader = _READERS.pop(rows, (0, None))
    if reader is None or place > start:
        place, reader = 0, _blocks(rows)
    try:
        while place < start:  # another run, or the thumbnails of this one, begin in the middle
            place += len(next(reader))
        block = next(reader)
    except Refused:  # its server does not send it, or it has changed
        raise
    except Exception as e:  # pyarrow raises anything on damaged pages
        raise Refused("unreadable", f"row group {rows.group} is damaged: {first_line(e)}") from e
    if len(block) == rows.together:  # else it is the last of its group
        while len(_READERS) >= _MOST_READERS:
            del _READERS[next(iter(_READERS))]
        _READERS[rows] = place + len(block), reader
    return block


def _blocks(rows: _Rows) -> Iterator[Any]:
    """Yield the rows of a row group, some at a time; a group may be larger than the memory."""
    import pyarrow as pa

    waiting: list[Any] = []
    with open_parquet(rows.shard, rows.about) as file:
        for batch in file.iter_batches(rows.together, row_groups=[rows.group], columns=[rows.column]):
            whole = pa.chunked_array([*waiting, batch.column(0)])
            while len(whole) >= rows.together:
                yield whole[: rows.together]
                whole = whole[rows.together :]
            waiting = whole.chunks
    if waiting:
        yield pa.chunked_array(waiting)


def _paths(file: Any, shard: Shard, column: Column) -> Iterator[tuple[str, str | Refused | None]]:
    row = 0
    folder, schema = os.path.dirname(shard.path), file.schema_arrow
    is_given = column.name == PATH_COLUMNS[0] and _is_ours(schema)
    raw = [_RAW_NAME] if is_given and _RAW_NAME in schema.names else []
    for batch in file.iter_batches(TOGETHER, columns=[column.name, *raw]):
        paths = batch.column(column.name).to_pylist()
        for place, name in enumerate(batch.column(_RAW_NAME).to_pylist() if raw else ()):
            paths[place] = paths[place] if name is None else os.fsdecode(name)
        for path in paths:
            yield f"{shard.path}#{row}", relative_to(folder, path, is_given=is_given)
            row += 1


def _is_ours(schema: Any) -> bool:
    """Whether a file has zsclip's own rows, which name images as they were given to that run."""
    return PATH_COLUMNS[0] in schema.names and (
        b"zsclip" in (schema.metadata or {}) or is_ours(dict.fromkeys(schema.names))
    )


def relative_to(folder: str, path: Any, *, is_given: bool = False) -> str | Refused | None:
    """Give a path in a list as one of the working directory; None if there is none. A URL stays as it is.

    Args:
        folder: that of the list.
        is_given: whether the path is to be taken exactly as it is.

    Returns:
        Refused for a local file in a list on a server: who wrote that list has no business with this disk.
    """
    if not isinstance(path, str) or not path.strip() or NO_PATH.search(path):
        return None
    if not is_given and not is_url(path):
        file, member = split_member(path.strip())
        path = os.path.join(folder, file if not is_remote(folder) else quoted(file, folder))
        path += f"#{member}" if member else ""
    is_local = not is_url(path) or path[:7].lower() in ("file://", "memory:")
    if is_local and is_remote(folder):
        return Refused("permission", "a list on a server may not name files of this machine")
    return path


def path_groups(found: Iterable[tuple[str, str | Refused | None]], takes: Takes) -> Iterator[Pictures]:
    """Yield the files of a list, together, and a row for each line without one.

    Args:
        found: where each is listed, and its path.
    """
    files: list[str] = []
    for where, path in found:
        if isinstance(path, str) and takes(path):
            files.append(path)
        if files and (not isinstance(path, str) or len(files) == TOGETHER):
            yield Pictures(files)
            files = []
        if not isinstance(path, str):
            yield failed(where, path or Refused("missing", "this row has no image path"))
    yield Pictures(files)


def open_parquet(shard: Shard, about: Any = None, *, buffer_bytes: int = 0) -> Any:
    """Open a Parquet file with pyarrow.

    Args:
        about: its metadata, if they were read before. buffer_bytes: of a column that are read at a time; 0 reads all
            that a row group has.

    Raises:
        InputError: pyarrow is missing.
        Exception: of any type; pyarrow raises anything on damaged files.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise InputError(f"{shard.path}: reading Parquet needs pyarrow: pip install 'zsclip[parquet]'") from e
    file = pa.PythonFile(Stream(shard.read, shard.size), mode="r")
    return pq.ParquetFile(file, metadata=about, buffer_size=buffer_bytes, pre_buffer=not buffer_bytes)


def read_group(shard: Shard, column: Column, group: int, count: int) -> Any:
    """Read the encoded pictures of a whole row group, as pyarrow's bytes."""
    rows = next(_blocks(_Rows(shard, column.leaf, group, max(1, count), None))).combine_chunks()
    return rows.field("bytes") if column.kind == "struct" else rows


def find_column(path: str, schema: Any, wanted: str | None) -> Column:
    """Find the column with the pictures.

    Raises:
        InputError: there is none, or there are several.
    """
    kinds = {field.name: _kind(field.type) for field in schema}
    if wanted is not None:
        if wanted not in kinds:
            raise InputError(f"{path}: no column {wanted!r}; it has {', '.join(kinds)}")
        if (kind := kinds[wanted]) is None:
            raise InputError(f"{path}: column {wanted!r} holds {schema.field(wanted).type}, not images; choose another")
        return Column(wanted, kind)
    if _is_ours(schema) and kinds[PATH_COLUMNS[0]] == "path":
        return Column(PATH_COLUMNS[0], "path")
    of_kind = {kind: [name for name, each in kinds.items() if each == kind] for kind in ("struct", "binary", "path")}
    found = of_kind["struct"] or [name for name in of_kind["binary"] if name in _BINARY_NAMES] or of_kind["binary"]
    found = found or [name for name in PATH_COLUMNS if name in of_kind["path"]][:1]
    if len(found) > 1:
        raise InputError(f"{path}: several columns may hold the images: {', '.join(found)}; choose one with --column")
    if not found and not any(kinds.values()):
        given = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise InputError(f"{path}: no column holds images or their paths; it has {given}")
    if not found:
        raise InputError(f"{path}: found no column of images among {', '.join(kinds)}; name one with --column")
    return Column(found[0], kinds[found[0]] or "binary")


def _kind(kind: Any) -> Literal["struct", "binary", "path"] | None:
    """Give what a column of a type may hold."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)  # of an extension type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "struct" if "bytes" in names and _kind(kind.field("bytes").type) == "binary" else None
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "binary"
    is_path = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return "path" if is_path else None
