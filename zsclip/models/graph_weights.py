"""Graphs without weights: ONNX graphs that read theirs from the safetensors of the model, so no weight exists twice."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = {"F16": "<f2", "F32": "<f4"}
_LEAST = 1024  # values of a tensor that is looked for in the file
_ROUNDING = 1e-6  # of the largest value


@dataclass(frozen=True, eq=False)
class _Stored:
    """A tensor of the file. start: of its bytes. values: fp32."""

    kind: str
    start: int
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Source:
    """What a constant of a graph is made of: rows of a stored tensor, each times a factor, perhaps transposed.

    factors: (rows,); None if all are 1.
    """

    stored: _Stored
    first: int
    rows: int
    factors: NDArray[np.float32] | None
    transposed: bool


def without_weights(weights: Path, graph_file: Path, path: Path) -> None:
    """Write a graph whose constants are read from the safetensors beside it.

    Small ones, and those that cannot be made of a stored tensor in one or two steps, stay in the graph.

    Args:
        weights: the safetensors, in fp16 or fp32, that the model was loaded from.
        graph_file: a graph with all constants. path: in the folder of `weights`.
    """
    import onnx
    from onnx import numpy_helper

    model, stored = onnx.load(graph_file), list(_read(weights))
    steps: list[Any] = []  # nodes that make constants of what is stored
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        is_large = values.dtype == np.float32 and values.size >= _LEAST
        if is_large and (source := _source(values, stored)) is not None:
            model.graph.initializer.remove(tensor)
            steps += _made(model.graph, tensor.name, source, weights.name)
    _put_before_readers(model.graph, steps)
    onnx.save(model, path)


def _read(weights: Path) -> Iterator[_Stored]:
    """Read the large tensors of a file of safetensors."""
    with open(weights, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        for about in json.loads(file.read(length)).values():
            if about.get("dtype") in _KINDS and np.prod(about["shape"]) >= _LEAST:
                start, end = (8 + length + offset for offset in about["data_offsets"])
                file.seek(start)
                values = np.frombuffer(file.read(end - start), _KINDS[about["dtype"]]).reshape(about["shape"])
                yield _Stored(about["dtype"], start, values.astype(np.float32))


def _source(values: NDArray[np.float32], stored: list[_Stored]) -> _Source | None:
    for transposed in (False, True)[: values.ndim]:
        if transposed and values.ndim != 2:
            continue
        wanted = values.T if transposed else values
        for each in stored:
            if each.values.shape == wanted.shape and (found := _factors(wanted, each.values)) is not None:
                return _Source(each, 0, len(wanted), None if (found == 1).all() else found, transposed)
            if each.values.shape[1:] == wanted.shape[1:] and len(each.values) > len(wanted):
                same = (each.values == wanted[0]).reshape(len(each.values), -1).all(axis=1)
                for first in np.flatnonzero(same).tolist():
                    if np.array_equal(each.values[first : first + len(wanted)], wanted):
                        return _Source(each, first, len(wanted), None, transposed)
    return None


def _factors(wanted: NDArray[np.float32], stored: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Give the factor by which each row is the stored one; None if it is not."""
    if np.array_equal(wanted, stored):
        return np.ones(len(wanted), np.float32)
    theirs, ours = (each.reshape(len(each), -1).astype(np.float64) for each in (stored, wanted))
    factors = (theirs * ours).sum(axis=1) / (theirs**2).sum(axis=1).clip(1e-30)
    is_near = np.abs(theirs * factors[:, None] - ours).max() <= _ROUNDING * np.abs(ours).max()
    return factors.astype(np.float32) if is_near else None


def _made(graph: Any, name: str, source: _Source, location: str) -> Iterator[Any]:
    """Add to a graph what a constant is made of; give the steps, the last of which has its name."""
    from onnx import TensorProto, helper, numpy_helper

    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if source.stored.kind == "F16":
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if source.factors is not None:
        factors = source.factors.reshape(-1, *[1] * (source.stored.values.ndim - 1))
        graph.initializer.append(numpy_helper.from_array(factors, f"{name}.factors"))
        steps.append(("Mul", [f"{name}.factors"], {}))
    if source.transposed:
        steps.append(("Transpose", [], {"perm": [1, 0]}))
    names = [*(f"{name}.{place}" for place in range(len(steps))), name]
    graph.initializer.append(_external(names[0], source, location))
    readers = [node for node in graph.node if name in node.input]
    if [step for step, *_ in steps] == ["Cast"] and all(node.op_type == "Gather" for node in readers):
        for node in readers:  # convert only the rows that are read
            (row,) = node.output
            node.input[0], node.output[0] = names[0], f"{row}.0"
            yield helper.make_node("Cast", [f"{row}.0"], [row], to=TensorProto.FLOAT)
        return
    for (operation, more, attributes), before, after in zip(steps, names[:-1], names[1:], strict=True):
        yield helper.make_node(operation, [before, *more], [after], **attributes)


def _external(name: str, source: _Source, location: str) -> Any:
    """Describe rows of a stored tensor as ONNX describes constants that are in another file."""
    from onnx import TensorProto

    stored = source.stored
    width = stored.values[0].size * np.dtype(_KINDS[stored.kind]).itemsize  # bytes of a row
    kind = TensorProto.FLOAT16 if stored.kind == "F16" else TensorProto.FLOAT
    tensor = TensorProto(name=name, data_type=kind, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend((source.rows, *stored.values.shape[1:]))
    about = {"location": location, "offset": stored.start + source.first * width, "length": source.rows * width}
    for key, value in about.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _put_before_readers(graph: Any, steps: list[Any]) -> None:
    """Add steps to a graph, each before the first node that reads its result."""
    waiting = {step.output[0]: step for step in steps}
    nodes: list[Any] = []

    def add(node: Any) -> None:
        for name in node.input:
            if name in waiting:
                add(waiting.pop(name))
        nodes.append(_copied(node))

    for node in graph.node:
        node.doc_string = ""
        add(node)
    assert not waiting
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _copied(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy
