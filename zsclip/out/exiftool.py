"""XMP in pictures, read and written by an installed exiftool. No shell is called, and no name is an option of it."""

import os
import subprocess
import tempfile
from shutil import which

from zsclip.errors import InputError
from zsclip.out.text import decoded
from zsclip.out.transfer import are_same
from zsclip.pictures.refused import Refused

_SECONDS = 300  # for one picture


def find_exiftool() -> str:
    """Find the program.

    Raises:
        InputError: it is not installed.
    """
    if (program := which("exiftool")) is None:
        raise InputError(
            "--tag exiftool: exiftool is not installed; install it (Debian: apt install libimage-exiftool-perl, macOS: "
            "brew install exiftool, others: exiftool.org), or use --tag xmp"
        )
    return program


def read_packet(picture: str) -> bytes | None:
    """Read the XMP of a picture; None if it has none.

    Raises:
        Refused: exiftool cannot read it, or would lose a part of it.
    """
    # -a: of two packets, exiftool would write only one. Apple's programs end them with a NUL.
    packet = _run(picture, "-b", "-a", "-XMP").rstrip(b"\0")
    if b"HasExtendedXMP" in packet:
        raise Refused("unsupported", "its XMP is longer than 64 KB, and exiftool would drop the rest; use --tag xmp")
    return packet or None


def write_packet(picture: str, packet: bytes, target: str) -> None:
    """Write a picture with other XMP to a new file.

    Args:
        target: an unused name in the folder of the picture, without `%`.

    Raises:
        Refused: exiftool cannot write this kind of picture.
    """
    with tempfile.NamedTemporaryFile(prefix="zsclip-", suffix=".xmp") as file:
        file.write(packet)
        file.flush()
        _run(picture, "-o", f"./{os.path.basename(target)}", f"-XMP<={file.name}")
    if not os.path.exists(target) or are_same(picture, target):  # it reports success where it finds fault with the XMP
        raise Refused("unsupported", "exiftool wrote no tags")


def _run(picture: str, *options: str) -> bytes:
    """Run exiftool in the folder of a picture, whose name then begins with `./`; `-config` keeps it from the user's."""
    folder, name = os.path.split(picture)
    try:
        done = subprocess.run(
            [find_exiftool(), "-config", "", "-q", "-q", *options, f"./{name}"],
            cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise Refused("timeout", f"exiftool takes more than {_SECONDS} s") from e
    if done.returncode:
        said = decoded(os.fsdecode(done.stderr)).strip().removesuffix(f" - ./{decoded(name)}")
        raise Refused("unsupported", f"exiftool: {said.removeprefix('Error: ') or 'failed'}")
    return done.stdout
