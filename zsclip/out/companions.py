"""Files that belong to a picture: the RAW of a JPEG, the film of a Live Photo, and sidecars."""

import os
from collections.abc import Iterable

from zsclip.pictures.endings import RAW_ENDINGS

_SIDECARS = (".xmp", ".aae")  # metadata, and the edits of an iPhone; `a.xmp` as well as `a.jpg.xmp`
_LIVE = (".heic", ".heif", ".jpg", ".jpeg")  # pictures of a Live Photo, whose film is a .mov
_TAKEOUT = "supplemental-metadata"  # `a.jpg.json`, or `a.jpg.supplemental-metadata.json`, which may be cut short


class Companions:
    """Finds what belongs to pictures; each folder is listed only once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, list[str]]] = {}

    def of(self, path: str) -> list[str]:
        """Give the paths of the files that belong to a picture, whether or not it is there itself."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = _indexed(_files_in(folder))
        index = self._folders[folder]
        beside = dict.fromkeys([*index.get(os.path.splitext(name)[0], ()), *index.get(name, ())])
        found = [each for each in beside if each != name and belongs(each, name)]
        raws = [each for each in found if os.path.splitext(each)[1].lower() in RAW_ENDINGS]
        found += [each for raw in raws for each in index.get(raw, ()) if belongs(each, raw)]  # `a.nef.xmp`
        return [os.path.join(folder, each) for each in found]


def belongs(name: str, picture: str) -> bool:
    """Whether a file belongs to the picture beside it, going by their names; case matters only before extensions."""
    stem, ending = os.path.splitext(picture)
    if name.startswith(picture):
        rest = name[len(picture) :].lower()
        middle, last = os.path.splitext(rest)
        return rest in (*_SIDECARS, ".json") or (last == ".json" and f".{_TAKEOUT}".startswith(middle))
    own_stem, own = os.path.splitext(name)
    own = own.lower()
    if own_stem != stem or not ending:
        return False
    return own in _SIDECARS or own in RAW_ENDINGS or (own == ".mov" and ending.lower() in _LIVE)


def _indexed(names: Iterable[str]) -> dict[str, list[str]]:
    """Give, for each name, the files whose own names go on after it with one extension, or with Takeout's two."""
    index: dict[str, list[str]] = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        index.setdefault(stem, []).append(name)
        if ending.lower() == ".json" and _TAKEOUT.startswith(os.path.splitext(stem)[1][1:].lower() or "."):
            index.setdefault(os.path.splitext(stem)[0], []).append(name)
    return index


def _files_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:  # gone, or not ours to list: then nothing is known to belong
        return []
