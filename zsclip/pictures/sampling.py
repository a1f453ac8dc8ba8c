"""Which frames of a video or an animation are taken. No video is opened here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec

from zsclip.errors import InputError
from zsclip.pictures.identity import Kept

VIDEO_ENDINGS = frozenset(
    {".3g2", ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".vob"}
    | {".webm", ".wmv"}
)
ANIMATION_ENDINGS = frozenset({".apng", ".gif", ".png", ".webp"})
_UNITS = {"ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600)}

Takes = Callable[[Fraction, bool], bool]  # seconds since the start, whether it is a key frame -> whether it is taken


@dataclass(frozen=True)
class Sampling:
    """How the frames of videos are taken.

    every: the first frame of each interval of this many seconds, or, if it is an int, every Nth frame. keyframes: take
    the key frames instead. animations: animated GIF, PNG and WebP files count as videos. in_folders: videos in folders
    are read, too. max_pixels: videos with larger frames are refused. kept: where the times of frames are remembered.
    """

    every: Fraction | int = Fraction(1)
    keyframes: bool = False
    animations: bool = False
    in_folders: bool = False
    max_pixels: int | None = None
    kept: Kept | None = None

    @property
    def reads_folders(self) -> bool:
        """Whether some files of folders are not single pictures."""
        return self.in_folders or self.animations

    @property
    def rule(self) -> bytes:
        """What the choice of frames depends on."""
        return b"key frames" if self.keyframes else f"{type(self.every).__name__} {self.every}".encode()

    def takes(self) -> Takes:
        """Give a function that is called for each frame of a clip, in order, and says whether it is taken."""
        every, seen, last = self.every, 0, None

        def takes(seconds: Fraction, is_key: bool) -> bool:
            nonlocal seen, last
            if self.keyframes:
                return is_key
            seen += 1
            if isinstance(every, int):
                return (seen - 1) % every == 0
            before, last = last, seconds // every
            return last != before  # also where time jumps back, as in recordings that were joined

        return takes


DEFAULT_SAMPLING = Sampling()


def sampling_of(
    every: str | None,
    *,
    keyframes: bool,
    animations: bool,
    max_pixels: int | None = None,
    kept: Kept | None = None,
) -> Sampling:
    """Check the options about videos.

    Raises:
        InputError: they contradict each other, `every` is not an interval, or videos cannot be read here.
    """
    if keyframes and every is not None:
        raise InputError("--keyframes: already says which frames are taken; use it or --every, not both")
    in_folders = keyframes or every is not None
    if in_folders and not animations:
        check_can_read("--keyframes" if keyframes else "--every")
    step = Fraction(1) if every is None else _interval(every)
    return Sampling(step, keyframes, animations, in_folders, max_pixels, kept)


def check_can_read(where: str) -> None:
    """Refuse videos if PyAV is missing.

    Raises:
        InputError: it is.
    """
    if not find_spec("av"):
        raise InputError(f"{where}: reading videos needs PyAV: pip install 'zsclip[video]'")


def _interval(text: str) -> Fraction | int:
    """Read `10` as frames, and `1s`, `0.5s`, `500ms`, `2min` or `1h` as seconds."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|min|h)?", text.strip())
    if match is None:
        raise InputError(f"--every: {text!r} is not an interval; use a time such as 1s, or every Nth frame, such as 10")
    number, unit = Fraction(match[1]), match[2]
    if unit is None and "." in match[1]:
        raise InputError(f"--every: {text!r} has no unit; use {match[1]}s for seconds, or a whole number of frames")
    if number == 0:
        raise InputError(f"--every: {text!r} must be more than 0")
    return int(number) if unit is None else number * _UNITS[unit]
