"""Where a picture goes: a folder's name with `{label}`, `{name}` and `{score}` in it. No file is touched here."""

import hashlib
import os
import re
from collections.abc import Iterable

from zsclip.errors import InputError
from zsclip.out.output import check_local

_LONGEST = 200  # bytes of a folder's name; file systems allow 255
_FIELD = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|\ud800-\udfff]')  # "/" anywhere, and what Windows refuses
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # devices of Windows


def read_destination(flag: str, text: str, *, has_label: bool = True) -> str:
    """Complete and check a template: without braces, pictures go to TEXT/LABEL/NAME.

    Returns:
        An absolute path, with braces.

    Raises:
        InputError: it is a URL, has something else in braces, or does not end with the name.
    """
    if not text.strip():
        raise InputError(f"{flag}: the name is empty; give a folder")
    check_local(flag, text)
    known = ("label", "name", "score") if has_label else ("name", "score")
    found = _FIELD.findall(text)
    for each in found:
        if each not in known:
            why = ", as a picture without an answer has no label" if each == "label" else ""
            names = " or ".join(f"{{{name}}}" for name in known)
            raise InputError(f"{flag}: cannot fill in {{{each}}}{why}; use {names}")
    if "name" not in found:
        return os.path.abspath(os.path.join(text, *["{label}"] * (has_label and not found), "{name}"))
    if not text.endswith("{name}") or found.count("name") > 1:
        raise InputError(f"{flag}: {text!r} does not end with {{name}}, which has the file's extension; put it there")
    return os.path.abspath(text)


def filled(template: str, *, name: str, folder: str | None, score: float | None) -> str:
    """Fill in a template.

    Args:
        template: as `read_destination` gives it. name: of the file, without its folder. folder: for the label; None
            for a picture without an answer.
    """
    values = {"name": name, "label": folder or "", "score": "unknown" if score is None else f"{score:.3f}"}
    return _FIELD.sub(lambda found: values[found[1]], template)


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Give each label a safe name for a folder, and different labels different ones."""
    names: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        names[label] = safe_name(label)
    taken = {name: label for label, name in names.items() if name == label}
    for label, name in sorted(names.items()):
        if taken.setdefault(name, label) != label:
            names[label] = f"{name}-{_digest(label)}"
    return names


def safe_name(text: str) -> str:
    """Make a text the name of one file or folder that every file system takes; a safe text stays as it is."""
    name = _UNSAFE.sub("_", text).rstrip(". ")  # Windows drops dots and spaces at the end
    if name[:1] in ("", "."):  # nothing is left, or it would be hidden, or "..", or lead upwards
        name = "_" + name[1:]
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    if len(name.encode()) > _LONGEST:
        cut = name.encode()[: _LONGEST - 9].decode("utf-8", "ignore").rstrip(". ")
        name = f"{cut}-{_digest(text)}"
    return name


def numbered(path: str, name: str, stem: str, number: int) -> str:
    """Put a number into the path of a picture or of a file that belongs to it: `a.jpg.xmp` becomes `a-2.jpg.xmp`.

    Args:
        path: ends with name, which begins with stem. number: 1 changes nothing.
    """
    return path if number == 1 else f"{path[: len(path) - len(name)]}{stem}-{number}{name[len(stem) :]}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
