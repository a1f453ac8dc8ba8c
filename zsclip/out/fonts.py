"""Captions in pictures: in Pillow's own font, and where that lacks a letter in one that is installed here."""

import re
import shutil
import subprocess
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import chain

from PIL import ImageDraw, ImageFont

_LACKED = "\uffff"  # no font has it, so it is drawn as whatever stands for a missing letter
_LARGE = 40  # pixels; at this size no letter looks like that
_WITHOUT_FONTCONFIG = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf")
_SECONDS = 30  # for fc-match, which may have to look through all fonts first
_LEFT_OUT = "\N{HORIZONTAL ELLIPSIS}"
_UNSEEN = re.compile(r"[\ufe00-\ufe0f]")  # they choose how the letter before them looks

_undrawn: dict[str, None] = {}  # letters, in the order in which they were met


class Font:
    """A font for captions.

    Args:
        size: in pixels.
    """

    def __init__(self, size: float) -> None:
        self._size = size

    def length(self, text: str) -> float:
        """Give the width of a text in pixels."""
        return sum(face.length(part, self._size) for face, part in _parts_of(text))

    def cut_to(self, width: int, text: str) -> str:
        """Cut a text to one line of this width, in pixels."""
        line = text.replace("\n", " ")
        if len(line) < 2 or self.length(line) <= width:
            return line
        lengths = range(len(line) - 1)  # letters that may be left
        fits = bisect_right(lengths, float(width), key=lambda count: self.length(line[:count] + _LEFT_OUT))
        return line[: max(fits - 1, 0)] + _LEFT_OUT

    def draw(
        self, on: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ink: str | int, anchor: str = "la"
    ) -> None:
        """Draw a text on one line. What no font here has is left out, see `take_undrawn`.

        Args:
            anchor: what of the text is at the place, as in Pillow; the second letter is "a" or "m".
        """
        parts = _parts_of(text)
        if all(face is _own() for face, _ in parts):
            own = _own().at(self._size)
            on.text(place, _for(own, "".join(part for _, part in parts)), ink, own, anchor=anchor)
            return
        x, y = place
        x -= self.length(text) * {"l": 0, "m": 0.5, "r": 1}[anchor[0]]
        above, below = _own().at(self._size).getmetrics()
        y += above if anchor[1] == "a" else (above - below) / 2  # the line on which all fonts stand
        for face, part in parts:
            face.draw(on, (x, y), part, ink, self._size)
            x += face.length(part, self._size)


def take_undrawn() -> list[str]:
    """Give the letters that no font here has, and that were left out since this was called last."""
    letters = list(_undrawn)
    _undrawn.clear()
    return letters


def package_for(letter: str) -> str:
    """Name the package of Debian with a font that has a letter, which may have marks."""
    base = letter[0]
    script = unicodedata.name(base, "").partition(" ")[0]
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(base) == "So" else "fonts-noto-core"


class _Face:
    """A font file, or Pillow's own font.

    Args:
        path: None is Pillow's own. index: of a font in a collection.

    Raises:
        OSError: it cannot be read, or has only bitmaps of other sizes, as fonts of coloured emoji do.
    """

    def __init__(self, path: str | None = None, index: int = 0) -> None:
        self._path, self._index = path, index
        self._sizes: dict[float, ImageFont.FreeTypeFont] = {}
        self._known: dict[str, bool] = {}  # by letter, with its marks
        # Shaping would join a letter with others that are not there.
        self._plain = self._opened(_LARGE, ImageFont.Layout.BASIC)
        self._lacked = self._drawn(_LACKED)

    def at(self, size: float) -> ImageFont.FreeTypeFont:
        """Give the font in a size."""
        if size not in self._sizes:
            self._sizes[size] = self._opened(size, None)
        return self._sizes[size]

    def has(self, letters: str) -> bool:
        """Whether it has a letter, and the marks on it."""
        if letters not in self._known:
            seen = _seen(letters).replace(" ", "")
            self._known[letters] = all(self._drawn(each) not in (None, self._lacked) for each in seen)
        return self._known[letters]

    def length(self, text: str, size: float) -> float:
        """Give the width of a text that it has, in pixels."""
        font = self.at(size)
        return font.getlength(_for(font, text), direction=_direction(font))

    def draw(self, on: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ink: str | int, size: float) -> None:
        """Draw a text that it has; it begins at the place, and stands on it."""
        font = self.at(size)
        on.text(place, _for(font, text), ink, font, anchor="ls", direction=_direction(font))

    def _opened(self, size: float, layout: ImageFont.Layout | None) -> ImageFont.FreeTypeFont:
        if self._path is not None:
            return ImageFont.truetype(self._path, size, self._index, layout_engine=layout)
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font

    def _drawn(self, letter: str) -> tuple[tuple[int, int], bytes] | None:
        """Draw a letter by itself; None if nothing is seen of it."""
        try:
            mask = self._plain.getmask(letter)
        except OSError:  # a damaged font
            return None
        return (mask.size, bytes(mask)) if 0 not in mask.size else None


