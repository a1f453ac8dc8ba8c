"""An animated GIF, PNG or WebP file -> its frames, one after the other."""

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from zsclip.errors import first_line
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import Shard, Stream
from zsclip.pictures.video import Shot

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("GIF", "PNG", "WEBP")
_PART_BYTES = 1 << 16  # of a file on a server that are read together
_SHORTEST_MS, _USUAL_MS = 10, 100  # browsers show a frame with no more than the first for the second


def is_animation(file: str | BinaryIO) -> bool:
    """Whether a file is an animation that Pillow can read."""
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # decoders raise anything at all; its row will say why
        return False


def file_of(shard: Shard) -> str | BinaryIO:
    """Give what Pillow opens: the path of a file, or what reads parts of one that is on a server."""
    if shard.fetch is None:
        return shard.path
    stream: Any = Stream(shard.read, shard.size)
    return io.BufferedReader(stream, _PART_BYTES)


class Animation:
    """An animation, decoded once from its beginning. What it says of the whole is complete once `frames` has ended.

    end: seconds from the start to the end of the last frame. damage: what was wrong, in words; None if nothing was.
    keeps_order: times only grow.
    """

    keeps_order = True

    def __init__(self, shard: Shard, *, max_pixels: int | None) -> None:
        self.end = Fraction(0)
        self.damage: str | None = None
        self._shard, self._max_pixels = shard, max_pixels

    @property
    def is_whole(self) -> bool:
        """Whether no damage was met so far."""
        return self.damage is None

    def frames(self, start: Fraction | None = None) -> Iterator[Shot]:
        """Yield the frames as they are shown.

        Args:
            start: as for a video; each frame builds on the one before, so all are given.

        Raises:
            Refused: they are too large, or the rest is not sent by its server. Exception: decoders raise anything.
        """
        from PIL import Image

        with Image.open(file_of(self._shard), formats=_FORMATS) as image:
            count = image.width * image.height
            if self._max_pixels is not None and count > self._max_pixels:
                raise Refused("too-large", f"{count} pixels, more than --max-pixels {self._max_pixels}")
            number = 0
            while True:
                try:
                    image.seek(number)
                    image.load()
                except EOFError:
                    return
                except Refused:  # it may be sent another time
                    raise
                except Exception as e:
                    self.damage = f"the animation is damaged after {float(self.end):.3f} s: {first_line(e)}"
                    if not number:
                        raise
                    return
                shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
                yield Shot(number, self.end, True, 4 * count, partial(_encoded, shown))
                duration = image.info.get("duration") or 0
                self.end += Fraction(duration if duration > _SHORTEST_MS else _USUAL_MS) / 1000
                number += 1


def _encoded(image: "Image.Image") -> bytes:
    """Write a frame as a file that any decoder reads back to the bit."""
    file = io.BytesIO()
    image.save(file, "PPM" if image.mode == "RGB" else "PNG", compress_level=1)
    return file.getvalue()
