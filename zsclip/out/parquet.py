"""Answers -> Parquet: the fields of the JSON lines as columns, and how they came about in the schema's metadata.

A name that is not UTF-8 has U+FFFD in `file_name`, and its bytes in `file_name_bytes`, which is null for all others.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.answers import Answers
from zsclip.errors import InputError
from zsclip.out.output import Embeddings
from zsclip.out.text import without_surrogates

_ROWS = 16_384  # of a row group
_LABEL_OF_CANDIDATE = "predictions.list.element.label"  # its path in the file
_ABOUT, _END = "zsclip", "zsclip.end"  # keys of the metadata


@dataclass(frozen=True)
class Layout:
    """What a file holds besides the answers.

    embeddings: the type of the numbers in a column with the vectors, if there is one, and width their length. truth:
    whether there is a column with the true labels. about: what the schema's metadata say, JSON-like. first: whether
    there are columns for the first of two passes.
    """

    embeddings: Embeddings | None = None
    width: int = 0
    truth: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    first: bool = False

    def schema(self) -> Any:
        """Give the columns and the metadata, as a pyarrow.Schema."""
        import pyarrow as pa

        text, number = pa.string(), pa.float32()
        candidate = pa.struct({"label": text, "score": number, "cosine": number})
        columns = [
            ("file_name", text), ("file_name_bytes", pa.binary()), *([("truth", text)] if self.truth else []),
            ("label", text), ("score", number), ("cosine", number), ("score_kind", text),
            ("predictions", pa.list_(candidate)), ("beaten_by", text),
            *([("first_label", text), ("first_score", number)] if self.first else []),
            ("error", text), ("message", text),
        ]  # fmt: skip
        if self.embeddings is not None:
            columns.append(("embedding", pa.list_(pa.type_for_alias(self.embeddings), self.width)))
        return pa.schema(columns, {_ABOUT: json.dumps(self.about)} if self.about else None)


def check_pyarrow(what: str) -> None:
    """Raise an InputError if pyarrow is missing.

    Args:
        what: needs it.
    """
    try:
        import pyarrow.parquet
    except ImportError as e:
        raise InputError(f"{what}: needs pyarrow: pip install 'zsclip[parquet]'") from e
    assert pyarrow.parquet


def write_parquet(
    batches: Iterable[Answers],
    out: TextIO,
    *,
    layout: Layout,
    end: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Write a Parquet file; one that is not complete has no end, and cannot be read.

    Args:
        end: called when all rows are written; what it gives is added to the metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = layout.schema()
    repeated = [
        *{"truth", "label", "score_kind", "beaten_by", "first_label", "error"} & set(schema.names),
        _LABEL_OF_CANDIDATE,
    ]
    file = _Forward(out.buffer)
    waiting: list[Any] = []
    writer = None
    try:
        for answers in batches:
            waiting.append(record_batch(answers, layout, schema))
            if sum(map(len, waiting)) >= _ROWS:
                writer = writer or pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeated)
                writer.write_table(pa.Table.from_batches(waiting))
                waiting.clear()
        writer = writer or pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeated)
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
        if end is not None:
            writer.add_key_value_metadata({_END: json.dumps(end())})
        writer.close()
    except BaseException:
        file.is_given_up = True  # when it goes, the writer would end the file as if it were complete
        raise
    out.flush()


def read_about(path: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Read what the metadata of a file of ours say, and what `end` added; None if it is not one, or not complete."""
    try:
        about, end = (json.loads(text) for text in read_texts(path) or ())
        return about, end
    except ValueError:
        return None


def read_texts(path: str) -> tuple[bytes, bytes] | None:
    """Read as `read_about`, but leave the JSON as it is."""
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
        return metadata[_ABOUT.encode()], metadata.get(_END.encode(), b"{}")
    except Exception:  # pyarrow raises anything on damaged files
        return None


def record_batch(answers: Answers, layout: Layout, schema: Any) -> Any:
    """Put a batch into the columns of a schema, without an object for each picture."""
    import pyarrow as pa

    failed = ~answers.was_read()
    labels, rivals = map(_texts, (answers.vocabulary, answers.distractors))
    names, raw = _names(answers.names)
    nothing = np.full(len(answers), -1, np.int32)
    columns = {
        "file_name": names,
        "file_name_bytes": raw,
        "truth": _taken(labels, nothing if answers.truth is None else answers.truth),
        "label": _taken(labels, answers.answered),
        "score": pa.array(answers.scores[:, 0], mask=failed),
        "cosine": pa.array(answers.cosines[:, 0], mask=failed),
        "score_kind": _taken(_texts([answers.score_kind]), np.where(failed, np.int32(-1), np.int32(0))),
        "predictions": _predictions(answers, labels, failed),
        "beaten_by": _taken(rivals, nothing if answers.beaten_by is None else answers.beaten_by),
        "error": _of_some(answers, lambda place: answers.skipped[place].error),
        "message": _of_some(answers, lambda place: without_surrogates(answers.skipped[place].message)),
    }
    if layout.first:
        first, scores = answers.first_answered, answers.first_scores
        assert first is not None
        columns |= {"first_label": _taken(labels, first), "first_score": pa.array(scores, mask=failed)}
    if layout.embeddings is not None:
        assert answers.vectors is not None
        flat = pa.array(answers.vectors.astype(layout.embeddings).ravel())  # (n * D,)
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, layout.width, mask=pa.array(failed))
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


class _Forward:
    """A stream that is only written forward, so that it may be a pipe."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._place = 0
        self.is_given_up = False

    def write(self, data: bytes) -> int:
        if not self.is_given_up:
            self._out.write(data)
            self._place += len(data)
        return len(data)

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        """Leave that to the end."""

    def close(self) -> None:
        """Leave that to the owner of the stream."""


def _texts(texts: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(list(map(without_surrogates, texts)), pa.string())


def _taken(texts: Any, places: NDArray[np.int32]) -> Any:
    """Give the text at each place; null where that is -1."""
    import pyarrow as pa

    return texts.take(pa.array(places, mask=places < 0))


def _names(names: Sequence[str]) -> tuple[Any, Any]:
    """Give names as text, and the bytes of those that are not UTF-8."""
    import pyarrow as pa

    if "".join(names).isascii():
        return pa.array(names, pa.string()), pa.nulls(len(names), pa.binary())
    whole = list(map(os.fsencode, names))
    texts = [name.decode("utf-8", "replace") for name in whole]
    odd = [None if text.encode() == name else name for text, name in zip(texts, whole, strict=True)]
    return pa.array(texts, pa.string()), pa.array(odd, pa.binary())


def _predictions(answers: Answers, labels: Any, failed: NDArray[np.bool_]) -> Any:
    """Give the candidates of each picture, best first, as a list of structs."""
    import pyarrow as pa

    shown = answers.is_candidate() & ~failed[:, None]  # (n, k)
    ends = np.concatenate([[0], shown.sum(axis=1).cumsum()]).astype(np.int32)
    columns = [labels.take(pa.array(answers.classes[shown]))]
    columns += [pa.array(numbers[shown]) for numbers in (answers.scores, answers.cosines)]
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(columns, ["label", "score", "cosine"]))


def _of_some(answers: Answers, text: Callable[[int], str]) -> Any:
    """Give a text for each picture that failed; null for the others."""
    import pyarrow as pa

    places = np.full(len(answers), -1, np.int32)
    places[list(answers.skipped)] = np.arange(len(answers.skipped))
    return _taken(pa.array(list(map(text, answers.skipped)), pa.string()), places)
