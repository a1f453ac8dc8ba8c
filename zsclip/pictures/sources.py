"""Pictures with labels or captions: Parquet shards, class folders, CSV and JSON lines. No picture is opened here."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from zsclip.errors import InputError, first_line
from zsclip.pictures.archives import find_in_archive
from zsclip.pictures.columns import NO_PATH, Column, find_column, open_parquet, read_group, relative_to
from zsclip.pictures.containers import archive_of, split_member
from zsclip.pictures.endings import ARCHIVES, ENDINGS, HEIC_ENDINGS, SKIPPED_NAMES
from zsclip.pictures.files import find_images, is_folder
from zsclip.pictures.listed import pictures_of
from zsclip.pictures.passed_over import PassedOver, ending_of
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.source import Names, Source
from zsclip.pictures.splits import check_depth, holds_splits, splits_of
from zsclip.pictures.tables import TABLES, check_single, check_true, is_further_rank, is_ours, not_utf_8, table_records
from zsclip.pictures.urls import is_remote, name_in

_NO_TEXT = re.compile("[\ud800-\udfff]")  # halves of a surrogate pair


def check_inputs(inputs: Sequence[str], network: Network | None = None) -> None:
    """Check that all inputs exist, before anything slow.

    Raises:
        InputError: one does not.
    """
    for text in inputs:
        if not os.path.exists(text) and not is_remote(text):
            raise InputError(f"no such file or folder: {text!r}")
    (network or Network()).check([text for text in inputs if is_remote(text)])


def find_sources(
    text: str,
    note: Callable[[str], None],
    passed_over: PassedOver,
    *,
    all_files: bool = False,
    network: Network | None = None,
) -> Iterator[Source]:
    """Read the words of one input, in the order of its pictures.

    Args:
        text: a `.parquet` file or a folder of them, a folder of class folders, an archive, or a list in `.csv`, `.tsv`
            or `.jsonl`; or the URL of one that is not a folder.
        note: called with one line about everything that is skipped.
        passed_over: where to count the files of folders that are not tried.
        all_files: take files of class folders whatever their ending.
        network: what fetches URLs; None for one that may fetch all.

    Raises:
        InputError: it is none of these, it holds splits instead of class folders, or a list cannot be read or has
            answers for labels.
    """
    network = Network() if network is None else network
    name = name_in(text).lower()
    if os.path.isdir(text):
        shards = [
            os.path.join(folder, name)
            for folder, _, files in os.walk(text)
            for name in files
            if name.endswith(".parquet") and not name.startswith(".")
        ]
        if shards:
            for shard in sorted(shards):
                yield from _parquet_blocks(shard, note, network)
        else:
            yield from _class_folders(text, note, passed_over, all_files)
    elif name.endswith(".parquet"):
        yield from _parquet_blocks(text, note, network)
    elif name.endswith(ARCHIVES):
        yield from find_in_archive(text, note, passed_over, network, all_files=all_files)
    elif name.endswith((*TABLES, ".jsonl")):
        yield _listed(text, note, network)
    else:
        raise InputError(
            f"{text!r}: not labelled images; give a folder with a folder for each label, or .parquet, .tar, .zip, "
            ".csv, .tsv or .jsonl"
        )


def _parquet_blocks(path: str, note: Callable[[str], None], network: Network) -> Iterator[Source]:
    wordless: list[int] = []
    row = 0
    try:
        shard = network.open(path)
        with open_parquet(shard) as file:
            columns, classes = set(file.schema_arrow.names), _class_names(file.schema_arrow.metadata)
            leaves = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
            wanted = [name for name in ("label", "synonyms", "kinds", "captions", "source") if name in columns]
            column = _image_column(path, file.schema_arrow)
            if column is None or not {"label", "captions"} & columns:
                note(f"{path}: skipped: needs a column with images, and label or captions; has {sorted(columns)}")
                return
            for group in range(file.metadata.num_row_groups):
                try:
                    ids = [leaf for leaf in leaves if leaf == f"{column.name}.path"]
                    table = file.read_row_group(group, columns=[*ids, *wanted])
                    some = []
                    for i, record in enumerate(table.to_pylist(), start=row):
                        named = record.get(column.name) if ids else None
                        identity = (named or {}).get("path") or f"{os.path.basename(path)}:{i}"
                        if isinstance(number := record.get("label"), int):
                            record["label"] = _name_of(number, classes)
                        some.append((identity, _names(record)))
                        if some[-1][1] is None:
                            wordless.append(i)
                except Exception as e:  # pyarrow raises anything on damaged pages
                    note(f"{path}, row group {group}: skipped: {first_line(e)}")
                else:
                    about = file.metadata.row_group(group)
                    size = about.column(leaves.index(column.leaf)).total_uncompressed_size
                    read = partial(read_group, shard, column, group, about.num_rows)
                    yield Source(f"{path}, row group {group}", size, some, read, False, [path], first=row)
                row += file.metadata.row_group(group).num_rows
    except InputError:
        raise
    except Exception as e:
        note(f"{path}: skipped: not a complete Parquet file: {first_line(e)}")
    _note_wordless(path, wordless, "row", note)


def _image_column(path: str, schema: Any) -> Column | None:
    """Find the column with encoded pictures; None if there is none, or several."""
    with suppress(InputError):
        column = find_column(path, schema, None)
        return column if column.kind != "path" else None
    return None


def _names(record: dict[str, Any]) -> Names | None:
    """Make the words of a row, or None if it has none; values that are not text count as missing."""

    def texts(value: Any) -> tuple[str, ...]:
        return tuple(one.strip() for one in value or () if isinstance(one, str) and one.strip())

    label = texts([record.get("label")])
    captions = texts(record.get("captions"))
    if not label and not captions:
        return None
    source = "".join(texts([record.get("source")]))
    return Names("".join(label), texts(record.get("synonyms")), texts(record.get("kinds")), captions, source)


def _class_folders(
    root: str, note: Callable[[str], None], passed_over: PassedOver, all_files: bool
) -> Iterator[Source]:
    """Read the pictures of each label. Links may lead anywhere, but no folder is read twice, or for another label."""
    folders, links, visited = _label_folders(root, passed_over)
    found: dict[str, list[str]] = {}
    for label in [*sorted(folders), *sorted(links)]:
        path = os.path.join(root, label)
        if label in folders:
            visited.remove(folders[label])
        elif links[label] in visited:
            note(f"{path!r}: skipped: a link to a folder that is read anyway")
            continue
        paths = list(find_images([path], note=note, all_files=all_files, visited=visited, passed_over=passed_over))
        if not paths or not label.isprintable():
            note(f"{path!r}: skipped: {'no image in it' if not paths else 'its name is not printable text'}")
            continue
        found[label] = paths
    check_depth(root, found, note)
    for label, paths in sorted(found.items()):
        some: list[tuple[str, Names | None]] = [(os.path.relpath(path, root), Names(label)) for path in paths]
        yield Source(f"{root}/{label}", sum(map(len, paths)), some, partial(list, paths), True, paths)


_FileId = tuple[int, int]  # device and inode


def _label_folders(root: str, passed_over: PassedOver) -> tuple[dict[str, _FileId], dict[str, _FileId], set[_FileId]]:
    """Give the id of each label's folder, that of each link to a folder, and those of the root and all folders."""
    folders: dict[str, _FileId] = {}
    links: dict[str, _FileId] = {}
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SKIPPED_NAMES:
                    continue
                if is_folder(entry):
                    status = entry.stat()
                    (links if entry.is_symlink() else folders)[entry.name] = (status.st_dev, status.st_ino)
                elif (ending := ending_of(entry.name)) in ENDINGS | HEIC_ENDINGS:
                    passed_over.unlabelled[ending] += 1
        status = os.stat(root)
    except OSError as e:
        raise InputError(f"{root!r}: cannot be read: {(e.strerror or str(e)).lower()}") from e
    splits = splits_of({*folders, *links})
    if len(splits) > 1 or (splits and not {*folders, *links} - {*splits}):
        raise holds_splits(root, splits)
    if not folders and not links:
        raise InputError(f"{root!r}: found neither class folders nor .parquet files; make one folder for each label")
    return folders, links, {(status.st_dev, status.st_ino), *folders.values()}