@cache
def _own() -> _Face:
    return _Face()


@cache
def _installed() -> tuple[tuple[str, int], ...]:
    """Find the fonts that are installed: those which together have all letters, with the usual one first."""
    if (program := shutil.which("fc-match")) is None:
        return tuple((name, 0) for name in _WITHOUT_FONTCONFIG)
    command = [program, "--sort", "--format", "%{index}\t%{file}\n", "sans-serif"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = (line.partition("\t") for line in done.stdout.decode("utf-8", "surrogateescape").splitlines())
    return tuple((path, int(index) & 0xFFFF) for index, _, path in lines if index.isdecimal())  # above: its variant


@cache
def _face(path: str, index: int) -> _Face | None:
    try:
        return _Face(path, index)
    except (OSError, ValueError):  # ValueError: its name is not Unicode
        return None


def _faces() -> Iterator[_Face]:
    """Yield all fonts, Pillow's own first; none is opened before it is needed."""
    yield _own()
    for path, index in _installed():
        if (face := _face(path, index)) is not None:
            yield face


def _parts_of(text: str) -> list[tuple[_Face, str]]:
    """Cut a line into parts, with a font that has all letters of it: into a single part if there is such a font."""
    if text.isascii() and text.isprintable():
        return [(_own(), text)]
    letters = list(_letters(text))
    for face in _faces():
        if all(map(face.has, letters)):
            return [(face, "".join(letters))]
    parts: list[tuple[_Face, str]] = []
    for letter in letters:
        face, drawn = _found(letter, parts[-1][0] if parts else _own())
        if not (parts and parts[-1][0] is face):
            parts.append((face, drawn))
        elif drawn != _LEFT_OUT or not parts[-1][1].endswith(_LEFT_OUT):
            parts[-1] = (face, parts[-1][1] + drawn)
    return parts


def _found(letter: str, before: _Face) -> tuple[_Face, str]:
    """Find a font that has a letter, if possible the one before; else give what stands for the letter."""
    for face in chain([before], _faces()):
        if face.has(letter):
            return face, letter
    _undrawn[letter] = None
    plain = "".join(each for each in unicodedata.normalize("NFKD", letter) if _own().has(each))  # without its accents
    return _own(), plain or _LEFT_OUT


def _letters(text: str) -> Iterator[str]:
    """Yield the letters of a text, each with its marks; blanks become spaces, other control characters are dropped."""
    letter = ""
    for each in re.sub(r"[\x00-\x1f\x7f-\x9f]", "", re.sub(r"\s", " ", unicodedata.normalize("NFC", text))):
        if letter and unicodedata.category(each) not in ("Mn", "Mc", "Me", "Cf"):
            yield letter
            letter = ""
        letter += each
    if letter:
        yield letter


def _seen(text: str) -> str:
    """Leave out what only tells how other letters are drawn."""
    return _UNSEEN.sub("", "".join(each for each in text if unicodedata.category(each) != "Cf"))


def _for(font: ImageFont.FreeTypeFont, text: str) -> str:
    """Give a text as a font draws it: without raqm, letter by letter from left to right."""
    if text.isascii() or font.layout_engine == ImageFont.Layout.RAQM:
        return text
    letters, from_right = list(_letters(_seen(text))), ""
    for letter in letters:
        kind = unicodedata.bidirectional(letter[0])
        from_right += "r" if kind in ("R", "AL") else "l" if kind in ("L", "EN", "AN") else "n"
    for found in re.finditer("r([rn]*r)?", from_right):
        letters[found.start() : found.end()] = reversed(letters[found.start() : found.end()])
    return "".join(letters)


def _direction(font: ImageFont.FreeTypeFont) -> str | None:
    """Let captions begin on the left, as their scores do; letters of other directions are still in their own order."""
    return "ltr" if font.layout_engine == ImageFont.Layout.RAQM else None
