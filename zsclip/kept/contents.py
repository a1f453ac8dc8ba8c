"""What archives on servers and videos hold, so that another run knows it without reading all of them."""

from dataclasses import dataclass

from zsclip.kept.cache import fingerprint, read_rows, write_rows


@dataclass(frozen=True)
class KeptContents:
    """Keeps what is known of a file under its key.

    kind: of the rows in the cache. most: rows; beyond that, half of the others are forgotten. None keeps all.
    """

    kind: str
    most: int | None = None

    def find(self, key: bytes) -> bytes | None:
        """Give what was kept under a key; None if nothing was, or it is damaged."""
        row = fingerprint(key.hex())
        return read_rows(self.kind, [row]).get(row)

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value under a key."""
        write_rows(self.kind, {fingerprint(key.hex()): value}, most=self.most)


FRAME_TIMES = KeptContents("frames of videos")
MEMBERS = KeptContents("members", 4096)  # of 10,000 pictures each takes about 60 kB
