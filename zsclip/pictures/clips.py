"""Frames of videos and animations as the pictures of a run: decoded in order, and no faster than they are read."""

import json
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from zsclip.pictures.animations import Animation, file_of, is_animation
from zsclip.pictures.decoding_thread import DecodingThread, waiting
from zsclip.pictures.identity import look_of
from zsclip.pictures.pictures import Member, Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.sampling import Sampling
from zsclip.pictures.shards import TOGETHER, Shard, failed
from zsclip.pictures.video import Shot, Video

MOST_UNREAD = 1 << 27  # bytes of decoded frames that wait for the model, of all clips
_FEWEST_BYTES = 1 << 19  # that a frame counts for, as small ones must not be too many
_OPEN_CURSORS = 3  # clips, or places in a clip, that are read again
_PASSED_BYTES = 1 << 26  # of frames behind such a place, kept for threads that are a little late
_KEY = struct.Struct(">cQ")  # big-endian, so that the keys of neighbours are neighbours
_VERSION = b"frames-v1"  # change it when other frames are taken than before


class Frame(Member):
    """The name of a frame. It also knows its clip, its number there, and when it is shown: seconds from the start."""

    __slots__ = ("clip", "number", "seconds")
    clip: "Clip"
    number: int
    seconds: float


class _Times(NamedTuple):
    """What is kept of a clip: numbers and seconds of the frames that are taken, its end, and what was wrong with it."""

    numbers: "array[int]"
    seconds: "array[float]"
    end: float
    damage: str | None


@dataclass(eq=False)
class Clip:
    """A video or an animation, as it was when its turn came.

    shard: its file. end: seconds to the end of its last frame; None until all frames were found. failure: why it cannot
    be read again.
    """

    shard: Shard
    sampling: Sampling
    is_animation: bool
    end: float | None = None
    failure: Refused | None = None

    @property
    def path(self) -> str:
        """The path or URL of its file."""
        return self.shard.path

    def opened(self) -> Video | Animation:
        """Give what decodes it from its beginning."""
        if self.is_animation:
            return Animation(self.shard, max_pixels=self.sampling.max_pixels)
        return Video(self.shard, keyframes=self.sampling.keyframes, max_pixels=self.sampling.max_pixels)

    def taken(self, decoder: Video | Animation) -> Iterator[Shot | None]:
        """Yield the frames that are taken, and None for each of the others."""
        takes = self.sampling.takes()
        for shot in decoder.frames():
            yield shot if takes(shot.seconds, shot.is_key) else None

    def end_of(self, frame: Frame) -> float:
        """Give when a frame ends after which a run took no more of them: where the next one begins, or with the clip.

        The clip is decoded again up to there, if no earlier run kept its times.
        """
        number = frame.number + 1
        if (times := self.known()) is not None:
            return times.seconds[number] if number < len(times.seconds) else max(times.end, frame.seconds)
        try:
            decoder = self.opened()
            with closing(DecodingThread(self.taken(decoder))) as shots:
                shot = next(islice(shots, number, None), None)
        except Exception:  # decoders raise anything at all; then nothing more is known
            return frame.seconds
        return max(float(decoder.end), frame.seconds) if shot is None else float(shot.seconds)

    def key_of(self, number: int) -> bytes | None:
        """Give the key of a frame; None if the file has changed, or was changed a moment ago."""
        if self.shard.key is None or not self._is_as_it_was():
            return None
        return self.shard.key + _KEY.pack(b"k" if self.sampling.keyframes else b"f", number)

    def key_at(self, milliseconds: int) -> bytes | None:
        """Give the key of the frame that is named by a time; None as for `key_of`."""
        if self.shard.key is None or not self._is_as_it_was():
            return None
        return self.shard.key + _KEY.pack(b"t", milliseconds)

    def known(self) -> _Times | None:
        """Give what an earlier run kept."""
        kept, key = self.sampling.kept, self.shard.key
        value = None if kept is None or key is None else kept.find(key + _VERSION + self.sampling.rule)
        return None if value is None else _unpacked(value)

    def keep(self, times: _Times) -> None:
        """Keep the times for later runs, which need not decode the clip to know them."""
        kept, key = self.sampling.kept, self.shard.key
        if kept is not None and key is not None and self._is_as_it_was():
            kept.keep(key + _VERSION + self.sampling.rule, _packed(times))

    def _is_as_it_was(self) -> bool:
        if self.shard.fetch is not None:  # each read of a file on a server makes sure of it
            return True
        try:
            return look_of(os.stat(self.path)) == self.shard.look
        except OSError:
            return False


class Unread:
    """The decoded frames that nobody has read yet. Decoding waits while they take too much memory."""

    def __init__(self, most_bytes: int = MOST_UNREAD) -> None:
        self._free = most_bytes
        self._most = most_bytes
        self._shots: dict[tuple[Clip, int], Shot] = {}
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, clip: Clip, place: int, shot: Shot) -> None:
        """Hold a frame, once there is room."""
        size = _counted(shot)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._free >= size or not self._shots)
            if not self._is_closed:
                self._shots[clip, place] = shot
                self._free -= size

    def pop(self, clip: Clip, place: int) -> Shot | None:
        """Release a frame, and give it if it is held."""
        with self._changed:
            shot = self._shots.pop((clip, place), None)
            if shot is not None:
                self._free += _counted(shot)
                self._changed.notify_all()
            return shot

    def close(self) -> None:
        """Release all: nothing more will be held."""
        with self._changed:
            self._is_closed = True
            self._shots.clear()
            self._changed.notify_all()