def _listed(path: str, note: Callable[[str], None], network: Network, *, are_bytes: bool = False) -> Source:
    """Read a list of files, whose paths are relative to it; in zsclip's own rows, paths are as that run was given them.

    The column `truth` comes before `label`, and of a picture with a row for each rank only the first counts.

    Args:
        are_bytes: read a table in which names of files are not UTF-8; everything else must be.
    """
    folder = os.path.dirname(path)
    is_table = name_in(path).lower().endswith(TABLES)
    paths: list[str] = []
    some: list[tuple[str, Names | None]] = []
    wordless: list[int] = []
    read = partial(_table_records, are_bytes=are_bytes) if is_table else _json_records
    try:
        for line, record in read(path, network):
            if is_further_rank(record):
                continue
            if are_bytes:
                _check_bytes(path, record)
            if is_ours(record) and "truth" not in record:
                raise InputError(
                    f"{path}: these labels are zsclip's own answers; put the true labels in a column named truth"
                )
            check_true(path, record)
            truth = "truth" if "truth" in record else "label"
            name = _text(record.get("file_name"), may_be_bytes=True)
            label, caption, meaning = (_text(record.get(key)) for key in (truth, "caption", "name"))
            found = relative_to(folder, name, is_given=is_ours(record))
            if isinstance(found, Refused):
                raise InputError(f"{path}:{line}: {found.message}")
            paths.append(found or "")
            captions = (caption,) if caption else ()
            some.append((name, Names(label, captions=captions, name=meaning) if name and (label or caption) else None))
            if some[-1][1] is None:
                wordless.append(line)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        if is_table:  # perhaps only because of the names of files, as in what zsclip writes
            with suppress(InputError):
                return _listed(path, note, network, are_bytes=True)
        raise InputError(f"{path}: {not_utf_8(e.object[:64])}") from e
    except Refused as e:  # its server does not send it
        raise InputError(f"{path}: cannot be read: {e.message}") from e
    _note_wordless(path, wordless, "line", note)
    if (members := pictures_of(paths, network)).read is not None:
        files = dict.fromkeys([path, *(archive_of(each) or each for each in paths if not is_remote(each))])
        return Source(path, sum(map(len, paths)), some, list, False, list(files), members)
    return Source(path, sum(map(len, paths)), some, partial(list, paths), True, paths)


