"""What the parts in a folder say of themselves, at the ends of their files: each is read once, until it is replaced."""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from zsclip.errors import InputError
from zsclip.out.parquet import read_texts

_AT_ONCE = 16  # files that are read; a shared folder may be far away
_BEFORE_SHARD = b', "shard": '  # no JSON text has this inside a string; what comes before is the same in many parts
_TOGETHER = 1024  # paths that are handed out to those who read

_Look = tuple[int, int, int]  # of a file: it is another one once it has been replaced


class Footer(NamedTuple):
    """What a part says of itself.

    version: of the format of parts. settings: what its rows depend on besides its pictures, as an index into those of
    `Footers`. shard: the identity of its shard when it was written. images: their number, and failed those that have no
    answer, by kind.
    """

    version: int
    settings: int
    shard: Mapping[str, Any]
    images: int
    failed: Mapping[str, int]


_Known = tuple[_Look, Footer | None]  # None: the file is damaged, or none of ours


class Footers:
    """Reads the footers of parts; parts that were replaced meanwhile, or are new, are read when they are asked for.

    settings: all that occur, as those of thousands of parts are the same.

    Args:
        settings: those that another process found, whose footers are learnt from it.
    """

    def __init__(self, settings: Sequence[Mapping[str, Any]] = ()) -> None:
        self.settings = list(settings)
        self._known: dict[str, _Known] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def read_ahead(self, paths: Sequence[str], progress: Callable[[int], None] = lambda count: None) -> None:
        """Read several footers at the same time.

        Args:
            progress: called with the number of those that were read.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(paths), _TOGETHER):
                list(pool.map(self.find, paths[start : start + _TOGETHER]))
                progress(min(start + _TOGETHER, len(paths)))

    def find(self, path: str) -> Footer | None:
        """Give the footer of a part; None if there is none, or the file is damaged or none of ours."""
        look = _look_of(path)
        if look is None:
            return None
        known = self._known.get(path)
        if known is None or known[0] != look:
            known = self._known[path] = look, self._read(path)
        return known[1]

    def of(self, path: str) -> Footer | None:
        """Give the footer of a part; None if it is damaged, or not there.

        Raises:
            InputError: the file is none of ours, so it must not be replaced.
        """
        if (found := self.find(path)) is not None or not _is_whole(path):
            return found
        # Another process may have replaced a damaged one since.
        if (found := self._read(path)) is None:
            raise _not_ours(path)
        return found

    def known(self, path: str) -> _Known | None:
        """Give what is known of a part, for `learn` in another process that has the same settings."""
        return self._known.get(path)

    def learn(self, path: str, known: _Known | None) -> None:
        """Take what another process knew of a part."""
        if known is not None:
            self._known[path] = known

    def _read(self, path: str) -> Footer | None:
        if (texts := read_texts(path)) is None:
            return None
        head, mark, shard = texts[0].rpartition(_BEFORE_SHARD)
        try:
            end = json.loads(texts[1])
            place, version = self._place(head + b"}" if mark else texts[0])
            identity = json.loads(shard[:-1]) if mark else {}
        except ValueError:
            return None
        return Footer(version, place, identity, end.get("images", 0), end.get("failed", {}))

    def _place(self, text: bytes) -> tuple[int, int]:
        """Give the index of the settings in a text, which is parsed only once, and the version."""
        with self._lock:
            if text not in self._places:
                about = json.loads(text)
                settings = about.get("settings", {})
                if settings not in self.settings:
                    self.settings.append(settings)
                self._places[text] = self.settings.index(settings), about.get("version", 0)
            return self._places[text]


def _is_whole(path: str) -> bool:
    """Whether a file is there and is no Parquet file that breaks off, as those of ours may.

    Raises:
        InputError: nobody can see whose it is.
    """
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as file:
            is_parquet = file.read(4) == b"PAR1"
    except FileNotFoundError:
        return False
    except OSError as e:
        raise _not_ours(path) from e
    if is_parquet:
        try:
            pq.read_metadata(path)
        except Exception:  # pyarrow raises anything on damaged files
            return False
    return True


def _not_ours(path: str) -> InputError:
    return InputError(f"{path}: is not a part of such a run; move it away, or choose another folder")


def _look_of(path: str) -> _Look | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size, status.st_ino
    return None
