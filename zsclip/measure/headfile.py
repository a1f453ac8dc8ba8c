"""Heads as files: arrays in safetensors, everything else in its metadata. Nothing in a file is trusted."""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zsclip.answers.heads import Head
from zsclip.errors import InputError
from zsclip.measure.calibration import label_of, prompts_of

VERSION = 1
_KEY = "zsclip head"
_ARRAYS = {
    "class_embeddings": (np.float32, 2), "weights": (np.float32, 2), "biases": (np.float32, 1),
    "vectors": (np.float32, 2), "truth": (np.int32, 1),
}  # fmt: skip
_LONG = 1e-2  # by which the length of a row may differ from 1


def to_bytes(head: Head) -> bytes:
    """Write a head as a safetensors file."""
    about = {
        "version": VERSION, "words": [asdict(label) for label in head.words], "sentences": asdict(head.sentences),
        "model": head.model, "made_with": dict(head.made_with), "logit_scale": head.logit_scale,
        "about": dict(head.about),
    }  # fmt: skip
    arrays = {name: np.ascontiguousarray(getattr(head, name)) for name in _ARRAYS}
    return bytes(save(arrays, {_KEY: json.dumps(about, ensure_ascii=False, allow_nan=False)}))


def read_head(file: str) -> Head:
    """Read a head.

    Raises:
        InputError: it cannot be read, or is not a head.
    """
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # /dev/zero has no end
            raise InputError(f"{file}: not a file; check the path")
        with safe_open(file, framework="np") as opened:
            about = json.loads((opened.metadata() or {})[_KEY])
            arrays = {name: opened.get_tensor(name) for name in _ARRAYS}
        if about["version"] != VERSION:
            raise InputError(f"{file}: written by another version of zsclip; learn it again")
        head = _head_of(about, arrays)
    except OSError as e:
        raise InputError(f"{file}: cannot be read: {(e.strerror or str(e)).lower()}; check the path") from e
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as e:
        raise InputError(f"{file}: not a head; `zsclip learn DATA -o {file}` makes one") from e
    if (wrong := _wrong_with(head)) is not None:
        raise InputError(f"{file}: damaged: {wrong}; learn it again")
    return head


def check_model(head: Head, file: str, made_with: Mapping[str, str], width: int) -> None:
    """Refuse a head that was learnt with another model.

    Args:
        made_with: of this run. width: of the embeddings of its model.

    Raises:
        InputError: it was.
    """
    if head.made_with.get("model") == made_with["model"] and head.weights.shape[1] == width:
        return
    was, now = (each.get("model", "").rpartition(", ")[0] for each in (head.made_with, made_with))
    other = f"another model ({was})" if was != now else f"other weights or settings of the model {was}"
    cure = "leave out --model to use the file's, or learn again" if was != now else "learn again"
    raise InputError(f"{file}: was learnt with {other}; {cure}")


def _head_of(about: dict[str, Any], arrays: dict[str, Any]) -> Head:
    return Head(
        words=tuple(label_of(**label) for label in about["words"]),
        sentences=prompts_of(**about["sentences"]),
        model=str(about["model"]),
        made_with={str(key): str(value) for key, value in about["made_with"].items()},
        logit_scale=float(about["logit_scale"]),
        about=dict(about["about"]),
        **arrays,
    )


def _wrong_with(head: Head) -> str | None:
    """Say what of a head's numbers cannot be; None if all may."""
    for name, (kind, axes) in _ARRAYS.items():
        array = getattr(head, name)
        if array.dtype != kind or array.ndim != axes:
            return f"{name} are {array.dtype} {array.shape}"
        if kind == np.float32 and not np.isfinite(array).all():
            return f"{name} hold NaN or infinity"
    labels, width = head.weights.shape
    shapes = {
        "class_embeddings": (labels, width), "biases": (labels,), "vectors": (len(head.truth), width),
    }  # fmt: skip
    for name, shape in shapes.items():
        if getattr(head, name).shape != shape:
            return f"{name} are {getattr(head, name).shape}, not {shape}"
    if labels != len(head.words) or labels < 2:
        return f"{len(head.words)} labels for {labels} rows of weights"
    if not math.isfinite(head.logit_scale) or head.logit_scale <= 0:
        return f"its scale is {head.logit_scale}"
    if len(head.truth) and not (head.truth.min() >= 0 and head.truth.max() < labels):
        return "an example has a label that is not there"
    for name in ("class_embeddings", "vectors"):
        if (np.abs(np.linalg.norm(getattr(head, name), axis=1) - 1) > _LONG).any():
            return f"{name} are not of length 1"
    return None
