"""A video file -> its frames, one after the other. This is the only place that opens a video."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import Shard, Stream
from zsclip.pictures.urls import name_in

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# What ffmpeg may open: no playlists or lists of files, which could lead to other files or into the network.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,asf,ogg,mxf,ivf,nut,dv"
)
_THREADS = 4  # of a decoder; fixed, as it must not depend on the machine which frames are lost to damage
_DEFAULT_RATE = 25  # frames a second of a stream that does not say
_MICRO = 1_000_000
_NO_TIMES = "its frames have no times"
_HEAD = 4096  # bytes that say how long the rest is
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
_MOST_INSIDE = 256  # packets that a decoder may hold back
_IN_ORDER = ("mov,", "matroska", "avi")  # formats in which a file that is whole has its frames in the order of times
_UNFINISHED = 0xFFFFFF00  # a RIFF size from here on was never filled in


@dataclass(frozen=True, eq=False)
class Shot:
    """A decoded frame of a clip.

    number: how many frames the decoder gave before it. seconds: since the clip's start, as players count them.
    size: bytes that it holds. encode: gives it as a picture file; any thread may call it.
    """

    number: int
    seconds: Fraction
    is_key: bool
    size: int
    encode: Callable[[], bytes]


class Video:
    """A video, decoded once from its beginning. What it says of the whole is complete once `frames` has ended.

    end: seconds from the start to the end of the last frame. damage: what was wrong, in words; None if nothing was.
    keeps_order: whether times only grow, as far as the format says so.
    """

    keeps_order = False

    def __init__(self, shard: Shard, *, keyframes: bool, max_pixels: int | None) -> None:
        self.end = Fraction(0)
        self.damage: str | None = None
        self._shard, self._keyframes, self._max_pixels = shard, keyframes, max_pixels
        self._dts: dict[
            int | None, float
        ] = {}  # of packets that went in, by pts; the order in which they build on others
        self._lost: float | None = -math.inf  # from this dts on, frames may be damaged; clips may begin anywhere
        self._is_counted = False  # whether that is among the damages
        self._damages = self._given = 0
        self._has_untimed = False  # frames that only counting gives a time
        self._last = self._first_damage = Fraction(0)

    @property
    def is_whole(self) -> bool:
        """Whether no damage was met so far."""
        return not self._damages and self.damage is None

    def frames(self, start: Fraction | None = None) -> Iterator[Shot]:
        """Yield the frames that are whole, in the order in which they are shown.

        After damage, frames are left out until the next key frame, as they would show remains of others.

        Args:
            start: seconds; begin at the key frame before, or where the file leads to instead. None: at the beginning.

        Raises:
            Refused: there is no video in the file, its frames are too large, none can be decoded, or the rest is not
                sent by its server.
        """
        file = None if self._shard.fetch is None else _Fetched(self._shard)
        with self._opened(file) as container:
            stream = _video_stream(container)
            self._check_size(stream.codec_context)
            missing = _missing_bytes(container, stream, self._shard)
            stream.thread_type, stream.thread_count = "AUTO", _THREADS
            if self._keyframes:
                stream.codec_context.skip_frame = "NONKEY"
            self.keeps_order = container.format.name.startswith(_IN_ORDER)
            if start is not None:
                _jump(container, stream, start)
            for shot in self._whole_frames(container, stream):
                if start is not None and self._has_untimed:
                    raise Refused("unreadable", _NO_TIMES)
                yield shot
        if file is not None and file.failure is not None:
            raise file.failure
        if not self._given:
            why = "it is cut off" if missing else "its data are damaged, or there is none"
            raise Refused("unreadable", f"no frame can be decoded: {why}")
        if missing:
            self.damage = f"the video is cut off after {float(self._last):.3f} s: {missing:,} bytes are missing"
        elif self._damages:
            self.damage = self._damage()

    def _opened(self, file: "_Fetched | None") -> "InputContainer":
        import av

        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file" if file is None else "none"}
        limits = {} if self._max_pixels is None else {"max_pixels": str(self._max_pixels)}
        try:
            return av.open(
                file or f"file:{self._shard.path}", "r", options=limits, container_options=options,
                metadata_errors="replace",
            )  # fmt: skip
        except (PermissionError, FileNotFoundError, MemoryError):
            raise
        except (av.FFmpegError, ValueError) as e:
            if file is not None and file.failure is not None:
                raise file.failure from e
            raise Refused("unreadable", "damaged, or not a video in a supported format") from e

    def _damage(self) -> str:
        after = f"the video is damaged after {float(self._first_damage):.3f} s"
        after += f" and in {self._damages - 1:,} more places" if self._damages > 1 else ""
        lost = "the rest is lost" if self._lost is not None else "frames up to the next key frame are left out"
        return f"{after}; {lost}"

    def _whole_frames(self, container: "InputContainer", stream: "VideoStream") -> Iterator[Shot]:
        from zsclip.pictures.video_colours import as_picture

        clock, aspect = _Clock(container, stream), stream.sample_aspect_ratio
        for number, frame in enumerate(self._decoded(container, stream, clock)):
            seconds = clock.seconds_of(frame)
            self._has_untimed = self._has_untimed or frame.pts is None
            dts = self._dts.pop(frame.pts, math.inf)  # a frame's own dts is that of another packet
            if frame.is_corrupt:
                self._lose(dts)
                continue
            if self._lost is not None and dts >= self._lost:
                if not frame.key_frame or dts == self._lost:  # each frame before a key frame builds on lost ones
                    continue
                self._lost = None
            self._check_size(frame)
            self._given, self._last = self._given + 1, seconds
            if self._lost is not None:  # it was decoded after the damage was met, but comes before
                self._count()
            held = sum(plane.buffer_size for plane in frame.planes)
            yield Shot(number, seconds, frame.key_frame, held, partial(as_picture, frame, aspect))
        self.end = clock.end if self._lost is None else self._last + clock.frame

    def _decoded(self, container: "InputContainer", stream: "VideoStream", clock: "_Clock") -> Iterator["VideoFrame"]:
        """Yield what the decoder gives, damaged or not."""
        import av

        inside: deque[float] = deque(maxlen=_THREADS)  # dts of packets that the decoder may be working on
        packets = container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # the file cannot be read further; the decoder may still hold frames
                packet = None
                self._lose(math.inf)
            is_end = packet is None or (packet.stream_index == stream.index and not packet.size)
            if packet is not None and packet.stream_index != stream.index:
                continue
            if packet is not None and not is_end:
                dts = -math.inf if packet.dts is None else float(packet.dts)
                clock.see(packet)
                if packet.is_corrupt:
                    self._lose(dts)
                    continue
                inside.append(dts)
                if packet.dts is not None:
                    self._dts[packet.pts] = dts
                if len(self._dts) > _MOST_INSIDE:
                    del self._dts[next(iter(self._dts))]
            try:
                yield from stream.codec_context.decode(None if is_end else packet)
            except (av.FFmpegError, ValueError) as e:
                if isinstance(e, av.EOFError):
                    return
                self._lose(inside[0] if inside else -math.inf)
            if is_end:
                return

    def _lose(self, dts: float) -> None:
        """Leave out frames from a dts on. It is not damage if nothing comes before."""
        if self._lost is None:
            self._lost, self._is_counted = dts, False
        self._lost = min(self._lost, dts)
        if self._given:
            self._count()

    def _count(self) -> None:
        self._damages, self._is_counted = self._damages + (not self._is_counted), True
        if self._damages == 1:
            self._first_damage = self._last

    def _check_size(self, what: Any) -> None:
        count = what.width * what.height
        if self._max_pixels is not None and count > self._max_pixels:
            raise Refused("too-large", f"{count} pixels, more than --max-pixels {self._max_pixels}")


class _Fetched(Stream):
    """A video on a server as a file. Where it cannot be read further it ends, as errors would be lost in ffmpeg.

    name: by its ending, ffmpeg guesses what it is. failure: why it has ended early.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.read, shard.size)
        self.name = name_in(shard.path).rpartition("/")[2]
        self.failure: Exception | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read some bytes; none from the place of a failure on, but those before it again."""
        left = self._size - self._at
        size = left if size is None or size < 0 else min(size, left)
        try:
            return super().read(size) if size > 0 else b""
        except Exception as e:  # file systems raise anything at all
            self.failure, self._size = self.failure or e, self._at
            return b""


class _Clock:
    """Counts the seconds of a clip from its start, which need not be at time 0."""

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        if not stream.time_base:
            raise Refused("unreadable", "damaged: the video has no time base")
        rate = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
        self._base: Fraction = stream.time_base
        self._step = max(1, round(1 / (rate * self._base)))
        self.frame = self._step * self._base
        self._start = _start_of(container)
        self._last: int | None = None
        self.end = Fraction(0)

    def seconds_of(self, frame: "VideoFrame") -> Fraction:
        """Give the time of the next frame; without one of its own, it follows the last one at the usual rate."""
        pts = frame.pts
        if pts is None:
            pts = round((self._start or 0) / self._base) if self._last is None else self._last + self._step
        self._last = pts
        if self._start is None:
            self._start = pts * self._base
        return pts * self._base - self._start

    def see(self, packet: Any) -> None:
        """Take note of how far a packet reaches."""
        begin = packet.dts if packet.pts is None else packet.pts
        if begin is not None and not packet.is_discard:
            end = (begin + (packet.duration or self._step)) * self._base - (self._start or 0)
            self.end = max(self.end, end)


def _start_of(container: "InputContainer") -> Fraction | None:
    """Give when a clip starts, by its earliest stream; None if nothing says so.

    ffmpeg rounds it to microseconds, which would move the first frame to a time before the start.
    """
    if container.start_time is None:
        return None
    rounded = Fraction(container.start_time, _MICRO)
    exact = [s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base]
    nearest = min(exact, key=lambda start: abs(start - rounded), default=rounded)
    return nearest if abs(nearest - rounded) <= Fraction(1, _MICRO) else rounded


def _jump(container: "InputContainer", stream: "VideoStream", seconds: Fraction) -> None:
    """Go to the key frame before a time.

    Raises:
        Refused: times say nothing about where frames are. FFmpegError: the file does not lead there.
    """
    begin = _start_of(container)
    if begin is None or not stream.time_base:
        raise Refused("unreadable", _NO_TIMES)
    container.seek(math.floor((seconds + begin) / stream.time_base), stream=stream)


def _video_stream(container: "InputContainer") -> "VideoStream":
    """Choose the video of a file, and not the cover of a sound file.

    Raises:
        Refused: there is none.
    """
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        has_sound = bool(container.streams.audio)
        raise Refused("unsupported", "only sound, no video" if has_sound else "no video in this file")
    best: Any = container.streams.best("video")
    return best if best in streams else streams[0]


def _missing_bytes(container: "InputContainer", stream: "VideoStream", shard: Shard) -> int:
    """Count the bytes that a file should have beyond its end, where its format says so."""
    size = shard.size
    if "mov" in container.format.name:
        entries = stream.index_entries
        last = entries[len(entries) - 1] if len(entries) else None
        return max(0, last.pos + last.size - size) if last is not None else 0
    head = shard.read(0, _HEAD)
    if head.startswith(_EBML):
        content, header_bytes = _vint(head, 4)
        place = 4 + header_bytes + content
        if head[place : place + 4] == _SEGMENT:
            content, size_bytes = _vint(head, place + 4)
            is_known = content < (1 << 7 * size_bytes) - 1
            return max(0, place + 4 + size_bytes + content - size) if is_known else 0
    if head.startswith(b"RIFF"):
        content = int.from_bytes(head[4:8], "little")
        missing = content + 8 - size
        return missing if missing > 1 and content < _UNFINISHED else 0  # an odd size may lack its padding
    return 0


def _vint(data: bytes, place: int) -> tuple[int, int]:
    """Read a number of EBML, whose length is in its first byte; give it and its bytes."""
    first = data[place] if place < len(data) else 0x80
    count = 9 - first.bit_length() if first else 8
    return int.from_bytes(data[place : place + count], "big") & ((1 << 7 * count) - 1), count
