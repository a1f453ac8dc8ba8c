"""Frames of videos and animations by their names, such as `clip.mp4#t=12.500`: the very ones that `classify` saw.

A jump leads to the key frame before a frame. Where the file does not allow that, it is decoded from its beginning.
"""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec

from zsclip.errors import first_line
from zsclip.pictures.animations import file_of, is_animation
from zsclip.pictures.clips import Clip
from zsclip.pictures.decoding_thread import DecodingThread, waiting
from zsclip.pictures.pictures import Pictures, with_members
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.sampling import ANIMATION_ENDINGS, Sampling
from zsclip.pictures.urls import name_in
from zsclip.pictures.video import Shot

NEEDS_PYAV = "a frame of a video; to read it: pip install 'zsclip[video]'"
_TIME = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")
_AHEAD_SECONDS = 10  # to a frame that is farther ahead a jump is quicker
_JUMPS = (1, 20)  # seconds before the frame: files list a key frame earlier than it is shown, and not always rightly
_OPEN_REELS = 3
_PASSED_BYTES = 1 << 26  # of frames of a reel that are kept for later


class NamedFrames:
    """The frames of one video or animation. Threads may share it; one at a time decodes.

    Args:
        max_pixels: larger frames are refused before they are decoded. most_seconds: after which the search for one
            frame ends; None: never.
    """

    def __init__(
        self, path: str, network: Network, *, max_pixels: int | None = None, most_seconds: float | None = None
    ) -> None:
        self._path, self._network, self._most_seconds = path, network, most_seconds
        self._sampling = Sampling(1, max_pixels=max_pixels)
        self._is_animation = name_in(path).lower().endswith((*ANIMATION_ENDINGS,))
        self._wanted: set[str] = set()
        self._lock = threading.Lock()
        self._clip: Clip | None = None
        self._failure: Exception | None = None  # why no frame can be read

    def pictures(self, names: Sequence[str]) -> Pictures:
        """Give the frames with these names as a group, which are best read in their order."""
        self._wanted.update(_shown(each) for name in names if (each := _seconds_in(name)) is not None)
        return with_members(
            Pictures(names, lambda place: self.read(names[place]), lambda place: self.key(names[place]))
        )

    def read(self, name: str) -> bytes:
        """Give a frame as a picture file.

        Raises:
            Refused: there is none at this time, or it cannot be decoded. OSError: the file cannot be read.
        """
        with waiting(), _reels_lock:
            shot = self._shot(name)
        return shot.encode()

    def key(self, name: str) -> bytes | None:
        """Give the key of a frame; None if nothing identifies it."""
        seconds = _seconds_in(name)
        if seconds is None or seconds < 0:
            return None
        try:
            return self._opened().key_at(int(_shown(seconds).replace(".", "")))
        except Exception:  # its row will say why
            return None

    def _opened(self) -> Clip:
        with self._lock:
            if self._clip is None:
                if not self._is_animation and not find_spec("av"):
                    raise Refused("unsupported", NEEDS_PYAV)
                shard = self._network.open(self._path)
                if self._is_animation and not is_animation(file_of(shard)):
                    raise Refused("missing", "an image that is not animated has no frames")
                self._clip = Clip(shard, self._sampling, self._is_animation)
            return self._clip

    def _shot(self, name: str) -> Shot:
        clip, seconds = self._opened(), _seconds_in(name)
        if self._failure is not None:
            raise self._failure
        search = _Search(name.rpartition("#t=")[2], seconds, self._wanted, self._most_seconds)
        for reel in _ways(clip, seconds):
            is_last = reel.begins_at is None and reel not in _reels
            try:
                shot = reel.find(search)
            except Exception as e:  # decoders raise anything at all; from the beginning, all may be well
                _close(reel)
                is_hopeless = isinstance(e, MemoryError) or (isinstance(e, Refused) and e.kind != "unreadable")
                if not search.is_late and (is_hopeless or reel.has_no_frame):
                    self._failure = e
                if isinstance(e, MemoryError | OSError | Refused) and (is_hopeless or is_last):
                    raise
                if is_last:
                    raise Refused("unreadable", f"cannot decode: {first_line(e)}") from e
                continue
            if shot is not None:
                _keep(reel)
                return shot
            if reel.is_sure:
                break
        raise Refused("missing", search.outcome())