def _text(value: Any, *, may_be_bytes: bool = False) -> str:
    r"""Strip a text; give "" for a value that is not text, or not Unicode (half of a surrogate pair).

    Args:
        may_be_bytes: allow `\udc80` to `\udcff`, which stand for the bytes of a name that is not UTF-8.
    """
    if not isinstance(value, str) or (NO_PATH if may_be_bytes else _NO_TEXT).search(value):
        return ""
    return value.strip()


def _check_bytes(path: str, record: dict[str, Any]) -> None:
    """Refuse a row if anything is not UTF-8 but the name of a file that is there: its list has another encoding."""
    for column, cell in record.items():
        if isinstance(cell, str) and _NO_TEXT.search(cell):
            file = cell if is_ours(record) else os.path.join(os.path.dirname(path), cell.strip())
            if column != "file_name" or not any(map(os.path.lexists, (file, split_member(file)[0]))):
                raise InputError(f"{path}: not UTF-8")


def _table_records(path: str, network: Network, *, are_bytes: bool) -> Iterator[tuple[int, dict[str, str | None]]]:
    def columns(header: list[str]) -> list[str]:
        check_single(path, header, ("file_name", "label", "caption", "truth"))
        header = ["file_name" if name == "path" else name for name in header]
        if "file_name" not in header or not {"label", "caption", "truth"} & set(header):
            raise InputError(f"{path}:1: needs the header path,caption or file_name,label; found {','.join(header)}")
        return header

    errors = "surrogateescape" if are_bytes else "strict"
    return table_records(path, columns, network.open_text, errors=errors, is_labelled=True)


def _json_records(path: str, network: Network) -> Iterator[tuple[int, dict[str, Any]]]:
    with network.open_text(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as e:
                raise InputError(f"{path}:{number}: not valid JSON: {first_line(e)}; write one object per line") from e
            if not isinstance(record, dict):
                raise InputError(f"{path}:{number}: not an object; write one per line, with file_name and label")
            yield number, record


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    """Give the names of numbered labels, as the datasets library stores them with the columns."""
    with suppress(KeyError, TypeError, ValueError):
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
        return [name for name in names if isinstance(name, str)]
    return []


def _name_of(number: int, classes: Sequence[str]) -> str | None:
    """Give the name of a numbered label, or the number if labels have no names; -1 stands for none."""
    if not classes:
        return str(number) if number >= 0 else None
    return classes[number] if 0 <= number < len(classes) else None


def _note_wordless(path: str, places: list[int], unit: str, note: Callable[[str], None]) -> None:
    if places:
        some = f"{len(places)} {unit}{'' if len(places) == 1 else 's'}"
        note(f"{path}: skipped: {some} without a label or caption, the first is {unit} {places[0]}")
