"""Reads the configuration of a model, and refuses sizes that no model has before anything is built from them."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zsclip.errors import ModelError, first_line

CONFIG_FILE = "open_clip_config.json"
_MAX_BYTES = 1_000_000  # open_clip's own have at most 1.2 kB
# Building a tower takes time and memory for these: a causal mask has context_length ** 2 entries. The largest published
# models have 64 layers, pictures of 1,024 pixels, 8,192 tokens and a width of 5,120.
_LIMITS = {
    "layers": 1_000,
    "num_hidden_layers": 1_000,
    "image_size": 4_096,
    "context_length": 8_192,
    "max_position_embeddings": 200_000,
    "embed_dim": 65_536,
    "width": 65_536,
    "hidden_size": 65_536,
    "vocab_size": 10_000_000,
}
_LARGEST = 1_000_000_000  # of any other number


def read_config(name: str, path: Path) -> dict[str, Any]:
    """Read a model's configuration, as open_clip writes it.

    Args:
        name: of the model, for messages.

    Raises:
        ModelError: there is none, it is not one of open_clip's, or it has sizes that no model has.
    """
    try:
        config = read_json(name, path)
    except FileNotFoundError as e:
        raise ModelError(f"{name}: no {path.name} in {str(path.parent)!r}; open_clip models have one") from e
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ModelError(f"{name}: {str(path)!r} has no 'model_cfg'; it is not an open_clip configuration")
    return config


def read_json(name: str, path: Path) -> Any:
    """Read a JSON file that comes with a model, and check its numbers.

    Raises:
        FileNotFoundError: there is none.
        ModelError: it is not a regular file, is too large, is not JSON, or has sizes that no model has.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ModelError(f"{name}: {str(path)!r} must be a regular file")
        if about.st_size > _MAX_BYTES:
            raise ModelError(f"{name}: {str(path)!r} has {about.st_size:,} bytes; a configuration has at most 1 MB")
        value = json.loads(path.read_text(encoding="utf-8"))
        numbers = list(_numbers(value, ""))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{name}: cannot read {str(path)!r}: {first_line(e)}; fetch it again") from e
    for key, number in numbers:
        if isinstance(number, str):
            raise ModelError(f"{name}: {str(path)!r} says {key!r}: {number!r:.20}; it must be a number without quotes")
        limit = _LIMITS.get(key, _LARGEST)
        if not abs(number) <= limit:  # nor is NaN
            raise ModelError(f"{name}: {str(path)!r} says {key!r}: {number!r:.20}; zsclip takes at most {limit:,}")
    return value


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float | str]]:
    """Yield all numbers in a JSON value, and strings in place of a size, with the last key above each."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) or (isinstance(value, str) and key in _LIMITS):
        yield key, value
