"""The times of frames of videos that were decoded before, so that another run knows them without decoding."""

from zsclip.kept.cache import fingerprint, read_rows, write_rows

_KIND = "frames of videos"


class FrameTimes:
    """Keeps what is known of a clip under its key."""

    def find(self, key: bytes) -> bytes | None:
        """Give what was kept under a key; None if nothing was, or it is damaged."""
        row = fingerprint(key.hex())
        return read_rows(_KIND, [row]).get(row)

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value under a key."""
        write_rows(_KIND, {fingerprint(key.hex()): value})
