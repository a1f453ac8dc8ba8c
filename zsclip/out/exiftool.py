"""XMP in pictures, read and written by an installed exiftool. No name is an option of it, or part of a shell's line."""

import os
import subprocess
from collections.abc import Sequence
from shutil import which
from threading import Lock

from zsclip.errors import InputError
from zsclip.out.exiftool_process import Died, ExifToolProcess
from zsclip.out.text import decoded
from zsclip.out.transfer import are_same, remove
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


def packet_file(target: str) -> str:
    """Give the file that `write_packet` writes beside its target, and deletes."""
    return f"{target}.xmp"


class ExifTool:
    """The exiftool of a run: one process, started for the first picture and again where it dies; threads take turns.

    Args:
        lock: a locked descriptor. The lock lasts until exiftool has ended, too, should zsclip be killed.
        seconds: how long a picture may take.
    """

    def __init__(self, lock: int | None = None, seconds: float = _SECONDS) -> None:
        self._inherited = () if lock is None else (lock,)
        self._seconds = seconds
        self._process: ExifToolProcess | None = None
        self._turn = Lock()

    def read_packet(self, picture: str) -> bytes | None:
        """Read the XMP of a picture; None if it has none.

        Raises:
            Refused: exiftool cannot read it, or would lose a part of it.
        """
        # -a: of two packets, exiftool would write only one. Apple's programs end them with a NUL.
        packet = self._run(picture, "-b", "-a", "-XMP").rstrip(b"\0")
        if b"HasExtendedXMP" in packet:
            why = "its XMP is longer than 64 KB, and exiftool would drop the rest; use --tag xmp"
            raise Refused("unsupported", why)
        return packet or None

    def write_packet(self, picture: str, packet: bytes, target: str) -> None:
        """Write a picture with other XMP to a new file.

        Args:
            target: an unused name in the folder of the picture, without `%`.

        Raises:
            Refused: exiftool cannot write this kind of picture.
        """
        folder, file = _folder_for(picture), packet_file(target)
        try:
            with open(file, "xb") as out:
                out.write(packet)
            new = os.path.basename(target)
            self._run(picture, "-o", f"{folder}/{new}", f"-XMP<={folder}/{os.path.basename(file)}")
        finally:
            remove(file)
        if not os.path.exists(target) or are_same(picture, target):  # it reports success where it rejects the XMP
            raise Refused("unsupported", "exiftool wrote no tags")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def __enter__(self) -> "ExifTool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, picture: str, *options: str) -> bytes:
        """Run a command on a picture, and give its output."""
        name = f"{_folder_for(picture)}/{os.path.basename(picture)}"
        command = ["-q", "-q", *options, name]
        try:
            if _is_plain(picture):
                with self._turn:
                    status, out, errors = self._ask(command)
            else:
                status, out, errors = self._run_once(command, os.path.dirname(picture))
        except TimeoutError as e:
            raise Refused("timeout", f"exiftool takes more than {self._seconds} s") from e
        except Died as e:
            said = decoded(str(e)).strip().partition("\n")[0]
            raise Refused("unreadable", f"exiftool ended{said and ': '}{said}; run the same command again") from e
        if status:
            said = decoded(os.fsdecode(errors)).strip().removesuffix(f" - {decoded(name)}")
            raise Refused("unsupported", f"exiftool: {said.removeprefix('Error: ') or 'failed'}")
        return out

    def _ask(self, command: Sequence[str]) -> tuple[int, bytes, bytes]:
        """Ask the process of the run; one that did not answer is ended, and the next picture gets a new one."""
        if self._process is None:
            self._process = ExifToolProcess(find_exiftool(), self._inherited)
        try:
            return self._process.ask(command, self._seconds)
        except BaseException:
            self.close()
            raise

    def _run_once(self, command: Sequence[str], folder: str) -> tuple[int, bytes, bytes]:
        """Run a process of its own in the folder of a picture; `-config` keeps it from the user's."""
        try:
            done = subprocess.run(
                [find_exiftool(), "-config", "", *command],
                cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=self._seconds,
                pass_fds=self._inherited, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise TimeoutError from e
        return done.returncode, done.stdout, done.stderr


def _is_plain(picture: str) -> bool:
    """Whether a running exiftool, which is given one argument a line, can be given this path.

    In the folder of what it writes, exiftool takes `%d` and the like for parts of the picture's name.
    """
    return not any(each in picture for each in "\n\r") and "%" not in os.path.dirname(picture)


def _folder_for(picture: str) -> str:
    """Give the folder of a picture, as exiftool gets it. It begins with neither `-` nor `#` nor white space."""
    return os.path.dirname(picture).rstrip("/") if _is_plain(picture) else "."