class _Search:
    """What is looked for in a clip, and what was found beside it.

    asked: the time as it stands in the name. seconds: None if that is not a time.
    """

    def __init__(self, asked: str, seconds: float | None, wanted: set[str], most_seconds: float | None) -> None:
        self.asked, self.seconds, self.wanted = asked, seconds, wanted
        self.shown = "" if seconds is None else _shown(seconds)
        self.before: float | None = None
        self.after: float | None = None
        self.damage: str | None = None
        self.is_late = False
        self._most_seconds, self._begun = most_seconds, time.monotonic()

    def see(self, seconds: float) -> None:
        """Take note of a frame that is not the one."""
        if self.seconds is not None and seconds < self.seconds:
            self.before = seconds if self.before is None else max(self.before, seconds)
        else:
            self.after = seconds if self.after is None else min(self.after, seconds)

    def check_time(self) -> None:
        """End a search that takes too long.

        Raises:
            Refused: it does.
        """
        if self._most_seconds is not None and time.monotonic() - self._begun > self._most_seconds:
            self.is_late = True
            raise Refused("timeout", f"its frame was not reached within {self._most_seconds:.0f} s")

    def outcome(self) -> str:
        """Say what there is instead."""
        wrong = f"no frame at {self.asked} s"
        if self.seconds is None:
            wrong = f"{self.asked!r} is not a time in seconds"
        if self.before is not None and self.after is not None:
            return f"{wrong}; the nearest are at {_shown(self.before)} s and {_shown(self.after)} s"
        if self.after is not None:
            return f"{wrong}; the first is at {_shown(self.after)} s"
        last = "" if self.before is None else f"; the last is at {_shown(self.before)} s"
        return f"{wrong}{last}{f', as {self.damage}' if self.damage else ''}"


class _Reel:
    """A clip that is decoded from a place on.

    begins_at: seconds to jump to; None: its beginning. seconds: of the frame it is at.
    """

    def __init__(self, clip: Clip, begins_at: float | None) -> None:
        self.clip, self.begins_at = clip, begins_at
        self.seconds = float("-inf")
        self.is_sure = False  # whether a frame that was not found is not there
        self._decoder = clip.opened()
        start = None if begins_at is None else Fraction(begins_at)
        self._shots = DecodingThread(self._decoder.frames(start))
        self._passed: dict[str, Shot] = {}  # that are wanted
        self._bytes = 0

    @property
    def has_no_frame(self) -> bool:
        """Whether nothing was decoded, although it begins where the clip does."""
        return self.begins_at is None and self.seconds == float("-inf")

    def has(self, seconds: float) -> bool:
        """Whether a frame is kept."""
        return _shown(seconds) in self._passed

    def find(self, search: _Search) -> Shot | None:
        """Go forward to a frame; None if there is none where it should be.

        Raises:
            Refused: it takes too long, or the clip cannot be decoded. Exception: decoders raise anything at all.
        """
        if search.shown in self._passed:
            return self._passed[search.shown]
        if self.seconds != float("-inf"):
            search.see(self.seconds)
        for shot in self._shots:
            self.seconds = float(shot.seconds)
            shown = _shown(self.seconds)
            if shown == search.shown or shown in search.wanted:
                self._pass(shown, shot)
            if shown == search.shown:
                return shot
            search.see(self.seconds)
            # Where times may jump back, the frame may still come.
            if search.seconds is None or (self.seconds > search.seconds and self._may_stop()):
                break
            search.check_time()
        search.damage = self._decoder.damage
        self.is_sure = search.before is not None and self._decoder.keeps_order and self._decoder.is_whole
        return None

    def _may_stop(self) -> bool:
        return self.begins_at is not None or self._decoder.keeps_order

    def _pass(self, shown: str, shot: Shot) -> None:
        if shown not in self._passed:  # of two frames at one time, the first
            self._passed[shown] = shot
            self._bytes += shot.size
        while self._bytes > _PASSED_BYTES and len(self._passed) > 1:
            self._bytes -= self._passed.pop(next(iter(self._passed))).size


_reels: list[_Reel] = []  # the most recently used last
_reels_lock = threading.Lock()


def _ways(clip: Clip, seconds: float | None) -> Iterator[_Reel]:
    """Yield reels on which a frame may be found: from an open one to one that begins where the clip does."""
    if seconds is not None:
        own = [each for each in _reels if each.clip is clip]
        near = [each for each in own if each.has(seconds)]
        near = near or [each for each in own if each.seconds < seconds <= each.seconds + _AHEAD_SECONDS]
        if near:
            yield max(near, key=lambda each: each.seconds)
        for jump in () if clip.is_animation else _JUMPS:
            if seconds > jump:
                yield _Reel(clip, seconds - jump)
    yield _Reel(clip, None)


def _close(reel: _Reel) -> None:
    if reel in _reels:
        _reels.remove(reel)


def _keep(reel: _Reel) -> None:
    _close(reel)
    _reels.append(reel)
    del _reels[: max(0, len(_reels) - _OPEN_REELS)]


def _seconds_in(name: str) -> float | None:
    """Give the time in the name of a frame; None if it is not one."""
    asked = name.rpartition("#t=")[2]
    return float(asked) if _TIME.fullmatch(asked) else None


def _shown(seconds: float) -> str:
    """Give a time as names have it."""
    return f"{seconds:.3f}"
