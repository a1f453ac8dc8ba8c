"""The shares of labels that the user expects, from a file."""

import math
from collections.abc import Sequence

from zsclip.errors import InputError
from zsclip.words.textfiles import Node, comparable, fields, is_tree, listed, read_tree, text_of


def read_shares(file: str, labels: Sequence[str]) -> list[float]:
    """Read the share of each label: a mapping in .yaml or .json, or a table with the columns label and share.

    Shares may be percentages or counts: only their proportions matter.

    Raises:
        InputError: it cannot be read, is of another form, or has not exactly these labels.
    """
    if not is_tree(file):
        raise InputError(
            f"--expect {file}: use balanced, few, or a .yaml, .json or .csv file with the share of each label"
        )
    tree = read_tree(file)
    found: dict[str, float] = {}
    for key, value in _pairs(tree):
        place, name = text_of(key)
        number = _number(value)
        if number is None:
            raise InputError(f"{place}: the share of {name!r} is not a number, 0 or more; write one")
        found[comparable(name)] = number
    known = [comparable(label) for label in labels]
    if missing := [label for label in labels if comparable(label) not in found]:
        raise InputError(f"{file}: has no share for {listed(missing)}; write one, perhaps 0")
    if other := sorted(found.keys() - set(known)):
        raise InputError(f"{file}: {listed(other)} are not among the labels; leave them out")
    total = sum(found.values())
    if total <= 0:
        raise InputError(f"{file}: all shares are 0; write some above it")
    return [found[label] / total for label in known]


def _pairs(tree: Node) -> list[tuple[Node, Node]]:
    if isinstance(tree.value, tuple):
        return list(tree.value)
    rows = [fields(node) for node in tree.value or () if isinstance(node, Node) and isinstance(node.value, tuple)]
    if not rows or not all({"label", "share"} <= row.keys() for row in rows):
        raise InputError(f"{tree.place}: expected a share for each label; write lines such as `cat: 0.2`")
    return [(row["label"], row["share"]) for row in rows]


def _number(node: Node) -> float | None:
    try:
        number = float(str(node.value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