def find_in_clip(
    path: str, sampling: Sampling, unread: Unread, network: Network, *, may_be_still: bool = False
) -> Iterator[Pictures]:
    """Yield the frames of a video or an animation that are taken, in order. If it is damaged, a last row says so.

    Args:
        may_be_still: whether it is an image, animated or not; one on a server is only opened here.
    """
    try:
        shard = network.open(path)
        clip = Clip(shard, sampling, may_be_still)
        times = clip.known()
        if times is None and may_be_still and shard.fetch is not None and not is_animation(file_of(shard)):
            yield Pictures((path,), lambda _: shard.picture(0, shard.size), lambda _: shard.key)
            return
        if times is None:
            times = yield from _decoded(clip, unread)
        else:
            yield from _known(clip, times, unread)
        clip.end = times.end
        if times.damage is not None:
            yield failed(path, Refused("unreadable", times.damage))
    except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
        yield failed(path, e)


def _decoded(clip: Clip, unread: Unread) -> Generator[Pictures, None, _Times]:
    """Decode a clip, and hold its frames until they are read; return its times."""
    decoder = clip.opened()
    numbers, seconds = array("Q"), array("d")
    with closing(DecodingThread(clip.taken(decoder))) as shots:
        for place, shot in enumerate(shots):
            numbers.append(shot.number)
            seconds.append(float(shot.seconds))
            unread.put(clip, place, shot)
            del shot  # it is released once it has been read
            yield _pictures(clip, numbers, seconds, place, place + 1, unread)
    times = _Times(numbers, seconds, float(decoder.end), decoder.damage)
    clip.keep(times)
    return times


def _known(clip: Clip, times: _Times, unread: Unread) -> Iterator[Pictures]:
    """Yield the frames of a clip whose times are known; it is decoded only if they are read."""
    for start in range(0, len(times.seconds), TOGETHER):
        stop = min(start + TOGETHER, len(times.seconds))
        yield _pictures(clip, times.numbers, times.seconds, start, stop, unread)


def _pictures(
    clip: Clip, numbers: "array[int]", seconds: "array[float]", start: int, stop: int, unread: Unread
) -> Pictures:
    """Put some frames of a clip into a group."""

    def read(place: int) -> bytes:
        return (unread.pop(clip, start + place) or _read_again(clip, start + place)).encode()

    def key(place: int) -> bytes | None:
        return clip.key_of(numbers[start + place])

    def drop(place: int) -> None:
        unread.pop(clip, start + place)

    names: list[Frame] = []
    some = Pictures(names, read, key, drop)
    for place in range(stop - start):
        at = seconds[start + place]
        frame = Frame(f"{clip.path}#t={at:.3f}", some, place)
        frame.clip, frame.number, frame.seconds = clip, start + place, at
        names.append(frame)
    return some


class _Cursor:
    """A place in a clip that is decoded again."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.place = 0  # of the next frame
        self.passed: dict[int, Shot] = {}  # frames before it, the last ones
        self._shots = DecodingThread(clip.taken(clip.opened()))
        self._bytes = 0

    def go_to(self, place: int) -> Shot:
        """Go forward to a frame.

        Raises:
            Refused: it is not there any more.
        """
        while self.place <= place:
            shot = next(self._shots, None)
            if shot is None:
                raise Refused("unreadable", "the video has changed since this run began")
            self.passed[self.place] = shot
            self._bytes += _counted(shot)
            self.place += 1
            while self._bytes > _PASSED_BYTES and len(self.passed) > 1:
                self._bytes -= _counted(self.passed.pop(next(iter(self.passed))))
        return self.passed[place]


_cursors: list[_Cursor] = []  # the most recently used last
_cursors_lock = threading.Lock()


def _read_again(clip: Clip, place: int) -> Shot:
    """Decode a frame again, as for a thumbnail, or one that is known but not stored.

    Frames are wanted in order, perhaps twice at a time, so a place from where one can go forward is mostly open.
    """
    with waiting(), _cursors_lock:
        if clip.failure is not None:
            raise clip.failure
        own = [each for each in _cursors if each.clip is clip]
        cursor = next((each for each in own if place in each.passed), None)
        if cursor is None:
            cursor = max((each for each in own if each.place <= place), key=lambda each: each.place, default=None)
        if cursor is None:
            cursor = _Cursor(clip)
            del _cursors[: max(0, len(_cursors) + 1 - _OPEN_CURSORS)]
        else:
            _cursors.remove(cursor)
        try:
            shot = cursor.passed[place] if place in cursor.passed else cursor.go_to(place)
        except Refused as e:
            clip.failure = e
            raise
        _cursors.append(cursor)
        return shot


def _counted(shot: Shot) -> int:
    return max(shot.size, _FEWEST_BYTES)


def _packed(times: _Times) -> bytes:
    about = json.dumps([len(times.numbers), times.end, times.damage]).encode()
    return zlib.compress(about + b"\n" + times.numbers.tobytes() + times.seconds.tobytes())


def _unpacked(value: bytes) -> _Times:
    about, _, columns = zlib.decompress(value).partition(b"\n")
    count, end, damage = json.loads(about)
    numbers, seconds = array("Q"), array("d")
    numbers.frombytes(columns[: count * numbers.itemsize])
    seconds.frombytes(columns[count * numbers.itemsize :])
    return _Times(numbers, seconds, end, damage)
