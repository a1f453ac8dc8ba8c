"""What archives on servers hold, so that another run need not fetch their headers, which lie all over them."""

from zsclip.kept.cache import fingerprint, read_rows, write_rows

_KIND = "members"
_MOST = 4096  # archives; of 10,000 pictures each takes about 60 kB


def read_members(key: bytes) -> bytes | None:
    """Give what was kept of the archive with this key."""
    name = fingerprint(key.hex())
    return read_rows(_KIND, [name]).get(name)


def keep_members(key: bytes, members: bytes) -> None:
    """Keep what an archive holds; beyond 4,096 of them, half of the others are forgotten."""
    write_rows(_KIND, {fingerprint(key.hex()): members}, most=_MOST)
