"""Files that are not pictures, or not readable ones, recognised by their first bytes."""

import re
from importlib.util import find_spec

from zsclip.pictures.refused import ErrorKind

NO_PICTURE = "damaged, or not an image in a supported format"
RAW = "camera RAW is not supported; export it as JPEG first"
VIDEO = (
    "a video; name it on the command line to classify its frames"
    if find_spec("av")
    else "a video; to read it: pip install 'zsclip[video]'"
)
DRAWING = "a drawing or document; export it as PNG first"
HEIC = "a HEIC image; to read it: pip install 'zsclip[heic]'"
_OTHER = "is not supported; export it as PNG first"
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_STARTS: dict[bytes, tuple[ErrorKind, str]] = {
    b"version https://git-lfs.github.com/": (
        "unreadable",
        "a Git LFS pointer, not the image; run: git lfs pull",
    ),
    b"\xff\x0a": ("unsupported", f"JPEG XL {_OTHER}"),
    b"\0\0\0\x0cJXL \r\n\x87\n": ("unsupported", f"JPEG XL {_OTHER}"),
    b"8BPS": ("unsupported", f"a Photoshop document (PSD) {_OTHER}"),
    b"gimp xcf": ("unsupported", f"a GIMP document (XCF) {_OTHER}"),
    b"qoif": ("unsupported", f"a QOI image {_OTHER}"),
    b"DDS ": ("unsupported", f"a DDS texture {_OTHER}"),
    b"v/1\x01": ("unsupported", f"an OpenEXR image {_OTHER}"),
    b"#?RADIANCE": ("unsupported", f"a Radiance HDR image {_OTHER}"),
    b"#?RGBE": ("unsupported", f"a Radiance HDR image {_OTHER}"),
    b"\0\0\1\0": ("unsupported", f"an icon (ICO) {_OTHER}"),
    b"icns": ("unsupported", f"an icon (ICNS) {_OTHER}"),
    b"II\xbc": ("unsupported", f"a JPEG XR image {_OTHER}"),
    b"BPG\xfb": ("unsupported", f"a BPG image {_OTHER}"),
    b"SIMPLE  =": ("unsupported", f"a FITS file {_OTHER}"),
    b"\x93NUMPY": ("unreadable", "a NumPy array, not an image"),
    b"\x89HDF": ("unreadable", "an HDF5 file, not an image"),
    b"PAR1": ("unreadable", "a Parquet file, not an image"),
    b"SQLite format 3\0": ("unreadable", "an SQLite database, not an image"),
    b"PK\3\4": ("unreadable", "a ZIP archive (or a document made of one), not an image; unpack it first"),
    b"PK\5\6": ("unreadable", "an empty ZIP archive, not an image"),
    b"\x1f\x8b": ("unreadable", "compressed with gzip, not an image; unpack it first"),
    b"BZh": ("unreadable", "compressed with bzip2, not an image; unpack it first"),
    b"\xfd7zXZ\0": ("unreadable", "compressed with xz, not an image; unpack it first"),
    b"\x28\xb5\x2f\xfd": ("unreadable", "compressed with zstd, not an image; unpack it first"),
    b"7z\xbc\xaf\x27\x1c": ("unreadable", "a 7z archive, not an image; unpack it first"),
    b"Rar!\x1a\7": ("unreadable", "a RAR archive, not an image; unpack it first"),
    b"%PDF-": ("unsupported", f"PDF: {DRAWING}"),
    b"%!PS": ("unsupported", f"PostScript: {DRAWING}"),
    b"\xc5\xd0\xd3\xc6": ("unsupported", f"EPS: {DRAWING}"),
    b"\x1a\x45\xdf\xa3": ("unsupported", VIDEO),  # Matroska, WebM
    b"FLV\1": ("unsupported", VIDEO),
    b"\0\0\1\xba": ("unsupported", VIDEO),  # MPEG
    b"\0\0\1\xb3": ("unsupported", VIDEO),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ("unsupported", VIDEO),  # Windows Media
    b"OggS": ("unreadable", "an Ogg file (sound or video), not an image"),
    b"ID3": ("unreadable", "a sound file, not an image"),
    b"fLaC": ("unreadable", "a sound file, not an image"),
    b"FUJIFILMCCD-RAW": ("unsupported", RAW),
    b"IIU\0": ("unsupported", RAW),  # Panasonic
    b"IIRO": ("unsupported", RAW),  # Olympus
    b"IIRS": ("unsupported", RAW),
    b"MMOR": ("unsupported", RAW),
    b"\0MRM": ("unsupported", RAW),  # Minolta
    b"FOVb": ("unsupported", RAW),  # Sigma
    b"II\x1a\0\0\0HEAPCCDR": ("unsupported", RAW),  # Canon
    b"\x7fELF": ("unreadable", "a program, not an image"),
    b"MZ": ("unreadable", "a program, not an image"),
    b"{\\rtf": ("unreadable", "a text document, not an image"),
}
_RAW_TIFF = re.compile(rb"II\*\0.{4}CR", re.DOTALL)  # Canon's CR2
_WEB_PAGE = "a web page or drawing (HTML, SVG), not an image"
_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e]{16,}")


def kind_of(start: bytes) -> tuple[ErrorKind, str]:
    """Say what an unopenable file is, and which kind of error that makes it.

    Args:
        start: its first bytes, a few hundred.
    """
    known = known_kind_of(start)
    if known is not None:
        return known
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        is_svg = b"<svg" in start and b"<html" not in start.lower()  # a page may hold drawings
        return ("unsupported", f"SVG: {DRAWING}") if is_svg else ("unreadable", _WEB_PAGE)
    if start[:3] == b"\xff\xd8\xff":
        return "unreadable", "a damaged JPEG, or one of a kind that is not supported"
    if start and not start.strip(b"\0"):
        return "unreadable", "only NUL bytes: the copy or download failed"
    if _TEXT.fullmatch(start):
        return "unreadable", "text, not an image"
    return "unreadable", NO_PICTURE


def known_kind_of(start: bytes) -> tuple[ErrorKind, str] | None:
    """Say what a file is if its signature shows that it cannot be read; None if it does not."""
    for signature, answer in _STARTS.items():
        if start.startswith(signature):
            return answer
    if _RAW_TIFF.match(start):
        return "unsupported", RAW
    if start[257:262] == b"ustar":
        return "unreadable", "a TAR archive, not an image"
    if start[:4] == b"RIFF" and start[8:12] in (b"AVI ", b"WAVE"):
        is_video = start[8:12] == b"AVI "
        return ("unsupported", VIDEO) if is_video else ("unreadable", "a sound file, not an image")
    if start[:1] == b"G" and start[188:189] == b"G":
        return "unsupported", VIDEO  # an MPEG transport stream
    if start[4:8] in (b"moov", b"mdat", b"wide", b"skip", b"pnot"):
        return "unsupported", VIDEO  # an old QuickTime file, which names no brand
    return _kind_of_media(start[8:12]) if start[4:8] == b"ftyp" else None


def _kind_of_media(brand: bytes) -> tuple[ErrorKind, str] | None:
    """Name a file of boxes, as QuickTime has them, by its brand."""
    if brand == b"crx ":
        return "unsupported", RAW  # Canon's CR3
    if brand in _HEIC_BRANDS:
        from zsclip.pixels.pillow_setup import readable_formats  # Pillow need not be imported to name other kinds

        return None if "HEIF" in readable_formats() else ("unsupported", HEIC)
    if brand in (b"avif", b"avis"):
        return None
    return "unsupported", VIDEO
