"""A script that takes the status of files for another process. It imports nothing of zsclip, to start in 20 ms."""

import os
import struct
import sys

LENGTH_BYTES = 8  # of the number before each request


def main(form: str) -> None:
    """Answer requests on stdin until it is closed.

    A request is a length, and as many bytes: paths with a NUL between two. The answer has a look for each path, or as
    many bytes of 255 for a file that has none.

    Args:
        form: of a look, for `struct`.
    """
    look = struct.Struct(form)
    read, out = sys.stdin.buffer.read, sys.stdout.buffer
    while len(length := read(LENGTH_BYTES)) == LENGTH_BYTES:
        looks = []
        for path in read(int.from_bytes(length, "big")).split(b"\0"):
            try:
                status = os.stat(path)
                looks.append(look.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
            except (OSError, struct.error):
                looks.append(b"\xff" * look.size)
        out.write(b"".join(looks))
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
